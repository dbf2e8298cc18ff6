use std::collections::VecDeque;
use std::time::Instant;

use amqp_proto::{ChannelId, FieldTable, ShortStr};

use crate::SessionId;
use crate::arguments::Limits;
use crate::engine::At;
use crate::message::Message;
use crate::single_active::SingleActive;

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
    /// Requeued messages that wait, with the time at which they are ready again.
    pub(crate) delayed: Vec<(Instant, Message)>,
    /// The consumers, by descending priority.
    pub(crate) consumers: Vec<Consumer>,
    /// Counts the consumers that it has had.
    last_consumer: u64,
    pub(crate) single_active: SingleActive,
    /// When it was last declared, got from, or left by a consumer.
    pub(crate) last_used: Instant,
}

/// A consumer of a queue.
#[derive(Debug, Clone)]
pub(crate) struct Consumer {
    /// Its place in the order in which the consumers of the queue came. The queue sets it.
    pub(crate) number: u64,
    pub(crate) session: SessionId,
    pub(crate) channel: ChannelId,
    pub(crate) tag: ShortStr,
    pub(crate) no_ack: bool,
    pub(crate) exclusive: bool,
    pub(crate) priority: i64,
    pub(crate) prefetch: u16,
    /// The next offset that it reads, if the queue is a stream.
    pub(crate) offset: usize,
}

impl Consumer {
    /// Its channel.
    pub(crate) const fn at(&self) -> At {
        At { session: self.session, channel: self.channel }
    }
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
            delayed: Vec::new(),
            consumers: Vec::new(),
            last_consumer: 0,
            single_active: SingleActive::default(),
            last_used: now,
        }
    }

    /// Puts a message where it belongs: behind those of its priority that came before it, and before those that were never
    /// requeued if it has a [place](Message::returned) among the requeued ones.
    pub(crate) fn put(&mut self, message: Message) {
        let place = |message: &Message| {
            let returned = message.returned.unwrap_or(u64::MAX);
            (std::cmp::Reverse(message.priority), returned, message.order)
        };
        let own = place(&message);
        let index = self.messages.partition_point(|other| place(other) < own);
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
    pub(crate) fn add(&mut self, mut consumer: Consumer) {
        self.last_consumer += 1;
        consumer.number = self.last_consumer;
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
        let delayed = self.delayed.iter().map(|(at, _)| *at);
        message.into_iter().chain(gone).chain(delayed).min()
    }
}
