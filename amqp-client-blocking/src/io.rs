//! The thread that moves the octets of a connection: it runs the loop that all runtimes share, and sleeps in between.

use std::future::Future;
use std::io::{self, IoSlice, Read, Write};
use std::pin::pin;
use std::sync::{Arc, Mutex, PoisonError};
use std::task::{Context, Poll, Wake, Waker};
use std::thread;
use std::time::Instant;

use amqp_client_core::drive::{Drive, Timer, Transport};
use amqp_client_core::{Config, Connection};
use bytes::BytesMut;
use mio::event::Source;
use mio::{Events, Interest, Token};

const STREAM: Token = Token(0);
const WAKE: Token = Token(1);

/// How much is read at once, at most. `Read` takes initialized memory only, so octets are read to here and copied.
const CHUNK: usize = 32 * 1024;

/// Begins a connection over a stream that does not block, in a thread of its own. `secure` is what is put around the stream.
pub(crate) fn spawn<S, T>(
    mut stream: S,
    secure: impl FnOnce(Stream<S>) -> T,
    config: Config,
) -> io::Result<Connection>
where
    S: Source + Read + Write + Send + 'static,
    T: Transport + Send + 'static,
{
    let poll = mio::Poll::new()?;
    let waker = Arc::new(WakeIo(mio::Waker::new(poll.registry(), WAKE)?));
    poll.registry().register(&mut stream, STREAM, Interest::READABLE | Interest::WRITABLE)?;
    let stream = Stream { stream, chunk: vec![0; CHUNK].into() };
    let clock = Clock::default();
    let (connection, drive) = Drive::new(secure(stream), clock.clone(), config);
    thread::Builder::new()
        .name("amqp-io".to_owned())
        .spawn(move || run(drive, poll, &clock, &waker.into()))?;
    Ok(connection)
}

/// Runs until the connection is over, or the system does not let this wait any more.
fn run(drive: impl Future<Output = ()>, mut poll: mio::Poll, clock: &Clock, waker: &Waker) {
    let mut drive = pin!(drive);
    let mut context = Context::from_waker(waker);
    let mut events = Events::with_capacity(4);
    loop {
        clock.set(None);
        if drive.as_mut().poll(&mut context).is_ready() {
            return;
        }
        let timeout = clock.get().map(|at| at.saturating_duration_since(Instant::now()));
        match poll.poll(&mut events, timeout) {
            // Dropping the driver ends the connection.
            Err(error) if error.kind() != io::ErrorKind::Interrupted => return,
            _ => {}
        }
    }
}

/// Lets the thread look at what handles have given it to do.
struct WakeIo(mio::Waker);

impl Wake for WakeIo {
    fn wake(self: Arc<Self>) {
        // It fails only when nobody waits any more.
        let _gone = self.0.wake();
    }
}

/// When the thread wants to be woken. It asks again each time, so nothing else has to remember.
#[derive(Debug, Clone, Default)]
struct Clock(Arc<Mutex<Option<Instant>>>);

impl Clock {
    fn set(&self, at: Option<Instant>) {
        *self.0.lock().unwrap_or_else(PoisonError::into_inner) = at;
    }

    fn get(&self) -> Option<Instant> {
        *self.0.lock().unwrap_or_else(PoisonError::into_inner)
    }
}

impl Timer for Clock {
    fn now(&self) -> Instant {
        Instant::now()
    }

    fn poll_until(&mut self, _: &mut Context<'_>, at: Instant) -> Poll<()> {
        if at <= Instant::now() {
            return Poll::Ready(());
        }
        self.set(Some(at));
        Poll::Pending
    }
}

/// A stream that does not block.
pub(crate) struct Stream<S> {
    stream: S,
    chunk: Box<[u8]>,
}

impl<S: Read + Write> Transport for Stream<S> {
    fn poll_read(&mut self, _: &mut Context<'_>, input: &mut BytesMut) -> Poll<io::Result<usize>> {
        let Self { stream, chunk } = self;
        let count = match ready(|| stream.read(chunk)) {
            Poll::Ready(Ok(count)) => count,
            other => return other,
        };
        input.extend_from_slice(self.chunk.get(..count).unwrap_or_default());
        Poll::Ready(Ok(count))
    }

    fn poll_write(
        &mut self,
        _: &mut Context<'_>,
        pieces: &[IoSlice<'_>],
    ) -> Poll<io::Result<usize>> {
        ready(|| self.stream.write_vectored(pieces))
    }

    fn poll_flush(&mut self, _: &mut Context<'_>) -> Poll<io::Result<()>> {
        ready(|| self.stream.flush())
    }

    fn poll_close(&mut self, _: &mut Context<'_>) -> Poll<io::Result<()>> {
        // It closes when it is dropped.
        Poll::Ready(Ok(()))
    }
}

/// What an operation that does not block gives, unless it would have blocked: then the thread is woken when it would not.
fn ready<T>(mut operation: impl FnMut() -> io::Result<T>) -> Poll<io::Result<T>> {
    loop {
        match operation() {
            Err(error) if error.kind() == io::ErrorKind::Interrupted => {}
            Err(error) if error.kind() == io::ErrorKind::WouldBlock => return Poll::Pending,
            result => return Poll::Ready(result),
        }
    }
}
