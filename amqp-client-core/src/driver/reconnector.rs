//! What an adapter does while there is no transport: the connection was lost, and another is to be made.

use std::sync::Arc;
use std::task::Waker;
use std::time::{Duration, Instant};

use amqp_proto::ClientConfig;
use amqp_proto::session::{Reconnect, Recovery, Session};

use super::Driver;
use crate::Connection;
use crate::config::Config;
use crate::state::{Shared, keep_clone};

/// A lost connection, as seen by the code that opens transports. It takes the place of the [`Driver`] while there is no
/// transport.
///
/// The contract is a loop: [`turn`](Self::turn) returns what to do, and when to call it again. While an attempt is in progress,
/// keep calling it. Dropping the reconnector ends the connection: all waiting calls get an error.
#[derive(Debug)]
pub struct Reconnector {
    shared: Arc<Shared>,
    close_timeout: Duration,
    handed_on: bool,
    spare_waker: Option<Waker>,
}

/// What to do next.
#[derive(Debug, Clone, Copy, PartialEq, Eq)]
#[non_exhaustive]
pub struct ReconnectTurn {
    /// Connect to this node, an index into the list of nodes, and report the result.
    pub connect: Option<usize>,
    /// When to call [`Reconnector::turn`] again at the latest.
    pub wake_at: Option<Instant>,
    /// The connection is over for good.
    pub done: bool,
}

impl Reconnector {
    pub(crate) const fn new(shared: Arc<Shared>, close_timeout: Duration) -> Self {
        Self { shared, close_timeout, handed_on: false, spare_waker: None }
    }

    /// Begins a connection that has no transport yet: it asks for one as after a loss, of as many nodes. `now` is when
    /// connecting began.
    #[must_use]
    pub fn begin(
        config: Config,
        recovery: Recovery,
        nodes: usize,
        now: Instant,
    ) -> (Connection, Self) {
        let Config { protocol, settings } = config;
        let close_timeout = protocol.close_timeout;
        let session = Session::disconnected(Arc::new(protocol), recovery, nodes, now);
        let shared = Arc::new(Shared::new(session, settings));
        (Connection::new(shared.clone()), Self::new(shared, close_timeout))
    }

    /// Returns what to do at `now`. `waker` is woken when a handle has queued new work.
    pub fn turn(&mut self, now: Instant, waker: &Waker) -> ReconnectTurn {
        keep_clone(&mut self.spare_waker, waker);
        let mut state = self.shared.lock();
        state.carry_out(now);
        state.proto.handle_timeout(now);
        let next = state.proto.poll_reconnect(now);
        state.dispatch();
        state.expire(now);
        state.wake_turns();
        state.park_driver(&mut self.spare_waker);
        let (connect, wait) = match next {
            Reconnect::Connect { node } => (Some(node), None),
            Reconnect::Wait(at) => (None, Some(at)),
            _ => (None, None),
        };
        let timer = state.proto.poll_timeout().map(|(at, _)| at);
        let wake_at = [wait, timer, state.deadlines.next()].into_iter().flatten().min();
        ReconnectTurn { connect, wake_at, done: state.proto.check().is_err() }
    }

    /// There is a transport to the node that was asked for. With a configuration, that one is used from now on, as when there
    /// is a new token to log in with.
    #[must_use]
    pub fn connected(mut self, now: Instant, config: Option<ClientConfig>) -> Driver {
        let mut state = self.shared.lock();
        // If the attempt had taken too long, the driver ends at once, and turns into a reconnector again.
        let _used = state.proto.handle_transport(now, config.map(Arc::new));
        state.dispatch();
        drop(state);
        self.handed_on = true;
        Driver::of(self.shared.clone(), self.close_timeout, now)
    }

    /// The node that was asked for cannot be reached.
    pub fn failed(&mut self, now: Instant, reason: &str) {
        let mut state = self.shared.lock();
        state.proto.handle_unreachable(now, reason);
        state.dispatch();
    }
}

impl Driver {
    /// Returns the reconnector that makes the next transport, if there is to be one: this driver is [`done`](super::Turn::done),
    /// and the connection was lost and recovers.
    #[must_use]
    pub fn into_reconnector(mut self) -> Option<Reconnector> {
        let state = self.shared.lock();
        let goes_on = state.proto.is_disconnected() && state.proto.check().is_ok();
        drop(state);
        self.handed_on = goes_on;
        goes_on.then(|| Reconnector::new(self.shared.clone(), self.close_timeout))
    }
}

impl Drop for Reconnector {
    fn drop(&mut self) {
        if self.handed_on {
            return;
        }
        let mut state = self.shared.lock();
        state.proto.handle_driver_gone();
        state.dispatch();
    }
}
