//! Consumers, prefetch, and getting one message.

use amqp_proto::method::*;
use amqp_proto::{RawProperties, ShortStr};

use super::{Done, count};
use crate::channel::{ChannelConsumer, Unacked};
use crate::direct_reply;
use crate::engine::{At, Engine};
use crate::fault::Fault;
use crate::message::Message;
use crate::name::Name;
use crate::observe::{ConsumerView, Note};
use crate::queue::{Consumer, Queue};

impl Engine {
    pub(super) fn basic_qos(&mut self, at: At, method: &BasicQos) -> Done {
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

    /// The limit for new consumers of a channel.
    pub(crate) fn prefetch(&mut self, at: At) -> u16 {
        self.channel(at).map_or(0, |channel| channel.prefetch)
    }

    pub(crate) fn basic_consume(&mut self, at: At, method: BasicConsume, prefetch: u16) -> Done {
        if direct_reply::is_meant_by(&method.queue) {
            return self.consume_replies(at, method);
        }
        let name = self.queue_named(at, method.queue.clone());
        let rabbitmq_4_3 = self.options.rabbitmq_4_3;
        let limits = &self.usable(at, &name)?.limits;
        limits.check_consumer(&name, &method, rabbitmq_4_3)?;
        let is_stream = limits.is_stream;
        let offset = if is_stream { self.begin_reading(&name, &method, prefetch)? } else { 0 };
        let Some(channel) = self.channel(at) else { return Ok(()) };
        let tag = channel.name_consumer(method.consumer_tag)?;
        let queue = self.usable(at, &name)?;
        let taken = queue.consumers.iter().any(|other| other.exclusive);
        if taken || method.exclusive && !queue.consumers.is_empty() {
            return Err(Fault::refused(format!("queue {name} in exclusive use")));
        }
        let is_quorum = queue.limits.counts_deliveries;
        let priority = method.arguments.get("x-priority").and_then(|value| value.as_i64());
        queue.add(Consumer {
            number: 0,
            session: at.session,
            channel: at.channel,
            tag: tag.clone(),
            no_ack: method.no_ack,
            exclusive: method.exclusive,
            priority: priority.unwrap_or(0),
            prefetch,
            offset,
        });
        if let Some(channel) = self.channel(at) {
            // RabbitMQ 3.10.8: the queue delivers nothing, and after 30 seconds the channel breaks.
            let confused = is_quorum && channel.has_left(&name, &tag);
            let consumer = ChannelConsumer { queue: name.clone(), prefetch, unacked: 0, confused };
            channel.consumers.insert(tag.clone(), consumer);
        }
        self.note(|| {
            let (session, channel) = (at.session, at.channel);
            let consumer =
                ConsumerView { queue: name.text.clone(), session, channel, tag: tag.clone() };
            Note::Started { consumer, prefetch }
        });
        self.answer(at, method.no_wait, BasicConsumeOk { consumer_tag: tag });
        self.choose_active(&name);
        self.dirty.insert(name);
        Ok(())
    }

    pub(super) fn basic_cancel(&mut self, at: At, method: BasicCancel) -> Done {
        let consumer_tag = method.consumer_tag;
        if self.is_put_off(at, &consumer_tag) {
            // RabbitMQ 3.10.8 crashes the channel.
            return Err(Fault::internal("the consumer was not there yet"));
        }
        let Some(channel) = self.channel(at) else { return Ok(()) };
        channel.replies.take_if(|consumer| consumer.tag == consumer_tag);
        if let Some(consumer) = channel.consumers.remove(&consumer_tag) {
            self.remove_consumer(at, &consumer_tag, &consumer.queue);
        }
        self.answer(at, method.no_wait, BasicCancelOk { consumer_tag });
        Ok(())
    }

    /// Handles the end of a consumer. An auto-delete queue is deleted with its last consumer.
    pub(crate) fn remove_consumer(&mut self, at: At, tag: &ShortStr, name: &Name) {
        let now = self.now;
        let Some(queue) = self.queues.get_mut(name) else { return };
        queue.consumers.retain(|other| {
            (other.session, other.channel, &other.tag) != (at.session, at.channel, tag)
        });
        queue.last_used = now;
        if queue.consumers.is_empty() && queue.auto_delete {
            self.delete_queue(name);
        } else {
            self.choose_active(name);
            self.dirty.insert(name.clone());
        }
    }

    pub(super) fn basic_get(&mut self, at: At, method: BasicGet) -> Done {
        let name = self.queue_named(at, method.queue);
        let now = self.now;
        self.expire_queue(&name);
        let rabbitmq_4_3 = self.options.rabbitmq_4_3;
        let queue = self.usable(at, &name)?;
        if queue.limits.single_active && queue.limits.counts_deliveries {
            return Err(Fault::single_active(&name, rabbitmq_4_3));
        }
        queue.last_used = now;
        if queue.limits.is_stream {
            let text = format!("basic.get not supported by stream queues queue {name}");
            return Err(Fault::not_implemented(&text));
        }
        let Some(message) = queue.messages.pop_front() else {
            self.send(at, BasicGetEmpty::default());
            return Ok(());
        };
        // RabbitMQ 3.10 tells who gets a message that it was never requeued, and consumers nothing.
        let least = u32::from(rabbitmq_4_3);
        let properties = delivered_properties(queue, &message, rabbitmq_4_3, least);
        // The messages after it may have expired in the meantime.
        self.expire_queue(&name);
        let message_count = self.queues.get(&name).map_or(0, |queue| count(queue.messages.len()));
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
}

/// The properties of a delivery, with the counters of a quorum queue that are at least `least`.
pub(crate) fn delivered_properties(
    queue: &Queue,
    message: &Message,
    rabbitmq_4_3: bool,
    least: u32,
) -> RawProperties {
    let counters = [
        ("x-delivery-count", message.delivery_count, true),
        ("x-acquired-count", message.acquired_count, rabbitmq_4_3),
    ];
    let shown = counters
        .into_iter()
        .filter(|(_, count, known)| queue.limits.counts_deliveries && *known && *count >= least)
        .map(|(name, count, _)| (name, i64::from(count)));
    message.properties_with(shown)
}
