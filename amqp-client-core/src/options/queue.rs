use std::time::Duration;

use amqp_proto::method::QueueDeclare;

use super::{Arguments, name, takes_arguments};
use crate::error::CallError;

/// Options of a queue.
///
/// Queues are durable by default: RabbitMQ is phasing out queues that are neither durable nor exclusive.
///
/// ```
/// # use amqp_client_core as amqp_client_tokio;
/// use amqp_client_tokio::{Overflow, QueueOptions};
/// use std::time::Duration;
///
/// let options = QueueOptions::new()
///     .message_ttl(Duration::from_secs(60))
///     .max_length(10_000)
///     .overflow(Overflow::RejectPublish)
///     .dead_letter_exchange("dead");
/// ```
#[derive(Debug, Clone, PartialEq)]
#[must_use]
pub struct QueueOptions {
    durable: bool,
    exclusive: bool,
    auto_delete: bool,
    arguments: Arguments,
}

/// The type of a queue in RabbitMQ (`x-queue-type`).
///
/// ```
/// # use amqp_client_core as amqp_client_tokio;
/// use amqp_client_tokio::{QueueOptions, QueueType};
///
/// let options = QueueOptions::new().queue_type(QueueType::Quorum);
/// ```
#[derive(Debug, Clone, Copy, PartialEq, Eq, Hash)]
#[non_exhaustive]
pub enum QueueType {
    /// Stored on one node.
    Classic,
    /// Replicated by consensus; survives the loss of nodes.
    Quorum,
    /// A replicated log that consumers read from any point.
    Stream,
}

/// The behaviour of a queue when it is full (`x-overflow`).
///
/// ```
/// # use amqp_client_core as amqp_client_tokio;
/// use amqp_client_tokio::{Overflow, QueueOptions};
///
/// // The confirm of a message that does not fit fails with `ConfirmError::Nacked`.
/// let options = QueueOptions::new().max_length(10_000).overflow(Overflow::RejectPublish);
/// ```
#[derive(Debug, Clone, Copy, PartialEq, Eq, Hash)]
#[non_exhaustive]
pub enum Overflow {
    /// Drops or dead-letters its oldest message.
    DropHead,
    /// Refuses the new message: its publisher gets a `basic.nack`.
    RejectPublish,
    /// The same, and dead-letters the new message.
    RejectPublishDlx,
}

impl QueueOptions {
    /// Creates the options of a durable queue.
    pub fn new() -> Self {
        let arguments = Arguments::default();
        Self { durable: true, exclusive: false, auto_delete: false, arguments }
    }

    /// Creates the options of a queue for replies and subscriptions: exclusive to this connection, and deleted when its last
    /// consumer is cancelled or the connection ends.
    pub fn temporary() -> Self {
        Self::new().durable(false).exclusive(true).auto_delete(true)
    }

    /// Sets whether the queue survives a restart of the broker.
    pub const fn durable(mut self, durable: bool) -> Self {
        self.durable = durable;
        self
    }

    /// Sets whether only this connection may use the queue. The broker deletes an exclusive queue when its connection ends.
    pub const fn exclusive(mut self, exclusive: bool) -> Self {
        self.exclusive = exclusive;
        self
    }

    /// Sets whether the broker deletes the queue when its last consumer is cancelled.
    pub const fn auto_delete(mut self, auto_delete: bool) -> Self {
        self.auto_delete = auto_delete;
        self
    }

    /// Sets the type of the queue.
    pub fn queue_type(self, kind: QueueType) -> Self {
        self.argument(
            "x-queue-type",
            match kind {
                QueueType::Classic => "classic",
                QueueType::Quorum => "quorum",
                QueueType::Stream => "stream",
            },
        )
    }

    /// Limits how long messages may wait in the queue.
    pub fn message_ttl(mut self, time: Duration) -> Self {
        self.arguments.set_time("x-message-ttl", time);
        self
    }

    /// Sets how long the queue may be unused before the broker deletes it.
    pub fn expires(mut self, time: Duration) -> Self {
        self.arguments.set_time("x-expires", time);
        self
    }

    /// Limits the number of messages in the queue.
    pub fn max_length(self, messages: u32) -> Self {
        self.argument("x-max-length", i64::from(messages))
    }

    /// Limits the total size of the message bodies in the queue, in bytes.
    pub fn max_length_bytes(self, bytes: i64) -> Self {
        self.argument("x-max-length-bytes", bytes)
    }

    /// Sets what the queue does when it is full.
    pub fn overflow(self, overflow: Overflow) -> Self {
        self.argument(
            "x-overflow",
            match overflow {
                Overflow::DropHead => "drop-head",
                Overflow::RejectPublish => "reject-publish",
                Overflow::RejectPublishDlx => "reject-publish-dlx",
            },
        )
    }

    /// Sets the exchange for messages that expire, are rejected, or do not fit into the queue.
    pub fn dead_letter_exchange(mut self, exchange: impl AsRef<[u8]>) -> Self {
        self.arguments.set_name("x-dead-letter-exchange", exchange.as_ref());
        self
    }

    /// Sets the routing key of dead-lettered messages, instead of their own.
    pub fn dead_letter_routing_key(mut self, routing_key: impl AsRef<[u8]>) -> Self {
        self.arguments.set_name("x-dead-letter-routing-key", routing_key.as_ref());
        self
    }

    /// Sets the highest message priority; RabbitMQ recommends a single digit.
    pub fn max_priority(self, priority: u8) -> Self {
        self.argument("x-max-priority", i32::from(priority))
    }

    /// Delivers messages to only one consumer at a time; the others wait.
    pub fn single_active_consumer(self) -> Self {
        self.argument("x-single-active-consumer", true)
    }

    /// Limits how often the delivery of a message may fail before a quorum queue drops or dead-letters the message. By default,
    /// RabbitMQ 3.10 has no limit and RabbitMQ 4 has a limit of 20. [`Delivery`](crate::Delivery#failed-deliveries) describes
    /// which deliveries count.
    ///
    /// Give the queue a [dead-letter exchange](Self::dead_letter_exchange). Without one, a message over the limit is lost.
    pub fn delivery_limit(self, times: u32) -> Self {
        self.argument("x-delivery-limit", i64::from(times))
    }

    pub(crate) fn into_method(self, queue: &[u8]) -> Result<QueueDeclare, CallError> {
        Ok(QueueDeclare {
            queue: name("queue", queue)?,
            durable: self.durable,
            exclusive: self.exclusive,
            auto_delete: self.auto_delete,
            arguments: self.arguments.finish()?,
            ..QueueDeclare::default()
        })
    }
}

impl Default for QueueOptions {
    fn default() -> Self {
        Self::new()
    }
}

takes_arguments! { QueueOptions }
