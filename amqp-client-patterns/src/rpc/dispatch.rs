//! Takes replies from their consumer to the calls that wait for them.

use std::panic::{AssertUnwindSafe, catch_unwind};
use std::pin::Pin;
use std::sync::{Arc, Weak};
use std::task::{Context, Poll, Wake, Waker};

use amqp_client_core::{ChannelEvent, ChannelEvents, Consumer, ConsumerEnd, ShortStr, proto};
use futures_core::Stream;

use super::calls::{Arrived, Calls};
use super::sync::{Mutex, lock};
use super::turns::Turns;

/// Takes the replies of a client to its calls.
///
/// There is no task for it. Whoever wakes the consumer of the replies runs the dispatcher: the driver of the connection, once it
/// has released its lock. The waker holds a `Weak`, so it does not keep the client open.
pub(super) struct Dispatcher<S: Source = Replies> {
    /// Only the thread whose turn it is uses it.
    source: Mutex<S>,
    turns: Turns,
    calls: Arc<Calls<S::Reply>>,
    /// The dispatcher as a waker.
    waker: Waker,
}

/// Where replies come from, and what happens to their channel.
pub(super) trait Source: Send + 'static {
    type Reply: Send + 'static;

    fn poll_event(&mut self, cx: &mut Context<'_>) -> Poll<Option<ChannelEvent>>;

    /// Is ready with a reply and its correlation id, or with the reason why no more will come.
    fn poll_reply(&mut self, cx: &mut Context<'_>) -> Poll<Option<ReplyOrEnd<Self::Reply>>>;
}

pub(super) type ReplyOrEnd<R> = Result<(Option<ShortStr>, R), ConsumerEnd>;

/// The consumer of the replies.
pub(super) struct Replies {
    consumer: Consumer,
    events: ChannelEvents,
}

/// The dispatcher as a waker.
struct Run<S: Source>(Weak<Dispatcher<S>>);

impl<S: Source> Wake for Run<S> {
    fn wake(self: Arc<Self>) {
        self.wake_by_ref();
    }

    fn wake_by_ref(self: &Arc<Self>) {
        if let Some(dispatcher) = self.0.upgrade() {
            dispatcher.run();
        }
    }
}

impl<S: Source> Dispatcher<S> {
    /// `direct` says whether a reply cannot arrive any more once the connection was lost: replies come directly, through no queue.
    pub(super) fn new(source: S, direct: bool) -> Arc<Self> {
        let dispatcher = Arc::new_cyclic(|own| Self {
            source: Mutex::new(source),
            turns: Turns::default(),
            calls: Calls::new(direct),
            waker: Waker::from(Arc::new(Run(Weak::clone(own)))),
        });
        // From now on, a reply wakes the dispatcher.
        dispatcher.run();
        dispatcher
    }

    pub(super) fn calls(&self) -> &Arc<Calls<S::Reply>> {
        &self.calls
    }

    /// Takes everything that has arrived, unless another thread is at it: that one then looks once more.
    pub(super) fn run(&self) {
        self.turns.run(|| {
            let arrived = self.take_arrived();
            for waker in self.calls.handle(arrived) {
                // A waker that panics must not end the turn of the others.
                let _panic = catch_unwind(AssertUnwindSafe(|| waker.wake()));
            }
        });
    }

    fn take_arrived(&self) -> Arrived<S::Reply> {
        let mut source = lock(&self.source);
        let mut cx = Context::from_waker(&self.waker);
        let mut arrived = Arrived::default();
        // Events first: a reply that arrived before a loss is then among the replies.
        while let Poll::Ready(Some(event)) = source.poll_event(&mut cx) {
            match event {
                ChannelEvent::Interrupted(reason) | ChannelEvent::Closed(reason) => {
                    arrived.interrupted = Some(reason.into());
                    arrived.restored = false;
                }
                ChannelEvent::Restored => arrived.restored = true,
                // No event is missed unless the broker returns more requests at once than can be unconfirmed. Then a call
                // that an interruption would end waits for its timeout. No call waits for a restore that was missed.
                ChannelEvent::Missed(_) => arrived.restored = true,
                _ => {}
            }
        }
        loop {
            match source.poll_reply(&mut cx) {
                Poll::Ready(Some(Ok(reply))) => arrived.replies.push(reply),
                Poll::Ready(Some(Err(end))) => {
                    arrived.end = Some(end);
                    return arrived;
                }
                Poll::Ready(None) | Poll::Pending => return arrived,
            }
        }
    }
}

impl Replies {
    pub(super) fn new(consumer: Consumer) -> Self {
        Self { events: consumer.channel().events(), consumer }
    }
}

impl Source for Replies {
    type Reply = proto::Delivery;

    fn poll_event(&mut self, cx: &mut Context<'_>) -> Poll<Option<ChannelEvent>> {
        Pin::new(&mut self.events).poll_next(cx)
    }

    fn poll_reply(&mut self, cx: &mut Context<'_>) -> Poll<Option<ReplyOrEnd<Self::Reply>>> {
        let next = Pin::new(&mut self.consumer).poll_next(cx);
        next.map_ok(|reply| {
            let message = proto::Delivery::clone(&reply);
            // If the channel is closed, the broker has requeued the reply.
            let _closed = reply.ack();
            (message.properties().correlation_id().ok().flatten(), message)
        })
    }
}
