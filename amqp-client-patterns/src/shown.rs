//! The texts of errors and panics.

use std::any::Any;

/// Shows an error and its causes in one line, like all errors of the client.
macro_rules! debug_shows_chain {
    ($($error:ident)*) => {$(
        impl std::fmt::Debug for $error {
            fn fmt(&self, f: &mut std::fmt::Formatter<'_>) -> std::fmt::Result {
                std::fmt::Display::fmt(&amqp_client_core::error::chain(self), f)
            }
        }
    )*};
}

pub(crate) use debug_shows_chain;

/// Returns the reason of a message or a request whose handler panicked.
pub(crate) fn panicked(panic: &(dyn Any + Send)) -> String {
    let text = panic.downcast_ref::<String>().map(String::as_str);
    let text = text.or_else(|| panic.downcast_ref::<&str>().copied()).unwrap_or("no text");
    format!("the handler panicked: {text}")
}
