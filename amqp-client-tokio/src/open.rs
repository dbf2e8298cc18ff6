use std::fmt;
use std::future::Future;
use std::ops::Deref;

#[cfg(feature = "tls")]
use amqp_client_core::tls::{TlsError, TlsOptions};
use amqp_client_core::{Config, ConnectError, Target, connect};
use tokio::io::{AsyncRead, AsyncWrite};

use crate::io::{Stream, Tokio};

/// A connection on tokio.
///
/// It dereferences to the [`Connection`](amqp_client_core::Connection) of all runtimes, which has its methods. A task of
/// the runtime reads and writes the socket, and ends with the connection.
#[derive(Clone)]
pub struct Connection {
    connection: amqp_client_core::Connection,
}

impl Connection {
    /// Connects to the broker of a URI such as `amqp://user:password@host:5672/vhost?heartbeat=10`. With several hosts, tries one
    /// after the other.
    ///
    /// If the connection is lost later, the client reconnects and restores everything that was declared and consumed: see
    /// [recovery](amqp_client_core::recovery).
    ///
    /// # Errors
    /// [`ConnectError`], as [`open_target`](Self::open_target).
    ///
    /// # Panics
    /// Outside of a tokio runtime with I/O and time enabled.
    ///
    /// # Cancel safety
    /// Dropping the future aborts the attempt.
    pub async fn open(uri: &str) -> Result<Self, ConnectError> {
        Self::open_target(uri.parse()?).await
    }

    /// Connects to the first node of `target` that accepts the connection. The
    /// [`connect_timeout`](amqp_client_core::Settings::connect_timeout) applies to each node.
    ///
    /// # Errors
    /// [`ConnectError`]. If a node refuses what every node would refuse, such as the credentials, no further node is tried.
    /// Otherwise this is the first refusal by a node that was reached, or else the error of the last node.
    ///
    /// # Panics
    /// Outside of a tokio runtime with I/O and time enabled.
    ///
    /// # Cancel safety
    /// Dropping the future aborts the attempt.
    pub async fn open_target(target: Target) -> Result<Self, ConnectError> {
        let connection = connect::open::<Tokio>(target).await?;
        Ok(Self { connection })
    }

    /// Begins a connection over any stream: a Unix socket, a proxy's tunnel, an in-memory pipe. Returns the connection and the
    /// future that drives it until it is closed. Spawn or poll this future: without it, nothing happens.
    ///
    /// ```
    /// # use amqp_client_tokio::{Config, Connection};
    /// # async fn example(stream: tokio::net::TcpStream) -> Result<(), Box<dyn std::error::Error>> {
    /// let (connection, driver) = Connection::open_with(stream, Config::default());
    /// tokio::spawn(driver);
    /// connection.ready().await?;
    /// # Ok(())
    /// # }
    /// ```
    pub fn open_with<S>(stream: S, config: Config) -> (Self, impl Future<Output = ()> + Send)
    where
        S: AsyncRead + AsyncWrite + Send + Unpin,
    {
        let (connection, drive) = connect::begin::<Tokio, _>(Stream(stream), config);
        (Self { connection }, drive)
    }

    /// Like [`open_with`](Self::open_with), inside a TLS session with `host`.
    ///
    /// # Errors
    /// [`TlsError`](amqp_client_core::tls::TlsError), if the TLS configuration is invalid.
    #[cfg(feature = "tls")]
    pub fn open_tls_with<S>(
        stream: S,
        tls: &TlsOptions,
        host: &str,
        config: Config,
    ) -> Result<(Self, impl Future<Output = ()> + Send + use<S>), TlsError>
    where
        S: AsyncRead + AsyncWrite + Send + Unpin,
    {
        let (connection, drive) =
            connect::begin_tls::<Tokio, _>(Stream(stream), tls, host, config)?;
        Ok((Self { connection }, drive))
    }
}

impl Deref for Connection {
    type Target = amqp_client_core::Connection;

    fn deref(&self) -> &Self::Target {
        &self.connection
    }
}

impl fmt::Debug for Connection {
    fn fmt(&self, f: &mut fmt::Formatter<'_>) -> fmt::Result {
        self.connection.fmt(f)
    }
}
