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
    /// Each with its consumer; `basic.get` has none.
    deliveries: VecDeque<(u64, Option<ConsumerId>)>,
}

impl Held {
    /// How many are still unsettled.
    pub(super) fn len(&self, unsettled: &Unsettled) -> usize {
        self.deliveries.iter().filter(|(tag, _)| unsettled.is_waiting(*tag)).count()
    }

    fn contains(&self, tag: u64) -> bool {
        self.deliveries.binary_search_by_key(&tag, |(held, _)| *held).is_ok()
    }

    fn add(&mut self, tag: u64, consumer: Option<ConsumerId>, unsettled: &Unsettled) {
        while self.deliveries.front().is_some_and(|(oldest, _)| !unsettled.is_waiting(*oldest)) {
            self.deliveries.pop_front();
        }
        self.deliveries.push_back((tag, consumer));
    }

    fn take(&mut self, consumer: ConsumerId) -> Option<u64> {
        let index = self.deliveries.iter().position(|(_, of)| *of == Some(consumer))?;
        self.deliveries.remove(index).map(|(tag, _)| tag)
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
    ) -> Result<(), ConnectionError> {
        match link.limits.oversized {
            Oversized::Hold if no_ack => Ok(()),
            Oversized::Hold => {
                self.held.add(tag, consumer, &self.unsettled);
                Ok(())
            }
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
        while let Some(tag) = self.held.take(consumer) {
            if self.unsettled.is_waiting(tag) {
                self.requeue(link, tag, false, false)?;
            }
        }
        Ok(())
    }

    /// If a `multiple` up to `tag` would settle deliveries that are held: the tags of all the others, to be settled one by
    /// one. The application never got those that are held, so it does not mean them.
    pub(super) fn around_held(&self, tag: DeliveryTag) -> Result<Option<Vec<DeliveryTag>>, Misuse> {
        let last = if tag.get() == 0 { u64::MAX } else { tag.get() };
        let held = self.held.deliveries.iter().take_while(|(held, _)| *held <= last);
        if !held.into_iter().any(|(held, _)| self.unsettled.is_waiting(*held)) {
            return Ok(None);
        }
        let waiting = self.unsettled.waiting_up_to(last).filter(|tag| !self.held.contains(*tag));
        let others: Vec<_> = waiting.map(DeliveryTag).collect();
        if others.is_empty() { Err(Misuse::UnknownDelivery(tag.get())) } else { Ok(Some(others)) }
    }
}
