use std::cell::Cell;
use std::task::{Context, Poll};
use std::time::Instant;

use crate::driver::Timer;

thread_local! {
    /// The latest time at which the future of this thread has to be polled again.
    static ALARM: Cell<Option<Instant>> = const { Cell::new(None) };
}

/// The clock of futures that are [waited for](super::Wait). The thread that polls looks after the time; no timer has to
/// wake it.
#[derive(Debug, Clone, Copy, Default)]
#[non_exhaustive]
pub struct Alarm;

impl Timer for Alarm {
    fn now(&self) -> Instant {
        Instant::now()
    }

    fn poll_until(&mut self, _: &mut Context<'_>, at: Instant) -> Poll<()> {
        if at <= Instant::now() {
            return Poll::Ready(());
        }
        ALARM.set(earlier(ALARM.get(), Some(at)));
        Poll::Pending
    }
}

/// Polls something. Returns the latest time at which it has to be polled again, according to its [`Alarm`]s.
pub fn alarmed<T>(poll: impl FnOnce() -> T) -> (T, Option<Instant>) {
    let outer = ALARM.take();
    let output = poll();
    (output, ALARM.replace(outer))
}

pub(super) fn earlier(one: Option<Instant>, other: Option<Instant>) -> Option<Instant> {
    one.into_iter().chain(other).min()
}

pub(super) fn is_past(at: Option<Instant>) -> bool {
    at.is_some_and(|at| at <= Instant::now())
}
