//! What clients ask for: exchanges, queues, bindings, consumers, transactions.

use amqp_proto::method::*;
use amqp_proto::{FieldTable, ShortStr, Value};

use crate::channel::{ChannelConsumer, ChannelState, Mode, Settlement, Transaction, Unacked};
use crate::engine::{At, Engine};
use crate::exchange::{Binding, Exchange, Kind, Target};
use crate::fault::Fault;
use crate::queue::{Consumer, Limits, Queue};

type Done = Result<(), Fault>;

impl Engine {
    pub(crate) fn request(&mut self, at: At, method: Method) -> Done {
        match method {
            Method::ChannelFlow(flow) if flow.active => {
                self.send(at, ChannelFlowOk { active: true })
            }
            Method::ChannelFlow(_) => return Err(Fault::not_implemented("active=false")),
            Method::AccessRequest(_) => self.send(at, AccessRequestOk { reserved_1: 1 }),
            Method::ExchangeDeclare(method) => return self.exchange_declare(at, method),
            Method::ExchangeDelete(method) => return self.exchange_delete(at, &method),
            Method::ExchangeBind(method) => {
                let target = Target::Exchange(method.destination);
                let (key, arguments) = (method.routing_key, method.arguments);
                self.bind(at, &method.source, target, key, arguments)?;
                self.answer(at, method.no_wait, ExchangeBindOk {});
            }
            Method::ExchangeUnbind(method) => {
                let target = Target::Exchange(method.destination);
                let (key, arguments) = (method.routing_key, method.arguments);
                self.unbind(&method.source, target, key, arguments)?;
                self.answer(at, method.no_wait, ExchangeUnbindOk {});
            }
            Method::QueueDeclare(method) => return self.queue_declare(at, method),
            Method::QueueBind(method) => {
                let target = Target::Queue(self.queue_named(at, method.queue));
                let (key, arguments) = (method.routing_key, method.arguments);
                self.bind(at, &method.exchange, target, key, arguments)?;
                self.answer(at, method.no_wait, QueueBindOk {});
            }
            Method::QueueUnbind(method) => {
                let target = Target::Queue(self.queue_named(at, method.queue));
                self.unbind(&method.exchange, target, method.routing_key, method.arguments)?;
                self.send(at, QueueUnbindOk {});
            }
            Method::QueuePurge(method) => {
                let name = self.queue_named(at, method.queue);
                let queue = self.usable(at, &name)?;
                let message_count = count(queue.messages.len());
                queue.messages.clear();
                self.answer(at, method.no_wait, QueuePurgeOk { message_count });
            }
            Method::QueueDelete(method) => return self.queue_delete(at, method),
            Method::BasicQos(method) => return self.basic_qos(at, &method),
            Method::BasicConsume(method) => return self.basic_consume(at, method),
            Method::BasicCancel(method) => {
                let consumer = self
                    .channel(at)
                    .and_then(|channel| channel.consumers.remove(&method.consumer_tag));
                if let Some(consumer) = consumer {
                    self.remove_consumer(at, &method.consumer_tag, &consumer.queue);
                }
                let consumer_tag = method.consumer_tag;
                self.answer(at, method.no_wait, BasicCancelOk { consumer_tag });
            }
            Method::BasicGet(method) => return self.basic_get(at, method),
            Method::BasicAck(method) => {
                return self.settle_up_to(
                    at,
                    method.delivery_tag,
                    method.multiple,
                    Settlement::Ack,
                );
            }
            Method::BasicNack(method) => {
                let settlement = returned(method.requeue);
                return self.settle_up_to(at, method.delivery_tag, method.multiple, settlement);
            }
            Method::BasicReject(method) => {
                return self.settle_up_to(at, method.delivery_tag, false, returned(method.requeue));
            }
            Method::BasicRecover(BasicRecover { requeue }) => {
                self.recover(at, requeue)?;
                self.send(at, BasicRecoverOk {});
            }
            Method::BasicRecoverAsync(BasicRecoverAsync { requeue }) => {
                return self.recover(at, requeue);
            }
            Method::TxSelect(_) => {
                self.select(at, |mode| match mode {
                    Mode::Confirm { .. } => Err("cannot switch from confirm to tx mode"),
                    Mode::Plain => {
                        *mode = Mode::Tx(Transaction::default());
                        Ok(())
                    }
                    Mode::Tx(_) => Ok(()),
                })?;
                self.send(at, TxSelectOk {});
            }
            Method::ConfirmSelect(method) => {
                self.select(at, |mode| match mode {
                    Mode::Tx(_) => Err("cannot switch from tx to confirm mode"),
                    Mode::Plain => {
                        *mode = Mode::Confirm { published: 0 };
                        Ok(())
                    }
                    Mode::Confirm { .. } => Ok(()),
                })?;
                self.answer(at, method.no_wait, ConfirmSelectOk {});
            }
            Method::TxCommit(_) => {
                let transaction = self.take_transaction(at)?;
                for (method, properties, body) in transaction.publishes {
                    self.route(at, &method, properties, body)?;
                }
                for (tag, settlement) in transaction.settlements {
                    self.settle_one(at, tag, settlement);
                }
                self.send(at, TxCommitOk {});
            }
            Method::TxRollback(_) => {
                self.take_transaction(at)?;
                self.send(at, TxRollbackOk {});
            }
            other => {
                let text = format!("unexpected method {}", other.facts().name);
                return Err(Fault::invalid(&text));
            }
        }
        Ok(())
    }

    fn answer(&mut self, at: At, no_wait: bool, method: impl Into<Method>) {
        if !no_wait {
            self.send(at, method);
        }
    }

    fn select(
        &mut self,
        at: At,
        change: impl FnOnce(&mut Mode) -> Result<(), &'static str>,
    ) -> Done {
        match self.channel(at) {
            Some(channel) => change(&mut channel.mode).map_err(Fault::precondition),
            None => Ok(()),
        }
    }

    fn take_transaction(&mut self, at: At) -> Result<Transaction, Fault> {
        match self.channel(at).map(|channel| &mut channel.mode) {
            Some(Mode::Tx(transaction)) => Ok(std::mem::take(transaction)),
            _ => Err(Fault::precondition("channel is not transactional")),
        }
    }

    fn exchange_declare(&mut self, at: At, method: ExchangeDeclare) -> Done {
        let name = method.exchange;
        let kind = Kind::named(&method.kind);
        if kind.is_none() && !method.passive {
            let text = format!("unknown exchange type '{}'", method.kind);
            return Err(Fault::invalid(&text));
        }
        if let Some(exchange) = self.exchanges.get(&name) {
            if !method.passive {
                let same = |argument, received: String, current: String| {
                    let differs = received != current;
                    let quoted = |text| format!("'{text}'");
                    differs.then(|| {
                        Fault::inequivalent(
                            argument,
                            "exchange",
                            &name,
                            &quoted(received),
                            &quoted(current),
                        )
                    })
                };
                let kind = exchange.kind.name().to_owned();
                let faults = [
                    same("type", method.kind.to_string(), kind),
                    same("durable", method.durable.to_string(), exchange.durable.to_string()),
                    same(
                        "auto_delete",
                        method.auto_delete.to_string(),
                        exchange.auto_delete.to_string(),
                    ),
                    same("internal", method.internal.to_string(), exchange.internal.to_string()),
                ];
                if let Some(fault) = faults.into_iter().flatten().next() {
                    return Err(fault);
                }
            }
        } else {
            if method.passive {
                return Err(Fault::no_exchange(&name));
            }
            let Some(kind) = kind else { return Err(Fault::no_exchange(&name)) };
            if name.as_bytes().starts_with(b"amq.") {
                return Err(Fault::reserved("exchange", &name));
            }
            if name.is_empty() {
                return Err(Fault::refused("operation not permitted on the default exchange"));
            }
            let exchange = Exchange {
                durable: method.durable,
                auto_delete: method.auto_delete,
                internal: method.internal,
                arguments: method.arguments,
                ..Exchange::new(kind)
            };
            self.exchanges.insert(name, exchange);
        }
        self.answer(at, method.no_wait, ExchangeDeclareOk {});
        Ok(())
    }

    fn exchange_delete(&mut self, at: At, method: &ExchangeDelete) -> Done {
        let name = &method.exchange;
        if name.is_empty() || name.as_bytes().starts_with(b"amq.") {
            let text = format!("operation not permitted on the exchange '{name}'");
            return Err(Fault::refused(text));
        }
        let used = self.exchanges.get(name).is_some_and(|exchange| !exchange.bindings.is_empty());
        if method.if_unused && used {
            return Err(Fault::precondition(format!("exchange '{name}' in vhost '/' in use")));
        }
        self.exchanges.remove(name);
        self.forget_target(&Target::Exchange(name.clone()));
        self.answer(at, method.no_wait, ExchangeDeleteOk {});
        Ok(())
    }

    fn bind(
        &mut self,
        at: At,
        source: &ShortStr,
        target: Target,
        routing_key: ShortStr,
        arguments: FieldTable,
    ) -> Done {
        if source.is_empty() {
            return Err(Fault::refused("operation not permitted on the default exchange"));
        }
        if !self.exchanges.contains_key(source) {
            return Err(Fault::no_exchange(source));
        }
        self.check_target(at, &target)?;
        let Some(exchange) = self.exchanges.get_mut(source) else { return Ok(()) };
        let binding = Binding { target, routing_key, arguments };
        if !exchange.bindings.contains(&binding) {
            exchange.bindings.push(binding);
        }
        Ok(())
    }

    fn unbind(
        &mut self,
        source: &ShortStr,
        target: Target,
        routing_key: ShortStr,
        arguments: FieldTable,
    ) -> Done {
        let binding = Binding { target, routing_key, arguments };
        if let Some(exchange) = self.exchanges.get_mut(source) {
            exchange.bindings.retain(|other| *other != binding);
            self.drop_unused_exchange(source);
        }
        Ok(())
    }

    fn check_target(&mut self, at: At, target: &Target) -> Done {
        match target {
            Target::Queue(name) => self.usable(at, name).map(|_| ()),
            Target::Exchange(name) if self.exchanges.contains_key(name) => Ok(()),
            Target::Exchange(name) => Err(Fault::no_exchange(name)),
        }
    }

    /// An exchange that goes when its last binding goes.
    fn drop_unused_exchange(&mut self, name: &ShortStr) {
        let unused = |exchange: &Exchange| exchange.auto_delete && exchange.bindings.is_empty();
        if self.exchanges.get(name).is_some_and(unused) {
            self.exchanges.remove(name);
            self.forget_target(&Target::Exchange(name.clone()));
        }
    }

    /// Removes all bindings to something that is gone.
    fn forget_target(&mut self, target: &Target) {
        let bound: Vec<_> = self
            .exchanges
            .iter_mut()
            .filter_map(|(name, exchange)| {
                let before = exchange.bindings.len();
                exchange.bindings.retain(|binding| binding.target != *target);
                (exchange.bindings.len() < before).then(|| name.clone())
            })
            .collect();
        for name in bound {
            self.drop_unused_exchange(&name);
        }
    }

    fn queue_declare(&mut self, at: At, method: QueueDeclare) -> Done {
        let mut name = method.queue;
        if let Some(queue) = self.queues.get(&name).filter(|_| !name.is_empty()) {
            if queue.owner.is_some_and(|owner| owner != at.session) {
                return Err(Fault::locked(&name));
            }
            if !method.passive {
                check_equivalent(
                    &name,
                    queue,
                    method.durable,
                    method.exclusive,
                    method.auto_delete,
                    &method.arguments,
                )?;
            }
        } else {
            if method.passive {
                return Err(Fault::no_queue(&name));
            }
            if name.as_bytes().starts_with(b"amq.") {
                return Err(Fault::reserved("queue", &name));
            }
            let limits = Limits::parse(&method.arguments)?;
            if name.is_empty() {
                name = self.generate_name();
            }
            let mut queue = Queue::new(method.arguments, limits, self.now);
            queue.durable = method.durable;
            queue.owner = method.exclusive.then_some(at.session);
            queue.auto_delete = method.auto_delete;
            self.queues.insert(name.clone(), queue);
        }
        let now = self.now;
        if let Some(channel) = self.channel(at) {
            channel.last_queue = name.clone();
        }
        if let Some(queue) = self.queues.get_mut(&name) {
            queue.last_used = now;
            let message_count = count(queue.messages.len());
            let consumer_count = count(queue.consumers.len());
            let declared = QueueDeclareOk { queue: name, message_count, consumer_count };
            self.answer(at, method.no_wait, declared);
        }
        Ok(())
    }

    fn queue_delete(&mut self, at: At, method: QueueDelete) -> Done {
        let name = self.queue_named(at, method.queue);
        let mut message_count = 0;
        if self.queues.contains_key(&name) {
            let queue = self.usable(at, &name)?;
            if method.if_unused && !queue.consumers.is_empty() {
                return Err(Fault::precondition(format!("queue '{name}' in vhost '/' in use")));
            }
            if method.if_empty && !queue.messages.is_empty() {
                return Err(Fault::precondition(format!("queue '{name}' in vhost '/' not empty")));
            }
            message_count = self.delete_queue(&name);
        }
        self.answer(at, method.no_wait, QueueDeleteOk { message_count });
        Ok(())
    }

    /// Deletes a queue: its consumers are told, its bindings gone. Returns how many messages went with it.
    pub(crate) fn delete_queue(&mut self, name: &ShortStr) -> u32 {
        let Some(queue) = self.queues.remove(name) else { return 0 };
        self.forget_target(&Target::Queue(name.clone()));
        for consumer in queue.consumers {
            let at = At { session: consumer.session, channel: consumer.channel };
            if let Some(channel) = self.channel(at) {
                channel.consumers.remove(&consumer.tag);
            }
            self.send(at, BasicCancel { consumer_tag: consumer.tag, no_wait: true });
        }
        count(queue.messages.len())
    }

    fn basic_qos(&mut self, at: At, method: &BasicQos) -> Done {
        if method.prefetch_size != 0 {
            return Err(Fault::not_implemented(&format!(
                "prefetch_size!=0 ({})",
                method.prefetch_size
            )));
        }
        if let Some(channel) = self.channel(at) {
            match method.global {
                true => channel.global_prefetch = method.prefetch_count,
                false => channel.prefetch = method.prefetch_count,
            }
            let queues: Vec<_> =
                channel.consumers.values().map(|consumer| consumer.queue.clone()).collect();
            self.dirty.extend(queues);
        }
        self.send(at, BasicQosOk {});
        Ok(())
    }

    fn basic_consume(&mut self, at: At, method: BasicConsume) -> Done {
        let name = self.queue_named(at, method.queue);
        self.usable(at, &name)?;
        let Some(channel) = self.channel(at) else { return Ok(()) };
        let mut tag = method.consumer_tag;
        if tag.is_empty() {
            channel.last_consumer += 1;
            tag = ShortStr::truncated(&format!("amq.ctag-{}", channel.last_consumer));
        }
        if channel.consumers.contains_key(&tag) {
            return Err(Fault::not_allowed(&format!("attempt to reuse consumer tag '{tag}'")));
        }
        let prefetch = channel.prefetch;
        let queue = self.usable(at, &name)?;
        let taken = queue.consumers.iter().any(|other| other.exclusive);
        if taken || method.exclusive && !queue.consumers.is_empty() {
            return Err(Fault::refused(format!("queue '{name}' in vhost '/' in exclusive use")));
        }
        let priority = method.arguments.get("x-priority").and_then(|value| value.as_i64());
        queue.add(Consumer {
            session: at.session,
            channel: at.channel,
            tag: tag.clone(),
            no_ack: method.no_ack,
            exclusive: method.exclusive,
            priority: priority.unwrap_or(0),
        });
        if let Some(channel) = self.channel(at) {
            let consumer = ChannelConsumer { queue: name.clone(), prefetch, unacked: 0 };
            channel.consumers.insert(tag.clone(), consumer);
        }
        self.answer(at, method.no_wait, BasicConsumeOk { consumer_tag: tag });
        self.dirty.insert(name);
        Ok(())
    }

    /// A consumer is gone. A queue that goes with its last consumer goes, too.
    pub(crate) fn remove_consumer(&mut self, at: At, tag: &ShortStr, name: &ShortStr) {
        let now = self.now;
        let Some(queue) = self.queues.get_mut(name) else { return };
        queue.consumers.retain(|other| {
            (other.session, other.channel, &other.tag) != (at.session, at.channel, tag)
        });
        queue.last_used = now;
        if queue.consumers.is_empty() && queue.auto_delete {
            self.delete_queue(name);
        } else {
            // The next one in line may be active now.
            self.dirty.insert(name.clone());
        }
    }

    fn basic_get(&mut self, at: At, method: BasicGet) -> Done {
        let name = self.queue_named(at, method.queue);
        let now = self.now;
        self.expire_queue(&name);
        let queue = self.usable(at, &name)?;
        queue.last_used = now;
        let Some(message) = queue.messages.pop_front() else {
            self.send(at, BasicGetEmpty::default());
            return Ok(());
        };
        let message_count = count(queue.messages.len());
        let properties = delivered_properties(queue, &message);
        let Some(channel) = self.channel(at) else { return Ok(()) };
        channel.last_delivery += 1;
        let got = BasicGetOk {
            delivery_tag: channel.last_delivery,
            redelivered: message.redelivered,
            exchange: message.exchange.clone(),
            routing_key: message.routing_key.clone(),
            message_count,
        };
        let body = message.body.clone();
        if !method.no_ack {
            let unacked = Unacked { queue: name, message, consumer: None };
            channel.unacked.insert(got.delivery_tag, unacked);
        }
        self.send_content(at, got, &properties, body);
        Ok(())
    }

    /// The queue of a request: the one that was declared last, if it names none.
    fn queue_named(&mut self, at: At, name: ShortStr) -> ShortStr {
        match self.channel(at) {
            Some(ChannelState { last_queue, .. }) if name.is_empty() => last_queue.clone(),
            _ => name,
        }
    }

    /// A queue that is there and not another connection's own.
    pub(crate) fn usable(&mut self, at: At, name: &ShortStr) -> Result<&mut Queue, Fault> {
        let queue = self.queues.get_mut(name).ok_or_else(|| Fault::no_queue(name))?;
        match queue.owner {
            Some(owner) if owner != at.session => Err(Fault::locked(name)),
            _ => Ok(queue),
        }
    }
}

fn check_equivalent(
    name: &ShortStr,
    queue: &Queue,
    durable: bool,
    exclusive: bool,
    auto_delete: bool,
    arguments: &FieldTable,
) -> Done {
    let flags = [
        ("durable", durable, queue.durable),
        ("exclusive", exclusive, queue.owner.is_some()),
        ("auto_delete", auto_delete, queue.auto_delete),
    ];
    for (argument, received, current) in flags {
        if received != current {
            let (received, current) = (format!("'{received}'"), format!("'{current}'"));
            return Err(Fault::inequivalent(argument, "queue", name, &received, &current));
        }
    }
    const COMPARED: [&str; 12] = [
        "x-expires",
        "x-message-ttl",
        "x-dead-letter-exchange",
        "x-dead-letter-routing-key",
        "x-max-length",
        "x-max-length-bytes",
        "x-max-priority",
        "x-overflow",
        "x-queue-mode",
        "x-single-active-consumer",
        "x-queue-type",
        "x-delivery-limit",
    ];
    for argument in COMPARED {
        let (received, current) = (arguments.get(argument), queue.arguments.get(argument));
        let same = received == current
            || received
                .as_ref()
                .and_then(Value::as_i64)
                .is_some_and(|number| current.as_ref().and_then(Value::as_i64) == Some(number));
        if !same {
            let (received, current) = (described(received), described(current));
            return Err(Fault::inequivalent(argument, "queue", name, &received, &current));
        }
    }
    Ok(())
}

/// A value as RabbitMQ describes it in a text.
fn described(value: Option<Value>) -> String {
    let Some(value) = value else { return "none".to_owned() };
    let (text, kind) = match &value {
        Value::LongStr(text) => (text.to_string(), "longstr"),
        Value::Bool(value) => (value.to_string(), "bool"),
        Value::I8(value) => (value.to_string(), "byte"),
        Value::U8(value) => (value.to_string(), "unsignedbyte"),
        Value::I16(value) => (value.to_string(), "short"),
        Value::U16(value) => (value.to_string(), "unsignedshort"),
        Value::I32(value) => (value.to_string(), "signedint"),
        Value::U32(value) => (value.to_string(), "unsignedint"),
        Value::I64(value) => (value.to_string(), "long"),
        other => return format!("{other:?}"),
    };
    format!("the value '{text}' of type '{kind}'")
}

const fn returned(requeue: bool) -> Settlement {
    if requeue { Settlement::Requeue } else { Settlement::Reject }
}

pub(crate) fn count(len: usize) -> u32 {
    u32::try_from(len).unwrap_or(u32::MAX)
}

/// The properties that a delivery carries: those of queues that count deliveries say how often it came back.
pub(crate) fn delivered_properties(
    queue: &Queue,
    message: &crate::message::Message,
) -> amqp_proto::RawProperties {
    if !queue.limits.counts_deliveries || message.returns == 0 {
        return message.properties.clone();
    }
    let mut properties = message.properties.decode();
    let headers = properties.headers.take().unwrap_or_default();
    let times = i64::from(message.returns);
    properties.headers = headers.clone().with("x-delivery-count", times).ok().or(Some(headers));
    amqp_proto::RawProperties::from(&properties)
}
