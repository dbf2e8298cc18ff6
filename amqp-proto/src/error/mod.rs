//! Errors, by who is to blame: the bytes ([`DecodeError`](crate::DecodeError)), the peer ([`Violation`]), the caller
//! ([`Misuse`]), or nobody ([`Close`]).

mod close;
mod command;
mod connection;
mod violation;

pub use close::Close;
pub use command::{ChannelError, CommandError, Gate, Misuse, OpenChannelError, PublishError};
pub use connection::{ConnectionError, LoginError, WrongProtocol};
pub use violation::Violation;

/// The side of a connection that did something.
#[derive(Debug, Clone, Copy, PartialEq, Eq, Hash)]
#[expect(clippy::exhaustive_enums, reason = "a connection has two ends")]
pub enum Initiator {
    /// This side of the connection.
    Local,
    /// The other side.
    Peer,
}
