use alloc::string::ToString as _;
use alloc::sync::Arc;
use core::fmt;

use thiserror::Error;

use super::{Close, ConnectionError};
use crate::{ReplyCode, TooLong};

/// The reason why a channel is closed. Once it is closed, every call returns the same error.
#[derive(Debug, Clone, PartialEq, Eq, Error)]
#[non_exhaustive]
pub enum ChannelError {
    /// One side closed the channel.
    #[error("channel {0}")]
    Closed(Close),
    /// The channel's connection is closed.
    #[error(transparent)]
    Connection(#[from] ConnectionError),
    /// Sessions: the channel, or the entity that this error is about, was not restored after a loss.
    #[error("not restored after the connection was lost: {why}")]
    NotRestored {
        /// The reply code that a broker would have sent.
        reply_code: ReplyCode,
        /// The reason.
        why: Arc<str>,
    },
}

impl ChannelError {
    /// Makes the error of something that was not restored after a loss.
    pub(crate) fn not_restored(reply_code: ReplyCode, why: impl fmt::Display) -> Self {
        Self::NotRestored { reply_code, why: why.to_string().into() }
    }

    /// What an error says that results from this one.
    pub(crate) fn reason(&self) -> Arc<str> {
        match self {
            Self::NotRestored { why, .. } => why.clone(),
            error => error.to_string().into(),
        }
    }

    /// Returns the orderly close of the channel or of the connection, if this error is one.
    #[must_use]
    pub const fn as_close(&self) -> Option<&Close> {
        match self {
            Self::Closed(close) => Some(close),
            Self::Connection(error) => error.as_close(),
            Self::NotRestored { .. } => None,
        }
    }

    /// The reply code that the channel or its connection was closed with, if one side closed it, or the code that matches the reason
    /// why it was not restored.
    #[must_use]
    pub fn reply_code(&self) -> Option<ReplyCode> {
        match self {
            Self::NotRestored { reply_code, .. } => Some(*reply_code),
            _ => self.as_close().map(|close| close.reply_code),
        }
    }
}

/// A channel cannot be opened.
#[derive(Debug, Clone, PartialEq, Eq, Error)]
#[non_exhaustive]
pub enum OpenChannelError {
    /// All channel numbers are in use.
    #[error("all {channel_max} channels of the connection are open")]
    Exhausted {
        /// The negotiated limit.
        channel_max: u16,
    },
    /// The channel number is out of range.
    #[error("channel {number} is out of range: channels have the numbers from 1 to {channel_max}")]
    NoSuchNumber {
        /// The requested number.
        number: u16,
        /// The negotiated limit.
        channel_max: u16,
    },
    /// The channel of that number is open, or is not closed yet.
    #[error("channel {number} is in use")]
    InUse {
        /// The requested number.
        number: u16,
    },
    /// The handshake has not completed yet.
    #[error("the connection is not open yet")]
    NotOpenYet,
    /// The connection is closed.
    #[error(transparent)]
    Connection(#[from] ConnectionError),
}

impl OpenChannelError {
    /// The reply code that the connection was closed with, if that is the reason.
    #[must_use]
    pub fn reply_code(&self) -> Option<ReplyCode> {
        match self {
            Self::Connection(error) => error.reply_code(),
            _ => None,
        }
    }
}

/// A command was not queued. No part of it was sent.
#[derive(Debug, Clone, PartialEq, Eq, Error)]
#[non_exhaustive]
pub enum CommandError {
    /// The channel is closed.
    #[error(transparent)]
    Ended(#[from] ChannelError),
    /// The command is not valid in the current state.
    #[error(transparent)]
    Misuse(#[from] Misuse),
    /// The method does not fit into a frame.
    #[error("{method} takes a frame of {size} bytes, but frame_max is {frame_max}")]
    TooLarge {
        /// The method's name.
        method: &'static str,
        /// The size of the frame that it would need.
        size: usize,
        /// The negotiated limit.
        frame_max: u32,
    },
}

impl CommandError {
    /// The reply code that the channel or connection was closed with, if that is the reason.
    #[must_use]
    pub fn reply_code(&self) -> Option<ReplyCode> {
        match self {
            Self::Ended(error) => error.reply_code(),
            _ => None,
        }
    }
}

/// A command that is not valid. The connection is not affected.
#[derive(Debug, Clone, Copy, PartialEq, Eq, Error)]
#[non_exhaustive]
pub enum Misuse {
    /// No channel with that number is open.
    #[error("channel {0} is not open")]
    NoSuchChannel(u16),
    /// Confirms and transactions exclude each other on a channel.
    #[error("a channel is either transactional or has publisher confirms")]
    TxAndConfirm,
    /// The delivery was settled before, needs no acknowledgement, or never existed.
    #[error("delivery {0} is not waiting for an acknowledgement on this channel")]
    UnknownDelivery(u64),
    /// The broker has requeued the delivery and delivers it again: the connection was lost since, or the delivery was requested
    /// again (`basic.recover`).
    #[error("delivery {0} is stale: the broker has requeued the message and delivers it again")]
    StaleDelivery(u64),
    /// A part of the transaction was lost with the connection. The rest was rolled back.
    #[error("the connection was lost during the transaction, which was rolled back")]
    TransactionLost,
    /// The consumer tag is in use on this channel.
    #[error("the consumer tag is in use on this channel")]
    ConsumerTagInUse,
    /// Sessions: a stream is consumed with `no_ack`. RabbitMQ would close the connection.
    #[error("deliveries of a stream have to be acknowledged: consume it without no_ack")]
    StreamNeedsAcks,
    /// Sessions: a stream is consumed without a prefetch limit. RabbitMQ would close the channel.
    #[error(
        "a consumer of a stream needs a prefetch limit: set one before (basic.qos, not global)"
    )]
    StreamNeedsPrefetch,
    /// Sessions: `basic.get` on a stream. RabbitMQ would close the connection.
    #[error("a stream does not support basic.get: consume it instead")]
    StreamHasNoGet,
    /// The consumer has ended, or never existed.
    #[error("the consumer is not active")]
    UnknownConsumer,
    /// The command is for the other side of a connection.
    #[error("only the {0} side can do this")]
    WrongSide(&'static str),
    /// The command is not valid in the current state of the connection.
    #[error("operation not valid in the current state")]
    NotNow,
}

/// A message was not published. No part of it was sent.
#[derive(Debug, Clone, PartialEq, Eq, Error)]
#[non_exhaustive]
pub enum PublishError {
    /// The channel is closed.
    #[error(transparent)]
    Ended(#[from] ChannelError),
    /// The exchange's name or the routing key is too long.
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
    /// Publishing has to wait.
    #[error(transparent)]
    Gated(#[from] Gate),
    /// Sessions: a kept message was not confirmed within its time to live and will not be sent again.
    #[error("the message was not confirmed within its time to live")]
    Expired,
    /// Sessions: a kept message was withdrawn and will not be sent again.
    #[error("the message was withdrawn")]
    Withdrawn,
    /// Publishing is not valid here: only clients publish, for example.
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

/// The reason why publishing has to wait. Everything else is still sent.
#[derive(Debug, Clone, Copy, PartialEq, Eq, Error)]
#[non_exhaustive]
pub enum Gate {
    /// `connection.blocked`: the broker is short of resources.
    #[error("the broker has blocked publishing (connection.blocked)")]
    Blocked,
    /// `channel.flow`: the broker paused this channel.
    #[error("the broker has paused this channel (channel.flow)")]
    Flow,
    /// The outgoing buffer has reached [`Limits::transmit_high_water`](crate::Limits::transmit_high_water).
    #[error("the outgoing buffer is full")]
    Full,
    /// Sessions: there is no connection at present.
    #[error("the connection was lost and is not recovered yet")]
    Recovering,
    /// Sessions: the kept messages have reached [`Recovery::keep_max`](crate::session::Recovery::keep_max).
    #[error("the republish buffer is full; wait for confirms or raise `keep_max`")]
    Kept,
}
