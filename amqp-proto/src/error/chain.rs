//! Errors with their causes in one line, as `Debug` shows them too.

use core::error::Error;
use core::fmt;

/// Displays an error and its causes in one line: `login failed: the SASL mechanism PLAIN failed: ...`.
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
