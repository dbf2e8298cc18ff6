use std::any::Any;
use std::fmt;
use std::task::Waker;

use super::callbacks::Call;
use crate::logs::Log;
use crate::panics::contained;

/// The tasks to wake once the lock is released. Usually there is none or one, and that has to be cheap.
#[derive(Default)]
pub(super) struct Wakes {
    first: Option<Waker>,
    rest: Option<Box<Rest>>,
}

#[derive(Default)]
struct Rest {
    wakers: Vec<Waker>,
    calls: Vec<Call>,
    log: Log,
    /// Values that only have to be dropped.
    buried: Vec<Box<dyn Any + Send>>,
}

impl fmt::Debug for Wakes {
    fn fmt(&self, f: &mut fmt::Formatter<'_>) -> fmt::Result {
        f.debug_struct("Wakes").finish_non_exhaustive()
    }
}

impl Wakes {
    pub(super) const fn is_empty(&self) -> bool {
        self.first.is_none() && self.rest.is_none()
    }

    pub(super) fn push(&mut self, waker: Waker) {
        match self.first {
            None => self.first = Some(waker),
            Some(_) => self.rest().wakers.push(waker),
        }
    }

    pub(super) fn call(&mut self, call: Call) {
        self.rest().calls.push(call);
    }

    /// Writes the lines that wait in that log. It is the log of one connection, so there is only one.
    pub(super) fn log(&mut self, log: Log) {
        self.rest().log = log;
    }

    pub(super) fn bury(&mut self, buried: Box<dyn Any + Send>) {
        self.rest().buried.push(buried);
    }

    fn rest(&mut self) -> &mut Rest {
        self.rest.get_or_insert_default()
    }

    /// Leaves nothing behind. Kept out of line: each use of the lock ends with the question whether there is anybody to wake.
    #[inline(never)]
    pub(super) fn wake(&mut self) {
        // First: a task that learns of the end may end the process, and the last line would be missing.
        if let Some(rest) = &self.rest {
            rest.log.write();
        }
        if let Some(first) = self.first.take() {
            contained(|| first.wake());
        }
        if let Some(rest) = self.rest.take() {
            (*rest).wake();
        }
    }
}

impl Rest {
    #[cold]
    fn wake(self) {
        let Self { wakers, calls, buried, log: _ } = self;
        wakers.into_iter().for_each(|waker| contained(|| waker.wake()));
        calls.into_iter().for_each(contained);
        buried.into_iter().for_each(|buried| contained(|| drop(buried)));
    }
}
