use alloc::string::String;

use thiserror::Error;

use super::chain::debug_shows_chain;
use crate::{ChannelId, ReplyCode};

/// A rule of the protocol that the peer broke.
#[derive(Clone, Copy, PartialEq, Eq, Error)]
#[non_exhaustive]
pub enum Violation {
    /// A method that is not allowed in the current state, or a reply without a request.
    #[error("unexpected {method}")]
    UnexpectedMethod {
        /// The method's name.
        method: &'static str,
    },
    /// A frame of the wrong kind.
    #[error("unexpected {kind} frame instead of {expected}")]
    UnexpectedFrame {
        /// The kind of the frame.
        kind: &'static str,
        /// The expected kind.
        expected: &'static str,
    },
    /// A frame for a channel that is not open.
    #[error("a frame for channel {channel}, which is not open")]
    ChannelNotOpen {
        /// The channel's number.
        channel: u16,
    },
    /// The peer opens channel 0, or a channel that is already open.
    #[error("channel {channel} cannot be opened: it is channel 0, or already open")]
    BadChannel {
        /// The channel's number.
        channel: u16,
    },
    /// The peer opens more channels than were negotiated.
    #[error(
        "number of channels opened ({channel_max}) has reached the negotiated channel_max ({channel_max})"
    )]
    TooManyChannels {
        /// The maximum number of open channels.
        channel_max: u16,
    },
    /// A connection method on a channel other than 0, or a channel method on channel 0.
    #[error("{method} is not allowed on channel {channel}")]
    WrongChannel {
        /// The method's name.
        method: &'static str,
        /// The channel's number.
        channel: u16,
    },
    /// The body frames hold more than the content header announced.
    #[error("message body exceeds the {announced} bytes announced in its header")]
    BodyTooLong {
        /// The size in the content header.
        announced: u64,
    },
    /// A delivery for a consumer that does not exist.
    #[error("a delivery for an unknown consumer on channel {channel}")]
    UnknownConsumer {
        /// The channel of the delivery.
        channel: ChannelId,
    },
    /// A delivery tag is not greater than the earlier ones.
    #[error("delivery tag {tag} on channel {channel} is not greater than the earlier ones")]
    BadDeliveryTag {
        /// The channel of the delivery.
        channel: ChannelId,
        /// The tag.
        tag: u64,
    },
    /// A confirm for a message that was not published.
    #[error("confirm for unknown publish {tag} on channel {channel}")]
    UnknownPublish {
        /// The channel of the confirm.
        channel: ChannelId,
        /// The delivery tag of the confirm.
        tag: u64,
    },
    /// A limit in `connection.tune` is impossible, or `connection.tune-ok` raises a limit.
    #[error("cannot negotiate {what} = {value}: {}", against(*value, *bound))]
    BadTune {
        /// The limit.
        what: &'static str,
        /// The peer's value. 0 means that there is no limit.
        value: u32,
        /// The minimum or maximum that the value violates.
        bound: u32,
    },
    /// The peer causes more and more replies, and reads none of them.
    #[error("the peer is not reading: {limit} bytes of replies are queued already")]
    RepliesNotRead {
        /// The maximum number of queued bytes.
        limit: usize,
    },
    /// The peer begins more and more messages, and finishes none.
    #[error("more than {limit} bytes of incomplete message bodies")]
    TooMuchUnfinished {
        /// The maximum number of bytes, [`Limits::unfinished_max`](crate::Limits::unfinished_max).
        limit: u64,
    },
    /// The server sends more and more challenges during the login.
    #[error("more than {limit} challenges in one login")]
    TooManyChallenges {
        /// The maximum number of challenges.
        limit: u32,
    },
}

impl Violation {
    pub(super) const fn reply_code(&self) -> ReplyCode {
        match self {
            Self::UnexpectedMethod { .. } | Self::WrongChannel { .. } => ReplyCode::COMMAND_INVALID,
            Self::UnexpectedFrame { .. } => ReplyCode::UNEXPECTED_FRAME,
            Self::ChannelNotOpen { .. } | Self::BadChannel { .. } => ReplyCode::CHANNEL_ERROR,
            Self::BodyTooLong { .. } => ReplyCode::FRAME_ERROR,
            Self::UnknownConsumer { .. }
            | Self::BadDeliveryTag { .. }
            | Self::UnknownPublish { .. } => ReplyCode::NOT_ALLOWED,
            Self::BadTune { .. }
            | Self::TooManyChallenges { .. }
            | Self::TooManyChannels { .. } => ReplyCode::NOT_ALLOWED,
            Self::RepliesNotRead { .. } | Self::TooMuchUnfinished { .. } => {
                ReplyCode::RESOURCE_ERROR
            }
        }
    }
}

/// Says how the value of a limit violates its bound.
fn against(value: u32, bound: u32) -> String {
    match value {
        0 => alloc::format!("0 means no limit, and the maximum is {bound}"),
        value if value < bound => alloc::format!("the minimum is {bound}"),
        _ => alloc::format!("the maximum is {bound}"),
    }
}

debug_shows_chain! { Violation }
