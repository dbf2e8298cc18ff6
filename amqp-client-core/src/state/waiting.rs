use std::task::Poll;

use super::waiters::{On, Task, WaiterId};
use super::{Shared, State};

/// A future's entry among those that wait for the same thing; removed when this is dropped.
#[derive(Debug)]
pub(crate) struct Waiting<'a> {
    shared: &'a Shared,
    on: On,
    id: Option<WaiterId>,
}

impl<'a> Waiting<'a> {
    pub(crate) const fn new(shared: &'a Shared, on: On) -> Self {
        Self { shared, on, id: None }
    }

    /// Registers the task to be woken when that happens.
    pub(crate) fn wait<T>(&mut self, state: &mut State, task: &mut Task<'_>) -> Poll<T> {
        if let Some(waiters) = state.waiters(self.on) {
            waiters.register(&mut self.id, task);
        }
        Poll::Pending
    }
}

impl Drop for Waiting<'_> {
    fn drop(&mut self) {
        let Some(id) = self.id else { return };
        // The lock is released at the end of the statement, before the waker is dropped.
        let _waker = self.shared.lock().waiters(self.on).and_then(|waiters| waiters.remove(id));
    }
}
