//! What an adapter drives: the end of a connection that faces the transport.

mod io_task;
mod pacing;
mod read_buffer;
mod reconnector;
mod transport;

pub use io_task::Drive;
#[cfg(test)]
pub(crate) use io_task::tests;
pub use reconnector::{ReconnectTurn, Reconnector};
pub use transport::{Timer, Transport, fill};

use std::fmt;
use std::io;
use std::sync::Arc;
use std::task::Waker;
use std::time::{Duration, Instant};

use amqp_proto::Transmit;
use amqp_proto::session::{Recovery, Session};
use bytes::{Buf as _, BytesMut};
use pacing::Moments;
use read_buffer::Input;

use crate::Connection;
use crate::config::Config;
use crate::state::{LagWatch, Shared, keep_clone};

/// Flush grace before reconnecting: time for a peer that has ended the connection to take the remaining bytes.
const LAST_WORDS: Duration = Duration::from_secs(1);

/// A connection seen from its transport. Adapters move bytes and time between it and a runtime; it knows the rest.
///
/// The contract is a loop:
/// 1. [`turn`](Self::turn) returns what to do: write, read, wait.
/// 2. While [`Turn::write`], write [`output`](Self::output), and report with [`written`](Self::written) how much was written.
/// 3. While [`Turn::read`], read into [`input`](Self::input), then call [`received`](Self::received); at the end of the
///    stream, [`eof`](Self::eof); on an error, [`transport_error`](Self::transport_error).
///    When [`Turn::in_doubt`], read even if not [`Turn::read`]; if nothing is there, call [`no_input`](Self::no_input).
/// 4. When neither makes progress, wait for the transport, for [`Turn::wake_at`], or for the waker passed to `turn`.
/// 5. When [`Turn::done`], close the transport, and drop the driver or continue with its
///    [`into_reconnector`](Self::into_reconnector).
///
/// Dropping it ends the connection: everything that waits gets an error.
pub struct Driver {
    shared: Arc<Shared>,
    input: Input,
    output: Transmit,
    /// When the transport last accepted bytes.
    written_at: Instant,
    reading: bool,
    moments: Moments,
    lag: LagWatch,
    close_timeout: Duration,
    /// When the connection ended.
    over_since: Option<Instant>,
    /// A reconnector has taken over, so dropping the driver ends nothing.
    handed_on: bool,
    /// A clone of the waker, to be left under the lock, where it cannot be made.
    spare_waker: Option<Waker>,
}

/// What to do next.
#[derive(Debug, Clone, Copy, PartialEq, Eq)]
#[non_exhaustive]
pub struct Turn {
    /// There are bytes to write.
    pub write: bool,
    /// Reading makes sense now: the consumers keep up.
    pub read: bool,
    /// The peer seems to be silent: read, even if [`read`](Self::read) is false. If the system has nothing to read, report it
    /// with [`Driver::no_input`]. Nothing else ends a connection for silence.
    pub in_doubt: bool,
    /// When to call [`Driver::turn`] again at the latest.
    pub wake_at: Option<Instant>,
    /// The connection is over, and everything is written or will never be.
    pub done: bool,
    /// It was lost and is to be recovered: there is no need to end the transport in an orderly way.
    pub lost: bool,
}

/// Bytes of read buffers in use, beyond twice the bytes that consumers have not taken. Above it, small deliveries seem to keep
/// large buffers alive.
const HELD_MAX: usize = 2 * 1024 * 1024;

impl Turn {
    /// Before there was any.
    pub(crate) const FIRST: Self = Self {
        write: false,
        read: false,
        in_doubt: false,
        wake_at: None,
        done: false,
        lost: false,
    };

    /// Returns whether to read: for input, or only to check that the peer is alive.
    pub(crate) const fn reads(&self) -> bool {
        self.read || self.in_doubt
    }
}

impl Driver {
    /// Begins a connection: the handle for the application and the driver for the transport. `now` is when connecting
    /// began.
    #[must_use]
    pub fn new(config: Config, now: Instant) -> (Connection, Self) {
        let Config { protocol, settings } = config;
        let close_timeout = protocol.close_timeout;
        let session = Session::new(Arc::new(protocol), now);
        let shared = Arc::new(Shared::new(session, settings));
        (Connection::new(shared.clone()), Self::of(shared, close_timeout, now))
    }

    /// From now on the connection goes on when it is lost, with the [reconnector](Self::into_reconnector) that this driver turns
    /// into. It has that many nodes, and this transport leads to that one.
    pub fn recover_with(&mut self, recovery: Recovery, nodes: usize, node: usize) {
        self.shared.lock().proto.recover_with(recovery, nodes, node);
    }

    /// A driver for the next transport of a connection.
    pub(crate) fn of(shared: Arc<Shared>, close_timeout: Duration, now: Instant) -> Self {
        if let Err(error) = shared.settings.check() {
            let error = io::Error::new(io::ErrorKind::InvalidInput, error);
            shared.lock().proto.handle_transport_error(now, &error);
        }
        // This end judges silence by its reads.
        shared.lock().proto.handle_reading(now, false);
        Self {
            shared,
            input: Input::default(),
            output: Transmit::new(),
            written_at: now,
            reading: true,
            moments: Moments::default(),
            lag: LagWatch::default(),
            close_timeout,
            over_since: None,
            handed_on: false,
            spare_waker: None,
        }
    }

    /// Returns whether a handle has queued work for the driver since the last [`turn`](Self::turn).
    #[must_use]
    pub fn is_wanted(&self) -> bool {
        self.shared.lock().wants_driver()
    }

    /// Does everything that is due at `now`, and returns what to do with the transport. `waker` is woken when a handle has
    /// queued work for the driver.
    pub fn turn(&mut self, now: Instant, waker: &Waker) -> Turn {
        keep_clone(&mut self.spare_waker, waker);
        self.shared.count_turn();
        let mut guard = self.shared.lock();
        let state = &mut *guard;
        let left = self.output.remaining();
        state.report_written(self.written_at, left);
        state.carry_out(now);
        state.proto.handle_timeout(now);
        let lag_until = self.lag.turn(state, &self.shared.settings, now);
        let reading = self.shared.settings.may_read(state.delivered_octets, &state.proto);
        if reading != self.reading {
            self.reading = reading;
            if !reading {
                state.report_lag();
            }
        }
        state.dispatch();
        state.expire(now);
        if self.input.held() > HELD_MAX && state.detach_if_sparse(self.input.held() - HELD_MAX) {
            self.input.take_held();
        }
        let moment_until = self.moments.pause(state.delivered_octets, now);
        let over = state.proto.is_disconnected();
        let lost = over && state.proto.check().is_ok();
        // After the end, a peer that accepts nothing gets no more time than a peer that does not reply to a close.
        let patience = if lost { LAST_WORDS.min(self.close_timeout) } else { self.close_timeout };
        let give_up_at =
            over.then(|| self.over_since.get_or_insert(now).checked_add(patience)).flatten();
        let given_up = give_up_at.is_some_and(|at| at <= now);
        // What is read then exceeds the budget, by little each time that the peer seems silent.
        let in_doubt = !over
            && state.proto.is_in_doubt()
            && self.shared.settings.may_look(state.delivered_octets);
        let write = state.proto.take_transmit(now, &mut self.output) && !given_up;
        state.deadlines.count_taken(self.output.remaining() - left);
        state.call_publishers();
        state.wake_turns();
        state.park_driver(&mut self.spare_waker);
        // After a loss, the reconnector has the timers: the time of the next attempt may have passed, and would wake this task
        // for nothing.
        let protocol_timer = state.proto.poll_timeout().filter(|_| !lost).map(|(at, _)| at);
        Turn {
            write,
            read: reading && !over && moment_until.is_none(),
            wake_at: [protocol_timer, state.deadlines.next(), give_up_at, moment_until, lag_until]
                .into_iter()
                .flatten()
                .min(),
            in_doubt,
            done: over && !write,
            lost,
        }
    }

    /// Returns the bytes to write.
    #[must_use]
    pub fn output(&self) -> &Transmit {
        &self.output
    }

    /// Reports that the transport accepted `count` bytes of the [`output`](Self::output) at `now`. Timeouts of requests behind these
    /// bytes depend on it: see [`Settings`](crate::Settings#timeouts-on-slow-links).
    pub fn written(&mut self, now: Instant, count: usize) {
        if count > 0 {
            self.output.advance(count);
            self.written_at = now;
        }
    }

    /// Returns the buffer to read into. Append behind the bytes that it holds, and do not grow it: a read that fills its
    /// spare capacity shows that more input is available.
    pub fn input(&mut self) -> &mut BytesMut {
        self.input.room()
    }

    /// Processes the bytes that were read.
    pub fn received(&mut self, now: Instant) {
        let mut state = self.shared.lock();
        // The error becomes the connection's state, where everybody finds it.
        let _over = state.proto.handle_input(now, self.input.received());
        state.dispatch();
    }

    /// A read that began at `now`, and asked the system, found nothing.
    pub fn no_input(&mut self, now: Instant) {
        let mut state = self.shared.lock();
        state.proto.handle_no_input(now);
        state.dispatch();
    }

    /// The transport has ended.
    pub fn eof(&mut self, now: Instant) {
        let mut state = self.shared.lock();
        state.report_written(self.written_at, self.output.remaining());
        state.proto.handle_eof(now);
        state.dispatch();
        drop(state);
        // Nothing can be written any more.
        self.output.advance(self.output.remaining());
    }

    /// The transport has failed.
    pub fn transport_error(&mut self, now: Instant, error: &io::Error) {
        let mut state = self.shared.lock();
        state.report_written(self.written_at, self.output.remaining());
        state.proto.handle_transport_error(now, error);
        state.dispatch();
        drop(state);
        // Nothing can be written any more.
        self.output.advance(self.output.remaining());
    }
}

impl Drop for Driver {
    fn drop(&mut self) {
        if self.handed_on {
            return;
        }
        let mut state = self.shared.lock();
        state.proto.handle_driver_gone();
        state.dispatch();
    }
}

/// For log lines: how much is pending, without contents.
impl fmt::Debug for Driver {
    fn fmt(&self, f: &mut fmt::Formatter<'_>) -> fmt::Result {
        f.debug_struct("Driver")
            .field("reading", &self.reading)
            .field("output", &self.output)
            .field("over", &self.over_since.is_some())
            .finish_non_exhaustive()
    }
}
