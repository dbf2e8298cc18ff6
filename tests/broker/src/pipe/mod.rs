//! A client's transport that is no socket.

#[cfg(feature = "tokio")]
mod tokio;

use std::io::{self, Read, Write};
use std::sync::Arc;
use std::time::Instant;

use bytes::{Buf as _, BytesMut};

use crate::SessionId;
use crate::server::{Shared, State};

/// A connection to a [`Broker`](crate::Broker) through memory. When `write` returns, the broker has processed the bytes.
///
/// For threads it is [`Read`] and [`Write`]; for tasks, with the feature `tokio`, it is tokio's `AsyncRead` and `AsyncWrite`.
/// Dropping it ends the connection.
///
/// ```
/// use std::io::{Read as _, Write as _};
///
/// let broker = amqp_test_broker::Broker::start()?;
/// let mut pipe = broker.pipe();
/// pipe.write_all(b"AMQP\0\0\x09\x01")?;
/// let mut header = [0; 7];
/// pipe.read_exact(&mut header)?;
/// assert_eq!(header[..3], [1, 0, 0], "connection.start comes in a method frame on channel 0");
/// # Ok::<(), std::io::Error>(())
/// ```
#[derive(Debug)]
pub struct Pipe {
    shared: Arc<Shared>,
    id: SessionId,
    /// A frame that the client has begun to write.
    begun: BytesMut,
}

/// Number of bytes that are read at once: a client that reads nothing must not cause more replies than this many bytes do.
const WRITE_MAX: usize = 64 * 1024;

impl Pipe {
    pub(crate) fn new(shared: Arc<Shared>) -> Self {
        let mut state = shared.lock();
        let id = state.engine.connect(Instant::now());
        if !state.listening {
            state.engine.handle_eof(id, Instant::now());
        }
        drop(state);
        Self { shared, id, begun: BytesMut::new() }
    }

    /// Reads what is available; `None` if nothing is. Also returns whether the broker accepts bytes again.
    fn try_read(&self, state: &mut State, buffer: &mut [u8]) -> Option<(usize, bool)> {
        let was_heard = state.engine.wants_input(self.id);
        if let Some(transmit) = state.engine.poll_transmit(self.id, Instant::now()) {
            let count = transmit.remaining().min(buffer.len());
            transmit.copy_to_slice(&mut buffer[..count]);
            return Some((count, !was_heard && state.engine.wants_input(self.id)));
        }
        (state.over || state.engine.is_over(self.id)).then_some((0, false))
    }

    /// Processes bytes from the client, or a part of them; `None` while the broker accepts nothing.
    fn try_write(&mut self, state: &mut State, bytes: &[u8]) -> Option<io::Result<usize>> {
        if state.over || state.engine.is_over(self.id) {
            return Some(Err(io::ErrorKind::BrokenPipe.into()));
        }
        if !state.engine.wants_input(self.id) {
            return None;
        }
        let bytes = &bytes[..bytes.len().min(WRITE_MAX)];
        self.begun.extend_from_slice(bytes);
        state.engine.handle_input(self.id, Instant::now(), &mut self.begun);
        Some(Ok(bytes.len()))
    }

    fn close(&self) {
        let mut state = self.shared.lock();
        state.engine.handle_eof(self.id, Instant::now());
        self.shared.notify(state);
    }
}

impl Drop for Pipe {
    fn drop(&mut self) {
        self.close();
    }
}

impl Read for Pipe {
    fn read(&mut self, buffer: &mut [u8]) -> io::Result<usize> {
        let shared = self.shared.clone();
        let mut state = shared.lock();
        loop {
            match self.try_read(&mut state, buffer) {
                Some((count, makes_room)) => {
                    if makes_room {
                        shared.notify(state);
                    }
                    return Ok(count);
                }
                None => state = shared.wait(state),
            }
        }
    }
}

impl Write for Pipe {
    fn write(&mut self, bytes: &[u8]) -> io::Result<usize> {
        let shared = self.shared.clone();
        let mut state = shared.lock();
        loop {
            match self.try_write(&mut state, bytes) {
                Some(result) => {
                    shared.notify(state);
                    return result;
                }
                None => state = shared.wait(state),
            }
        }
    }

    fn flush(&mut self) -> io::Result<()> {
        Ok(())
    }
}
