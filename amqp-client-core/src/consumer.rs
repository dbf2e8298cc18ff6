use std::collections::VecDeque;
use std::fmt;
use std::future::{Future, poll_fn};
use std::panic::{AssertUnwindSafe, catch_unwind, resume_unwind};
use std::pin::Pin;
use std::task::{Context, Poll};

use amqp_proto::method::BasicCancel;
use amqp_proto::{ConsumerId, ShortStr};
use futures_core::Stream;
use futures_util::FutureExt as _;
use futures_util::stream::{FuturesUnordered, StreamExt as _};

use crate::channel::Channel;
use crate::config::READ_PAUSE_EVERY;
use crate::delivery::{Delivery, OnPanic};
use crate::error::ConsumerEnd;
use crate::event::ChannelEvent;
use crate::intercept::{ProcessingId, Source};
use crate::panics;
use crate::reply::Reply;
use crate::state::{End, Starvation, StarvationWatch, State};

/// A consumer: the deliveries of a queue, as a [`Stream`].
///
/// The stream yields deliveries until the consumer is [cancelled](Self::cancel), and then ends without an error. If the broker
/// cancels the consumer or the channel is closed, the last item is the error. When the connection is lost and recovered, the
/// consumer is restored, and the stream continues.
///
/// Dropping the consumer cancels it and requeues the deliveries that were not taken.
///
/// # Handlers that block
/// A separate task drives the connection. On an async runtime, that task may have to wait for the thread on which the
/// application handles a delivery, even while other threads are idle: tokio runs a task that was just woken on the thread that
/// woke it. So a handler that computes or blocks for 10 ms delays acknowledgements and heartbeats by 10 ms, but no longer:
/// [`next`](Self::next), the [`Stream`] and [`for_each_concurrent`](Self::for_each_concurrent) yield to the driver between
/// deliveries. They cannot do so within a handler.
///
/// Run work that takes longer than a fraction of the heartbeat elsewhere: in tokio's `spawn_blocking` or `block_in_place`, in
/// smol's `unblock`, or on your own thread. You can move a [`Delivery`] there and acknowledge it there. On threads
/// (`amqp-client-blocking`), no such care is needed: a helper thread drives the connection while handlers block.
///
/// # Consumers that lag
/// Without a prefetch limit ([`ConsumeOptions::prefetch`](crate::ConsumeOptions::prefetch)), the broker sends everything the queue
/// has. When consumers leave more than the connection's [`delivery_budget`](crate::Settings::delivery_budget) untaken, the client
/// stops reading and reports the consumer that holds most: [`ChannelEvent::ConsumerLags`]. If that consumer takes nothing for
/// another second while others wait, it is paused ([`ChannelEvent::ConsumerPaused`]): the client cancels it and requeues its newest
/// deliveries. The consumer keeps its share of the budget, and at least one delivery. The stream does not end. Once the application
/// has taken these deliveries, the client starts the consumer again; the broker's tools show it with a number in front of its tag.
/// The requeued messages are delivered again, marked as redelivered.
///
/// A consumer that has ended cannot be paused. If the application does not take what it still holds, its newest deliveries are
/// requeued as if it were paused.
///
/// While a consumer is paused, the broker does not list it. Consumers that would lose something by a pause are never paused:
///
/// - exclusive consumers,
/// - consumers without acknowledgements, on a transactional channel, or of a stream,
/// - consumers of a queue with a single active consumer, or of a queue that is deleted when unused (auto-delete, `x-expires`).
///
/// Such consumers can still stop all reading from the connection. The client knows the arguments of queues that it declared
/// itself. Use [`pausable`](crate::ConsumeOptions::pausable) for other queues, and to forbid pauses where a policy lets queues
/// expire. Up to RabbitMQ 4.2, quorum queues count each requeue against their delivery limit. A prefetch limit avoids all of
/// this.
///
/// ```no_run
/// # use amqp_client_core::Consumer;
/// # async fn example(mut consumer: Consumer) -> Result<(), Box<dyn std::error::Error>> {
/// while let Some(delivery) = consumer.next().await {
///     let delivery = delivery?;
///     println!("{}: {} bytes", delivery.routing_key(), delivery.body().len());
///     delivery.ack()?;
/// }
/// # Ok(())
/// # }
/// ```
#[must_use = "a consumer that is dropped is cancelled"]
pub struct Consumer {
    channel: Channel,
    id: ConsumerId,
    tag: ShortStr,
    /// Deliveries taken from the channel all at once, to be returned one by one without its lock.
    taken: VecDeque<amqp_proto::Delivery>,
    on_panic: OnPanic,
    starvation: StarvationWatch,
    /// The queue, if there is an interceptor to be told.
    queue: Option<ShortStr>,
}

impl Consumer {
    pub(crate) fn new(
        channel: Channel,
        id: ConsumerId,
        tag: ShortStr,
        queue: Option<ShortStr>,
    ) -> Self {
        let (taken, on_panic) = (VecDeque::new(), OnPanic::Propagate);
        let starvation = StarvationWatch::default();
        Self { channel, id, tag, taken, on_panic, starvation, queue }
    }

    /// Sets what happens to a delivery whose handler panics. Default [`OnPanic::Propagate`].
    ///
    /// Applies to handlers that are run by [`for_each_concurrent`](Self::for_each_concurrent) or, without a runtime, by
    /// `Callbacks`. A panic that is caught is reported as [`ChannelEvent::HandlerPanicked`](crate::ChannelEvent).
    pub fn on_panic(mut self, on_panic: OnPanic) -> Self {
        self.on_panic = on_panic;
        self
    }

    /// Runs a function that may panic, under the consumer's panic policy. Returns `None` if a panic was caught.
    #[doc(hidden)]
    pub fn contain<T>(&self, run: impl FnOnce() -> T) -> Option<T> {
        if self.on_panic == OnPanic::Propagate {
            return Some(run());
        }
        self.contained(catch_unwind(AssertUnwindSafe(run)), || {})
    }

    /// Calls `before` if the panic is not contained: deliveries that are dropped while it unwinds count as failed.
    fn contained<T>(&self, result: std::thread::Result<T>, before: impl FnOnce()) -> Option<T> {
        let panic = match result {
            Ok(value) => return Some(value),
            Err(panic) if self.on_panic == OnPanic::Propagate => {
                before();
                resume_unwind(panic)
            }
            Err(panic) => panic,
        };
        let text = panics::text(&*panic).unwrap_or("panicked").to_owned();
        let event = ChannelEvent::HandlerPanicked { consumer_tag: self.tag.clone(), text };
        self.channel.emit(&event);
        None
    }

    /// Returns the consumer tag: its name within the channel.
    #[must_use]
    pub const fn tag(&self) -> &ShortStr {
        &self.tag
    }

    /// Returns the consumer's channel.
    #[must_use]
    pub fn channel(&self) -> &Channel {
        &self.channel
    }

    /// Waits for the next delivery. Returns `None` once the consumer is cancelled. An error is returned once, as the last item.
    ///
    /// A task that always finds a delivery yields now and then, and after each delivery that it handled for more than a
    /// millisecond: see [handlers that block](Self#handlers-that-block). [`try_next`](Self::try_next) never yields.
    ///
    /// # Cancel safety
    /// Dropping the future loses nothing.
    pub async fn next(&mut self) -> Option<Result<Delivery, ConsumerEnd>> {
        poll_fn(|cx| self.poll_delivery(cx)).await
    }

    /// Returns a delivery that has already arrived, without waiting.
    pub fn try_next(&mut self) -> Option<Delivery> {
        if self.taken.is_empty() {
            let Self { channel, id, taken, .. } = self;
            take_arrived(channel, &mut channel.lock(), *id, taken);
        }
        self.hand_out()
    }

    /// Cancels the consumer (`basic.cancel`). Deliveries that arrive before the broker confirms the cancel can still be taken and
    /// settled. Then the stream ends.
    ///
    /// The stream also ends if the reply is not awaited, or is an error: the request timed out, was lost with the connection, or the
    /// broker has cancelled the consumer by itself. A cancelled consumer is not restored after a loss.
    ///
    /// If the consumer has ended, nothing is sent: another consumer may have its tag by now.
    ///
    /// # Cancel safety
    /// The cancel is queued when this method returns. If the future is dropped, the stream ends after the deliveries that have
    /// arrived, and later ones are requeued.
    pub fn cancel(&self) -> Reply<()> {
        let mut guard = self.channel.lock();
        let ended = guard.channel(self.channel.place()).is_some_and(|channel| {
            // Requests on a channel that has ended fail with the reason for that.
            channel.ended.is_none()
                && channel.queues.get(self.id).is_none_or(|queue| queue.end.is_some())
        });
        if ended {
            return Reply::ready(Ok(()));
        }
        let cancel = BasicCancel { consumer_tag: self.tag.clone(), no_wait: false };
        Reply::send_locked(&self.channel, guard, cancel, |_, _| {}, |_, _| Ok(()))
    }

    /// Calls `handler` for every delivery and runs up to `limit` of the returned futures at a time (0 is no limit). Returns once the
    /// consumer is cancelled and all handlers are done. The handlers run in the task that awaits this future; spawn tasks in the
    /// handler to use more threads.
    ///
    /// # Errors
    /// The reason why the consumer ended, if it was not cancelled. Running handlers are finished first.
    ///
    /// # Cancel safety
    /// Dropping the future drops the running handlers. Deliveries that they have not settled are requeued.
    pub async fn for_each_concurrent<F>(
        mut self,
        limit: usize,
        mut handler: impl FnMut(Delivery) -> F,
    ) -> Result<(), ConsumerEnd>
    where
        F: Future<Output = ()>,
    {
        let mut handlers = Handlers(FuturesUnordered::new());
        let mut end = None;
        poll_fn(move |cx| {
            let Handlers(running) = &mut handlers;
            loop {
                while let Poll::Ready(Some(done)) = running.poll_next_unpin(cx) {
                    self.contained(done, || running.clear());
                    if self.starvation.count_step() && self.yields(cx) {
                        return Poll::Pending;
                    }
                }
                let room = limit == 0 || running.len() < limit;
                if !room {
                    return Poll::Pending;
                }
                if let Some(result) = &mut end {
                    return match running.is_empty() {
                        true => Poll::Ready(std::mem::replace(result, Ok(()))),
                        false => Poll::Pending,
                    };
                }
                match self.poll_delivery(cx) {
                    Poll::Ready(Some(Ok(delivery))) => {
                        let scope = delivery.scope();
                        let handle = || scope.run(|| handler(delivery));
                        let made = catch_unwind(AssertUnwindSafe(handle));
                        if let Some(future) = self.contained(made, || running.clear()) {
                            running.push(AssertUnwindSafe(scope.wrap(future)).catch_unwind());
                        }
                    }
                    Poll::Ready(Some(Err(why))) => end = Some(Err(why)),
                    Poll::Ready(None) => end = Some(Ok(())),
                    Poll::Pending => return Poll::Pending,
                }
            }
        })
        .await
    }

    fn poll_delivery(&mut self, cx: &Context<'_>) -> Poll<Option<Result<Delivery, ConsumerEnd>>> {
        if self.starvation.count_step() && self.yields(cx) {
            return Poll::Pending;
        }
        if let Some(delivery) = self.hand_out() {
            return Poll::Ready(Some(Ok(delivery)));
        }
        match self.poll_arrived(cx) {
            Poll::Pending => return Poll::Pending,
            Poll::Ready(Arrived::End(why)) => return Poll::Ready(why.map(Err)),
            Poll::Ready(Arrived::Taken) => {}
        }
        if let Some(delivery) = self.hand_out() {
            return Poll::Ready(Some(Ok(delivery)));
        }
        // The deliveries were requeued meanwhile, or the consumer was paused.
        cx.waker().wake_by_ref();
        Poll::Pending
    }

    /// Takes the deliveries that have arrived, or finds that the consumer has ended.
    fn poll_arrived(&mut self, cx: &Context<'_>) -> Poll<Arrived> {
        let Self { channel, id, taken, .. } = self;
        channel.connection().shared().poll(cx, |state, task| {
            let found = state.channel(channel.place()).and_then(|state| state.queues.get(*id));
            let Some(queue) = found else {
                return Poll::Ready(Arrived::End(None));
            };
            // A paused consumer that holds nothing has to request more deliveries: `take_arrived` resumes it.
            if !queue.deliveries.is_empty() || queue.paused {
                take_arrived(channel, state, *id, taken);
                return Poll::Ready(Arrived::Taken);
            }
            let Some(end) = &mut queue.end else {
                task.register(&mut queue.waker);
                return Poll::Pending;
            };
            Poll::Ready(Arrived::End(match std::mem::replace(end, End::Told) {
                End::Unasked(why) => Some(why),
                End::Cancelled | End::Told => None,
            }))
        })
    }

    /// Returns whether the task has to yield, so that the driver can run on the same thread.
    #[cold]
    fn yields(&mut self, cx: &Context<'_>) -> bool {
        let shared = self.channel.connection().shared();
        let found = self.starvation.check(shared.turns(), shared.time());
        if found == Starvation::None {
            return false;
        }
        if found == Starvation::ByTime {
            // The driver may have only a heartbeat to write, and its timer may not have fired yet: a runtime checks timers when it
            // is idle, or once in dozens of polls.
            self.channel.lock().wake_driver();
        }
        shared.yield_now(cx.waker());
        true
    }

    /// Shows a delivery to the connection's interceptor.
    #[cold]
    #[inline(never)]
    fn observe(&self, queue: &ShortStr, delivery: &amqp_proto::Delivery) -> Option<ProcessingId> {
        let from = Source::Consumer { queue, consumer_tag: &self.tag };
        self.channel.connection().shared().observers.as_ref()?.deliver(delivery, from)
    }

    fn hand_out(&mut self) -> Option<Delivery> {
        loop {
            let message = self.taken.pop_front()?;
            // A stale delivery was requeued by the broker and is delivered again.
            if !self.channel.is_stale(&message) {
                let processing = match &self.queue {
                    None => None,
                    Some(queue) => self.observe(queue, &message),
                };
                return Some(Delivery::new(
                    self.channel.clone(),
                    message,
                    self.on_panic,
                    processing,
                ));
            }
        }
    }
}

impl Stream for Consumer {
    type Item = Result<Delivery, ConsumerEnd>;

    fn poll_next(mut self: Pin<&mut Self>, cx: &mut Context<'_>) -> Poll<Option<Self::Item>> {
        self.poll_delivery(cx)
    }
}

/// The news of a consumer.
enum Arrived {
    /// The deliveries that have arrived are in [`Consumer::taken`], unless they were requeued meanwhile.
    Taken,
    /// The consumer has ended. The reason is missing if it was cancelled, or if the reason was returned before.
    End(Option<ConsumerEnd>),
}

/// Takes the arrived deliveries, by swapping the channel's queue with the empty queue of deliveries taken before. Of many bytes,
/// takes a part: deliveries that wait here do not count against the delivery budget, and are not requeued by a pause.
fn take_arrived(
    channel: &Channel,
    state: &mut State,
    id: ConsumerId,
    taken: &mut VecDeque<amqp_proto::Delivery>,
) {
    let place = channel.place();
    let Some(queue) = state.channel(place).and_then(|channel| channel.queues.get(id)) else {
        return;
    };
    let bytes = queue.take_up_to(READ_PAUSE_EVERY, taken);
    let resumes = queue.deliveries.is_empty() && std::mem::take(&mut queue.paused);
    // The processing time of a delivery ends when it is settled, and a delivery without acknowledgement is never settled.
    state.time_taken(place, taken.front().filter(|first| !first.no_ack()));
    let before = state.delivered_bytes;
    state.delivered_bytes = before.saturating_sub(bytes);
    let budget = channel.connection().shared().settings.delivery_budget;
    if before >= budget.min(READ_PAUSE_EVERY) {
        // The driver may have stopped reading.
        state.wake_driver();
    }
    if resumes {
        state.resume(place, id);
    }
}

/// The running handlers of a consumer. The panic of a handler is caught where the handler is polled. So a panic that drops all of
/// them is none of theirs, and their deliveries are requeued without blame.
struct Handlers<F>(FuturesUnordered<F>);

impl<F> Drop for Handlers<F> {
    fn drop(&mut self) {
        panics::elsewhere(|| self.0.clear());
    }
}

/// For log lines: without the deliveries themselves.
impl fmt::Debug for Consumer {
    fn fmt(&self, f: &mut fmt::Formatter<'_>) -> fmt::Result {
        f.debug_struct("Consumer")
            .field("tag", &self.tag)
            .field("channel", &self.channel)
            .field("taken", &self.taken.len())
            .finish_non_exhaustive()
    }
}

impl Drop for Consumer {
    fn drop(&mut self) {
        let mut state = self.channel.lock();
        state.drop_queue(self.channel.place(), self.id);
        for delivery in &self.taken {
            self.channel.give_back(&mut state, delivery);
        }
    }
}
