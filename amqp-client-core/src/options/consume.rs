use amqp_proto::method::BasicConsume;
use amqp_proto::{Timestamp, Value};

use super::{Arguments, takes_arguments};
use crate::channel::name;
use crate::error::CallError;

/// How a consumer takes messages. Deliveries need an acknowledgement unless said otherwise.
#[derive(Debug, Clone, PartialEq, Default)]
#[must_use]
pub struct ConsumeOptions {
    consumer_tag: String,
    no_local: bool,
    no_ack: bool,
    exclusive: bool,
    /// It is no part of the request.
    pub(crate) pausable: Option<bool>,
    arguments: Arguments,
}

/// Where a consumer of a stream begins (`x-stream-offset`).
#[derive(Debug, Clone, Copy, PartialEq, Eq, Hash)]
#[non_exhaustive]
pub enum StreamOffset {
    /// With the first message there is.
    First,
    /// With the last chunk of messages.
    Last,
    /// With the next message.
    Next,
    /// With the message of this number.
    Offset(i64),
    /// With messages from that time on.
    Timestamp(Timestamp),
}

impl ConsumeOptions {
    /// A consumer that acknowledges.
    pub fn new() -> Self {
        Self::default()
    }

    /// The consumer's name within the channel. Without one, the client chooses.
    ///
    /// Do not use a name again on the same channel before the deliveries of the consumer that had it are settled. RabbitMQ 3.10
    /// mistakes the new consumer of a quorum queue for the old one: it gets nothing, and its channel breaks after 30 seconds.
    pub fn consumer_tag(mut self, tag: impl Into<String>) -> Self {
        self.consumer_tag = tag.into();
        self
    }

    /// Whether deliveries need no acknowledgement. What is on its way when the consumer or the connection goes, is lost
    /// then; and only the speed of the network limits what comes.
    pub const fn no_ack(mut self, no_ack: bool) -> Self {
        self.no_ack = no_ack;
        self
    }

    /// Whether no other consumer may use the queue.
    pub const fn exclusive(mut self, exclusive: bool) -> Self {
        self.exclusive = exclusive;
        self
    }

    /// Whether messages that this connection published are left out. RabbitMQ ignores it.
    pub const fn no_local(mut self, no_local: bool) -> Self {
        self.no_local = no_local;
        self
    }

    /// Whether the consumer may be [paused](crate::Consumer#consumers-that-lag): cancelled for as long as it takes nothing, and
    /// holds up others of its connection.
    ///
    /// By default it may be if its queue was declared on this connection. Of other queues only the application knows whether they
    /// stay when they have no consumer; `true` says that this one does. Consumers that would lose something by it are never
    /// paused.
    pub const fn pausable(mut self, pausable: bool) -> Self {
        self.pausable = Some(pausable);
        self
    }

    /// Consumers of higher priority get messages first.
    pub fn priority(self, priority: i32) -> Self {
        self.argument("x-priority", priority)
    }

    /// Where a consumer of a stream begins. After a loss it goes on with the first delivery that was not settled, see
    /// [recovery](crate::recovery#deliveries).
    pub fn stream_offset(self, offset: StreamOffset) -> Self {
        let value = match offset {
            StreamOffset::First => Value::from("first"),
            StreamOffset::Last => Value::from("last"),
            StreamOffset::Next => Value::from("next"),
            StreamOffset::Offset(offset) => Value::from(offset),
            StreamOffset::Timestamp(time) => Value::from(time),
        };
        self.argument("x-stream-offset", value)
    }

    /// The request; `generated` is the name of a consumer that was given none.
    pub(crate) fn into_method(
        self,
        queue: &[u8],
        generated: &str,
    ) -> Result<BasicConsume, CallError> {
        let tag = if self.consumer_tag.is_empty() { generated } else { &self.consumer_tag };
        Ok(BasicConsume {
            queue: name("queue", queue)?,
            consumer_tag: name("consumer tag", tag)?,
            no_local: self.no_local,
            no_ack: self.no_ack,
            exclusive: self.exclusive,
            arguments: self.arguments.finish()?,
            ..BasicConsume::default()
        })
    }
}

takes_arguments! { ConsumeOptions }
