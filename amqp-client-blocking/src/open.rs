use std::io::{self, Read, Write};
use std::ops::Deref;

use amqp_client_core::connect::{self, Runtime as _};
#[cfg(feature = "tls")]
use amqp_client_core::tls::TlsOptions;
use amqp_client_core::wait::Wait as _;
use amqp_client_core::{Config, ConnectError, Target};
use mio::event::Source;

use crate::io::{Threads, registration};

/// A connection for threads.
///
/// It dereferences to the [`Connection`](amqp_client_core::Connection) of all runtimes, which has its methods; wait for what
/// they return with [`Wait`](crate::Wait).
#[derive(Clone, Debug)]
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
    pub fn open(uri: &str) -> Result<Self, ConnectError> {
        Self::open_target(uri.parse()?)
    }

    /// Connects to the first node of `target` that accepts the connection. The
    /// [`connect_timeout`](amqp_client_core::Settings::connect_timeout) applies to each node.
    ///
    /// # Errors
    /// [`ConnectError`]. If a node refuses what every node would refuse, such as the credentials, no further node is tried.
    /// Otherwise this is the first refusal by a node that was reached, or else the error of the last node.
    pub fn open_target(target: Target) -> Result<Self, ConnectError> {
        Ok(Self { connection: connect::open::<Threads>(target).wait()? })
    }

    /// Begins a connection over any non-blocking stream that mio can poll: a Unix socket, a proxy's tunnel, a socket pair, a socket
    /// with special options. Wait for [`ready`](amqp_client_core::Connection::ready) before using the connection.
    ///
    /// ```
    /// use amqp_client_blocking::{Config, Connection, Wait as _};
    ///
    /// # let broker = amqp_test_broker::Broker::start()?;
    /// # let addr = broker.addr();
    /// let stream = std::net::TcpStream::connect(addr)?;
    /// stream.set_nonblocking(true)?;
    /// let stream = mio::net::TcpStream::from_std(stream);
    /// let connection = Connection::open_with(stream, Config::default())?;
    /// connection.ready().wait()?;
    /// # Ok::<(), Box<dyn std::error::Error>>(())
    /// ```
    ///
    /// # Errors
    /// If the system cannot start a thread or cannot poll the stream.
    pub fn open_with<S>(stream: S, config: Config) -> io::Result<Self>
    where
        S: Source + Read + Write + Send + 'static,
    {
        let (stream, registration) = registration(stream)?;
        let (connection, drive) = connect::begin::<Threads, _>(stream, config);
        Threads::drive(registration, drive)?;
        Ok(Self { connection })
    }

    /// Like [`open_with`](Self::open_with), inside a TLS session with `host`.
    ///
    /// # Errors
    /// As [`open_with`](Self::open_with), and a [`TlsError`](amqp_client_core::tls::TlsError) within the error if the TLS
    /// configuration is invalid.
    #[cfg(feature = "tls")]
    pub fn open_tls_with<S>(
        stream: S,
        tls: &TlsOptions,
        host: &str,
        config: Config,
    ) -> io::Result<Self>
    where
        S: Source + Read + Write + Send + 'static,
    {
        let (stream, registration) = registration(stream)?;
        let (connection, drive) = connect::begin_tls::<Threads, _>(stream, tls, host, config)
            .map_err(io::Error::other)?;
        Threads::drive(registration, drive)?;
        Ok(Self { connection })
    }
}

impl Deref for Connection {
    type Target = amqp_client_core::Connection;

    fn deref(&self) -> &Self::Target {
        &self.connection
    }
}
