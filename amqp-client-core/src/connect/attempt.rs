//! The steps of one attempt to connect: token, name, stream, TLS.

use std::future::{Future, poll_fn};
use std::io;
use std::net::SocketAddr;
use std::pin::pin;
use std::sync::Arc;
use std::task::Poll;
use std::time::{Duration, Instant};

use amqp_proto::ConnectStep;
use amqp_proto::uri::Endpoint;

use super::happy_eyeballs::connect_any;
use super::maybe_tls::MaybeTls;
use super::{ConnectError, Runtime, Target};
use crate::driver::Timer;
use crate::login::{Token, TokenError, ask};
#[cfg(feature = "tls")]
use crate::tls::Secured;

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

/// A node that was reached.
pub(crate) struct Reached<R: Runtime> {
    /// A stream to the node, inside TLS if the target uses TLS.
    pub(crate) transport: MaybeTls<R::Transport>,
    pub(crate) registration: R::Registration,
    /// The address of the other end.
    pub(crate) addr: SocketAddr,
}

/// Checks that the TLS configuration of a target can be used with each of its nodes.
#[cfg(feature = "tls")]
pub(crate) fn check_tls(target: &Target) -> Result<(), ConnectError> {
    let sessions = |tls: &crate::tls::TlsOptions| {
        target.endpoints.iter().try_for_each(|endpoint| tls.session(&endpoint.host).map(drop))
    };
    Ok(target.tls.as_ref().map_or(Ok(()), sessions)?)
}

/// Checks that the target does not use TLS, because this build has no TLS.
#[cfg(not(feature = "tls"))]
pub(crate) fn check_tls(target: &Target) -> Result<(), ConnectError> {
    match &target.tls {
        Some(_) => Err(crate::tls::TlsError::NotBuilt.into()),
        None => Ok(()),
    }
}

/// The time for one attempt.
pub(crate) struct Limit<'a> {
    endpoint: &'a Endpoint,
    after: Duration,
    /// `None` if the deadline is too far in the future.
    at: Option<Instant>,
}

impl<'a> Limit<'a> {
    /// Begins an attempt now.
    pub(crate) fn begin<R: Runtime>(target: &Target, endpoint: &'a Endpoint) -> Self {
        let after = target.config.settings.connect_timeout;
        Self { endpoint, after, at: R::timer().now().checked_add(after) }
    }

    /// Waits for a future that is a part of the attempt.
    pub(crate) async fn apply<R: Runtime, T>(
        &self,
        step: ConnectStep,
        future: impl Future<Output = T>,
    ) -> Result<T, ConnectError> {
        until(R::timer(), self.at, future).await.ok_or_else(|| self.exceeded(step))
    }

    /// Returns the error of an attempt that took too long.
    pub(crate) fn exceeded(&self, step: ConnectStep) -> ConnectError {
        ConnectError::TimedOut { endpoint: self.endpoint.clone(), step, after: self.after }
    }
}

/// Connects a stream to a node.
pub(crate) async fn reach<R: Runtime>(
    target: &Target,
    endpoint: &Endpoint,
    limit: &Limit<'_>,
) -> Result<Reached<R>, ConnectError> {
    #[cfg(feature = "tls")]
    let session = target.tls.as_ref().map(|tls| tls.session(&endpoint.host)).transpose()?;
    #[cfg(not(feature = "tls"))]
    check_tls(target)?;
    let settings = target.config.settings;
    let unreachable = |step, error| ConnectError::unreachable(endpoint, step, error);
    let resolved = R::resolve(&endpoint.host, endpoint.port);
    let addrs = limit.apply::<R, _>(ConnectStep::Dns, resolved).await?;
    let addrs = addrs.map_err(|error| unreachable(ConnectStep::Dns, error))?;
    let step = if addrs.is_empty() { ConnectStep::Dns } else { ConnectStep::Tcp };
    let connect = |addr| async move { Ok((R::connect(addr, settings).await?, addr)) };
    let connected = limit.apply::<R, _>(step, connect_any(addrs, R::timer(), connect)).await?;
    let ((transport, registration), addr) = connected.map_err(|error| unreachable(step, error))?;
    #[cfg(feature = "tls")]
    let transport = match session {
        Some(session) => MaybeTls::Secured(Box::new(Secured::with(transport, session))),
        None => MaybeTls::Plain(transport),
    };
    #[cfg(not(feature = "tls"))]
    let transport = MaybeTls::Plain(transport);
    Ok(Reached { transport, registration, addr })
}

/// Waits for a future, for at most `time`. Returns `None` after the timeout.
async fn within<T>(
    timer: impl Timer,
    time: Duration,
    future: impl Future<Output = T>,
) -> Option<T> {
    let at = timer.now().checked_add(time);
    until(timer, at, future).await
}

/// Waits for a future, until the deadline at most. Returns `None` after the deadline.
async fn until<T>(
    mut timer: impl Timer,
    at: Option<Instant>,
    future: impl Future<Output = T>,
) -> Option<T> {
    let mut future = pin!(future);
    poll_fn(|cx| match (future.as_mut().poll(cx), at) {
        (Poll::Ready(value), _) => Poll::Ready(Some(value)),
        (Poll::Pending, Some(at)) => timer.poll_until(cx, at).map(|()| None),
        (Poll::Pending, None) => Poll::Pending,
    })
    .await
}
