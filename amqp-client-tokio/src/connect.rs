use std::future::Future;

use amqp_client_core::adapter;
#[cfg(feature = "tls")]
use amqp_client_core::tls::{TlsError, TlsOptions};
use amqp_client_core::{Config, ConnectError, Connection, Target};
use tokio::io::{AsyncRead, AsyncWrite};

use crate::io::{Stream, Tokio};

/// Connects to the broker of a URI such as `amqp://user:password@host:5672/vhost?heartbeat=10`. With several hosts, tries one
/// after the other. A task of the runtime reads and writes the socket, and ends with the connection.
///
/// If the connection is lost later, the client reconnects and restores everything that was declared and consumed: see
/// [recovery](crate::recovery).
///
/// ```no_run
/// # async fn example() -> Result<(), amqp_client_tokio::ConnectError> {
/// let connection = amqp_client_tokio::connect("amqp://guest:guest@localhost:5672/%2f").await?;
/// # Ok(())
/// # }
/// ```
///
/// # Errors
/// [`ConnectError`], as [`connect_target`].
///
/// # Panics
/// Outside of a tokio runtime with I/O and time enabled.
///
/// # Cancel safety
/// Dropping the future aborts the attempt.
pub async fn connect(uri: &str) -> Result<Connection, ConnectError> {
    connect_target(uri.parse()?).await
}

/// Connects to the first node of `target` that accepts the connection. The
/// [`connect_timeout`](crate::Settings::connect_timeout) applies to each node.
///
/// ```no_run
/// use amqp_client_tokio::{Target, connect_target};
/// use std::time::Duration;
///
/// # async fn example() -> Result<(), Box<dyn std::error::Error>> {
/// let target = Target::new("rabbit-1", 5672)
///     .endpoint("rabbit-2", 5672)
///     .login("billing", "secret")
///     .heartbeat(Duration::from_secs(10));
/// let connection = connect_target(target).await?;
/// # Ok(())
/// # }
/// ```
///
/// # Errors
/// [`ConnectError`]. If a node refuses something that every node would refuse, such as the credentials, no further node is tried.
/// Otherwise, the error is the first refusal by a node that was reached, or, if none was reached, the error of the last node.
///
/// # Panics
/// Outside of a tokio runtime with I/O and time enabled.
///
/// # Cancel safety
/// Dropping the future aborts the attempt.
pub async fn connect_target(target: Target) -> Result<Connection, ConnectError> {
    adapter::open::<Tokio>(target).await
}

/// Returns a connection at once, and connects it in the background, for a program that starts before its broker can be reached. The
/// first connection is retried as [`recovery`](Target::recovery) configures, without
/// [`retry_open`](Target::retry_open). Until the connection is open, it behaves as during an outage, and
/// [`ready`](Connection::ready) waits for it; see [recovery](crate::recovery#connecting-in-the-background).
///
/// ```no_run
/// use amqp_client_tokio::{Target, connect_in_background};
///
/// # async fn example() -> Result<(), Box<dyn std::error::Error>> {
/// let target: Target = "amqp://guest:guest@localhost:5672/%2f".parse()?;
/// let connection = connect_in_background(target)?;
/// println!("{:?}", connection.health().status); // Connecting
/// connection.ready().await?;
/// let channel = connection.open_channel().await?;
/// # Ok(())
/// # }
/// ```
///
/// # Errors
/// [`ConnectError`], if the target itself is invalid: a setting, the TLS configuration, or no endpoint. Everything else ends the
/// connection, and [`closed`](Connection::closed) returns the reason: for example credentials that the broker refuses.
///
/// # Panics
/// Outside of a tokio runtime with I/O and time enabled.
pub fn connect_in_background(target: Target) -> Result<Connection, ConnectError> {
    adapter::open_in_background::<Tokio>(target)
}

/// Begins a connection over any stream: a Unix socket, a proxy's tunnel, an in-memory pipe. Returns the connection and the future
/// that drives it until it is closed. Spawn or poll this future: without it, nothing happens.
///
/// ```
/// # use amqp_client_tokio::{Config, connect_over};
/// # async fn example(stream: tokio::net::TcpStream) -> Result<(), Box<dyn std::error::Error>> {
/// let (connection, driver) = connect_over(stream, Config::default());
/// tokio::spawn(driver);
/// connection.ready().await?;
/// # Ok(())
/// # }
/// ```
pub fn connect_over<S>(
    stream: S,
    config: Config,
) -> (Connection, impl Future<Output = ()> + Send + use<S>)
where
    S: AsyncRead + AsyncWrite + Send + Unpin,
{
    adapter::begin::<Tokio, _>(Stream(stream), config)
}

/// Like [`connect_over`], inside a TLS session with `host`.
///
/// ```
/// use amqp_client_tokio::{Config, connect_tls_over, tls::TlsOptions};
///
/// # async fn example(stream: tokio::net::TcpStream) -> Result<(), Box<dyn std::error::Error>> {
/// let tls = TlsOptions::new();
/// let (connection, driver) = connect_tls_over(stream, &tls, "rabbit.example", Config::default())?;
/// tokio::spawn(driver);
/// connection.ready().await?;
/// # Ok(())
/// # }
/// ```
///
/// # Errors
/// [`TlsError`](crate::tls::TlsError), if the TLS configuration is invalid.
#[cfg(feature = "tls")]
pub fn connect_tls_over<S>(
    stream: S,
    tls: &TlsOptions,
    host: &str,
    config: Config,
) -> Result<(Connection, impl Future<Output = ()> + Send + use<S>), TlsError>
where
    S: AsyncRead + AsyncWrite + Send + Unpin,
{
    adapter::begin_tls::<Tokio, _>(Stream(stream), tls, host, config)
}
