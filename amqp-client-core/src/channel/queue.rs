use amqp_proto::method::{QueueBind, QueueDeclare, QueueDelete, QueuePurge, QueueUnbind};
use amqp_proto::{FieldTable, ShortStr, TooLong};

use super::Channel;
use crate::consumer::Consumer;
use crate::delivery::Got;
use crate::error::{CallError, PublishError, SendError};
use crate::message::Message;
use crate::options::{ConsumeOptions, PublisherOptions, QueueOptions, check_queue, name};
use crate::reply::{Reply, typed};

/// Requests about queues (spec 1.7).
impl Channel {
    /// Creates a queue, or checks that it exists with the same options (`queue.declare`). With an empty name, the broker generates
    /// one. Options that the broker would refuse are an [`OptionError`](crate::OptionError), and nothing is sent.
    pub fn queue_declare(&self, queue: impl AsRef<[u8]>, options: QueueOptions) -> Reply<Queue> {
        self.queue_declared(self.queue_declare_method(queue, options))
    }

    /// Creates the request, if the broker can accept its options.
    pub(super) fn queue_declare_method(
        &self,
        queue: impl AsRef<[u8]>,
        options: QueueOptions,
    ) -> Result<QueueDeclare, CallError> {
        let method = options.into_method(queue.as_ref())?;
        self.check_options(&method.arguments, |version| check_queue(&method, version))?;
        Ok(method)
    }

    /// Checks that a queue exists, and returns its message and consumer counts. If it does not exist, the broker closes the channel
    /// (404).
    pub fn queue_declare_passive(&self, queue: impl AsRef<[u8]>) -> Reply<Queue> {
        self.queue_declared(
            name("queue", queue)
                .map(|queue| QueueDeclare { queue, passive: true, ..<_>::default() })
                .map_err(Into::into),
        )
    }

    fn queue_declared(&self, method: Result<QueueDeclare, CallError>) -> Reply<Queue> {
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
        self.request(queue_binding(queue, exchange, routing_key, arguments))
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

    /// Deletes the messages of a queue that are ready for delivery (`queue.purge`). Returns their number.
    pub fn queue_purge(&self, queue: impl AsRef<[u8]>) -> Reply<u32> {
        let method = name("queue", queue).map(|queue| QueuePurge { queue, ..<_>::default() });
        self.request_with(method.map_err(Into::into), |sending, reply| {
            typed::<QueuePurge>(sending, reply).map(|answer| answer.message_count)
        })
    }

    /// Deletes a queue (`queue.delete`). Returns the number of messages deleted with it.
    pub fn queue_delete(&self, queue: impl AsRef<[u8]>) -> Reply<u32> {
        self.delete_queue(queue, QueueDelete::default())
    }

    /// Deletes a queue if it has no consumers (`queue.delete` with `if-unused`). Otherwise, the broker closes the channel (406).
    /// Returns the number of messages deleted with it. To combine this with `if-empty`, use [`call`](Self::call) with
    /// [`QueueDelete`](amqp_proto::method::QueueDelete).
    pub fn queue_delete_if_unused(&self, queue: impl AsRef<[u8]>) -> Reply<u32> {
        self.delete_queue(queue, QueueDelete { if_unused: true, ..<_>::default() })
    }

    /// Deletes a queue if it has no messages (`queue.delete` with `if-empty`). Otherwise, the broker closes the channel (406).
    pub fn queue_delete_if_empty(&self, queue: impl AsRef<[u8]>) -> Reply<u32> {
        self.delete_queue(queue, QueueDelete { if_empty: true, ..<_>::default() })
    }

    fn delete_queue(&self, queue: impl AsRef<[u8]>, method: QueueDelete) -> Reply<u32> {
        let method = name("queue", queue).map(|queue| QueueDelete { queue, ..method });
        self.request_with(method.map_err(Into::into), |sending, reply| {
            typed::<QueueDelete>(sending, reply).map(|answer| answer.message_count)
        })
    }

    /// Returns a handle of a queue that is known to exist. Sends nothing to the broker.
    ///
    /// # Errors
    /// [`TooLong`], if no queue can have that name.
    pub fn queue(&self, queue: impl AsRef<[u8]>) -> Result<Queue, TooLong> {
        let name = name("queue", queue)?;
        Ok(Queue { channel: self.clone(), name, message_count: 0, consumer_count: 0 })
    }
}

pub(crate) fn queue_binding(
    queue: impl AsRef<[u8]>,
    exchange: impl AsRef<[u8]>,
    routing_key: impl AsRef<[u8]>,
    arguments: FieldTable,
) -> Result<QueueBind, TooLong> {
    let (queue, exchange, routing_key) = binding(queue, exchange, routing_key)?;
    Ok(QueueBind { queue, exchange, routing_key, arguments, ..<_>::default() })
}

fn binding(
    queue: impl AsRef<[u8]>,
    exchange: impl AsRef<[u8]>,
    routing_key: impl AsRef<[u8]>,
) -> Result<(ShortStr, ShortStr, ShortStr), TooLong> {
    Ok((name("queue", queue)?, name("exchange", exchange)?, name("routing key", routing_key)?))
}

/// A handle of a queue, on one channel.
///
/// ```no_run
/// # use amqp_client_core as amqp_client_tokio;
/// # use amqp_client_tokio::Channel;
/// use amqp_client_tokio::{Message, QueueOptions};
///
/// # async fn example(channel: Channel) -> Result<(), Box<dyn std::error::Error>> {
/// let queue = channel.queue_declare("jobs", QueueOptions::new()).await?;
/// queue.bind("amq.topic", "jobs.#").await?;
/// queue.publish_confirmed(&Message::new("work")).await?;
/// # Ok(())
/// # }
/// ```
#[derive(Debug, Clone)]
pub struct Queue {
    channel: Channel,
    name: ShortStr,
    message_count: u32,
    consumer_count: u32,
}

impl Queue {
    /// Returns the queue's channel.
    #[must_use]
    pub fn channel(&self) -> &Channel {
        &self.channel
    }

    /// Returns the queue's name, generated by the broker if it was declared without one.
    #[must_use]
    pub const fn name(&self) -> &ShortStr {
        &self.name
    }

    /// Returns the queue's present name. A queue with a name from the broker gets a new name when the connection is
    /// recovered. This handle and the earlier name still work on this connection. Use the present name where others need it,
    /// as in `reply_to`.
    #[must_use]
    pub fn current_name(&self) -> ShortStr {
        self.channel.lock().proto.current_name(&self.name).clone()
    }

    /// Returns the number of messages that were ready for delivery when the queue was declared.
    #[must_use]
    pub const fn message_count(&self) -> u32 {
        self.message_count
    }

    /// Returns the number of consumers that the queue had when it was declared.
    #[must_use]
    pub const fn consumer_count(&self) -> u32 {
        self.consumer_count
    }

    /// Binds the queue to an exchange (`queue.bind`).
    pub fn bind(&self, exchange: impl AsRef<[u8]>, routing_key: impl AsRef<[u8]>) -> Reply<()> {
        self.bind_with(exchange, routing_key, FieldTable::new())
    }

    /// Binds the queue to an exchange with arguments, which a headers exchange matches (`queue.bind`).
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

    /// Fetches one message (`basic.get`). Returns `None` if the queue is empty.
    pub fn get(&self) -> Reply<Option<Got>> {
        self.channel.basic_get(&self.name)
    }

    /// Fetches one message that needs no acknowledgement; see [`Channel::basic_get_no_ack`].
    pub fn get_no_ack(&self) -> Reply<Option<Got>> {
        self.channel.basic_get_no_ack(&self.name)
    }

    /// Publishes a message to this queue through the default exchange, and returns once it is queued for sending; see
    /// [`Channel::basic_publish`].
    ///
    /// The message is persistent unless its properties say otherwise. It is not mandatory: the broker drops it if the queue does
    /// not exist any more. Use [`publish_confirmed`](Self::publish_confirmed) to learn the outcome.
    ///
    /// # Errors
    /// [`PublishError`].
    pub async fn publish(&self, message: &Message) -> Result<(), PublishError> {
        let route = amqp_proto::Route::queue(&self.name);
        self.channel.basic_publish(&route, &message.safe_properties(), message.body()).await
    }

    /// Publishes a message to this queue and waits until the broker has confirmed it. Turns publisher confirms on. The
    /// message is mandatory, and persistent unless its properties say otherwise.
    ///
    /// # Errors
    /// [`SendError`]: not sent, or sent and not confirmed; [`ConfirmError::Returned`](crate::ConfirmError::Returned) if the
    /// queue does not exist any more.
    ///
    /// # Cancel safety
    /// If the future is dropped, the message may be sent or not.
    pub async fn publish_confirmed(&self, message: &Message) -> Result<(), SendError> {
        let exchange = self.channel.default_exchange();
        let publisher = exchange.publisher(PublisherOptions::new())?;
        Ok(publisher.publish_message_to(self.name.as_bytes(), message).await?.await?)
    }

    /// Deletes the messages that are ready for delivery (`queue.purge`). Returns their number.
    pub fn purge(&self) -> Reply<u32> {
        self.channel.queue_purge(&self.name)
    }

    /// Deletes the queue (`queue.delete`). Returns the number of messages deleted with it.
    pub fn delete(&self) -> Reply<u32> {
        self.channel.queue_delete(&self.name)
    }

    /// Deletes the queue if it has no consumers; see [`Channel::queue_delete_if_unused`].
    pub fn delete_if_unused(&self) -> Reply<u32> {
        self.channel.queue_delete_if_unused(&self.name)
    }

    /// Deletes the queue if it has no messages; see [`Channel::queue_delete_if_empty`].
    pub fn delete_if_empty(&self) -> Reply<u32> {
        self.channel.queue_delete_if_empty(&self.name)
    }
}
