pub use amqp_proto::error::{
    Explanation, Limited, Permission, PublishError, Resource, Scope, chain,
};

use std::fmt;
use std::time::Duration;

use amqp_proto::{
    __common_methods as common_methods, __debug_shows_chain as debug_shows_chain, ChannelError,
    ChannelId, Close, CommandError, DeliveryTag, FieldError, Misuse, OpenChannelError, ReplyCode,
    Returned, ShortStr, TooLong, Unusable,
};
use thiserror::Error;

use crate::options::problem::OptionError;

/// A request to the broker failed.
///
/// ```no_run
/// # use amqp_client_core as amqp_client_tokio;
/// # use amqp_client_tokio::Channel;
/// use amqp_client_tokio::{CallError, proto::ReplyCode};
///
/// # async fn example(channel: Channel) -> Result<(), Box<dyn std::error::Error>> {
/// match channel.queue_declare_passive("jobs").await {
///     Ok(queue) => println!("{} messages", queue.message_count()),
///     Err(error) if error.reply_code() == Some(ReplyCode::NOT_FOUND) => println!("no such queue"),
///     Err(CallError::TimedOut { after, .. }) => println!("no reply within {after:?}"),
///     Err(error) => return Err(error.into()),
/// }
/// # Ok(())
/// # }
/// ```
#[derive(Clone, PartialEq, Eq, Error)]
#[non_exhaustive]
pub enum CallError {
    /// The channel is closed. Often this request is the cause; the reason then names it.
    #[error(transparent)]
    Ended(#[from] ChannelError),
    /// A name is too long. Nothing was sent.
    #[error(transparent)]
    Name(#[from] TooLong),
    /// An argument cannot be encoded. Nothing was sent.
    #[error("the argument {name} cannot be encoded")]
    Argument {
        /// The argument's name.
        name: String,
        /// The reason.
        #[source]
        error: FieldError,
    },
    /// The broker would refuse these options. Nothing was sent.
    #[error(transparent)]
    Options(#[from] Box<OptionError>),
    /// The request is not valid, or not valid now. Nothing was sent.
    #[error(transparent)]
    Misuse(#[from] Misuse),
    /// The broker did not reply in time. If the reply still comes, it is discarded and its effect undone.
    #[error("no reply to {method} within {after:?}")]
    TimedOut {
        /// The request's name.
        method: &'static str,
        /// The timeout.
        after: Duration,
    },
    /// [`Channel::call`](crate::Channel::call) or [`call_no_wait`](crate::Channel::call_no_wait) was called with
    /// `basic.consume`. Nothing was sent: without a [`Consumer`](crate::Consumer), nobody takes the deliveries. They would be
    /// requeued, and the broker would deliver them again and again.
    #[error(
        "basic.consume needs a consumer to take its deliveries; use Channel::basic_consume or \
         basic_consume_no_wait"
    )]
    NoConsumer,
    /// No channel could be opened: all are in use, for example.
    #[error(transparent)]
    NoChannel(OpenChannelError),
    /// The reply to `basic.get` was a message that the client does not accept. It was held, requeued or rejected, as
    /// [`Limits::oversized`](amqp_proto::Limits::oversized) configures. If it needed no acknowledgement, it is lost.
    #[error("the client does not accept the message of delivery tag {delivery_tag}")]
    Unusable {
        /// The message's delivery tag. If the message is held, settle it with
        /// [`basic_reject`](crate::Channel::basic_reject).
        delivery_tag: DeliveryTag,
        /// The reason.
        #[source]
        why: Unusable,
    },
}

common_methods! {
    CallError { Self::Ended(error) => error, Self::NoChannel(error) => error }
    transient Self::TimedOut { .. }
}

impl From<CommandError> for CallError {
    fn from(error: CommandError) -> Self {
        match error {
            CommandError::Ended(error) => Self::Ended(error),
            CommandError::Misuse(misuse) => Self::Misuse(misuse),
        }
    }
}

impl From<OpenChannelError> for CallError {
    fn from(error: OpenChannelError) -> Self {
        match error {
            OpenChannelError::Connection(error) => Self::Ended(error.into()),
            error => Self::NoChannel(error),
        }
    }
}

/// `try_publish` did not publish: it would have had to wait ([`PublishError::Gated`]), or it failed. Returns the body to the caller.
///
/// ```no_run
/// # use amqp_client_core as amqp_client_tokio;
/// # use amqp_client_tokio::Publisher;
/// use amqp_client_tokio::TryPublishError;
///
/// # async fn example(publisher: Publisher) -> Result<(), Box<dyn std::error::Error>> {
/// match publisher.try_publish("jobs", "work") {
///     Ok(confirmation) => confirmation.await?,
///     Err(TryPublishError { body: Some(body), error }) => println!("{error}; try {body} later"),
///     Err(failed) => return Err(failed.into()),
/// }
/// # Ok(())
/// # }
/// ```
#[derive(Clone, PartialEq, Eq)]
#[expect(clippy::exhaustive_structs, reason = "the body is moved out of it")]
pub struct TryPublishError<B> {
    /// The message's body, unless the message itself is invalid: a name or its properties are too long.
    pub body: Option<B>,
    /// The reason.
    pub error: PublishError,
}

common_methods! { TryPublishError<B> { Self { error, .. } => error } }

impl<B> std::error::Error for TryPublishError<B> {
    fn source(&self) -> Option<&(dyn std::error::Error + 'static)> {
        self.error.source()
    }
}

impl<B> fmt::Display for TryPublishError<B> {
    fn fmt(&self, f: &mut fmt::Formatter<'_>) -> fmt::Result {
        self.error.fmt(f)
    }
}

/// The error and its causes, without the body.
impl<B> fmt::Debug for TryPublishError<B> {
    fn fmt(&self, f: &mut fmt::Formatter<'_>) -> fmt::Result {
        fmt::Debug::fmt(&self.error, f)
    }
}

/// A message was sent, but the broker did not accept it, or did not confirm that it did.
///
/// ```no_run
/// # use amqp_client_core as amqp_client_tokio;
/// # use amqp_client_tokio::Publisher;
/// use amqp_client_tokio::{ConfirmError, SendError};
///
/// # async fn example(publisher: Publisher) -> Result<(), Box<dyn std::error::Error>> {
/// match publisher.send("jobs", "work").await {
///     Err(SendError::NotConfirmed(ConfirmError::Unconfirmed(_))) => {
///         println!("the connection was lost: a queue may have the message, or not");
///     }
///     outcome => outcome?,
/// }
/// # Ok(())
/// # }
/// ```
#[derive(Clone, PartialEq, Eq, Error)]
#[non_exhaustive]
pub enum ConfirmError {
    /// The broker refused the message (`basic.nack`), for example because a queue with `x-overflow: reject-publish` is full.
    #[error("the broker refused the message (basic.nack); a queue may be full")]
    Nacked,
    /// The message reached no queue, and the broker returned it.
    #[error(
        "the message reached no queue and was returned: {} (exchange {:?}, routing key {:?}); declare or bind the queue first",
        crate::event::ReturnReason(.0), .0.exchange, .0.routing_key
    )]
    Returned(Box<Returned>),
    /// The channel was closed before the broker sent a confirm. The broker may have the message or not.
    #[error(
        "the message was sent, but its channel closed before the confirm; the broker may have the message or not"
    )]
    Unconfirmed(#[source] ChannelError),
    /// The broker closed the channel because of this message, which was [kept](crate::OnLoss::Keep) and will not be sent again.
    #[error("the broker refused the message: {0}")]
    Refused(Close),
    /// The message was [kept](crate::OnLoss::Keep), but will not be sent again: for example, it has expired, or the node of the
    /// new connection allows smaller frames. The broker may have accepted it on an earlier connection.
    #[error(
        "the message was kept for recovery, but is not sent again; the broker may have the message or not"
    )]
    NotResent(#[source] PublishError),
    /// The broker sent no confirm in time. The broker may have the message or not.
    #[error(
        "the message was sent, but not confirmed within {after:?}; the broker may have the message or not"
    )]
    TimedOut {
        /// The timeout.
        after: Duration,
    },
}

impl ConfirmError {
    /// Returns the reply code with which the message was returned, or the channel or connection was closed.
    #[must_use]
    pub fn reply_code(&self) -> Option<ReplyCode> {
        match self {
            Self::Returned(returned) => Some(returned.reply_code),
            Self::Unconfirmed(error) => error.reply_code(),
            Self::NotResent(error) => error.reply_code(),
            _ => self.as_close().map(|close| close.reply_code),
        }
    }

    /// Returns the text that the broker sent with the reply code.
    #[must_use]
    pub fn reply_text(&self) -> Option<&ShortStr> {
        match self {
            Self::Returned(returned) => Some(&returned.reply_text),
            _ => self.as_close().map(|close| &close.reply_text),
        }
    }

    /// Returns the reason of the close in fields, if RabbitMQ's text is known; see [`Close::explanation`].
    #[must_use]
    pub fn explanation(&self) -> Option<Explanation> {
        self.as_close()?.explanation()
    }

    /// Returns the number of the channel that was closed, if the error is the close of a channel.
    #[must_use]
    pub fn channel_id(&self) -> Option<ChannelId> {
        self.as_close()?.channel
    }

    /// Returns the orderly close of the channel or connection, if that is the reason.
    #[must_use]
    pub fn as_close(&self) -> Option<&Close> {
        match self {
            Self::Unconfirmed(error) => error.as_close(),
            Self::Refused(close) => Some(close),
            Self::NotResent(error) => error.as_close(),
            Self::Nacked | Self::Returned(_) | Self::TimedOut { .. } => None,
        }
    }

    /// Returns whether publishing the message again may succeed. Unless the broker refused the message, it may then arrive twice.
    #[must_use]
    pub fn is_transient(&self) -> bool {
        match self {
            Self::Nacked | Self::TimedOut { .. } => true,
            Self::Returned(returned) => returned.reply_code.is_transient(),
            Self::Unconfirmed(error) => error.is_transient(),
            Self::Refused(close) => close.is_transient(),
            Self::NotResent(error) => error.is_transient(),
        }
    }
}

/// A message was not sent, or was sent and not confirmed.
///
/// ```no_run
/// # use amqp_client_core as amqp_client_tokio;
/// # use amqp_client_tokio::Publisher;
/// use amqp_client_tokio::SendError;
///
/// # async fn example(publisher: Publisher) -> Result<(), Box<dyn std::error::Error>> {
/// match publisher.send("jobs", "work").await {
///     Ok(()) => {}
///     Err(SendError::NotSent(error)) => println!("not sent: {error}"),
///     Err(SendError::NotConfirmed(error)) => println!("sent, but not confirmed: {error}"),
///     Err(error) => return Err(error.into()),
/// }
/// # Ok(())
/// # }
/// ```
#[derive(Clone, PartialEq, Eq, Error)]
#[non_exhaustive]
pub enum SendError {
    /// The message was not sent.
    #[error(transparent)]
    NotSent(#[from] PublishError),
    /// The message was sent, but not confirmed.
    #[error(transparent)]
    NotConfirmed(#[from] ConfirmError),
}

common_methods! { SendError { Self::NotSent(error) => error, Self::NotConfirmed(error) => error } }

/// The reason why a consumer ended, other than a cancel through its handle.
///
/// ```no_run
/// # use amqp_client_core as amqp_client_tokio;
/// # use amqp_client_tokio::Consumer;
/// use amqp_client_tokio::ConsumerEnd;
///
/// # async fn example(mut consumer: Consumer) -> Result<(), Box<dyn std::error::Error>> {
/// while let Some(delivery) = consumer.next().await {
///     match delivery {
///         Ok(delivery) => delivery.ack()?,
///         Err(ConsumerEnd::Cancelled) => println!("the queue is gone"),
///         Err(error) => return Err(error.into()),
///     }
/// }
/// # Ok(())
/// # }
/// ```
#[derive(Clone, PartialEq, Eq, Error)]
#[non_exhaustive]
pub enum ConsumerEnd {
    /// The broker cancelled the consumer, for example because its queue was deleted or its node went down.
    #[error(
        "the broker cancelled the consumer: the queue was deleted, or its node is down; declare the queue and consume again"
    )]
    Cancelled,
    /// The channel is closed.
    #[error(transparent)]
    Ended(#[from] ChannelError),
}

common_methods! { ConsumerEnd { Self::Ended(error) => error } }

debug_shows_chain! { CallError ConfirmError SendError ConsumerEnd }
