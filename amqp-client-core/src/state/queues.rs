use std::collections::VecDeque;
use std::task::Waker;

use amqp_proto::{ConsumerId, Delivery, DeliveryTag, ShortStr};

use crate::error::ConsumerEnd;

/// The consumers of a channel and the deliveries that they have not taken.
#[derive(Debug, Default)]
pub(crate) struct Queues {
    /// Numbers only grow, so this is sorted. A consumer that is removed leaves a gap: to close up each time would take long
    /// where there are many.
    consumers: Vec<(ConsumerId, Option<Queue>)>,
    gaps: usize,
    /// The messages of consumers that were removed.
    gone: Arrived,
}

/// Numbers of messages that arrived.
#[derive(Debug, Default, Clone, Copy)]
pub(crate) struct Arrived {
    pub(super) count: u64,
    /// Bytes of their bodies.
    pub(super) bytes: u64,
    pub(super) redelivered: u64,
}

/// The deliveries that a consumer has not taken yet.
#[derive(Debug, Default)]
pub(crate) struct Queue {
    pub(crate) tag: ShortStr,
    pub(crate) deliveries: VecDeque<Delivery>,
    /// All messages that have arrived.
    pub(super) arrived: Arrived,
    /// Bytes of `deliveries` that count against the delivery budget: all, except the last delivery that a paused consumer keeps.
    pub(crate) bytes: usize,
    /// Number of `deliveries`, the oldest ones, that were detached from the blocks into which they were read, and their bytes.
    detached: (usize, usize),
    pub(crate) waker: Option<Waker>,
    pub(crate) end: Option<End>,
    /// The lag was reported, and the consumer has not taken its deliveries since.
    pub(crate) lags: bool,
    /// It held deliveries when the budget was exceeded, and has taken none since.
    pub(crate) idle: bool,
    /// True if it may be paused; `None` if the session decides.
    pub(crate) pausable: Option<bool>,
    /// Paused until it takes the deliveries that it holds.
    pub(crate) paused: bool,
    /// Ended without a cancel. The channel holds what still arrives.
    pub(crate) held: bool,
}

/// The way in which a consumer ended.
#[derive(Debug, Clone)]
pub(crate) enum End {
    /// By its own handle.
    Cancelled,
    /// Ended otherwise. That is reported once.
    Unasked(ConsumerEnd),
    /// The end was reported.
    Told,
}

impl Queues {
    pub(crate) fn insert(&mut self, id: ConsumerId, tag: ShortStr, pausable: Option<bool>) {
        self.consumers.push((id, Some(Queue { tag, pausable, ..Queue::default() })));
    }

    pub(crate) fn get(&mut self, id: ConsumerId) -> Option<&mut Queue> {
        let index = self.consumers.binary_search_by_key(&id, |(id, _)| *id).ok()?;
        self.consumers.get_mut(index)?.1.as_mut()
    }

    pub(crate) fn remove(&mut self, id: ConsumerId) -> Option<Queue> {
        let index = self.consumers.binary_search_by_key(&id, |(id, _)| *id).ok()?;
        let queue = self.consumers.get_mut(index)?.1.take()?;
        self.gone.add(&queue.arrived);
        self.gaps += 1;
        // At least half of them are gaps: so closing the gaps costs each consumer that is removed only a step or two.
        if self.gaps > self.consumers.len() / 2 {
            self.consumers.retain(|(_, queue)| queue.is_some());
            self.gaps = 0;
        }
        Some(queue)
    }

    /// Drops requeued deliveries. Returns their bytes.
    pub(crate) fn discard_up_to(&mut self, tag: DeliveryTag) -> usize {
        self.iter_mut().map(|queue| queue.discard_up_to(tag)).sum()
    }

    /// Returns how many messages arrived, for all consumers.
    pub(crate) fn arrived(&self) -> Arrived {
        let mut arrived = self.gone;
        let queues = self.consumers.iter().filter_map(|(_, queue)| queue.as_ref());
        queues.for_each(|queue| arrived.add(&queue.arrived));
        arrived
    }

    /// The consumer that holds most.
    pub(crate) fn largest(&mut self) -> Option<&mut Queue> {
        self.iter_mut().max_by_key(|queue| queue.bytes)
    }

    pub(crate) fn ids(&self) -> Vec<ConsumerId> {
        let present = self.consumers.iter().filter(|(_, queue)| queue.is_some());
        present.map(|(id, _)| *id).collect()
    }

    pub(crate) fn iter_with_id(&mut self) -> impl Iterator<Item = (ConsumerId, &mut Queue)> {
        self.consumers.iter_mut().filter_map(|(id, queue)| Some((*id, queue.as_mut()?)))
    }

    pub(crate) fn iter_mut(&mut self) -> impl Iterator<Item = &mut Queue> {
        self.consumers.iter_mut().filter_map(|(_, queue)| queue.as_mut())
    }
}

impl Arrived {
    /// A message arrived.
    #[inline]
    pub(super) fn count(&mut self, delivery: &Delivery) {
        self.count += 1;
        self.bytes += delivery.body_len() as u64;
        self.redelivered += u64::from(delivery.redelivered());
    }

    const fn add(&mut self, other: &Self) {
        self.count += other.count;
        self.bytes += other.bytes;
        self.redelivered += other.redelivered;
    }
}

impl Queue {
    /// Takes all deliveries in exchange for an empty queue. Returns their bytes.
    pub(crate) fn take(&mut self, empty: &mut VecDeque<Delivery>) -> usize {
        std::mem::swap(empty, &mut self.deliveries);
        self.detached = (0, 0);
        (self.lags, self.idle) = (false, false);
        std::mem::take(&mut self.bytes)
    }

    /// Takes the oldest deliveries, in exchange for an empty queue: all, or as many as reach `max` bytes. Returns their bytes.
    pub(crate) fn take_up_to(&mut self, max: usize, empty: &mut VecDeque<Delivery>) -> usize {
        if self.bytes <= max {
            return self.take(empty);
        }
        let (mut count, mut bytes, mut detached) = (0, 0, 0);
        for size in self.deliveries.iter().map(|delivery| delivery.size()) {
            if bytes >= max {
                break;
            }
            detached += if count < self.detached.0 { size } else { 0 };
            (count, bytes) = (count + 1, bytes + size);
        }
        empty.extend(self.deliveries.drain(..count));
        let (before, before_bytes) = self.detached;
        self.detached = (before.saturating_sub(count), before_bytes.saturating_sub(detached));
        self.idle = false;
        self.bytes = self.bytes.saturating_sub(bytes);
        bytes
    }

    /// Takes the newest delivery.
    pub(crate) fn take_newest(&mut self) -> Option<Delivery> {
        let newest = self.deliveries.pop_back()?;
        let size = newest.size();
        self.bytes = self.bytes.saturating_sub(size);
        let (count, bytes) = self.detached;
        if count > self.deliveries.len() {
            self.detached = (count - 1, bytes.saturating_sub(size));
        }
        Some(newest)
    }

    /// Bytes of the deliveries that share the blocks they were read to.
    pub(crate) const fn attached(&self) -> usize {
        self.bytes.saturating_sub(self.detached.1)
    }

    /// Returns whether the consumer has ended, and holds deliveries that nobody takes and that can be requeued.
    pub(crate) fn is_left(&self) -> bool {
        let acks = self.deliveries.front().is_some_and(|delivery| !delivery.no_ack());
        self.end.is_some() && self.idle && acks
    }

    /// Copies the deliveries out of the blocks they were read to.
    pub(crate) fn detach(&mut self) {
        self.deliveries.iter_mut().skip(self.detached.0).for_each(Delivery::detach);
        self.detached = (self.deliveries.len(), self.bytes);
    }

    fn discard_up_to(&mut self, tag: DeliveryTag) -> usize {
        let before = self.bytes;
        let bytes = &mut self.bytes;
        self.deliveries.retain(|delivery| {
            let stays = delivery.no_ack() || delivery.delivery_tag() > tag;
            *bytes = bytes.saturating_sub(if stays { 0 } else { delivery.size() });
            stays
        });
        // The remaining deliveries may be copied once more, which is rare.
        self.detached = (0, 0);
        before - self.bytes
    }

    /// Ends the consumer, unless it has ended before. Returns the waker of its task.
    pub(crate) fn end(&mut self, end: End) -> Option<Waker> {
        self.end.get_or_insert(end);
        self.paused = false;
        self.waker.take()
    }
}

#[cfg(test)]
mod tests {
    use super::*;

    #[test]
    fn the_waiter_of_a_consumer_that_ends_gets_the_first_reason() {
        let mut queue = Queue { waker: Some(Waker::noop().clone()), ..Queue::default() };
        assert!(queue.end(End::Cancelled).is_some());
        assert!(queue.end(End::Unasked(ConsumerEnd::Cancelled)).is_none(), "it was woken");
        assert!(matches!(queue.end, Some(End::Cancelled)));
    }
}
