//! The bytes to write.

mod fair;

use alloc::collections::VecDeque;
use alloc::vec::Vec;
use core::fmt;

use bytes::{Buf, Bytes};

use crate::wire::wipe;
pub(crate) use fair::Overtaken;

/// An empty buffer keeps at least this much memory: some dozens of messages, so that steady publishing does not allocate.
const IDLE_CAPACITY: usize = 64 * 1024;

/// Bytes that are still to be written, in order.
///
/// It is a [`Buf`]: write its [`chunk`](Buf::chunk), or several [chunks at once](Buf::chunks_vectored), and
/// [`advance`](Buf::advance) by the number of bytes that the transport accepted. Method frames, headers and small bodies are in
/// one contiguous buffer. Large bodies are the [`Bytes`] that the caller passed, without a copy.
#[derive(Default)]
pub struct Transmit {
    /// Encoded heads and small bodies.
    buffer: Vec<u8>,
    /// Number of bytes of `buffer` that are written.
    position: usize,
    /// Large bodies, each with its offset in `buffer`: the body comes before the byte at that offset. Offsets never decrease.
    bodies: VecDeque<(usize, Bytes)>,
    /// Bytes of `bodies`.
    body_bytes: usize,
    /// The recent peak of the buffer's length. That much memory is kept, so that bursts do not allocate it each time. When bursts
    /// become smaller, the peak falls by an eighth at a time.
    peak: usize,
    /// True if `buffer` contains credentials, which are overwritten once they are written.
    secret: bool,
    /// A part of what was queued was written, perhaps a part of a frame.
    partly_written: bool,
    /// The length of the buffer when none of its frames could overtake others, and the number of large bodies before them. They are
    /// looked at again when there are more frames, or when one of these bodies is written.
    stuck: Option<(usize, usize)>,
}

impl Transmit {
    /// Creates an empty queue.
    #[must_use]
    pub fn new() -> Self {
        Self::default()
    }

    /// Returns whether everything was written.
    #[must_use]
    pub fn is_empty(&self) -> bool {
        self.remaining() == 0
    }

    /// Bytes of heads and small bodies that are still to be written.
    #[inline]
    pub(crate) fn copied(&self) -> usize {
        self.buffer.len() - self.position
    }

    /// The buffer to append encoded bytes to.
    pub(crate) fn buffer(&mut self) -> &mut Vec<u8> {
        &mut self.buffer
    }

    /// Credentials were appended.
    pub(crate) fn holds_secret(&mut self) {
        self.secret = true;
    }

    /// Appends bytes that are not copied.
    pub(crate) fn push_body(&mut self, body: Bytes) {
        self.body_bytes += body.len();
        self.bodies.push_back((self.buffer.len(), body));
    }

    /// Discards unwritten bytes. Returns the large bodies among them.
    pub(crate) fn discard(&mut self) -> impl Iterator<Item = Bytes> + use<> {
        let bodies = core::mem::take(&mut self.bodies);
        self.body_bytes = 0;
        self.position = self.buffer.len();
        self.reclaim();
        bodies.into_iter().map(|(_, body)| body)
    }

    /// Returns the part of the contiguous buffer before the next large body.
    fn run(&self) -> &[u8] {
        let end = self.bodies.front().map_or(self.buffer.len(), |(at, _)| *at);
        self.buffer.get(self.position..end).unwrap_or_default()
    }

    /// Drops written bytes, once that is worth moving the rest.
    fn reclaim(&mut self) {
        if self.position == self.buffer.len() && self.bodies.is_empty() {
            self.peak = self.buffer.len().max(self.peak - self.peak / 8);
            if core::mem::take(&mut self.secret) {
                wipe(&mut self.buffer);
            }
            self.buffer.clear();
            self.buffer.shrink_to(self.peak.max(IDLE_CAPACITY));
            self.position = 0;
            (self.partly_written, self.stuck) = (false, None);
        } else if self.position >= IDLE_CAPACITY && self.position > self.buffer.len() / 2 {
            self.buffer.drain(..self.position);
            for (at, _) in &mut self.bodies {
                *at -= self.position;
            }
            self.position = 0;
        }
    }
}

/// Shows how much is queued, but no contents: there may be credentials and bodies.
impl fmt::Debug for Transmit {
    fn fmt(&self, f: &mut fmt::Formatter<'_>) -> fmt::Result {
        f.debug_struct("Transmit")
            .field("remaining", &self.remaining())
            .field("large_bodies", &self.bodies.len())
            .finish_non_exhaustive()
    }
}

impl Buf for Transmit {
    fn remaining(&self) -> usize {
        self.buffer.len() - self.position + self.body_bytes
    }

    fn chunk(&self) -> &[u8] {
        let run = self.run();
        match self.bodies.front() {
            Some((_, body)) if run.is_empty() => body,
            _ => run,
        }
    }

    fn advance(&mut self, count: usize) {
        debug_assert!(count <= self.remaining(), "more was written than there was");
        let mut count = count.min(self.remaining());
        self.partly_written |= count > 0;
        while count > 0 {
            let run = self.run().len();
            if run > 0 {
                let step = run.min(count);
                self.position += step;
                count -= step;
            } else if let Some((_, body)) = self.bodies.front_mut() {
                let step = body.len().min(count);
                body.advance(step);
                self.body_bytes -= step;
                count -= step;
                if body.is_empty() {
                    self.bodies.pop_front();
                }
            }
        }
        self.reclaim();
    }

    #[cfg(feature = "std")]
    fn chunks_vectored<'a>(&'a self, slices: &mut [std::io::IoSlice<'a>]) -> usize {
        let mut filled = 0;
        let mut put = |bytes: &'a [u8]| {
            if bytes.is_empty() {
                return true;
            }
            let Some(slot) = slices.get_mut(filled) else {
                return false;
            };
            *slot = std::io::IoSlice::new(bytes);
            filled += 1;
            true
        };
        let mut position = self.position;
        for (at, body) in &self.bodies {
            if !put(self.buffer.get(position..*at).unwrap_or_default()) || !put(body) {
                return filled;
            }
            position = *at;
        }
        put(self.buffer.get(position..).unwrap_or_default());
        filled
    }
}
