//! Streams: logs in which each consumer has its own position.

use std::time::{Duration, SystemTime};

use amqp_proto::method::{BasicConsume, BasicDeliver};
use amqp_proto::{FieldTable, Value};

use crate::arguments::interval;
use crate::channel::Unacked;
use crate::engine::{At, Engine};
use crate::fault::Fault;
use crate::message::Message;
use crate::name::Name;
use crate::queue::{Consumer, Queue};

impl Engine {
    /// Checks the consumer of a stream as RabbitMQ does, and finds the offset that it begins with.
    pub(crate) fn begin_reading(
        &mut self,
        name: &Name,
        consume: &BasicConsume,
        prefetch: u16,
    ) -> Result<usize, Fault> {
        if consume.no_ack {
            return Err(Fault::not_implemented(&format!(
                "automatic acknowledgement not supported by stream queues queue {name}"
            )));
        }
        if prefetch == 0 {
            let text = format!("consumer prefetch count is not set for 'queue {name}'");
            return Err(Fault::precondition(text));
        }
        let Some(queue) = self.queues.get(name) else { return Ok(0) };
        self.place(queue, &consume.arguments).ok_or_else(|| {
            Fault::precondition(format!("invalid arg 'x-stream-offset' for queue '{name}'"))
        })
    }

    /// Streams take nothing back.
    pub(crate) fn check_no_stream(&mut self, at: At, tags: &[u64]) -> Result<(), Fault> {
        let Some(session) = self.sessions.get(&at.session) else { return Ok(()) };
        let unacked = session.channels.get(&at.channel).map(|channel| &channel.unacked);
        let mut queues = tags.iter().filter_map(|tag| Some(&unacked?.get(tag)?.queue));
        let is_stream =
            |name: &&Name| self.queues.get(*name).is_some_and(|queue| queue.limits.is_stream);
        match queues.find(is_stream) {
            Some(name) => Err(Fault::not_implemented(&format!(
                "basic.nack and basic.reject not supported by stream queues queue {name}"
            ))),
            None => Ok(()),
        }
    }

    /// The offset of the first message that a consumer with these arguments gets. A chunk is a message here.
    fn place(&self, queue: &Queue, arguments: &FieldTable) -> Option<usize> {
        let end = queue.messages.len();
        let since = |age: Duration| {
            let from = self.now.checked_sub(age);
            let before = |message: &Message| from.is_some_and(|from| message.arrived < from);
            queue.messages.partition_point(before)
        };
        Some(match arguments.get("x-stream-offset") {
            None => end,
            Some(Value::Timestamp(time)) => {
                since(SystemTime::now().duration_since(time.to_system_time()?).unwrap_or_default())
            }
            Some(value) => match value.as_str() {
                None => usize::try_from(value.as_i64()?).ok()?,
                Some("first") => 0,
                Some("last") => end.saturating_sub(1),
                Some("next") => end,
                Some(age) => since(interval(age)?),
            },
        })
    }

    /// Delivers to each consumer of a stream its next messages, as far as it has room.
    pub(crate) fn deliver_stream(&mut self, name: &Name) {
        let consumers =
            |engine: &Self| engine.queues.get(name).map_or(0, |own| own.consumers.len());
        for index in 0..consumers(self) {
            while let Some((message, offset, consumer)) = self.next_of_stream(name, index) {
                let at = At { session: consumer.session, channel: consumer.channel };
                let Some(channel) = self.channel(at) else { return };
                channel.last_delivery += 1;
                let deliver = BasicDeliver {
                    consumer_tag: consumer.tag.clone(),
                    delivery_tag: channel.last_delivery,
                    redelivered: false,
                    exchange: message.exchange.clone(),
                    routing_key: message.routing_key.clone(),
                };
                if let Some(consumer) = channel.consumers.get_mut(&consumer.tag) {
                    consumer.unacked += 1;
                }
                let offset = i64::try_from(offset).unwrap_or(i64::MAX);
                let properties = message.properties_with(Some(("x-stream-offset", offset)));
                let body = message.body.clone();
                let unacked =
                    Unacked { queue: name.clone(), message, consumer: Some(consumer.tag) };
                channel.unacked.insert(deliver.delivery_tag, unacked);
                self.send_content(at, deliver, &properties, body);
            }
        }
    }

    /// Returns the next message for the consumer at `index`, if it has room.
    fn next_of_stream(&mut self, name: &Name, index: usize) -> Option<(Message, usize, Consumer)> {
        let consumer = self.queues.get(name)?.consumers.get(index)?.clone();
        let at = At { session: consumer.session, channel: consumer.channel };
        if !self.can_take(at, &consumer.tag) {
            return None;
        }
        let queue = self.queues.get_mut(name)?;
        let consumer = queue.consumers.get_mut(index)?;
        let offset = consumer.offset;
        let message = queue.messages.get(offset)?.clone();
        consumer.offset += 1;
        Some((message, offset, consumer.clone()))
    }
}
