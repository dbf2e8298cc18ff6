use std::fmt;
use std::future::Future;
use std::ops::Deref;

#[cfg(feature = "tls")]
use amqp_client_core::tls::{TlsError, TlsOptions};
use amqp_client_core::{Config, ConnectError, Target, runtime};
use tokio::io::{AsyncRead, AsyncWrite};

use crate::io::{Stream, Tokio};

/// A connection on tokio.
///
/// It dereferences to the [`Connection`](amqp_client_core::Connection) of all runtimes, which has its methods. A task of
/// the runtime moves its octets; it ends with the connection.
#[derive(Clone)]
pub struct Connection {
    connection: amqp_client_core::Connection,
}

impl Connection {
    /// Connects to the broker that a URI names, as `amqp://user:password@host:5672/vhost?heartbeat=10`. With several
    /// hosts, tries one after the other.
    ///
    /// When it is lost later, another one is made, with all that was declared and consumed: see
    /// [recovery](amqp_client_core::recovery).
    ///
    /// # Errors
    /// [`ConnectError`], as [`open_target`](Self::open_target).
    ///
    /// # Panics
    /// Outside of a tokio runtime with I/O and time enabled.
    ///
    /// # Cancel safety
    /// Dropping the future gives the attempt up.
    pub async fn open(uri: &str) -> Result<Self, ConnectError> {
        Self::open_target(uri.parse()?).await
    }

    /// Connects to one of the nodes of `target`, the first that takes it. Each is given the configured
    /// [`connect_timeout`](amqp_client_core::Settings::connect_timeout).
    ///
    /// # Errors
    /// [`ConnectError`]. A node that refuses what every node would refuse, such as the credentials, is the last that is
    /// tried. Otherwise the first refusal of a node that was reached, or else why the last node was not.
    ///
    /// # Panics
    /// Outside of a tokio runtime with I/O and time enabled.
    ///
    /// # Cancel safety
    /// Dropping the future gives the attempt up.
    pub async fn open_target(target: Target) -> Result<Self, ConnectError> {
        let connection = runtime::open::<Tokio>(target).await?;
        Ok(Self { connection })
    }

    /// Begins a connection over any stream: a Unix socket, a proxy's tunnel, an in-memory pipe. Returns its handle, and
    /// the future that drives it until it is over, to be spawned or polled by the caller; nothing happens without.
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
        let (connection, drive) = runtime::begin::<Tokio, _>(Stream(stream), config);
        (Self { connection }, drive)
    }

    /// The same inside of a TLS session with `host`.
    ///
    /// # Errors
    /// [`TlsError`](amqp_client_core::tls::TlsError), which says what is wrong with which file.
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
            runtime::begin_tls::<Tokio, _>(Stream(stream), tls, host, config)?;
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
