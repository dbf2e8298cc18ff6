//! Takes replies from their consumer to the calls that wait for them.

use std::collections::BTreeMap;
use std::hash::{BuildHasher as _, RandomState};
use std::panic::{AssertUnwindSafe, catch_unwind};
use std::pin::Pin;
use std::sync::{Arc, Mutex, MutexGuard, PoisonError, Weak};
use std::task::{Context, Poll, Wake, Waker};

use amqp_client_core::{ChannelEvent, ChannelEvents, Consumer, ConsumerEnd, Delivery, proto};
use futures_core::Stream;

use super::turns::Turns;

/// The replies of a client, and the calls that wait for them.
///
/// There is no task for it. Whoever wakes the consumer of the replies runs the dispatcher: the driver of the connection, once it
/// has released its lock. The waker holds a `Weak`, so it does not keep the client open.
pub(super) struct Dispatcher {
    source: Mutex<Source>,
    turns: Turns,
    calls: Mutex<Calls>,
    /// The prefix of all correlation ids of this client. It is random: a reply to an earlier program, on a queue that both use,
    /// is not taken for a reply to this one.
    prefix: String,
    /// True if a reply cannot arrive any more once the connection was lost: replies come directly, through no queue.
    direct: bool,
}

/// The consumer of the replies. Only the thread whose turn it is uses it.
struct Source {
    replies: Consumer,
    events: ChannelEvents,
    /// The dispatcher as a waker.
    waker: Waker,
}

#[derive(Default)]
struct Calls {
    last: u64,
    /// The calls, by number: so they fail in the order in which they were made.
    waiting: BTreeMap<u64, Waiting>,
    /// Number of interruptions of the channel so far.
    interruptions: u64,
    interrupted_by: Option<ConsumerEnd>,
    /// True if the channel is interrupted, and not restored yet.
    interrupted: bool,
    /// Set once no more replies will come.
    ended: Option<ConsumerEnd>,
    late: u64,
}

/// A call that waits for its reply.
#[derive(Default)]
struct Waiting {
    /// The interruptions before the request was sent; `None` while it is not sent.
    sent_after: Option<u64>,
    outcome: Option<Result<proto::Delivery, ConsumerEnd>>,
    waker: Option<Waker>,
}

/// The replies that arrived in one turn.
#[derive(Default)]
struct Arrived {
    replies: Vec<Delivery>,
    interrupted: Option<ConsumerEnd>,
    /// True if the channel was restored, after the interruption if there was one.
    restored: bool,
    end: Option<ConsumerEnd>,
}

/// The dispatcher as a waker.
struct Run(Weak<Dispatcher>);

impl Wake for Run {
    fn wake(self: Arc<Self>) {
        self.wake_by_ref();
    }

    fn wake_by_ref(self: &Arc<Self>) {
        if let Some(dispatcher) = self.0.upgrade() {
            dispatcher.run();
        }
    }
}

impl Dispatcher {
    pub(super) fn new(replies: Consumer, direct: bool) -> Arc<Self> {
        let events = replies.channel().events();
        let prefix = format!("{:016x}-", RandomState::new().hash_one(()));
        let dispatcher = Arc::new_cyclic(|own| {
            let waker = Waker::from(Arc::new(Run(own.clone())));
            let source = Mutex::new(Source { replies, events, waker });
            Self { source, turns: Turns::default(), calls: Mutex::default(), prefix, direct }
        });
        // From now on, a reply wakes the dispatcher.
        dispatcher.run();
        dispatcher
    }

    /// Takes everything that has arrived, unless another thread is at it: that one then looks once more.
    pub(super) fn run(&self) {
        self.turns.run(|| {
            let wakers = self.dispatch();
            for waker in wakers {
                // A waker that panics must not end the turn of the others.
                let _panic = catch_unwind(AssertUnwindSafe(|| waker.wake()));
            }
        });
    }

    /// Returns the wakers of the calls that have an outcome now.
    fn dispatch(&self) -> Vec<Waker> {
        let Arrived { replies, interrupted, restored, end } = lock(&self.source).take_arrived();
        let replies: Vec<_> = replies.into_iter().map(|reply| self.take(reply)).collect();
        let mut wakers = Vec::new();
        let mut calls = lock(&self.calls);
        for (number, message) in replies {
            calls.reply(number, message, &mut wakers);
        }
        if let Some(reason) = interrupted {
            calls.interruptions += 1;
            calls.interrupted_by = Some(reason.clone());
            calls.interrupted = true;
            // A queue keeps the replies, for a consumer that is restored.
            if self.direct {
                calls.lose(&reason, |waiting| waiting.sent_after.is_some(), &mut wakers);
            }
        }
        if restored {
            calls.interrupted = false;
            calls.wake_unsent(&mut wakers);
        }
        if let Some(reason) = end {
            calls.ended = Some(reason.clone());
            calls.lose(&reason, |_| true, &mut wakers);
        }
        wakers
    }

    /// Acknowledges a reply. Returns it with the number of its call.
    fn take(&self, reply: Delivery) -> (Option<u64>, proto::Delivery) {
        let message = proto::Delivery::clone(&reply);
        // If the channel is closed, the broker has requeued the reply.
        let _closed = reply.ack();
        (self.number_of(&message), message)
    }

    fn number_of(&self, reply: &proto::Delivery) -> Option<u64> {
        let id = reply.properties().correlation_id().ok()??;
        let number = id.to_str().ok()?.strip_prefix(&self.prefix)?;
        // `parse` takes a sign.
        number.bytes().all(|byte| byte.is_ascii_digit()).then(|| number.parse().ok())?
    }

    /// Registers a call.
    pub(super) fn register(self: &Arc<Self>) -> Result<Entry, ConsumerEnd> {
        let mut calls = lock(&self.calls);
        if let Some(end) = &calls.ended {
            return Err(end.clone());
        }
        calls.last += 1;
        let number = calls.last;
        calls.waiting.insert(number, Waiting::default());
        Ok(Entry { dispatcher: self.clone(), number })
    }

    pub(super) fn late(&self) -> u64 {
        lock(&self.calls).late
    }

    pub(super) fn waiting(&self) -> usize {
        lock(&self.calls).waiting.len()
    }

    pub(super) fn ended(&self) -> Option<ConsumerEnd> {
        lock(&self.calls).ended.clone()
    }

    /// Returns the number of interruptions of the channel that are known so far.
    pub(super) fn interruptions(&self) -> u64 {
        lock(&self.calls).interruptions
    }
}

impl Source {
    fn take_arrived(&mut self) -> Arrived {
        let Self { replies, events, waker } = self;
        let mut cx = Context::from_waker(waker);
        let mut arrived = Arrived::default();
        // Events first: a reply that arrived before a loss is then among the replies.
        while let Poll::Ready(Some(event)) = Pin::new(&mut *events).poll_next(&mut cx) {
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
            match Pin::new(&mut *replies).poll_next(&mut cx) {
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

impl Calls {
    fn reply(&mut self, number: Option<u64>, message: proto::Delivery, wakers: &mut Vec<Waker>) {
        let waiting = number.and_then(|number| self.waiting.get_mut(&number));
        match waiting {
            // A second reply, as after a request that was sent twice, is late as well.
            Some(waiting) if waiting.outcome.is_none() => waiting.resolve(Ok(message), wakers),
            _ => self.late += 1,
        }
    }

    fn lose(
        &mut self,
        reason: &ConsumerEnd,
        which: impl Fn(&Waiting) -> bool,
        wakers: &mut Vec<Waker>,
    ) {
        for waiting in self.waiting.values_mut() {
            if waiting.outcome.is_none() && which(waiting) {
                waiting.resolve(Err(reason.clone()), wakers);
            }
        }
    }

    /// Returns whether requests have to wait until the channel is restored.
    fn is_interrupted(&self) -> bool {
        self.interrupted && self.ended.is_none()
    }

    /// Wakes the calls that wait for the channel, in the order in which they were made.
    fn wake_unsent(&mut self, wakers: &mut Vec<Waker>) {
        let unsent = self.waiting.values_mut().filter(|waiting| waiting.sent_after.is_none());
        wakers.extend(unsent.filter_map(|waiting| waiting.waker.take()));
    }
}

impl Waiting {
    fn resolve(&mut self, outcome: Result<proto::Delivery, ConsumerEnd>, wakers: &mut Vec<Waker>) {
        self.outcome = Some(outcome);
        wakers.extend(self.waker.take());
    }
}

/// A registered call. Dropping it forgets the call.
pub(super) struct Entry {
    dispatcher: Arc<Dispatcher>,
    number: u64,
}

impl Entry {
    pub(super) fn correlation_id(&self) -> String {
        format!("{}{}", self.dispatcher.prefix, self.number)
    }

    /// The request was sent, after that many interruptions at least.
    pub(super) fn sent(&self, interruptions: u64) {
        let mut calls = lock(&self.dispatcher.calls);
        // The channel was interrupted since, so the request may have been sent before.
        let lost = (self.dispatcher.direct && calls.interruptions > interruptions)
            .then(|| calls.interrupted_by.clone())
            .flatten();
        let Some(waiting) = calls.waiting.get_mut(&self.number) else { return };
        waiting.sent_after = Some(interruptions);
        if waiting.outcome.is_none() {
            waiting.outcome = lost.map(Err);
        }
    }

    /// The request will be sent again.
    pub(super) fn send_again(&self) {
        let mut calls = lock(&self.dispatcher.calls);
        if let Some(waiting) = calls.waiting.get_mut(&self.number) {
            waiting.sent_after = None;
        }
    }

    /// Is ready unless the channel is interrupted, and not restored yet.
    pub(super) fn poll_restored(&self, cx: &Context<'_>) -> Poll<()> {
        if !lock(&self.dispatcher.calls).is_interrupted() {
            return Poll::Ready(());
        }
        // Cloning and dropping a waker may run any code, so both happen without the lock.
        let mut waker = Some(cx.waker().clone());
        let mut calls = lock(&self.dispatcher.calls);
        if !calls.is_interrupted() {
            return Poll::Ready(());
        }
        if let Some(waiting) = calls.waiting.get_mut(&self.number) {
            std::mem::swap(&mut waiting.waker, &mut waker);
        }
        drop(calls);
        Poll::Pending
    }

    /// Is ready with the reply, or with the reason why there will be none.
    pub(super) fn poll(&self, cx: &Context<'_>) -> Poll<Result<proto::Delivery, ConsumerEnd>> {
        // Cloning and dropping a waker may run any code, so both happen without the lock.
        let mut waker = Some(cx.waker().clone());
        let mut calls = lock(&self.dispatcher.calls);
        let Some(waiting) = calls.waiting.get_mut(&self.number) else { return Poll::Pending };
        let outcome = waiting.outcome.take();
        if outcome.is_none() {
            std::mem::swap(&mut waiting.waker, &mut waker);
        }
        drop(calls);
        outcome.map_or(Poll::Pending, Poll::Ready)
    }
}

impl Drop for Entry {
    fn drop(&mut self) {
        let forgotten = lock(&self.dispatcher.calls).waiting.remove(&self.number);
        // Its waker and its reply are dropped without the lock.
        drop(forgotten);
    }
}

fn lock<T>(mutex: &Mutex<T>) -> MutexGuard<'_, T> {
    // Nothing in here panics halfway; and if it did, other calls would still have to get their replies.
    mutex.lock().unwrap_or_else(PoisonError::into_inner)
}
