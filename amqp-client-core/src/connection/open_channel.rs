use std::future::Future;
use std::pin::Pin;
use std::task::{Context, Poll};
use std::time::Duration;

use crate::channel::Channel;
use crate::connection::Connection;
use crate::error::OpenError;
use crate::state::{DeadlineId, WaiterId};

/// A channel that is being opened; see [`Connection::open_channel`].
#[derive(Debug)]
#[must_use = "the channel closes when the future is dropped"]
pub struct OpenChannel {
    step: Step,
}

#[derive(Debug)]
enum Step {
    Failed(Option<OpenError>),
    Opening {
        channel: Option<Channel>,
        deadline: Option<DeadlineId>,
        after: Duration,
        waiter: Option<WaiterId>,
    },
}

impl OpenChannel {
    /// Gives the broker that long instead of the [`call_timeout`](crate::Settings::call_timeout), counted from now on, or from when the
    /// request [is written](crate::Settings#timeouts-on-slow-links).
    pub fn within(mut self, timeout: Duration) -> Self {
        if let Step::Opening { channel: Some(channel), deadline, after, .. } = &mut self.step {
            // Dropped behind the lock.
            let _waker;
            let mut state = channel.lock();
            _waker = state.deadlines.stop(*deadline);
            let counts = state.behind_queued(Some(channel.place()));
            *deadline = state.deadlines.start(Some(timeout), counts);
            *after = timeout;
            state.wake_driver();
        }
        self
    }

    /// With that number, or one of the client's choice.
    pub(crate) fn new(connection: &Connection, number: Option<u16>) -> Self {
        let mut guard = connection.shared().lock();
        let state = &mut *guard;
        let opened = match number {
            Some(number) => state.proto.open_channel_numbered(number),
            None => state.proto.open_channel(),
        };
        let step = match opened {
            Err(error) => Step::Failed(Some(error.into())),
            Ok(id) => {
                let place = state.add_channel(id);
                let stale = state.channel(place).map(|channel| channel.stale.clone());
                let after = connection.shared().settings.call_timeout;
                let counts = state.behind_queued(Some(place));
                let deadline = state.deadlines.start(after, counts);
                let after = after.unwrap_or_default();
                state.wake_driver();
                drop(guard);
                let channel =
                    Some(Channel::new(connection.clone(), id, place, stale.unwrap_or_default()));
                Step::Opening { channel, deadline, after, waiter: None }
            }
        };
        Self { step }
    }
}

impl Future for OpenChannel {
    type Output = Result<Channel, OpenError>;

    fn poll(mut self: Pin<&mut Self>, cx: &mut Context<'_>) -> Poll<Self::Output> {
        let (slot, deadline, after, waiter) = match &mut self.step {
            Step::Failed(error) => {
                return error.take().map_or(Poll::Pending, |error| Poll::Ready(Err(error)));
            }
            Step::Opening { channel, deadline, after, waiter } => {
                (channel, *deadline, *after, waiter)
            }
        };
        let Some(channel) = slot.as_ref() else {
            return Poll::Pending;
        };
        let opened = channel.connection().shared().poll(cx, |state, task| {
            let expired = state.deadlines.expired(deadline, task);
            let Some(waiting) = state.channel(channel.place()) else {
                return Poll::Pending;
            };
            if let Some(reason) = &waiting.ended {
                return Poll::Ready(Err(reason.clone().into()));
            }
            if waiting.opened {
                return Poll::Ready(Ok(()));
            }
            if expired {
                return Poll::Ready(Err(OpenError::TimedOut { after }));
            }
            waiting.watchers.register(waiter, task);
            Poll::Pending
        });
        match opened {
            Poll::Pending => Poll::Pending,
            Poll::Ready(Err(error)) => Poll::Ready(Err(error)),
            Poll::Ready(Ok(())) => {
                self.leave();
                match &mut self.step {
                    Step::Opening { channel, .. } => {
                        channel.take().map_or(Poll::Pending, |channel| Poll::Ready(Ok(channel)))
                    }
                    Step::Failed(_) => Poll::Pending,
                }
            }
        }
    }
}

impl OpenChannel {
    /// Waits no more. Needs the channel, whose place belongs to another once its handles are gone.
    fn leave(&mut self) {
        let Step::Opening { channel: Some(channel), deadline, waiter, .. } = &mut self.step else {
            return;
        };
        // Dropped behind the lock.
        let (_timer, _watcher);
        let mut guard = channel.lock();
        let state = &mut *guard;
        _timer = state.deadlines.stop(deadline.take());
        _watcher = waiter.take().and_then(|waiter| {
            state.channel(channel.place()).and_then(|waiting| waiting.watchers.remove(waiter))
        });
    }
}

impl Drop for OpenChannel {
    fn drop(&mut self) {
        self.leave();
    }
}
