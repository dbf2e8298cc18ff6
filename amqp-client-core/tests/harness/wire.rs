//! The base of a client's task: a transport in memory, and a clock that the test sets.

use std::cell::{Cell, RefCell, RefMut};
use std::io::{self, ErrorKind, IoSlice};
use std::rc::Rc;
use std::task::{Context, Poll};
use std::time::{Duration, Instant};

use amqp_client_core::adapter::{Timer, Transport};
use bytes::BytesMut;

/// A transport: the client's task has it as its [`Transport`], and the test as [`Wires`], which are the same.
#[derive(Clone, Default)]
pub(crate) struct Wire(Rc<RefCell<Wires>>);

/// Both directions of a transport, and what can be wrong with it.
pub(crate) struct Wires {
    pub(crate) up: Way,
    pub(crate) down: Way,
    /// Number of bytes that the client reads or writes at a time.
    pub(crate) piece: usize,
    /// Number of bytes that the client can read until the test allows more.
    pub(crate) allowed: usize,
    /// True if the client's runtime knows that there is something to read. Without a value, each read looks.
    pub(crate) readable: Option<bool>,
    /// The result of reads when everything is read.
    pub(crate) read_end: Option<Result<(), ErrorKind>>,
    /// The error of writes.
    pub(crate) write_error: Option<ErrorKind>,
}

/// One direction of a transport.
#[derive(Default)]
pub(crate) struct Way {
    /// Bytes in transit.
    pub(crate) bytes: BytesMut,
    /// All bytes that were ever sent.
    pub(crate) sent: Vec<u8>,
    /// After how many bytes the transport ends.
    pub(crate) cut: Option<usize>,
}

impl Wire {
    pub(crate) fn borrow_mut(&self) -> RefMut<'_, Wires> {
        self.0.borrow_mut()
    }
}

impl Default for Wires {
    fn default() -> Self {
        Self {
            up: Way::default(),
            down: Way::default(),
            piece: usize::MAX,
            allowed: usize::MAX,
            readable: None,
            read_end: None,
            write_error: None,
        }
    }
}

impl Wires {
    /// Sends bytes to the client.
    pub(crate) fn send_down(&mut self, bytes: &[u8]) {
        let ends = self.down.send(bytes);
        self.end_if(ends);
    }

    fn send_up(&mut self, bytes: &[u8]) {
        let ends = self.up.send(bytes);
        self.end_if(ends);
    }

    fn end_if(&mut self, ends: bool) {
        if ends {
            self.read_end = Some(Ok(()));
            self.write_error = Some(ErrorKind::BrokenPipe);
        }
    }

    /// Returns whether the transport has ended.
    pub(crate) const fn is_over(&self) -> bool {
        self.write_error.is_some()
    }
}

impl Way {
    /// Returns whether this ends the transport.
    fn send(&mut self, bytes: &[u8]) -> bool {
        let left = self.cut.map_or(usize::MAX, |cut| cut - self.sent.len());
        let bytes = &bytes[..bytes.len().min(left)];
        self.bytes.extend_from_slice(bytes);
        self.sent.extend_from_slice(bytes);
        self.cut == Some(self.sent.len())
    }
}

impl Transport for Wire {
    fn poll_read(&mut self, _: &mut Context<'_>, input: &mut BytesMut) -> Poll<io::Result<usize>> {
        let wires = &mut *self.0.borrow_mut();
        let room = input.capacity() - input.len();
        let count = match wires.readable {
            Some(false) => 0,
            _ => wires.down.bytes.len().min(room).min(wires.piece).min(wires.allowed),
        };
        if count > 0 {
            wires.allowed -= count;
            input.extend_from_slice(&wires.down.bytes.split_to(count));
            return Poll::Ready(Ok(count));
        }
        wires.readable = wires.readable.map(|_| false);
        match wires.read_end {
            Some(end) => Poll::Ready(end.map(|()| 0).map_err(io::Error::from)),
            None => Poll::Pending,
        }
    }

    fn poll_write(
        &mut self,
        _: &mut Context<'_>,
        pieces: &[IoSlice<'_>],
    ) -> Poll<io::Result<usize>> {
        let wires = &mut *self.0.borrow_mut();
        if let Some(kind) = wires.write_error {
            return Poll::Ready(Err(kind.into()));
        }
        let mut room = wires.piece;
        for piece in pieces {
            let count = piece.len().min(room);
            wires.send_up(&piece[..count]);
            room -= count;
        }
        Poll::Ready(Ok(wires.piece - room))
    }

    fn poll_flush(&mut self, _: &mut Context<'_>) -> Poll<io::Result<()>> {
        Poll::Ready(Ok(()))
    }

    fn poll_close(&mut self, _: &mut Context<'_>) -> Poll<io::Result<()>> {
        Poll::Ready(Ok(()))
    }
}

/// The time, which the test advances. It wakes no task: the test polls.
#[derive(Clone)]
pub(crate) struct Clock(Rc<Cell<Instant>>);

impl Clock {
    pub(crate) fn at(now: Instant) -> Self {
        Self(Rc::new(Cell::new(now)))
    }

    pub(crate) fn set(&self, now: Instant) {
        self.0.set(now);
    }

    pub(crate) fn advance(&self, time: Duration) {
        self.set(self.now() + time);
    }
}

impl Timer for Clock {
    fn now(&self) -> Instant {
        self.0.get()
    }

    fn poll_until(&mut self, _: &mut Context<'_>, at: Instant) -> Poll<()> {
        if at <= self.now() { Poll::Ready(()) } else { Poll::Pending }
    }
}
