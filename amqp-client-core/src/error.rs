//! Errors of the handles. They contain `amqp-proto`'s errors unchanged where a connection or channel has ended.

use std::time::Duration;

use amqp_proto::{
    ChannelError, Close, CommandError, ConnectionError, DeliveryTag, FieldError, Gate, Misuse,
    OpenChannelError, ReplyCode, Returned, TooLong, Unusable,
};
use thiserror::Error;

/// A request to the broker failed.
#[derive(Debug, Clone, PartialEq, Eq, Error)]
#[non_exhaustive]
pub enum CallError {
    /// The channel is closed. Often this request is the cause; the reason then names it.
    #[error(transparent)]
    Ended(#[from] ChannelError),
    /// A name is too long. Nothing was sent.
    #[error(transparent)]
    Name(#[from] TooLong),
    /// An argument cannot be encoded. Nothing was sent.
    #[error("{name}: {error}")]
    Argument {
        /// The argument's name.
        name: String,
        /// What is wrong with it.
        error: FieldError,
    },
    /// The request does not fit into a frame. Nothing was sent.
    #[error("{method} takes a frame of {size} bytes, but frame_max is {frame_max}")]
    TooLarge {
        /// The method's name.
        method: &'static str,
        /// The size of the frame that it would need.
        size: usize,
        /// The negotiated limit.
        frame_max: u32,
    },
    /// The request is not valid in the current state. Nothing was sent.
    #[error(transparent)]
    Misuse(#[from] Misuse),
    /// No answer came in time. It may still come: it is then swallowed, and what it brings is undone.
    #[error("no answer to {method} within {after:?}")]
    TimedOut {
        /// The request's name.
        method: &'static str,
        /// The time it was given.
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
    /// No channel could be opened for the request.
    #[error(transparent)]
    NoChannel(#[from] OpenChannelError),
    /// The reply to `basic.get` was a message that the client does not accept. It was held, requeued or rejected, as
    /// [`Limits::oversized`](amqp_proto::Limits::oversized) configures. If it needed no acknowledgement, it is lost.
    #[error("{why}")]
    Unusable {
        /// The message's delivery tag. If the message is held, settle it with
        /// [`basic_reject`](crate::Channel::basic_reject).
        delivery_tag: DeliveryTag,
        /// The reason.
        why: Unusable,
    },
}

impl CallError {
    /// The reply code that the channel or connection was closed with, if that is the reason.
    #[must_use]
    pub fn reply_code(&self) -> Option<ReplyCode> {
        match self {
            Self::Ended(error) => error.reply_code(),
            Self::NoChannel(error) => error.reply_code(),
            _ => None,
        }
    }
}

impl From<amqp_proto::PublishError> for PublishError {
    fn from(error: amqp_proto::PublishError) -> Self {
        match error {
            amqp_proto::PublishError::Ended(error) => Self::Ended(error),
            amqp_proto::PublishError::Name(error) => Self::Name(error),
            amqp_proto::PublishError::PropertiesTooLarge { size, frame_max } => {
                Self::PropertiesTooLarge { size, frame_max }
            }
            amqp_proto::PublishError::Expired => Self::Expired,
            amqp_proto::PublishError::Withdrawn => Self::Withdrawn,
            amqp_proto::PublishError::Misuse(misuse) => Self::Misuse(misuse),
            // The gates were checked under the same lock.
            _ => Self::Misuse(Misuse::NotNow),
        }
    }
}

impl From<CommandError> for CallError {
    fn from(error: CommandError) -> Self {
        match error {
            CommandError::Ended(error) => Self::Ended(error),
            CommandError::Misuse(misuse) => Self::Misuse(misuse),
            CommandError::TooLarge { method, size, frame_max } => {
                Self::TooLarge { method, size, frame_max }
            }
            // `CommandError` grows only together with this crate.
            _ => Self::Misuse(Misuse::NotNow),
        }
    }
}

/// Opening a channel failed.
#[derive(Debug, Clone, PartialEq, Eq, Error)]
#[non_exhaustive]
pub enum OpenError {
    /// The client did not send the request: all channels are in use, for example.
    #[error(transparent)]
    Refused(#[from] OpenChannelError),
    /// The channel or the connection was closed before the channel was open.
    #[error(transparent)]
    Ended(#[from] ChannelError),
    /// No answer came in time.
    #[error("no answer to channel.open within {after:?}")]
    TimedOut {
        /// The time it was given.
        after: Duration,
    },
}

impl OpenError {
    /// The reply code that the channel or connection was closed with, if that is the reason.
    #[must_use]
    pub fn reply_code(&self) -> Option<ReplyCode> {
        match self {
            Self::Refused(error) => error.reply_code(),
            Self::Ended(error) => error.reply_code(),
            Self::TimedOut { .. } => None,
        }
    }
}

/// A message was not published. No part of it was sent.
#[derive(Debug, Clone, PartialEq, Eq, Error)]
#[non_exhaustive]
pub enum PublishError {
    /// A kept message was not confirmed within [`keep_for`](crate::PublisherOptions::keep_for) and will not be sent again.
    #[error("the message was not confirmed within its time to live")]
    Expired,
    /// A kept message was [withdrawn](crate::Confirmation::withdraw).
    #[error("the message was withdrawn")]
    Withdrawn,
    /// The channel is closed and stays closed. Publish on another channel, or let the connection
    /// [reopen](crate::Recovery::reopen_channels) its channels.
    #[error(transparent)]
    Ended(#[from] ChannelError),
    /// The exchange's name, the routing key or a property is too long.
    #[error(transparent)]
    Name(#[from] TooLong),
    /// The properties do not fit into one frame, as the protocol requires.
    #[error("the properties take a frame of {size} bytes, but frame_max is {frame_max}")]
    PropertiesTooLarge {
        /// The size of the frame that they would need.
        size: usize,
        /// The negotiated limit.
        frame_max: u32,
    },
    /// There is no connection at present, and the publisher does not [wait](crate::OnLoss) for one.
    #[error("not sent: {0}")]
    Held(HeldBy),
    /// Content had to wait for too long.
    #[error("not sent within {after:?}: {by}")]
    TimedOut {
        /// What it waited for.
        by: HeldBy,
        /// The time it was given.
        after: Duration,
    },
    /// Publishing is not valid in the current state.
    #[error(transparent)]
    Misuse(#[from] Misuse),
}

impl PublishError {
    /// The reply code that the channel or connection was closed with, if that is the reason.
    #[must_use]
    pub fn reply_code(&self) -> Option<ReplyCode> {
        match self {
            Self::Ended(error) => error.reply_code(),
            _ => None,
        }
    }
}

/// The reason why a publish has to wait.
#[derive(Debug, Clone, Copy, PartialEq, Eq, Error)]
#[non_exhaustive]
pub enum HeldBy {
    /// The connection or the channel holds content back.
    #[error(transparent)]
    Gate(Gate),
    /// The publisher's window allows no more unconfirmed messages or bytes.
    #[error("the confirm window is full")]
    Window,
}

/// `try_publish` did not publish: it would have had to wait, or it failed. Returns the body to the caller.
#[derive(Debug, Clone, PartialEq, Eq, Error)]
#[error("{error}")]
pub struct TryPublishError<B> {
    /// The message's body, unless the message itself is invalid: a name or its properties are too long.
    pub body: Option<B>,
    /// The reason.
    pub error: TryError,
}

impl<B> TryPublishError<B> {
    /// The reply code that the channel or connection was closed with, if that is the reason.
    #[must_use]
    pub fn reply_code(&self) -> Option<ReplyCode> {
        self.error.reply_code()
    }
}

/// The reason why `try_publish` did not publish.
#[derive(Debug, Clone, PartialEq, Eq, Error)]
#[non_exhaustive]
pub enum TryError {
    /// It would have had to wait.
    #[error("not sent: {0}")]
    WouldWait(HeldBy),
    /// It failed.
    #[error(transparent)]
    Failed(#[from] PublishError),
}

impl TryError {
    /// The reply code that the channel or connection was closed with, if that is the reason.
    #[must_use]
    pub fn reply_code(&self) -> Option<ReplyCode> {
        match self {
            Self::WouldWait(_) => None,
            Self::Failed(error) => error.reply_code(),
        }
    }
}

/// A message was sent, but the broker did not accept it, or did not confirm that it did.
#[derive(Debug, Clone, PartialEq, Eq, Error)]
#[non_exhaustive]
pub enum ConfirmError {
    /// The broker refused the message (`basic.nack`), for example because a queue with `x-overflow: reject-publish` is full.
    #[error("the broker refused the message (basic.nack)")]
    Nacked,
    /// The message reached no queue, and the broker returned it.
    #[error(
        "the message reached no queue and was returned: {} {} (exchange {:?}, routing key {:?}); declare or bind the queue first",
        .0.reply_code, .0.reply_text.escaped(), .0.exchange, .0.routing_key
    )]
    Returned(Box<Returned>),
    /// The channel was closed before the broker sent a confirm. The broker may have the message or not.
    #[error("sent, but not confirmed: {0}")]
    Unconfirmed(ChannelError),
    /// The broker closed the channel because of this message, which was [kept](crate::OnLoss::Keep) and will not be sent again.
    #[error("the broker refused the message and closed the channel: {0}")]
    Refused(Close),
    /// The message was [kept](crate::OnLoss::Keep), but will not be sent again: for example, it has expired, or the node of the
    /// new connection allows smaller frames. The broker may have accepted it on an earlier connection.
    #[error("kept, but not sent again: {0}")]
    NotResent(PublishError),
    /// The broker said nothing in time: the message may be taken over or not.
    #[error("sent, but not confirmed within {after:?}")]
    TimedOut {
        /// The time it was given.
        after: Duration,
    },
}

impl ConfirmError {
    /// The reply code that the message was returned with, or that the channel or connection was closed with, if that is the
    /// reason.
    #[must_use]
    pub fn reply_code(&self) -> Option<ReplyCode> {
        match self {
            Self::Returned(returned) => Some(returned.reply_code),
            Self::Unconfirmed(error) => error.reply_code(),
            Self::Refused(close) => Some(close.reply_code),
            Self::NotResent(error) => error.reply_code(),
            Self::Nacked | Self::TimedOut { .. } => None,
        }
    }
}

/// A message was not sent, or was sent and not confirmed.
#[derive(Debug, Clone, PartialEq, Eq, Error)]
#[non_exhaustive]
pub enum SendError {
    /// The message was not sent.
    #[error(transparent)]
    NotSent(#[from] PublishError),
    /// The message was sent, but not confirmed.
    #[error(transparent)]
    NotConfirmed(#[from] ConfirmError),
}

impl SendError {
    /// The reply code that the message was returned with, or that the channel or connection was closed with, if that is the
    /// reason.
    #[must_use]
    pub fn reply_code(&self) -> Option<ReplyCode> {
        match self {
            Self::NotSent(error) => error.reply_code(),
            Self::NotConfirmed(error) => error.reply_code(),
        }
    }
}

/// The reason why a consumer ended, other than a cancel through its handle.
#[derive(Debug, Clone, PartialEq, Eq, Error)]
#[non_exhaustive]
pub enum ConsumerEnd {
    /// The broker cancelled the consumer, for example because its queue was deleted or its node went down.
    #[error("the broker cancelled the consumer")]
    Cancelled,
    /// The channel is closed.
    #[error(transparent)]
    Ended(#[from] ChannelError),
}

impl ConsumerEnd {
    /// The reply code that the channel or connection was closed with, if that is the reason.
    #[must_use]
    pub fn reply_code(&self) -> Option<ReplyCode> {
        match self {
            Self::Cancelled => None,
            Self::Ended(error) => error.reply_code(),
        }
    }
}

/// The connection ended before it could be closed in an orderly way.
#[derive(Debug, Clone, PartialEq, Eq, Error)]
#[error("close failed: {0}")]
pub struct CloseError(pub ConnectionError);

impl CloseError {
    /// The reply code that the connection was closed with, if one of the peers closed it.
    #[must_use]
    pub fn reply_code(&self) -> Option<ReplyCode> {
        self.0.reply_code()
    }
}
