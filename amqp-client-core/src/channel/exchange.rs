use amqp_proto::method::{ExchangeBind, ExchangeDeclare, ExchangeDelete, ExchangeUnbind};
use amqp_proto::{FieldTable, ShortStr, TooLong};

use super::Channel;
use crate::error::{PublishError, SendError};
use crate::message::Message;
use crate::options::{ExchangeKind, ExchangeOptions, PublisherOptions, name};
use crate::publisher::Publisher;
use crate::reply::Reply;

/// Requests about exchanges (spec 1.6).
impl Channel {
    /// Creates an exchange, or checks that it exists with the same options (`exchange.declare`).
    pub fn exchange_declare(
        &self,
        exchange: impl AsRef<[u8]>,
        kind: impl Into<ExchangeKind>,
        options: ExchangeOptions,
    ) -> Reply<Exchange> {
        match options.into_method(exchange.as_ref(), &kind.into()) {
            Ok(method) => self.exchange_declared(method),
            Err(error) => Reply::failed(error),
        }
    }

    /// Checks that an exchange exists, without creating it. If it does not exist, the broker closes the channel (404).
    pub fn exchange_declare_passive(&self, exchange: impl AsRef<[u8]>) -> Reply<Exchange> {
        match name("exchange", exchange) {
            Ok(exchange) => self.exchange_declared(ExchangeDeclare {
                exchange,
                passive: true,
                ..<_>::default()
            }),
            Err(error) => Reply::failed(error.into()),
        }
    }

    fn exchange_declared(&self, method: ExchangeDeclare) -> Reply<Exchange> {
        let exchange = method.exchange.clone();
        self.request_with(Ok(method), |sending, _| {
            Ok(Exchange { channel: sending.channel.clone(), name: exchange })
        })
    }

    /// Deletes an exchange (`exchange.delete`).
    pub fn exchange_delete(&self, exchange: impl AsRef<[u8]>) -> Reply<()> {
        self.delete_exchange(exchange, false)
    }

    /// Deletes an exchange if nothing is bound to it (`exchange.delete` with `if-unused`). Otherwise, the broker closes the channel
    /// (406).
    pub fn exchange_delete_if_unused(&self, exchange: impl AsRef<[u8]>) -> Reply<()> {
        self.delete_exchange(exchange, true)
    }

    fn delete_exchange(&self, exchange: impl AsRef<[u8]>, if_unused: bool) -> Reply<()> {
        self.request(name("exchange", exchange).map(|exchange| ExchangeDelete {
            exchange,
            if_unused,
            ..<_>::default()
        }))
    }

    /// Binds an exchange to another: messages that reach `source` and match are also routed to `destination` (`exchange.bind`,
    /// RabbitMQ).
    pub fn exchange_bind(
        &self,
        destination: impl AsRef<[u8]>,
        source: impl AsRef<[u8]>,
        routing_key: impl AsRef<[u8]>,
        arguments: FieldTable,
    ) -> Reply<()> {
        self.request(exchange_binding(destination, source, routing_key, arguments))
    }

    /// Removes a binding between exchanges (`exchange.unbind`, RabbitMQ).
    pub fn exchange_unbind(
        &self,
        destination: impl AsRef<[u8]>,
        source: impl AsRef<[u8]>,
        routing_key: impl AsRef<[u8]>,
        arguments: FieldTable,
    ) -> Reply<()> {
        self.request(ends(destination, source, routing_key).map(
            |(destination, source, routing_key)| ExchangeUnbind {
                destination,
                source,
                routing_key,
                arguments,
                ..<_>::default()
            },
        ))
    }

    /// Returns a handle of an exchange that is known to exist. Sends nothing to the broker.
    ///
    /// # Errors
    /// [`TooLong`], if no exchange can have that name.
    pub fn exchange(&self, exchange: impl AsRef<[u8]>) -> Result<Exchange, TooLong> {
        Ok(Exchange { channel: self.clone(), name: name("exchange", exchange)? })
    }

    /// Returns the default exchange, which routes to the queue that the routing key names.
    #[must_use]
    pub fn default_exchange(&self) -> Exchange {
        Exchange { channel: self.clone(), name: ShortStr::EMPTY }
    }
}

pub(crate) fn exchange_binding(
    destination: impl AsRef<[u8]>,
    source: impl AsRef<[u8]>,
    routing_key: impl AsRef<[u8]>,
    arguments: FieldTable,
) -> Result<ExchangeBind, TooLong> {
    let (destination, source, routing_key) = ends(destination, source, routing_key)?;
    Ok(ExchangeBind { destination, source, routing_key, arguments, ..<_>::default() })
}

pub(super) fn ends(
    destination: impl AsRef<[u8]>,
    source: impl AsRef<[u8]>,
    routing_key: impl AsRef<[u8]>,
) -> Result<(ShortStr, ShortStr, ShortStr), TooLong> {
    Ok((
        name("destination", destination)?,
        name("source", source)?,
        name("routing key", routing_key)?,
    ))
}

/// A handle of an exchange, on one channel.
///
/// ```no_run
/// # use amqp_client_core as amqp_client_tokio;
/// # use amqp_client_tokio::Channel;
/// use amqp_client_tokio::{ExchangeKind, ExchangeOptions, Message};
///
/// # async fn example(channel: Channel) -> Result<(), Box<dyn std::error::Error>> {
/// let logs = channel
///     .exchange_declare("logs", ExchangeKind::Topic, ExchangeOptions::new())
///     .await?;
/// // Fails with `ConfirmError::Returned` if no queue is bound for this routing key.
/// logs.publish_confirmed("app.error", &Message::new("disk full")).await?;
/// # Ok(())
/// # }
/// ```
#[derive(Debug, Clone)]
pub struct Exchange {
    channel: Channel,
    name: ShortStr,
}

impl Exchange {
    /// Returns the exchange's channel.
    #[must_use]
    pub fn channel(&self) -> &Channel {
        &self.channel
    }

    /// Returns the exchange's name; the default exchange has an empty name.
    #[must_use]
    pub const fn name(&self) -> &ShortStr {
        &self.name
    }

    /// Publishes a message to this exchange and returns once it is queued for sending; see [`Channel::basic_publish`].
    ///
    /// The message is persistent unless its properties say otherwise. It is not mandatory, because nothing would report its
    /// return: the broker drops it if it reaches no queue. Use [`publish_confirmed`](Self::publish_confirmed) or a
    /// [`Publisher`] to learn the outcome.
    ///
    /// # Errors
    /// [`PublishError`].
    pub async fn publish(
        &self,
        routing_key: impl AsRef<[u8]>,
        message: &Message,
    ) -> Result<(), PublishError> {
        let route = amqp_proto::Route::new(&self.name, &routing_key);
        self.channel.basic_publish(&route, &message.safe_properties(), message.body()).await
    }

    /// Publishes a message to this exchange and waits until the broker has confirmed it. Turns publisher confirms on. The message
    /// is mandatory, and persistent unless its properties say otherwise.
    ///
    /// # Errors
    /// [`SendError`]: not sent, or sent and not confirmed.
    pub async fn publish_confirmed(
        &self,
        routing_key: impl AsRef<[u8]>,
        message: &Message,
    ) -> Result<(), SendError> {
        let publisher = self.publisher(PublisherOptions::new())?;
        publisher.send_message(routing_key, message).await
    }

    /// Creates a publisher of this exchange, with confirms.
    ///
    /// # Errors
    /// [`PublishError`], if the channel is closed or transactional.
    pub fn publisher(&self, options: PublisherOptions) -> Result<Publisher, PublishError> {
        Publisher::new(&self.channel, self.name.clone(), options)
    }

    /// Binds this exchange to `source`: messages that reach `source` and match are also routed to this exchange (`exchange.bind`).
    pub fn bind(
        &self,
        source: impl AsRef<[u8]>,
        routing_key: impl AsRef<[u8]>,
        arguments: FieldTable,
    ) -> Reply<()> {
        self.channel.exchange_bind(&self.name, source, routing_key, arguments)
    }

    /// Removes a binding of this exchange to `source` (`exchange.unbind`).
    pub fn unbind(
        &self,
        source: impl AsRef<[u8]>,
        routing_key: impl AsRef<[u8]>,
        arguments: FieldTable,
    ) -> Reply<()> {
        self.channel.exchange_unbind(&self.name, source, routing_key, arguments)
    }

    /// Deletes the exchange (`exchange.delete`).
    pub fn delete(&self) -> Reply<()> {
        self.channel.exchange_delete(&self.name)
    }

    /// Deletes the exchange if nothing is bound to it; see [`Channel::exchange_delete_if_unused`].
    pub fn delete_if_unused(&self) -> Reply<()> {
        self.channel.exchange_delete_if_unused(&self.name)
    }
}
