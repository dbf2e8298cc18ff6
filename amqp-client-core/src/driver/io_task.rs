//! The loop that drives a connection over a transport, the same for all runtimes.

use std::fmt;
use std::future::Future;
use std::io::{self, IoSlice};
use std::pin::Pin;
use std::task::{Context, Poll, ready};
use std::time::{Duration, Instant};

use amqp_proto::session::Recovery;
use bytes::Buf as _;

use super::{Driver, Phase, Reconnector, Timer, Transport, Turn};
use crate::Connection;
use crate::config::Config;

/// Slices in one vectored write. Kernels take up to 1024, but more than a few large bodies at once gain nothing.
const SLICES_MAX: usize = 64;

/// The time that closing a transport may take. Only the peer waits for it, and the peer may have disconnected.
const CLOSE_TIMEOUT: Duration = Duration::from_secs(5);

/// Rounds in one poll, before other tasks run: enough to move megabytes, and they take at most a millisecond or two.
const ROUNDS_PER_POLL: usize = 16;

/// Number of timer firings, each in its own poll, before a read that finds nothing counts as silence. A transport may only know
/// what the runtime last reported about the socket, possibly before this process was suspended. Runtimes check sockets when they
/// check timers; threads do so after at most two polls.
const TICKS_IN_DOUBT: u8 = 2;

/// Drives a connection over a transport until the connection ends. One task handles both directions, so an acknowledgement of a
/// delivery needs no other task to run.
pub struct Drive<S, T> {
    driver: Driver,
    transport: S,
    timer: T,
    /// The reason why nothing can be written any more. Reading continues: the peer may have sent its reason before.
    write_error: Option<io::Error>,
    /// The transport holds something back that was written.
    unflushed: bool,
    /// The result of the last turn.
    turn: Turn,
    /// Another turn is due, though no handle wants one.
    due: bool,
    /// Number of times that the timer fired while the peer seemed silent.
    ticks: u8,
    /// The timer has not fired yet in this poll.
    may_tick: bool,
    /// The deadline for the transport to end in an orderly way.
    closes_by: Option<Instant>,
}

/// The reason why a round begins.
enum Cause {
    /// There is output or other work. A caller may wait for the reply, so this comes before reading.
    Output,
    /// Input was read. Replies to it are written in the same round.
    Input,
    /// The timer has fired.
    Timer,
}

/// The result of writing the output of a turn.
enum Written {
    /// There was none, or not all of it could be written.
    NotAll,
    /// All of it was written at once.
    AtOnce,
    /// All of it was written, and the transport had held some of it back before.
    Resumed,
}

/// The result of a round.
enum Round {
    /// There may be more to do at once.
    Again,
    /// The connection no longer uses this transport.
    Finished,
}

/// For log lines. Without the transport, which may hold bytes that were written to it.
impl<S, T> fmt::Debug for Drive<S, T> {
    fn fmt(&self, f: &mut fmt::Formatter<'_>) -> fmt::Result {
        f.debug_struct("Drive")
            .field("driver", &self.driver)
            .field("turn", &self.turn)
            .field("write_error", &self.write_error)
            .finish_non_exhaustive()
    }
}

impl<S: Transport, T: Timer> Drive<S, T> {
    /// Begins a connection. Returns its handle, and the future that drives it: without it, nothing happens.
    pub fn new(transport: S, timer: T, config: Config) -> (Connection, Self) {
        let (connection, driver) = Driver::new(config, timer.now());
        (connection, Self::with(driver, transport, timer))
    }

    /// Drives the next transport of a connection.
    pub fn with(driver: Driver, transport: S, timer: T) -> Self {
        driver.runs_over(&transport);
        Self {
            driver,
            transport,
            timer,
            write_error: None,
            unflushed: false,
            turn: Turn::FIRST,
            due: true,
            ticks: 0,
            may_tick: true,
            closes_by: None,
        }
    }

    /// Turns recovery on; see [`Driver::recover_with`].
    pub fn recover_with(&mut self, recovery: Recovery, nodes: usize, node: usize) {
        self.driver.recover_with(recovery, nodes, node);
    }

    /// Returns the driver, for example to inspect how many bytes wait to be written.
    pub const fn driver(&self) -> &Driver {
        &self.driver
    }

    /// Returns the reconnector that makes the next transport, if the connection recovers; see [`Driver::into_reconnector`].
    pub fn into_reconnector(self) -> Option<Reconnector> {
        self.driver.into_reconnector()
    }

    /// Writes pending output. Ready if all of it is written, or if the connection is lost.
    fn poll_write(&mut self, now: Instant, cx: &mut Context<'_>) -> Poll<io::Result<()>> {
        while self.driver.output().has_remaining() {
            let mut pieces = [IoSlice::new(&[]); SLICES_MAX];
            let filled = self.driver.output().chunks_vectored(&mut pieces);
            let pieces = pieces.get(..filled).unwrap_or_default();
            let written = ready!(self.transport.poll_write(cx, pieces))?;
            if written == 0 {
                return Poll::Ready(Err(io::ErrorKind::WriteZero.into()));
            }
            self.driver.written(now, written);
            self.unflushed = true;
        }
        ready!(self.transport.poll_flush(cx))?;
        self.unflushed = false;
        Poll::Ready(Ok(()))
    }

    /// Reads what is available. Returns whether there was anything.
    fn read(&mut self, now: Instant, cx: &mut Context<'_>) -> bool {
        match self.transport.poll_read(cx, self.driver.input()) {
            Poll::Ready(Ok(0)) => match self.write_error.take() {
                Some(error) => self.driver.transport_error(now, &error),
                None => self.driver.eof(now),
            },
            Poll::Ready(Ok(_)) => {
                self.ticks = 0;
                self.driver.received(now);
            }
            Poll::Ready(Err(error)) => self.driver.transport_error(now, &error),
            Poll::Pending => {
                if self.transport.take_progress() {
                    self.ticks = 0;
                    self.driver.progress(now);
                }
                return false;
            }
        }
        true
    }

    /// Closes the transport. The connection has already ended, so the wait for a slow peer is short.
    fn poll_close(&mut self, cx: &mut Context<'_>) -> Poll<()> {
        let now = self.timer.now();
        let until = *self.closes_by.get_or_insert_with(|| now + CLOSE_TIMEOUT);
        match self.transport.poll_close(cx) {
            Poll::Ready(_) => Poll::Ready(()),
            Poll::Pending => self.timer.poll_until(cx, until),
        }
    }

    /// Returns whether it is time for another turn.
    fn poll_timer(&mut self, cx: &mut Context<'_>) -> bool {
        let fired = self.turn.wake_at.is_some_and(|at| self.timer.poll_until(cx, at).is_ready());
        if fired && self.turn.checks_peer() && std::mem::take(&mut self.may_tick) {
            self.ticks = self.ticks.saturating_add(1);
        }
        fired
    }

    /// Handles a read that found nothing. If the peer seems silent and the runtime has checked the socket since, the peer is
    /// silent.
    fn check_peer(&mut self, now: Instant) {
        if self.turn.checks_peer() && self.ticks >= TICKS_IN_DOUBT {
            self.driver.no_input(now);
            self.due = true;
        }
    }

    /// Does one round: a turn of the driver, with writing and reading around it.
    fn round(&mut self, cx: &mut Context<'_>) -> Poll<Round> {
        let now = self.timer.now();
        let cause = ready!(self.poll_cause(now, cx));
        self.turn = self.driver.turn(now, cx.waker());
        let written = self.write(now, cx);
        match self.turn.phase {
            Phase::Running { .. } | Phase::Flushing => {}
            Phase::Lost => return Poll::Ready(Round::Finished),
            Phase::Closed => return self.poll_close(cx).map(|()| Round::Finished),
        }
        self.due = match written {
            Written::NotAll => false,
            // While nothing is read, nothing else would wake this task for output that was queued meanwhile.
            Written::AtOnce => !self.turn.reads() || self.turn.checks_peer(),
            // A write that had been blocked may have left more output behind it.
            Written::Resumed => true,
        };
        match cause {
            // There may be more input: the next round begins with reading.
            Cause::Input => Poll::Ready(Round::Again),
            Cause::Output | Cause::Timer => self.read_or_wait(now, cx),
        }
    }

    /// Is ready with the reason for a round, if there is one.
    fn poll_cause(&mut self, now: Instant, cx: &mut Context<'_>) -> Poll<Cause> {
        let unwritten = self.unflushed || self.write_error.is_some();
        if unwritten || self.due || self.closes_by.is_some() || self.driver.is_wanted() {
            Poll::Ready(Cause::Output)
        } else if self.turn.reads() && self.read(now, cx) {
            Poll::Ready(Cause::Input)
        } else if self.poll_timer(cx) {
            Poll::Ready(Cause::Timer)
        } else {
            Poll::Pending
        }
    }

    /// Writes the output of the turn, and what the transport held back before.
    ///
    /// While the transport is being closed, discarded output is not written: TLS would send it after the end of its session.
    fn write(&mut self, now: Instant, cx: &mut Context<'_>) -> Written {
        let resumes = self.unflushed;
        let has_output = self.turn.writes() || resumes;
        if !has_output || self.write_error.is_some() || self.closes_by.is_some() {
            return Written::NotAll;
        }
        match self.poll_write(now, cx) {
            Poll::Ready(Ok(())) if resumes => Written::Resumed,
            Poll::Ready(Ok(())) => Written::AtOnce,
            Poll::Ready(Err(error)) => {
                self.write_error = Some(error);
                Written::NotAll
            }
            Poll::Pending => {
                self.unflushed = true;
                Written::NotAll
            }
        }
    }

    /// Returns whether to read. After a failed write, the bytes that have arrived may contain the reason, so they are read even
    /// while reading is paused.
    fn may_read(&self) -> bool {
        let running = matches!(self.turn.phase, Phase::Running { .. });
        self.turn.reads() || running && self.write_error.is_some() && self.driver.may_look()
    }

    /// Ends a round that has not read yet. Ready unless there is nothing to do before the transport, the timer or a handle wakes
    /// this task.
    fn read_or_wait(&mut self, now: Instant, cx: &mut Context<'_>) -> Poll<Round> {
        let received = self.may_read() && self.read(now, cx);
        self.due = received || self.due || self.poll_timer(cx);
        if !received {
            self.check_peer(now);
        }
        // Report a failed write only if no input explains it better.
        if let Some(error) = self.write_error.take_if(|_| !self.due) {
            self.driver.transport_error(now, &error);
            self.due = true;
        }
        if self.due { Poll::Ready(Round::Again) } else { Poll::Pending }
    }
}

// Nothing in it is ever pinned.
impl<S, T> Unpin for Drive<S, T> {}

impl<S: Transport, T: Timer> Future for Drive<S, T> {
    type Output = ();

    fn poll(mut self: Pin<&mut Self>, cx: &mut Context<'_>) -> Poll<()> {
        self.may_tick = true;
        for _ in 0..ROUNDS_PER_POLL {
            if let Round::Finished = ready!(self.round(cx)) {
                return Poll::Ready(());
            }
        }
        cx.waker().wake_by_ref();
        Poll::Pending
    }
}

#[cfg(test)]
pub(crate) mod tests {
    use std::cell::Cell;
    use std::rc::Rc;
    use std::task::Waker;

    use bytes::BytesMut;

    use super::*;

    /// Ends when it is read from, and never closes.
    struct Stuck;

    /// A transport that accepts nothing until it is closed, which never happens.
    #[derive(Clone, Default)]
    struct Full {
        closing: Rc<Cell<bool>>,
        written_late: Rc<Cell<bool>>,
    }

    impl Transport for Full {
        fn poll_read(&mut self, _: &mut Context<'_>, _: &mut BytesMut) -> Poll<io::Result<usize>> {
            Poll::Pending
        }

        fn poll_write(
            &mut self,
            _: &mut Context<'_>,
            _: &[IoSlice<'_>],
        ) -> Poll<io::Result<usize>> {
            self.written_late.set(self.closing.get());
            Poll::Pending
        }

        fn poll_flush(&mut self, _: &mut Context<'_>) -> Poll<io::Result<()>> {
            Poll::Pending
        }

        fn poll_close(&mut self, _: &mut Context<'_>) -> Poll<io::Result<()>> {
            self.closing.set(true);
            Poll::Pending
        }
    }

    impl Transport for Stuck {
        fn poll_read(&mut self, _: &mut Context<'_>, _: &mut BytesMut) -> Poll<io::Result<usize>> {
            Poll::Ready(Ok(0))
        }

        fn poll_write(
            &mut self,
            _: &mut Context<'_>,
            pieces: &[IoSlice<'_>],
        ) -> Poll<io::Result<usize>> {
            Poll::Ready(Ok(pieces.iter().map(|piece| piece.len()).sum()))
        }

        fn poll_flush(&mut self, _: &mut Context<'_>) -> Poll<io::Result<()>> {
            Poll::Ready(Ok(()))
        }

        fn poll_close(&mut self, _: &mut Context<'_>) -> Poll<io::Result<()>> {
            Poll::Pending
        }
    }

    /// A clock that is set by hand. Nothing wakes tasks that wait for a time.
    #[derive(Clone)]
    pub(crate) struct Clock(pub(crate) Rc<Cell<Instant>>);

    impl Timer for Clock {
        fn now(&self) -> Instant {
            self.0.get()
        }

        fn poll_until(&mut self, _: &mut Context<'_>, at: Instant) -> Poll<()> {
            if at <= self.0.get() { Poll::Ready(()) } else { Poll::Pending }
        }
    }

    #[test]
    fn a_transport_that_does_not_close_is_given_up_in_time() {
        let now = Rc::new(Cell::new(Instant::now()));
        let (connection, mut drive) = Drive::new(Stuck, Clock(now.clone()), Config::default());
        let mut context = Context::from_waker(Waker::noop());
        assert!(Pin::new(&mut drive).poll(&mut context).is_pending());
        assert!(!connection.is_open(), "the connection has ended before its transport has closed");
        now.set(now.get() + CLOSE_TIMEOUT - Duration::from_millis(1));
        assert!(Pin::new(&mut drive).poll(&mut context).is_pending());
        now.set(now.get() + Duration::from_millis(1));
        assert!(Pin::new(&mut drive).poll(&mut context).is_ready());
    }

    #[test]
    fn untaken_output_is_not_written_after_the_end() {
        let now = Rc::new(Cell::new(Instant::now()));
        let full = Full::default();
        let (_connection, mut drive) =
            Drive::new(full.clone(), Clock(now.clone()), Config::default());
        let mut context = Context::from_waker(Waker::noop());
        for _ in 0..10_000 {
            now.set(now.get() + Duration::from_millis(100));
            if Pin::new(&mut drive).poll(&mut context).is_ready() {
                break;
            }
        }
        assert!(full.closing.get(), "the handshake and its first bytes are discarded");
        assert!(!full.written_late.get());
    }
}
