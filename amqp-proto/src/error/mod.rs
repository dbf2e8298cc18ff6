//! Errors, by who is to blame: the bytes ([`DecodeError`]), the peer ([`Violation`]), the caller
//! ([`Misuse`]), or nobody ([`Close`]).

use alloc::string::{String, ToString as _};
use alloc::sync::Arc;
use core::fmt;
use core::time::Duration;

use thiserror::Error;

use crate::method::Method;
use crate::wire::write_escaped;
use crate::{ChannelId, DecodeError, DecodeErrorKind, ReplyCode, SaslError, ShortStr, TooLong};

/// The peer of a connection that did something.
#[derive(Debug, Clone, Copy, PartialEq, Eq, Hash)]
#[expect(clippy::exhaustive_enums, reason = "a connection has two ends")]
pub enum Initiator {
    /// This side of the connection.
    Local,
    /// The other side.
    Peer,
}

/// How a connection or channel was closed: by whom, and why.
#[derive(Debug, Clone, PartialEq, Eq)]
#[non_exhaustive]
pub struct Close {
    /// The side that sent the close.
    pub by: Initiator,
    /// The reason, as a number.
    pub reply_code: ReplyCode,
    /// The reason, in words.
    pub reply_text: ShortStr,
    /// The class of the method that caused the close, or 0.
    pub class_id: u16,
    /// The method that caused the close, or 0.
    pub method_id: u16,
}

impl Close {
    /// Makes a close by this side.
    pub(crate) const fn local(reply_code: ReplyCode, reply_text: ShortStr) -> Self {
        Self { by: Initiator::Local, reply_code, reply_text, class_id: 0, method_id: 0 }
    }

    /// Returns the name of the method that caused the close, such as `queue.declare`, if a method did.
    #[must_use]
    pub fn method(&self) -> Option<&'static str> {
        let id = (self.class_id, self.method_id);
        Method::ALL.iter().find(|facts| facts.id == id).map(|facts| facts.name)
    }

    /// Returns whether the refused operation may succeed later.
    fn is_transient(&self) -> bool {
        // RabbitMQ: the connection limits of a node, a virtual host and a user are reported with 530, and so is a virtual host
        // that does not exist. Only the text distinguishes them.
        const LIMIT: &[u8] = b"connection limit";
        let is_limit = || self.reply_text.as_bytes().windows(LIMIT.len()).any(|part| part == LIMIT);
        self.reply_code.is_transient() || self.reply_code == ReplyCode::NOT_ALLOWED && is_limit()
    }
}

impl fmt::Display for Close {
    fn fmt(&self, f: &mut fmt::Formatter<'_>) -> fmt::Result {
        let by = match self.by {
            Initiator::Local => "closed by this end",
            Initiator::Peer => "closed by the peer",
        };
        write!(f, "{by}: {}", self.reply_code)?;
        // RabbitMQ's texts start with the name of the code, which was just written.
        let text = self.reply_text.to_string();
        let name = self.reply_code.name().unwrap_or_default();
        let text =
            text.strip_prefix(name).map_or(&*text, |rest| rest.trim_start_matches([' ', '-']));
        if !text.is_empty() {
            f.write_str(": ")?;
            write_escaped(text, f)?;
        }
        match self.method() {
            Some(method) => write!(f, " (caused by {method})"),
            None => Ok(()),
        }
    }
}

/// The reason why a connection is closed. Once it is closed, every call returns the same error.
#[derive(Debug, Clone, PartialEq, Eq, Error)]
#[non_exhaustive]
pub enum ConnectionError {
    /// One side closed the connection in an orderly way.
    #[error("connection {0}")]
    Closed(Close),
    /// The peer sent bytes that are not AMQP 0-9-1.
    #[error("the peer sent malformed data: {0}")]
    Decode(#[from] DecodeError),
    /// The peer broke the protocol.
    #[error("protocol violation by the peer: {0}")]
    Violation(#[from] Violation),
    /// The peer speaks another protocol.
    #[error(transparent)]
    WrongProtocol(#[from] WrongProtocol),
    /// The login failed.
    #[error("login failed: {0}")]
    Login(#[from] LoginError),
    /// The handshake did not finish in time.
    #[error("no answer within {limit:?} while waiting for {waiting_for}")]
    HandshakeTimeout {
        /// The missing message of the peer.
        waiting_for: &'static str,
        /// The time limit.
        limit: Duration,
    },
    /// A method of the handshake does not fit into a frame, because of configured values.
    #[error(
        "{method} takes a frame of {size} bytes, but frame_max is {frame_max}: shorten client properties or secrets"
    )]
    HandshakeTooLarge {
        /// The method's name.
        method: &'static str,
        /// The size of the frame that it would need.
        size: usize,
        /// The limit.
        frame_max: u32,
    },
    /// The peer sent nothing for two heartbeat intervals.
    #[error("nothing came from the peer for {0:?} (two heartbeat intervals)")]
    PeerSilent(Duration),
    /// The peer did not answer the close in time.
    #[error("the peer did not answer connection.close within {0:?}")]
    CloseTimeout(Duration),
    /// The transport ended without a close.
    #[error("the peer ended the transport without closing the connection")]
    Eof,
    /// The transport failed.
    #[error("the transport failed: {text}")]
    Transport {
        /// The kind of the I/O error.
        #[cfg(feature = "std")]
        kind: std::io::ErrorKind,
        /// Its message.
        text: Arc<str>,
    },
    /// The connection's driver was dropped: its task was aborted, or the runtime shut down.
    #[error("the connection's driver was dropped")]
    DriverGone,
    /// A session that began without a connection has not connected yet.
    #[error("not connected yet")]
    NotConnected,
    /// A session lost its connection and gave up reconnecting.
    #[error("{lost}; not recovered after {attempts} attempts, the last of which failed: {last}")]
    NotRecovered {
        /// The reason why the connection was lost.
        lost: Arc<Self>,
        /// Number of attempts to reconnect.
        attempts: u32,
        /// The reason why the last attempt failed.
        last: Arc<str>,
    },
}

impl ConnectionError {
    /// Returns whether a connection that was open and failed with this error can be recovered: it was lost, or the peer closed it.
    /// Recovery does not repeat the operation to which the peer objected.
    #[must_use]
    pub const fn is_recoverable(&self) -> bool {
        match self {
            Self::Closed(close) => matches!(close.by, Initiator::Peer),
            Self::DriverGone | Self::HandshakeTooLarge { .. } | Self::NotRecovered { .. } => false,
            _ => true,
        }
    }

    /// Makes the error of a failed transport; see
    /// [`Connection::handle_transport_error`](crate::Connection::handle_transport_error).
    #[cfg(feature = "std")]
    #[must_use]
    pub fn transport(error: &std::io::Error) -> Self {
        Self::Transport { kind: error.kind(), text: error.to_string().into() }
    }

    /// Returns the orderly close, if this error is one.
    #[must_use]
    pub const fn as_close(&self) -> Option<&Close> {
        match self {
            Self::Closed(close) | Self::Login(LoginError::Refused(close)) => Some(close),
            _ => None,
        }
    }

    /// The reply code that the connection was closed with, if one side closed it.
    #[must_use]
    pub fn reply_code(&self) -> Option<ReplyCode> {
        self.as_close().map(|close| close.reply_code)
    }

    /// Returns whether this side closed the connection on purpose.
    #[must_use]
    pub fn is_local_close(&self) -> bool {
        matches!(self, Self::Closed(close) if close.by == Initiator::Local)
    }

    /// Returns whether another attempt to connect, with the same configuration, may succeed.
    #[must_use]
    pub fn is_transient(&self) -> bool {
        match self {
            Self::Closed(close) => close.by == Initiator::Peer && close.is_transient(),
            Self::Eof | Self::Transport { .. } | Self::PeerSilent(_) => true,
            Self::HandshakeTimeout { .. } | Self::CloseTimeout(_) | Self::NotConnected => true,
            Self::NotRecovered { lost, .. } => lost.is_transient(),
            Self::Decode(_) | Self::Violation(_) | Self::WrongProtocol(_) => false,
            Self::Login(_) | Self::HandshakeTooLarge { .. } | Self::DriverGone => false,
        }
    }

    /// Returns the code and text of the `connection.close` to send to the peer, where sending one makes sense.
    pub(crate) fn to_close(&self) -> Option<(ReplyCode, String)> {
        match self {
            Self::Decode(error) => {
                let code = match error.kind() {
                    DecodeErrorKind::FrameEnd(_)
                    | DecodeErrorKind::FrameTooLarge { .. }
                    | DecodeErrorKind::UnknownFrameType(_) => ReplyCode::FRAME_ERROR,
                    DecodeErrorKind::UnknownMethod { .. } => ReplyCode::COMMAND_INVALID,
                    _ => ReplyCode::SYNTAX_ERROR,
                };
                Some((code, error.to_string()))
            }
            Self::Violation(violation) => Some((violation.reply_code(), violation.to_string())),
            _ => None,
        }
    }
}

/// A rule of the protocol that the peer broke.
#[derive(Debug, Clone, Copy, PartialEq, Eq, Error)]
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
    /// The peer opens a channel that is already open.
    #[error("channel {channel} cannot be opened")]
    BadChannel {
        /// The channel's number.
        channel: u16,
    },
    /// The peer opens more channels than were negotiated.
    #[error(
        "number of channels opened ({channel_max}) has reached the negotiated channel_max ({channel_max})"
    )]
    TooManyChannels {
        /// How many may be open.
        channel_max: u16,
    },
    /// A connection method on a channel other than 0, or a channel method on channel 0.
    #[error("{method} on channel {channel}")]
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
    #[error("cannot negotiate {what} = {value}")]
    BadTune {
        /// The limit.
        what: &'static str,
        /// The peer's value.
        value: u32,
    },
    /// The peer provokes more and more replies, and reads none of them.
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
    const fn reply_code(&self) -> ReplyCode {
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

/// The peer does not speak AMQP 0-9-1 on this port.
#[derive(Debug, Clone, Copy, PartialEq, Eq, Error)]
#[non_exhaustive]
pub enum WrongProtocol {
    /// The peer answered with the protocol header of another version.
    #[error("{}", match (id, major, minor, revision) {
        // A server that rejects our header sends this header. So does an echo server or another client.
        (0, 0, 9, 1) => "the peer sent the protocol header of AMQP 0-9-1 instead of connection.start: it rejects this \
            client's header, or is itself a client or an echo server".to_string(),
        _ => alloc::format!("the peer speaks AMQP {major}-{minor}-{revision} (protocol {id}), not 0-9-1"),
    })]
    Version {
        /// Protocol id: 0 is AMQP, 2 TLS, 3 SASL.
        id: u8,
        /// Major version.
        major: u8,
        /// Minor version.
        minor: u8,
        /// Revision.
        revision: u8,
    },
    /// The peer speaks TLS.
    #[error("the peer speaks TLS: this is a TLS port, use amqps:// for it")]
    Tls,
    /// The peer speaks HTTP.
    #[error(
        "the peer speaks HTTP: this is not an AMQP port (RabbitMQ's management listens on 15672, AMQP on 5672)"
    )]
    Http,
    /// The peer speaks an unknown protocol.
    #[error("the peer does not speak AMQP: its first bytes are {0:02x?}")]
    Unknown([u8; 8]),
}

/// The reason why a login failed.
#[derive(Debug, Clone, PartialEq, Eq, Error)]
#[non_exhaustive]
pub enum LoginError {
    /// The server offers none of the mechanisms that the client has credentials for.
    #[error("the server offers {offered:?}, but the client is configured for {configured:?}")]
    NoCommonMechanism {
        /// The server's mechanisms.
        offered: String,
        /// The client's mechanisms.
        configured: String,
    },
    /// The mechanism could not make a response.
    #[error("{mechanism}: {error}")]
    Mechanism {
        /// The mechanism's name.
        mechanism: String,
        /// Its error.
        error: SaslError,
    },
    /// The server refused the credentials (403).
    #[error("{0}")]
    Refused(Close),
    /// The server ended the transport right after the credentials. Brokers without `authentication_failure_close` refuse a login in
    /// this way.
    #[error("connection closed during login; the credentials were probably rejected")]
    HungUp,
}

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
