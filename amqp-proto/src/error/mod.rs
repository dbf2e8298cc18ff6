//! Errors, by who is to blame: the bytes ([`DecodeError`](crate::DecodeError)), the peer ([`Violation`]), the caller
//! ([`Misuse`]), or nobody ([`Close`]).
//!
//! All errors of operations have the same methods: `reply_code`, `reply_text`, `channel_id`, `as_close` and `is_transient`.
//!
//! `Display` shows an error without its causes, which [`source`](core::error::Error::source) returns. `Debug` shows the error and
//! its causes in one line, as [`chain`] does. That is what a program prints if its `main` returns an error.

mod close;
mod command;
mod connection;
mod violation;

pub use close::Close;
pub use command::{ChannelError, CommandError, Gate, Misuse, OpenChannelError, PublishError};
pub use connection::{ConnectionError, LoginError, TransportFailure, WrongProtocol};
pub use violation::Violation;

use core::error::Error;
use core::fmt;

/// The side of a connection that did something.
///
/// ```
/// # use amqp_proto::{Close, Initiator};
/// # fn example(close: &Close) {
/// match close.by {
///     Initiator::Peer => println!("the broker closed: {}", close.reply_text),
///     Initiator::Local => println!("this program closed"),
/// }
/// # }
/// ```
#[derive(Debug, Clone, Copy, PartialEq, Eq, Hash)]
#[expect(clippy::exhaustive_enums, reason = "a connection has two ends")]
pub enum Initiator {
    /// This side of the connection.
    Local,
    /// The other side.
    Peer,
}

/// Displays an error and its causes in one line: `login failed: mechanism PLAIN failed: ...`.
///
/// ```
/// use amqp_proto::error::chain;
/// use amqp_proto::{ConnectionError, Violation};
///
/// let error = ConnectionError::from(Violation::UnexpectedMethod { method: "basic.ack" });
/// assert_eq!(error.to_string(), "protocol violation by the peer");
/// assert_eq!(chain(&error).to_string(), "protocol violation by the peer: unexpected basic.ack");
/// ```
pub fn chain(error: &dyn Error) -> impl fmt::Display {
    Chain(error)
}

struct Chain<'a>(&'a dyn Error);

impl fmt::Display for Chain<'_> {
    fn fmt(&self, f: &mut fmt::Formatter<'_>) -> fmt::Result {
        write!(f, "{}", self.0)?;
        let mut source = self.0.source();
        while let Some(cause) = source {
            write!(f, ": {cause}")?;
            source = cause.source();
        }
        Ok(())
    }
}

/// Implements `Debug` of errors: the same as [`chain`].
#[doc(hidden)]
#[macro_export]
macro_rules! __debug_shows_chain {
    ($($error:ident)*) => {$(
        impl ::core::fmt::Debug for $error {
            fn fmt(&self, f: &mut ::core::fmt::Formatter<'_>) -> ::core::fmt::Result {
                ::core::fmt::Display::fmt(&$crate::error::chain(self), f)
            }
        }
    )*};
}
pub(crate) use __debug_shows_chain as debug_shows_chain;

/// Adds the methods that all errors of operations have, to an error that contains others: `contained => error` says where. The
/// pattern behind `transient` has the errors of its own after which the operation may succeed later.
#[doc(hidden)]
#[macro_export]
macro_rules! __common_methods {
    (
        $error:ident $(<$param:ident>)? { $($contained:pat => $inner:expr),* $(,)? }
        $(transient $transient:pat)?
    ) => {
        #[allow(unreachable_patterns, reason = "some contain an error in each variant")]
        impl $(<$param>)? $error $(<$param>)? {
            /// Returns the reply code that explains the error: of the close of the channel or connection, for example.
            #[must_use]
            pub fn reply_code(&self) -> Option<$crate::ReplyCode> {
                match self {
                    $($contained => $inner.reply_code(),)*
                    _ => None,
                }
            }

            /// Returns the text that the broker, or this client, sent with the reply code.
            #[must_use]
            pub fn reply_text(&self) -> Option<&$crate::ShortStr> {
                match self {
                    $($contained => $inner.reply_text(),)*
                    _ => None,
                }
            }

            /// Returns the number of the channel that was closed, if the error is the close of a channel.
            #[must_use]
            pub fn channel_id(&self) -> Option<$crate::ChannelId> {
                self.as_close()?.channel
            }

            /// Returns the orderly close of the channel or connection, if that is the reason.
            #[must_use]
            pub fn as_close(&self) -> Option<&$crate::Close> {
                match self {
                    $($contained => $inner.as_close(),)*
                    _ => None,
                }
            }

            /// Returns whether the same operation may succeed later. If a channel or connection was closed, it needs a new one.
            #[must_use]
            pub fn is_transient(&self) -> bool {
                match self {
                    $($contained => $inner.is_transient(),)*
                    _ => false $(|| matches!(self, $transient))?,
                }
            }
        }
    };
}
pub(crate) use __common_methods as common_methods;

#[cfg(test)]
mod tests;
