//! The requests of clients.

mod consume;
mod exchange;
mod queue;

use amqp_proto::method::*;
use amqp_proto::{FieldTable, ShortStr, Value};

use crate::arguments::type_name;
use crate::channel::{ChannelState, Mode, Settlement, Transaction};
use crate::confirms::Confirms;
use crate::engine::{At, Engine};
use crate::exchange::Target;
use crate::fault::Fault;
use crate::name::Name;
use crate::observe::Note;
use crate::queue::Queue;

pub(crate) use consume::delivered_properties;

pub(crate) type Done = Result<(), Fault>;

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
                let target = Target::Exchange(self.name(at, method.destination));
                let source = self.name(at, method.source);
                let (key, arguments) = (method.routing_key, method.arguments);
                self.bind(at, &source, target, key, arguments)?;
                self.answer(at, method.no_wait, ExchangeBindOk {});
            }
            Method::ExchangeUnbind(method) => {
                let target = Target::Exchange(self.name(at, method.destination));
                let source = self.name(at, method.source);
                let (key, arguments) = (method.routing_key, method.arguments);
                self.unbind(&source, target, key, arguments)?;
                self.answer(at, method.no_wait, ExchangeUnbindOk {});
            }
            Method::QueueDeclare(method) => return self.queue_declare(at, method),
            Method::QueueBind(method) => {
                let (queue, key) = self.both_named(at, method.queue, method.routing_key);
                let target = Target::Queue(queue.clone());
                let exchange = self.name(at, method.exchange);
                self.bind(at, &exchange, target, key.clone(), method.arguments)?;
                let (session, queue) = (at.session, queue.text);
                self.note(|| Note::Bound { session, queue, routing_key: key });
                self.answer(at, method.no_wait, QueueBindOk {});
            }
            Method::QueueUnbind(method) => {
                let (queue, key) = self.both_named(at, method.queue, method.routing_key);
                let exchange = self.name(at, method.exchange);
                self.unbind(&exchange, Target::Queue(queue), key, method.arguments)?;
                self.send(at, QueueUnbindOk {});
            }
            Method::QueuePurge(method) => {
                let name = self.queue_named(at, method.queue);
                let queue = self.usable(at, &name)?;
                if queue.limits.is_stream {
                    let text = format!("queue.purge not supported by stream queues queue {name}");
                    return Err(Fault::not_implemented(&text));
                }
                let message_count = count(queue.messages.len());
                queue.messages.clear();
                self.note(|| Note::Purged { queue: name.text });
                self.answer(at, method.no_wait, QueuePurgeOk { message_count });
            }
            Method::QueueDelete(method) => return self.queue_delete(at, method),
            Method::BasicQos(method) => return self.basic_qos(at, &method),
            Method::BasicConsume(method) => {
                let prefetch = self.prefetch(at);
                return self.basic_consume(at, method, prefetch);
            }
            Method::BasicCancel(method) => return self.basic_cancel(at, method),
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
                let settlement =
                    if method.requeue { Settlement::Return } else { Settlement::Discard };
                return self.settle_up_to(at, method.delivery_tag, method.multiple, settlement);
            }
            Method::BasicReject(method) => {
                let settlement =
                    if method.requeue { Settlement::Fail } else { Settlement::Discard };
                return self.settle_up_to(at, method.delivery_tag, false, settlement);
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
                    Mode::Confirm(_) => Err("cannot switch from confirm to tx mode"),
                    Mode::Plain => {
                        *mode = Mode::Tx(Transaction::default());
                        Ok(())
                    }
                    Mode::Tx(_) => Ok(()),
                })?;
                self.send(at, TxSelectOk {});
            }
            Method::ConfirmSelect(method) => {
                self.last_confirms += 1;
                let confirms = Confirms::new(self.last_confirms);
                self.select(at, |mode| match mode {
                    Mode::Tx(_) => Err("cannot switch from tx to confirm mode"),
                    Mode::Plain => {
                        *mode = Mode::Confirm(confirms);
                        Ok(())
                    }
                    Mode::Confirm(_) => Ok(()),
                })?;
                self.answer(at, method.no_wait, ConfirmSelectOk {});
            }
            Method::TxCommit(_) => {
                let transaction = self.take_transaction(at)?;
                let mut taken = true;
                for (method, properties, body) in transaction.publishes {
                    taken &= self.route(at, &method, properties, body, None);
                }
                for (_, unacked, settlement) in transaction.settlements {
                    self.settle_one(at, unacked, settlement);
                }
                if !taken {
                    return Err(Fault::precondition("partial tx completion"));
                }
                self.send(at, TxCommitOk {});
            }
            Method::TxRollback(_) => {
                let transaction = self.take_transaction(at)?;
                if let Some(channel) = self.channel(at) {
                    channel.roll_back(transaction);
                }
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

    /// The queue of a request: the one that was declared last, if it names none.
    fn queue_named(&mut self, at: At, text: ShortStr) -> Name {
        let text = match self.channel(at) {
            Some(ChannelState { last_queue, .. }) if text.is_empty() => last_queue.clone(),
            _ => text,
        };
        self.name(at, text)
    }

    /// Resolves the queue and the routing key of a binding. With an empty key, an empty queue name stands for both.
    fn both_named(&mut self, at: At, name: ShortStr, routing_key: ShortStr) -> (Name, ShortStr) {
        let both = name.is_empty() && routing_key.is_empty();
        let name = self.queue_named(at, name);
        let routing_key = if both { name.text.clone() } else { routing_key };
        (name, routing_key)
    }

    /// A queue that is there and not another connection's own.
    pub(crate) fn usable(&mut self, at: At, name: &Name) -> Result<&mut Queue, Fault> {
        let queue = self.queues.get_mut(name).ok_or_else(|| Fault::no_queue(name))?;
        match queue.owner {
            Some(owner) if owner != at.session => Err(Fault::locked(name)),
            _ => Ok(queue),
        }
    }
}

pub(crate) fn count(len: usize) -> u32 {
    u32::try_from(len).unwrap_or(u32::MAX)
}

/// Checks that a declaration repeats the arguments of the first one, of those that count.
fn check_arguments(
    kind: &str,
    name: &Name,
    compared: &[&str],
    received: &FieldTable,
    current: &FieldTable,
) -> Done {
    for argument in compared {
        let (received, current) = (received.get(argument), current.get(argument));
        let same = received == current
            || received
                .as_ref()
                .and_then(Value::as_i64)
                .is_some_and(|number| current.as_ref().and_then(Value::as_i64) == Some(number));
        if !same {
            let (received, current) = (described(received), described(current));
            return Err(Fault::inequivalent(argument, kind, name, &received, &current));
        }
    }
    Ok(())
}

/// A value as RabbitMQ describes it in a text.
fn described(value: Option<Value>) -> String {
    let Some(value) = value else { return "none".to_owned() };
    let text = match &value {
        Value::LongStr(text) => text.to_string(),
        Value::Bool(value) => value.to_string(),
        other => match other.as_i64() {
            Some(number) => number.to_string(),
            None => return format!("{other:?}"),
        },
    };
    format!("the value '{text}' of type '{}'", type_name(&value))
}
