//! The texts of errors and panics.

use std::any::Any;
use std::error::Error;
use std::panic::{AssertUnwindSafe, catch_unwind};

use amqp_client_core::error::chain;

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

/// Returns the text of an error of a handler and of its causes. The code that writes it is the program's, so it may panic.
pub(crate) fn text(error: &(dyn Error + 'static)) -> String {
    let text = catch_unwind(AssertUnwindSafe(|| chain(error).to_string()));
    text.unwrap_or_else(|_| "the text of the error panicked".to_owned())
}
