//! Unusable deliveries, and how they are settled.

use alloc::collections::VecDeque;
use alloc::vec::Vec;

use super::{ChannelState, Unsettled};
use crate::outbound::Outbound;
use crate::{ConnectionError, ConsumerId, DeliveryTag, Misuse, Oversized};

/// Deliveries that stay unacknowledged because the application never got them: for good ([`Oversized::Hold`]), or until the
/// next requeue ([`Oversized::Requeue`]). Oldest first; some may have been settled since, by their tags.
#[derive(Debug, Default)]
pub(super) struct Held {
    deliveries: VecDeque<HeldDelivery>,
    /// Settled ones are looked for when there are so many.
    crowded: usize,
}

#[derive(Debug, Clone, Copy)]
struct HeldDelivery {
    tag: u64,
    /// `basic.get` has none.
    consumer: Option<ConsumerId>,
    /// A stream takes nothing back: the delivery can only be acknowledged.
    of_stream: bool,
    /// It is requeued when the hold time has passed.
    requeue: bool,
}

/// Entries from which on settled ones are removed. Fewer take little memory, and are not worth the search.
const COMPACT_FROM: usize = 32;

impl Held {
    /// Returns the number of held deliveries that are still unsettled.
    pub(super) fn len(&self, unsettled: &Unsettled) -> usize {
        self.deliveries.iter().filter(|held| unsettled.is_waiting(held.tag)).count()
    }

    fn find(&self, tag: u64) -> Option<&HeldDelivery> {
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

    fn add(&mut self, delivery: HeldDelivery, unsettled: &Unsettled) {
        // The peer itself requeues deliveries that arrive during a `basic.recover`.
        if !unsettled.is_waiting(delivery.tag) {
            return;
        }
        if self.deliveries.len() >= self.crowded.max(COMPACT_FROM) {
            self.forget_settled(unsettled);
            self.crowded = 2 * self.deliveries.len();
        }
        // Only a peer that counts backwards after a `basic.recover` gets here; then the older deliveries are settled.
        while self.deliveries.back().is_some_and(|last| last.tag >= delivery.tag) {
            self.deliveries.pop_back();
        }
        self.deliveries.push_back(delivery);
    }

    fn forget_settled(&mut self, unsettled: &Unsettled) {
        self.deliveries.retain(|held| unsettled.may_wait(held.tag));
    }
}

impl ChannelState {
    /// Holds, requeues or rejects a delivery that cannot be taken in, as the limits say.
    pub(super) fn put_aside(
        &mut self,
        outbound: &mut Outbound,
        tag: u64,
        no_ack: bool,
        consumer: Option<ConsumerId>,
        of_stream: bool,
    ) -> Result<(), ConnectionError> {
        let requeue = match outbound.limits.oversized {
            _ if no_ack => return Ok(()),
            Oversized::Hold => false,
            _ if of_stream => return self.requeue(outbound, tag, no_ack, of_stream),
            Oversized::Requeue => true,
            Oversized::Reject => return self.reject(outbound, tag, no_ack, false),
        };
        outbound.requeues |= requeue;
        self.held.add(HeldDelivery { tag, consumer, of_stream, requeue }, &self.unsettled);
        Ok(())
    }

    /// Requeues the held deliveries of a consumer that has ended.
    pub(super) fn release_held(
        &mut self,
        outbound: &mut Outbound,
        consumer: ConsumerId,
    ) -> Result<(), ConnectionError> {
        let of_it = self.held.deliveries.iter().filter(|held| held.consumer == Some(consumer));
        let released: Vec<_> = of_it.copied().collect();
        for HeldDelivery { tag, of_stream, .. } in released {
            // Has no effect on deliveries that were settled by their tags.
            self.requeue(outbound, tag, false, of_stream)?;
        }
        self.held.forget_settled(&self.unsettled);
        Ok(())
    }

    /// The hold time has passed: requeues the held deliveries.
    pub(crate) fn requeue_held(&mut self, outbound: &mut Outbound) -> Result<(), ConnectionError> {
        let due = self.held.deliveries.iter().filter(|held| held.requeue);
        let due: Vec<_> = due.map(|held| held.tag).collect();
        for tag in due {
            // Has no effect on deliveries that were settled by their tags.
            self.reject(outbound, tag, false, true)?;
        }
        self.held.forget_settled(&self.unsettled);
        // Deliveries that the application has settled in a transaction are checked again: it may be rolled back.
        outbound.requeues |= self.held.deliveries.iter().any(|held| held.requeue);
        Ok(())
    }

    /// If a `multiple` up to `tag` would settle held deliveries: the tags of all others, to be settled one by
    /// one. The application never got those that are held, so it does not mean them.
    pub(super) fn around_held(&self, tag: DeliveryTag) -> Result<Option<Vec<DeliveryTag>>, Misuse> {
        let last = if tag.get() == 0 { u64::MAX } else { tag.get() };
        let mut held = self.held.deliveries.iter().take_while(|held| held.tag <= last);
        if !held.any(|held| self.unsettled.is_waiting(held.tag)) {
            return Ok(None);
        }
        let waiting =
            self.unsettled.waiting_up_to(last).filter(|tag| self.held.find(*tag).is_none());
        let others: Vec<_> = waiting.map(DeliveryTag).collect();
        if others.is_empty() { Err(Misuse::UnknownDelivery(tag.get())) } else { Ok(Some(others)) }
    }
}
