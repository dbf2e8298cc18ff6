use std::time::Duration;

use amqp_proto::method::QueueDeclare;

use super::{Arguments, takes_arguments};
use crate::channel::name;
use crate::error::CallError;

/// What a queue is like.
///
/// Durable unless said otherwise: RabbitMQ is giving up queues that are neither durable nor exclusive.
///
/// ```
/// use amqp_client_core::{Overflow, QueueOptions};
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

/// How RabbitMQ keeps a queue (`x-queue-type`).
#[derive(Debug, Clone, Copy, PartialEq, Eq, Hash)]
#[non_exhaustive]
pub enum QueueType {
    /// On one node.
    Classic,
    /// Replicated by consensus; survives the loss of nodes.
    Quorum,
    /// A replicated log that consumers read from any point.
    Stream,
}

/// What a queue does when it is full (`x-overflow`).
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
    /// A durable queue without further ado.
    pub fn new() -> Self {
        let arguments = Arguments::default();
        Self { durable: true, exclusive: false, auto_delete: false, arguments }
    }

    /// A queue for this connection alone, which goes with it: for replies and subscriptions.
    pub fn temporary() -> Self {
        Self::new().durable(false).exclusive(true).auto_delete(true)
    }

    /// Whether it survives a restart of the broker.
    pub const fn durable(mut self, durable: bool) -> Self {
        self.durable = durable;
        self
    }

    /// Whether only this connection may use it, and it goes with the connection.
    pub const fn exclusive(mut self, exclusive: bool) -> Self {
        self.exclusive = exclusive;
        self
    }

    /// Whether it goes when its last consumer goes.
    pub const fn auto_delete(mut self, auto_delete: bool) -> Self {
        self.auto_delete = auto_delete;
        self
    }

    /// How RabbitMQ keeps it.
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

    /// How long messages may wait in it.
    pub fn message_ttl(mut self, time: Duration) -> Self {
        self.arguments.set_time("x-message-ttl", time);
        self
    }

    /// How long it may be unused before it is deleted.
    pub fn expires(mut self, time: Duration) -> Self {
        self.arguments.set_time("x-expires", time);
        self
    }

    /// How many messages it holds.
    pub fn max_length(self, messages: u32) -> Self {
        self.argument("x-max-length", i64::from(messages))
    }

    /// How many octets of bodies it holds.
    pub fn max_length_bytes(self, octets: i64) -> Self {
        self.argument("x-max-length-bytes", octets)
    }

    /// What it does when it is full.
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

    /// Where messages go that expire, are rejected, or do not fit.
    pub fn dead_letter_exchange(self, exchange: &str) -> Self {
        self.argument("x-dead-letter-exchange", exchange)
    }

    /// The routing key they go with, instead of their own.
    pub fn dead_letter_routing_key(self, routing_key: &str) -> Self {
        self.argument("x-dead-letter-routing-key", routing_key)
    }

    /// The highest priority of messages; RabbitMQ advises single digits.
    pub fn max_priority(self, priority: u8) -> Self {
        self.argument("x-max-priority", i32::from(priority))
    }

    /// Only one of its consumers gets messages, the others stand by.
    pub fn single_active_consumer(self) -> Self {
        self.argument("x-single-active-consumer", true)
    }

    /// How often the delivery of a message may fail before a quorum queue drops or dead-letters the message. RabbitMQ 3.10 has no
    /// limit by default, RabbitMQ 4 one of 20. Which deliveries count is described at
    /// [`Delivery`](crate::Delivery#to-blame-or-not-to-blame).
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
