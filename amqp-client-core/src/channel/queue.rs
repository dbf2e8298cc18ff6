use amqp_proto::method::{QueueBind, QueueDeclare, QueueDelete, QueuePurge, QueueUnbind};
use amqp_proto::{FieldTable, ShortStr, TooLong};

use super::{Channel, name};
use crate::consumer::Consumer;
use crate::delivery::Got;
use crate::error::{PublishError, SendError};
use crate::message::Message;
use crate::options::{ConsumeOptions, PublisherOptions, QueueOptions};
use crate::reply::{Reply, typed};

/// Requests about queues (spec 1.7).
impl Channel {
    /// Creates a queue, or checks that it is there and is like this (`queue.declare`). With an empty name the broker
    /// chooses one.
    pub fn queue_declare(&self, queue: impl AsRef<[u8]>, options: QueueOptions) -> Reply<Queue> {
        self.queue_declared(options.into_method(queue.as_ref()))
    }

    /// Checks that a queue exists, and how many messages and consumers it has. If it does not, the channel closes (404).
    pub fn queue_declare_passive(&self, queue: impl AsRef<[u8]>) -> Reply<Queue> {
        self.queue_declared(
            name("queue", queue)
                .map(|queue| QueueDeclare { queue, passive: true, ..<_>::default() })
                .map_err(Into::into),
        )
    }

    fn queue_declared(&self, method: Result<QueueDeclare, crate::CallError>) -> Reply<Queue> {
        self.request_with(method, |sending, reply| {
            let answer = typed::<QueueDeclare>(sending, reply)?;
            Ok(Queue {
                channel: sending.channel.clone(),
                name: answer.queue.detached(),
                message_count: answer.message_count,
                consumer_count: answer.consumer_count,
            })
        })
    }

    /// Binds a queue to an exchange (`queue.bind`).
    pub fn queue_bind(
        &self,
        queue: impl AsRef<[u8]>,
        exchange: impl AsRef<[u8]>,
        routing_key: impl AsRef<[u8]>,
        arguments: FieldTable,
    ) -> Reply<()> {
        self.request(binding(queue, exchange, routing_key).map(|(queue, exchange, routing_key)| {
            QueueBind { queue, exchange, routing_key, arguments, ..<_>::default() }
        }))
    }

    /// Removes a binding (`queue.unbind`).
    pub fn queue_unbind(
        &self,
        queue: impl AsRef<[u8]>,
        exchange: impl AsRef<[u8]>,
        routing_key: impl AsRef<[u8]>,
        arguments: FieldTable,
    ) -> Reply<()> {
        self.request(binding(queue, exchange, routing_key).map(|(queue, exchange, routing_key)| {
            QueueUnbind { queue, exchange, routing_key, arguments, ..<_>::default() }
        }))
    }

    /// Drops the messages of a queue that wait for delivery (`queue.purge`). Returns how many there were.
    pub fn queue_purge(&self, queue: impl AsRef<[u8]>) -> Reply<u32> {
        let method = name("queue", queue).map(|queue| QueuePurge { queue, ..<_>::default() });
        self.request_with(method.map_err(Into::into), |sending, reply| {
            typed::<QueuePurge>(sending, reply).map(|answer| answer.message_count)
        })
    }

    /// Deletes a queue (`queue.delete`), with `if_unused` only if it has no consumers, with `if_empty` only if it has no
    /// messages. Returns how many messages went with it.
    pub fn queue_delete(
        &self,
        queue: impl AsRef<[u8]>,
        if_unused: bool,
        if_empty: bool,
    ) -> Reply<u32> {
        let method = name("queue", queue).map(|queue| QueueDelete {
            queue,
            if_unused,
            if_empty,
            ..<_>::default()
        });
        self.request_with(method.map_err(Into::into), |sending, reply| {
            typed::<QueueDelete>(sending, reply).map(|answer| answer.message_count)
        })
    }

    /// A queue that is known to exist: asks the broker nothing.
    ///
    /// # Errors
    /// [`TooLong`], if no queue can have that name.
    pub fn queue(&self, queue: impl AsRef<[u8]>) -> Result<Queue, TooLong> {
        let name = name("queue", queue)?;
        Ok(Queue { channel: self.clone(), name, message_count: 0, consumer_count: 0 })
    }
}

fn binding(
    queue: impl AsRef<[u8]>,
    exchange: impl AsRef<[u8]>,
    routing_key: impl AsRef<[u8]>,
) -> Result<(ShortStr, ShortStr, ShortStr), TooLong> {
    Ok((name("queue", queue)?, name("exchange", exchange)?, name("routing key", routing_key)?))
}

/// A queue, seen from a channel.
#[derive(Debug, Clone)]
pub struct Queue {
    channel: Channel,
    name: ShortStr,
    message_count: u32,
    consumer_count: u32,
}

impl Queue {
    /// Its name, chosen by the broker if it was declared without one.
    #[must_use]
    pub const fn name(&self) -> &ShortStr {
        &self.name
    }

    /// Its name at present: a queue that the broker has named gets another one when the connection is recovered. What is done
    /// by this handle, or by the name that it had, finds it all the same; what tells others its name must ask for this.
    #[must_use]
    pub fn current_name(&self) -> ShortStr {
        self.channel.lock().proto.current_name(&self.name).clone()
    }

    /// How many messages were ready for delivery when it was declared.
    #[must_use]
    pub const fn message_count(&self) -> u32 {
        self.message_count
    }

    /// How many consumers it had when it was declared.
    #[must_use]
    pub const fn consumer_count(&self) -> u32 {
        self.consumer_count
    }

    /// Binds it to an exchange (`queue.bind`).
    pub fn bind(&self, exchange: impl AsRef<[u8]>, routing_key: impl AsRef<[u8]>) -> Reply<()> {
        self.bind_with(exchange, routing_key, FieldTable::new())
    }

    /// Binds it to an exchange with arguments, which a headers exchange matches (`queue.bind`).
    pub fn bind_with(
        &self,
        exchange: impl AsRef<[u8]>,
        routing_key: impl AsRef<[u8]>,
        arguments: FieldTable,
    ) -> Reply<()> {
        self.channel.queue_bind(&self.name, exchange, routing_key, arguments)
    }

    /// Removes a binding (`queue.unbind`).
    pub fn unbind(
        &self,
        exchange: impl AsRef<[u8]>,
        routing_key: impl AsRef<[u8]>,
        arguments: FieldTable,
    ) -> Reply<()> {
        self.channel.queue_unbind(&self.name, exchange, routing_key, arguments)
    }

    /// Starts a consumer (`basic.consume`).
    pub fn consume(&self, options: ConsumeOptions) -> Reply<Consumer> {
        self.channel.basic_consume(&self.name, options)
    }

    /// Asks for one message (`basic.get`); nothing, if the queue is empty.
    pub fn get(&self, no_ack: bool) -> Reply<Option<Got>> {
        self.channel.basic_get(&self.name, no_ack)
    }

    /// Publishes a message to this very queue, by way of the default exchange, and returns once it is queued for sending; see
    /// [`Channel::basic_publish`].
    ///
    /// The message is persistent unless its properties say otherwise. It is not mandatory: the broker drops it if the queue is
    /// gone. Use [`publish_confirmed`](Self::publish_confirmed) to know.
    ///
    /// # Errors
    /// [`PublishError`].
    pub async fn publish(&self, message: &Message) -> Result<(), PublishError> {
        let route = amqp_proto::Route::queue(&self.name);
        self.channel.basic_publish(&route, &message.safe_properties(), message.body()).await
    }

    /// Publishes a message to this very queue and waits until the broker has confirmed it. Turns publisher confirms on. The
    /// message is mandatory, and persistent unless its properties say otherwise.
    ///
    /// # Errors
    /// [`SendError`]: not sent, or sent and not confirmed; [`ConfirmError::Returned`](crate::ConfirmError::Returned) if the
    /// queue is gone.
    ///
    /// # Cancel safety
    /// If the future is dropped, the message may be sent or not.
    pub async fn publish_confirmed(&self, message: &Message) -> Result<(), SendError> {
        let exchange = self.channel.default_exchange();
        let publisher = exchange.publisher(PublisherOptions::new())?;
        Ok(publisher.publish_message_to(self.name.as_bytes(), message).await?.await?)
    }

    /// Drops the messages that wait for delivery (`queue.purge`). Returns how many there were.
    pub fn purge(&self) -> Reply<u32> {
        self.channel.queue_purge(&self.name)
    }

    /// Deletes it (`queue.delete`), with `if_unused` only if it has no consumers, with `if_empty` only if it has no
    /// messages. Returns how many messages went with it.
    pub fn delete(&self, if_unused: bool, if_empty: bool) -> Reply<u32> {
        self.channel.queue_delete(&self.name, if_unused, if_empty)
    }
}
