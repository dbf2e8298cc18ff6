use std::io::{self, Read, Write};
use std::net::{TcpStream, ToSocketAddrs as _};
use std::ops::Deref;
use std::sync::Arc;
use std::time::{Duration, Instant};

use amqp_client_core::proto::uri::Endpoint;
#[cfg(feature = "tls")]
use amqp_client_core::tls::Secured;
use amqp_client_core::tls::TlsOptions;
use amqp_client_core::{Config, ConnectError, Target};
use mio::event::Source;

use crate::io::spawn;
use crate::wait::Wait as _;

/// A connection for threads.
///
/// It dereferences to the [`Connection`](amqp_client_core::Connection) of all runtimes, which has its methods; wait for what
/// they return with [`Wait`](crate::Wait). A thread moves its octets; it ends with the connection.
#[derive(Clone, Debug)]
pub struct Connection {
    connection: amqp_client_core::Connection,
}

impl Connection {
    /// Connects to the broker that a URI names, as `amqp://user:password@host:5672/vhost?heartbeat=10`. With several hosts,
    /// tries one after the other.
    ///
    /// # Errors
    /// [`ConnectError`], for the last host that was tried.
    pub fn open(uri: &str) -> Result<Self, ConnectError> {
        Self::open_target(uri.parse()?)
    }

    /// Connects to one of the nodes of `target`, the first that takes it. Each is given the configured
    /// [`connect_timeout`](amqp_client_core::Settings::connect_timeout), to which resolving its name does not count.
    ///
    /// # Errors
    /// [`ConnectError`], for the last node that was tried. A node that says no, as to the credentials, is the last.
    pub fn open_target(target: Target) -> Result<Self, ConnectError> {
        let mut nodes = target.endpoints.into_iter().peekable();
        while let Some(endpoint) = nodes.next() {
            match open_node(&endpoint, target.tls.as_ref(), target.config.clone()) {
                Err(error) if error.is_about_the_node() && nodes.peek().is_some() => {}
                result => return result,
            }
        }
        Err(ConnectError::NoEndpoint)
    }

    /// Begins a connection over a stream that does not block, as mio has them: a Unix socket, a socket with options of one's
    /// own. Wait for [`ready`](amqp_client_core::Connection::ready) before using it.
    ///
    /// # Errors
    /// If the system gives no thread, or cannot wait for the stream.
    pub fn open_with<S>(stream: S, config: Config) -> io::Result<Self>
    where
        S: Source + Read + Write + Send + 'static,
    {
        Ok(Self { connection: spawn(stream, |stream| stream, config)? })
    }
}

fn open_node(
    endpoint: &Endpoint,
    tls: Option<&TlsOptions>,
    config: Config,
) -> Result<Connection, ConnectError> {
    #[cfg(feature = "tls")]
    let session = tls.map(|tls| tls.session(&endpoint.host)).transpose()?;
    #[cfg(not(feature = "tls"))]
    if tls.is_some() {
        return Err(amqp_client_core::tls::TlsError::NotBuilt.into());
    }
    let after = config.settings.connect_timeout;
    let start = Instant::now();
    let left = || after.saturating_sub(start.elapsed());
    let timed_out = || ConnectError::TimedOut { endpoint: endpoint.clone(), after };
    let unreachable = |error: io::Error| match error.kind() {
        io::ErrorKind::TimedOut => timed_out(),
        _ => ConnectError::Unreachable { endpoint: endpoint.clone(), error: Arc::new(error) },
    };
    let stream = connect(endpoint, left).map_err(unreachable)?;
    let stream = mio::net::TcpStream::from_std(stream);
    #[cfg(feature = "tls")]
    let connection = match session {
        Some(session) => spawn(stream, |stream| Secured::new(stream, session), config),
        None => spawn(stream, |stream| stream, config),
    };
    #[cfg(not(feature = "tls"))]
    let connection = spawn(stream, |stream| stream, config);
    let connection = Connection { connection: connection.map_err(unreachable)? };
    match connection.ready().wait_timeout(left()) {
        Some(Ok(())) => Ok(connection),
        Some(Err(error)) => Err(ConnectError::Refused { endpoint: endpoint.clone(), error }),
        None => Err(timed_out()),
    }
}

/// Connects to one of the addresses of a node, the first that takes it.
fn connect(endpoint: &Endpoint, left: impl Fn() -> Duration) -> io::Result<TcpStream> {
    let mut last = None;
    for addr in (endpoint.host.as_str(), endpoint.port).to_socket_addrs()? {
        let left = left();
        if left.is_zero() {
            return Err(io::ErrorKind::TimedOut.into());
        }
        match TcpStream::connect_timeout(&addr, left) {
            Ok(stream) => {
                // Small writes are gathered before they get here; Nagle's algorithm would only delay them.
                stream.set_nodelay(true)?;
                stream.set_nonblocking(true)?;
                return Ok(stream);
            }
            Err(error) => last = Some(error),
        }
    }
    Err(last.unwrap_or_else(|| io::Error::new(io::ErrorKind::NotFound, "the name has no address")))
}

impl Deref for Connection {
    type Target = amqp_client_core::Connection;

    fn deref(&self) -> &Self::Target {
        &self.connection
    }
}
