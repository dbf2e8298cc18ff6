//! The parts that an adapter provides: a stream and a timer.

use std::io::{self, IoSlice};
use std::sync::Arc;
use std::sync::atomic::AtomicBool;
use std::task::{Context, Poll};
use std::time::Instant;

use bytes::BytesMut;

/// A stream of bytes in both directions.
pub trait Transport {
    /// Reads what is available, and appends it to `input`, which has room. Returns 0 at the end of the stream.
    ///
    /// # Errors
    /// The reason why nothing can be read any more.
    fn poll_read(&mut self, cx: &mut Context<'_>, input: &mut BytesMut) -> Poll<io::Result<usize>>;

    /// Writes the slices, in order, as far as the stream accepts them. Returns the number of bytes written.
    ///
    /// # Errors
    /// The reason why nothing can be written any more.
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
    /// The reason why the stream could not be ended in an orderly way.
    fn poll_close(&mut self, cx: &mut Context<'_>) -> Poll<io::Result<()>>;

    /// Returns whether bytes have arrived since the last call that [`poll_read`](Self::poll_read) does not return yet. TLS
    /// returns a record only once it is complete, and a peer that sends a large record is not silent.
    fn take_progress(&mut self) -> bool {
        false
    }

    /// Returns a flag that is set while no TLS session is established. `None` for a transport without TLS.
    fn tls_missing(&self) -> Option<Arc<AtomicBool>> {
        None
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

/// A clock and a timer.
pub trait Timer {
    /// Returns the time.
    fn now(&self) -> Instant;

    /// Is ready at the time `at`. A later call with another time replaces the earlier one.
    fn poll_until(&mut self, cx: &mut Context<'_>, at: Instant) -> Poll<()>;
}
