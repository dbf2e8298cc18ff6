//! Settling deliveries of a session's channel, by the session's delivery tags.

use super::channel::{Reach, SessionChannel, ended};
use super::record::Mode;
use crate::{CommandError, DeliveryTag, Misuse, Settlement};

impl SessionChannel<'_> {
    /// Acknowledges one delivery; see [`Channel::ack`](crate::Channel::ack).
    ///
    /// # Errors
    /// [`CommandError`], if the delivery is not waiting for an acknowledgement.
    #[inline]
    pub fn ack(&mut self, delivery: DeliveryTag) -> Result<(), CommandError> {
        self.settle(delivery, false, |channel, tag| channel.ack(tag))?;
        self.note_settled(delivery, false);
        Ok(())
    }

    /// Acknowledges all deliveries up to and including this one; tag 0 means all.
    ///
    /// # Errors
    /// [`CommandError`], if no delivery is waiting for an acknowledgement.
    pub fn ack_up_to(&mut self, delivery: DeliveryTag) -> Result<(), CommandError> {
        self.settle(delivery, false, |channel, tag| channel.ack_up_to(tag))?;
        self.note_settled(delivery, true);
        Ok(())
    }

    /// Calls `each` with the unsettled deliveries up to and including this one; see
    /// [`Channel::unsettled_up_to`](crate::Channel::unsettled_up_to). There are none for a delivery that the broker has requeued.
    pub fn unsettled_up_to(&mut self, delivery: DeliveryTag, each: impl FnMut(DeliveryTag)) {
        let Some(tag) = self.record.tags.sent(delivery) else { return };
        let own = |tag| self.record.tags.own(tag);
        match &mut self.reach {
            Reach::Channel(channel) => channel.unsettled_up_to(tag).map(own).for_each(each),
            reach => {
                if let Some(channel) = reach.restored(self.id) {
                    channel.unsettled_up_to(tag).map(own).for_each(each);
                }
            }
        }
    }

    /// Rejects one delivery (`basic.reject`); see [`Channel::reject`](crate::Channel::reject).
    ///
    /// RabbitMQ: a stream does not requeue; it closes the connection instead (540). So a delivery of a stream is acknowledged
    /// instead, here and in the methods below: in all of them, the consumer has finished with the delivery.
    ///
    /// # Errors
    /// [`CommandError`], if the delivery is not waiting for an acknowledgement.
    pub fn reject(&mut self, delivery: DeliveryTag, requeue: bool) -> Result<(), CommandError> {
        if self.record.streams.holds(delivery) {
            return self.ack(delivery);
        }
        self.settle(delivery, requeue, |channel, tag| channel.reject(tag, requeue))
    }

    /// Returns one delivery to the broker (`basic.nack`); see [`Channel::nack`](crate::Channel::nack).
    ///
    /// # Errors
    /// [`CommandError`], if the delivery is not waiting for an acknowledgement.
    pub fn nack(&mut self, delivery: DeliveryTag, requeue: bool) -> Result<(), CommandError> {
        if self.record.streams.holds(delivery) {
            return self.ack(delivery);
        }
        self.settle(delivery, requeue, |channel, tag| channel.nack(tag, requeue))
    }

    /// Returns all unacknowledged deliveries up to and including this one; tag 0 means all.
    ///
    /// # Errors
    /// [`CommandError`], if no delivery is waiting for an acknowledgement.
    pub fn nack_up_to(&mut self, delivery: DeliveryTag, requeue: bool) -> Result<(), CommandError> {
        let all = delivery.get() == 0;
        let delivery = match self.record.tags.last() {
            // Deliveries that were not polled yet may be of a stream as well.
            Some(last) if all && self.may_read_streams() => last,
            None if all && self.may_read_streams() => {
                return Err(Misuse::UnknownDelivery(delivery.get()).into());
            }
            _ => delivery,
        };
        let of_streams = self.record.streams.held_up_to(delivery);
        for delivery in &of_streams {
            self.ack(*delivery)?;
        }
        let nacked =
            self.settle(delivery, requeue, |channel, tag| channel.nack_up_to(tag, requeue));
        match nacked {
            // All deliveries up to this one were of streams.
            Err(CommandError::Misuse(Misuse::UnknownDelivery(_))) if !of_streams.is_empty() => {
                Ok(())
            }
            result => result,
        }
    }

    /// Settles one delivery regardless of the outcome of a transaction; see [`Channel::settle_apart`](crate::Channel::settle_apart).
    ///
    /// # Errors
    /// [`CommandError`], if the delivery is not waiting for an acknowledgement.
    pub fn settle_apart(
        &mut self,
        delivery: DeliveryTag,
        settlement: Settlement,
    ) -> Result<(), CommandError> {
        let of_stream = self.record.streams.holds(delivery);
        let settlement = if of_stream { Settlement::Ack } else { settlement };
        self.act(delivery, true, |channel, tag| channel.settle_apart(tag, settlement))?;
        if of_stream {
            self.record.streams.settled(delivery, false, false);
        }
        Ok(())
    }

    /// Leaves a delivery unacknowledged until the channel is closed; see [`Channel::hold`](crate::Channel::hold). A delivery of a
    /// stream is acknowledged instead.
    ///
    /// # Errors
    /// [`CommandError`], if the delivery is not waiting for an acknowledgement.
    pub fn hold(&mut self, delivery: DeliveryTag) -> Result<(), CommandError> {
        if self.record.streams.holds(delivery) {
            return self.settle_apart(delivery, Settlement::Ack);
        }
        self.act(delivery, true, |channel, tag| channel.hold(tag))
    }

    /// Requeues all unacknowledged deliveries; see [`Channel::requeue_all`](crate::Channel::requeue_all).
    pub fn requeue_all(&mut self) {
        if self.may_read_streams() {
            // Deliveries in flight may be of a stream, so only those that have arrived are requeued.
            let _none = self.nack_up_to(DeliveryTag::new(0), true);
            return;
        }
        match &mut self.reach {
            Reach::Channel(channel) => channel.requeue_all(),
            // Deliveries that arrived while the channel is being restored.
            reach => {
                if let Some(mut channel) = reach.restored(self.id) {
                    channel.requeue_all();
                }
            }
        }
    }

    /// Requests redelivery of all unacknowledged deliveries, without a reply; see
    /// [`Channel::recover_async`](crate::Channel::recover_async). Without a connection, that happens anyway.
    ///
    /// # Errors
    /// [`CommandError`].
    pub fn recover_async(&mut self, requeue: bool) -> Result<(), CommandError> {
        match &mut self.reach {
            Reach::Channel(channel) => channel.recover_async(requeue),
            Reach::Ended(over) => Err(ended(self.id, *over).into()),
            // There may be deliveries already on a channel that is being restored.
            reach => reach.restored(self.id).map_or(Ok(()), |mut own| own.recover_async(requeue)),
        }
    }

    /// Returns whether deliveries on the channel may come from streams.
    fn may_read_streams(&self) -> bool {
        let mut consumers = self.record.consumers.iter().map(|consumer| &consumer.consume.queue);
        self.record.streams.any()
            || self.record.streams.may_bring()
            || consumers.any(|queue| self.topology.is_stream(queue))
            || matches!(&self.reach, Reach::Channel(channel) if channel.holds_of_stream())
    }

    /// Settles deliveries by the broker's tag. Deliveries that arrived while the channel is being restored can be settled as well.
    #[inline]
    fn settle(
        &mut self,
        delivery: DeliveryTag,
        requeue: bool,
        act: impl FnOnce(&mut crate::Channel<'_>, DeliveryTag) -> Result<(), CommandError>,
    ) -> Result<(), CommandError> {
        self.act(delivery, requeue, act)?;
        self.record.mode.work();
        Ok(())
    }

    /// Like `settle`, without marking the transaction as having work that a loss would undo.
    fn act(
        &mut self,
        delivery: DeliveryTag,
        requeue: bool,
        act: impl FnOnce(&mut crate::Channel<'_>, DeliveryTag) -> Result<(), CommandError>,
    ) -> Result<(), CommandError> {
        let Some(tag) = self.record.tags.sent(delivery) else {
            return self.stale(delivery, requeue);
        };
        let settled = match &mut self.reach {
            Reach::Channel(channel) => act(channel, tag),
            Reach::Ended(over) => return Err(ended(self.id, *over).into()),
            reach => match reach.restored(self.id) {
                Some(mut channel) => act(&mut channel, tag),
                None => return self.stale(delivery, requeue),
            },
        };
        match settled {
            // The delivery was requested again (`basic.recover`).
            Err(CommandError::Misuse(Misuse::StaleDelivery(_))) => self.stale(delivery, requeue),
            settled => settled.map_err(|error| named(error, delivery)),
        }
    }

    /// Notes settled deliveries, so that readers of streams resume after them.
    #[inline]
    fn note_settled(&mut self, delivery: DeliveryTag, up_to: bool) {
        if self.record.streams.any() {
            let in_transaction = matches!(self.record.mode, Mode::Tx { .. });
            self.record.streams.settled(delivery, up_to, in_transaction);
        }
    }

    /// Handles a delivery that the broker has requeued. A transaction that meant to settle it in another way must not be committed:
    /// the message would be delivered again although the work for it was committed.
    #[cold]
    fn stale(&mut self, delivery: DeliveryTag, requeue: bool) -> Result<(), CommandError> {
        if !requeue {
            self.record.mode.lose();
        }
        Err(Misuse::StaleDelivery(delivery.get()).into())
    }
}

/// Replaces the broker's tag in an error with the session's.
fn named(error: CommandError, delivery: DeliveryTag) -> CommandError {
    match error {
        CommandError::Misuse(Misuse::UnknownDelivery(_)) => {
            Misuse::UnknownDelivery(delivery.get()).into()
        }
        other => other,
    }
}
