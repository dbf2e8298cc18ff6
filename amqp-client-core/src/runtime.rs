//! What adapters have in common: connecting to a target. A runtime adds sockets, time and tasks.

use std::future::{Future, poll_fn};
use std::io;
use std::net::SocketAddr;
use std::pin::pin;
use std::sync::Arc;
use std::task::Poll;
use std::time::Duration;

use amqp_proto::uri::Endpoint;

use crate::Connection;
use crate::config::{Config, Settings};
use crate::connect::{ConnectError, Target};
use crate::drive::{Drive, Timer, Transport};
use crate::eyeballs::connect_any;
use crate::login::{TokenError, keep_fresh};
#[cfg(feature = "tls")]
use crate::tls::Secured;
use crate::tls::TlsOptions;

/// A runtime: how it connects, waits and spawns.
pub trait Runtime {
    /// Its streams.
    type Transport: Transport + Send + 'static;
    /// What belongs to a transport and waits for it, where tasks do not do that by themselves.
    type Seat;
    /// Its clock.
    type Timer: Timer + Send + 'static;

    /// A timer.
    fn timer() -> Self::Timer;

    /// The addresses of a host.
    fn resolve(host: &str, port: u16) -> impl Future<Output = io::Result<Vec<SocketAddr>>> + Send;

    /// Connects a stream, with the [options](crate::socket::set_options) of the settings.
    fn connect(
        addr: SocketAddr,
        settings: Settings,
    ) -> impl Future<Output = io::Result<(Self::Transport, Self::Seat)>> + Send;

    /// Runs a task in the background.
    fn spawn(task: impl Future<Output = ()> + Send + 'static);

    /// Runs a callback, which may take its time.
    fn call(callback: Box<dyn FnOnce() + Send>) {
        Self::spawn(async move { callback() });
    }

    /// Runs the loop of a connection in the background.
    ///
    /// # Errors
    /// Why the system does not let it.
    fn drive(_: Self::Seat, drive: impl Future<Output = ()> + Send + 'static) -> io::Result<()> {
        Self::spawn(drive);
        Ok(())
    }
}

/// Connects to one of the nodes of a target, the first that takes it, and spawns its driver. Each node is given the
/// [`connect_timeout`](crate::Settings::connect_timeout) for everything up to the end of the handshake.
///
/// # Errors
/// [`ConnectError`], for the last node that was tried. A node that says no, as to the credentials, is the last.
///
/// # Cancel safety
/// Dropping the future gives the attempt up.
pub async fn open<R: Runtime>(mut target: Target) -> Result<Connection, ConnectError> {
    let Some(source) = target.token_source.take() else {
        return open_any::<R>(target).await;
    };
    let late = || -> TokenError { Arc::new(io::Error::from(io::ErrorKind::TimedOut)) };
    let token = within(R::timer(), target.config.settings.connect_timeout, source.token()).await;
    let token = token.unwrap_or_else(|| Err(late())).map_err(ConnectError::NoToken)?;
    token.log_in(&mut target.config);
    let connection = open_any::<R>(target).await?;
    R::spawn(keep_fresh(&connection, source, &token, R::timer()));
    Ok(connection)
}

async fn open_any<R: Runtime>(target: Target) -> Result<Connection, ConnectError> {
    let mut nodes = target.endpoints.into_iter().peekable();
    while let Some(endpoint) = nodes.next() {
        match open_node::<R>(&endpoint, target.tls.as_ref(), target.config.clone()).await {
            Err(error) if error.is_about_the_node() && nodes.peek().is_some() => {}
            result => return result,
        }
    }
    Err(ConnectError::NoEndpoint)
}

async fn open_node<R: Runtime>(
    endpoint: &Endpoint,
    tls: Option<&TlsOptions>,
    config: Config,
) -> Result<Connection, ConnectError> {
    let after = config.settings.connect_timeout;
    let connecting = connect::<R>(endpoint, tls, config);
    within(R::timer(), after, connecting)
        .await
        .unwrap_or_else(|| Err(ConnectError::TimedOut { endpoint: endpoint.clone(), after }))
}

async fn connect<R: Runtime>(
    endpoint: &Endpoint,
    tls: Option<&TlsOptions>,
    config: Config,
) -> Result<Connection, ConnectError> {
    #[cfg(feature = "tls")]
    let session = tls.map(|tls| tls.session(&endpoint.host)).transpose()?;
    #[cfg(not(feature = "tls"))]
    if tls.is_some() {
        return Err(crate::tls::TlsError::NotBuilt.into());
    }
    let unreachable = |error: io::Error| ConnectError::Unreachable {
        endpoint: endpoint.clone(),
        error: Arc::new(error),
    };
    let (transport, seat) = reach::<R>(endpoint, config.settings).await.map_err(unreachable)?;
    #[cfg(feature = "tls")]
    let connection = match session {
        Some(session) => drive::<R, _>(Secured::new(transport, session), seat, config),
        None => drive::<R, _>(transport, seat, config),
    };
    #[cfg(not(feature = "tls"))]
    let connection = drive::<R, _>(transport, seat, config);
    let connection = connection.map_err(unreachable)?;
    match connection.ready().await {
        Ok(()) => Ok(connection),
        Err(error) => Err(ConnectError::Refused { endpoint: endpoint.clone(), error }),
    }
}

async fn reach<R: Runtime>(
    endpoint: &Endpoint,
    settings: Settings,
) -> io::Result<(R::Transport, R::Seat)> {
    let addrs = R::resolve(&endpoint.host, endpoint.port).await?;
    connect_any(addrs, R::timer(), |addr| R::connect(addr, settings)).await
}

fn drive<R, S>(transport: S, seat: R::Seat, config: Config) -> io::Result<Connection>
where
    R: Runtime,
    S: Transport + Send + 'static,
{
    let (connection, drive) = begin::<R, S>(transport, config);
    R::drive(seat, drive)?;
    Ok(connection)
}

/// A connection's handle, and the loop that has to run for anything to happen.
pub type Begun<R, S> = (Connection, Drive<S, <R as Runtime>::Timer>);

/// Begins a connection over any transport.
pub fn begin<R, S>(transport: S, config: Config) -> Begun<R, S>
where
    R: Runtime,
    S: Transport,
{
    let (connection, drive) = Drive::new(transport, R::timer(), config);
    connection.shared().lock().run_call = Some(R::call);
    (connection, drive)
}

/// The same inside of a TLS session with that host.
///
/// # Errors
/// [`TlsError`](crate::tls::TlsError), which says what is wrong with which file.
#[cfg(feature = "tls")]
pub fn begin_tls<R, S>(
    transport: S,
    tls: &TlsOptions,
    host: &str,
    config: Config,
) -> Result<Begun<R, Secured<S>>, crate::tls::TlsError>
where
    R: Runtime,
    S: Transport,
{
    Ok(begin::<R, _>(Secured::new(transport, tls.session(host)?), config))
}

/// What a future gives, if it does so in time.
async fn within<T>(
    mut timer: impl Timer,
    time: Duration,
    future: impl Future<Output = T>,
) -> Option<T> {
    let at = timer.now().checked_add(time);
    let mut future = pin!(future);
    poll_fn(|cx| match (future.as_mut().poll(cx), at) {
        (Poll::Ready(value), _) => Poll::Ready(Some(value)),
        (Poll::Pending, Some(at)) => timer.poll_until(cx, at).map(|()| None),
        (Poll::Pending, None) => Poll::Pending,
    })
    .await
}
