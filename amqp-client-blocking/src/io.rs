//! The thread that moves the octets of a connection.

use std::io::{self, IoSlice, Read, Write};
use std::sync::Arc;
use std::task::{Wake, Waker};
use std::thread;
use std::time::Instant;

use amqp_client_core::driver::Driver;
use amqp_client_core::{Config, Connection};
use bytes::Buf as _;
use mio::event::Source;
use mio::{Events, Interest, Poll, Token};

const STREAM: Token = Token(0);
const WAKE: Token = Token(1);

/// How many pieces are handed to one vectored write. Kernels take up to 1024; more than a few large bodies at once gain
/// nothing.
const SLICES: usize = 64;

/// How much is read at once, at most. `Read` takes initialized memory only, so octets are read to here and copied.
const CHUNK: usize = 32 * 1024;

/// Begins a connection over a stream that does not block, in a thread of its own.
pub(crate) fn spawn<S>(mut stream: S, config: Config) -> io::Result<Connection>
where
    S: Source + Read + Write + Send + 'static,
{
    let poll = Poll::new()?;
    let wake = Arc::new(WakeIo(mio::Waker::new(poll.registry(), WAKE)?));
    poll.registry().register(&mut stream, STREAM, Interest::READABLE | Interest::WRITABLE)?;
    let (connection, driver) = Driver::new(config, Instant::now());
    let io = Io { driver, stream, poll, chunk: vec![0; CHUNK].into(), write_error: None };
    thread::Builder::new().name("amqp-io".to_owned()).spawn(move || io.run(&Waker::from(wake)))?;
    Ok(connection)
}

/// Lets the thread look at what handles have given it to do.
struct WakeIo(mio::Waker);

impl Wake for WakeIo {
    fn wake(self: Arc<Self>) {
        // It fails only when nobody waits any more.
        let _gone = self.0.wake();
    }
}

struct Io<S> {
    driver: Driver,
    stream: S,
    poll: Poll,
    chunk: Box<[u8]>,
    /// Why nothing can be written any more. What the peer said before is still read: it may be the reason.
    write_error: Option<io::Error>,
}

impl<S: Read + Write> Io<S> {
    /// Drives the connection until it is over.
    fn run(mut self, waker: &Waker) {
        let mut events = Events::with_capacity(4);
        loop {
            let turn = self.driver.turn(Instant::now(), waker);
            let mut progress = turn.write && self.write_error.is_none() && self.write();
            if turn.done {
                return;
            }
            progress |= turn.read && self.read();
            if progress {
                continue;
            }
            // Nothing came that would explain it better.
            if let Some(error) = self.write_error.take() {
                self.driver.transport_error(Instant::now(), &error);
                continue;
            }
            let timeout = turn.wake_at.map(|at| at.saturating_duration_since(Instant::now()));
            match self.poll.poll(&mut events, timeout) {
                Err(error) if error.kind() != io::ErrorKind::Interrupted => {
                    self.driver.transport_error(Instant::now(), &error);
                }
                _ => {}
            }
        }
    }

    /// Writes what the stream takes; says whether that was anything.
    fn write(&mut self) -> bool {
        let mut progress = false;
        let output = self.driver.output();
        while output.has_remaining() {
            let mut slices = [IoSlice::new(&[]); SLICES];
            let filled = output.chunks_vectored(&mut slices);
            match self.stream.write_vectored(slices.get(..filled).unwrap_or_default()) {
                Ok(0) => self.write_error = Some(io::ErrorKind::WriteZero.into()),
                Ok(count) => {
                    output.advance(count);
                    progress = true;
                    continue;
                }
                Err(error) if error.kind() == io::ErrorKind::Interrupted => continue,
                Err(error) if error.kind() == io::ErrorKind::WouldBlock => {}
                Err(error) => self.write_error = Some(error),
            }
            break;
        }
        progress
    }

    /// Reads what there is; says whether that was anything.
    fn read(&mut self) -> bool {
        match self.stream.read(&mut self.chunk) {
            Ok(0) => match self.write_error.take() {
                Some(error) => self.driver.transport_error(Instant::now(), &error),
                None => self.driver.eof(Instant::now()),
            },
            Ok(count) => {
                let octets = self.chunk.get(..count).unwrap_or_default();
                self.driver.input().extend_from_slice(octets);
                self.driver.received(Instant::now());
            }
            Err(error) if error.kind() == io::ErrorKind::Interrupted => {}
            Err(error) if error.kind() == io::ErrorKind::WouldBlock => return false,
            Err(error) => self.driver.transport_error(Instant::now(), &error),
        }
        true
    }
}
