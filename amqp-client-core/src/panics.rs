//! Panics of the user's code.

use std::any::Any;
use std::cell::Cell;
use std::panic::{AssertUnwindSafe, catch_unwind};

/// Runs code of the user's. A panic of it, which the panic hook has reported, must not keep others from being woken, nor end
/// the task that drives the connection for all of them.
#[inline]
pub(crate) fn contained(run: impl FnOnce()) {
    if let Err(panic) = catch_unwind(AssertUnwindSafe(run)) {
        // The value of a panic is the user's, too. One that panics when it is dropped is not dropped again.
        let _again = catch_unwind(AssertUnwindSafe(|| drop(panic))).map_err(std::mem::forget);
    }
}

/// Returns the message of a panic, if it is a string.
pub(crate) fn text(panic: &(dyn Any + Send)) -> Option<&str> {
    let text = panic.downcast_ref::<String>().map(String::as_str);
    text.or_else(|| panic.downcast_ref::<&str>().copied())
}

thread_local! {
    /// Set while values are dropped that have nothing to do with a panic of the thread.
    static ELSEWHERE: Cell<bool> = const { Cell::new(false) };
}

/// Drops values that have not panicked, although their thread may be panicking.
pub(crate) fn elsewhere(drop: impl FnOnce()) {
    /// Also if one of the values panics.
    struct Restore(bool);
    impl Drop for Restore {
        fn drop(&mut self) {
            ELSEWHERE.set(self.0);
        }
    }
    let _restore = Restore(ELSEWHERE.replace(true));
    drop();
}

/// Returns true if the thread is panicking, and whoever drops a value may have caused that.
pub(crate) fn is_to_blame() -> bool {
    std::thread::panicking() && !ELSEWHERE.get()
}
