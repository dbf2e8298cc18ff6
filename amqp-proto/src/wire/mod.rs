//! The primitive types of the protocol and how they look on the wire.
//!
//! Nothing in here knows connections or channels. Parsers are `nom` functions over `&[u8]`; the [`Bytes`] the input was
//! cut from rides along, so that fields which outlive the call share its memory instead of copying it.

mod error;
mod fields;
mod primitive;
mod table;
mod text;
mod value;

pub(crate) use error::unwrapped;
pub use error::{DecodeError, DecodeErrorKind};
pub use table::{FieldArray, FieldError, FieldTable, Fields};
pub(crate) use text::wipe;
pub(crate) use text::write_escaped;
pub use text::{Escaped, LongStr, Secret, ShortStr, TooLong};
pub use value::{Decimal, Timestamp, Value};

pub(crate) use fields::{check_fields, copy_fields, find_field};
pub(crate) use primitive::{
    Wire, bit_set, bytes, long_bytes, put_long_bytes, short_bytes, u8_be, u16_be, u32_be, u64_be,
};
pub(crate) use text::checked_short;

use bytes::Bytes;

/// Tables and arrays may be nested to this depth; deeper ones are refused.
///
/// The specification sets no limit. RabbitMQ's deepest own table (`x-death`) has three levels; the limit bounds the stack
/// that a hostile peer can make the decoder use.
pub const MAX_TABLE_DEPTH: usize = 32;

/// The result of the crate's parsers.
pub(crate) type Parsed<'a, T> = nom::IResult<&'a [u8], T, DecodeError>;

/// Cuts `part`, which must lie within `source`, as a `Bytes` of its own without copying.
pub(crate) fn share(source: &Bytes, part: &[u8]) -> Bytes {
    source.slice_ref(part)
}
