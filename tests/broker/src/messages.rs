//! The way of messages: published, routed, delivered, settled, expired, dead.

use amqp_proto::method::{Arguments, BasicDeliver, BasicPublish, BasicReturn};
use amqp_proto::{EncodeProperties, RawProperties, ReplyCode, ShortStr};
use bytes::Bytes;

use crate::arguments::{Overflow, name_of};
use crate::channel::{ChannelState, Mode, Settlement, Unacked};
use crate::deaths::{Death, Deaths};
use crate::direct_reply;
use crate::engine::{At, Engine};
use crate::exchange::Target;
use crate::fault::Fault;
use crate::message::{Message, Publish};
use crate::name::Name;
use crate::observe::{Note, Verdict};
use crate::queue::Queue;
use crate::requests::delivered_properties;
use crate::requeue::Requeue;

/// Number of bytes that may wait for a client before it gets no more deliveries.
const HIGH_WATER: usize = 1024 * 1024;

impl Engine {
    /// A client has published.
    pub(crate) fn published(
        &mut self,
        at: At,
        method: &BasicPublish,
        properties: RawProperties,
        body: Bytes,
    ) -> Result<(), Fault> {
        if method.immediate {
            return Err(Fault::not_implemented("immediate=true"));
        }
        self.check_publish(at, method, &properties)?;
        let properties = self.with_address(at, properties)?;
        self.note_publisher(at);
        let Some(channel) = self.channel(at) else { return Ok(()) };
        match &mut channel.mode {
            Mode::Tx(transaction) => {
                transaction.publishes.push((method.clone(), properties, body));
                Ok(())
            }
            Mode::Plain => {
                self.route(at, method, properties, body, None);
                Ok(())
            }
            Mode::Confirm(confirms) => {
                let publish = confirms.publish(at);
                let nacked = self.nacks > 0;
                self.nacks = self.nacks.saturating_sub(1);
                let taken = !nacked && self.route(at, method, properties, body, Some(publish));
                if let Some(Mode::Confirm(confirms)) = self.channel(at).map(|own| &mut own.mode) {
                    confirms.decide(publish.number, taken);
                    self.confirming.insert(at);
                }
                Ok(())
            }
        }
    }

    /// While there is an alarm, nothing more is read from a client that has published.
    fn note_publisher(&mut self, at: At) {
        let (now, alarm) = (self.now, self.alarm.is_some());
        let Some(session) = self.session(at.session) else { return };
        if alarm && !session.publishes {
            session.proto.handle_reading(now, false);
        }
        session.publishes = true;
    }

    fn check_publish(
        &mut self,
        at: At,
        method: &BasicPublish,
        properties: &RawProperties,
    ) -> Result<(), Fault> {
        if !method.exchange.is_empty() {
            let name = self.name(at, method.exchange.clone());
            let Some(exchange) = self.exchanges.get(&name) else {
                return Err(Fault::no_exchange(&name));
            };
            if exchange.internal {
                return Err(Fault::refused(format!("cannot publish to internal exchange {name}")));
            }
        }
        Message::expiration(properties).map_err(Fault::precondition)?;
        let user = self.session(at.session).map(|session| session.user.clone());
        match (properties.user_id().ok().flatten(), user) {
            (Some(claimed), Some(user)) if claimed != user => Err(Fault::precondition(format!(
                "user_id property set to '{claimed}' but authenticated user was '{user}'"
            ))),
            _ => Ok(()),
        }
    }

    /// Passes a message on to its queues. Returns false if one of them refuses it.
    pub(crate) fn route(
        &mut self,
        at: At,
        method: &BasicPublish,
        properties: RawProperties,
        body: Bytes,
        published_by: Option<Publish>,
    ) -> bool {
        if method.exchange.is_empty() && direct_reply::is_meant_by(&method.routing_key) {
            if let Some(to) = self.reply_consumer(&method.routing_key) {
                self.note(|| Note::Accepted { body: body.clone(), queues: 1 });
                self.reply(to, method, &properties, body);
                return true;
            }
        }
        let exchange = self.name(at, method.exchange.clone());
        let queues = self.targets(&exchange, &method.routing_key, &properties);
        self.note(|| Note::Accepted { body: body.clone(), queues: queues.len() });
        if queues.is_empty() && method.mandatory {
            let returned = BasicReturn {
                reply_code: ReplyCode::NO_ROUTE.0,
                reply_text: ShortStr::truncated("NO_ROUTE"),
                exchange: method.exchange.clone(),
                routing_key: method.routing_key.clone(),
            };
            self.send_content(at, returned, &properties, body.clone());
        }
        let mut taken = true;
        for queue in queues {
            let mut message = self.message(
                &method.exchange,
                &method.routing_key,
                properties.clone(),
                body.clone(),
            );
            message.published_by = published_by;
            taken &= self.enqueue(&queue, message);
        }
        taken
    }

    fn message(
        &mut self,
        exchange: &ShortStr,
        routing_key: &ShortStr,
        properties: RawProperties,
        body: Bytes,
    ) -> Message {
        self.last_message += 1;
        Message {
            order: self.last_message,
            exchange: exchange.clone(),
            routing_key: routing_key.clone(),
            priority: properties.priority().ok().flatten().unwrap_or(0),
            properties,
            body,
            redelivered: false,
            delivery_count: 0,
            acquired_count: 0,
            returned: None,
            arrived: self.now,
            expires_at: None,
            published_by: None,
            deaths: Deaths::default(),
        }
    }

    /// The queues that a message reaches, each once.
    fn targets(
        &self,
        exchange: &Name,
        routing_key: &ShortStr,
        properties: &RawProperties,
    ) -> Vec<Name> {
        if exchange.text.is_empty() {
            let queue = exchange.beside(routing_key.clone());
            return self.queues.contains_key(&queue).then_some(queue).into_iter().collect();
        }
        let mut queues = Vec::new();
        let mut seen = vec![exchange.clone()];
        let mut next = 0;
        while let Some(name) = seen.get(next).cloned() {
            next += 1;
            let Some(source) = self.exchanges.get(&name) else { continue };
            let matching = source.matching(routing_key, properties);
            let alternate = source.arguments.get("alternate-exchange");
            let alternate = alternate.as_ref().and_then(name_of).map(|text| name.beside(text));
            let mut reached = false;
            for target in matching {
                reached = true;
                match target {
                    Target::Queue(queue) if !queues.contains(queue) => queues.push(queue.clone()),
                    Target::Exchange(other) if !seen.contains(other) => seen.push(other.clone()),
                    _ => {}
                }
            }
            seen.extend(alternate.filter(|alternate| !reached && !seen.contains(alternate)));
        }
        queues
    }

    /// Adds a message to a queue, unless that is full and refuses more.
    fn enqueue(&mut self, name: &Name, mut message: Message) -> bool {
        let now = self.now;
        let Some(queue) = self.queues.get_mut(name) else { return true };
        if queue.limits.is_stream {
            queue.messages.push_back(message);
            self.deliver_stream(name);
            return true;
        }
        if queue.is_full(message.body.len()) && queue.limits.overflow != Overflow::DropHead {
            if queue.limits.overflow == Overflow::RejectPublishDlx {
                self.bury(name, message, Death::MaxLength);
            }
            return false;
        }
        let own = Message::expiration(&message.properties).ok().flatten();
        let ttl = own.into_iter().chain(queue.limits.message_ttl).min();
        message.expires_at = ttl.and_then(|ttl| now.checked_add(ttl));
        message.priority = message.priority.min(queue.limits.max_priority.unwrap_or(0));
        queue.put(message);
        // Messages that a consumer takes at once do not count against the limit.
        self.deliver(name);
        self.drop_head(name);
        true
    }

    /// Drops the oldest messages of a queue that has too many, if it is not one that rather refuses new ones.
    pub(crate) fn drop_head(&mut self, name: &Name) {
        let drops =
            |queue: &&mut Queue| queue.limits.overflow == Overflow::DropHead && queue.overflows();
        while let Some(queue) = self.queues.get_mut(name).filter(drops) {
            let Some(oldest) = queue.messages.pop_front() else { break };
            self.bury(name, oldest, Death::MaxLength);
        }
    }

    /// A message has died in a queue: it goes to the dead-letter exchange, if there is one.
    ///
    /// It may die at once where it goes, and again, through thousands of queues. So the dead wait in line, and only the first
    /// caller sees to them: the stack does not grow with the way of a message.
    pub(crate) fn bury(&mut self, name: &Name, message: Message, death: Death) {
        self.dead.push_back((name.clone(), message, death));
        if self.burying {
            return;
        }
        self.burying = true;
        while let Some((name, message, death)) = self.dead.pop_front() {
            self.dead_letter(&name, message, death);
        }
        self.burying = false;
    }

    fn dead_letter(&mut self, name: &Name, mut message: Message, death: Death) {
        let Some(limits) = self.queues.get(name).map(|queue| queue.limits.clone()) else { return };
        let Some(exchange) = limits.dead_letter_exchange else { return };
        let routing_key =
            limits.dead_letter_routing_key.unwrap_or_else(|| message.routing_key.clone());
        message.die(&name.text, death);
        for queue in self.targets(&name.beside(exchange.clone()), &routing_key, &message.properties)
        {
            if death != Death::Rejected && message.deaths.lead_back_to(&queue.text) {
                continue;
            }
            let (properties, body) = (message.properties.clone(), message.body.clone());
            let mut dead = self.message(&exchange, &routing_key, properties, body);
            dead.deaths = message.deaths.clone();
            self.enqueue(&queue, dead);
        }
    }

    /// Drops expired messages, and queues that were unused for too long.
    pub(crate) fn expire(&mut self) {
        let now = self.now;
        let due = self.queues.iter().filter(|(_, queue)| queue.due().is_some_and(|at| at <= now));
        let due: Vec<_> = due.map(|(name, _)| name.clone()).collect();
        for name in due {
            self.expire_queue(&name);
            self.release_delayed(&name);
            let unused = self.queues.get(&name).is_some_and(|queue| {
                let expires = queue.limits.expires.filter(|_| queue.consumers.is_empty());
                let gone = expires.and_then(|expires| queue.last_used.checked_add(expires));
                gone.is_some_and(|at| at <= now)
            });
            if unused {
                self.delete_queue(&name);
            }
        }
    }

    pub(crate) fn expire_queue(&mut self, name: &Name) {
        let now = self.now;
        let expired = |message: &mut Message| message.expires_at.is_some_and(|at| at <= now);
        while let Some(queue) = self.queues.get_mut(name) {
            let Some(true) = queue.messages.front_mut().map(expired) else { return };
            if let Some(message) = queue.messages.pop_front() {
                self.bury(name, message, Death::Expired);
            }
        }
    }

    /// Delivers messages of a queue to consumers that have room.
    pub(crate) fn deliver(&mut self, name: &Name) {
        if self.queues.get(name).is_some_and(|queue| queue.limits.is_stream) {
            return self.deliver_stream(name);
        }
        self.expire_queue(name);
        let rabbitmq_4_3 = self.options.rabbitmq_4_3;
        while let Some((index, at, tag, no_ack)) = self.next_consumer(name) {
            let Some(queue) = self.queues.get_mut(name) else { return };
            let Some(message) = queue.messages.pop_front() else { return };
            let properties = delivered_properties(queue, &message, rabbitmq_4_3, 1);
            if !queue.limits.single_active {
                queue.served(index);
            }
            let Some(channel) = self.channel(at) else { return };
            channel.last_delivery += 1;
            let deliver = BasicDeliver {
                consumer_tag: tag.clone(),
                delivery_tag: channel.last_delivery,
                redelivered: message.redelivered,
                exchange: message.exchange.clone(),
                routing_key: message.routing_key.clone(),
            };
            let body = message.body.clone();
            if !no_ack {
                if let Some(consumer) = channel.consumers.get_mut(&tag) {
                    consumer.unacked += 1;
                }
                let unacked = Unacked { queue: name.clone(), message, consumer: Some(tag) };
                channel.unacked.insert(deliver.delivery_tag, unacked);
            }
            self.note(|| Note::Delivered { body: body.clone() });
            self.send_content(at, deliver, &properties, body);
        }
    }

    /// Returns the consumer that gets the next message: the first in line that has room.
    fn next_consumer(&mut self, name: &Name) -> Option<(usize, At, ShortStr, bool)> {
        let queue = self.queues.get(name).filter(|queue| !queue.messages.is_empty())?;
        let mut line = queue.consumers.iter().enumerate();
        let (index, next) = line.find(|(_, consumer)| {
            queue.serves(consumer) && self.can_take(consumer.at(), &consumer.tag)
        })?;
        Some((index, next.at(), next.tag.clone(), next.no_ack))
    }

    /// Returns whether a consumer may have one more delivery now.
    pub(crate) fn can_take(&self, at: At, tag: &ShortStr) -> bool {
        let Some(session) = self.sessions.get(&at.session) else { return false };
        let writable = session.proto.is_open() && session.proto.queued() < HIGH_WATER;
        writable && session.channels.get(&at.channel).is_some_and(|own| own.has_room(tag))
    }

    pub(crate) fn send_content(
        &mut self,
        at: At,
        method: impl Arguments,
        properties: &impl EncodeProperties,
        body: Bytes,
    ) {
        if let Some(session) = self.session(at.session) {
            if let Ok(mut channel) = session.proto.channel(at.channel) {
                let _closing = channel.send_content(method, properties, body);
            }
        }
    }

    /// A client acknowledges, rejects or returns a delivery, or all up to it.
    pub(crate) fn settle_up_to(
        &mut self,
        at: At,
        tag: u64,
        multiple: bool,
        settlement: Settlement,
    ) -> Result<(), Fault> {
        let Some(channel) = self.channel(at) else { return Ok(()) };
        let all = multiple && tag == 0;
        if !all && !channel.unacked.contains_key(&tag) {
            return Err(Fault::precondition(format!("unknown delivery tag {tag}")));
        }
        let tags: Vec<_> = match (all, multiple) {
            (true, _) => channel.unacked.keys().copied().collect(),
            (false, true) => channel.unacked.range(..=tag).map(|(tag, _)| *tag).collect(),
            (false, false) => vec![tag],
        };
        if settlement != Settlement::Ack {
            self.check_no_stream(at, &tags)?;
        }
        let Some(channel) = self.channel(at) else { return Ok(()) };
        let ChannelState { unacked, mode, .. } = channel;
        let settled = tags.into_iter().filter_map(|tag| Some((tag, unacked.remove(&tag)?)));
        let settled: Vec<_> = settled.map(|(tag, unacked)| (tag, unacked, settlement)).collect();
        if let Mode::Tx(transaction) = mode {
            transaction.settlements.extend(settled);
            return Ok(());
        }
        for (_, unacked, settlement) in settled {
            self.settle_one(at, unacked, settlement);
        }
        Ok(())
    }

    /// Carries out a client's decision about a delivery.
    pub(crate) fn settle_one(&mut self, at: At, unacked: Unacked, settlement: Settlement) {
        let Some(channel) = self.channel(at) else { return };
        let Unacked { queue, message, consumer } = unacked;
        if let Some(consumer) = consumer.and_then(|tag| channel.consumers.get_mut(&tag)) {
            consumer.unacked = consumer.unacked.saturating_sub(1);
        }
        // There is room for others now, for those of other queues as well if the limit is the channel's.
        let others: Vec<_> = match channel.global_prefetch {
            0 => vec![queue.clone()],
            _ => channel.consumers.values().map(|consumer| consumer.queue.clone()).collect(),
        };
        self.dirty.extend(others);
        self.note(|| Note::Settled { body: message.body.clone(), verdict: settlement.verdict() });
        match settlement {
            Settlement::Ack => {}
            Settlement::Return => self.requeue(&queue, message, Requeue::Returned),
            Settlement::Fail => self.requeue(&queue, message, Requeue::Rejected),
            Settlement::Discard => self.bury(&queue, message, Death::Rejected),
        }
        self.choose_active(&queue);
    }

    pub(crate) fn recover(&mut self, at: At, requeue: bool) -> Result<(), Fault> {
        if !requeue {
            return Err(Fault::not_implemented("requeue=false"));
        }
        let Some(channel) = self.channel(at) else { return Ok(()) };
        // Deliveries that a transaction has settled stay in the transaction.
        for unacked in std::mem::take(&mut channel.unacked).into_values() {
            self.settle_one(at, unacked, Settlement::Return);
        }
        Ok(())
    }
}

impl Settlement {
    const fn verdict(self) -> Verdict {
        match self {
            Self::Ack => Verdict::Acked,
            Self::Return => Verdict::Requeued,
            Self::Fail => Verdict::Blamed,
            Self::Discard => Verdict::Rejected,
        }
    }
}
