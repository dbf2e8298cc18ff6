use std::collections::VecDeque;
use std::time::Instant;

use amqp_proto::{ChannelId, FieldTable, ShortStr};

use crate::SessionId;
use crate::arguments::Limits;
use crate::message::Message;

#[derive(Debug)]
pub(crate) struct Queue {
    pub(crate) durable: bool,
    /// The session that uses it exclusively.
    pub(crate) owner: Option<SessionId>,
    pub(crate) auto_delete: bool,
    pub(crate) arguments: FieldTable,
    pub(crate) limits: Limits,
    /// Ready for delivery.
    pub(crate) messages: VecDeque<Message>,
    /// The consumers, by descending priority.
    pub(crate) consumers: Vec<Consumer>,
    /// When it was last declared, got from, or left by a consumer.
    pub(crate) last_used: Instant,
}

/// A consumer of a queue.
#[derive(Debug, Clone)]
pub(crate) struct Consumer {
    pub(crate) session: SessionId,
    pub(crate) channel: ChannelId,
    pub(crate) tag: ShortStr,
    pub(crate) no_ack: bool,
    pub(crate) exclusive: bool,
    pub(crate) priority: i64,
    /// The next offset that it reads, if the queue is a stream.
    pub(crate) offset: usize,
}

impl Queue {
    pub(crate) fn new(arguments: FieldTable, limits: Limits, now: Instant) -> Self {
        Self {
            durable: false,
            owner: None,
            auto_delete: false,
            arguments,
            limits,
            messages: VecDeque::new(),
            consumers: Vec::new(),
            last_used: now,
        }
    }

    /// Puts a message where it belongs: behind those of its priority that came before it.
    pub(crate) fn put(&mut self, message: Message) {
        let place = (std::cmp::Reverse(message.priority), message.order);
        let index = self
            .messages
            .partition_point(|other| (std::cmp::Reverse(other.priority), other.order) < place);
        self.messages.insert(index, message);
    }

    /// Returns whether one more message of that size would be too much.
    pub(crate) fn is_full(&self, size: usize) -> bool {
        let bytes = || self.messages.iter().map(|message| message.body.len()).sum::<usize>();
        self.limits.max_length.is_some_and(|max| self.messages.len() >= max)
            || self.limits.max_bytes.is_some_and(|max| bytes() + size > max)
    }

    /// Returns whether it holds more than it may.
    pub(crate) fn overflows(&self) -> bool {
        let bytes = || self.messages.iter().map(|message| message.body.len()).sum::<usize>();
        self.limits.max_length.is_some_and(|max| self.messages.len() > max)
            || self.limits.max_bytes.is_some_and(|max| bytes() > max)
    }

    /// Adds a consumer behind those of its priority.
    pub(crate) fn add(&mut self, consumer: Consumer) {
        let index = self.consumers.partition_point(|other| other.priority >= consumer.priority);
        self.consumers.insert(index, consumer);
    }

    /// The consumer at `index` got a message: others of its priority come first now.
    pub(crate) fn served(&mut self, index: usize) {
        let priority = self.consumers[index].priority;
        let consumer = self.consumers.remove(index);
        let end = self.consumers.partition_point(|other| other.priority >= priority);
        self.consumers.insert(end, consumer);
    }

    /// Returns when something happens to it by itself.
    pub(crate) fn due(&self) -> Option<Instant> {
        let message = self.messages.front().and_then(|message| message.expires_at);
        let unused = self.consumers.is_empty().then_some(self.limits.expires).flatten();
        let gone = unused.and_then(|expires| self.last_used.checked_add(expires));
        message.into_iter().chain(gone).min()
    }
}
