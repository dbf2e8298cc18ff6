//! Declaring and deleting queues.

use amqp_proto::FieldTable;
use amqp_proto::method::*;

use super::{Done, check_arguments, count};
use crate::arguments::Limits;
use crate::engine::{At, Engine};
use crate::exchange::Target;
use crate::fault::Fault;
use crate::name::Name;
use crate::observe::{ConsumerView, Note};
use crate::queue::Queue;

impl Engine {
    pub(super) fn queue_declare(&mut self, at: At, method: QueueDeclare) -> Done {
        let mut name = self.name(at, method.queue.clone());
        if self.is_reply_address(&name.text) {
            let declared = QueueDeclareOk { queue: name.text, message_count: 0, consumer_count: 1 };
            self.answer(at, method.no_wait, declared);
            return Ok(());
        }
        if let Some(queue) = self.queues.get(&name).filter(|_| !name.text.is_empty()) {
            // RabbitMQ: it belongs to the same connection as before, or to none as before.
            let as_before = method.passive || queue.owner.is_some() == method.exclusive;
            if queue.owner.is_some_and(|owner| owner != at.session) || !as_before {
                return Err(Fault::locked(&name));
            }
            if !method.passive {
                check_equivalent(
                    &name,
                    queue,
                    method.durable,
                    method.auto_delete,
                    &method.arguments,
                )?;
            }
        } else {
            if method.passive {
                return Err(Fault::no_queue(&name));
            }
            if name.is_reserved() {
                return Err(Fault::reserved("queue", &name));
            }
            if name.text.is_empty() {
                name.text = self.generate_name();
            }
            let limits = Limits::parse(&name, &method, self.options.rabbitmq_4_3)?;
            let mut queue = Queue::new(method.arguments, limits, self.now);
            queue.durable = method.durable;
            queue.owner = method.exclusive.then_some(at.session);
            queue.auto_delete = method.auto_delete;
            self.queues.insert(name.clone(), queue);
        }
        let now = self.now;
        if let Some(channel) = self.channel(at) {
            channel.last_queue = name.text.clone();
        }
        if let Some(queue) = self.queues.get_mut(&name) {
            queue.last_used = now;
            let message_count = count(queue.messages.len());
            let consumer_count = count(queue.consumers.len());
            let declared = QueueDeclareOk { queue: name.text, message_count, consumer_count };
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
                return Err(Fault::precondition(format!("queue {name} in use")));
            }
            if method.if_empty && !queue.messages.is_empty() {
                return Err(Fault::precondition(format!("queue {name} not empty")));
            }
            message_count = self.delete_queue(&name);
            self.note(|| Note::Deleted { queue: name.text });
        }
        self.answer(at, method.no_wait, QueueDeleteOk { message_count });
        Ok(())
    }

    /// Deletes a queue: notifies its consumers, and removes its bindings. Returns how many messages were deleted with it.
    pub(crate) fn delete_queue(&mut self, name: &Name) -> u32 {
        let Some(queue) = self.queues.remove(name) else { return 0 };
        self.forget_target(&Target::Queue(name.clone()));
        for consumer in queue.consumers {
            let at = At { session: consumer.session, channel: consumer.channel };
            if let Some(channel) = self.channel(at) {
                channel.consumers.remove(&consumer.tag);
            }
            let At { session, channel } = at;
            let (queue, tag) = (name.text.clone(), consumer.tag.clone());
            self.note(|| Note::Cancelled(ConsumerView { queue, session, channel, tag }));
            self.send(at, BasicCancel { consumer_tag: consumer.tag, no_wait: true });
        }
        // A queue of that name that is declared later knows nothing of its consumers.
        let channels = self.sessions.values_mut().flat_map(|session| session.channels.values_mut());
        channels.for_each(|channel| channel.forget_consumers(name));
        count(queue.messages.len())
    }
}

fn check_equivalent(
    name: &Name,
    queue: &Queue,
    durable: bool,
    auto_delete: bool,
    arguments: &FieldTable,
) -> Done {
    let flags =
        [("durable", durable, queue.durable), ("auto_delete", auto_delete, queue.auto_delete)];
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
