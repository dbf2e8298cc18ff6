use std::fmt;
use std::future::Future;
use std::pin::Pin;
use std::task::{Context, Poll};
use std::time::Duration;

use amqp_proto::method::{FromReply, Request};
use amqp_proto::session::SessionChannel;
use amqp_proto::{CommandError, GetReply, Misuse, RequestId};

use crate::channel::Channel;
use crate::error::CallError;
use crate::state::{ChannelState, DeadlineId, Guard, PendingReply, Task};

/// A future that resolves to the reply to a request.
///
/// The request is queued as soon as the method that returns this future is called. So requests can be pipelined: call several
/// methods, then await their replies, and all of them cost one round trip.
///
/// ```no_run
/// # use amqp_client_core as amqp_client_tokio;
/// # use amqp_client_tokio::Channel;
/// use std::time::Duration;
///
/// use amqp_client_tokio::QueueOptions;
///
/// # async fn example(channel: Channel) -> Result<(), Box<dyn std::error::Error>> {
/// // Two requests, one round trip.
/// let first = channel.queue_declare("first", QueueOptions::new());
/// let second = channel.queue_declare("second", QueueOptions::new()).timeout(Duration::from_secs(5));
/// let (first, second) = (first.await?, second.await?);
/// # Ok(())
/// # }
/// ```
///
/// # Errors
/// [`CallError`]. A request that the broker refuses closes the channel, and the error carries the reason.
///
/// # Cancel safety
/// Dropping the future does not cancel the request. Its reply is discarded when it arrives, and its effect is undone: a consumer is
/// cancelled, a message is requeued. The channel stays usable.
#[must_use = "the request is sent; await the reply to learn whether it failed"]
pub struct Reply<T> {
    step: ReplyState<T>,
}

enum ReplyState<T> {
    /// No request was sent, for example because that failed.
    Ready(Option<Result<T, CallError>>),
    Sent(Option<Sent<T>>),
}

struct Sent<T> {
    request: Sending,
    convert: Box<Convert<T>>,
}

/// Converts a reply to the result.
type Convert<T> = dyn FnOnce(&Sending, amqp_proto::Reply) -> Result<T, CallError> + Send;

/// A pending request, for functions that convert its reply.
pub(crate) struct Sending {
    pub(crate) channel: Channel,
    pub(crate) id: RequestId,
    method: &'static str,
    deadline: Option<DeadlineId>,
    timeout: Option<Duration>,
    /// True if it was polled, so that its wakers are registered.
    polled: bool,
}

impl<T> Reply<T> {
    pub(crate) fn failed(error: CallError) -> Self {
        Self::ready(Err(error))
    }

    pub(crate) const fn ready(result: Result<T, CallError>) -> Self {
        Self { step: ReplyState::Ready(Some(result)) }
    }

    /// Queues a request. `convert` converts its reply to the result. `prepare` runs under the same lock as the sending.
    pub(crate) fn send<R: Request>(
        channel: &Channel,
        request: R,
        prepare: impl FnOnce(&mut crate::state::ChannelState, RequestId),
        convert: impl FnOnce(&Sending, amqp_proto::Reply) -> Result<T, CallError> + Send + 'static,
    ) -> Self {
        Self::send_locked(channel, channel.lock(), request, prepare, convert)
    }

    /// Like `send`, under a lock of the connection that the caller has taken.
    pub(crate) fn send_locked<R: Request>(
        channel: &Channel,
        guard: Guard<'_>,
        request: R,
        prepare: impl FnOnce(&mut crate::state::ChannelState, RequestId),
        convert: impl FnOnce(&Sending, amqp_proto::Reply) -> Result<T, CallError> + Send + 'static,
    ) -> Self {
        if request.is_no_wait() {
            return Self::failed(Misuse::HasNoReply(R::NAME).into());
        }
        let send = |protocol: &mut SessionChannel<'_>| protocol.request(request);
        Self::send_by(channel, guard, R::NAME, send, prepare, convert)
    }

    /// Like `send_locked`. `send` queues the request, whose method has that name.
    pub(crate) fn send_by(
        channel: &Channel,
        guard: Guard<'_>,
        method: &'static str,
        send: impl FnOnce(&mut SessionChannel<'_>) -> Result<RequestId, CommandError>,
        prepare: impl FnOnce(&mut crate::state::ChannelState, RequestId),
        convert: impl FnOnce(&Sending, amqp_proto::Reply) -> Result<T, CallError> + Send + 'static,
    ) -> Self {
        match Sending::start(channel, guard, method, send, prepare) {
            Ok(request) => {
                Self { step: ReplyState::Sent(Some(Sent { request, convert: Box::new(convert) })) }
            }
            Err(error) => Self::failed(error),
        }
    }

    /// Sets the timeout for this request, instead of the [`call_timeout`](crate::Settings::call_timeout). It starts now, or when
    /// the request [is written](crate::Settings#timeouts-on-slow-links).
    pub fn timeout(mut self, timeout: Duration) -> Self {
        if let ReplyState::Sent(Some(sent)) = &mut self.step {
            let request = &mut sent.request;
            let mut guard = request.channel.lock();
            let state = &mut *guard;
            let waker = state.deadlines.stop(request.deadline);
            let counts = state.behind_queued(Some(request.channel.place()));
            request.deadline = state.deadlines.start(Some(timeout), counts);
            state.wake_driver();
            drop(guard);
            drop(waker);
            request.timeout = Some(timeout);
        }
        self
    }
}

impl Sending {
    fn start(
        channel: &Channel,
        mut guard: Guard<'_>,
        method: &'static str,
        send: impl FnOnce(&mut SessionChannel<'_>) -> Result<RequestId, CommandError>,
        prepare: impl FnOnce(&mut crate::state::ChannelState, RequestId),
    ) -> Result<Self, CallError> {
        let state = &mut *guard;
        let id = channel.count_request(state, send)?;
        if let Some(waiting) = state.channel(channel.place()) {
            let is_first = waiting.requests.started(id);
            prepare(waiting, id);
            if is_first {
                state.time_later(channel.place());
            }
        }
        let timeout = channel.connection().shared().settings.call_timeout;
        let counts = state.behind_queued(Some(channel.place()));
        let deadline = state.deadlines.start(timeout, counts);
        state.wake_driver();
        drop(guard);
        Ok(Self { channel: channel.clone(), id, method, deadline, timeout, polled: false })
    }

    fn poll(&mut self, cx: &Context<'_>) -> Poll<Result<amqp_proto::Reply, CallError>> {
        let task = match std::mem::replace(&mut self.polled, true) {
            false => Task::stocked(cx.waker()),
            true => Task::new(cx.waker()),
        };
        self.channel.connection().shared().poll_as(task, |state, task| {
            if let Some(waiting) = state.channel(self.channel.place()) {
                if let Poll::Ready(answer) = waiting.requests.poll(self.id, task) {
                    return Poll::Ready(answer);
                }
            }
            if state.deadlines.expired(self.deadline, task) {
                if let Some(waiting) = state.channel(self.channel.place()) {
                    waiting.requests.failed += 1;
                }
                let after = self.timeout.unwrap_or_default();
                return Poll::Ready(Err(CallError::TimedOut { method: self.method, after }));
            }
            Poll::Pending
        })
    }
}

impl Drop for Sending {
    /// Abandons the request: a reply that arrives later is discarded and its effect undone.
    fn drop(&mut self) {
        // Declared before the lock is taken, and so dropped after its release: dropping a waker may run the user's code.
        let (_waker, mut forgotten);
        let mut guard = self.channel.lock();
        let state = &mut *guard;
        _waker = state.deadlines.stop(self.deadline);
        forgotten = state
            .channel(self.channel.place())
            .and_then(|waiting| waiting.requests.forget(self.id));
        match &mut forgotten {
            // The reply has arrived and was taken: there is nothing to undo.
            None => return,
            Some(PendingReply::Waiting(_)) => {
                if let Ok(mut protocol) = self.channel.protocol(state) {
                    protocol.abandon(self.id);
                }
                state.drop_queue(self.channel.place(), self.id.into());
            }
            Some(PendingReply::Done(answer)) => {
                state.drop_queue(self.channel.place(), self.id.into());
                match &**answer {
                    Ok(amqp_proto::Reply::Message(GetReply::Message { delivery, .. })) => {
                        self.channel.give_back(state, delivery);
                    }
                    Ok(amqp_proto::Reply::Message(GetReply::Unusable { delivery_tag, .. })) => {
                        self.channel.give_back_tag(state, *delivery_tag);
                    }
                    _ => {}
                }
            }
        }
        state.wake_driver();
    }
}

// A result is moved out, never pinned.
impl<T> Unpin for Reply<T> {}

impl<T> Future for Reply<T> {
    type Output = Result<T, CallError>;

    fn poll(mut self: Pin<&mut Self>, cx: &mut Context<'_>) -> Poll<Self::Output> {
        match &mut self.step {
            ReplyState::Ready(result) => result.take().map_or(Poll::Pending, Poll::Ready),
            ReplyState::Sent(slot) => {
                let Some(sent) = slot else {
                    return Poll::Pending;
                };
                let answer = match sent.request.poll(cx) {
                    Poll::Pending => return Poll::Pending,
                    Poll::Ready(answer) => answer,
                };
                let Some(Sent { request, convert }) = slot.take() else {
                    return Poll::Pending;
                };
                let result = answer.and_then(|answer| convert(&request, answer));
                Poll::Ready(result)
            }
        }
    }
}

/// Converts a reply to its type.
pub(crate) fn typed<R: Request>(
    _: &Sending,
    reply: amqp_proto::Reply,
) -> Result<R::Reply, CallError> {
    let typed = R::Reply::from_reply(reply);
    debug_assert!(typed.is_some(), "the protocol has matched the reply to the request");
    typed.ok_or_else(|| ChannelState::lost_reason().into())
}

impl<T> fmt::Debug for Reply<T> {
    fn fmt(&self, f: &mut fmt::Formatter<'_>) -> fmt::Result {
        let method = match &self.step {
            ReplyState::Sent(Some(sent)) => sent.request.method,
            _ => "nothing",
        };
        f.debug_struct("Reply").field("to", &method).finish_non_exhaustive()
    }
}
