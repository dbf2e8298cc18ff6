//! What an operator does to a broker, and what happens to one.

use std::time::Instant;

use amqp_proto::ShortStr;
use amqp_proto::method::BasicCancel;

use crate::SessionId;
use crate::channel::{ChannelState, Mode};
use crate::engine::{At, Engine};
use crate::exchange::Target;
use crate::message::Message;

impl Engine {
    /// Stops at once and starts anew, as when the power fails. All sessions are gone; so is what is not durable. Durable
    /// queues and exchanges remain with the bindings between them, and in the queues what is persistent; what was
    /// delivered and not acknowledged will be delivered again.
    pub fn restart(&mut self, now: Instant) {
        self.now = now;
        let lose = self.whims.one_in(2);
        let untold = |message: &Message| {
            message.published_by.is_some_and(|(at, number)| self.is_untold(at, number))
        };
        // Whatever the publisher has not been told may be lost.
        let lost: Vec<_> = self
            .queues
            .values()
            .flat_map(|queue| &queue.messages)
            .filter(|message| lose && untold(message))
            .map(|message| message.order)
            .collect();
        self.give_back();
        self.later.clear();
        self.confirming.clear();
        self.dirty.clear();
        self.alarm = None;
        self.queues.retain(|_, queue| queue.durable && queue.owner.is_none());
        for queue in self.queues.values_mut() {
            queue.consumers.clear();
            queue.last_used = now;
            if queue.limits.is_stream {
                // Offsets are places in it.
                continue;
            }
            let replicated = queue.limits.counts_deliveries;
            queue.messages.retain(|message| {
                (replicated || message.is_persistent()) && !lost.contains(&message.order)
            });
        }
        self.exchanges.retain(|_, exchange| exchange.durable);
        let (queues, names) = (&self.queues, self.exchanges.keys().cloned().collect::<Vec<_>>());
        for exchange in self.exchanges.values_mut() {
            exchange.bindings.retain(|binding| match &binding.target {
                Target::Queue(name) => queues.contains_key(name),
                Target::Exchange(name) => names.contains(name),
            });
        }
    }

    /// Ends all sessions; what their channels had unacknowledged is ready again.
    fn give_back(&mut self) {
        let sessions = std::mem::take(&mut self.sessions);
        let channels = sessions.into_values().flat_map(|session| session.channels.into_values());
        for unacked in channels.flat_map(ChannelState::into_unacked) {
            self.requeue(&unacked.queue, unacked.message, true);
        }
    }

    fn is_untold(&self, at: At, number: u64) -> bool {
        let session = self.sessions.get(&at.session);
        let channel = session.and_then(|session| session.channels.get(&at.channel));
        match channel.map(|channel| &channel.mode) {
            Some(Mode::Confirm(confirms)) => confirms.is_untold(number),
            _ => false,
        }
    }

    /// Cancels the consumers of a queue, as when it moves to another node.
    pub fn cancel_consumers(&mut self, queue: &str) {
        let Some(queue) = self.queues.get_mut(&ShortStr::truncated(queue)) else { return };
        for consumer in std::mem::take(&mut queue.consumers) {
            let at = At { session: consumer.session, channel: consumer.channel };
            if let Some(channel) = self.channel(at) {
                channel.consumers.remove(&consumer.tag);
            }
            self.send(at, BasicCancel { consumer_tag: consumer.tag, no_wait: true });
        }
    }

    /// Raises an alarm, as RabbitMQ does when memory or disk run short: clients are told to stop publishing, and nothing
    /// more is read from those that do. Nothing ends the alarm.
    pub fn set_alarm(&mut self, now: Instant, reason: Option<&str>) {
        self.now = now;
        if self.alarm.as_deref() == reason {
            return;
        }
        self.alarm = reason.map(str::to_owned);
        for session in self.sessions.values_mut() {
            session.proto.set_blocked(reason);
            session.proto.handle_reading(now, !(reason.is_some() && session.publishes));
        }
    }

    /// Whether to read from a client: not while an alarm lasts, if it publishes.
    #[must_use]
    pub fn wants_input(&self, id: SessionId) -> bool {
        let publishes = self.sessions.get(&id).is_some_and(|session| session.publishes);
        self.alarm.is_none() || !publishes
    }
}
