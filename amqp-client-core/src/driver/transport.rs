//! The parts that an adapter provides: a stream and a timer.

use std::io::{self, IoSlice};
use std::task::{Context, Poll};
use std::time::Instant;

use bytes::BytesMut;

/// A stream of bytes in both directions.
pub trait Transport {
    /// Reads what is available, and appends it to `input`, which has room. Returns 0 at the end of the stream.
    ///
    /// # Errors
    /// Why nothing can be read any more.
    fn poll_read(&mut self, cx: &mut Context<'_>, input: &mut BytesMut) -> Poll<io::Result<usize>>;

    /// Writes some of these pieces, in their order. Returns the number of bytes written.
    ///
    /// # Errors
    /// Why nothing can be written any more.
    fn poll_write(
        &mut self,
        cx: &mut Context<'_>,
        pieces: &[IoSlice<'_>],
    ) -> Poll<io::Result<usize>>;

    /// Flushes what was written.
    ///
    /// # Errors
    /// As [`poll_write`](Self::poll_write).
    fn poll_flush(&mut self, cx: &mut Context<'_>) -> Poll<io::Result<()>>;

    /// Ends the stream.
    ///
    /// # Errors
    /// That it could not be ended in an orderly way.
    fn poll_close(&mut self, cx: &mut Context<'_>) -> Poll<io::Result<()>>;

    /// Returns whether bytes have come since the last call that [`poll_read`](Self::poll_read) does not return yet. TLS holds a
    /// record back until it is complete, and the peer that sends it is not silent.
    fn take_progress(&mut self) -> bool {
        false
    }
}

/// Reads into the room that `input` has, with a function that needs initialized memory: clearing it costs less than copying.
///
/// # Errors
/// As `read`.
pub fn fill(
    input: &mut BytesMut,
    read: impl FnOnce(&mut [u8]) -> Poll<io::Result<usize>>,
) -> Poll<io::Result<usize>> {
    let before = input.len();
    input.resize(input.capacity(), 0);
    let polled = read(input.get_mut(before..).unwrap_or_default());
    let count = if let Poll::Ready(Ok(count)) = polled { count } else { 0 };
    input.truncate(before + count);
    polled
}

/// A clock that wakes.
pub trait Timer {
    /// The time.
    fn now(&self) -> Instant;

    /// Ready at that time. Another call may ask for another time, and replaces the earlier.
    fn poll_until(&mut self, cx: &mut Context<'_>, at: Instant) -> Poll<()>;
}
