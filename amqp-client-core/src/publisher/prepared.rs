use std::collections::VecDeque;

use amqp_proto::{Body, Prepared};

use super::{Confirmation, Confirmations, Publisher};
use crate::error::{PublishAllError, PublishError, SendError, TryPublishError};

/// Publishes messages that are alike but for their bodies, and knows what became of each.
///
/// Exchange, routing key and properties are encoded once, and copied for each message. It has the window and the options of
/// the [`Publisher`] that it was [made of](Publisher::prepare).
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

    /// The publisher that it was made of.
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

    /// Publishes without ever waiting; see [`Publisher::try_publish`].
    ///
    /// # Errors
    /// [`TryPublishError`], with the body: when it would have had to wait, or failed.
    pub fn try_publish<B: Body>(&self, body: B) -> Result<Confirmation, TryPublishError<B>> {
        let Self { publisher, prepared } = self;
        publisher.try_publish_as(prepared, publisher.kept(prepared.properties()), body)
    }

    /// Publishes a body and waits for the broker's verdict; see [`Publisher::send`].
    ///
    /// # Errors
    /// [`SendError`]: not sent, or sent and not confirmed.
    ///
    /// # Cancel safety
    /// If the future is dropped, the message may be sent or not.
    pub async fn send(&self, body: impl Body) -> Result<(), SendError> {
        Ok(self.publish(body).await?.await?)
    }

    /// Publishes several bodies in their order, as many as may go at once under one lock. Waits while the broker, the
    /// transport or the window demand it, and returns once all are queued.
    ///
    /// # Errors
    /// [`PublishAllError`], which has the confirmations of those that were sent before.
    ///
    /// # Cancel safety
    /// Messages are queued as a whole or not at all, in their order; some may be, and the rest not.
    pub async fn publish_all<B: Body>(
        &self,
        bodies: impl IntoIterator<Item = B>,
    ) -> Result<Confirmations, PublishAllError> {
        let Self { publisher, prepared } = self;
        let bodies = bodies.into_iter();
        // Whoever drops this future drops these, too, and does not want to know of them.
        let mut sent = Confirmations::new(publisher.channel.clone(), VecDeque::new());
        let outgoing = publisher.outgoing(prepared, publisher.kept(prepared.properties()));
        let (channel, timeout) = (&publisher.channel, publisher.timeout());
        let published = |seq| sent.extend(seq);
        let done = channel.publish_all_later(&outgoing, bodies, timeout, published).await;
        match done {
            Ok(()) => Ok(sent),
            Err(error) => Err(PublishAllError { sent, error }),
        }
    }
}
