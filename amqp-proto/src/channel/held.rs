//! Deliveries that cannot be taken in, and what becomes of them.

use alloc::collections::VecDeque;
use alloc::vec::Vec;

use super::{ChannelState, Unsettled};
use crate::link::Link;
use crate::{ConnectionError, ConsumerId, DeliveryTag, Misuse, Oversized};

/// Deliveries that stay unacknowledged because the application never got them ([`Oversized::Hold`]), oldest first. Some may
/// have been settled since, by their tags.
#[derive(Debug, Default)]
pub(super) struct Held {
    deliveries: VecDeque<HeldDelivery>,
}

#[derive(Debug, Clone, Copy)]
struct HeldDelivery {
    tag: u64,
    /// `basic.get` has none.
    consumer: Option<ConsumerId>,
    /// A stream takes nothing back: the delivery can only be acknowledged.
    of_stream: bool,
}

impl Held {
    /// How many are still unsettled.
    pub(super) fn len(&self, unsettled: &Unsettled) -> usize {
        self.deliveries.iter().filter(|held| unsettled.is_waiting(held.tag)).count()
    }

    fn find(&self, tag: u64) -> Option<&HeldDelivery> {
        let index = self.deliveries.binary_search_by_key(&tag, |held| held.tag).ok()?;
        self.deliveries.get(index)
    }

    /// Whether that delivery is held, and of a stream.
    pub(super) fn is_of_stream(&self, tag: DeliveryTag) -> bool {
        self.find(tag.get()).is_some_and(|held| held.of_stream)
    }

    /// Whether deliveries of streams are held.
    pub(super) fn any_of_stream(&self) -> bool {
        self.deliveries.iter().any(|held| held.of_stream)
    }

    fn add(&mut self, delivery: HeldDelivery, unsettled: &Unsettled) {
        while self.deliveries.front().is_some_and(|oldest| !unsettled.is_waiting(oldest.tag)) {
            self.deliveries.pop_front();
        }
        self.deliveries.push_back(delivery);
    }

    fn take(&mut self, consumer: ConsumerId) -> Option<HeldDelivery> {
        let index = self.deliveries.iter().position(|held| held.consumer == Some(consumer))?;
        self.deliveries.remove(index)
    }
}

impl ChannelState {
    /// Holds, requeues or rejects a delivery that cannot be taken in, as the limits say.
    pub(super) fn put_aside(
        &mut self,
        link: &mut Link,
        tag: u64,
        no_ack: bool,
        consumer: Option<ConsumerId>,
        of_stream: bool,
    ) -> Result<(), ConnectionError> {
        match link.limits.oversized {
            Oversized::Hold if no_ack => Ok(()),
            Oversized::Hold => {
                self.held.add(HeldDelivery { tag, consumer, of_stream }, &self.unsettled);
                Ok(())
            }
            _ if of_stream => self.requeue(link, tag, no_ack, of_stream),
            Oversized::Requeue => self.give_back(link, tag, no_ack, true),
            Oversized::Reject => self.give_back(link, tag, no_ack, false),
        }
    }

    /// Requeues what is held for a consumer that has ended.
    pub(super) fn release_held(
        &mut self,
        link: &mut Link,
        consumer: ConsumerId,
    ) -> Result<(), ConnectionError> {
        while let Some(HeldDelivery { tag, of_stream, .. }) = self.held.take(consumer) {
            if self.unsettled.is_waiting(tag) {
                self.requeue(link, tag, false, of_stream)?;
            }
        }
        Ok(())
    }

    /// If a `multiple` up to `tag` would settle deliveries that are held: the tags of all the others, to be settled one by
    /// one. The application never got those that are held, so it does not mean them.
    pub(super) fn around_held(&self, tag: DeliveryTag) -> Result<Option<Vec<DeliveryTag>>, Misuse> {
        let last = if tag.get() == 0 { u64::MAX } else { tag.get() };
        let held = self.held.deliveries.iter().take_while(|held| held.tag <= last);
        if !held.into_iter().any(|held| self.unsettled.is_waiting(held.tag)) {
            return Ok(None);
        }
        let waiting =
            self.unsettled.waiting_up_to(last).filter(|tag| self.held.find(*tag).is_none());
        let others: Vec<_> = waiting.map(DeliveryTag).collect();
        if others.is_empty() { Err(Misuse::UnknownDelivery(tag.get())) } else { Ok(Some(others)) }
    }
}
