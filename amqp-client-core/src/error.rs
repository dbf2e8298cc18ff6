//! Errors of the handles. What ended a connection or channel is told by `amqp-proto`'s own errors, unchanged.

use std::time::Duration;

use amqp_proto::{
    ChannelError, Close, CommandError, ConnectionError, DeliveryTag, FieldError, Gate, Misuse,
    OpenChannelError, ReplyCode, Returned, TooLong, Unusable,
};
use thiserror::Error;

use crate::publisher::Confirmations;

/// A request to the broker failed.
#[derive(Debug, Clone, PartialEq, Eq, Error)]
#[non_exhaustive]
pub enum CallError {
    /// The channel is over; often because of this very request, which the reason then names.
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
    #[error("{method} takes a frame of {size} octets, and frame_max is {frame_max}")]
    TooLarge {
        /// The method's name.
        method: &'static str,
        /// The frame it would take.
        size: usize,
        /// The agreed limit.
        frame_max: u32,
    },
    /// The state forbids it. Nothing was sent.
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
    /// `basic.consume` was sent by [`Channel::call`](crate::Channel::call) or
    /// [`call_no_wait`](crate::Channel::call_no_wait). Nothing was sent: without a [`Consumer`](crate::Consumer), nobody takes
    /// the deliveries, and the broker would deliver what is requeued again and again.
    #[error(
        "basic.consume needs a consumer to take its deliveries; use Channel::basic_consume or \
         basic_consume_no_wait"
    )]
    NoConsumer,
    /// There is no channel to ask on.
    #[error(transparent)]
    NoChannel(#[from] OpenChannelError),
    /// `basic.get` brought a message that cannot be taken in. It was held, requeued or rejected, as
    /// [`Limits::oversized`](amqp_proto::Limits::oversized) says; if it needed no acknowledgement, it is lost.
    #[error("{why}")]
    Unusable {
        /// If it is held: the tag to settle it by, with [`basic_reject`](crate::Channel::basic_reject).
        delivery_tag: DeliveryTag,
        /// Why.
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
            // The gates were looked at under the same lock.
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
    /// It could not even be asked for.
    #[error(transparent)]
    Refused(#[from] OpenChannelError),
    /// It, or the connection, was closed before it was open.
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

/// A message was not published. Nothing of it was sent.
#[derive(Debug, Clone, PartialEq, Eq, Error)]
#[non_exhaustive]
pub enum PublishError {
    /// A message that was kept was not confirmed within [`keep_for`](crate::PublisherOptions::keep_for), and is not sent any
    /// more.
    #[error("the message was not confirmed within its time to live")]
    Expired,
    /// A message that was kept was [withdrawn](crate::Confirmation::withdraw).
    #[error("the message was withdrawn")]
    Withdrawn,
    /// The channel is closed, and stays so: publish on another, or have the connection
    /// [reopen](crate::Recovery::reopen_channels) its channels.
    #[error(transparent)]
    Ended(#[from] ChannelError),
    /// The exchange's name, the routing key or a property is too long.
    #[error(transparent)]
    Name(#[from] TooLong),
    /// The properties do not fit into a frame, which they must.
    #[error("the properties take a frame of {size} octets, and frame_max is {frame_max}")]
    PropertiesTooLarge {
        /// The frame they would take.
        size: usize,
        /// The agreed limit.
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
    /// The state forbids it.
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

/// What a publish waits for.
#[derive(Debug, Clone, Copy, PartialEq, Eq, Error)]
#[non_exhaustive]
pub enum HeldBy {
    /// The connection or the channel holds content back.
    #[error(transparent)]
    Gate(Gate),
    /// As many messages, or octets, are unconfirmed as the publisher's window allows.
    #[error("the confirm window is full")]
    Window,
}

/// `try_publish` did not publish: it would have had to wait, or it failed. The body comes back.
#[derive(Debug, Clone, PartialEq, Eq, Error)]
#[error("{error}")]
pub struct TryPublishError<B> {
    /// The message's body, unless something is wrong with the message itself: a name or its properties are too long.
    pub body: Option<B>,
    /// Why.
    pub error: TryError,
}

impl<B> TryPublishError<B> {
    /// The reply code that the channel or connection was closed with, if that is the reason.
    #[must_use]
    pub fn reply_code(&self) -> Option<ReplyCode> {
        self.error.reply_code()
    }
}

/// Why `try_publish` did not publish.
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

/// Not all of several messages were published.
#[derive(Debug, Error)]
#[error("{} messages were sent, the next was not: {error}", sent.len())]
#[non_exhaustive]
pub struct PublishAllError {
    /// What becomes of those that were sent.
    pub sent: Confirmations,
    /// Why the next one was not. None behind it was.
    pub error: PublishError,
}

impl PublishAllError {
    /// The reply code that the channel or connection was closed with, if that is the reason.
    #[must_use]
    pub fn reply_code(&self) -> Option<ReplyCode> {
        self.error.reply_code()
    }
}

/// A message was sent, but the broker did not take it over, or did not say so.
#[derive(Debug, Clone, PartialEq, Eq, Error)]
#[non_exhaustive]
pub enum ConfirmError {
    /// The broker refused it (`basic.nack`), as a queue with `x-overflow: reject-publish` does when it is full.
    #[error("the broker refused the message (basic.nack)")]
    Nacked,
    /// It reached no queue and came back.
    #[error(
        "the message reached no queue and was returned: {} {} (exchange {:?}, routing key {:?}); declare or bind the queue first",
        .0.reply_code, .0.reply_text.escaped(), .0.exchange, .0.routing_key
    )]
    Returned(Box<Returned>),
    /// The channel ended before the broker said anything: the message may have been taken over or not.
    #[error("sent, but not confirmed: {0}")]
    Unconfirmed(ChannelError),
    /// The broker closed the channel because of this message, which was [kept](crate::OnLoss::Keep) and is not sent again.
    #[error("the broker refused the message and closed the channel: {0}")]
    Refused(Close),
    /// The message was [kept](crate::OnLoss::Keep), but cannot be sent on the new connection: that node allows smaller frames.
    /// An earlier connection may have taken it over, or not.
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

/// Publishing and waiting for the confirm failed.
#[derive(Debug, Clone, PartialEq, Eq, Error)]
#[non_exhaustive]
pub enum SendError {
    /// It was not sent.
    #[error(transparent)]
    NotSent(#[from] PublishError),
    /// It was sent, but not confirmed.
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

/// Why a consumer ended, other than by being cancelled through its handle.
#[derive(Debug, Clone, PartialEq, Eq, Error)]
#[non_exhaustive]
pub enum ConsumerEnd {
    /// The broker cancelled it, as when its queue is deleted or its node goes away.
    #[error("the broker cancelled the consumer")]
    Cancelled,
    /// The channel is over.
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

/// An orderly close did not work out.
#[derive(Debug, Clone, PartialEq, Eq, Error)]
#[error("close failed: {0}")]
pub struct CloseError(pub ConnectionError);

impl CloseError {
    /// The reply code that the connection was closed with, if one end closed it.
    #[must_use]
    pub fn reply_code(&self) -> Option<ReplyCode> {
        self.0.reply_code()
    }
}
