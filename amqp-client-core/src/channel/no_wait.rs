use amqp_proto::method::{
    BasicCancel, ExchangeBind, ExchangeDeclare, ExchangeDelete, ExchangeUnbind, QueueBind,
    QueueDeclare, QueueDelete, QueuePurge, Request,
};
use amqp_proto::{FieldTable, ShortStr};

use super::Channel;
use super::exchange::{ends, exchange_binding};
use super::queue::queue_binding;
use crate::error::CallError;
use crate::options::{ExchangeKind, ExchangeOptions, QueueOptions, name};

impl Channel {
    /// Returns a view of the channel whose requests have no reply (`no_wait`).
    ///
    /// Requests of this view are sent in order with all others. They save the broker a reply, and nothing else: requests with a reply
    /// can be [pipelined](crate::Reply) too, and report their errors. If the broker refuses a request without a reply, it closes the
    /// channel, and [`closed`](Self::closed) and all later requests name the reason.
    ///
    /// The broker still replies where recovery needs to know the outcome: to the declaration of a queue that the broker names, and
    /// to a delete with `if_unused` or `if_empty`. The client keeps these replies to itself.
    ///
    /// For consumers, see [`basic_consume_no_wait`](Self::basic_consume_no_wait). `queue.unbind` always has a reply.
    ///
    /// ```no_run
    /// # use amqp_client_core as amqp_client_tokio;
    /// # use amqp_client_tokio::Channel;
    /// use amqp_client_tokio::{FieldTable, QueueOptions};
    ///
    /// # async fn example(channel: Channel) -> Result<(), Box<dyn std::error::Error>> {
    /// let no_wait = channel.no_wait();
    /// for shard in 0..100 {
    ///     let queue = format!("shard.{shard}");
    ///     no_wait.queue_declare(&queue, QueueOptions::new().max_length(10_000))?;
    ///     no_wait.queue_bind(&queue, "amq.direct", &queue, FieldTable::new())?;
    /// }
    /// // A reply to this means that all of the above has been done.
    /// channel.queue_declare_passive("shard.99").await?;
    /// # Ok(())
    /// # }
    /// ```
    #[must_use]
    pub const fn no_wait(&self) -> NoWait<'_> {
        NoWait { channel: self }
    }
}

/// A view of a channel whose requests have no reply; see [`Channel::no_wait`].
///
/// ```no_run
/// # use amqp_client_core as amqp_client_tokio;
/// # use amqp_client_tokio::Channel;
/// # fn example(channel: Channel) -> Result<(), Box<dyn std::error::Error>> {
/// channel.no_wait().queue_purge("jobs")?;
/// # Ok(())
/// # }
/// ```
///
/// # Errors
/// All methods return [`CallError`], if the request was not sent.
#[derive(Debug, Clone, Copy)]
pub struct NoWait<'a> {
    channel: &'a Channel,
}

#[expect(clippy::missing_errors_doc, reason = "the type's documentation has them, for all methods")]
impl NoWait<'_> {
    /// Creates a queue; see [`Channel::queue_declare`]. Name the queue: without a reply, a name that the broker generates is not
    /// known.
    pub fn queue_declare(
        self,
        queue: impl AsRef<[u8]>,
        options: QueueOptions,
    ) -> Result<(), CallError> {
        let method = self.channel.queue_declare_method(queue, options)?;
        self.send(QueueDeclare { no_wait: true, ..method })
    }

    /// Binds a queue to an exchange; see [`Channel::queue_bind`].
    pub fn queue_bind(
        self,
        queue: impl AsRef<[u8]>,
        exchange: impl AsRef<[u8]>,
        routing_key: impl AsRef<[u8]>,
        arguments: FieldTable,
    ) -> Result<(), CallError> {
        let method = queue_binding(queue, exchange, routing_key, arguments)?;
        self.send(QueueBind { no_wait: true, ..method })
    }

    /// Deletes the messages of a queue that are ready for delivery; see [`Channel::queue_purge`].
    pub fn queue_purge(self, queue: impl AsRef<[u8]>) -> Result<(), CallError> {
        let queue = name("queue", queue)?;
        self.send(QueuePurge { queue, no_wait: true, ..<_>::default() })
    }

    /// Deletes a queue; see [`Channel::queue_delete`].
    pub fn queue_delete(self, queue: impl AsRef<[u8]>) -> Result<(), CallError> {
        self.delete_queue(queue, QueueDelete::default())
    }

    /// Deletes a queue if it has no consumers; see [`Channel::queue_delete_if_unused`].
    pub fn queue_delete_if_unused(self, queue: impl AsRef<[u8]>) -> Result<(), CallError> {
        self.delete_queue(queue, QueueDelete { if_unused: true, ..<_>::default() })
    }

    /// Deletes a queue if it has no messages; see [`Channel::queue_delete_if_empty`].
    pub fn queue_delete_if_empty(self, queue: impl AsRef<[u8]>) -> Result<(), CallError> {
        self.delete_queue(queue, QueueDelete { if_empty: true, ..<_>::default() })
    }

    fn delete_queue(self, queue: impl AsRef<[u8]>, method: QueueDelete) -> Result<(), CallError> {
        let queue = name("queue", queue)?;
        self.send(QueueDelete { queue, no_wait: true, ..method })
    }

    /// Creates an exchange; see [`Channel::exchange_declare`].
    pub fn exchange_declare(
        self,
        exchange: impl AsRef<[u8]>,
        kind: impl Into<ExchangeKind>,
        options: ExchangeOptions,
    ) -> Result<(), CallError> {
        let method = options.into_method(exchange.as_ref(), &kind.into())?;
        self.send(ExchangeDeclare { no_wait: true, ..method })
    }

    /// Deletes an exchange; see [`Channel::exchange_delete`].
    pub fn exchange_delete(self, exchange: impl AsRef<[u8]>) -> Result<(), CallError> {
        self.delete_exchange(exchange, false)
    }

    /// Deletes an exchange if nothing is bound to it; see [`Channel::exchange_delete_if_unused`].
    pub fn exchange_delete_if_unused(self, exchange: impl AsRef<[u8]>) -> Result<(), CallError> {
        self.delete_exchange(exchange, true)
    }

    fn delete_exchange(self, exchange: impl AsRef<[u8]>, if_unused: bool) -> Result<(), CallError> {
        let exchange = name("exchange", exchange)?;
        self.send(ExchangeDelete { exchange, if_unused, no_wait: true, ..<_>::default() })
    }

    /// Binds an exchange to another; see [`Channel::exchange_bind`].
    pub fn exchange_bind(
        self,
        destination: impl AsRef<[u8]>,
        source: impl AsRef<[u8]>,
        routing_key: impl AsRef<[u8]>,
        arguments: FieldTable,
    ) -> Result<(), CallError> {
        let method = exchange_binding(destination, source, routing_key, arguments)?;
        self.send(ExchangeBind { no_wait: true, ..method })
    }

    /// Removes a binding between exchanges; see [`Channel::exchange_unbind`].
    pub fn exchange_unbind(
        self,
        destination: impl AsRef<[u8]>,
        source: impl AsRef<[u8]>,
        routing_key: impl AsRef<[u8]>,
        arguments: FieldTable,
    ) -> Result<(), CallError> {
        let (destination, source, routing_key) = ends(destination, source, routing_key)?;
        let no_wait = true;
        self.send(ExchangeUnbind {
            destination,
            source,
            routing_key,
            no_wait,
            arguments,
            ..<_>::default()
        })
    }

    /// Ends a consumer; see [`Channel::basic_cancel`] and [`Channel::call_no_wait`].
    pub fn basic_cancel(self, consumer_tag: impl AsRef<[u8]>) -> Result<(), CallError> {
        let consumer_tag: ShortStr = name("consumer tag", consumer_tag)?;
        self.send(BasicCancel { consumer_tag, no_wait: true })
    }

    fn send(self, request: impl Request) -> Result<(), CallError> {
        self.channel.call_no_wait(request)
    }
}
