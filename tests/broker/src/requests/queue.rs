//! Declaring and deleting queues.

use amqp_proto::method::*;
use amqp_proto::{FieldTable, ShortStr};

use super::{Done, check_arguments, count};
use crate::engine::{At, Engine};
use crate::exchange::Target;
use crate::fault::Fault;
use crate::observe::{ConsumerView, Note};
use crate::queue::{Limits, Queue};

impl Engine {
    pub(super) fn queue_declare(&mut self, at: At, method: QueueDeclare) -> Done {
        let mut name = method.queue;
        if self.is_reply_address(&name) {
            let declared = QueueDeclareOk { queue: name, message_count: 0, consumer_count: 1 };
            self.answer(at, method.no_wait, declared);
            return Ok(());
        }
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
            if limits.is_stream {
                check_stream(&name, method.durable, method.exclusive, method.auto_delete)?;
            }
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

    pub(super) fn queue_delete(&mut self, at: At, method: QueueDelete) -> Done {
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
            self.note(|| Note::Deleted { queue: name });
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
            let At { session, channel } = at;
            let (queue, tag) = (name.clone(), consumer.tag.clone());
            self.note(|| Note::Cancelled(ConsumerView { queue, session, channel, tag }));
            self.send(at, BasicCancel { consumer_tag: consumer.tag, no_wait: true });
        }
        // A queue of that name that is declared later knows nothing of its consumers.
        let channels = self.sessions.values_mut().flat_map(|session| session.channels.values_mut());
        channels.for_each(|channel| channel.forget_consumers(name));
        count(queue.messages.len())
    }
}

/// Streams outlive everything.
fn check_stream(name: &ShortStr, durable: bool, exclusive: bool, auto_delete: bool) -> Done {
    let properties =
        [("non-durable", !durable), ("exclusive", exclusive), ("auto-delete", auto_delete)];
    match properties.into_iter().find(|(_, has)| *has) {
        Some((property, _)) => Err(Fault::precondition(format!(
            "invalid property '{property}' for queue '{name}' in vhost '/'"
        ))),
        None => Ok(()),
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
    check_arguments("queue", name, &COMPARED, arguments, &queue.arguments)
}
