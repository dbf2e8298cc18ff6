use std::fmt;
use std::ops::Deref;

use amqp_proto::{DecodeError, Settlement};

use crate::channel::Channel;
use crate::error::CallError;
use crate::intercept::{HandlerScope, ProcessingId, Settled};
use crate::message::MessageProperties;
use crate::panics;

/// A delivered message that has to be acknowledged.
///
/// It dereferences to the [`Delivery`](amqp_proto::Delivery) of the protocol, which has the message's content. Acknowledging
/// consumes the delivery, so a double ack does not compile. Settling never waits for the broker. Consecutive acknowledgements are
/// merged into one.
///
/// A delivery that is dropped without being settled is requeued (`basic.nack`), unless it needs no acknowledgement. It keeps its
/// channel open until then. Dropping a delivery is not part of a [transaction](Channel::transaction): the delivery is requeued
/// when the transaction ends, whether it is committed or rolled back.
///
/// ```no_run
/// # use amqp_client_core as amqp_client_tokio;
/// # use amqp_client_tokio::Delivery;
/// # async fn example(delivery: Delivery) -> Result<(), Box<dyn std::error::Error>> {
/// println!("{}: {} bytes", delivery.routing_key(), delivery.body().len());
/// if delivery.redelivered() && delivery.text().is_err() {
///     // To the dead-letter exchange, if the queue has one.
///     delivery.reject(false)?;
/// } else {
///     delivery.ack()?;
/// }
/// # Ok(())
/// # }
/// ```
///
/// Unit tests of handlers make deliveries with [`testing`](crate::testing), without a broker.
///
/// # Failed deliveries
/// From RabbitMQ 4.3, a quorum queue counts failed deliveries, and drops or dead-letters a message beyond its limit
/// (`x-delivery-limit`, default 20):
///
/// - A [`reject`](Self::reject) counts as a failure. So does a panic while the delivery is held, because the delivery is then
///   rejected.
/// - A [`nack`](Self::nack) does not count. Nor do dropped deliveries, or deliveries that a dropped consumer had not taken.
/// - Deliveries that are unsettled when their channel or connection is closed or lost count as failed. Deliveries that are
///   unsettled at the end of a [shutdown](crate::Connection::shutdown), or when the last handle of their channel is dropped, do
///   not count. On a channel that also reads a stream, this applies only to deliveries that have arrived at the client.
///
/// Up to RabbitMQ 4.2, every requeue counts. So with RabbitMQ 4.0 to 4.2, a message whose delivery is dropped 21 times is lost.
///
/// So set a [dead-letter exchange](crate::QueueOptions::dead_letter_exchange) for a quorum queue. It then gets the messages
/// beyond the limit.
#[must_use = "a delivery that is dropped is requeued"]
pub struct Delivery {
    message: amqp_proto::Delivery,
    channel: Channel,
    /// How it was settled, or is to be. An observer gets this when the delivery is dropped.
    settled: Option<Settled>,
    on_panic: OnPanic,
    /// Set if the connection has an interceptor.
    processing: Option<ProcessingId>,
}

/// Policy for a delivery whose handler panics.
///
/// ```no_run
/// # use amqp_client_core as amqp_client_tokio;
/// # use amqp_client_tokio::Queue;
/// use amqp_client_tokio::{ConsumeOptions, OnPanic};
///
/// # async fn example(queue: Queue) -> Result<(), Box<dyn std::error::Error>> {
/// let consumer = queue.consume(ConsumeOptions::new()).await?.on_panic(OnPanic::Reject);
/// consumer.for_each_concurrent(8, async |delivery| handle(delivery)).await?;
/// # fn handle(_: amqp_client_tokio::Delivery) {}
/// # Ok(())
/// # }
/// ```
#[derive(Debug, Clone, Copy, PartialEq, Eq, Default)]
#[non_exhaustive]
pub enum OnPanic {
    /// The delivery is rejected and requeued, and the panic propagates to the task or thread that runs the handlers.
    #[default]
    Propagate,
    /// The delivery is rejected and requeued; the other handlers continue. A message that makes its handler panic each time is
    /// delivered again and again, unless its queue has a limit (`x-delivery-limit`).
    Requeue,
    /// The delivery is dropped or dead-lettered; the other handlers continue.
    Reject,
}

impl Delivery {
    #[inline]
    pub(crate) fn new(
        channel: Channel,
        message: amqp_proto::Delivery,
        on_panic: OnPanic,
        processing: Option<ProcessingId>,
    ) -> Self {
        let settled = message.no_ack().then_some(Settled::Unneeded);
        Self { message, channel, settled, on_panic, processing }
    }

    /// Acknowledges the delivery (`basic.ack`). Does nothing if it needs no acknowledgement.
    ///
    /// If the connection was lost since the delivery, or [`basic_recover`](Channel::basic_recover) requested it again, the delivery
    /// is stale: the broker has requeued the message and delivers it again. Then this method returns `Ok`, settles no other
    /// delivery, and is counted in [`Health::stale`](crate::Health::stale). [`is_stale`](Self::is_stale) checks beforehand. In a
    /// transaction, the commit fails with [`Misuse::TransactionLost`](amqp_proto::Misuse::TransactionLost). The same applies to
    /// all methods that settle a delivery.
    ///
    /// # Errors
    /// [`CallError`], if the channel is closed.
    pub fn ack(mut self) -> Result<(), CallError> {
        self.settle(Settled::Acked, |channel, tag| channel.basic_ack(tag))
    }

    /// Acknowledges this delivery and all earlier deliveries of the channel.
    ///
    /// If several consumers share the channel, these include deliveries that you have not taken from the others yet. After a loss
    /// of the connection, the broker does not deliver them again. So acknowledge in this way only if the channel has one consumer,
    /// or if you have taken all earlier deliveries.
    ///
    /// # Errors
    /// As [`ack`](Self::ack).
    pub fn ack_up_to(mut self) -> Result<(), CallError> {
        self.settle(Settled::Acked, |channel, tag| channel.basic_ack_up_to(tag))
    }

    /// Returns the delivery to the broker (`basic.nack`). The broker requeues it if `requeue` is set, and otherwise drops or
    /// dead-letters it. From RabbitMQ 4.3, this does not count as a [failed delivery](Self#failed-deliveries).
    ///
    /// # Errors
    /// As [`ack`](Self::ack).
    pub fn nack(mut self, requeue: bool) -> Result<(), CallError> {
        self.settle(Settled::Nacked { requeue }, |channel, tag| channel.basic_nack(tag, requeue))
    }

    /// Returns this delivery and all earlier unacknowledged deliveries of the channel, like [`nack`](Self::nack).
    ///
    /// # Errors
    /// As [`ack`](Self::ack).
    pub fn nack_up_to(mut self, requeue: bool) -> Result<(), CallError> {
        let how = Settled::Nacked { requeue };
        self.settle(how, |channel, tag| channel.basic_nack_up_to(tag, requeue))
    }

    /// Rejects the delivery (`basic.reject`). The broker requeues it if `requeue` is set, and otherwise drops or dead-letters it.
    /// Quorum queues count it as a [failed delivery](Self#failed-deliveries).
    ///
    /// # Errors
    /// As [`ack`](Self::ack).
    pub fn reject(mut self, requeue: bool) -> Result<(), CallError> {
        let how = Settled::Rejected { requeue };
        self.settle(how, |channel, tag| channel.basic_reject(tag, requeue))
    }

    /// Returns the message without settling the delivery. It stays unacknowledged until its delivery tag is settled or the channel
    /// ends.
    #[must_use]
    pub fn into_message(mut self) -> amqp_proto::Delivery {
        self.settled = Some(Settled::Detached);
        self.message.clone()
    }

    /// Returns the channel of the delivery.
    #[must_use]
    pub fn channel(&self) -> &Channel {
        &self.channel
    }

    /// Returns whether the delivery is stale, for example because the connection was lost since. Then the broker has requeued the
    /// message and delivers it again, and settling this delivery does nothing. Long-running work can check this and stop early.
    #[must_use]
    pub fn is_stale(&self) -> bool {
        self.channel.is_stale(&self.message)
    }

    /// Returns the body as text.
    ///
    /// # Errors
    /// If the body is not UTF-8.
    pub fn text(&self) -> Result<&str, std::str::Utf8Error> {
        std::str::from_utf8(self.message.body())
    }

    /// Decodes all properties to native types. To read a single property,
    /// [`properties`](amqp_proto::Delivery::properties) is faster.
    ///
    /// # Errors
    /// [`DecodeError`] if one of the properties is malformed. The body is not affected, and
    /// [`properties`](amqp_proto::Delivery::properties) reads the other properties one by one.
    pub fn message_properties(&self) -> Result<MessageProperties, DecodeError> {
        MessageProperties::try_from(&self.message.properties())
    }

    /// Returns the surroundings of the code that handles the delivery, as the connection's [interceptor](crate::intercept) defines
    /// them. Without an interceptor, they are empty.
    #[must_use]
    pub fn scope(&self) -> HandlerScope {
        let observers = self.channel.connection().shared().observers.as_ref();
        let scope = observers.zip(self.processing).map(|(observers, id)| observers.scope(id));
        scope.unwrap_or_default()
    }

    fn settle(
        &mut self,
        how: Settled,
        settle: impl FnOnce(&Channel, amqp_proto::DeliveryTag) -> Result<(), CallError>,
    ) -> Result<(), CallError> {
        if self.settled.is_some() {
            return Ok(());
        }
        self.settled = Some(how);
        match settle(&self.channel, self.message.delivery_tag()) {
            Ok(()) => Ok(()),
            Err(error) => {
                // It had no effect. If the channel is open, the delivery was settled by its tag, or with a later one.
                self.settled = Some(Settled::Elsewhere);
                Err(error)
            }
        }
    }

    /// Settles a delivery that is dropped. Returns whether that had an effect, and how it was settled.
    fn settle_dropped(&self) -> (bool, Settled) {
        let requeue = self.on_panic != OnPanic::Reject;
        let (settlement, how) = match panics::is_to_blame() {
            true => (Settlement::Reject { requeue }, Settled::Panicked { requeue }),
            false => (Settlement::Nack { requeue: true }, Settled::Dropped),
        };
        (self.channel.settle_apart(self.message.delivery_tag(), settlement), how)
    }

    /// Ends a delivery that has an observer. Apart, so that other deliveries do not pay for it.
    #[cold]
    #[inline(never)]
    fn drop_observed(&mut self) {
        let how = match self.settled {
            Some(how @ (Settled::Unneeded | Settled::Detached)) => how,
            _ if self.is_stale() => Settled::Stale,
            Some(how) if self.channel.is_open() => how,
            Some(_) => Settled::ChannelClosed,
            None => match self.settle_dropped() {
                (true, Settled::Dropped | Settled::Panicked { requeue: true })
                    if self.channel.is_holding() =>
                {
                    Settled::Held
                }
                (true, how) => how,
                (false, _) if self.channel.is_open() => Settled::Elsewhere,
                (false, _) => Settled::ChannelClosed,
            },
        };
        let observers = self.channel.connection().shared().observers.as_ref();
        if let Some((observers, id)) = observers.zip(self.processing.take()) {
            observers.settled(id, how);
        }
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
        if self.processing.is_some() {
            return self.drop_observed();
        }
        // The broker has requeued a stale delivery already.
        if self.settled.is_none() && !self.is_stale() {
            self.settle_dropped();
        }
    }
}

/// A message fetched with `basic.get`.
///
/// ```no_run
/// # use amqp_client_core as amqp_client_tokio;
/// # use amqp_client_tokio::Queue;
/// # async fn example(queue: Queue) -> Result<(), Box<dyn std::error::Error>> {
/// while let Some(got) = queue.get().await? {
///     println!("{} more", got.message_count);
///     got.delivery.ack()?;
/// }
/// # Ok(())
/// # }
/// ```
#[derive(Debug)]
#[non_exhaustive]
pub struct Got {
    /// The message.
    pub delivery: Delivery,
    /// Number of messages left in the queue.
    pub message_count: u32,
}
