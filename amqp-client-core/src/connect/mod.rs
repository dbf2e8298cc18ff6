//! The common part of the adapters: connecting to a target. A runtime adds sockets, time and tasks.

mod happy_eyeballs;
mod maybe_tls;
mod reconnect;
pub mod socket;
mod target;

pub use target::{ConnectError, Target};

use std::future::{Future, poll_fn};
use std::io;
use std::net::SocketAddr;
use std::pin::pin;
use std::sync::Arc;
use std::task::{Poll, Waker};
use std::time::Duration;

use amqp_proto::session::Recovery;
use amqp_proto::uri::Endpoint;
use happy_eyeballs::connect_any;
use maybe_tls::Wrapped;
use reconnect::{redial, redial_unless};

use crate::Connection;
use crate::config::{Config, Settings};
use crate::driver::{Dialer, Drive, Timer, Transport};
use crate::login::{Token, TokenError, ask, keep_fresh};
#[cfg(feature = "tls")]
use crate::tls::Secured;
#[cfg(feature = "tls")]
use crate::tls::TlsOptions;

/// A runtime: how it connects, waits and spawns.
pub trait Runtime: 'static {
    /// Its streams.
    type Transport: Transport + Send + 'static;
    /// The poller registration of a transport, for runtimes whose tasks have no reactor.
    type Seat;
    /// Its clock.
    type Timer: Timer + Send + 'static;

    /// Creates a timer.
    fn timer() -> Self::Timer;

    /// Resolves a host name to addresses.
    fn resolve(host: &str, port: u16) -> impl Future<Output = io::Result<Vec<SocketAddr>>> + Send;

    /// Connects a stream, with the [options](crate::connect::socket::set_options) of the settings.
    fn connect(
        addr: SocketAddr,
        settings: Settings,
    ) -> impl Future<Output = io::Result<(Self::Transport, Self::Seat)>> + Send;

    /// Runs a task in the background.
    fn spawn(task: impl Future<Output = ()> + Send + 'static);

    /// Runs a callback, which may block.
    fn call(callback: Box<dyn FnOnce() + Send>) {
        Self::spawn(async move { callback() });
    }

    /// Wakes the present task after the tasks that wait for its thread, so that they run first when it returns `Pending`.
    fn yield_now(waker: &Waker) {
        waker.wake_by_ref();
    }

    /// Runs the loop of a connection in the background.
    ///
    /// # Errors
    /// The system's error.
    fn drive(_: Self::Seat, drive: impl Future<Output = ()> + Send + 'static) -> io::Result<()> {
        Self::spawn(drive);
        Ok(())
    }
}

/// Connects to the first node of a target that accepts the connection, and spawns the driver. The
/// [`connect_timeout`](crate::Settings::connect_timeout) applies to each node, up to the end of the handshake.
///
/// If the connection is lost later, it is recovered as [`Target::recovery`] configures.
///
/// # Errors
/// [`ConnectError`]. If a node refuses what every node would refuse, such as the credentials, no further node is tried. Otherwise
/// this is the first refusal by a node that was reached, or else the error of the last node.
///
/// # Cancel safety
/// Dropping the future aborts the attempt.
pub async fn open<R: Runtime>(mut target: Target) -> Result<Connection, ConnectError> {
    target.config.settings.check()?;
    let source = target.token_source.clone();
    let (connection, token) = match target.recovery.clone().filter(|_| target.retry_open) {
        // Each attempt requests a token: the source may be down as well as the broker.
        Some(recovery) => open_patiently::<R>(&Arc::new(target), &recovery).await?,
        None => {
            let token = log_in::<R>(&mut target).await?;
            (open_any::<R>(target).await?, token)
        }
    };
    if let (Some(source), Some(token)) = (source, token) {
        R::spawn(keep_fresh(&connection, source, &token, R::timer()));
    }
    Ok(connection)
}

/// Requests a token, if the target has a token source, and configures the login with it.
pub(crate) async fn log_in<R: Runtime>(target: &mut Target) -> Result<Option<Token>, ConnectError> {
    let Some(source) = target.token_source.clone() else {
        return Ok(None);
    };
    let late = || -> TokenError { Arc::new(io::Error::from(io::ErrorKind::TimedOut)) };
    let token = within(R::timer(), target.config.settings.connect_timeout, ask(source)).await;
    let token = token.unwrap_or_else(|| Err(late())).map_err(ConnectError::NoToken)?;
    token.log_in(&mut target.config);
    Ok(Some(token))
}

async fn open_any<R: Runtime>(target: Target) -> Result<Connection, ConnectError> {
    let target = Arc::new(target);
    let mut refusal = None;
    let mut last = ConnectError::NoEndpoint;
    for (node, _) in target.endpoints.iter().enumerate() {
        match open_node::<R>(&target, node).await {
            Err(error) if !error.is_about_the_node() => return Err(error),
            // A refusal with a reason is more useful to the caller than a node that was not reached.
            Err(error) if refusal.is_none() && error.reply_code().is_some() => {
                refusal = Some(error)
            }
            Err(error) => last = error,
            opened => return opened,
        }
    }
    Err(refusal.unwrap_or(last))
}

/// Connects as after a loss, with the retries that the recovery configures. Also returns the token that it logged in with.
async fn open_patiently<R: Runtime>(
    target: &Arc<Target>,
    recovery: &Recovery,
) -> Result<(Connection, Option<Token>), ConnectError> {
    let endpoint = target.endpoint(0)?.clone();
    let (config, nodes) = (target.config.clone(), target.endpoints.len());
    let (connection, dialer) = Dialer::begin(config, timed_here(recovery), nodes, R::timer().now());
    serve::<R>(&connection);
    let is_final = |error: &ConnectError| {
        !error.is_about_the_node() && !matches!(error, ConnectError::NoToken(_))
    };
    let token = redial_unless::<R>(dialer, target.clone(), is_final).await?;
    match connection.ready().await {
        Ok(()) => Ok((connection, token)),
        Err(error) => Err(ConnectError::Refused { endpoint, error }),
    }
}

async fn open_node<R: Runtime>(
    target: &Arc<Target>,
    node: usize,
) -> Result<Connection, ConnectError> {
    let endpoint = target.endpoint(node)?.clone();
    let after = target.config.settings.connect_timeout;
    let opening = async {
        let (transport, seat) = reach::<R>(target, &endpoint).await?;
        let (connection, mut drive) = begin::<R, _>(transport, target.config.clone());
        if let Some(recovery) = &target.recovery {
            drive.recover_with(timed_here(recovery), target.endpoints.len(), node);
        }
        run::<R>(drive, seat, target.clone())
            .map_err(|error| ConnectError::unreachable(&endpoint, error))?;
        match connection.ready().await {
            Ok(()) => Ok(connection),
            Err(error) => {
                let config = &target.config.protocol;
                Err(ConnectError::refused(endpoint.clone(), error, config))
            }
        }
    };
    within(R::timer(), after, opening)
        .await
        .unwrap_or_else(|| Err(ConnectError::TimedOut { endpoint: endpoint.clone(), after }))
}

/// Turns the session's attempt timeout off: the adapters apply [`connect_timeout`](crate::Settings::connect_timeout) to each
/// attempt, whose error has more detail.
fn timed_here(recovery: &Recovery) -> Recovery {
    let mut recovery = recovery.clone();
    recovery.attempt_timeout = None;
    recovery
}

/// A stream to a node, inside TLS if the target uses TLS.
pub(crate) type Reached<R> = (Wrapped<<R as Runtime>::Transport>, <R as Runtime>::Seat);

/// Connects a stream to a node.
pub(crate) async fn reach<R: Runtime>(
    target: &Target,
    endpoint: &Endpoint,
) -> Result<Reached<R>, ConnectError> {
    #[cfg(feature = "tls")]
    let session = target.tls.as_ref().map(|tls| tls.session(&endpoint.host)).transpose()?;
    #[cfg(not(feature = "tls"))]
    if target.tls.is_some() {
        return Err(crate::tls::TlsError::NotBuilt.into());
    }
    let settings = target.config.settings;
    let unreachable = |error| ConnectError::unreachable(endpoint, error);
    let addrs = R::resolve(&endpoint.host, endpoint.port).await.map_err(unreachable)?;
    let connecting = connect_any(addrs, R::timer(), |addr| R::connect(addr, settings));
    let (transport, seat) = connecting.await.map_err(unreachable)?;
    #[cfg(feature = "tls")]
    let transport = match session {
        Some(session) => Wrapped::Secured(Box::new(Secured::new(transport, session))),
        None => Wrapped::Plain(transport),
    };
    #[cfg(not(feature = "tls"))]
    let transport = Wrapped::Plain(transport);
    Ok((transport, seat))
}

/// Drives a connection in the background, over this transport and those that follow.
pub(crate) fn run<R: Runtime>(
    mut drive: Drive<Wrapped<R::Transport>, R::Timer>,
    seat: R::Seat,
    target: Arc<Target>,
) -> io::Result<()> {
    R::drive(seat, async move {
        (&mut drive).await;
        if let Some(dialer) = drive.into_dialer() {
            R::spawn(redial::<R>(dialer, target));
        }
    })
}

/// A connection and its driver, which has to run for anything to happen.
pub type Begun<R, S> = (Connection, Drive<S, <R as Runtime>::Timer>);

/// Registers the runtime's functions with a connection.
fn serve<R: Runtime>(connection: &Connection) {
    connection.shared().lock().run_call = Some(R::call);
    connection.shared().yield_by(R::yield_now);
}

/// Begins a connection over any transport.
pub fn begin<R, S>(transport: S, config: Config) -> Begun<R, S>
where
    R: Runtime,
    S: Transport,
{
    let (connection, drive) = Drive::new(transport, R::timer(), config);
    serve::<R>(&connection);
    (connection, drive)
}

/// Like [`begin`], inside a TLS session with that host.
///
/// # Errors
/// [`TlsError`](crate::tls::TlsError), if the TLS configuration is invalid.
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

/// Waits for a future, for at most `time`. Returns `None` after the timeout.
pub(crate) async fn within<T>(
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
