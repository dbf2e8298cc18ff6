use std::time::Duration;

use amqp_proto::method::QueueDeclare;

use super::queue_values::{Overflow, QueueType};
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
    pub(super) arguments: Arguments,
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
        self.argument("x-queue-type", kind.as_str())
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
        self.argument("x-overflow", overflow.as_str())
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
