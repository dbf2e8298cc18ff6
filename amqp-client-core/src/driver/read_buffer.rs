//! The pool of read buffers.

use std::collections::VecDeque;

use bytes::BytesMut;

/// The read buffer of a connection without traffic: room for some small frames, and little memory for each of many connections.
const IDLE_SIZE: usize = 8 * 1024;

/// The read buffer of a connection with much traffic, as long as its buffers come back soon. Fewer reads take a quarter off the
/// cost of small deliveries; larger buffers leave the processor's cache.
const BUSY_SIZE: usize = 256 * 1024;

/// The read buffer if they do not come back. Deliveries are slices of a buffer, and each one that is held keeps all of it alive.
const HELD_SIZE: usize = 64 * 1024;

/// Buffers that consumers hold at most while they keep up: 1.5 MiB in large ones, which is three read pauses.
const HELD_BY_FAST_CONSUMERS: usize = 6;

/// Bytes of full buffers that are kept for reuse once the last delivery from them is gone: the large buffers of consumers that
/// keep up, and two more.
const POOL_BYTES_MAX: usize = 2 * 1024 * 1024;

/// Full buffers that are kept for reuse: few, so that looking for a free one takes no time.
const POOL_BUFFERS_MAX: usize = POOL_BYTES_MAX / HELD_SIZE;

/// Small reads in a row after which a connection counts as one without traffic. Pauses between bursts bring fewer.
const IDLE_READS: u32 = 32;

/// The buffers to read into, one after the other. They grow with the bytes that arrive, never with sizes that the peer announces.
#[derive(Debug, Default)]
pub(crate) struct ReadBuffer {
    /// Bytes that are not processed yet, followed by free room.
    block: BytesMut,
    /// The bytes in it before the last read.
    before: usize,
    /// Blocks that are full, the oldest first, and how large they are together.
    full: VecDeque<(BytesMut, usize)>,
    remembered: usize,
    /// The size of the next block.
    size: usize,
    /// The size of the present block.
    capacity: usize,
    /// Bytes that the last read brought.
    came: usize,
    /// Reads in a row that brought little.
    quiet: u32,
    /// Bytes of blocks that were forgotten while parts of them were still in use, since [`take_held`](Self::take_held).
    held: usize,
}

impl ReadBuffer {
    /// Returns the buffer to read into, with room for half a block at least.
    pub(crate) fn room(&mut self) -> &mut BytesMut {
        self.size = self.size.max(IDLE_SIZE);
        if self.block.capacity() - self.block.len() < self.size / 2 {
            self.make_room();
        }
        self.before = self.block.len();
        &mut self.block
    }

    /// Returns what the last read has added.
    pub(crate) fn just_read(&self) -> &[u8] {
        self.block.get(self.before..).unwrap_or_default()
    }

    /// Returns the bytes that were read, for the decoder to consume. Counts them, to size the next reads.
    pub(crate) fn received(&mut self) -> &mut BytesMut {
        let came = self.block.len().saturating_sub(self.before);
        self.came = came;
        if self.block.len() == self.block.capacity() {
            // The read filled the buffer.
            self.size = (self.size * 4).min(BUSY_SIZE);
        }
        self.quiet = if came < IDLE_SIZE / 2 { self.quiet.saturating_add(1) } else { 0 };
        if self.quiet == IDLE_READS {
            self.size = IDLE_SIZE;
            while let Some((block, capacity)) = self.full.pop_front() {
                self.forget(block, capacity);
            }
            self.remembered = 0;
            if self.capacity > IDLE_SIZE && self.block.len() < IDLE_SIZE {
                let mut block = BytesMut::with_capacity(IDLE_SIZE);
                block.extend_from_slice(&self.block);
                let before = std::mem::replace(&mut self.block, block);
                let capacity = std::mem::replace(&mut self.capacity, IDLE_SIZE);
                self.forget(before, capacity);
            }
        }
        &mut self.block
    }

    /// Returns the number of bytes that the last read brought.
    pub(crate) const fn came(&self) -> usize {
        self.came
    }

    /// Returns the bytes of forgotten blocks of which parts were still in use, since [`take_held`](Self::take_held). Some may be
    /// free again.
    pub(crate) const fn held(&self) -> usize {
        self.held
    }

    /// Starts to count [`held`](Self::held) blocks again from 0.
    pub(crate) const fn take_held(&mut self) -> usize {
        std::mem::replace(&mut self.held, 0)
    }

    /// Begins another buffer, with the bytes of an incomplete frame that have arrived.
    fn make_room(&mut self) {
        let unfinished = self.block.len();
        if unfinished > self.size / 2 {
            self.size = (self.size * 2).min(BUSY_SIZE);
        }
        let needed = unfinished + self.size / 2;
        // If no delivery holds a part of this buffer, it can be reused from its beginning.
        if self.capacity >= self.size && self.block.try_reclaim(needed - unfinished) {
            return;
        }
        let (mut next, capacity) = self.take(needed.max(self.size), unfinished);
        next.extend_from_slice(&self.block);
        let mut full = std::mem::replace(&mut self.block, next);
        full.clear();
        let before = std::mem::replace(&mut self.capacity, capacity);
        self.remember(full, before);
    }

    /// Returns a block of which no part is in use, or a new one.
    fn take(&mut self, needed: usize, unfinished: usize) -> (BytesMut, usize) {
        let free = self.full.iter_mut().position(|(block, _)| block.try_reclaim(needed));
        match free.and_then(|index| self.full.remove(index)) {
            Some((block, capacity)) => {
                self.remembered -= capacity;
                (block, capacity)
            }
            None if self.full.len() >= HELD_BY_FAST_CONSUMERS && unfinished < HELD_SIZE / 2 => {
                self.size = self.size.min(HELD_SIZE);
                (BytesMut::with_capacity(HELD_SIZE), HELD_SIZE)
            }
            None => (BytesMut::with_capacity(needed), needed),
        }
    }

    fn remember(&mut self, block: BytesMut, capacity: usize) {
        if capacity < self.size.min(HELD_SIZE) {
            return self.forget(block, capacity);
        }
        self.remembered += capacity;
        self.full.push_back((block, capacity));
        while self.remembered > POOL_BYTES_MAX || self.full.len() > POOL_BUFFERS_MAX {
            let Some((block, capacity)) = self.full.pop_front() else { return };
            self.remembered -= capacity;
            self.forget(block, capacity);
        }
    }

    fn forget(&mut self, mut block: BytesMut, capacity: usize) {
        block.clear();
        // It can be reclaimed as a whole unless a delivery holds a part of it.
        if !block.try_reclaim(capacity) {
            self.held = self.held.saturating_add(capacity);
        }
    }
}

#[cfg(test)]
mod tests {
    use bytes::Bytes;

    use super::*;

    /// Reads as much as there is room for, up to `bytes`. Removes and returns the frames of that size.
    fn read(input: &mut ReadBuffer, bytes: usize, frame: usize) -> Vec<Bytes> {
        let room = input.room();
        let came = bytes.min(room.capacity() - room.len());
        room.resize(room.len() + came, 7);
        let block = input.received();
        let mut frames = Vec::new();
        while block.len() >= frame {
            frames.push(block.split_to(frame).freeze());
        }
        frames
    }

    #[test]
    fn released_buffers_are_reused() {
        let mut input = ReadBuffer::default();
        let mut kept = VecDeque::new();
        let mut places = std::collections::HashSet::new();
        for _ in 0..1000 {
            for frame in read(&mut input, usize::MAX, 300) {
                places.insert(frame.as_ptr() as usize / HELD_SIZE);
                kept.push_back(frame);
            }
            while kept.len() > 1000 {
                kept.pop_front();
            }
        }
        assert!(places.len() < 40, "{} places", places.len());
        assert_eq!(input.size, BUSY_SIZE);
    }

    #[test]
    fn large_frames_have_large_blocks_and_quiet_connections_small_ones() {
        let mut input = ReadBuffer::default();
        let mut frames = 0;
        for _ in 0..200 {
            frames += read(&mut input, usize::MAX, 131_100).len();
        }
        assert!(frames > 100, "{frames}");
        assert_eq!(input.size, BUSY_SIZE);
        assert!(input.remembered <= POOL_BYTES_MAX);
        for _ in 0..2 * IDLE_READS {
            read(&mut input, 8, 8);
        }
        assert_eq!((input.size, input.capacity, input.full.len()), (IDLE_SIZE, IDLE_SIZE, 0));
        assert_eq!(read(&mut input, 8, 8).len(), 1);
    }

    #[test]
    fn small_blocks_are_not_remembered_by_the_hundred() {
        let mut input = ReadBuffer::default();
        let mut kept = Vec::new();
        for _ in 0..5000 {
            kept.extend(read(&mut input, 1000, 1000));
            assert!(input.full.len() <= POOL_BUFFERS_MAX);
        }
    }

    #[test]
    fn buffers_in_use_are_not_remembered_forever() {
        let mut input = ReadBuffer::default();
        let mut kept = Vec::new();
        while kept.len() < 4 * POOL_BYTES_MAX / 1000 {
            kept.extend(read(&mut input, usize::MAX, 1000));
        }
        assert!(input.remembered <= POOL_BYTES_MAX && input.full.len() <= POOL_BUFFERS_MAX);
        // A delivery that is kept keeps fewer others with it.
        assert_eq!(input.capacity, HELD_SIZE);
        assert!(kept.iter().all(|frame| frame.iter().all(|byte| *byte == 7)));
    }
}
