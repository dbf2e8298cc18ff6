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

/// Minimum number of bytes that [`Filler`] zeroes before a read.
const CLEARED_MIN: usize = 1024;

/// Maximum number of bytes that [`Filler`] zeroes before a read.
const CLEARED_MAX: usize = 256 * 1024;

/// Number of short reads in a row after which [`Filler`] zeroes fewer bytes. A pause between two bursts has fewer short reads.
const SHORT_READS: u8 = 16;

/// Reads into a buffer with a function that needs initialized memory, such as [`std::io::Read::read`].
///
/// The filler zeroes free memory of the buffer and reads into it. Zeroing all of the free memory would cost more than a small read
/// itself. So the filler zeroes about as many bytes as the last reads returned: the number grows when a read fills the memory, and
/// shrinks after several short reads.
#[derive(Debug)]
pub struct Filler {
    /// Number of bytes to zero before the next read.
    size: usize,
    /// Number of short reads in a row.
    short: u8,
}

impl Default for Filler {
    fn default() -> Self {
        Self { size: CLEARED_MIN, short: 0 }
    }
}

impl Filler {
    /// Calls `read` once with free memory of `input`, and appends the bytes that it has read. `input` does not grow.
    ///
    /// # Errors
    /// As `read`.
    pub fn fill(
        &mut self,
        input: &mut BytesMut,
        read: impl FnOnce(&mut [u8]) -> Poll<io::Result<usize>>,
    ) -> Poll<io::Result<usize>> {
        let before = input.len();
        let room = self.size.min(input.capacity() - before);
        input.resize(before + room, 0);
        let polled = read(input.get_mut(before..).unwrap_or_default());
        let count = if let Poll::Ready(Ok(count)) = polled { count.min(room) } else { 0 };
        input.truncate(before + count);
        if count > 0 {
            self.adapt(count, room);
        }
        polled
    }

    fn adapt(&mut self, count: usize, room: usize) {
        if count == room {
            // There may be more.
            self.size = (self.size * 4).min(CLEARED_MAX);
            self.short = 0;
        } else if count >= self.size / 4 {
            self.short = 0;
        } else if self.short < SHORT_READS {
            self.short += 1;
        } else {
            self.size = (self.size / 4).max(CLEARED_MIN);
            self.short = 0;
        }
    }
}

/// A clock and a timer.
pub trait Timer {
    /// Returns the time.
    fn now(&self) -> Instant;

    /// Is ready at the time `at`. A later call with another time replaces the earlier one.
    fn poll_until(&mut self, cx: &mut Context<'_>, at: Instant) -> Poll<()>;
}

#[cfg(test)]
mod tests {
    use super::*;

    /// Reads `available` bytes as often as it takes, and returns the room of each read.
    fn read(filler: &mut Filler, available: usize) -> Vec<usize> {
        let (mut left, mut rooms) = (available, Vec::new());
        let mut input = BytesMut::with_capacity(4 * CLEARED_MAX);
        while left > 0 {
            let polled = filler.fill(&mut input, |room| {
                rooms.push(room.len());
                let count = left.min(room.len());
                room[..count].fill(7);
                Poll::Ready(Ok(count))
            });
            assert!(matches!(polled, Poll::Ready(Ok(count)) if count > 0), "{polled:?}");
            left = available - input.len();
        }
        assert!(input.iter().all(|byte| *byte == 7));
        rooms
    }

    #[test]
    fn large_reads_clear_much_and_small_reads_little() {
        let mut filler = Filler::default();
        assert_eq!(read(&mut filler, 100), [CLEARED_MIN]);
        assert_eq!(read(&mut filler, 100_000), [1024, 4096, 16 * 1024, 64 * 1024, 256 * 1024]);
        // A pause in a flood changes nothing.
        assert_eq!(read(&mut filler, 100), [CLEARED_MAX]);
        assert_eq!(read(&mut filler, CLEARED_MAX / 2), [CLEARED_MAX]);
        for _ in 0..100 {
            read(&mut filler, 100);
        }
        assert_eq!(read(&mut filler, 100), [CLEARED_MIN]);
    }

    #[test]
    fn the_room_of_the_buffer_is_the_limit() {
        let mut filler = Filler::default();
        let mut input = BytesMut::with_capacity(10);
        let room = input.capacity();
        let polled = filler.fill(&mut input, |room| Poll::Ready(Ok(room.len())));
        assert!(matches!(polled, Poll::Ready(Ok(count)) if count == room));
        assert_eq!((input.len(), input.capacity()), (room, room));
        // Without room, nothing is read, and the buffer does not grow.
        let polled = filler.fill(&mut input, |room| Poll::Ready(Ok(room.len())));
        assert!(matches!(polled, Poll::Ready(Ok(0))));
        assert_eq!(input.capacity(), room);
    }

    #[test]
    fn a_read_that_finds_nothing_leaves_nothing() {
        let mut input = BytesMut::with_capacity(100);
        let polled = Filler::default().fill(&mut input, |_| Poll::Pending);
        assert!(polled.is_pending() && input.is_empty());
        let failed = Err(io::ErrorKind::ConnectionReset.into());
        let polled = Filler::default().fill(&mut input, |_| Poll::Ready(failed));
        assert!(matches!(polled, Poll::Ready(Err(_))) && input.is_empty());
    }
}
