//! Connecting to a target, the same for all runtimes. A [`Runtime`] adds sockets, time and tasks.

mod attempt;
mod background;
mod check;
mod error;
mod happy_eyeballs;
mod maybe_tls;
mod reconnect;
mod runtime;
pub(crate) mod socket;
mod target;

pub use background::open_in_background;
pub use error::ConnectError;
pub use runtime::Runtime;
pub use target::Target;

use std::sync::Arc;

use amqp_proto::ConnectStep;
use amqp_proto::session::Recovery;
use attempt::{Limit, Reached, log_in, reach};
use reconnect::{reconnect_unless, run};

use crate::Connection;
use crate::config::Config;
use crate::driver::{Drive, Reconnector, Timer as _, Transport};
use crate::error::chain;
use crate::login::{Token, keep_fresh};
use crate::logs::{Level, one_line};
#[cfg(feature = "tls")]
use crate::tls::Secured;
#[cfg(feature = "tls")]
use crate::tls::TlsOptions;

/// Connects to the first node of a target that accepts the connection, and spawns the driver. The
/// [`connect_timeout`](crate::Settings::connect_timeout) applies to each node, up to the end of the handshake.
///
/// If the connection is lost later, it is recovered as [`Target::recovery`] configures.
///
/// # Errors
/// [`ConnectError`]. If a node refuses something that every node would refuse, such as the credentials, no further node is tried.
/// Otherwise, the error is the first refusal by a node that was reached, or, if none was reached, the error of the last node.
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
            let log = target.config.begin_log(R::timer().now());
            target.config.log = Some(log);
            let token = log_in::<R>(&mut target).await.inspect_err(|error| warn(&target, error))?;
            (open_any::<R>(target).await?, token)
        }
    };
    if let (Some(source), Some(token)) = (source, token) {
        R::spawn(keep_fresh(&connection, source, &token, R::timer()));
    }
    Ok(connection)
}

async fn open_any<R: Runtime>(target: Target) -> Result<Connection, ConnectError> {
    let target = Arc::new(target);
    let mut refusal = None;
    let mut last = ConnectError::NoEndpoint;
    for (node, _) in target.endpoints.iter().enumerate() {
        match open_node::<R>(&target, node).await.inspect_err(|error| warn(&target, error)) {
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

/// Writes a line about a failed attempt, unless its connection has written one.
fn warn(target: &Target, error: &ConnectError) {
    let Some(log) = &target.config.log else { return };
    if error.as_connection_error().is_none() {
        log.line(Level::Warn, None, || one_line(&chain(error)));
        log.write();
    }
}

/// Connects as after a loss, with the retries that the recovery configures. Also returns the token that it logged in with.
async fn open_patiently<R: Runtime>(
    target: &Arc<Target>,
    recovery: &Recovery,
) -> Result<(Connection, Option<Token>), ConnectError> {
    let (connection, reconnector) = begin_unconnected::<R>(target, recovery)?;
    let is_final = |error: &ConnectError| {
        !error.is_about_the_node() && !matches!(error, ConnectError::NoToken(_))
    };
    let token = reconnect_unless::<R>(reconnector, target.clone(), is_final).await?;
    match connection.ready().await {
        Ok(()) => Ok((connection, token)),
        Err(error) => {
            let endpoint = target.node(connection.shared().lock().node)?.clone();
            let step = step_of(&connection);
            Err(ConnectError::refused(endpoint, step, error, &target.config.protocol))
        }
    }
}

/// Begins a connection that has no transport yet.
fn begin_unconnected<R: Runtime>(
    target: &Target,
    recovery: &Recovery,
) -> Result<(Connection, Reconnector), ConnectError> {
    // Without nodes, there would be no attempt, so the connection would never end.
    target.node(0)?;
    let (config, nodes) = (target.config.clone(), target.endpoints.len());
    let (connection, reconnector) =
        Reconnector::begin(config, without_attempt_timeout(recovery), nodes, R::timer().now());
    serve::<R>(&connection);
    connection.shared().lock().endpoints.clone_from(&target.endpoints);
    Ok((connection, reconnector))
}

async fn open_node<R: Runtime>(
    target: &Arc<Target>,
    node: usize,
) -> Result<Connection, ConnectError> {
    let endpoint = target.node(node)?.clone();
    let limit = Limit::begin::<R>(target, &endpoint);
    let Reached { transport, registration, addr } = reach::<R>(target, &endpoint, &limit).await?;
    let (connection, mut drive) = begin::<R, _>(transport, target.config.clone());
    {
        let mut state = connection.shared().lock();
        (state.peer_addr, state.node) = (Some(addr), node);
        state.endpoints.clone_from(&target.endpoints);
    }
    if let Some(recovery) = &target.recovery {
        drive.recover_with(without_attempt_timeout(recovery), target.endpoints.len(), node);
    }
    run::<R>(drive, registration, target.clone())
        .map_err(|error| ConnectError::unreachable(&endpoint, ConnectStep::Tcp, error))?;
    let ready = limit.apply::<R, _>(ConnectStep::ProtocolHeader, connection.ready()).await;
    match ready.map_err(|_| limit.exceeded(step_of(&connection)))? {
        Ok(()) => Ok(connection),
        Err(error) => {
            let step = step_of(&connection);
            Err(ConnectError::refused(endpoint, step, error, &target.config.protocol))
        }
    }
}

/// Returns the step that a connection has reached that is not open.
fn step_of(connection: &Connection) -> ConnectStep {
    // It was open and is lost if there is none: nothing follows the virtual host.
    connection.connect_step().unwrap_or(ConnectStep::VirtualHost)
}

/// Turns the session's attempt timeout off: the adapters apply [`connect_timeout`](crate::Settings::connect_timeout) to each
/// attempt, whose error has more detail.
fn without_attempt_timeout(recovery: &Recovery) -> Recovery {
    recovery.clone().attempt_timeout(None)
}

/// A connection and its driver. Without the driver, nothing happens.
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
    Ok(begin::<R, _>(Secured::new(transport, tls, host)?, config))
}
