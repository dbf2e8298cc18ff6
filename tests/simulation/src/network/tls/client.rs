//! The client's end of a link with TLS: the loop that users run, on a runtime of virtual time.

use std::cell::{Cell, RefCell};
use std::future::Future;
use std::io::{self, ErrorKind, IoSlice};
use std::pin::Pin;
use std::rc::Rc;
use std::task::{Context, Poll, Waker};
use std::time::Instant;

use amqp_client_core::adapter::Secured as Session;
use amqp_client_core::adapter::{Drive, Driver, Reconnector, Timer, Transport};
use bytes::{Buf as _, BytesMut};
use fastrand::Rng;

use super::{HOST, setup};
use crate::network::link::Wires;
use crate::wire::{End, Read};

/// Number of times that a transport takes something in one poll of the loop before others get their turn.
const WRITES: u8 = 8;

/// A client's loop with its transport and its clock.
pub(in crate::network) struct Secured {
    drive: Drive<Measured, Clock>,
    task: Rc<TaskState>,
    wires: Rc<RefCell<Wires>>,
    rng: Rng,
}

/// The result of a poll.
pub(in crate::network) struct Polled {
    pub(in crate::network) is_done: bool,
    /// True if the transport returned bytes, so that the broker has room for more.
    pub(in crate::network) has_read: bool,
    /// True if the loop waits for a time that has come.
    pub(in crate::network) is_late: bool,
}

/// The state that a runtime keeps for a task.
struct TaskState {
    now: Cell<Instant>,
    /// When the timer wakes the task.
    wake_at: Cell<Option<Instant>>,
    is_late: Cell<bool>,
    /// True if the task is woken when something can be read, and when something can be written.
    reads: Cell<bool>,
    writes: Cell<bool>,
    /// Number of times that the transport takes something more in this poll.
    budget: Cell<u8>,
    has_read: Cell<bool>,
    /// Bytes that the TLS session has accepted from the driver, and bytes that it has handed over.
    accepted: Cell<u64>,
    handed_over: Cell<u64>,
    /// True if the driver's last read found nothing.
    is_hungry: Cell<bool>,
    /// The first violated invariant, if there is one.
    failure: RefCell<Option<String>>,
}

impl Secured {
    pub(in crate::network) fn new(driver: Driver, wires: Rc<RefCell<Wires>>, seed: u64) -> Self {
        let task = Rc::new(TaskState::default());
        let line = Line { wires: wires.clone(), task: task.clone(), ended: false };
        let inner =
            Session::new(line, &setup().client, HOST).expect("the certificate can be trusted");
        let transport = Measured { inner, task: task.clone() };
        let drive = Drive::with(driver, transport, Clock(task.clone()));
        Self { drive, task, wires, rng: Rng::with_seed(seed) }
    }

    /// Polls the loop once.
    pub(in crate::network) fn run(
        &mut self,
        now: Instant,
        waker: &Waker,
    ) -> Result<Polled, String> {
        let task = &self.task;
        task.now.set(now);
        // Readiness and timers that have come wake the task once.
        task.wake_at.set(task.wake_at.get().filter(|at| *at > now));
        let (reads, writes) = self.can();
        task.reads.set(task.reads.get() && !reads);
        task.writes.set(task.writes.get() && !writes);
        task.budget.set(self.rng.u8(1..=WRITES));
        let polled = Pin::new(&mut self.drive).poll(&mut Context::from_waker(waker));
        match task.failure.take() {
            Some(failure) => Err(failure),
            None => Ok(Polled {
                is_done: polled.is_ready(),
                has_read: task.has_read.take(),
                is_late: task.is_late.take(),
            }),
        }
    }

    /// Returns whether the transport can be read, and written.
    fn can(&self) -> (bool, bool) {
        let wires = self.wires.borrow();
        (wires.down.is_readable(), wires.up.room() > 0 || wires.up.is_broken())
    }

    /// Returns whether the transport or the timer wakes the task.
    pub(in crate::network) fn is_woken(&self, now: Instant) -> bool {
        let (reads, writes) = self.can();
        reads && self.task.reads.get()
            || writes && self.task.writes.get()
            || self.wake_at().is_some_and(|at| at <= now)
    }

    pub(in crate::network) fn wake_at(&self) -> Option<Instant> {
        self.task.wake_at.get()
    }

    /// Returns how much waits for the transport.
    pub(in crate::network) fn waiting(&self) -> usize {
        self.drive.driver().output().remaining()
    }

    pub(in crate::network) fn accepted(&self) -> u64 {
        self.task.accepted.get()
    }

    pub(in crate::network) fn handed_over(&self) -> u64 {
        self.task.handed_over.get()
    }

    pub(in crate::network) fn is_hungry(&self) -> bool {
        self.task.is_hungry.get()
    }

    pub(in crate::network) fn into_reconnector(self: Box<Self>) -> Option<Reconnector> {
        self.drive.into_reconnector()
    }
}

impl Default for TaskState {
    fn default() -> Self {
        Self {
            now: Cell::new(Instant::now()),
            wake_at: Cell::default(),
            is_late: Cell::default(),
            reads: Cell::default(),
            writes: Cell::default(),
            budget: Cell::default(),
            has_read: Cell::default(),
            accepted: Cell::default(),
            handed_over: Cell::default(),
            is_hungry: Cell::default(),
            failure: RefCell::default(),
        }
    }
}

impl TaskState {
    fn fail(&self, text: impl FnOnce() -> String) {
        self.failure.borrow_mut().get_or_insert_with(text);
    }
}

/// A clock of virtual time.
struct Clock(Rc<TaskState>);

impl Timer for Clock {
    fn now(&self) -> Instant {
        self.0.now.get()
    }

    fn poll_until(&mut self, _: &mut Context<'_>, at: Instant) -> Poll<()> {
        let has_come = at <= self.0.now.get();
        self.0.is_late.set(has_come);
        if has_come {
            return Poll::Ready(());
        }
        self.0.wake_at.set(Some(at));
        Poll::Pending
    }
}

/// The wires inside TLS.
struct Line {
    wires: Rc<RefCell<Wires>>,
    task: Rc<TaskState>,
    ended: bool,
}

impl Transport for Line {
    fn poll_read(&mut self, _: &mut Context<'_>, input: &mut BytesMut) -> Poll<io::Result<usize>> {
        if self.ended {
            return Poll::Ready(Ok(0));
        }
        let wires = &mut *self.wires.borrow_mut();
        if wires.said_all && wires.down.is_idle() {
            self.task.fail(|| "a client reads on, and its peer has ended the session".to_owned());
        }
        match wires.down.read(input.capacity() - input.len()) {
            Read::Bytes(bytes) => {
                self.task.has_read.set(true);
                input.extend_from_slice(&bytes);
                Poll::Ready(Ok(bytes.len()))
            }
            Read::End(end) => {
                self.ended = true;
                Poll::Ready(match end {
                    End::Eof => Ok(0),
                    End::Reset => Err(ErrorKind::ConnectionReset.into()),
                })
            }
            Read::Nothing => {
                self.task.reads.set(true);
                Poll::Pending
            }
        }
    }

    fn poll_write(
        &mut self,
        _: &mut Context<'_>,
        pieces: &[IoSlice<'_>],
    ) -> Poll<io::Result<usize>> {
        let wires = &mut *self.wires.borrow_mut();
        if wires.up.is_broken() {
            return Poll::Ready(Err(ErrorKind::BrokenPipe.into()));
        }
        let budget = self.task.budget.get();
        let mut piece = pieces.iter().map(|piece| &**piece).find(|piece| !piece.is_empty());
        let Some(piece) = &mut piece else { return Poll::Ready(Ok(0)) };
        let before = piece.len();
        if budget == 0 || !wires.up.write(self.task.now.get(), piece) {
            self.task.writes.set(true);
            return Poll::Pending;
        }
        self.task.budget.set(budget - 1);
        Poll::Ready(Ok(before - piece.len()))
    }

    fn poll_flush(&mut self, _: &mut Context<'_>) -> Poll<io::Result<()>> {
        Poll::Ready(Ok(()))
    }

    fn poll_close(&mut self, _: &mut Context<'_>) -> Poll<io::Result<()>> {
        self.wires.borrow_mut().closed = true;
        Poll::Ready(Ok(()))
    }
}

/// The layer around TLS: it counts the bytes that go in and come out.
struct Measured {
    inner: Session<Line>,
    task: Rc<TaskState>,
}

impl Measured {
    /// The network breaks transports, and damages nothing that it carries.
    fn judged<T>(&self, polled: Poll<io::Result<T>>) -> Poll<io::Result<T>> {
        if let Poll::Ready(Err(error)) = &polled {
            if !matches!(error.kind(), ErrorKind::BrokenPipe | ErrorKind::ConnectionReset) {
                self.task.fail(|| format!("the TLS of a client fails: {error}"));
            }
        }
        polled
    }
}

fn count(sum: &Cell<u64>, polled: &Poll<io::Result<usize>>) {
    if let Poll::Ready(Ok(bytes)) = polled {
        sum.set(sum.get() + *bytes as u64);
    }
}

impl Transport for Measured {
    fn poll_read(&mut self, cx: &mut Context<'_>, input: &mut BytesMut) -> Poll<io::Result<usize>> {
        let polled = self.inner.poll_read(cx, input);
        count(&self.task.handed_over, &polled);
        self.task.is_hungry.set(polled.is_pending());
        self.judged(polled)
    }

    fn poll_write(
        &mut self,
        cx: &mut Context<'_>,
        pieces: &[IoSlice<'_>],
    ) -> Poll<io::Result<usize>> {
        let polled = self.inner.poll_write(cx, pieces);
        count(&self.task.accepted, &polled);
        self.judged(polled)
    }

    fn poll_flush(&mut self, cx: &mut Context<'_>) -> Poll<io::Result<()>> {
        let polled = self.inner.poll_flush(cx);
        self.judged(polled)
    }

    fn poll_close(&mut self, cx: &mut Context<'_>) -> Poll<io::Result<()>> {
        let polled = self.inner.poll_close(cx);
        self.judged(polled)
    }

    fn take_progress(&mut self) -> bool {
        self.inner.take_progress()
    }
}
