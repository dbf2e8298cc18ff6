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

/// Which end of the connection did something.
#[derive(Debug, Clone, Copy, PartialEq, Eq, Hash)]
#[expect(clippy::exhaustive_enums, reason = "a connection has two ends")]
pub enum Initiator {
    /// This end.
    Local,
    /// The other end.
    Peer,
}

/// How a connection or channel was closed: by whom, and why.
#[derive(Debug, Clone, PartialEq, Eq)]
#[non_exhaustive]
pub struct Close {
    /// Who sent the close.
    pub by: Initiator,
    /// Why, as a number.
    pub reply_code: ReplyCode,
    /// Why, in words.
    pub reply_text: ShortStr,
    /// The class of the method that caused it, or 0.
    pub class_id: u16,
    /// The method that caused it, or 0.
    pub method_id: u16,
}

impl Close {
    /// A close that this end asks for.
    pub(crate) const fn local(reply_code: ReplyCode, reply_text: ShortStr) -> Self {
        Self { by: Initiator::Local, reply_code, reply_text, class_id: 0, method_id: 0 }
    }

    /// The name of the method that caused it, as `queue.declare`, if one did.
    #[must_use]
    pub fn method(&self) -> Option<&'static str> {
        let id = (self.class_id, self.method_id);
        Method::ALL.iter().find(|facts| facts.id == id).map(|facts| facts.name)
    }

    /// Whether the same may succeed later.
    fn is_transient(&self) -> bool {
        // RabbitMQ: the limits of a node, a virtual host and a user are 530, as is a virtual host that does not exist. Only
        // the text tells them apart.
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

/// Why a connection is over. Once it is, every call says the same.
#[derive(Debug, Clone, PartialEq, Eq, Error)]
#[non_exhaustive]
pub enum ConnectionError {
    /// One end closed it in an orderly way.
    #[error("connection {0}")]
    Closed(Close),
    /// The peer sent bytes that are not AMQP 0-9-1.
    #[error("the peer sent malformed data: {0}")]
    Decode(#[from] DecodeError),
    /// The peer broke the protocol.
    #[error("protocol violation by the peer: {0}")]
    Violation(#[from] Violation),
    /// The peer speaks something else.
    #[error(transparent)]
    WrongProtocol(#[from] WrongProtocol),
    /// Logging in failed.
    #[error("login failed: {0}")]
    Login(#[from] LoginError),
    /// The handshake did not finish in time.
    #[error("no answer within {limit:?} while waiting for {waiting_for}")]
    HandshakeTimeout {
        /// What the peer should have sent.
        waiting_for: &'static str,
        /// The time it was given.
        limit: Duration,
    },
    /// What the configuration makes the handshake say does not fit into a frame.
    #[error(
        "{method} takes a frame of {size} octets, and frame_max is {frame_max}: shorten client properties or secrets"
    )]
    HandshakeTooLarge {
        /// The method's name.
        method: &'static str,
        /// The frame it would take.
        size: usize,
        /// The limit.
        frame_max: u32,
    },
    /// Nothing came from the peer for two heartbeat intervals.
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
    /// What was driving the connection was dropped: its task was aborted, or the runtime shut down.
    #[error("the connection's driver was dropped")]
    DriverGone,
    /// A session that began without a connection has not had one yet.
    #[error("not connected yet")]
    NotConnected,
    /// A session lost its connection and did not get another one in time.
    #[error("{lost}; not recovered after {attempts} attempts, the last of which failed: {last}")]
    NotRecovered {
        /// Why the connection was lost.
        lost: Arc<Self>,
        /// How often it was tried.
        attempts: u32,
        /// Why that failed the last time.
        last: Arc<str>,
    },
}

impl ConnectionError {
    /// Whether a connection that was open, and ended like this, may be followed by another: it was lost, or the peer ended
    /// it. What the peer took exception to is not done again.
    #[must_use]
    pub const fn is_recoverable(&self) -> bool {
        match self {
            Self::Closed(close) => matches!(close.by, Initiator::Peer),
            Self::DriverGone | Self::HandshakeTooLarge { .. } | Self::NotRecovered { .. } => false,
            _ => true,
        }
    }

    /// Why the transport failed, for [`Connection::handle_transport_error`](crate::Connection::handle_transport_error).
    #[cfg(feature = "std")]
    #[must_use]
    pub fn transport(error: &std::io::Error) -> Self {
        Self::Transport { kind: error.kind(), text: error.to_string().into() }
    }

    /// The orderly close, if it was one.
    #[must_use]
    pub const fn as_close(&self) -> Option<&Close> {
        match self {
            Self::Closed(close) | Self::Login(LoginError::Refused(close)) => Some(close),
            _ => None,
        }
    }

    /// The reply code that the connection was closed with, if one end closed it.
    #[must_use]
    pub fn reply_code(&self) -> Option<ReplyCode> {
        self.as_close().map(|close| close.reply_code)
    }

    /// Whether this end closed the connection on purpose.
    #[must_use]
    pub fn is_local_close(&self) -> bool {
        matches!(self, Self::Closed(close) if close.by == Initiator::Local)
    }

    /// Whether connecting again, unchanged, may succeed.
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

    /// What to tell the peer in `connection.close`, where telling it makes sense.
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
    /// A method that its state does not allow, or an answer to nothing.
    #[error("unexpected {method}")]
    UnexpectedMethod {
        /// The method's name.
        method: &'static str,
    },
    /// A frame where another kind has to come.
    #[error("unexpected {kind} frame instead of {expected}")]
    UnexpectedFrame {
        /// The kind of the frame.
        kind: &'static str,
        /// What had to come.
        expected: &'static str,
    },
    /// A frame for a channel that is not open.
    #[error("a frame for channel {channel}, which is not open")]
    ChannelNotOpen {
        /// The channel's number.
        channel: u16,
    },
    /// A channel is opened that is open already, or is above `channel_max`.
    #[error("channel {channel} cannot be opened")]
    BadChannel {
        /// The channel's number.
        channel: u16,
    },
    /// A method of the connection on another channel than 0, or of a channel on channel 0.
    #[error("{method} on channel {channel}")]
    WrongChannel {
        /// The method's name.
        method: &'static str,
        /// The channel it came on.
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
        /// The channel it came on.
        channel: ChannelId,
    },
    /// Delivery tags must grow.
    #[error("delivery tag {tag} on channel {channel}, which does not follow the earlier ones")]
    BadDeliveryTag {
        /// The channel it came on.
        channel: ChannelId,
        /// The tag.
        tag: u64,
    },
    /// A confirm for a message that was not published.
    #[error("confirm for unknown publish {tag} on channel {channel}")]
    UnknownPublish {
        /// The channel it came on.
        channel: ChannelId,
        /// The number that was confirmed.
        tag: u64,
    },
    /// The limits of `connection.tune` cannot hold, or `connection.tune-ok` raises them.
    #[error("cannot negotiate {what} = {value}")]
    BadTune {
        /// Which limit.
        what: &'static str,
        /// What the peer wants.
        value: u32,
    },
    /// The peer provokes more and more replies, and reads none of them.
    #[error("the peer is not reading: {limit} bytes of replies are queued already")]
    RepliesNotRead {
        /// How many may wait.
        limit: usize,
    },
    /// The peer begins more and more messages, and finishes none.
    #[error("more than {limit} bytes of incomplete message bodies")]
    TooMuchUnfinished {
        /// How many may be kept, [`Limits::unfinished_max`](crate::Limits::unfinished_max).
        limit: u64,
    },
    /// The login asks for more and more rounds.
    #[error("more than {limit} challenges in one login")]
    TooManyChallenges {
        /// How many there may be.
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
            Self::BadTune { .. } | Self::TooManyChallenges { .. } => ReplyCode::NOT_ALLOWED,
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
    /// It answered with the protocol header of another version.
    #[error("{}", match (id, major, minor, revision) {
        // What a server sends that rejects the header that it got, and so does whoever repeats or sends it.
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
    /// It speaks TLS.
    #[error("the peer speaks TLS: this is a TLS port, use amqps:// for it")]
    Tls,
    /// It speaks HTTP.
    #[error(
        "the peer speaks HTTP: this is not an AMQP port (RabbitMQ's management listens on 15672, AMQP on 5672)"
    )]
    Http,
    /// It speaks something unknown.
    #[error("the peer does not speak AMQP; it starts with octets {0:02x?}")]
    Unknown([u8; 8]),
}

/// Why logging in failed.
#[derive(Debug, Clone, PartialEq, Eq, Error)]
#[non_exhaustive]
pub enum LoginError {
    /// The server offers none of the mechanisms that the client has credentials for.
    #[error("the server offers {offered:?}, this end is set up for {configured:?}")]
    NoCommonMechanism {
        /// The server's mechanisms.
        offered: String,
        /// The client's mechanisms.
        configured: String,
    },
    /// The mechanism could not answer.
    #[error("{mechanism}: {error}")]
    Mechanism {
        /// Its name.
        mechanism: String,
        /// What it says.
        error: SaslError,
    },
    /// The server refused the credentials (403).
    #[error("{0}")]
    Refused(Close),
    /// The server ended the transport right after the credentials: the manner of refusing of brokers without
    /// `authentication_failure_close`.
    #[error("connection closed during login; the credentials were probably rejected")]
    HungUp,
}

/// Why a channel is over. Once it is, every call says the same.
#[derive(Debug, Clone, PartialEq, Eq, Error)]
#[non_exhaustive]
pub enum ChannelError {
    /// One end closed it.
    #[error("channel {0}")]
    Closed(Close),
    /// Its connection is over.
    #[error(transparent)]
    Connection(#[from] ConnectionError),
    /// Sessions: it, or what this error is about, was not restored after a loss.
    #[error("not restored after the connection was lost: {why}")]
    NotRestored {
        /// The reply code that a broker would have given.
        reply_code: ReplyCode,
        /// What prevents it.
        why: Arc<str>,
    },
}

impl ChannelError {
    /// It was not restored after a loss.
    pub(crate) fn not_restored(reply_code: ReplyCode, why: impl fmt::Display) -> Self {
        Self::NotRestored { reply_code, why: why.to_string().into() }
    }

    /// The orderly close of the channel or of the connection, if it was one.
    #[must_use]
    pub const fn as_close(&self) -> Option<&Close> {
        match self {
            Self::Closed(close) => Some(close),
            Self::Connection(error) => error.as_close(),
            Self::NotRestored { .. } => None,
        }
    }

    /// The reply code that the channel or its connection was closed with, if one end closed it, or that fits why it was not
    /// restored.
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
    /// All numbers are taken.
    #[error("all {channel_max} channels of the connection are open")]
    Exhausted {
        /// The agreed limit.
        channel_max: u16,
    },
    /// Channels do not have that number.
    #[error("there is no channel {number}: they have the numbers from 1 to {channel_max}")]
    NoSuchNumber {
        /// The number that was asked for.
        number: u16,
        /// The agreed limit.
        channel_max: u16,
    },
    /// The channel of that number is open, or is not closed yet.
    #[error("channel {number} is in use")]
    InUse {
        /// The number that was asked for.
        number: u16,
    },
    /// The handshake is not over yet.
    #[error("the connection is not open yet")]
    NotOpenYet,
    /// The connection is over.
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

/// A command that was not queued. Nothing of it was sent.
#[derive(Debug, Clone, PartialEq, Eq, Error)]
#[non_exhaustive]
pub enum CommandError {
    /// The channel is over.
    #[error(transparent)]
    Ended(#[from] ChannelError),
    /// The caller does what the state forbids.
    #[error(transparent)]
    Misuse(#[from] Misuse),
    /// The method does not fit into a frame.
    #[error("{method} takes a frame of {size} octets, and frame_max is {frame_max}")]
    TooLarge {
        /// The method's name.
        method: &'static str,
        /// The frame it would take.
        size: usize,
        /// The agreed limit.
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

/// What the caller must not do; the connection is unharmed.
#[derive(Debug, Clone, Copy, PartialEq, Eq, Error)]
#[non_exhaustive]
pub enum Misuse {
    /// No channel of that number is open.
    #[error("channel {0} is not open")]
    NoSuchChannel(u16),
    /// Confirms and transactions exclude each other on a channel.
    #[error("a channel is either transactional or has publisher confirms")]
    TxAndConfirm,
    /// The delivery was settled before, needs no acknowledgement, or never was.
    #[error("delivery {0} is not waiting for an acknowledgement on this channel")]
    UnknownDelivery(u64),
    /// The broker has requeued the delivery, and delivers it again: the connection was lost since it came, or the delivery was
    /// asked for again (`basic.recover`).
    #[error("the broker has requeued delivery {0} since it came; it will be delivered again")]
    StaleDelivery(u64),
    /// Some of what the transaction should commit was lost with the connection. It was rolled back.
    #[error("the connection was lost amid the transaction, which was rolled back")]
    TransactionLost,
    /// The consumer tag is taken on this channel.
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
    /// Sessions: a message of a stream is asked for with `basic.get`. RabbitMQ would close the connection.
    #[error("a stream has no single messages to get (basic.get): consume it")]
    StreamHasNoGet,
    /// The consumer has ended, or never was.
    #[error("the consumer is not active")]
    UnknownConsumer,
    /// The command is for the other side of a connection.
    #[error("only the {0} side does this")]
    WrongSide(&'static str),
    /// The command does not fit what the connection is doing.
    #[error("operation not valid in the current state")]
    NotNow,
}

/// Why a message was not published. Nothing of it was sent.
#[derive(Debug, Clone, PartialEq, Eq, Error)]
#[non_exhaustive]
pub enum PublishError {
    /// The channel is over.
    #[error(transparent)]
    Ended(#[from] ChannelError),
    /// The exchange's name or the routing key is too long.
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
    /// Content has to wait.
    #[error(transparent)]
    Gated(#[from] Gate),
    /// Sessions: a message that was kept was not confirmed within its time to live, and is not sent any more.
    #[error("the message was not confirmed within its time to live")]
    Expired,
    /// Sessions: a message that was kept was withdrawn, and is not sent any more.
    #[error("the message was withdrawn")]
    Withdrawn,
    /// Only clients publish.
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

/// What holds back content; everything else passes.
#[derive(Debug, Clone, Copy, PartialEq, Eq, Error)]
#[non_exhaustive]
pub enum Gate {
    /// `connection.blocked`: the broker is short of resources.
    #[error("the broker has blocked publishing (connection.blocked)")]
    Blocked,
    /// `channel.flow`: the broker paused this channel.
    #[error("the broker has paused this channel (channel.flow)")]
    Flow,
    /// As many octets wait for the transport as the configuration allows.
    #[error("the outgoing buffer is full")]
    Full,
    /// Sessions: there is no connection at present.
    #[error("the connection was lost and is not recovered yet")]
    Recovering,
    /// Sessions: as many octets are kept until they are confirmed as the configuration allows.
    #[error("the republish buffer is full; wait for confirms or raise `keep_max`")]
    Kept,
}
