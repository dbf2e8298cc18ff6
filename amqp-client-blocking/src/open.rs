use std::io::{self, Read, Write};
use std::ops::Deref;

use amqp_client_core::runtime::{self, Runtime as _};
#[cfg(feature = "tls")]
use amqp_client_core::tls::TlsOptions;
use amqp_client_core::wait::Wait as _;
use amqp_client_core::{Config, ConnectError, Target};
use mio::event::Source;

use crate::io::{Threads, seat};

/// A connection for threads.
///
/// It dereferences to the [`Connection`](amqp_client_core::Connection) of all runtimes, which has its methods; wait for what
/// they return with [`Wait`](crate::Wait).
#[derive(Clone, Debug)]
pub struct Connection {
    connection: amqp_client_core::Connection,
}

impl Connection {
    /// Connects to the broker that a URI names, as `amqp://user:password@host:5672/vhost?heartbeat=10`. With several hosts,
    /// tries one after the other.
    ///
    /// When it is lost later, another one is made, with all that was declared and consumed: see
    /// [recovery](amqp_client_core::recovery).
    ///
    /// # Errors
    /// [`ConnectError`], as [`open_target`](Self::open_target).
    pub fn open(uri: &str) -> Result<Self, ConnectError> {
        Self::open_target(uri.parse()?)
    }

    /// Connects to one of the nodes of `target`, the first that takes it. Each is given the configured
    /// [`connect_timeout`](amqp_client_core::Settings::connect_timeout).
    ///
    /// # Errors
    /// [`ConnectError`]. A node that refuses what every node would refuse, such as the credentials, is the last that is
    /// tried. Otherwise the first refusal of a node that was reached, or else why the last node was not.
    pub fn open_target(target: Target) -> Result<Self, ConnectError> {
        Ok(Self { connection: runtime::open::<Threads>(target).wait()? })
    }

    /// Begins a connection over any stream that does not block and that the system can wait for, as mio has them: a Unix
    /// socket, a proxy's tunnel, a socket pair, a socket with options of one's own. Wait for
    /// [`ready`](amqp_client_core::Connection::ready) before using it.
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
    /// If the system gives no thread, or cannot wait for the stream.
    pub fn open_with<S>(stream: S, config: Config) -> io::Result<Self>
    where
        S: Source + Read + Write + Send + 'static,
    {
        let (stream, seat) = seat(stream)?;
        let (connection, drive) = runtime::begin::<Threads, _>(stream, config);
        Threads::drive(seat, drive)?;
        Ok(Self { connection })
    }

    /// The same inside of a TLS session with `host`.
    ///
    /// # Errors
    /// As [`open_with`](Self::open_with); and what is wrong with which file, as a
    /// [`TlsError`](amqp_client_core::tls::TlsError) within the error.
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
        let (stream, seat) = seat(stream)?;
        let (connection, drive) = runtime::begin_tls::<Threads, _>(stream, tls, host, config)
            .map_err(io::Error::other)?;
        Threads::drive(seat, drive)?;
        Ok(Self { connection })
    }
}

impl Deref for Connection {
    type Target = amqp_client_core::Connection;

    fn deref(&self) -> &Self::Target {
        &self.connection
    }
}
