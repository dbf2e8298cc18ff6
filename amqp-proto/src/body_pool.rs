use alloc::collections::VecDeque;

use bytes::{Bytes, BytesMut};

/// Memory in which bodies of several frames are assembled. It is reused once the earlier body was dropped. Fresh pages cost more
/// (page faults) than the copy itself.
#[derive(Debug, Default)]
pub(crate) struct BodyPool {
    /// Bodies with the size of their allocations, the oldest first.
    bodies: VecDeque<(BytesMut, usize)>,
    bytes: usize,
}

/// Bytes of memory kept for reuse: enough for some large bodies, and little compared with the deliveries that a consumer holds.
const POOL_MAX: usize = 4 * 1024 * 1024;

/// The factor by which such memory may be larger than the body. The body keeps all of it alive, and only its own size is counted.
const EXCESS_MAX: usize = 4;

impl BodyPool {
    /// Room for a body of that size, if there is some already.
    pub(crate) fn take(&mut self, size: usize) -> BytesMut {
        if size > POOL_MAX {
            return BytesMut::new();
        }
        let fitting = size..=size.saturating_mul(EXCESS_MAX);
        // The whole allocation is reclaimed or nothing: the room after a body in use would keep that body alive.
        let free = self.bodies.iter_mut().position(|(body, allocation)| {
            fitting.contains(allocation) && body.try_reclaim(*allocation)
        });
        let Some((body, allocation)) = free.and_then(|index| self.bodies.remove(index)) else {
            return BytesMut::new();
        };
        self.bytes -= allocation;
        body
    }

    /// Splits the body off, and keeps its memory for reuse.
    pub(crate) fn finish(&mut self, mut body: BytesMut) -> Bytes {
        // The capacity counts from the beginning of the allocation, because nothing was split off before.
        let allocation = body.capacity();
        let whole = body.split().freeze();
        if allocation > 0 && allocation <= POOL_MAX {
            self.bytes += allocation;
            self.bodies.push_back((body, allocation));
        }
        while self.bytes > POOL_MAX {
            let Some((_, allocation)) = self.bodies.pop_front() else { break };
            self.bytes -= allocation;
        }
        whole
    }
}

#[cfg(test)]
mod tests {
    use super::*;

    fn put_together(pool: &mut BodyPool, size: usize) -> Bytes {
        let mut body = pool.take(size);
        body.extend_from_slice(&alloc::vec![7; size]);
        pool.finish(body)
    }

    #[test]
    fn bodies_are_put_together_where_earlier_ones_were() {
        let mut pool = BodyPool::default();
        let first = put_together(&mut pool, 300_000);
        let at = first.as_ptr();
        let second = put_together(&mut pool, 300_000);
        assert_ne!(second.as_ptr(), at, "the first is still held");
        drop(first);
        let third = put_together(&mut pool, 200_000);
        assert_eq!(third.as_ptr(), at);
        assert!(second.iter().chain(&third).all(|byte| *byte == 7));
    }

    #[test]
    fn a_body_does_not_keep_a_much_larger_allocation() {
        let mut pool = BodyPool::default();
        let size = POOL_MAX / 2;
        let large = put_together(&mut pool, size);
        let at = large.as_ptr() as usize;
        let inside = |body: &Bytes| (at..at + size).contains(&(body.as_ptr() as usize));
        drop(large);
        let small = put_together(&mut pool, 131_100);
        assert!(!inside(&small), "it would keep 2 MiB");
        let half = put_together(&mut pool, size / 2);
        assert!(inside(&half), "there is room for it");
        // The other half of that allocation is not used while this half is held.
        assert!(!inside(&put_together(&mut pool, size / 2)));
        // Allocations are counted, not the bodies in them.
        assert!(pool.bytes <= POOL_MAX);
        assert_eq!(
            pool.bytes,
            pool.bodies.iter().map(|(_, allocation)| *allocation).sum::<usize>()
        );
    }

    #[test]
    fn the_memory_that_is_kept_is_bounded() {
        let mut pool = BodyPool::default();
        let held: alloc::vec::Vec<_> = (0..50).map(|_| put_together(&mut pool, 300_000)).collect();
        assert!(pool.bytes <= POOL_MAX && pool.bodies.len() <= POOL_MAX / 300_000);
        assert!(put_together(&mut pool, POOL_MAX + 1).len() > POOL_MAX);
        assert!(pool.bytes <= POOL_MAX);
        drop(held);
        assert!(pool.take(POOL_MAX + 1).is_empty());
    }
}
