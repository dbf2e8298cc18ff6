//! The loop of a worker.

mod requeue;
mod watch;

use std::collections::VecDeque;
use std::future::{Future, Ready, poll_fn, ready};
use std::panic::{AssertUnwindSafe, catch_unwind, resume_unwind};
use std::pin::{Pin, pin};
use std::task::{Context, Poll};

use amqp_client_core::{
    After, CallError, ChannelEvents, Connection, Consumer, ConsumerEnd, Delivery, OnPanic,
};
use futures_util::future::{Either, Join, join, select};
use futures_util::stream::{FuturesUnordered, StreamExt as _};
use slab::Slab;

use super::begin::begin;
use super::handling::{Handling, Panic};
use super::order::Order;
use super::settle::{Action, Policy, Settled, Step};
use super::{Failure, Options, Routes, Summary, Work, WorkError, WorkEvent};
use crate::codec::BoxError;
use crate::grace::Grace;
use crate::handler::Verdict;
use crate::shown::panicked;
use watch::LOOKS;

/// Runs a worker until `stop` is ready or its consumer ends.
pub(super) async fn run<S, R: Routes<S>>(
    work: Work<S, R>,
    stop: impl Future,
) -> Result<Summary, WorkError> {
    let Work { queue, state, routes, options } = work;
    let mut stop = pin!(stop);
    let begin = begin(&queue, options.consume.clone(), options.limit(), options.retry);
    let (consumer, events, retry) = match select(stop.as_mut(), pin!(begin)).await {
        Either::Left(_) => return Ok(Summary::default()),
        Either::Right((begun, _)) => {
            let (consumer, events, retry) = begun?;
            (consumer.on_panic(options.on_panic), events, retry)
        }
    };
    let connection = queue.channel().connection();
    let policy = Policy::new(connection, retry, options.failed_to.as_deref());
    let mut worker = Worker::new((consumer, events), policy, state, routes, options);
    poll_fn(|cx| {
        let polled = catch_unwind(AssertUnwindSafe(|| worker.poll(stop.as_mut(), cx)));
        match (polled, worker.options.panic.take()) {
            (Ok(polled), None) => polled,
            (Err(panic), _) | (_, Some(panic)) => worker.propagate(panic),
        }
    })
    .await
}

/// A handler that runs, and the number of its job.
type Running<S, R> = Join<Ready<usize>, Handling<S, R>>;

/// A message that is being handled, or whose copy is being published.
struct Job {
    /// The delivery, unless its handler took it.
    delivery: Option<Delivery>,
    /// The key that is busy meanwhile, if messages are kept in order.
    key: Option<u64>,
    /// Number of looks of the watchdog before the handler began.
    began: u32,
}

struct Worker<S, R: Routes<S>> {
    connection: Connection,
    /// `None` once the worker was stopped or the consumer has ended.
    consumer: Option<Consumer>,
    end: Option<ConsumerEnd>,
    state: S,
    routes: R,
    options: Options,
    policy: Policy,
    /// The messages in `running` and `settling`.
    jobs: Slab<Job>,
    running: FuturesUnordered<Running<S, R>>,
    /// For the next handler.
    spare: Handling<S, R>,
    settling: FuturesUnordered<Step>,
    /// Deliveries that wait for room, with their keys, which are busy.
    next: VecDeque<(Option<u64>, Delivery)>,
    /// True if the last delivery needs no acknowledgement.
    no_ack: bool,
    /// The grace period. It begins when there is no consumer any more.
    grace: Grace,
    /// The events of the consumer's channel, if there is an observer.
    events: Option<ChannelEvents>,
    /// The next look of the watchdog, if there is an observer.
    look: Option<After>,
    /// Number of looks so far.
    looks: u32,
    summary: Summary,
}

impl<S, R: Routes<S>> Worker<S, R> {
    fn new(
        (consumer, events): (Consumer, ChannelEvents),
        policy: Policy,
        state: S,
        routes: R,
        options: Options,
    ) -> Self {
        let connection = consumer.channel().connection().clone();
        let grace = Grace::new(options.grace);
        let events = options.observer.is_some().then_some(events);
        let look = options.observer.as_ref().map(|_| connection.after(options.warn_after / LOOKS));
        Self {
            connection,
            consumer: Some(consumer),
            end: None,
            state,
            routes,
            policy,
            options,
            jobs: Slab::new(),
            running: FuturesUnordered::new(),
            spare: Handling::default(),
            settling: FuturesUnordered::new(),
            next: VecDeque::new(),
            no_ack: false,
            grace,
            look,
            events,
            looks: 0,
            summary: Summary::default(),
        }
    }

    fn poll(
        &mut self,
        mut stop: Pin<&mut impl Future>,
        cx: &mut Context<'_>,
    ) -> Poll<Result<Summary, WorkError>> {
        // The consumer is not polled again once it is pending: it may have yielded, so that the driver can run on this thread.
        let mut arriving = true;
        loop {
            while !self.running.is_empty() {
                let Poll::Ready(Some((job, outcome))) = self.running.poll_next_unpin(cx) else {
                    break;
                };
                let job = self.jobs.remove(job);
                match outcome {
                    Ok(verdict) => self.handled(job.delivery, job.key, verdict),
                    Err(panic) => self.panicked(job, panic),
                }
            }
            while !self.settling.is_empty() {
                let Poll::Ready(Some((job, settled))) = self.settling.poll_next_unpin(cx) else {
                    break;
                };
                self.settled(job, settled);
            }
            if self.consumer.is_some() && stop.as_mut().poll(cx).is_ready() {
                self.stop_taking();
            }
            if self.is_over(cx) {
                return Poll::Ready(self.result());
            }
            if !self.take(&mut arriving, cx) {
                self.listen(cx);
                self.watch(cx);
                return Poll::Pending;
            }
        }
    }

    /// Returns whether there is nothing left to do, or no time for it.
    fn is_over(&mut self, cx: &mut Context<'_>) -> bool {
        let is_idle = self.jobs.is_empty() && self.next.is_empty();
        self.consumer.is_none() && (is_idle || self.grace.is_over(&self.connection, cx))
    }

    /// Takes deliveries, and calls handlers while there is room. Returns whether there is anything new to poll, and sets whether the
    /// consumer may be polled.
    fn take(&mut self, arriving: &mut bool, cx: &mut Context<'_>) -> bool {
        let at_once = usize::from(self.options.at_once);
        let mut room = at_once.saturating_sub(self.jobs.len());
        let mut started = false;
        loop {
            started |= self.start_next(&mut room, cx);
            // Handlers that return at once leave the room as it is. The loop has to see whether the worker is to stop.
            if room == 0 && self.jobs.len() < at_once {
                return started;
            }
            // With room, messages wait only for their keys.
            if (room == 0 || self.options.order.is_some()) && self.is_full() {
                return started;
            }
            let Some(consumer) = self.consumer.as_mut().filter(|_| *arriving) else {
                return started;
            };
            match consumer.poll_next_unpin(cx) {
                Poll::Pending => {
                    *arriving = false;
                    return started;
                }
                Poll::Ready(Some(Ok(delivery))) => {
                    self.no_ack = delivery.no_ack();
                    // Almost always: the other way moves the delivery once more.
                    if room > 0 && self.options.order.is_none() {
                        room -= 1;
                        self.start(Some(delivery), None, cx);
                    } else {
                        let entered = self.enter(delivery, &mut room);
                        self.next.extend(entered);
                    }
                }
                Poll::Ready(end) => {
                    self.end = end.and_then(Result::err);
                    self.consumer = None;
                }
            }
            started = true;
        }
    }

    /// Calls handlers for the deliveries that wait, while there is room. Returns whether any delivery waited.
    fn start_next(&mut self, room: &mut usize, cx: &mut Context<'_>) -> bool {
        let mut started = false;
        while *room > 0 {
            let Some((key, delivery)) = self.next.pop_front() else { break };
            started = true;
            // The broker has requeued a stale delivery, and delivers it again.
            if delivery.is_stale() {
                self.free(key);
            } else {
                *room -= 1;
                self.start(Some(delivery), key, cx);
            }
        }
        started
    }

    /// Returns a delivery that may be handled now, with its key if messages are kept in order. Keeps a delivery whose key is busy. If
    /// the user's function for keys panics, the message is settled as if its handler had panicked, which may take some room.
    fn enter(&mut self, delivery: Delivery, room: &mut usize) -> Option<(Option<u64>, Delivery)> {
        let Some(order) = &mut self.options.order else { return Some((None, delivery)) };
        match order.key_of(&delivery) {
            Ok(key) => order.enter(key, delivery).map(|next| (Some(key), next)),
            Err(panic) => {
                *room = room.saturating_sub(1);
                self.panicked(self.job(Some(delivery), None), panic);
                None
            }
        }
    }

    /// Returns whether nothing more may be taken. The broker sends no more than the limit, so whatever comes beyond it is the end of the
    /// consumer: it begins the grace period although no handler is free. After a loss, the broker sends again what it had sent, while
    /// the handlers of the lost connection still run. A consumer that does not acknowledge has no limit but this one.
    fn is_full(&mut self) -> bool {
        let limit = usize::from(self.options.limit());
        if self.no_ack {
            return self.jobs.len() + self.waiting() > limit;
        }
        if self.waiting() > limit {
            self.drop_stale();
        }
        self.waiting() > limit
    }

    /// Returns the number of messages that wait here for room or for their keys.
    fn waiting(&self) -> usize {
        self.next.len() + self.options.order.as_ref().map_or(0, Order::waiting)
    }

    /// Drops the deliveries that the broker has requeued: it delivers them again.
    fn drop_stale(&mut self) {
        if let Some(order) = &mut self.options.order {
            order.drop_stale();
        }
        for (key, delivery) in std::mem::take(&mut self.next) {
            match delivery.is_stale() {
                true => self.free(key),
                false => self.next.push_back((key, delivery)),
            }
        }
    }

    fn job(&self, delivery: Option<Delivery>, key: Option<u64>) -> Job {
        Job { delivery, key, began: self.looks }
    }

    /// Calls the handler for a delivery. A handler that returns at its first poll needs no task and no job.
    fn start(&mut self, mut delivery: Option<Delivery>, key: Option<u64>, cx: &mut Context<'_>) {
        let scope = delivery.as_ref().map(Delivery::scope).unwrap_or_default();
        let start = || -> Result<_, BoxError> {
            let handler = self.routes.start(&mut delivery, &self.state)?;
            Ok(handler.map(|handler| self.spare.begin(handler, cx)))
        };
        let (verdict, by) = match catch_unwind(AssertUnwindSafe(|| scope.run(start))) {
            Ok(Ok(Some(Poll::Ready(verdict)))) => return self.handled(delivery, key, verdict),
            Ok(Ok(Some(Poll::Pending))) => {
                let job = self.jobs.insert(self.job(delivery, key));
                let handling = std::mem::take(&mut self.spare).within(scope);
                return self.running.push(join(ready(job), handling));
            }
            Ok(Ok(None)) => (Verdict::refuse(NO_ROUTE), Failure::NoRoute),
            Ok(Err(error)) => (Verdict::Refuse(error), Failure::Arguments),
            Err(panic) => {
                self.spare.end();
                return self.panicked(self.job(delivery, key), panic);
            }
        };
        self.finish(self.job(delivery, key), verdict, by);
    }

    /// Settles a message whose handler has returned. Inlined, as that saves moving the delivery of each message.
    #[inline(always)]
    fn handled(&mut self, delivery: Option<Delivery>, key: Option<u64>, verdict: Verdict) {
        match verdict {
            // Almost always. A stale delivery may be acknowledged as well: that has no effect.
            Verdict::Done => {
                self.summary.done += 1;
                self.leave(delivery, key, Delivery::ack);
            }
            verdict => self.finish(self.job(delivery, key), verdict, Failure::Handler),
        }
    }

    fn panicked(&mut self, job: Job, panic: Panic) {
        self.summary.panicked += 1;
        let why = panicked(&*panic);
        let verdict = match self.options.on_panic {
            OnPanic::Propagate => {
                // Only this message counts as failed.
                self.leave(job.delivery, job.key, |delivery| delivery.reject(true));
                resume_unwind(panic)
            }
            OnPanic::Reject => Verdict::refuse(why),
            _ => Verdict::retry(why),
        };
        self.finish(job, verdict, Failure::Panic);
    }

    /// Ends the worker by a panic. Its messages are requeued before the panic goes on: a delivery that is dropped by a panic counts
    /// as failed, and its message may be dropped.
    fn propagate(&mut self, panic: Panic) -> ! {
        self.abandon();
        self.jobs.clear();
        resume_unwind(panic)
    }

    /// Settles a message by its verdict.
    fn finish(&mut self, job: Job, verdict: Verdict, by: Failure) {
        let delivery = job.delivery.as_ref();
        if verdict.why().is_some() {
            let message = delivery.map(|delivery| &**delivery);
            self.options.report(&WorkEvent::Failed { message, verdict: &verdict, by });
        }
        // A delivery that was requeued because of a loss comes again: publishing a copy would duplicate it.
        let action = match delivery {
            Some(delivery) if !delivery.is_stale() => self.policy.decide(delivery, &verdict),
            _ => Action::Requeue,
        };
        if verdict.why().is_some() {
            self.connection.log_limited(action.kind(), || {
                let message = delivery.map(|delivery| &**delivery);
                let event = WorkEvent::Failed { message, verdict: &verdict, by };
                format!("a worker could not handle {event}; it is {action}")
            });
        }
        let summary = &mut self.summary;
        let counter = match (&verdict, &action) {
            (Verdict::Done, _) => &mut summary.done,
            (Verdict::Requeue, _) => &mut summary.requeued,
            (Verdict::Refuse(_), _) | (_, Action::Park(..)) => &mut summary.refused,
            (Verdict::Retry(_), _) => &mut summary.retried,
        };
        *counter += 1;
        match action {
            Action::Retry(queue, message) | Action::Park(queue, message) => {
                let scope = job.delivery.as_ref().map(Delivery::scope).unwrap_or_default();
                let job = self.jobs.insert(job);
                self.settling.push(self.policy.publish(job, queue, message, scope));
            }
            Action::Ack => self.leave(job.delivery, job.key, Delivery::ack),
            Action::Requeue => self.leave(job.delivery, job.key, |delivery| delivery.nack(true)),
            Action::Reject { requeue } => {
                self.leave(job.delivery, job.key, |delivery| delivery.reject(requeue))
            }
        }
    }

    fn settled(&mut self, job: usize, settled: Settled) {
        match settled {
            Settled::Published => {
                let job = self.jobs.remove(job);
                self.leave(job.delivery, job.key, Delivery::ack);
            }
            Settled::NotPublished(queue, error) => {
                if let Some(delivery) = &self.jobs[job].delivery {
                    let (message, queue) = (&**delivery, &*queue);
                    let event = WorkEvent::NotPublished { message, queue, error: &error };
                    self.connection.log_limited("not published", || {
                        format!("a worker could not handle {event}; the message is requeued")
                    });
                    self.options.report(&event);
                }
                self.settling.push(self.policy.pause(job));
            }
            Settled::Paused => {
                let job = self.jobs.remove(job);
                self.leave(job.delivery, job.key, |delivery| delivery.nack(true));
            }
        }
    }

    /// Settles the delivery of a job, and frees its key.
    #[inline]
    fn leave(
        &mut self,
        delivery: Option<Delivery>,
        key: Option<u64>,
        settle: impl FnOnce(Delivery) -> Result<(), CallError>,
    ) {
        if let Some(delivery) = delivery {
            // If the channel is closed, the broker has requeued the delivery, and the consumer ends with the reason.
            let _closed = settle(delivery);
        }
        if key.is_some() {
            self.free(key);
        }
    }

    /// Frees a key for the next delivery that waits for it.
    fn free(&mut self, key: Option<u64>) {
        if let (Some(key), Some(order)) = (key, &mut self.options.order) {
            self.next.extend(order.leave(key).map(|delivery| (Some(key), delivery)));
        }
    }

    /// Takes no more messages, and requeues the deliveries that no handler has.
    fn stop_taking(&mut self) {
        self.consumer = None;
        self.next.clear();
        if let Some(order) = &mut self.options.order {
            order.clear();
        }
    }

    /// Drops the handlers and everything else that is not finished, but not the deliveries of the handlers.
    fn abandon(&mut self) {
        self.running.clear();
        self.settling.clear();
        self.stop_taking();
    }

    fn result(&mut self) -> Result<Summary, WorkError> {
        self.abandon();
        let mut summary = std::mem::take(&mut self.summary);
        summary.unfinished.extend(self.jobs.drain().filter_map(|job| job.delivery));
        match self.end.take() {
            Some(end) => Err(WorkError::Ended { end, summary: Box::new(summary) }),
            None => Ok(summary),
        }
    }
}

impl Options {
    fn limit(&self) -> u16 {
        self.prefetch.unwrap_or(0).max(self.at_once)
    }

    fn report(&mut self, event: &WorkEvent<'_>) {
        let Some(observer) = self.observer.as_mut().filter(|_| self.panic.is_none()) else {
            return;
        };
        // Whoever reports holds a delivery, which still has to be settled.
        self.panic = catch_unwind(AssertUnwindSafe(|| observer(event))).err();
    }
}

/// The reason of a message for which there is no handler.
const NO_ROUTE: &str = "no route of the worker takes this routing key";
