use alloc::string::{String, ToString as _};
use alloc::sync::Arc;
use core::fmt;
use core::time::Duration;

use thiserror::Error;

use super::chain::debug_shows_chain;
use super::close::{Close, Initiator};
use super::methods::close_methods;
use super::violation::Violation;
use crate::{DecodeError, DecodeErrorKind, FieldError, ReplyCode, SaslError};

/// The reason why a connection is closed. Once it is closed, every call returns the same error.
///
/// ```
/// # use amqp_proto::{ConnectionError, ReplyCode};
/// # fn example(error: &ConnectionError) {
/// if error.reply_code() == Some(ReplyCode::CONNECTION_FORCED) {
///     println!("the broker was made to close the connection: {error}");
/// }
/// # }
/// ```
#[derive(Clone, PartialEq, Eq, Error)]
#[non_exhaustive]
pub enum ConnectionError {
    /// One side closed the connection in an orderly way.
    #[error("{0}")]
    Closed(Close),
    /// The peer sent bytes that are not AMQP 0-9-1.
    #[error("the peer sent malformed data")]
    Decode(#[from] DecodeError),
    /// The peer broke the protocol.
    #[error("protocol violation by the peer")]
    Violation(#[from] Violation),
    /// The peer speaks another protocol.
    #[error(transparent)]
    WrongProtocol(#[from] WrongProtocol),
    /// The login failed.
    #[error("login failed")]
    Login(#[from] LoginError),
    /// The handshake did not finish in time.
    #[error("the handshake timed out: no {waiting_for} from the peer within {limit:?}")]
    HandshakeTimeout {
        /// The missing message of the peer.
        waiting_for: &'static str,
        /// The time limit.
        limit: Duration,
    },
    /// A method of the handshake does not fit into a frame, because of configured values.
    #[error(
        "{method} needs a frame of {size} bytes, but Limits::frame_max is {frame_max}; shorten the configured properties or the \
         secret, or raise the limit"
    )]
    HandshakeTooLarge {
        /// The method's name.
        method: &'static str,
        /// The size of the frame that it would need.
        size: usize,
        /// The limit: [`Limits::frame_max`](crate::Limits::frame_max), as nothing is negotiated yet.
        frame_max: u32,
    },
    /// The peer sent nothing for two heartbeat intervals.
    #[error("the peer sent nothing for {0:?} (two heartbeat intervals)")]
    PeerSilent(Duration),
    /// The peer did not reply to the close in time.
    #[error("the peer did not reply to connection.close within {0:?}")]
    CloseTimeout(Duration),
    /// The transport ended without a close.
    #[error("the peer disconnected without closing the connection")]
    Eof,
    /// The transport failed.
    #[error("the transport failed: {0}")]
    Transport(TransportFailure),
    /// The connection's driver was dropped: its task was aborted, or the runtime shut down.
    #[error("the connection's driver was dropped: its task was aborted, or the runtime shut down")]
    DriverGone,
    /// A session that began without a connection has not connected yet.
    #[error("not connected yet")]
    NotConnected,
    /// A session no longer tries to connect: it lost its connection, or never had one.
    #[error("{} (attempts: {attempts}, last failure: {last})", not_recovered(lost))]
    NotRecovered {
        /// The reason why the connection was lost; [`NotConnected`](Self::NotConnected) if there was none.
        #[source]
        lost: Arc<Self>,
        /// Number of attempts to connect.
        attempts: u32,
        /// The reason why the last attempt failed, or `none`.
        last: Arc<str>,
    },
}

/// Returns the beginning of the text, depending on whether there was a connection to recover.
fn not_recovered(lost: &ConnectionError) -> &'static str {
    match lost {
        ConnectionError::NotConnected => "could not connect",
        _ => "connection lost and not recovered",
    }
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

    /// Creates the error of a failed transport; see
    /// [`Connection::handle_transport_error`](crate::Connection::handle_transport_error).
    #[cfg(feature = "std")]
    #[must_use]
    pub fn transport(error: &std::io::Error) -> Self {
        Self::Transport(TransportFailure { text: error.to_string().into(), kind: error.kind() })
    }

    /// Returns the orderly close, if this error is one.
    #[must_use]
    pub const fn as_close(&self) -> Option<&Close> {
        match self {
            Self::Closed(close) | Self::Login(LoginError::Refused(close)) => Some(close),
            _ => None,
        }
    }

    /// Returns the reply code of the close, if one side closed the connection.
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
            Self::Closed(close) => close.is_transient(),
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

close_methods! { ConnectionError }

/// The error of a failed transport.
#[derive(Debug, Clone, PartialEq, Eq)]
pub struct TransportFailure {
    text: Arc<str>,
    #[cfg(feature = "std")]
    kind: std::io::ErrorKind,
}

impl TransportFailure {
    /// Makes the failure of a transport that does not use `std::io` errors.
    pub(crate) fn new(text: &str) -> Self {
        Self {
            text: text.into(),
            #[cfg(feature = "std")]
            kind: std::io::ErrorKind::Other,
        }
    }

    /// Returns the message of the I/O error.
    #[must_use]
    pub fn text(&self) -> &str {
        &self.text
    }

    /// Returns the kind of the I/O error.
    #[cfg(feature = "std")]
    #[must_use]
    pub const fn kind(&self) -> std::io::ErrorKind {
        self.kind
    }
}

impl fmt::Display for TransportFailure {
    fn fmt(&self, f: &mut fmt::Formatter<'_>) -> fmt::Result {
        f.write_str(&self.text)
    }
}

/// The peer does not speak AMQP 0-9-1 on this port.
#[derive(Clone, Copy, PartialEq, Eq, Error)]
#[non_exhaustive]
pub enum WrongProtocol {
    /// The peer replied with the protocol header of another version.
    #[error("{}", match (id, major, minor, revision) {
        // A server that rejects our header sends this header. So does an echo server or another client.
        (0, 0, 9, 1) => "the peer sent the protocol header of AMQP 0-9-1 instead of connection.start: it rejects this \
            client's header, or is itself a client or an echo server".to_string(),
        (3 | 0, 1, 0, 0) => "the peer speaks AMQP 1.0, not 0-9-1; check the port, and that the broker has AMQP 0-9-1".to_string(),
        _ => alloc::format!("the peer speaks AMQP {major}-{minor}-{revision} (protocol {id}), not 0-9-1; check the port"),
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
    #[error("the peer does not speak AMQP: its first bytes are \"{}\"; check the port", .0.escape_ascii())]
    Unknown([u8; 8]),
}

/// The reason why a login failed.
///
/// ```
/// # use amqp_proto::{ConnectionError, LoginError};
/// # fn example(error: &ConnectionError) {
/// match error {
///     ConnectionError::Login(LoginError::Refused(close)) => println!("{}", close.reply_text),
///     ConnectionError::Login(LoginError::HungUp) => println!("check the password"),
///     other => println!("{other}"),
/// }
/// # }
/// ```
#[derive(Clone, PartialEq, Eq, Error)]
#[non_exhaustive]
pub enum LoginError {
    /// The server offers none of the mechanisms that the client is configured for.
    #[error(
        "the server offers the SASL mechanisms {offered:?}, but the client is configured for {configured:?}; set auth_mechanism in \
         the URI to one of the server's"
    )]
    NoCommonMechanism {
        /// The server's mechanisms.
        offered: String,
        /// The client's mechanisms.
        configured: String,
    },
    /// The client properties do not fit the protocol.
    #[error("the client properties cannot be encoded")]
    ClientProperties(#[source] FieldError),
    /// The mechanism failed.
    #[error("the SASL mechanism {mechanism} failed")]
    Mechanism {
        /// The mechanism's name.
        mechanism: String,
        /// Its error.
        #[source]
        error: SaslError,
    },
    /// The server refused the credentials (403).
    #[error("refused by the server: {}", .0.reason())]
    Refused(Close),
    /// The server ended the transport right after the credentials. Brokers without `authentication_failure_close` refuse a login in
    /// this way.
    #[error(
        "connection closed during login; the credentials were probably rejected: check the user and the password"
    )]
    HungUp,
}

debug_shows_chain! { ConnectionError WrongProtocol LoginError }
