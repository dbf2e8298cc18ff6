//! The replies of handlers, and the form of an error in a reply.

use std::fmt;

use amqp_client_core::error::chain;
use amqp_client_core::proto::Delivery;
use amqp_client_core::{FieldTable, Message, MessageProperties, Value};
use bytes::Bytes;

use super::error::RemoteError;
use crate::codec::BoxError;
use crate::shown;

/// The header of a reply that is an error. Its value is the code, and the body is the text.
const ERROR: &str = "x-rpc-error";

/// A value that a handler of requests may return.
///
/// | Returned | Reply |
/// |---|---|
/// | `Json<T>`, `MessagePack<T>`, `Cbor<T>` | the value, in that format |
/// | `String`, `&'static str` | the text |
/// | `Vec<u8>`, `Bytes` | the body |
/// | a [`Message`] | the message, with its properties |
/// | `()` | an empty body |
/// | `Result` of these | the reply, or the error: a [`ReplyError`], or any error that converts to it |
///
/// Implement it for a type of your own, to reply with other properties, for example.
#[diagnostic::on_unimplemented(
    message = "a handler of requests cannot return `{Self}`",
    label = "`{Self}` does not convert to a reply",
    note = "return `Json<T>`, `MessagePack<T>`, `Cbor<T>`, a text, bytes, a `Message`, `()`, or a `Result` of these"
)]
pub trait IntoReply {
    /// Converts to the message to reply with. The server sets its correlation id.
    ///
    /// # Errors
    /// The error to reply with instead.
    fn into_reply(self) -> Result<Message, ReplyError>;
}

/// An error as the reply to a request: a code for programs, and a text for people. The caller gets it as a [`RemoteError`].
///
/// Any error converts to it, with the code [`RemoteError::FAILED`] and the text of the error and its causes. So in a handler that
/// returns `Result<T, ReplyError>`, `?` replies with the error. Map errors that the caller should not read.
pub struct ReplyError {
    code: String,
    why: BoxError,
}

impl ReplyError {
    /// Creates an error with a code of your own.
    pub fn new(code: impl Into<String>, why: impl Into<BoxError>) -> Self {
        Self { code: code.into(), why: why.into() }
    }

    /// Returns the code.
    #[must_use]
    pub fn code(&self) -> &str {
        &self.code
    }

    /// Returns the reason.
    #[must_use]
    pub fn why(&self) -> &BoxError {
        &self.why
    }

    /// Converts to the reply.
    pub(super) fn into_message(self) -> Message {
        let mut headers = FieldTable::new();
        // A code is the value of a header, so it cannot be too long.
        let _fits = headers.insert(ERROR, Value::from(self.code.as_str()));
        let message = Message::text(shown::text(&*self.why));
        let fallback = message.clone();
        message.with(&MessageProperties::new().headers(headers)).unwrap_or(fallback)
    }
}

/// Returns the error that a reply is, if it is one.
pub(super) fn error_in(reply: &Delivery) -> Option<RemoteError> {
    let headers = reply.properties().headers().ok()??;
    let code = match headers.get(ERROR)? {
        Value::LongStr(code) => String::from_utf8_lossy(code.as_bytes()).into_owned(),
        _ => RemoteError::FAILED.to_owned(),
    };
    Some(RemoteError { code, text: String::from_utf8_lossy(reply.body()).into_owned() })
}

impl<E: Into<BoxError>> From<E> for ReplyError {
    fn from(why: E) -> Self {
        Self::new(RemoteError::FAILED, why)
    }
}

/// With the reason and its causes, in one line.
impl fmt::Debug for ReplyError {
    fn fmt(&self, f: &mut fmt::Formatter<'_>) -> fmt::Result {
        write!(f, "{}: {}", self.code, chain(&*self.why))
    }
}

impl<T: IntoReply, E: Into<ReplyError>> IntoReply for Result<T, E> {
    fn into_reply(self) -> Result<Message, ReplyError> {
        self.map_err(Into::into)?.into_reply()
    }
}

macro_rules! replies {
    ($($type:ty, $value:pat => $message:expr;)*) => {$(
        impl IntoReply for $type {
            fn into_reply(self) -> Result<Message, ReplyError> {
                let $value = self;
                Ok($message)
            }
        }
    )*};
}

replies! {
    (), () => Message::new("");
    Message, message => message;
    Bytes, body => Message::new(body);
    Vec<u8>, body => Message::new(body);
    String, text => Message::text(text);
    &'static str, text => Message::text(text);
}

#[cfg(any(feature = "json", feature = "messagepack", feature = "cbor"))]
macro_rules! values {
    ($($feature:literal $codec:ident)*) => {$(
        #[cfg(feature = $feature)]
        impl<T: serde::Serialize> IntoReply for crate::codec::$codec<T> {
            fn into_reply(self) -> Result<Message, ReplyError> {
                use crate::codec::{$codec, encode};
                encode::<$codec, T>(&self.0, &MessageProperties::new())
                    .map_err(|error| ReplyError::new(RemoteError::BAD_REPLY, error))
            }
        }
    )*};
}

#[cfg(any(feature = "json", feature = "messagepack", feature = "cbor"))]
values! { "json" Json "messagepack" MessagePack "cbor" Cbor }
