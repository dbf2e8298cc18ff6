use std::time::Duration;

use amqp_client_core::{
    CallError, ConfirmError, ConsumerEnd, PublishError, Returned, SendError, TooLong,
};
use thiserror::Error;

use crate::codec::{DecodeBodyError, EncodeBodyError};
use crate::shown::debug_shows_chain;

/// A call returned no result.
///
/// [`may_have_run`](Self::may_have_run) says whether the server may have carried out the request.
#[derive(Error)]
#[non_exhaustive]
pub enum RpcError {
    /// The request could not be encoded. Nothing was sent.
    #[error(transparent)]
    Encode(#[from] EncodeBodyError),
    /// The request was not sent, or the broker refused it.
    #[error("the request was not sent, or the broker refused it")]
    NotSent(#[source] SendError),
    /// The client has ended: its channel is closed, or its reply queue was deleted. Nothing was sent. Open another client.
    #[error("the client for calls has ended; open another one")]
    Ended(#[source] ConsumerEnd),
    /// No queue took the request: no server has declared or bound the queue.
    #[error(
        "no queue took the request (exchange {:?}, routing key {:?}); start the server, which declares or binds its queue",
        .0.exchange, .0.routing_key
    )]
    NoServer(Box<Returned>),
    /// No reply came in time. If it still comes, it is [counted](super::RpcClient::late_replies) and dropped.
    #[error("no reply to the request within {after:?}{}", if *sent { "" } else { "; it was not sent" })]
    TimedOut {
        /// The timeout.
        after: Duration,
        /// True if the request was sent. If not, it waited for the connection or for the broker to accept messages.
        sent: bool,
    },
    /// The connection was lost, or the client ended, between the request and its reply. If the request can be carried out twice, see
    /// [`idempotent`](super::Call::idempotent).
    #[error("the reply to the request was lost; the server may have carried it out or not")]
    Lost(#[source] ConsumerEnd),
    /// The server replied with an error.
    #[error(transparent)]
    Remote(#[from] RemoteError),
    /// The reply does not decode.
    #[error("the reply does not decode")]
    Reply(#[source] DecodeBodyError),
}

impl RpcError {
    /// Returns whether the server may have carried out the request, or a part of it. If not, the call can be repeated without harm.
    ///
    /// A request that the broker refused may have run: of several queues that an exchange routes it to, one may have taken it.
    #[must_use]
    pub const fn may_have_run(&self) -> bool {
        match self {
            Self::Encode(_) | Self::Ended(_) | Self::NoServer(_) => false,
            Self::NotSent(error) => matches!(error, SendError::NotConfirmed(_)),
            Self::TimedOut { sent, .. } => *sent,
            Self::Lost(_) | Self::Remote(_) | Self::Reply(_) => true,
        }
    }

    /// Returns whether the same call may succeed later. Unless [`may_have_run`](Self::may_have_run) is `false`, the request may then
    /// be carried out twice.
    #[must_use]
    pub fn is_transient(&self) -> bool {
        match self {
            Self::NotSent(error) => error.is_transient(),
            Self::Lost(end) => end.is_transient(),
            Self::NoServer(_) | Self::TimedOut { .. } => true,
            Self::Encode(_) | Self::Ended(_) | Self::Remote(_) | Self::Reply(_) => false,
        }
    }
}

impl From<PublishError> for RpcError {
    fn from(error: PublishError) -> Self {
        Self::NotSent(error.into())
    }
}

impl From<TooLong> for RpcError {
    fn from(error: TooLong) -> Self {
        PublishError::from(error).into()
    }
}

/// An error that a server replied with.
#[derive(Clone, PartialEq, Eq, Error)]
#[error("the server replied with an error ({code}): {text}")]
#[non_exhaustive]
pub struct RemoteError {
    /// The kind of the error, for programs: a code of the server, or one of the constants here.
    pub code: String,
    /// A description of the error, for people.
    pub text: String,
}

impl RemoteError {
    /// The code if the handler returned an error without a code of its own.
    pub const FAILED: &'static str = "failed";
    /// The code if the handler panicked.
    pub const PANICKED: &'static str = "panicked";
    /// The code if the request could not be decoded.
    pub const BAD_REQUEST: &'static str = "bad-request";
    /// The code if the server has no such method.
    pub const UNKNOWN_METHOD: &'static str = "unknown-method";
    /// The code if the result of the handler could not be sent: it cannot be encoded, for example.
    pub const BAD_REPLY: &'static str = "bad-reply";
}

/// A method is registered already.
#[derive(Clone, PartialEq, Eq, Error)]
#[error("the method {method:?} is registered already; give each handler a name of its own")]
#[non_exhaustive]
pub struct AlreadyRegistered {
    /// The name of the method.
    pub method: String,
}

/// A server could not start, or was ended by the broker or a loss.
#[derive(Error)]
#[non_exhaustive]
pub enum ServeError {
    /// The server could not start: a channel could not be opened, or the queue could not be consumed.
    #[error("the server could not start")]
    Start(#[from] CallError),
    /// The server was stopped, but the broker did not confirm in time that it has the last replies and acknowledgements. Requests that
    /// were not acknowledged are delivered again.
    #[error("the server was stopped, but the broker did not confirm its last replies")]
    NotConfirmed {
        /// The reason.
        #[source]
        error: CallError,
        /// The counts until then.
        served: super::Served,
    },
    /// The consumer ended. The handlers that were running had the [grace period](super::RpcServer::grace) to finish.
    #[error("the consumer of the server ended")]
    Ended {
        /// The reason.
        #[source]
        end: ConsumerEnd,
        /// The counts until then.
        served: super::Served,
    },
}

debug_shows_chain! { RpcError RemoteError AlreadyRegistered ServeError }

/// The reason why a request gets no reply, whether it was sent or not.
pub(super) enum Failed {
    Call(RpcError),
    /// The outcome is unknown because of this loss.
    Lost(ConsumerEnd),
}

impl Failed {
    /// Returns what a failed confirm means for its call. If the confirm is late, nothing: the reply may still come.
    pub(super) fn of_confirm(error: ConfirmError) -> Option<Self> {
        Some(match error {
            ConfirmError::Returned(returned) => Self::Call(RpcError::NoServer(returned)),
            ConfirmError::Unconfirmed(reason) => Self::Lost(reason.into()),
            ConfirmError::TimedOut { .. } => return None,
            refused => Self::Call(RpcError::NotSent(refused.into())),
        })
    }
}

impl From<RpcError> for Failed {
    fn from(error: RpcError) -> Self {
        Self::Call(error)
    }
}
