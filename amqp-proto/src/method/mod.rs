//! The methods of AMQP 0-9-1 and of RabbitMQ's extensions: one struct each, and [`Method`] over all of them.

use alloc::vec::Vec;

#[macro_use]
mod macros;
mod secret;
mod table;
#[cfg(test)]
mod tests;

pub use secret::mask_credentials;
pub use table::*;

use bytes::Bytes;

use crate::wire::{DecodeError, DecodeErrorKind, Parsed, Wire, unwrapped};

/// A method: its ids, its name, and the encoding of its arguments.
///
/// Implemented by the structs of this module, and by nothing else.
pub trait Arguments: Sized + Into<Method> + sealed::Sealed + Send + 'static {
    /// The id of the class the method belongs to.
    const CLASS_ID: u16;
    /// The id of the method within its class.
    const METHOD_ID: u16;
    /// The name in the specification, as `queue.declare`.
    const NAME: &'static str;
    /// The properties of the method, from its declaration.
    const FACTS: MethodFacts;

    /// Decodes the arguments; `arguments` starts behind the two ids and holds nothing else.
    ///
    /// # Errors
    /// [`DecodeError`] if the bytes do not fit the declaration, or some are left over.
    fn decode(arguments: &Bytes) -> Result<Self, DecodeError>;

    /// Appends the class id, the method id and the arguments.
    fn encode(&self, out: &mut Vec<u8>);
}

/// A method of a channel that has a reply.
///
/// Requests on one channel are replied to in order, so any number may be pending at once.
pub trait Request: Arguments {
    /// The type of the reply.
    type Reply: FromReply;

    /// Returns whether the method's `no_wait` bit is set, so that no reply comes.
    fn is_no_wait(&self) -> bool;
}

/// Converts the reply to a [`Request`].
pub trait FromReply: Sized {
    /// Converts the reply. Returns `None` if it is the reply to another request.
    fn from_reply(reply: crate::Reply) -> Option<Self>;
}

/// The declared properties of a method.
#[derive(Debug, Clone, Copy, PartialEq, Eq)]
#[non_exhaustive]
pub struct MethodFacts {
    /// The name in the specification, as `queue.declare`.
    pub name: &'static str,
    /// The class id and the method id.
    pub id: (u16, u16),
    /// Name and specification type of each argument, in order.
    pub arguments: &'static [(&'static str, &'static str)],
    /// Ids of the methods that reply to it.
    pub replies: &'static [(u16, u16)],
    /// True if a content header and a body follow.
    pub content: bool,
}

mod sealed {
    #[expect(unnameable_types, reason = "that it cannot be named is what seals the trait")]
    pub trait Sealed {}
}

/// Decodes one argument. The error names the argument.
fn argument<'a, T: Wire>(
    input: &'a [u8],
    source: &Bytes,
    place: &'static str,
) -> Result<(&'a [u8], T), DecodeError> {
    finish(T::decode(input, source), place)
}

fn packed_bits<'a>(input: &'a [u8], place: &'static str) -> Result<(&'a [u8], u8), DecodeError> {
    finish(crate::wire::u8_be(input), place)
}

fn finish<'a, T>(parsed: Parsed<'a, T>, place: &'static str) -> Result<(&'a [u8], T), DecodeError> {
    parsed.map_err(|error| unwrapped(error).within(place))
}

/// Refuses bytes behind the last argument.
fn end(rest: &[u8], place: &'static str) -> Result<(), DecodeError> {
    match rest.len() {
        0 => Ok(()),
        more => Err(DecodeError::new(DecodeErrorKind::Trailing(more), place)),
    }
}
