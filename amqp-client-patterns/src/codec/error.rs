use std::error::Error;

use amqp_client_core::{DecodeError, SendError, ShortStr, TooLong};
use thiserror::Error;

use crate::shown::debug_shows_chain;

/// An error of any type, such as those of codecs and handlers.
pub type BoxError = Box<dyn Error + Send + Sync>;

/// A value could not be encoded. Nothing was sent.
#[derive(Error)]
#[non_exhaustive]
pub enum EncodeBodyError {
    /// The format cannot express the value.
    #[error("the value cannot be encoded as {format}")]
    Value {
        /// The name of the format.
        format: &'static str,
        /// The reason.
        #[source]
        error: BoxError,
    },
    /// A property of the message is too long.
    #[error(transparent)]
    Property(#[from] TooLong),
}

impl EncodeBodyError {
    /// Creates the error of a codec that cannot encode a value.
    pub fn value(format: &'static str, error: impl Into<BoxError>) -> Self {
        Self::Value { format, error: error.into() }
    }
}

/// The content of a message could not be decoded.
#[derive(Error)]
#[non_exhaustive]
pub enum DecodeBodyError {
    /// The message has the content type of another format.
    #[error("the content type is {found:?}, which is not {format}")]
    ContentType {
        /// The name of the format that was expected.
        format: &'static str,
        /// The content type of the message.
        found: String,
    },
    /// The message has no content type, so its format is unknown.
    #[error(
        "the message has no content type; choose a codec, or set the content type when publishing"
    )]
    NoContentType,
    /// The body is compressed, or encoded in another way that the codec does not know.
    #[error("the content encoding is {found:?}, which the codec for {format} does not decode")]
    ContentEncoding {
        /// The name of the format that was expected.
        format: &'static str,
        /// The content encoding of the message.
        found: String,
    },
    /// The content type or the content encoding is not UTF-8.
    #[error("the content type or content encoding is not text: {}", .0.escaped())]
    NotText(ShortStr),
    /// The properties of the message are malformed.
    #[error("the properties of the message are malformed")]
    Properties(#[from] DecodeError),
    /// The body does not decode to a value of the expected type.
    #[error("the body does not decode as {format}")]
    Body {
        /// The name of the format.
        format: &'static str,
        /// The reason.
        #[source]
        error: BoxError,
    },
}

impl DecodeBodyError {
    /// Creates the error of a codec that cannot decode a body.
    pub fn body(format: &'static str, error: impl Into<BoxError>) -> Self {
        Self::Body { format, error: error.into() }
    }
}

/// A value was not sent, or was sent and not confirmed.
#[derive(Error)]
#[non_exhaustive]
pub enum TypedSendError {
    /// The value could not be encoded. Nothing was sent.
    #[error(transparent)]
    Encode(#[from] EncodeBodyError),
    /// The message was not sent, or was sent and not confirmed.
    #[error(transparent)]
    Send(#[from] SendError),
}

debug_shows_chain! { EncodeBodyError DecodeBodyError TypedSendError }
