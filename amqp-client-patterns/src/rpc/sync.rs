//! Locks and atomics. Tests of the threads' order of events replace them: `RUSTFLAGS='--cfg shuttle'`.

use std::sync::PoisonError;
#[cfg(not(shuttle))]
pub(super) use std::sync::atomic::{AtomicUsize, Ordering};
#[cfg(not(shuttle))]
pub(super) use std::sync::{Mutex, MutexGuard};

#[cfg(shuttle)]
pub(super) use shuttle::sync::atomic::{AtomicUsize, Ordering};
#[cfg(shuttle)]
pub(super) use shuttle::sync::{Mutex, MutexGuard};

pub(super) fn lock<T>(mutex: &Mutex<T>) -> MutexGuard<'_, T> {
    // No thread panics while it holds a lock; and if one did, other calls would still have to get their replies.
    mutex.lock().unwrap_or_else(PoisonError::into_inner)
}
