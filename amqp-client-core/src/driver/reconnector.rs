//! The side of a connection that faces the adapter while there is no transport.

use std::net::SocketAddr;
use std::sync::Arc;
use std::task::Waker;
use std::time::{Duration, Instant};

use amqp_proto::session::{Reconnect, Recovery, Session};
use amqp_proto::{ClientConfig, ConnectStep};

use super::{Driver, DriverGuard, End};
use crate::Connection;
use crate::config::Config;
use crate::state::keep_clone;

/// A connection without a transport, as seen by the code that opens transports. It takes the place of the [`Driver`] until there is
/// one.
///
/// The contract is a loop: [`turn`](Self::turn) returns what to do, and when to call it again. While an attempt is in progress,
/// keep calling it. Dropping the reconnector ends the connection: all waiting calls get an error.
#[derive(Debug)]
pub struct Reconnector {
    guard: DriverGuard,
}

/// The next step.
#[derive(Debug, Clone, Copy, PartialEq, Eq)]
#[non_exhaustive]
pub struct ReconnectTurn {
    /// Connect to this node, an index into the list of nodes, and report the result.
    pub connect: Option<usize>,
    /// When to call [`Reconnector::turn`] again at the latest.
    pub wake_at: Option<Instant>,
    /// The connection is closed for good.
    pub done: bool,
}

impl Reconnector {
    /// Begins a connection that has no transport yet. It requests one in the same way as after a loss. `now` is when connecting
    /// began.
    #[must_use]
    pub fn begin(
        config: Config,
        recovery: Recovery,
        nodes: usize,
        now: Instant,
    ) -> (Connection, Self) {
        let log = config.begin_log(now);
        let Config { protocol, settings, taps, interceptor, log: _ } = config;
        let session = Session::disconnected(Arc::new(protocol), recovery, nodes, now);
        let (connection, guard) = DriverGuard::begin(session, settings, taps, interceptor, log);
        (connection, Self { guard })
    }

    /// Returns what to do at `now`. `waker` is woken when a handle has queued new work.
    pub fn turn(&mut self, now: Instant, waker: &Waker) -> ReconnectTurn {
        keep_clone(&mut self.guard.spare_waker, waker);
        let mut state = self.guard.shared.lock();
        (state.now, state.reading_paused) = (Some(now), None);
        state.carry_out(now);
        state.proto.handle_timeout(now);
        let next = state.proto.poll_reconnect(now);
        state.dispatch();
        state.expire(now);
        state.time_turn(now);
        state.wake_turns();
        state.park_driver(&mut self.guard.spare_waker);
        let (connect, wait) = match next {
            Reconnect::Connect { node } => (Some(node), None),
            Reconnect::Wait(at) => (None, Some(at)),
            _ => (None, None),
        };
        let timer = state.proto.poll_timeout().map(|(at, _)| at);
        let wake_at = [wait, timer, state.deadlines.next()].into_iter().flatten().min();
        ReconnectTurn { connect, wake_at, done: state.proto.check().is_err() }
    }

    /// Reports a transport to the requested node, and returns its driver. If `config` is set, the connection uses it from now on,
    /// for example to log in with a new token.
    #[must_use]
    pub fn connected(self, now: Instant, config: Option<ClientConfig>) -> Driver {
        let mut state = self.guard.shared.lock();
        // If the attempt has taken too long, the driver ends at once, and turns into a reconnector again.
        let _used = state.proto.handle_transport(now, config.map(Arc::new));
        state.dispatch();
        drop(state);
        Driver::of(self.guard, now)
    }

    /// The next transport leads to this address.
    pub(crate) fn leads_to(&self, addr: SocketAddr) {
        self.guard.shared.lock().peer_addr = Some(addr);
    }

    /// The next transport logs in with a token that is valid for that long.
    pub(crate) fn logs_in_for(&self, valid_for: Duration) {
        let mut state = self.guard.shared.lock();
        state.new_login = Some(valid_for);
        state.wake_watchers();
    }

    /// Reports that the requested node cannot be reached, and at which step that failed.
    pub fn failed(&mut self, now: Instant, step: ConnectStep, reason: &str) {
        let mut state = self.guard.shared.lock();
        state.proto.handle_unreachable(now, step, reason);
        state.dispatch();
    }
}

impl Driver {
    /// Returns the reconnector that requests the next transport, if the last turn returned [`Phase::Lost`](super::Phase::Lost).
    #[must_use]
    pub fn into_reconnector(self) -> Option<Reconnector> {
        let end = End::of(&self.guard.shared.lock().proto);
        // Without a transport, dropping the guard ends the connection.
        (end == Some(End::Lost)).then(|| Reconnector { guard: self.guard })
    }
}
