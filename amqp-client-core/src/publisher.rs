use std::fmt;
use std::future::{Future, poll_fn};
use std::pin::Pin;
use std::task::{Context, Poll};
use std::time::Duration;

use amqp_proto::method::ConfirmSelect;
use amqp_proto::{Body, PublishSeq, RawProperties, Route, ShortStr};

use crate::channel::{Channel, NotNow, Outgoing};
use crate::connection::watch;
use crate::deadline::Deadline;
use crate::error::{CallError, ConfirmError, PublishError, SendError, TryError, TryPublishError};
use crate::message::Message;
use crate::options::{OnLoss, PublisherOptions};

/// Publishes to one exchange, and knows what became of each message.
///
/// Publishing returns as soon as the message is queued for sending, with a [`Confirmation`] to await the broker's verdict.
/// So many messages can be on their way at once; the publisher's window limits how many, and publishing waits while it is
/// full. The window counts the messages of all publishers of the channel.
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
#[derive(Clone)]
pub struct Publisher {
    channel: Channel,
    exchange: ShortStr,
    options: PublisherOptions,
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
            // Publishes may follow at once: the broker reads them behind this.
            let no_answer = ConfirmSelect { no_wait: true };
            channel.call_no_wait(no_answer).map_err(|error| match error {
                CallError::Ended(error) => PublishError::Ended(error),
                CallError::Misuse(misuse) => PublishError::Misuse(misuse),
                _ => PublishError::Misuse(amqp_proto::Misuse::NotNow),
            })?;
        }
        Ok(Self { channel: channel.clone(), exchange, options, properties })
    }

    /// The channel it publishes on.
    #[must_use]
    pub fn channel(&self) -> &Channel {
        &self.channel
    }

    /// Publishes a body with the publisher's properties. Waits while the broker, the transport or the window demand it.
    ///
    /// # Errors
    /// [`PublishError`]: the message was not sent.
    ///
    /// # Cancel safety
    /// The message is queued as a whole or not at all.
    pub async fn publish(
        &self,
        routing_key: &str,
        body: impl Body,
    ) -> Result<Confirmation, PublishError> {
        self.publish_with(routing_key, &self.properties, body).await
    }

    /// Publishes a message with properties of its own.
    ///
    /// # Errors
    /// [`PublishError`]: the message was not sent.
    ///
    /// # Cancel safety
    /// The message is queued as a whole or not at all.
    pub async fn publish_message(
        &self,
        routing_key: &str,
        message: &Message,
    ) -> Result<Confirmation, PublishError> {
        self.publish_with(routing_key, message.properties(), message.body()).await
    }

    /// Publishes a message and waits for the broker's verdict.
    ///
    /// # Errors
    /// [`SendError`]: not sent, or sent and not confirmed.
    ///
    /// # Cancel safety
    /// If the future is dropped, the message may be sent or not.
    pub async fn send_message(
        &self,
        routing_key: &str,
        message: &Message,
    ) -> Result<(), SendError> {
        Ok(self.publish_message(routing_key, message).await?.await?)
    }

    /// Publishes a body with the publisher's properties and waits for the broker's verdict.
    ///
    /// # Errors
    /// [`SendError`]: not sent, or sent and not confirmed.
    ///
    /// # Cancel safety
    /// If the future is dropped, the message may be sent or not.
    pub async fn send(&self, routing_key: &str, body: impl Body) -> Result<(), SendError> {
        Ok(self.publish(routing_key, body).await?.await?)
    }

    /// Publishes without ever waiting.
    ///
    /// # Errors
    /// [`TryPublishError`], with the body: when it would have had to wait, or failed.
    pub fn try_publish<B: Body>(
        &self,
        routing_key: &str,
        body: B,
    ) -> Result<Confirmation, TryPublishError<B>> {
        let outgoing = self.outgoing(routing_key, &self.properties);
        match self.channel.publish_now(&outgoing, body, None) {
            Ok(seq) => Ok(self.confirmation(seq)),
            Err(NotNow::Wait(by, body)) => {
                Err(TryPublishError { body: Some(body), error: TryError::WouldWait(by) })
            }
            Err(NotNow::Failed(error, body)) => {
                Err(TryPublishError { body, error: TryError::Failed(error) })
            }
        }
    }

    /// Waits until the broker has confirmed everything that was published on the channel.
    ///
    /// # Errors
    /// The first failure among the messages since this was last called, whether its [`Confirmation`] told it or not.
    ///
    /// # Cancel safety
    /// Dropping the future changes nothing.
    pub async fn wait_for_confirms(&self) -> Result<(), ConfirmError> {
        let mut deadline = None;
        poll_fn(|cx| {
            let mut guard = self.channel.lock();
            let state = &mut *guard;
            let Some(channel) = state.channel(self.channel.place()) else {
                return Poll::Ready(Ok(()));
            };
            if channel.confirms.outstanding() == 0 {
                return Poll::Ready(channel.confirms.take_failure().map_or(Ok(()), Err));
            }
            watch(&mut state.gate, cx);
            drop(guard);
            poll_deadline(&self.channel, &mut deadline, cx).map(Err)
        })
        .await
    }

    async fn publish_with(
        &self,
        routing_key: &str,
        properties: &RawProperties,
        body: impl Body,
    ) -> Result<Confirmation, PublishError> {
        let timeout = self.options.timeout_or(self.channel.connection().shared().settings);
        let outgoing = self.outgoing(routing_key, properties);
        let seq = self.channel.publish_within(&outgoing, body, timeout).await?;
        Ok(self.confirmation(seq))
    }

    fn outgoing<'a>(
        &'a self,
        routing_key: &'a str,
        properties: &'a RawProperties,
    ) -> Outgoing<'a, RawProperties> {
        let mut route = Route::new(&self.exchange, routing_key);
        route.mandatory = self.options.is_mandatory();
        let keeps = self.options.what_on_loss() == OnLoss::Keep;
        let kept = keeps.then_some(properties);
        Outgoing { route, properties, publisher: Some(&self.options), kept }
    }

    fn confirmation(&self, seq: Option<PublishSeq>) -> Confirmation {
        Confirmation { channel: self.channel.clone(), seq, deadline: None }
    }
}

/// What becomes of a published message: awaits the broker's verdict.
///
/// # Errors
/// [`ConfirmError`]: refused, returned, or unknown.
///
/// # Cancel safety
/// Dropping it means not wanting to know; the message is on its way all the same.
#[must_use = "without awaiting it nobody knows whether the broker took the message"]
#[derive(Debug)]
pub struct Confirmation {
    channel: Channel,
    /// Nothing once it was told.
    seq: Option<PublishSeq>,
    deadline: Option<Deadline>,
}

impl Confirmation {
    /// Gives the broker that long instead of the configured time, counted from now on.
    pub fn within(mut self, timeout: Duration) -> Self {
        let shared = self.channel.connection().shared();
        self.deadline = Some(Deadline::start(shared, shared.lock(), |_| Some(timeout)));
        self
    }

    /// The number of the publish on its channel, from 1.
    #[must_use]
    pub fn seq(&self) -> Option<PublishSeq> {
        self.seq
    }
}

impl Future for Confirmation {
    type Output = Result<(), ConfirmError>;

    fn poll(mut self: Pin<&mut Self>, cx: &mut Context<'_>) -> Poll<Self::Output> {
        let Some(seq) = self.seq else {
            return Poll::Pending;
        };
        let outcome = self.channel.with_state(|state| state.confirms.poll(seq.get(), cx.waker()));
        if let Poll::Ready(outcome) = outcome {
            self.seq = None;
            self.deadline = None;
            return Poll::Ready(outcome);
        }
        let Self { channel, deadline, .. } = &mut *self;
        poll_deadline(channel, deadline, cx).map(Err)
    }
}

impl Drop for Confirmation {
    fn drop(&mut self) {
        if let Some(seq) = self.seq {
            self.channel.with_state(|state| state.confirms.forget(seq.get()));
        }
    }
}

/// Starts the deadline for confirms at the first call, and says when it has passed.
fn poll_deadline(
    channel: &Channel,
    deadline: &mut Option<Deadline>,
    cx: &Context<'_>,
) -> Poll<ConfirmError> {
    let shared = channel.connection().shared();
    let deadline = deadline.get_or_insert_with(|| {
        Deadline::start(shared, shared.lock(), |settings| settings.confirm_timeout)
    });
    if deadline.expired(cx) {
        return Poll::Ready(ConfirmError::TimedOut { after: deadline.after() });
    }
    Poll::Pending
}

impl fmt::Debug for Publisher {
    fn fmt(&self, f: &mut fmt::Formatter<'_>) -> fmt::Result {
        f.debug_struct("Publisher")
            .field("exchange", &self.exchange)
            .field("options", &self.options)
            .finish_non_exhaustive()
    }
}
