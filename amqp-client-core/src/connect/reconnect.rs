//! Reconnects after a loss. Meanwhile, the deadlines and commands of the connection go on.

use std::future::{Future, poll_fn};
use std::io;
use std::pin::{Pin, pin};
use std::sync::Arc;
use std::task::Poll;

use amqp_proto::{ClientConfig, ConnectStep};

use super::attempt::{Limit, Reached, log_in, reach};
use super::maybe_tls::MaybeTls;
use super::{ConnectError, Runtime, Target};
use crate::driver::{Drive, Reconnector, Timer};
use crate::error::chain;
use crate::login::Token;

/// Boxed, so that a connection has no room for it while it is connected.
type Task = Pin<Box<dyn Future<Output = ()> + Send>>;

/// Drives a connection in the background, over this transport and those that follow.
pub(crate) fn run<R: Runtime>(
    mut drive: Drive<MaybeTls<R::Transport>, R::Timer>,
    registration: R::Registration,
    target: Arc<Target>,
) -> io::Result<()> {
    R::drive(registration, async move {
        (&mut drive).await;
        let Some(reconnector) = drive.into_reconnector() else { return };
        if target.token_source.is_some() {
            // The source is code of the user's, and may block.
            R::spawn(reconnect::<R>(reconnector, target));
        } else {
            // Where tasks are threads, an outage would otherwise cost one for each of thousands of connections.
            let reconnects: Task = Box::pin(reconnect::<R>(reconnector, target));
            reconnects.await;
        }
    })
}

/// Opens transports until one is connected, and drives it.
pub(crate) async fn reconnect<R: Runtime>(reconnector: Reconnector, target: Arc<Target>) {
    let _reached = reconnect_unless::<R>(reconnector, target, |_| false).await;
}

/// Opens transports until one is connected, or until an attempt fails with a final error. If the target has a token source, also
/// returns the token with which the transport logs in.
pub(crate) async fn reconnect_unless<R: Runtime>(
    mut reconnector: Reconnector,
    target: Arc<Target>,
    is_final: fn(&ConnectError) -> bool,
) -> Result<Option<Token>, ConnectError> {
    let mut timer = R::timer();
    while let Some(node) = next_node(&mut reconnector, &mut timer).await {
        let attempt = attempt::<R>(&target, node);
        let Some(reached) = meanwhile(&mut reconnector, &mut timer, attempt).await else {
            break;
        };
        let now = timer.now();
        match reached {
            Ok((Reached { transport, registration, addr }, login)) => {
                reconnector.leads_to(addr);
                let (token, config) = login.unzip();
                if let Some(token) = &token {
                    reconnector.logs_in_for(token.valid_for());
                }
                let driver = reconnector.connected(now, config);
                // If it cannot be driven, it is dropped, and all waiting calls end with an error.
                let _undriven =
                    run::<R>(Drive::with(driver, transport, timer), registration, target);
                return Ok(token);
            }
            Err(error) if is_final(&error) => return Err(error),
            Err(error) => reconnector.failed(now, error.step(), &chain(&error).to_string()),
        }
    }
    Ok(None)
}

/// Returns the node to connect to, when it is time. `None` if the connection has ended.
async fn next_node(reconnector: &mut Reconnector, timer: &mut impl Timer) -> Option<usize> {
    poll_fn(|cx| {
        loop {
            let turn = reconnector.turn(timer.now(), cx.waker());
            if turn.done {
                return Poll::Ready(None);
            }
            if let Some(node) = turn.connect {
                return Poll::Ready(Some(node));
            }
            match turn.wake_at {
                Some(at) if timer.poll_until(cx, at).is_ready() => {}
                _ => return Poll::Pending,
            }
        }
    })
    .await
}

/// Runs a connection attempt and the turns of the reconnector at the same time. Returns the result of the attempt, or `None` if
/// the connection ends before.
async fn meanwhile<T>(
    reconnector: &mut Reconnector,
    timer: &mut impl Timer,
    attempt: impl Future<Output = T>,
) -> Option<T> {
    let mut attempt = pin!(attempt);
    poll_fn(|cx| {
        loop {
            let turn = reconnector.turn(timer.now(), cx.waker());
            if turn.done {
                return Poll::Ready(None);
            }
            if let Poll::Ready(result) = attempt.as_mut().poll(cx) {
                return Poll::Ready(Some(result));
            }
            match turn.wake_at {
                Some(at) if timer.poll_until(cx, at).is_ready() => {}
                _ => return Poll::Pending,
            }
        }
    })
    .await
}

/// One attempt, with a new token if there is a source of them. The handshake that follows has a deadline of its own.
async fn attempt<R: Runtime>(
    target: &Target,
    node: usize,
) -> Result<(Reached<R>, Option<(Token, ClientConfig)>), ConnectError> {
    let endpoint = target.node(node)?;
    let limit = Limit::begin::<R>(target, endpoint);
    let mut target = target.clone();
    let token = limit.apply::<R, _>(ConnectStep::Token, log_in::<R>(&mut target)).await??;
    let reached = reach::<R>(&target, endpoint, &limit).await?;
    Ok((reached, token.map(|token| (token, target.config.protocol))))
}
