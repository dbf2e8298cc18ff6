use alloc::string::ToString as _;
use alloc::sync::Arc;
use core::fmt;
use core::time::Duration;

use thiserror::Error;

use super::chain::{chain, debug_shows_chain};
use super::close::Close;
use super::connection::ConnectionError;
use super::methods::{close_methods, common_methods};
use crate::{ReplyCode, TooLong};

/// The reason why a channel is closed. Once it is closed, every call returns the same error.
///
/// ```
/// # use amqp_proto::ChannelError;
/// # fn example(error: &ChannelError) {
/// match error.channel_id() {
///     Some(channel) => println!("channel {channel} was closed: {error}"),
///     None => println!("the connection has ended: {error}"),
/// }
/// # }
/// ```
#[derive(Clone, PartialEq, Eq, Error)]
#[non_exhaustive]
pub enum ChannelError {
    /// One side closed the channel.
    #[error("{0}")]
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

    /// Makes the error of something whose request could not be sent.
    pub(crate) fn not_sent(error: &CommandError) -> Self {
        Self::not_restored(ReplyCode::NOT_ALLOWED, error)
    }

    /// Returns the reason for errors that result from this one.
    pub(crate) fn reason(&self) -> Arc<str> {
        match self {
            Self::NotRestored { why, .. } => why.clone(),
            // The channel was an internal one, for declarations.
            Self::Closed(close) => close.reason().to_string().into(),
            error => chain(error).to_string().into(),
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

    /// Returns the reply code of the close of the channel or connection, or the code that matches the reason why it was not restored.
    #[must_use]
    pub fn reply_code(&self) -> Option<ReplyCode> {
        match self {
            Self::NotRestored { reply_code, .. } => Some(*reply_code),
            _ => self.as_close().map(|close| close.reply_code),
        }
    }

    /// Returns whether the same operation may succeed later, on another channel.
    #[must_use]
    pub fn is_transient(&self) -> bool {
        match self {
            Self::Closed(close) => close.is_transient(),
            Self::Connection(error) => error.is_transient(),
            Self::NotRestored { reply_code, .. } => reply_code.is_transient(),
        }
    }
}

close_methods! { ChannelError }

/// A channel cannot be opened.
///
/// ```
/// # use amqp_proto::OpenChannelError;
/// # fn example(error: &OpenChannelError) {
/// match error {
///     OpenChannelError::Exhausted { channel_max } => println!("limit of {channel_max} channels"),
///     other => println!("{other}"),
/// }
/// # }
/// ```
#[derive(Clone, PartialEq, Eq, Error)]
#[non_exhaustive]
pub enum OpenChannelError {
    /// All channel numbers are in use.
    #[error(
        "all channels of the connection are in use (limit: {channel_max}); close some, or open another connection"
    )]
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

common_methods! {
    OpenChannelError { Self::Connection(error) => error }
    transient Self::Exhausted { .. } | Self::InUse { .. } | Self::NotOpenYet
}

/// A command was not queued. No part of it was sent.
#[derive(Clone, PartialEq, Eq, Error)]
#[expect(clippy::exhaustive_enums, reason = "either the channel is closed, or the caller is wrong")]
pub enum CommandError {
    /// The channel is closed.
    #[error(transparent)]
    Ended(#[from] ChannelError),
    /// The command is not valid.
    #[error(transparent)]
    Misuse(#[from] Misuse),
}

common_methods! { CommandError { Self::Ended(error) => error } }

/// A command that is not valid. The connection is not affected.
///
/// ```
/// # use amqp_proto::{CommandError, Misuse};
/// # fn example(error: &CommandError) {
/// match error {
///     CommandError::Misuse(Misuse::TransactionLost) => println!("repeat the transaction"),
///     CommandError::Misuse(misuse) => println!("a bug of this program: {misuse}"),
///     other => println!("{other}"),
/// }
/// # }
/// ```
#[derive(Clone, Copy, PartialEq, Eq, Error)]
#[non_exhaustive]
pub enum Misuse {
    /// No channel with that number is open.
    #[error("channel {0} is not open")]
    NoSuchChannel(u16),
    /// Confirms and transactions exclude each other on a channel.
    #[error("a channel is either transactional or has publisher confirms; use two channels")]
    TxAndConfirm,
    /// The delivery was settled before, needs no acknowledgement, or never existed.
    #[error(
        "delivery {0} does not wait for an acknowledgement on this channel; settle each delivery once, on its own channel"
    )]
    UnknownDelivery(u64),
    /// The broker has requeued the delivery and delivers it again: the connection was lost since, or the delivery was requested
    /// again (`basic.recover`).
    #[error("delivery {0} is stale: the broker has requeued the message and delivers it again")]
    StaleDelivery(u64),
    /// A part of the transaction was lost with the connection. The rest was rolled back.
    #[error(
        "the transaction was rolled back because the connection was lost; repeat the transaction"
    )]
    TransactionLost,
    /// The consumer tag is in use on this channel.
    #[error("the consumer tag is in use on this channel; choose another, or let the client choose")]
    ConsumerTagInUse,
    /// Sessions: a stream is consumed with `no_ack`. RabbitMQ would close the connection.
    #[error("deliveries of a stream have to be acknowledged; turn no_ack off")]
    StreamNeedsAcks,
    /// Sessions: a stream is consumed without a prefetch limit. RabbitMQ would close the channel.
    #[error(
        "a consumer of a stream needs a prefetch limit; set one first with basic.qos (not global)"
    )]
    StreamNeedsPrefetch,
    /// Sessions: `basic.get` on a stream. RabbitMQ would close the connection.
    #[error("a stream does not support basic.get; use basic.consume")]
    StreamHasNoGet,
    /// The consumer has ended, or never existed.
    #[error("the consumer has ended or does not exist")]
    UnknownConsumer,
    /// The command is for the other side of a connection.
    #[error("this call is only valid on the {0} side of a connection")]
    WrongSide(&'static str),
    /// The connection is not open yet, or is not restored yet after a loss.
    #[error("the connection is not open yet")]
    NotOpenYet,
    /// Servers: the call is not valid at this step of the handshake.
    #[error("this call is not valid at this step of the handshake")]
    NotAwaited,
    /// The request has its `no_wait` bit set, so no reply would end the call.
    #[error("{0} with no_wait has no reply; use call_no_wait, or clear no_wait")]
    HasNoReply(&'static str),
    /// The request does not have its `no_wait` bit set, so the broker would reply.
    #[error("{0} without no_wait has a reply; use call, or set no_wait")]
    HasReply(&'static str),
    /// A kept message is published on a channel without publisher confirms.
    #[error("kept messages need publisher confirms; select them first (confirm.select)")]
    NeedsConfirms,
    /// The method carries no content.
    #[error("{0} carries no content")]
    NoContent(&'static str),
    /// The method does not fit into a frame.
    #[error(
        "{method} needs a frame of {size} bytes, but frame_max is {frame_max}; shorten its arguments"
    )]
    TooLarge {
        /// The method's name.
        method: &'static str,
        /// The size of the frame that it would need.
        size: usize,
        /// The negotiated limit.
        frame_max: u32,
    },
}

/// A message was not published. No part of it was sent.
///
/// ```
/// # use amqp_proto::PublishError;
/// # fn example(error: &PublishError) {
/// match error {
///     PublishError::Gated(gate) => println!("it would have to wait: {gate}"),
///     error if error.is_transient() => println!("try again: {error}"),
///     error => println!("{error}"),
/// }
/// # }
/// ```
#[derive(Clone, PartialEq, Eq, Error)]
#[non_exhaustive]
pub enum PublishError {
    /// The channel is closed.
    #[error(transparent)]
    Ended(#[from] ChannelError),
    /// The exchange's name or the routing key is too long.
    #[error(transparent)]
    Name(#[from] TooLong),
    /// The properties do not fit into one frame, as the protocol requires.
    #[error(
        "the properties need a frame of {size} bytes, but frame_max is {frame_max}; shorten the headers"
    )]
    PropertiesTooLarge {
        /// The size of the frame that they would need.
        size: usize,
        /// The negotiated limit.
        frame_max: u32,
    },
    /// Publishing has to wait, and the caller does not wait.
    #[error("not sent: {0}")]
    Gated(Gate),
    /// Clients: publishing had to wait for too long.
    #[error("not sent within {after:?}: {gate}")]
    TimedOut {
        /// The reason why it had to wait.
        gate: Gate,
        /// The timeout.
        after: Duration,
    },
    /// Sessions: a kept message was not confirmed in the time for which it may be
    /// [kept](crate::session::SessionChannel::keep_for), and will not be sent again.
    #[error("the message was not confirmed within the time that keep_for sets")]
    Expired,
    /// Sessions: a kept message was withdrawn and will not be sent again.
    #[error("the message was withdrawn by the application")]
    Withdrawn,
    /// Publishing is not valid here: only clients publish, for example.
    #[error(transparent)]
    Misuse(#[from] Misuse),
}

common_methods! {
    PublishError { Self::Ended(error) => error }
    transient Self::Gated(_) | Self::TimedOut { .. } | Self::Expired
}

impl From<Gate> for PublishError {
    fn from(gate: Gate) -> Self {
        Self::Gated(gate)
    }
}

impl From<CommandError> for PublishError {
    fn from(error: CommandError) -> Self {
        match error {
            CommandError::Ended(error) => Self::Ended(error),
            CommandError::Misuse(misuse) => Self::Misuse(misuse),
        }
    }
}

/// The reason why publishing has to wait. Everything else is still sent.
///
/// ```
/// # use amqp_proto::{Gate, PublishError};
/// # fn example(error: &PublishError) {
/// if let PublishError::TimedOut { gate: Gate::Blocked, .. } = error {
///     println!("the broker is short of memory or disk");
/// }
/// # }
/// ```
#[derive(Debug, Clone, Copy, PartialEq, Eq)]
#[non_exhaustive]
pub enum Gate {
    /// `connection.blocked`: the broker is short of resources.
    Blocked,
    /// `channel.flow`: the broker paused this channel.
    Flow,
    /// The outgoing buffer has reached [`Limits::transmit_high_water`](crate::Limits::transmit_high_water).
    Full,
    /// Sessions: there is no connection at present.
    Recovering,
    /// Sessions: the kept messages have reached [`Recovery::keep_max`](crate::session::Recovery::keep_max).
    Kept,
    /// Clients: the publisher's window allows no more unconfirmed messages or bytes.
    Window,
}

impl fmt::Display for Gate {
    fn fmt(&self, f: &mut fmt::Formatter<'_>) -> fmt::Result {
        f.write_str(match self {
            Self::Blocked => "the broker has blocked publishing (connection.blocked): it is short of memory or disk",
            Self::Flow => "the broker has paused this channel (channel.flow)",
            Self::Full => "the outgoing buffer is full",
            Self::Recovering => "the connection was lost and is not recovered yet",
            Self::Kept => {
                "the buffer of kept messages is full; wait for confirms or raise Recovery::keep_max"
            },
            Self::Window => {
                "the publisher's window is full; wait for confirms or raise PublisherOptions::window"
            },
        })
    }
}

debug_shows_chain! { ChannelError OpenChannelError CommandError Misuse PublishError }
