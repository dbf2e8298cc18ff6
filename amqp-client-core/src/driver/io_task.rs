//! The loop that drives a connection over a transport, the same for all runtimes.

use std::fmt;
use std::future::Future;
use std::io::{self, IoSlice};
use std::pin::Pin;
use std::task::{Context, Poll, ready};
use std::time::{Duration, Instant};

use amqp_proto::session::Recovery;
use bytes::Buf as _;

use super::{Driver, Reconnector, Timer, Transport, Turn};
use crate::Connection;
use crate::config::Config;

/// How many pieces are handed to one vectored write. Kernels take up to 1024; more than a few large bodies at once gain
/// nothing.
const PIECES: usize = 64;

/// How long the end of a transport may take.
const CLOSING: Duration = Duration::from_secs(5);

/// How many reads and writes happen in one poll before other tasks get their turn.
const ROUNDS: usize = 16;

/// How often the timer has to fire, in as many polls, until a read that finds nothing means that nothing has come.
///
/// Number of timer firings until a read that finds nothing counts. A transport may only know what the runtime has reported of the
/// socket, and that may be from before this process was suspended. Runtimes look at sockets when they look at timers; threads do
/// so between any two polls but one.
const LOOKS: u8 = 2;

/// Drives a connection over a transport until the connection ends. One task does both directions, so an acknowledgement of a
/// delivery needs no other task to run.
pub struct Drive<S, T> {
    driver: Driver,
    transport: S,
    timer: T,
    /// Why nothing can be written any more. What the peer sent before is still read: it may contain the reason.
    write_error: Option<io::Error>,
    /// The transport holds something back that was written.
    unflushed: bool,
    /// The result of the last turn.
    turn: Turn,
    /// Another turn is due, though no handle wants one.
    due: bool,
    /// How often the timer fired while the peer seemed silent.
    looks: u8,
    /// The timer did not fire yet in this poll.
    may_look: bool,
    /// The deadline for the transport to end in an orderly way.
    closes_by: Option<Instant>,
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
    /// Begins a connection: its handle, and the future that has to run for anything to happen.
    pub fn new(transport: S, timer: T, config: Config) -> (Connection, Self) {
        let (connection, driver) = Driver::new(config, timer.now());
        (connection, Self::with(driver, transport, timer))
    }

    /// Drives the next transport of a connection.
    pub fn with(driver: Driver, transport: S, timer: T) -> Self {
        Self {
            driver,
            transport,
            timer,
            write_error: None,
            unflushed: false,
            turn: Turn::FIRST,
            due: true,
            looks: 0,
            may_look: true,
            closes_by: None,
        }
    }

    /// See [`Driver::recover_with`].
    pub fn recover_with(&mut self, recovery: Recovery, nodes: usize, node: usize) {
        self.driver.recover_with(recovery, nodes, node);
    }

    /// Returns the driver, to look at it: at how much waits for the transport, for example.
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
            let mut pieces = [IoSlice::new(&[]); PIECES];
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
                self.looks = 0;
                self.driver.received(now);
            }
            Poll::Ready(Err(error)) => self.driver.transport_error(now, &error),
            Poll::Pending => return false,
        }
        true
    }

    /// Ends the transport. The connection is over either way, so a peer that does not let it end is not waited for long.
    fn poll_close(&mut self, cx: &mut Context<'_>) -> Poll<()> {
        let now = self.timer.now();
        let until = *self.closes_by.get_or_insert_with(|| now + CLOSING);
        match self.transport.poll_close(cx) {
            Poll::Ready(_) => Poll::Ready(()),
            Poll::Pending => self.timer.poll_until(cx, until),
        }
    }

    /// Returns whether it is time for another turn.
    fn poll_timer(&mut self, cx: &mut Context<'_>) -> bool {
        let fired = self.turn.wake_at.is_some_and(|at| self.timer.poll_until(cx, at).is_ready());
        if fired && self.turn.in_doubt && std::mem::take(&mut self.may_look) {
            self.looks = self.looks.saturating_add(1);
        }
        fired
    }

    /// Nothing was read. If the peer seems silent, and the runtime has looked at the socket since, it is.
    fn listen(&mut self, now: Instant) {
        if self.turn.in_doubt && self.looks >= LOOKS {
            self.driver.no_input(now);
            self.due = true;
        }
    }

    /// One round of everything. Ready with whether there may be more to do.
    ///
    /// Output of handles is written before anything is read, since a caller waits for the reply. Without such output, input is
    /// read first, and its replies are written in the same round. If there is no input either, the round ends.
    fn round(&mut self, cx: &mut Context<'_>) -> Poll<bool> {
        let now = self.timer.now();
        let writing = self.unflushed || self.write_error.is_some();
        let wanted = writing || self.due || self.closes_by.is_some() || self.driver.is_wanted();
        let heard = !wanted && self.turn.reads() && self.read(now, cx);
        if !wanted && !heard && !self.poll_timer(cx) {
            return Poll::Pending;
        }
        self.turn = self.driver.turn(now, cx.waker());
        let (mut wrote, resumed) = (false, self.unflushed);
        // What was given up is not written behind the end: TLS would send it behind its own.
        let writes = (self.turn.write || self.unflushed) && self.closes_by.is_none();
        if writes && self.write_error.is_none() {
            match self.poll_write(now, cx) {
                Poll::Ready(Ok(())) => wrote = true,
                Poll::Ready(Err(error)) => self.write_error = Some(error),
                Poll::Pending => self.unflushed = true,
            }
        }
        if self.turn.done {
            let closed = if self.turn.lost { Poll::Ready(()) } else { self.poll_close(cx) };
            return closed.map(|()| false);
        }
        let answers = !heard && self.turn.reads() && self.read(now, cx);
        // A write that had blocked may leave more output; and once reading has stopped, nothing else wakes this task.
        let goes_on = wrote && (resumed || !self.turn.read);
        self.due = answers || goes_on || !heard && self.poll_timer(cx);
        if !heard && !answers {
            self.listen(now);
        }
        if heard {
            return Poll::Ready(true);
        }
        // Nothing came that would explain it better.
        if let Some(error) = self.write_error.take_if(|_| !self.due) {
            self.driver.transport_error(now, &error);
            self.due = true;
        }
        if self.due { Poll::Ready(true) } else { Poll::Pending }
    }
}

// Nothing in it is ever pinned.
impl<S, T> Unpin for Drive<S, T> {}

impl<S: Transport, T: Timer> Future for Drive<S, T> {
    type Output = ();

    fn poll(mut self: Pin<&mut Self>, cx: &mut Context<'_>) -> Poll<()> {
        self.may_look = true;
        for _ in 0..ROUNDS {
            if !ready!(self.round(cx)) {
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

    /// Takes nothing until it is closed, which it never is.
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
        assert!(!connection.is_open(), "whoever waits has been told already");
        now.set(now.get() + CLOSING - Duration::from_millis(1));
        assert!(Pin::new(&mut drive).poll(&mut context).is_pending());
        now.set(now.get() + Duration::from_millis(1));
        assert!(Pin::new(&mut drive).poll(&mut context).is_ready());
    }
    #[test]
    fn what_the_transport_does_not_take_is_not_written_behind_its_end() {
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
        assert!(full.closing.get(), "the handshake is given up, and its first bytes");
        assert!(!full.written_late.get());
    }
}
