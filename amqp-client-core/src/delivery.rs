use std::fmt;
use std::ops::Deref;

use amqp_proto::{DecodeError, Settlement};

use crate::channel::Channel;
use crate::error::CallError;
use crate::message::MessageProperties;

/// A message that was delivered, and the duty to acknowledge it.
///
/// It reads like the [`Delivery`](amqp_proto::Delivery) of the protocol, which it dereferences to. Acknowledging consumes
/// it, so it cannot happen twice. None of the ways to settle it waits for the broker, and acknowledgements that belong
/// together travel as one.
///
/// One that is dropped without being settled is requeued (`basic.nack`), unless it needs no acknowledgement. It keeps its
/// channel open until then. To drop a delivery is not part of a [transaction](Channel::transaction): the delivery is requeued
/// when that ends, whether it is committed or rolled back.
///
/// # To blame or not to blame
/// From RabbitMQ 4.3 a quorum queue counts failed deliveries, and drops or dead-letters a message beyond its limit
/// (`x-delivery-limit`, default 20). A [`reject`](Self::reject) counts, and a panic while the delivery is held does, because it is
/// rejected then. A [`nack`](Self::nack) does not count, nor does whatever else is returned untouched: dropped deliveries, and
/// what a consumer had not taken when it was dropped. Deliveries that are unsettled when their channel or connection is closed
/// or lost count as failed; those that are left at a [shutdown](crate::Connection::shutdown) do not. Up to 4.2, everything that is
/// requeued counts: from 4.0, a message that is dropped 21 times is gone.
///
/// So give a quorum queue a [dead-letter exchange](crate::QueueOptions::dead_letter_exchange). What is over the limit is kept then.
#[must_use = "a delivery that is dropped goes back to its queue"]
pub struct Delivery {
    message: amqp_proto::Delivery,
    channel: Channel,
    settled: bool,
    on_panic: OnPanic,
}

/// What becomes of a delivery whose handler panics.
#[derive(Debug, Clone, Copy, PartialEq, Eq, Default)]
#[non_exhaustive]
pub enum OnPanic {
    /// It is rejected and requeued, and the panic goes on: whoever runs the handlers ends with it.
    #[default]
    Propagate,
    /// It is rejected and requeued; the other handlers go on. A message that makes its handler panic each time comes again and
    /// again, unless its queue limits that (`x-delivery-limit`).
    Requeue,
    /// It is dropped or dead-lettered; the other handlers go on.
    Reject,
}

impl Delivery {
    pub(crate) fn new(channel: Channel, message: amqp_proto::Delivery) -> Self {
        let settled = message.no_ack();
        Self { message, channel, settled, on_panic: OnPanic::Propagate }
    }

    pub(crate) const fn with_on_panic(mut self, on_panic: OnPanic) -> Self {
        self.on_panic = on_panic;
        self
    }

    /// Acknowledges it (`basic.ack`). Does nothing for one that needs no acknowledgement.
    ///
    /// If the connection was lost since it came, or it was [asked for again](Channel::basic_recover), the broker has requeued the message and delivers it again. There is nothing to
    /// settle then, and nothing to do about it: this is `Ok`, settles no other delivery, and is counted
    /// ([`Health::stale`](crate::Health::stale)). [`is_stale`](Self::is_stale) tells beforehand. In a transaction the commit
    /// fails, with [`Misuse::TransactionLost`](amqp_proto::Misuse::TransactionLost). The same holds for all ways to settle.
    ///
    /// # Errors
    /// [`CallError`], if the channel is closed.
    pub fn ack(mut self) -> Result<(), CallError> {
        self.settle(|channel, tag| channel.basic_ack(tag, false))
    }

    /// Acknowledges it and all deliveries of the channel before it.
    ///
    /// # Errors
    /// As [`ack`](Self::ack).
    pub fn ack_up_to(mut self) -> Result<(), CallError> {
        self.settle(|channel, tag| channel.basic_ack(tag, true))
    }

    /// Returns it without blame (`basic.nack`): the broker requeues it, or else drops or dead-letters it.
    ///
    /// # Errors
    /// As [`ack`](Self::ack).
    pub fn nack(mut self, requeue: bool) -> Result<(), CallError> {
        self.settle(|channel, tag| channel.basic_nack(tag, false, requeue))
    }

    /// Returns it and all unacknowledged deliveries of the channel before it, as [`nack`](Self::nack) does.
    ///
    /// # Errors
    /// As [`ack`](Self::ack).
    pub fn nack_up_to(mut self, requeue: bool) -> Result<(), CallError> {
        self.settle(|channel, tag| channel.basic_nack(tag, true, requeue))
    }

    /// Rejects it (`basic.reject`): the broker requeues it, or else drops or dead-letters it. Quorum queues count it as a
    /// [failed delivery](Self#to-blame-or-not-to-blame).
    ///
    /// # Errors
    /// As [`ack`](Self::ack).
    pub fn reject(mut self, requeue: bool) -> Result<(), CallError> {
        self.settle(|channel, tag| channel.basic_reject(tag, requeue))
    }

    /// Leaves it as it is: it stays unacknowledged until its number is acknowledged, or the channel ends. Returns the
    /// message.
    #[must_use]
    pub fn into_message(mut self) -> amqp_proto::Delivery {
        self.settled = true;
        self.message.clone()
    }

    /// The channel it came on.
    #[must_use]
    pub fn channel(&self) -> &Channel {
        &self.channel
    }

    /// Whether the connection was lost since it came: then the broker has requeued it and delivers it again, and settling it does
    /// nothing. Work that takes long can look here whether it is still worth it.
    #[must_use]
    pub fn is_stale(&self) -> bool {
        self.channel.is_stale(&self.message)
    }

    /// The body as a text.
    ///
    /// # Errors
    /// Where it is not UTF-8.
    pub fn text(&self) -> Result<&str, std::str::Utf8Error> {
        std::str::from_utf8(self.message.body())
    }

    /// All properties, decoded to native types. To look at one of them,
    /// [`properties`](amqp_proto::Delivery::properties) is faster.
    ///
    /// # Errors
    /// [`DecodeError`] if one of them is malformed. The body is as it should be, and
    /// [`properties`](amqp_proto::Delivery::properties) reads the others one by one.
    pub fn message_properties(&self) -> Result<MessageProperties, DecodeError> {
        MessageProperties::try_from(&self.message.properties())
    }

    fn settle(
        &mut self,
        settle: impl FnOnce(&Channel, amqp_proto::DeliveryTag) -> Result<(), CallError>,
    ) -> Result<(), CallError> {
        if std::mem::replace(&mut self.settled, true) {
            return Ok(());
        }
        settle(&self.channel, self.message.delivery_tag())
    }
}

impl Deref for Delivery {
    type Target = amqp_proto::Delivery;

    fn deref(&self) -> &amqp_proto::Delivery {
        &self.message
    }
}

/// For log lines: where the message came from and how large it is, but neither body nor properties.
impl fmt::Debug for Delivery {
    fn fmt(&self, f: &mut fmt::Formatter<'_>) -> fmt::Result {
        self.message.fmt(f)
    }
}

impl Drop for Delivery {
    fn drop(&mut self) {
        // The broker has requeued it.
        if self.settled || self.is_stale() {
            return;
        }
        let settlement = match std::thread::panicking() {
            true => Settlement::Reject { requeue: self.on_panic != OnPanic::Reject },
            false => Settlement::Nack { requeue: true },
        };
        self.channel.settle_apart(self.message.delivery_tag(), settlement);
    }
}

/// A message that was asked for with `basic.get`.
#[derive(Debug)]
#[non_exhaustive]
pub struct Got {
    /// The message.
    pub delivery: Delivery,
    /// How many messages were left in the queue.
    pub message_count: u32,
}
