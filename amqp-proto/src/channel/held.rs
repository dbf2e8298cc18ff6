//! The list of deliveries that stay unacknowledged because the application never got them, or has given them up.

use alloc::collections::VecDeque;

use super::acks::Unsettled;
use crate::{ConsumerId, DeliveryTag};

/// Deliveries that stay unacknowledged because the application never got them: for good
/// ([`Oversized::Hold`](crate::Oversized::Hold)), or until the next requeue ([`Oversized::Requeue`](crate::Oversized::Requeue)). Or it
/// has given them up ([`Channel::hold`](crate::Channel::hold)). Oldest first; some may have been settled since, by their tags.
#[derive(Debug, Default)]
pub(super) struct Held {
    pub(super) deliveries: VecDeque<HeldDelivery>,
    /// Settled ones are looked for when there are so many.
    crowded: usize,
}

#[derive(Debug, Clone, Copy)]
pub(super) struct HeldDelivery {
    pub(super) tag: u64,
    /// The consumer with whose end it is requeued, if there is one.
    pub(super) consumer: Option<ConsumerId>,
    /// A stream takes nothing back: the delivery can only be acknowledged.
    pub(super) of_stream: bool,
    /// It is requeued when the hold time has passed.
    pub(super) requeue: bool,
}

/// Entries from which on settled ones are removed. Fewer take little memory, and are not worth the search.
const COMPACT_FROM: usize = 32;

impl Held {
    /// Returns the number of held deliveries that are still unsettled.
    pub(super) fn len(&self, unsettled: &Unsettled) -> usize {
        self.deliveries.iter().filter(|held| unsettled.is_waiting(held.tag)).count()
    }

    pub(super) fn find(&self, tag: u64) -> Option<&HeldDelivery> {
        let index = self.deliveries.binary_search_by_key(&tag, |held| held.tag).ok()?;
        self.deliveries.get(index)
    }

    /// Returns whether that delivery is held and comes from a stream.
    pub(super) fn is_of_stream(&self, tag: DeliveryTag) -> bool {
        self.find(tag.get()).is_some_and(|held| held.of_stream)
    }

    /// Returns whether any held delivery comes from a stream.
    pub(super) fn any_of_stream(&self) -> bool {
        self.deliveries.iter().any(|held| held.of_stream)
    }

    pub(super) fn add(&mut self, delivery: HeldDelivery, unsettled: &Unsettled) {
        // The peer itself requeues deliveries that arrive during a `basic.recover`.
        if !unsettled.is_waiting(delivery.tag) {
            return;
        }
        if self.deliveries.len() >= self.crowded.max(COMPACT_FROM) {
            self.forget_settled(unsettled);
            self.crowded = 2 * self.deliveries.len();
        }
        let place = self.deliveries.partition_point(|held| held.tag < delivery.tag);
        // A peer may count backwards after a `basic.recover`. Then the deliveries of higher numbers are settled.
        while self
            .deliveries
            .get(place)
            .is_some_and(|next| next.tag == delivery.tag || !unsettled.may_wait(next.tag))
        {
            self.deliveries.remove(place);
        }
        self.deliveries.insert(place, delivery);
    }

    pub(super) fn forget_settled(&mut self, unsettled: &Unsettled) {
        self.deliveries.retain(|held| unsettled.may_wait(held.tag));
    }
}
