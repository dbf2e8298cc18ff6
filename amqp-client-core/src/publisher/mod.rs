//! Publishing with confirms.

mod confirmation;
mod prepared;

pub use confirmation::{Confirmation, Confirmations, PublishAllError};
pub use prepared::PreparedPublisher;

use std::fmt;
use std::future::poll_fn;
use std::sync::Arc;
use std::task::Poll;
use std::time::Duration;

use amqp_proto::method::ConfirmSelect;
use amqp_proto::{Body, ChannelError, PublishSeq, RawProperties, Route, ShortStr};

use confirmation::poll_deadline;

use crate::channel::{Channel, Heads, NotNow, Outgoing};
use crate::error::{ConfirmError, PublishError, SendError, TryPublishError};
use crate::message::Message;
use crate::options::{OnLoss, PublisherOptions};
use crate::state::{On, Waiting};

/// Publishes to one exchange, with publisher confirms.
///
/// Publishing returns as soon as the message is queued for sending. The returned [`Confirmation`] resolves to the outcome. So many
/// messages can be unconfirmed at once. The publisher's window limits their number: while it is full, publishing waits.
///
/// The window counts the messages of all publishers of the channel. So give publishers of one channel the same window, or give
/// each its own channel. A publisher with a window of 10 waits, up to its timeout, for as long as others keep 10 messages
/// unconfirmed.
///
/// Waiting tasks publish in the order in which they began to wait. Keep polling a waiting future, or drop it. A future that is
/// neither polled nor dropped keeps its place in the queue, and the tasks after it wait. That happens with `select!` on `&mut
/// future` if another branch publishes as well.
///
/// Messages are persistent and mandatory unless the [options](PublisherOptions) or the message itself say otherwise: `send` to a
/// queue that does not exist fails with [`ConfirmError::Returned`].
///
/// ```no_run
/// # use amqp_client_core::{Channel, PublisherOptions};
/// # async fn example(channel: Channel) -> Result<(), Box<dyn std::error::Error>> {
/// let publisher = channel.exchange("orders")?.publisher(PublisherOptions::new())?;
/// let mut confirmations = Vec::new();
/// for number in 0..1000 {
///     confirmations.push(publisher.publish("new", format!("order {number}")).await?);
/// }
/// for confirmation in confirmations {
///     confirmation.await?;
/// }
/// # Ok(())
/// # }
/// ```
///
/// # When the channel closes
///
/// The broker closes the channel if the exchange does not exist, if the user may not write to it, if a body is larger than it
/// accepts (RabbitMQ's `max_message_size`: by default 128 MiB up to 3.13, and 16 MiB from 4.0), or if another request on the
/// channel fails. The connection stays open, and every later publish fails with the reason, even if the exchange exists again.
/// [`is_open`](Self::is_open), [`closed`](Self::closed) and [`Health::closed_channels`](crate::Health::closed_channels) report
/// closed channels. Then open another channel and create a new publisher. With
/// [`Recovery::reopen_channels`](crate::Recovery::reopen_channels), the connection reopens such channels by itself, and their
/// publishers continue to work.
#[derive(Clone)]
pub struct Publisher {
    channel: Channel,
    exchange: ShortStr,
    options: Arc<PublisherOptions>,
    properties: RawProperties,
}

impl Publisher {
    pub(crate) fn new(
        channel: &Channel,
        exchange: ShortStr,
        options: PublisherOptions,
    ) -> Result<Self, PublishError> {
        let properties = options.encoded_properties()?;
        if !channel.with_state(|state| state.confirming) {
            // Publishes may follow at once: the broker reads them after this request.
            channel.request_no_wait(ConfirmSelect { no_wait: true })?;
        }
        Ok(Self { channel: channel.clone(), exchange, options: Arc::new(options), properties })
    }

    /// Returns the publisher's channel.
    #[must_use]
    pub fn channel(&self) -> &Channel {
        &self.channel
    }

    /// Returns the properties of messages that are published as bodies: those of the [options](PublisherOptions::properties), encoded.
    #[must_use]
    pub const fn properties(&self) -> &RawProperties {
        &self.properties
    }

    /// Returns whether the publisher's channel is open. Once the channel is closed, every publish fails; see
    /// [when the channel closes](Self#when-the-channel-closes).
    #[must_use]
    pub fn is_open(&self) -> bool {
        self.channel.is_open()
    }

    /// Waits until the publisher's channel is closed, and returns the reason.
    ///
    /// # Cancel safety
    /// Dropping the future changes nothing.
    pub async fn closed(&self) -> ChannelError {
        self.channel.closed().await
    }

    /// Publishes a body with the publisher's properties. Waits while the broker has blocked publishing, the transport is far
    /// behind, or the window is full.
    ///
    /// # Errors
    /// [`PublishError`]: the message was not sent.
    ///
    /// # Cancel safety
    /// The message is queued as a whole or not at all.
    pub async fn publish(
        &self,
        routing_key: impl AsRef<[u8]>,
        body: impl Body,
    ) -> Result<Confirmation, PublishError> {
        let heads = (self.route(routing_key.as_ref()), &self.properties);
        self.publish_as(heads, self.kept(&self.properties), body).await
    }

    /// Publishes a message with its own properties. If they have no delivery mode, the publisher's
    /// [options](PublisherOptions::persistent) set it.
    ///
    /// # Errors
    /// [`PublishError`]: the message was not sent.
    ///
    /// # Cancel safety
    /// The message is queued as a whole or not at all.
    pub async fn publish_message(
        &self,
        routing_key: impl AsRef<[u8]>,
        message: &Message,
    ) -> Result<Confirmation, PublishError> {
        self.publish_message_to(routing_key.as_ref(), message).await
    }

    pub(crate) async fn publish_message_to(
        &self,
        routing_key: &[u8],
        message: &Message,
    ) -> Result<Confirmation, PublishError> {
        let properties = message.properties().or_delivery_mode(self.options.delivery_mode());
        let heads = (self.route(routing_key), &properties);
        let kept = self.keeps().then(|| RawProperties::from(properties));
        self.publish_as(heads, kept.as_ref(), message.body()).await
    }

    /// Publishes a message and waits for its confirm.
    ///
    /// # Errors
    /// [`SendError`]: not sent, or sent and not confirmed.
    ///
    /// # Cancel safety
    /// If the future is dropped, the message may be sent or not.
    pub async fn send_message(
        &self,
        routing_key: impl AsRef<[u8]>,
        message: &Message,
    ) -> Result<(), SendError> {
        Ok(self.publish_message(routing_key, message).await?.await?)
    }

    /// Publishes a body with the publisher's properties and waits for its confirm.
    ///
    /// # Errors
    /// [`SendError`]: not sent, or sent and not confirmed.
    ///
    /// # Cancel safety
    /// If the future is dropped, the message may be sent or not.
    pub async fn send(
        &self,
        routing_key: impl AsRef<[u8]>,
        body: impl Body,
    ) -> Result<(), SendError> {
        Ok(self.publish(routing_key, body).await?.await?)
    }

    /// Publishes without waiting.
    ///
    /// # Errors
    /// [`TryPublishError`], with the body, if publishing would have had to wait, or failed.
    pub fn try_publish<B: Body>(
        &self,
        routing_key: impl AsRef<[u8]>,
        body: B,
    ) -> Result<Confirmation, TryPublishError<B>> {
        let heads = (self.route(routing_key.as_ref()), &self.properties);
        self.try_publish_as(heads, self.kept(&self.properties), body)
    }

    /// Waits until the broker has confirmed everything that was published on the channel.
    ///
    /// # Errors
    /// The first failure among the messages since the last call, even if its [`Confirmation`] has returned it already. Calls that
    /// wait at the same time all return it.
    ///
    /// # Cancel safety
    /// Dropping the future changes nothing.
    pub async fn wait_for_confirms(&self) -> Result<(), ConfirmError> {
        let (mut deadline, mut call) = (None, None);
        let shared = self.channel.connection().shared();
        let mut waiting = Waiting::new(shared, On::Confirms(self.channel.place()));
        poll_fn(|cx| {
            let confirmed = shared.poll(cx, |state, task| {
                let Some(channel) = state.channel(self.channel.place()) else {
                    return Poll::Ready(Ok(()));
                };
                let call = *call.get_or_insert_with(|| channel.confirms().begin_call());
                if channel.confirms().outstanding() == 0 {
                    return Poll::Ready(channel.confirms().end_call(call).map_or(Ok(()), Err));
                }
                waiting.wait(state, task)
            });
            if confirmed.is_ready() {
                return confirmed;
            }
            poll_deadline(&self.channel, &mut deadline, cx).map(Err)
        })
        .await
    }

    fn route<'a>(&'a self, routing_key: &'a [u8]) -> Route<'a> {
        let route = Route::new(&self.exchange, routing_key);
        if self.options.is_mandatory() { route.mandatory() } else { route }
    }

    async fn publish_as(
        &self,
        heads: impl Heads,
        kept: Option<&RawProperties>,
        body: impl Body,
    ) -> Result<Confirmation, PublishError> {
        let outgoing = self.outgoing(heads, kept);
        let fast = self.channel.connection().shared().is_fast();
        let body = if fast {
            // Most often, the message can be sent at once.
            match self.channel.try_publish(&outgoing, body, None) {
                Ok(seq) => return Ok(self.confirmation(seq)),
                Err(NotNow::Failed(error, _)) => return Err(error),
                Err(NotNow::Wait(_, body)) => body,
            }
        } else {
            body
        };
        let seq = self.channel.publish_later(&outgoing, body, self.timeout(), fast).await?;
        Ok(self.confirmation(seq))
    }

    fn try_publish_as<B: Body>(
        &self,
        heads: impl Heads,
        kept: Option<&RawProperties>,
        body: B,
    ) -> Result<Confirmation, TryPublishError<B>> {
        match self.channel.publish_at_once(&self.outgoing(heads, kept), body) {
            Ok(seq) => Ok(self.confirmation(seq)),
            Err(NotNow::Wait(by, body)) => {
                Err(TryPublishError { body: Some(body), error: PublishError::Gated(by) })
            }
            Err(NotNow::Failed(error, body)) => Err(TryPublishError { body, error }),
        }
    }

    fn outgoing<'a, H>(&'a self, heads: H, kept: Option<&'a RawProperties>) -> Outgoing<'a, H> {
        Outgoing { heads, publisher: Some(&self.options), kept }
    }

    fn keeps(&self) -> bool {
        self.options.what_on_loss() == OnLoss::Keep
    }

    /// Returns the properties to keep with a message, if the publisher keeps messages until they are confirmed.
    fn kept<'a>(&self, properties: &'a RawProperties) -> Option<&'a RawProperties> {
        self.keeps().then_some(properties)
    }

    fn timeout(&self) -> Option<Duration> {
        self.options.timeout_or(self.channel.connection().shared().settings)
    }

    fn confirmation(&self, seq: Option<PublishSeq>) -> Confirmation {
        Confirmation::new(self.channel.clone(), seq)
    }
}

impl fmt::Debug for Publisher {
    fn fmt(&self, f: &mut fmt::Formatter<'_>) -> fmt::Result {
        f.debug_struct("Publisher")
            .field("exchange", &self.exchange)
            .field("options", &self.options)
            .finish_non_exhaustive()
    }
}
