//! Messages as frames, to read and write them by hand: content headers, and the assembly of messages.
//!
//! A message is a method with content, such as `basic.publish`, a content header, and as many body frames as its body takes
//! (spec 2.3.5.2). [`Content`] is such a message, and can be split into frames. An [`Assembler`] puts the frames of a channel together.

mod apart;
mod assembler;
mod error;
mod header;
mod incoming;
mod message;
mod progress;

pub use assembler::{Assembled, Assembler};
pub use error::AssembleError;
pub use header::ContentHeader;
pub use message::Content;

pub(crate) use apart::{Apart, MaybeApart};
pub(crate) use header::{FIXED_PART_LEN, encoded_fixed_part};
pub(crate) use incoming::{Complete, ContentMethod, Incoming, arguments_of, find_whole};
pub(crate) use progress::unexpected;

use crate::method::{Arguments as _, BasicPublish};

/// Content carries properties of this class only.
pub(crate) const BASIC: u16 = BasicPublish::CLASS_ID;
