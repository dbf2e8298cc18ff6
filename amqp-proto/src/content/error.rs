use thiserror::Error;

use crate::error::debug_shows_chain;
use crate::{DecodeError, Violation};

/// Frames that are not a message; see [`Assembler`](super::Assembler).
#[derive(Clone, PartialEq, Eq, Error)]
#[non_exhaustive]
pub enum AssembleError {
    /// A method or content header is malformed, or the content header is one of a class without content.
    #[error("malformed frame")]
    Decode(#[from] DecodeError),
    /// The frames are in the wrong order, or the body is longer than its header announced.
    #[error(transparent)]
    Violation(#[from] Violation),
    /// The frame belongs to another channel.
    #[error("a frame of channel {channel} instead of channel {expected}")]
    OtherChannel {
        /// The channel of the frame.
        channel: u16,
        /// The channel of the assembler.
        expected: u16,
    },
    /// The body is larger than the limit of the assembler.
    #[error("a body of {size} bytes exceeds the limit of {limit} bytes")]
    BodyTooLarge {
        /// The announced size.
        size: u64,
        /// The limit.
        limit: u64,
    },
}

debug_shows_chain! { AssembleError }
