use std::io::{self, Read, Write};

use amqp_client_core::adapter::{self, Wait as _};
#[cfg(feature = "tls")]
use amqp_client_core::tls::TlsOptions;
use amqp_client_core::{Config, ConnectError, Connection, Target};
use mio::event::Source;

use crate::io::{Threads, registration};
use crate::shared_loop::start_with_own_helper;

/// Connects to the broker of a URI such as `amqp://user:password@host:5672/vhost?heartbeat=10`. With several hosts, tries one
/// after the other. Wait for what the connection's methods return with [`Wait`](crate::Wait).
///
/// If the connection is lost later, the client reconnects and restores everything that was declared and consumed: see
/// [recovery](crate::recovery).
///
/// ```no_run
/// # fn example() -> Result<(), amqp_client_blocking::ConnectError> {
/// let connection = amqp_client_blocking::connect("amqp://guest:guest@localhost:5672/%2f")?;
/// # Ok(())
/// # }
/// ```
///
/// # Errors
/// [`ConnectError`], as [`connect_target`].
pub fn connect(uri: &str) -> Result<Connection, ConnectError> {
    connect_target(uri.parse()?)
}

/// Connects to the first node of `target` that accepts the connection. The
/// [`connect_timeout`](crate::Settings::connect_timeout) applies to each node.
///
/// ```no_run
/// use amqp_client_blocking::{Target, connect_target};
/// use std::time::Duration;
///
/// # fn example() -> Result<(), Box<dyn std::error::Error>> {
/// let target = Target::new("rabbit-1", 5672)
///     .endpoint("rabbit-2", 5672)
///     .login("billing", "secret")
///     .heartbeat(Duration::from_secs(10));
/// let connection = connect_target(target)?;
/// # Ok(())
/// # }
/// ```
///
/// # Errors
/// [`ConnectError`]. If a node refuses something that every node would refuse, such as the credentials, no further node is tried.
/// Otherwise, the error is the first refusal by a node that was reached, or, if none was reached, the error of the last node.
pub fn connect_target(target: Target) -> Result<Connection, ConnectError> {
    adapter::open::<Threads>(target).wait()
}

/// Returns a connection at once, and connects it in the background, for a program that starts before its broker can be reached. The
/// first connection is retried as [`recovery`](Target::recovery) configures, without
/// [`retry_open`](Target::retry_open). Until the connection is open, it behaves as during an outage, and
/// [`ready`](Connection::ready) waits for it; see [recovery](crate::recovery#connecting-in-the-background).
///
/// ```no_run
/// use amqp_client_blocking::{Target, Wait as _, connect_in_background};
///
/// # fn example() -> Result<(), Box<dyn std::error::Error>> {
/// let target: Target = "amqp://guest:guest@localhost:5672/%2f".parse()?;
/// let connection = connect_in_background(target)?;
/// println!("{:?}", connection.health().status); // Connecting
/// connection.ready().wait()?;
/// let channel = connection.open_channel().wait()?;
/// # Ok(())
/// # }
/// ```
///
/// # Errors
/// [`ConnectError`], if the target itself is invalid: a setting, the TLS configuration, or no endpoint. Everything else ends the
/// connection, and [`closed`](Connection::closed) returns the reason: for example credentials that the broker refuses.
pub fn connect_in_background(target: Target) -> Result<Connection, ConnectError> {
    adapter::open_in_background::<Threads>(target)
}

/// Begins a connection over any non-blocking stream that mio can poll: a Unix socket, a proxy's tunnel, a socket pair, a socket
/// with special options. Wait for [`ready`](Connection::ready) before using the connection.
///
/// ```
/// use amqp_client_blocking::{Config, Wait as _, connect_over};
///
/// # let broker = amqp_test_broker::Broker::start()?;
/// # let addr = broker.addr();
/// let stream = std::net::TcpStream::connect(addr)?;
/// stream.set_nonblocking(true)?;
/// let stream = mio::net::TcpStream::from_std(stream);
/// let connection = connect_over(stream, Config::default())?;
/// connection.ready().wait()?;
/// # Ok::<(), Box<dyn std::error::Error>>(())
/// ```
///
/// # Errors
/// If the system cannot start a thread or cannot poll the stream.
pub fn connect_over<S>(stream: S, config: Config) -> io::Result<Connection>
where
    S: Source + Read + Write + Send + 'static,
{
    let (stream, registration) = registration(stream)?;
    let (connection, drive) = adapter::begin::<Threads, _>(stream, config);
    start_with_own_helper(registration, Box::pin(drive))?;
    Ok(connection)
}

/// Like [`connect_over`], inside a TLS session with `host`.
///
/// # Errors
/// As [`connect_over`], and a [`TlsError`](crate::tls::TlsError) within the error if the TLS configuration is invalid.
#[cfg(feature = "tls")]
pub fn connect_tls_over<S>(
    stream: S,
    tls: &TlsOptions,
    host: &str,
    config: Config,
) -> io::Result<Connection>
where
    S: Source + Read + Write + Send + 'static,
{
    let (stream, registration) = registration(stream)?;
    let (connection, drive) =
        adapter::begin_tls::<Threads, _>(stream, tls, host, config).map_err(io::Error::other)?;
    start_with_own_helper(registration, Box::pin(drive))?;
    Ok(connection)
}
