//! The driver: the transport's side of a connection. Adapters run it.

mod io_task;
mod pacing;
mod read_buffer;
mod reconnector;
mod transport;

pub use io_task::Drive;
#[cfg(test)]
pub(crate) use io_task::tests;
pub use reconnector::{ReconnectTurn, Reconnector};
pub use transport::{Filler, Timer, Transport};

use std::fmt;
use std::io;
use std::sync::Arc;
use std::task::Waker;
use std::time::{Duration, Instant};

use amqp_proto::Transmit;
use amqp_proto::session::{Recovery, Session};
use bytes::{Buf as _, BytesMut};
use pacing::ReadPacing;
use read_buffer::ReadBuffer;

use crate::Connection;
use crate::config::{Config, Settings};
use crate::intercept::Interceptor;
use crate::logs::Log;
use crate::state::{LagWatch, Shared, keep_clone};
use crate::tap::{ConnectionTap, Taps, TransportTap};

/// Time for a peer that was lost to take the remaining bytes, such as the reply to its close. A working transport takes them in
/// milliseconds, and the reconnect waits for no longer than this.
const FLUSH_GRACE: Duration = Duration::from_secs(1);

/// Bytes of read buffers in use, beyond twice the bytes that consumers have not taken. Above it, small deliveries seem to keep
/// large buffers alive. The value is the size of the pool of read buffers.
const HELD_MAX: usize = 2 * 1024 * 1024;

/// The transport's side of a connection. An adapter passes bytes and the time between the driver and a runtime.
///
/// The contract is a loop:
/// 1. Call [`turn`](Self::turn). It returns what to do: write, read, wait.
/// 2. While [`Turn::writes`], write [`output`](Self::output), and report with [`written`](Self::written) how much was written.
/// 3. While [`Turn::reads`], read into [`input`](Self::input), then call [`received`](Self::received); at the end of the stream,
///    [`eof`](Self::eof); on an error, [`transport_error`](Self::transport_error). If there is nothing to read and the turn
///    returned [`Reading::Check`], call [`no_input`](Self::no_input). If the transport has received only a part of what it
///    returns as a whole, such as a TLS record, call [`progress`](Self::progress).
/// 4. When neither makes progress, wait for the transport, for [`Turn::wake_at`], or for the waker passed to `turn`.
/// 5. When [`Turn::is_done`], close the transport, and drop the driver or continue with its
///    [`into_reconnector`](Self::into_reconnector).
///
/// Dropping the driver ends the connection: all waiting calls return an error.
pub struct Driver {
    guard: DriverGuard,
    input: ReadBuffer,
    output: Transmit,
    /// When the transport last accepted bytes.
    written_at: Instant,
    /// Writes since the last turn, and their bytes.
    written: (u64, u64),
    /// True if the delivery budget allowed reading at the last turn.
    within_budget: bool,
    pacing: ReadPacing,
    lag: LagWatch,
    /// When the connection ended.
    ended_at: Option<Instant>,
    /// The taps of the transport, if there are any.
    tap: Option<Box<TransportTap>>,
}

/// Holds the connection of a [`Driver`] or [`Reconnector`], which pass it on to each other. Dropping it ends the connection.
#[derive(Debug)]
struct DriverGuard {
    shared: Arc<Shared>,
    close_timeout: Duration,
    /// A clone of the waker, to be left under the lock, where it cannot be made.
    spare_waker: Option<Waker>,
    /// The taps of the connection, if it has any.
    tap: Option<Box<ConnectionTap>>,
}

impl DriverGuard {
    /// Creates the guard of a new connection, and its first handle.
    fn begin(
        session: Session,
        settings: Settings,
        taps: Taps,
        interceptor: Option<Interceptor>,
        log: Log,
    ) -> (Connection, Self) {
        let close_timeout = session.config().get_close_timeout();
        let shared = Arc::new(Shared::new(session, settings, interceptor, log));
        let connection = Connection::new(shared.clone());
        let tap = ConnectionTap::new(taps);
        (connection, Self { shared, close_timeout, spare_waker: None, tap })
    }
}

impl Drop for DriverGuard {
    fn drop(&mut self) {
        let mut state = self.shared.lock();
        state.proto.handle_driver_gone();
        state.dispatch();
        state.forget_driver();
    }
}

/// The next step with the transport.
#[derive(Debug, Clone, Copy, PartialEq, Eq)]
#[non_exhaustive]
pub struct Turn {
    /// The phase of the connection.
    pub phase: Phase,
    /// When to call [`Driver::turn`] again at the latest.
    pub wake_at: Option<Instant>,
}

/// The phase of the connection of a [`Driver`].
///
/// ```text
///  Running ──closed or failed──▶ Flushing ──all written, or close_timeout──▶ Closed
///     └──────────lost──────────▶ Flushing ──all written, or one second─────▶ Lost
/// ```
/// Without bytes to write, `Flushing` is left out.
#[derive(Debug, Clone, Copy, PartialEq, Eq)]
#[non_exhaustive]
pub enum Phase {
    /// The connection is being opened, is open, or is being closed.
    Running {
        /// There are bytes to write.
        write: bool,
        /// The decision whether to read.
        read: Reading,
    },
    /// The connection has ended, and there are bytes to write. Do not read any more.
    Flushing,
    /// The connection has ended for good: close the transport.
    Closed,
    /// The connection was lost and recovers: drop the transport, and continue with [`Driver::into_reconnector`].
    Lost,
}

/// A decision whether to read from the transport.
#[derive(Debug, Clone, Copy, PartialEq, Eq)]
#[non_exhaustive]
pub enum Reading {
    /// Do not read: the consumers do not keep up.
    Paused,
    /// Read.
    Open,
    /// The peer seems to be silent: read. If a read asked the system and found nothing, report it with [`Driver::no_input`]. Only
    /// these reports end the connection of a silent peer.
    Check,
}

impl Turn {
    /// The turn before the first call of [`Driver::turn`].
    const FIRST: Self =
        Self { phase: Phase::Running { write: false, read: Reading::Paused }, wake_at: None };

    /// Returns whether there are bytes to write.
    #[must_use]
    pub const fn writes(&self) -> bool {
        matches!(self.phase, Phase::Running { write: true, .. } | Phase::Flushing)
    }

    /// Returns whether to read.
    #[must_use]
    pub const fn reads(&self) -> bool {
        matches!(self.phase, Phase::Running { read: Reading::Open | Reading::Check, .. })
    }

    /// Returns whether the transport is no longer used, except to close or drop it.
    #[must_use]
    pub const fn is_done(&self) -> bool {
        matches!(self.phase, Phase::Closed | Phase::Lost)
    }

    /// Returns whether to report a read that finds nothing by [`Driver::no_input`].
    #[must_use]
    pub const fn checks_peer(&self) -> bool {
        matches!(self.phase, Phase::Running { read: Reading::Check, .. })
    }
}

/// The way in which a connection has ended.
#[derive(Clone, Copy, PartialEq, Eq)]
enum End {
    /// The connection is lost, and recovers.
    Lost,
    ForGood,
}

impl End {
    fn of(proto: &Session) -> Option<Self> {
        let end = if proto.check().is_ok() { Self::Lost } else { Self::ForGood };
        proto.is_disconnected().then_some(end)
    }
}

impl Driver {
    /// The connection uses this transport from now on.
    fn runs_over(&self, transport: &impl Transport) {
        self.guard.shared.lock().tls_missing = transport.tls_missing();
    }

    /// Begins a connection: the handle for the application and the driver for the transport. `now` is when connecting
    /// began.
    #[must_use]
    pub fn new(config: Config, now: Instant) -> (Connection, Self) {
        let log = config.begin_log(now);
        let Config { protocol, settings, taps, interceptor, log: _ } = config;
        let session = Session::new(Arc::new(protocol), now);
        let (connection, guard) = DriverGuard::begin(session, settings, taps, interceptor, log);
        (connection, Self::of(guard, now))
    }

    /// Turns recovery on: when the connection is lost, this driver turns into a [reconnector](Self::into_reconnector). `nodes` is
    /// the number of nodes, and `node` the index of the node of this transport.
    pub fn recover_with(&mut self, recovery: Recovery, nodes: usize, node: usize) {
        self.guard.shared.lock().proto.recover_with(recovery, nodes, node);
    }

    /// Creates a driver for the next transport of a connection.
    fn of(mut guard: DriverGuard, now: Instant) -> Self {
        let tap = guard.tap.as_mut().map(|tap| tap.transport(now));
        let shared = &guard.shared;
        if let Err(error) = shared.settings.check() {
            let error = io::Error::new(io::ErrorKind::InvalidInput, error);
            shared.lock().proto.handle_transport_error(now, &error);
        }
        let mut state = shared.lock();
        (state.now, state.reading_paused) = (Some(now), None);
        // The connection judges silence by the reads of this driver.
        state.proto.handle_reading(now, false);
        drop(state);
        Self {
            guard,
            input: ReadBuffer::default(),
            output: Transmit::new(),
            written_at: now,
            written: (0, 0),
            within_budget: true,
            pacing: ReadPacing::default(),
            lag: LagWatch::default(),
            ended_at: None,
            tap,
        }
    }

    /// Returns whether a handle has queued work for the driver since the last [`turn`](Self::turn).
    #[must_use]
    pub fn is_wanted(&self) -> bool {
        self.guard.shared.lock().wants_driver()
    }

    /// Returns whether a few reads may exceed the delivery budget.
    fn may_look(&self) -> bool {
        let shared = &self.guard.shared;
        shared.settings.may_look(shared.lock().delivered_bytes)
    }

    /// Does everything that is due at `now`, and returns what to do with the transport. The driver wakes `waker` when a handle
    /// has queued work for it.
    pub fn turn(&mut self, now: Instant, waker: &Waker) -> Turn {
        keep_clone(&mut self.guard.spare_waker, waker);
        let shared = &*self.guard.shared;
        shared.count_turn();
        let mut guard = shared.lock();
        let state = &mut *guard;
        state.now = Some(now);
        let unwritten = self.output.remaining();
        state.report_written(self.written_at, unwritten);
        state.count_written(&mut self.written);
        state.carry_out(now);
        state.proto.handle_timeout(now);
        let lag_until = self.lag.turn(state, &shared.settings, now);
        let reading = shared.settings.may_read(state.delivered_bytes, &state.proto);
        if reading != self.within_budget {
            self.within_budget = reading;
            state.reading_paused = (!reading).then_some(now);
            if !reading {
                state.report_lag(shared.settings.delivery_budget);
            }
        }
        if reading {
            state.log_reading(shared.settings.delivery_budget, now);
        }
        state.dispatch();
        state.expire(now);
        if self.input.held() > HELD_MAX && state.detach_if_sparse(self.input.held() - HELD_MAX) {
            self.input.take_held();
        }
        let pause_until = self.pacing.pause(state.delivered_bytes, now);
        let end = End::of(&state.proto);
        let give_up_at = end.and_then(|end| {
            // A peer that accepts nothing gets no more time than a peer that does not reply to a close.
            let timeout = match end {
                End::Lost => FLUSH_GRACE.min(self.guard.close_timeout),
                End::ForGood => self.guard.close_timeout,
            };
            self.ended_at.get_or_insert(now).checked_add(timeout)
        });
        let silent = state.proto.peer_seems_silent();
        state.log_silence(silent, now);
        state.log_progress(now);
        // The sink may have left lines behind.
        state.log_due();
        let read = if silent && shared.settings.may_look(state.delivered_bytes) {
            // These reads may exceed the budget, by a little each time that the peer seems silent.
            Reading::Check
        } else if reading && pause_until.is_none() {
            Reading::Open
        } else {
            Reading::Paused
        };
        let given_up = give_up_at.is_some_and(|at| at <= now);
        let write = state.proto.take_transmit(now, &mut self.output) && !given_up;
        match self.output.remaining() - unwritten {
            taken if unwritten == 0 => state.deadlines.count_taken(taken),
            0 => {}
            overtaken => state.deadlines.count_overtaken(overtaken, state.proto.queued()),
        }
        state.time_turn(now);
        state.call_publishers();
        state.wake_turns();
        state.park_driver(&mut self.guard.spare_waker);
        let phase = match end {
            None => Phase::Running { write, read },
            Some(_) if write => Phase::Flushing,
            Some(End::Lost) => Phase::Lost,
            Some(End::ForGood) => Phase::Closed,
        };
        // After a loss, the reconnector has the timers. The time of the next attempt may have passed, and would wake this task for
        // nothing.
        let timer = state.proto.poll_timeout().filter(|_| end != Some(End::Lost));
        let times =
            [timer.map(|(at, _)| at), state.deadlines.next(), give_up_at, pause_until, lag_until];
        let turn = Turn { phase, wake_at: times.into_iter().flatten().min() };
        if let Some(tap) = &mut self.tap {
            let peer = state.peer_addr;
            // Output that is given up may still be written by a transport that was blocked: then dropping this reports the end.
            let ended = turn.is_done() && self.output.is_empty();
            let reason = state.proto.disconnect_reason().filter(|_| ended);
            drop(guard);
            tap.connected(now, peer);
            if ended {
                tap.disconnected(now, reason.as_ref());
            }
        }
        turn
    }

    /// Returns the bytes to write. A [`turn`](Self::turn) may insert others behind the first [chunk](bytes::Buf::chunk): if a write is
    /// under way during a turn, let it be one of that chunk only.
    #[must_use]
    pub fn output(&self) -> &Transmit {
        &self.output
    }

    /// Reports that the transport accepted `count` bytes of the [`output`](Self::output) at `now`. Timeouts of requests behind these
    /// bytes depend on it: see [`Settings`](crate::Settings#timeouts-on-slow-links).
    pub fn written(&mut self, now: Instant, count: usize) {
        if count > 0 {
            match &mut self.tap {
                None => self.output.advance(count),
                Some(tap) => tap.written(now, &mut self.output, count),
            }
            self.written_at = now;
            self.written = (self.written.0 + 1, self.written.1 + count as u64);
        }
    }

    /// Returns the buffer to read into. Append to the bytes that it contains, and do not grow it: a read that fills its spare
    /// capacity shows that more input is available.
    pub fn input(&mut self) -> &mut BytesMut {
        self.input.room()
    }

    /// Processes the bytes that were read.
    pub fn received(&mut self, now: Instant) {
        if let Some(tap) = &mut self.tap {
            tap.received(now, self.input.just_read());
        }
        let mut state = self.guard.shared.lock();
        (state.now, state.last_heard) = (Some(now), Some(now));
        // The connection keeps the error, and every handle finds it there.
        let _over = state.proto.handle_input(now, self.input.received());
        state.count_read(self.input.came());
        state.dispatch();
    }

    /// Reports that a read, begun at `now`, asked the system and found nothing.
    pub fn no_input(&mut self, now: Instant) {
        let mut state = self.guard.shared.lock();
        state.proto.handle_no_input(now);
        state.dispatch();
    }

    /// Reports that the transport received, at `now`, a part of what it returns as a whole, such as a TLS record. So the peer is
    /// not silent.
    pub fn progress(&mut self, now: Instant) {
        let mut state = self.guard.shared.lock();
        state.last_heard = Some(now);
        // The peer has its full time from when reading continues.
        state.proto.handle_reading(now, true);
        state.proto.handle_reading(now, false);
    }

    /// Reports the end of the stream.
    pub fn eof(&mut self, now: Instant) {
        let mut state = self.guard.shared.lock();
        state.now = Some(now);
        state.report_written(self.written_at, self.output.remaining());
        state.count_written(&mut self.written);
        state.proto.handle_eof(now);
        state.dispatch();
        drop(state);
        // Nothing can be written any more.
        self.output.advance(self.output.remaining());
    }

    /// Reports that the transport failed.
    pub fn transport_error(&mut self, now: Instant, error: &io::Error) {
        let mut state = self.guard.shared.lock();
        state.now = Some(now);
        state.report_written(self.written_at, self.output.remaining());
        state.count_written(&mut self.written);
        state.proto.handle_transport_error(now, error);
        state.dispatch();
        drop(state);
        // Nothing can be written any more.
        self.output.advance(self.output.remaining());
    }
}

/// For log lines: how much is pending, without contents.
impl fmt::Debug for Driver {
    fn fmt(&self, f: &mut fmt::Formatter<'_>) -> fmt::Result {
        f.debug_struct("Driver")
            .field("within_budget", &self.within_budget)
            .field("output", &self.output)
            .field("ended", &self.ended_at.is_some())
            .finish_non_exhaustive()
    }
}
