use std::io;

use super::pipe::Pipe;
use crate::wire::{Put as _, content, method};

/// About how much is written at once.
const BLOCK: usize = 256 * 1024;

/// Many deliveries that differ only in their tags. A block of them is encoded once.
pub(super) struct Flood {
    count: u64,
    sent: u64,
    settled: u64,
    /// Number of messages that may be unacknowledged. As with RabbitMQ, the prefetch limit at the time of `basic.consume`.
    prefetch: u64,
    block: Vec<u8>,
    /// The size of one delivery in bytes, and the offset of its tag.
    unit: usize,
    tag_at: usize,
    /// The range of the block that is not written yet.
    from: usize,
    to: usize,
}

/// Returns the number and the size of the messages in a queue called `flood.COUNT.SIZE`.
pub(super) fn flood_of(queue: &[u8]) -> Option<(u64, usize)> {
    let text = std::str::from_utf8(queue).ok()?.strip_prefix("flood.")?;
    let (count, size) = text.split_once('.')?;
    Some((count.parse().ok()?, size.parse().ok()?))
}

impl Flood {
    /// `prefetch` is `None` without acknowledgements or a limit.
    pub(super) fn new(
        channel: u16,
        tag: &[u8],
        queue: &[u8],
        prefetch: Option<u64>,
    ) -> Option<Self> {
        let (count, size) = flood_of(queue)?;
        let mut unit = Vec::new();
        let mut arguments = Vec::new();
        arguments.shortstr(tag).longlong(0).octet(0).shortstr(b"").shortstr(queue);
        method(&mut unit, channel, (60, 60), &arguments);
        content(&mut unit, channel, size);
        let tag_at = 7 + 4 + 1 + tag.len();
        let block = unit.repeat((BLOCK / unit.len()).max(1));
        let unit = unit.len();
        let prefetch = prefetch.unwrap_or(count);
        Some(Self { count, sent: 0, settled: 0, prefetch, block, unit, tag_at, from: 0, to: 0 })
    }

    pub(super) fn settle(&mut self, tag: u64, multiple: bool) {
        self.settled = if multiple { self.settled.max(tag) } else { self.settled + 1 };
    }

    /// Sends no more than what is loaded: a frame that was begun has to be completed.
    pub(super) const fn stop(&mut self) {
        self.count = self.sent;
    }

    /// In the midst of a frame.
    pub(super) const fn is_writing(&self) -> bool {
        self.from < self.to
    }

    pub(super) fn is_over(&self) -> bool {
        self.sent == self.count && !self.is_writing()
    }

    /// Returns how many deliveries may be sent next.
    pub(super) fn room(&self) -> u64 {
        let most = (self.count - self.sent).min((self.block.len() / self.unit) as u64);
        most.min((self.prefetch + self.settled).saturating_sub(self.sent))
    }

    /// Numbers the next deliveries.
    pub(super) fn load(&mut self, deliveries: u64) {
        let mut at = self.tag_at;
        for _ in 0..deliveries {
            self.sent += 1;
            self.block[at..at + 8].copy_from_slice(&self.sent.to_be_bytes());
            at += self.unit;
        }
        (self.from, self.to) = (0, deliveries as usize * self.unit);
    }

    /// Writes without waiting. Returns whether all that was loaded is out.
    pub(super) fn write(&mut self, pipe: &mut impl Pipe) -> io::Result<bool> {
        while self.is_writing() {
            match pipe.send(&self.block[self.from..self.to], false) {
                Ok(sent) => self.from += sent,
                Err(error) if error.kind() == io::ErrorKind::WouldBlock => return Ok(false),
                Err(error) => return Err(error),
            }
        }
        Ok(true)
    }
}
