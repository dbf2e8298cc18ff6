use std::io;

use super::pipe::Pipe;
use crate::wire::{Put as _, content, method};

/// About how much is written at once.
const BLOCK: usize = 256 * 1024;

/// Deliveries to many consumers in turn.
#[derive(Default)]
pub(super) struct Ring {
    /// The channel and the tag of each consumer.
    consumers: Vec<(u16, Vec<u8>)>,
    /// The consumer that gets the next delivery.
    next: usize,
    /// Number of deliveries that are still to be made, and the size of their bodies.
    left: u64,
    size: usize,
    block: Vec<u8>,
    /// How much of the block is written.
    written: usize,
}

impl Ring {
    pub(super) fn add(&mut self, channel: u16, tag: &[u8]) {
        self.consumers.push((channel, tag.to_vec()));
    }

    /// Begins, if the routing key is `ring.COUNT.SIZE`.
    pub(super) fn start(&mut self, routing_key: &[u8]) {
        let text = std::str::from_utf8(routing_key).ok().and_then(|key| key.strip_prefix("ring."));
        let Some((count, size)) = text.and_then(|text| text.split_once('.')) else { return };
        if let (Ok(count), Ok(size), false) =
            (count.parse(), size.parse(), self.consumers.is_empty())
        {
            (self.left, self.size) = (count, size);
        }
    }

    /// In the midst of a frame.
    pub(super) fn is_writing(&self) -> bool {
        self.written < self.block.len()
    }

    pub(super) fn is_over(&self) -> bool {
        self.left == 0 && !self.is_writing()
    }

    /// Encodes the next deliveries. `number` returns the delivery tag for the next delivery of a channel.
    pub(super) fn load(&mut self, mut number: impl FnMut(u16) -> u64) {
        self.block.clear();
        self.written = 0;
        while self.left > 0 && self.block.len() < BLOCK {
            let (channel, tag) = &self.consumers[self.next];
            let mut arguments = Vec::with_capacity(64);
            arguments.shortstr(tag).longlong(number(*channel)).octet(0);
            arguments.shortstr(b"").shortstr(b"ring");
            method(&mut self.block, *channel, (60, 60), &arguments);
            content(&mut self.block, *channel, self.size);
            self.next = (self.next + 1) % self.consumers.len();
            self.left -= 1;
        }
    }

    /// Writes without waiting. Returns whether all that was loaded is out.
    pub(super) fn write(&mut self, pipe: &mut impl Pipe) -> io::Result<bool> {
        while self.is_writing() {
            match pipe.send(&self.block[self.written..], false) {
                Ok(sent) => self.written += sent,
                Err(error) if error.kind() == io::ErrorKind::WouldBlock => return Ok(false),
                Err(error) => return Err(error),
            }
        }
        Ok(true)
    }
}
