//! The loop of a worker.

mod finish;
mod requeue;
mod watch;

use std::collections::VecDeque;
use std::future::{Future, Ready, poll_fn, ready};
use std::panic::{AssertUnwindSafe, catch_unwind};
use std::pin::{Pin, pin};
use std::task::{Context, Poll};

use amqp_client_core::{After, ChannelEvents, Connection};
use futures_util::future::{Either, Join, join, select};
use futures_util::stream::{FuturesUnordered, StreamExt as _};
use slab::Slab;

use super::handling::Handling;
use super::order::Order;
use super::settle::{Policy, Step};
use super::source::{Arriving, End, Source, Start, Taken};
use super::{Failure, Options, Routes, Summary, Work, WorkError, WorkEvent};
use crate::codec::BoxError;
use crate::grace::Grace;
use crate::handler::Verdict;
use crate::history;
use watch::LOOKS;

/// Runs a worker until `stop` is ready or its source ends.
pub(super) async fn run<S, R: Routes<S>, Q: Source>(
    work: Work<S, R, Q>,
    stop: impl Future,
) -> Result<Summary, WorkError> {
    let Work { source, state, routes, mut options } = work;
    let mut stop = pin!(stop);
    let start = match select(stop.as_mut(), pin!(source.begin(&mut options))).await {
        Either::Left(_) => return Ok(Summary::default()),
        Either::Right((start, _)) => start?,
    };
    let mut worker = Worker::new(start, state, routes, options);
    let result = poll_fn(|cx| {
        let polled = catch_unwind(AssertUnwindSafe(|| worker.poll(stop.as_mut(), cx)));
        match (polled, worker.options.panic.take()) {
            (Ok(polled), None) => polled,
            (Err(panic), _) | (_, Some(panic)) => worker.propagate(panic),
        }
    })
    .await;
    worker.arriving.end().await;
    result
}

/// A handler that runs, and the number of its job.
type Running<S, R> = Join<Ready<usize>, Handling<S, R>>;

/// A message that is being handled, or whose copy is being published.
struct Job<D> {
    /// The delivery, unless its handler took it.
    delivery: Option<D>,
    place: Place,
    /// Number of looks of the watchdog before the handler began.
    began: u32,
}

/// What is known of a message besides its delivery.
#[derive(Debug, Clone, Copy, Default)]
struct Place {
    /// The key that is busy meanwhile, if messages are kept in order.
    key: Option<u64>,
    /// The number of times that this delivery was handled before, and failed.
    failures: u32,
}

/// A delivery that is handled again after some time.
type Again<D> = Join<Ready<(Place, D)>, After>;

struct Worker<S, R: Routes<S>, A: Arriving> {
    connection: Connection,
    arriving: A,
    /// Set when the source has ended by itself.
    end: Option<End>,
    state: S,
    routes: R,
    options: Options,
    policy: Policy,
    order: Option<Order<A::Delivery>>,
    /// The messages in `running` and `settling`.
    jobs: Slab<Job<A::Delivery>>,
    running: FuturesUnordered<Running<S, R>>,
    /// For the next handler.
    spare: Handling<S, R>,
    settling: FuturesUnordered<Step>,
    /// Deliveries that wait for room. Their keys are busy.
    next: VecDeque<(Place, A::Delivery)>,
    /// Deliveries that failed, and are handled again. Their keys are busy.
    again: FuturesUnordered<Again<A::Delivery>>,
    /// True if the last delivery needs no acknowledgement.
    no_ack: bool,
    /// The grace period. It begins when nothing more is taken.
    grace: Grace,
    /// The events of the consumer's channel, if there is an observer.
    events: Option<ChannelEvents>,
    /// The next look of the watchdog, if there is an observer.
    look: Option<After>,
    /// Number of looks so far.
    looks: u32,
    summary: Summary,
}

impl<S, R: Routes<S>, A: Arriving> Worker<S, R, A> {
    fn new(start: Start<A>, state: S, routes: R, mut options: Options) -> Self {
        let Start { connection, arriving, events, policy } = start;
        let grace = Grace::new(options.grace);
        let events = events.filter(|_| options.observer.is_some());
        let look = options.observer.as_ref().map(|_| connection.after(options.warn_after / LOOKS));
        Self {
            connection,
            arriving,
            end: None,
            state,
            routes,
            policy,
            order: options.key_of.take().map(Order::new),
            options,
            jobs: Slab::new(),
            running: FuturesUnordered::new(),
            spare: Handling::default(),
            settling: FuturesUnordered::new(),
            next: VecDeque::new(),
            again: FuturesUnordered::new(),
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
                    Ok(verdict) => self.handled(job.delivery, job.place, verdict),
                    Err(panic) => self.panicked(job, panic),
                }
            }
            while !self.settling.is_empty() {
                let Poll::Ready(Some((job, settled))) = self.settling.poll_next_unpin(cx) else {
                    break;
                };
                self.settled(job, settled);
            }
            while !self.again.is_empty() {
                let Poll::Ready(Some((next, _over))) = self.again.poll_next_unpin(cx) else {
                    break;
                };
                self.next.push_back(next);
            }
            if self.arriving.is_open() && stop.as_mut().poll(cx).is_ready() {
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
        !self.arriving.is_open() && (is_idle || self.grace.is_over(&self.connection, cx))
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
            if (room == 0 || self.order.is_some()) && self.is_full() {
                return started;
            }
            if !*arriving || !self.arriving.is_open() {
                return started;
            }
            match self.arriving.poll_next(cx) {
                Poll::Pending => {
                    *arriving = false;
                    return started;
                }
                Poll::Ready(Some(Ok(delivery))) => {
                    self.no_ack = delivery.delivery().no_ack();
                    // Almost always: the other way moves the delivery once more.
                    if room > 0 && self.order.is_none() {
                        room -= 1;
                        self.start(Some(delivery), Place::default(), cx);
                    } else {
                        let entered = self.enter(delivery, &mut room);
                        self.next.extend(entered);
                    }
                }
                Poll::Ready(end) => {
                    self.end = end.and_then(Result::err);
                    self.arriving.stop();
                }
            }
            started = true;
        }
    }

    /// Calls handlers for the deliveries that wait, while there is room. Returns whether any delivery waited.
    fn start_next(&mut self, room: &mut usize, cx: &mut Context<'_>) -> bool {
        let mut started = false;
        while *room > 0 {
            let Some((place, delivery)) = self.next.pop_front() else { break };
            started = true;
            // The broker has requeued a stale delivery, and delivers it again.
            if delivery.delivery().is_stale() {
                self.free(place.key);
            } else {
                *room -= 1;
                self.start(Some(delivery), place, cx);
            }
        }
        started
    }

    /// Returns a delivery that may be handled now, with its key if messages are kept in order. Keeps a delivery whose key is busy. If
    /// the user's function for keys panics, the message is settled as if its handler had panicked, which may take some room.
    fn enter(&mut self, delivery: A::Delivery, room: &mut usize) -> Option<(Place, A::Delivery)> {
        let Some(order) = &mut self.order else { return Some((Place::default(), delivery)) };
        match order.key_of(&delivery) {
            Ok(key) => order.enter(key, delivery).map(|next| (Place::of(key), next)),
            Err(panic) => {
                *room = room.saturating_sub(1);
                self.panicked(self.job(Some(delivery), Place::default()), panic);
                None
            }
        }
    }

    /// Returns whether nothing more may be taken. The broker sends no more than the limit, so whatever comes beyond it is the end of the
    /// consumer: it begins the grace period although no handler is free. After a loss, the broker sends again what it had sent, while
    /// the handlers of the lost connection still run. A consumer that does not acknowledge has no limit but this one.
    fn is_full(&mut self) -> bool {
        let limit = self.arriving.limit();
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
        self.next.len() + self.order.as_ref().map_or(0, Order::waiting)
    }

    /// Drops the deliveries that the broker has requeued: it delivers them again.
    fn drop_stale(&mut self) {
        if let Some(order) = &mut self.order {
            order.drop_stale();
        }
        for (place, delivery) in std::mem::take(&mut self.next) {
            if delivery.delivery().is_stale() {
                self.free(place.key);
            } else {
                self.next.push_back((place, delivery));
            }
        }
    }

    fn job(&self, delivery: Option<A::Delivery>, place: Place) -> Job<A::Delivery> {
        Job { delivery, place, began: self.looks }
    }

    /// Calls the handler for a delivery. A handler that returns at its first poll needs no task and no job.
    fn start(&mut self, mut delivery: Option<A::Delivery>, place: Place, cx: &mut Context<'_>) {
        if let Some(why) = delivery.as_ref().and_then(Taken::refusal) {
            let verdict = Verdict::Refuse(why);
            return self.finish(self.job(delivery, place), verdict, Failure::Deliveries);
        }
        let scope = delivery.as_ref().map(|taken| taken.delivery().scope()).unwrap_or_default();
        let start = || -> Result<_, BoxError> {
            let handler = history::after_failures(place.failures, || {
                Taken::call(&mut delivery, &self.routes, &self.state)
            })?;
            Ok(handler.map(|handler| self.spare.begin(handler, cx)))
        };
        let (verdict, by) = match catch_unwind(AssertUnwindSafe(|| scope.run(start))) {
            Ok(Ok(Some(Poll::Ready(verdict)))) => return self.handled(delivery, place, verdict),
            Ok(Ok(Some(Poll::Pending))) => {
                let job = self.jobs.insert(self.job(delivery, place));
                let handling = std::mem::take(&mut self.spare).within(scope);
                return self.running.push(join(ready(job), handling));
            }
            Ok(Ok(None)) => (Verdict::refuse(NO_ROUTE), Failure::NoRoute),
            Ok(Err(error)) => (Verdict::Refuse(error), Failure::Arguments),
            Err(panic) => {
                self.spare.end();
                return self.panicked(self.job(delivery, place), panic);
            }
        };
        self.finish(self.job(delivery, place), verdict, by);
    }

    /// Takes no more messages, and requeues the deliveries that no handler has.
    fn stop_taking(&mut self) {
        self.arriving.stop();
        self.next.clear();
        self.again.clear();
        if let Some(order) = &mut self.order {
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
        let unfinished = self.jobs.drain().filter_map(|job| job.delivery);
        summary.unfinished.extend(unfinished.map(Taken::into_delivery));
        match self.end.take() {
            Some(end) => Err(end.into_error(summary)),
            None => Ok(summary),
        }
    }
}

impl Place {
    const fn of(key: u64) -> Self {
        Self { key: Some(key), failures: 0 }
    }
}

impl Options {
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
