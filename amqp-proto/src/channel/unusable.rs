//! Unusable deliveries, and how they are settled.

use alloc::vec::Vec;

use super::held::HeldDelivery;
use super::state::ChannelState;
use crate::outbound::Outbound;
use crate::{ConnectionError, ConsumerId, DeliveryTag, Misuse, Oversized};

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
