//! Errors, by who is to blame: the bytes ([`DecodeError`](crate::DecodeError)), the peer ([`Violation`]), the caller
//! ([`Misuse`]), or nobody ([`Close`]).
//!
//! All errors of operations have the same methods: `reply_code`, `reply_text`, `channel_id`, `as_close` and `is_transient`.
//!
//! `Display` shows an error without its causes, which [`source`](core::error::Error::source) returns. `Debug` shows the error and
//! its causes in one line, as [`chain()`] does. That is what a program prints if its `main` returns an error.

mod chain;
mod close;
mod command;
mod connection;
mod explanation;
mod methods;
mod step;
mod violation;

pub use chain::chain;
pub(crate) use chain::debug_shows_chain;
pub use close::{Close, Initiator};
pub use command::{ChannelError, CommandError, Gate, Misuse, OpenChannelError, PublishError};
pub use connection::{ConnectionError, LoginError, TransportFailure, WrongProtocol};
pub use explanation::{Explanation, Limited, Permission, Resource, Scope};
pub use step::ConnectStep;
pub use violation::Violation;

#[cfg(test)]
mod tests;
