use nom::error::{ErrorKind, ParseError};

use crate::error::debug_shows_chain;

/// Bytes that are not AMQP 0-9-1: the field and the reason.
///
/// ```
/// # use amqp_proto::RawProperties;
/// // Flags for a `priority`, but no value.
/// let error = RawProperties::checked(vec![0x08, 0x00].into()).unwrap_err();
/// assert_eq!(error.place(), "property priority");
/// println!("{error}");
/// ```
#[derive(Clone, Copy, PartialEq, Eq, thiserror::Error)]
#[error("{kind} (in {place})")]
pub struct DecodeError {
    kind: DecodeErrorKind,
    place: &'static str,
}

impl DecodeError {
    pub(crate) const fn new(kind: DecodeErrorKind, place: &'static str) -> Self {
        Self { kind, place }
    }

    /// Returns the kind of the error.
    #[must_use]
    pub const fn kind(&self) -> DecodeErrorKind {
        self.kind
    }

    /// Returns where the error was found: a method and its argument (`queue.declare queue`), a property, or a part of a
    /// frame.
    #[must_use]
    pub const fn place(&self) -> &'static str {
        self.place
    }

    /// Names the place, unless an inner parser has named a closer one.
    pub(crate) const fn within(mut self, place: &'static str) -> Self {
        if self.place.is_empty() {
            self.place = place;
        }
        self
    }
}

/// The ways in which bytes can fail to be AMQP 0-9-1.
#[derive(Clone, Copy, PartialEq, Eq, thiserror::Error)]
#[non_exhaustive]
pub enum DecodeErrorKind {
    /// A length points past the end of its container.
    #[error("the data ends in the middle of a value")]
    Truncated,
    /// There are bytes after the last field.
    #[error("{0} bytes follow the last field")]
    Trailing(usize),
    /// A field table contains a value of a type that RabbitMQ does not define.
    #[error("unknown field type 0x{0:02x}")]
    UnknownFieldType(u8),
    /// Tables or arrays nest deeper than [`MAX_TABLE_DEPTH`](crate::wire::MAX_TABLE_DEPTH).
    #[error("field tables nest deeper than {} levels", super::MAX_TABLE_DEPTH)]
    TooDeep,
    /// The class and method ids name no method of AMQP 0-9-1 or of RabbitMQ's extensions.
    #[error("unknown method: class {class_id}, method {method_id}")]
    UnknownMethod {
        /// The class id that was read.
        class_id: u16,
        /// The method id that was read.
        method_id: u16,
    },
    /// A content header for a class that carries no content; only `basic` (60) does.
    #[error("methods of class {0} carry no content")]
    UnknownContentClass(u16),
    /// Property flags that belong to no property.
    #[error("property flags 0x{0:04x} name unknown properties")]
    UnknownProperty(u16),
    /// The frame type is none of method (1), header (2), body (3), heartbeat (8).
    #[error("unknown frame type {0}")]
    UnknownFrameType(u8),
    /// The octet after the payload is not the frame-end octet 0xCE.
    #[error("the frame ends with 0x{0:02x} instead of 0xce")]
    FrameEnd(u8),
    /// The frame is larger than both sides have agreed on.
    #[error("a frame of {size} bytes exceeds frame_max ({max})")]
    FrameTooLarge {
        /// Size of the whole frame, its 8 bytes of overhead included.
        size: u64,
        /// The negotiated limit.
        max: u32,
    },
}

debug_shows_chain! { DecodeError DecodeErrorKind }

impl DecodeErrorKind {
    /// The kind as a nom error, for parsers to return; the caller names the place.
    pub(crate) const fn fail(self) -> nom::Err<DecodeError> {
        nom::Err::Error(DecodeError::new(self, ""))
    }
}

impl ParseError<&[u8]> for DecodeError {
    fn from_error_kind(_: &[u8], _: ErrorKind) -> Self {
        // Only parsers that ran out of input fail with nom's own kinds here.
        Self::new(DecodeErrorKind::Truncated, "")
    }

    fn append(_: &[u8], _: ErrorKind, other: Self) -> Self {
        other
    }
}

/// The error inside nom's; the parsers of this crate are complete and never ask for more.
pub(crate) fn unwrapped(error: nom::Err<DecodeError>) -> DecodeError {
    match error {
        nom::Err::Error(error) | nom::Err::Failure(error) => error,
        nom::Err::Incomplete(_) => DecodeError::new(DecodeErrorKind::Truncated, ""),
    }
}
