use std::sync::Arc;
use std::task::{Context, Poll};
use std::time::Duration;

use super::{Counts, DeadlineId};
use crate::config::Settings;
use crate::error::CallError;
use crate::state::{Guard, Shared, Task};

/// A deadline of something that waits. Dropping this removes the deadline.
#[derive(Debug)]
pub(crate) struct Deadline {
    shared: Arc<Shared>,
    id: Option<DeadlineId>,
    after: Option<Duration>,
}

impl Deadline {
    /// Starts the configured deadline of something that is queued, or that waits for what is queued. Takes the lock under which
    /// it is started, and wakes the driver through it.
    pub(crate) fn start(
        shared: &Arc<Shared>,
        guard: Guard<'_>,
        channel: Option<u32>,
        after: impl FnOnce(&Settings) -> Option<Duration>,
    ) -> Self {
        let counts = guard.behind_queued(channel);
        Self::start_as(shared, guard, after(&shared.settings), counts)
    }

    /// Starts a deadline of a given length. `counts` determines which part of the wait counts.
    pub(crate) fn start_as(
        shared: &Arc<Shared>,
        mut guard: Guard<'_>,
        after: Option<Duration>,
        counts: Counts,
    ) -> Self {
        let id = guard.deadlines.start(after, counts);
        guard.wake_driver();
        drop(guard);
        Self { shared: shared.clone(), id, after }
    }

    /// Returns whether the deadline has passed. If not, the task is woken when it does.
    pub(crate) fn expired(&self, cx: &Context<'_>) -> bool {
        self.expired_as(Task::new(cx.waker()))
    }

    /// The same, for a task that may have spare clones of its waker.
    pub(crate) fn expired_as(&self, task: Task<'_>) -> bool {
        let polled =
            self.shared.poll_as(task, |state, task| match state.deadlines.expired(self.id, task) {
                true => Poll::Ready(()),
                false => Poll::Pending,
            });
        polled.is_ready()
    }

    /// Returns the timeout.
    pub(crate) fn after(&self) -> Duration {
        self.after.unwrap_or_default()
    }

    /// Returns the error of a request without a reply by then.
    pub(crate) fn timed_out(&self, method: &'static str) -> CallError {
        CallError::TimedOut { method, after: self.after() }
    }
}

impl Drop for Deadline {
    fn drop(&mut self) {
        if self.id.is_some() {
            let _waker = self.shared.lock().deadlines.stop(self.id);
        }
    }
}
