//! The calls of a client, and their outcomes.

use std::collections::BTreeMap;
use std::future::{Future, poll_fn};
use std::hash::{BuildHasher as _, RandomState};
use std::pin::pin;
use std::sync::Arc;
use std::task::{Context, Poll, Waker, ready};

use amqp_client_core::{ConsumerEnd, ShortStr, proto};
use futures_util::FutureExt as _;

use super::error::{Failed, RpcError};
use super::sync::{Mutex, lock};

/// The calls of a client.
pub(super) struct Calls<R> {
    state: Mutex<State<R>>,
    /// The prefix of all correlation ids of this client. It is random: a reply to an earlier program, on a queue that both use,
    /// is not taken for a reply to this one.
    prefix: String,
    /// True if a reply cannot arrive any more once the connection was lost.
    direct: bool,
}

struct State<R> {
    last: u64,
    /// The calls, by number: so they fail in the order in which they were made.
    waiting: BTreeMap<u64, Waiting<R>>,
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
struct Waiting<R> {
    /// The interruptions before the request was sent; `None` while it is not sent.
    sent_after: Option<u64>,
    outcome: Option<Result<R, ConsumerEnd>>,
    waker: Option<Waker>,
}

/// The events and replies that arrived in one turn of the dispatcher.
pub(super) struct Arrived<R> {
    /// With their correlation ids.
    pub(super) replies: Vec<(Option<ShortStr>, R)>,
    pub(super) interrupted: Option<ConsumerEnd>,
    /// True if the channel was restored, after the interruption if there was one.
    pub(super) restored: bool,
    pub(super) end: Option<ConsumerEnd>,
}

impl<R> Default for Arrived<R> {
    fn default() -> Self {
        Self { replies: Vec::new(), interrupted: None, restored: false, end: None }
    }
}

impl<R> Calls<R> {
    pub(super) fn new(direct: bool) -> Arc<Self> {
        let prefix = format!("{:016x}-", RandomState::new().hash_one(()));
        let state = State {
            last: 0,
            waiting: BTreeMap::new(),
            interruptions: 0,
            interrupted_by: None,
            interrupted: false,
            ended: None,
            late: 0,
        };
        Arc::new(Self { state: Mutex::new(state), prefix, direct })
    }

    /// Registers a call.
    pub(super) fn register(self: &Arc<Self>) -> Result<Entry<R>, ConsumerEnd> {
        let mut state = lock(&self.state);
        if let Some(end) = &state.ended {
            return Err(end.clone());
        }
        state.last += 1;
        let number = state.last;
        state.waiting.insert(number, Waiting { sent_after: None, outcome: None, waker: None });
        Ok(Entry { calls: self.clone(), number })
    }

    /// Hands out what has arrived. Returns the wakers of the calls that have an outcome now, or can be sent.
    pub(super) fn handle(&self, arrived: Arrived<R>) -> Vec<Waker> {
        let Arrived { replies, interrupted, restored, end } = arrived;
        let mut wakers = Vec::new();
        let mut state = lock(&self.state);
        for (correlation_id, reply) in replies {
            let number = correlation_id.and_then(|id| self.number_of(&id));
            state.reply(number, reply, &mut wakers);
        }
        if let Some(reason) = interrupted {
            state.interruptions += 1;
            state.interrupted_by = Some(reason.clone());
            state.interrupted = true;
            // A queue keeps the replies, for a consumer that is restored.
            if self.direct {
                state.lose(&reason, |waiting| waiting.sent_after.is_some(), &mut wakers);
            }
        }
        if restored {
            state.interrupted = false;
            state.wake_unsent(&mut wakers);
        }
        if let Some(reason) = end {
            state.ended = Some(reason.clone());
            state.lose(&reason, |_| true, &mut wakers);
        }
        wakers
    }

    fn number_of(&self, correlation_id: &ShortStr) -> Option<u64> {
        let number = correlation_id.to_str().ok()?.strip_prefix(&self.prefix)?;
        // `parse` takes a sign.
        number.bytes().all(|byte| byte.is_ascii_digit()).then(|| number.parse().ok())?
    }

    pub(super) fn late(&self) -> u64 {
        lock(&self.state).late
    }

    pub(super) fn waiting(&self) -> usize {
        lock(&self.state).waiting.len()
    }

    pub(super) fn ended(&self) -> Option<ConsumerEnd> {
        lock(&self.state).ended.clone()
    }

    /// Returns the number of interruptions of the channel that are known so far.
    fn interruptions(&self) -> u64 {
        lock(&self.state).interruptions
    }
}

impl<R> State<R> {
    fn reply(&mut self, number: Option<u64>, reply: R, wakers: &mut Vec<Waker>) {
        let waiting = number.and_then(|number| self.waiting.get_mut(&number));
        match waiting {
            // A second reply, as after a request that was sent twice, is late as well.
            Some(waiting) if waiting.outcome.is_none() => waiting.resolve(Ok(reply), wakers),
            _ => self.late += 1,
        }
    }

    fn lose(
        &mut self,
        reason: &ConsumerEnd,
        which: impl Fn(&Waiting<R>) -> bool,
        wakers: &mut Vec<Waker>,
    ) {
        for waiting in self.waiting.values_mut() {
            if waiting.outcome.is_none() && which(waiting) {
                waiting.resolve(Err(reason.clone()), wakers);
            }
        }
    }

    /// Wakes the calls that wait for the channel, in the order in which they were made.
    fn wake_unsent(&mut self, wakers: &mut Vec<Waker>) {
        let unsent = self.waiting.values_mut().filter(|waiting| waiting.sent_after.is_none());
        wakers.extend(unsent.filter_map(|waiting| waiting.waker.take()));
    }
}

impl<R> Waiting<R> {
    fn resolve(&mut self, outcome: Result<R, ConsumerEnd>, wakers: &mut Vec<Waker>) {
        self.outcome = Some(outcome);
        wakers.extend(self.waker.take());
    }
}

/// A registered call. Dropping it forgets the call.
pub(super) struct Entry<R = proto::Delivery> {
    calls: Arc<Calls<R>>,
    number: u64,
}

impl<R> Entry<R> {
    pub(super) fn correlation_id(&self) -> String {
        format!("{}{}", self.calls.prefix, self.number)
    }

    /// Publishes the request once the channel is restored, if it is interrupted. If it is interrupted while the request waits to be
    /// sent, `publish` is called again: an outage takes some of the time, and may rename the queue for replies.
    ///
    /// Returns `None` if the reply to an earlier request of this call has come meanwhile.
    pub(super) async fn send<F, T>(&self, publish: impl Fn() -> F) -> Result<Option<T>, RpcError>
    where
        F: Future<Output = Result<T, RpcError>>,
    {
        loop {
            let restored = poll_fn(|cx| self.poll_restored(cx)).await;
            let Some(interruptions) = restored.map_err(RpcError::Ended)? else { return Ok(None) };
            let mut publishing = pin!(publish());
            let published = poll_fn(|cx| {
                if self.calls.interruptions() != interruptions {
                    return Poll::Ready(None);
                }
                let published = ready!(publishing.as_mut().poll(cx));
                if published.is_ok() {
                    // The count from before the request was sent: an interruption in between counts as one after it.
                    self.sent(interruptions);
                }
                Poll::Ready(Some(published))
            });
            if let Some(published) = published.await {
                return published.map(Some);
            }
        }
    }

    /// Waits for the reply, which often comes before the confirm of the request. `refused` is ready when the request is confirmed, and
    /// with a reason if that means that no reply will come. `dispatch` runs the dispatcher.
    pub(super) async fn reply(
        &self,
        refused: impl Future<Output = Option<Failed>>,
        dispatch: impl Fn(),
    ) -> Result<R, Failed> {
        let mut refused = pin!(refused.fuse());
        poll_fn(|cx| {
            if let Poll::Ready(outcome) = self.poll(cx) {
                return Poll::Ready(outcome.map_err(Failed::Lost));
            }
            let Some(failed) = ready!(refused.as_mut().poll(cx)) else { return Poll::Pending };
            // A reply that arrived before a loss may not be dispatched yet.
            dispatch();
            match self.poll(cx) {
                Poll::Ready(Ok(reply)) => Poll::Ready(Ok(reply)),
                _ => Poll::Ready(Err(failed)),
            }
        })
        .await
    }

    /// The request was sent, after that many interruptions at least.
    fn sent(&self, interruptions: u64) {
        let mut state = lock(&self.calls.state);
        // The channel was interrupted since, so the request may have been sent before.
        let lost = (self.calls.direct && state.interruptions > interruptions)
            .then(|| state.interrupted_by.clone())
            .flatten();
        let Some(waiting) = state.waiting.get_mut(&self.number) else { return };
        waiting.sent_after = Some(interruptions);
        if waiting.outcome.is_none() {
            waiting.outcome = lost.map(Err);
        }
    }

    /// The request will be sent again. What became of the one before matters no more, unless its reply comes after all.
    pub(super) fn send_again(&self) {
        let mut state = lock(&self.calls.state);
        if let Some(waiting) = state.waiting.get_mut(&self.number) {
            waiting.sent_after = None;
            // The loss that the caller has learned of from the confirm may have been dispatched since.
            waiting.outcome = waiting.outcome.take().filter(Result::is_ok);
        }
    }

    /// Is ready with the number of interruptions so far, unless the channel is interrupted, and not restored yet. Is ready with `None`
    /// if the reply has come, and with the reason if there will be none.
    fn poll_restored(&self, cx: &Context<'_>) -> Poll<Result<Option<u64>, ConsumerEnd>> {
        // Cloning and dropping a waker may run any code, so both happen without the lock.
        let mut waker = Some(cx.waker().clone());
        let mut state = lock(&self.calls.state);
        let State { interrupted, interruptions, ended, waiting, .. } = &mut *state;
        let Some(waiting) = waiting.get_mut(&self.number) else { return Poll::Pending };
        match (&waiting.outcome, ended) {
            (Some(Ok(_)), _) => return Poll::Ready(Ok(None)),
            (_, Some(end)) => return Poll::Ready(Err(end.clone())),
            _ if !*interrupted => return Poll::Ready(Ok(Some(*interruptions))),
            _ => {}
        }
        std::mem::swap(&mut waiting.waker, &mut waker);
        drop(state);
        Poll::Pending
    }

    /// Is ready with the reply, or with the reason why there will be none.
    fn poll(&self, cx: &Context<'_>) -> Poll<Result<R, ConsumerEnd>> {
        // Cloning and dropping a waker may run any code, so both happen without the lock.
        let mut waker = Some(cx.waker().clone());
        let mut state = lock(&self.calls.state);
        let Some(waiting) = state.waiting.get_mut(&self.number) else { return Poll::Pending };
        let outcome = waiting.outcome.take();
        if outcome.is_none() {
            std::mem::swap(&mut waiting.waker, &mut waker);
        }
        drop(state);
        outcome.map_or(Poll::Pending, Poll::Ready)
    }
}

impl<R> Drop for Entry<R> {
    fn drop(&mut self) {
        let mut state = lock(&self.calls.state);
        let forgotten = state.waiting.remove(&self.number);
        // A reply that the call did not take any more is late as well.
        if matches!(&forgotten, Some(Waiting { outcome: Some(Ok(_)), .. })) {
            state.late += 1;
        }
        drop(state);
        // Its waker and its reply are dropped without the lock.
        drop(forgotten);
    }
}
