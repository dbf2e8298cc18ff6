//! Handlers that panic: their deliveries are rejected, the others are handled, and nobody else learns of it.

use std::cell::{Cell, RefCell};
use std::collections::BTreeMap;
use std::panic::AssertUnwindSafe;
use std::time::Duration;

use amqp_client_core::{ChannelEvent, Delivery, OnPanic};
use amqp_test_broker::Verdict;
use futures_util::FutureExt as _;

use super::client::{Start, Taker, Task, tried};
use super::commands::Name;
use super::finish::QUIET;
use super::ledger::Id;
use super::release::LOOKS;
use crate::script::What;

/// The longest time that a handler takes.
const WORK: u64 = 200;

/// The actions of handlers.
#[derive(Debug, Default)]
struct Done {
    panics: Cell<usize>,
    /// Number of times that the broker has to have rejected each message, from all that was done to them before.
    rejected: RefCell<BTreeMap<Id, u32>>,
}

/// The action of a handler.
#[derive(Debug, Clone, Copy, PartialEq, Eq)]
enum Deed {
    Ack,
    Drop,
    /// It panics instead of returning a future, or after a while.
    PanicAtOnce,
    Panic,
}

impl Task {
    /// Handles a consumer's deliveries for a while, then drops it.
    pub(crate) async fn handle_all(
        &self,
        number: usize,
        limit: usize,
        wait: Duration,
        on_panic: OnPanic,
        panics: u32,
    ) {
        let Some(taker) = self.borrow_consumer(number) else { return };
        if taker.name == Name::Stream || taker.desk.books.may_be_kept() {
            // Handlers do not commit transactions, and a stream does not requeue.
            return self.consumers.borrow_mut().push(taker);
        }
        let Taker { consumer, start } = taker;
        self.world.history.borrow_mut().leave(&start.queue);
        if on_panic == OnPanic::Reject {
            start.desk.tally.lose_track("rejected");
        }
        let (done, losses) = (Done::default(), self.losses());
        let mut events = start.desk.channel.events();
        let consumer = consumer.on_panic(on_panic);
        let handling = consumer.for_each_concurrent(limit, |delivery| {
            let mut delivery = Some(delivery);
            let deed = self.random(|rng| match rng.u32(..panics) {
                0 if rng.bool() => Deed::PanicAtOnce,
                0 => Deed::Panic,
                1 => Deed::Drop,
                _ => Deed::Ack,
            });
            if let Some(delivery) = delivery.take_if(|_| deed == Deed::PanicAtOnce) {
                self.panic_with(&start, &done, delivery, on_panic);
            }
            let (start, done) = (&start, &done);
            let work = Duration::from_millis(self.random(|rng| rng.u64(..WORK)));
            async move {
                self.sleep(work).await;
                match (deed, delivery) {
                    (Deed::Panic, Some(delivery)) => {
                        self.panic_with(start, done, delivery, on_panic);
                    }
                    (Deed::Ack, Some(delivery)) => self.ack(start, delivery),
                    (_, delivery) => drop(delivery),
                }
            }
        });
        let handling = AssertUnwindSafe(handling).catch_unwind();
        let contains = on_panic != OnPanic::Propagate;
        match self.world.clock.within(wait, handling).await {
            // The handlers that were still running are dropped.
            None => {}
            Some(Ok(ended)) => self.judge_end(&start, ended.err().as_ref()),
            Some(Err(_)) if contains => self.fail("a handler that panics ends all others"),
            Some(Err(_)) => {}
        }
        if done.panics.get() > 0 && contains {
            let mut told = false;
            while let Some(Some(event)) = tried(events.next()).await {
                told |= matches!(event, ChannelEvent::HandlerPanicked { .. });
            }
            if !told {
                self.fail("a handler has panicked, and no event says so");
            }
        }
        self.judge_rejected(&start, &done, verdict(on_panic), losses).await;
    }

    /// A handler panics while it has a delivery.
    fn panic_with(&self, start: &Start, done: &Done, delivery: Delivery, on_panic: OnPanic) {
        done.panics.set(done.panics.get() + 1);
        let identified = self.world.ledger.borrow().identify(delivery.body());
        if let Some(id) = self.check(identified).filter(|_| !start.no_ack && !delivery.is_stale()) {
            let (verdict, mut ledger) = (verdict(on_panic), self.world.ledger.borrow_mut());
            let before = ledger.done(id, verdict);
            *done.rejected.borrow_mut().entry(id).or_insert(before) += 1;
            ledger.grant(id, verdict);
        }
        let _delivery = delivery;
        panic!("a handler panics on purpose");
    }

    fn ack(&self, start: &Start, delivery: Delivery) {
        self.hold(&start.desk, delivery, None);
        self.settle_newest();
    }

    /// Deliveries whose handlers panicked are rejected at the broker, unless something else may have settled them.
    async fn judge_rejected(
        &self,
        start: &Start,
        done: &Done,
        verdict: Verdict,
        losses: Option<u64>,
    ) {
        let deleted = |what| matches!(what, What::DeleteQueue(_) | What::Wipe);
        let lasting = matches!(start.name, Name::Shared(_) | Name::Quorum)
            && !self.world.script.faults.iter().any(|fault| deleted(fault.what));
        for _ in 0..LOOKS {
            let open = self.is_settled() && self.losses() == losses && !start.desk.closed.get();
            let own = open && start.desk.channel.check().is_ok();
            if !lasting || !own || start.desk.books.have_lost_track() {
                return;
            }
            if self.has_rejected(done, verdict) {
                return;
            }
            self.sleep(QUIET).await;
        }
        let queue = self.world.network.borrow().engine.ready_count(&start.queue);
        if queue.is_some() {
            self.fail("a handler has panicked, and its delivery was not rejected");
        }
    }

    /// Returns whether the broker has rejected what it should.
    fn has_rejected(&self, done: &Done, verdict: Verdict) -> bool {
        let ledger = self.world.ledger.borrow();
        done.rejected.borrow().iter().all(|(id, count)| ledger.done(*id, verdict) >= *count)
    }
}

/// The outcome of a delivery whose handler panics.
fn verdict(on_panic: OnPanic) -> Verdict {
    if on_panic == OnPanic::Reject { Verdict::Rejected } else { Verdict::Blamed }
}
