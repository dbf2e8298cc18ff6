//! Actions of an operator, and faults.

use std::time::Instant;

use amqp_proto::ReplyCode;
use amqp_proto::method::BasicCancel;

use crate::SessionId;
use crate::channel::{ChannelState, Mode};
use crate::engine::{At, Engine};
use crate::exchange::Target;
use crate::fault::{Fault, Scope};
use crate::message::{Message, Publish};
use crate::name::Name;
use crate::observe::{ConsumerView, Note};
use crate::requeue::Requeue;

impl Engine {
    /// Stops at once and starts again, as after a power failure. All sessions end, and everything that is not durable is lost.
    /// Durable queues and exchanges, the bindings between them and persistent messages remain. Unacknowledged deliveries are
    /// delivered again.
    pub fn restart(&mut self, now: Instant) {
        self.now = now;
        let lose = self.choices.one_in(2);
        self.nacks = 0;
        let unreported = |message: &Message| {
            message.published_by.is_some_and(|publish| self.is_unreported(publish))
        };
        // A message whose confirm was not sent may be lost.
        let lost: Vec<_> = self
            .queues
            .values()
            .flat_map(|queue| &queue.messages)
            .filter(|message| lose && unreported(message))
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

    /// Ends all sessions; the unacknowledged deliveries of their channels are ready again.
    fn give_back(&mut self) {
        let sessions = std::mem::take(&mut self.sessions);
        let channels = sessions.into_values().flat_map(|session| session.channels.into_values());
        for unacked in channels.flat_map(ChannelState::into_unacked) {
            self.requeue(&unacked.queue, unacked.message, Requeue::Abandoned);
        }
    }

    fn is_unreported(&self, publish: Publish) -> bool {
        let session = self.sessions.get(&publish.at.session);
        let channel = session.and_then(|session| session.channels.get(&publish.at.channel));
        match channel.map(|channel| &channel.mode) {
            Some(Mode::Confirm(confirms)) => confirms.is_unreported(publish),
            _ => false,
        }
    }

    /// Cancels the consumers of a queue of the virtual host `/`, as when it moves to another node.
    pub fn cancel_consumers(&mut self, queue: impl AsRef<[u8]>) {
        let Some(queue) = self.queues.get_mut(&Name::in_default(queue)) else { return };
        for consumer in std::mem::take(&mut queue.consumers) {
            let at = At { session: consumer.session, channel: consumer.channel };
            if let Some(channel) = self.channel(at) {
                channel.consumers.remove(&consumer.tag);
            }
            self.send(at, BasicCancel { consumer_tag: consumer.tag, no_wait: true });
        }
    }

    /// Raises an alarm, as RabbitMQ does when memory or disk run short: clients are asked to stop publishing, and nothing
    /// more is read from those that do. Nothing ends the alarm.
    pub fn set_alarm(&mut self, now: Instant, reason: Option<&str>) {
        self.now = now;
        if self.alarm.as_deref() == reason {
            return;
        }
        self.alarm = reason.map(str::to_owned);
        for session in self.sessions.values_mut() {
            session.proto.set_blocked(reason);
            session.proto.handle_reading(now, session.is_heard(reason.is_some()));
        }
    }

    /// Returns whether to read from a client: not while an alarm lasts, if it publishes; not while it reads nothing itself;
    /// and not while it is [frozen](Self::freeze).
    #[must_use]
    pub fn wants_input(&self, id: SessionId) -> bool {
        let session = self.sessions.get(&id);
        session.is_none_or(|session| session.is_heard(self.alarm.is_some()))
    }

    /// Refuses the next so many publishes on channels in confirm mode (`basic.nack`), whichever come first. They reach no
    /// queue.
    pub fn nack_next(&mut self, count: u32) {
        self.nacks = count;
    }

    /// Holds all confirms; messages are routed as usual. Or sends confirms again, beginning with those that were held.
    pub fn hold_confirms(&mut self, now: Instant, hold: bool) {
        self.now = now;
        self.holds_confirms = hold;
        self.settle();
    }

    /// Refuses every login, as if user or password were wrong; or lets users in again. Clients that are connected stay.
    pub fn refuse_logins(&mut self, refuse: bool) {
        self.refuses_logins = refuse;
    }

    /// Reads nothing from a client and writes nothing to it, as if the network between lost every packet; or goes on.
    ///
    /// Meanwhile, the broker does not notice that the client is silent or has disconnected.
    pub fn freeze(&mut self, now: Instant, id: SessionId, frozen: bool) {
        self.now = now;
        let alarm = self.alarm.is_some();
        if let Some(session) = self.session(id) {
            session.frozen = frozen;
            session.proto.handle_reading(now, session.is_heard(alarm));
        }
    }

    /// Closes all connections (320, `CONNECTION_FORCED`), as a node does that is stopped. What is not durable stays until
    /// the [restart](Self::restart).
    pub fn close_all(&mut self, now: Instant) {
        self.now = now;
        let text = "CONNECTION_FORCED - broker forced connection closure with reason 'shutdown'";
        for id in self.sessions.keys().copied().collect::<Vec<_>>() {
            if let Some(session) = self.session(id) {
                session.proto.close(now, ReplyCode::CONNECTION_FORCED, text);
            }
            self.end_session(id);
        }
        self.settle();
    }

    /// Closes a connection (320, `CONNECTION_FORCED`), as an operator does.
    pub fn close_session(&mut self, now: Instant, id: SessionId) {
        self.now = now;
        let Some(session) = self.session(id).filter(|session| session.proto.is_open()) else {
            return;
        };
        let text = "CONNECTION_FORCED - Closed via management plugin";
        session.proto.close(now, ReplyCode::CONNECTION_FORCED, text);
        self.end_session(id);
        self.settle();
    }

    /// Closes a channel of a client, by its place among all modulo their number, as when an internal error ends it.
    pub fn close_channel(&mut self, now: Instant, id: SessionId, place: usize) {
        self.now = now;
        let channels: Vec<_> =
            self.session(id).into_iter().flat_map(|own| own.channels.keys().copied()).collect();
        if let Some(place) = place.checked_rem(channels.len()) {
            let at = At { session: id, channel: channels[place] };
            self.refuse(at, &Fault::internal("the channel has crashed"), (0, 0));
            self.settle();
        }
    }

    /// Cancels a consumer, as when the node of its queue goes away.
    pub fn cancel_consumer(&mut self, now: Instant, consumer: &ConsumerView) {
        self.now = now;
        let at = At { session: consumer.session, channel: consumer.channel };
        let Some(channel) = self.channel(at) else { return };
        if channel.consumers.remove(&consumer.tag).is_none() {
            return;
        }
        self.note(|| Note::Cancelled(consumer.clone()));
        self.send(at, BasicCancel { consumer_tag: consumer.tag.clone(), no_wait: true });
        let queue = self.name(at, consumer.queue.clone());
        self.remove_consumer(at, &consumer.tag, &queue);
        self.settle();
    }

    /// Deletes a queue of the virtual host `/` with all its messages. Returns whether there was one.
    pub fn delete_queue_of(&mut self, now: Instant, name: impl AsRef<[u8]>) -> bool {
        self.now = now;
        let name = Name::in_default(name);
        let found = self.queues.contains_key(&name);
        self.delete_queue(&name);
        self.settle();
        found
    }

    /// Ends all sessions and loses everything, as a node that starts with an empty disk.
    pub fn wipe(&mut self, now: Instant) {
        self.restart(now);
        self.queues.clear();
        for exchange in self.exchanges.values_mut() {
            exchange.bindings.clear();
        }
        self.exchanges.retain(|name, _| name.is_reserved());
    }

    /// Refuses the next so many requests of that method (`queue.declare` is `(50, 10)`) with 403, which closes their channel, or
    /// with 530, which closes their connection.
    pub fn refuse_next(&mut self, method: (u16, u16), times: u32, scope: Scope) {
        self.refusals = Some((method, times, scope));
    }

    /// Returns why a request is refused, if it is one of those to refuse.
    pub(crate) fn refusal(&mut self, id: (u16, u16)) -> Option<Fault> {
        let (method, times, scope) = self.refusals.as_mut()?;
        if *method != id || *times == 0 {
            return None;
        }
        *times -= 1;
        Some(match scope {
            Scope::Channel => Fault::refused("an operator forbids it"),
            Scope::Connection => Fault::not_allowed("an operator forbids it"),
        })
    }
}
