use std::collections::VecDeque;

use amqp_proto::{Body, Prepared, TooLong};

use super::{Confirmation, Confirmations, PublishAllError, Publisher};
use crate::error::{PublishError, SendError, TryPublishError};

impl Publisher {
    /// Creates a publisher of messages with this routing key and the publisher's properties. It encodes everything but the bodies
    /// once. This is the fastest way to publish with confirms.
    ///
    /// # Errors
    /// [`TooLong`], for the routing key.
    pub fn prepare(&self, routing_key: impl AsRef<[u8]>) -> Result<PreparedPublisher, TooLong> {
        let route = self.route(routing_key.as_ref());
        let prepared = self.channel.prepare(&route, &self.properties)?;
        Ok(PreparedPublisher::new(self.clone(), prepared))
    }
}

/// Publishes messages that differ only in their bodies, with publisher confirms.
///
/// Exchange, routing key and properties are encoded once, and copied for each message. Window and options are those of the
/// [`Publisher`] that [created](Publisher::prepare) it.
///
/// ```no_run
/// # use amqp_client_core::{Channel, PublisherOptions};
/// # async fn example(channel: Channel, lines: Vec<String>) -> Result<(), Box<dyn std::error::Error>> {
/// let publisher = channel.exchange("log")?.publisher(PublisherOptions::new())?;
/// let errors = publisher.prepare("error")?;
/// errors.send("a single line").await?;
/// errors.publish_all(&lines).await?.await?;
/// # Ok(())
/// # }
/// ```
#[derive(Debug, Clone)]
pub struct PreparedPublisher {
    publisher: Publisher,
    prepared: Prepared,
}

impl PreparedPublisher {
    pub(super) const fn new(publisher: Publisher, prepared: Prepared) -> Self {
        Self { publisher, prepared }
    }

    /// Returns the publisher that created it.
    #[must_use]
    pub const fn publisher(&self) -> &Publisher {
        &self.publisher
    }

    /// Publishes a body; see [`Publisher::publish`].
    ///
    /// # Errors
    /// [`PublishError`]: the message was not sent.
    ///
    /// # Cancel safety
    /// The message is queued as a whole or not at all.
    pub async fn publish(&self, body: impl Body) -> Result<Confirmation, PublishError> {
        let Self { publisher, prepared } = self;
        publisher.publish_as(prepared, publisher.kept(prepared.properties()), body).await
    }

    /// Publishes without waiting; see [`Publisher::try_publish`].
    ///
    /// # Errors
    /// [`TryPublishError`], with the body, if publishing would have had to wait, or failed.
    pub fn try_publish<B: Body>(&self, body: B) -> Result<Confirmation, TryPublishError<B>> {
        let Self { publisher, prepared } = self;
        publisher.try_publish_as(prepared, publisher.kept(prepared.properties()), body)
    }

    /// Publishes a body and waits for its confirm; see [`Publisher::send`].
    ///
    /// # Errors
    /// [`SendError`]: not sent, or sent and not confirmed.
    ///
    /// # Cancel safety
    /// If the future is dropped, the message may be sent or not.
    pub async fn send(&self, body: impl Body) -> Result<(), SendError> {
        Ok(self.publish(body).await?.await?)
    }

    /// Publishes several bodies in order, taking the lock once for all messages that can be sent without waiting. Waits while the
    /// broker has blocked publishing, the transport is far behind, or the window is full. Returns once all are queued.
    ///
    /// # Errors
    /// [`PublishAllError`], with the confirmations of the messages that were sent before the failure.
    ///
    /// # Cancel safety
    /// Each message is queued as a whole or not at all. If the future is dropped, the first messages may be queued and the rest not.
    pub async fn publish_all<B: Body>(
        &self,
        bodies: impl IntoIterator<Item = B>,
    ) -> Result<Confirmations, PublishAllError> {
        let Self { publisher, prepared } = self;
        let bodies = bodies.into_iter();
        // Dropping this future drops the confirmations, too, and discards the outcomes.
        let mut sent = Confirmations::new(publisher.channel.clone(), VecDeque::new());
        let outgoing = publisher.outgoing(prepared, publisher.kept(prepared.properties()));
        let (channel, timeout) = (&publisher.channel, publisher.timeout());
        let published = |seq| sent.extend(seq);
        let done = channel.publish_all_soon(&outgoing, bodies, timeout, published).await;
        match done {
            Ok(()) => Ok(sent),
            Err(error) => Err(PublishAllError { sent, error }),
        }
    }
}
