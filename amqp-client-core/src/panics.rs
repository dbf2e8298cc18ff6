//! Panics of the user's code.

use std::any::Any;
use std::panic::{AssertUnwindSafe, catch_unwind};

/// Runs code of the user's. A panic of it, which the panic hook has reported, must not keep others from being woken, nor end
/// the task that drives the connection for all of them.
#[inline]
pub(crate) fn contained(run: impl FnOnce()) {
    let _panic = catch_unwind(AssertUnwindSafe(run));
}

/// Returns the message of a panic, if it is a string.
pub(crate) fn text(panic: &(dyn Any + Send)) -> Option<&str> {
    let text = panic.downcast_ref::<String>().map(String::as_str);
    text.or_else(|| panic.downcast_ref::<&str>().copied())
}
