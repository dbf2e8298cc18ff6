//! The transaction of a channel: what was published and settled since the last commit or rollback.
//!
//! Settlements in a transaction take effect at its commit, and never if it is rolled back. That is only known if the channel
//! certainly is transactional: if nobody saw the reply to `tx.select`, settlements count as effective at once.

use std::cell::{Cell, RefCell};

use amqp_client_core::Delivery;
use amqp_client_core::proto::DeliveryTag;
use amqp_test_broker::Verdict;

use super::ledger::{Id, Ledger};

/// The books of a channel.
#[derive(Debug, Default)]
pub(crate) struct Books {
    /// `tx.select` was sent, or may have been.
    asked: Cell<bool>,
    /// One was sent whose reply nobody waits for.
    dropped: Cell<bool>,
    /// Replies to it that are awaited, each by a task that does nothing else meanwhile.
    awaited: Cell<usize>,
    /// True if the channel is transactional, for certain.
    selected: Cell<bool>,
    work: RefCell<Work>,
    /// True if it is unknown which deliveries are settled: some were redelivered on request, or several were settled at once.
    lost_track: Cell<bool>,
    /// Number of times that redelivery of everything unsettled was requested at the end, after that many losses of the connection.
    asked_again: Cell<(Option<u64>, u32)>,
    /// Deliveries whose settlement was rolled back: they can be settled again.
    again: RefCell<Vec<(Id, DeliveryTag)>>,
}

/// Maximum number of times that redelivery of everything unsettled is requested at the end, between two losses.
const ASKS: u32 = 3;

/// The work of a transaction.
#[derive(Debug, Default)]
pub(crate) struct Work {
    published: Vec<Id>,
    settled: Vec<Settled>,
    /// Something was settled that was stale already.
    stale: bool,
}

#[derive(Debug, Clone, Copy)]
struct Settled {
    id: Id,
    tag: DeliveryTag,
    verdict: Verdict,
    /// By number, after a rollback. It may have been stale, which costs the transaction again, so it is not repeated.
    again: bool,
    /// True if nothing else can have settled it before: several at once, for example.
    certain: bool,
}

impl Books {
    /// Asks for `tx.select`.
    pub(crate) fn ask(&self) {
        self.asked.set(true);
    }

    /// The reply to `tx.select` is pending: until it comes, settlements count as part of a transaction.
    pub(crate) fn expect(&self) {
        self.awaited.set(self.awaited.get() + 1);
    }

    /// The reply has come. Returns the settlements that are not part of a transaction.
    pub(crate) fn expected(&self, selected: bool) -> Work {
        self.awaited.set(self.awaited.get() - 1);
        match selected || self.selected.get() {
            true => Work::default(),
            false => self.work.take(),
        }
    }

    /// `tx.select` has succeeded or failed. Without an outcome, nobody waits for the reply.
    pub(crate) fn select(&self, selected: Option<bool>) {
        self.dropped.set(self.dropped.get() || selected.is_none());
        self.selected.set(self.selected.get() || selected == Some(true));
        // Behind one that failed, an earlier one that was dropped may have succeeded.
        self.asked.set(self.selected.get() || self.dropped.get());
    }

    /// Deliveries are asked for again, or several are settled at once.
    pub(crate) fn lose_track(&self) {
        self.lost_track.set(true);
    }

    /// Returns whether it is known which deliveries are settled.
    pub(crate) fn are_clear(&self) -> bool {
        self.selected.get() && !self.lost_track.get()
    }

    /// Returns whether another task may have settled what a task holds.
    pub(crate) fn have_lost_track(&self) -> bool {
        self.lost_track.get()
    }

    /// Returns whether the channel may be transactional.
    pub(crate) fn may_be_kept(&self) -> bool {
        self.asked.get()
    }

    /// Returns whether it is, for certain.
    pub(crate) fn are_kept(&self) -> bool {
        self.selected.get()
    }

    /// Returns whether nothing was done since the last commit or rollback.
    pub(crate) fn are_empty(&self) -> bool {
        let work = self.work.borrow();
        work.published.is_empty() && work.settled.is_empty() && !work.stale
    }

    /// A message was published.
    pub(crate) fn published(&self, id: Id) {
        // It may be part of a transaction that this does not know of.
        self.lost_track.set(self.lost_track.get() || self.asked.get() && !self.selected.get());
        if self.selected.get() {
            self.work.borrow_mut().published.push(id);
        }
    }

    /// A delivery is settled. Returns whether the transaction decides about it.
    pub(crate) fn settled(&self, id: Id, delivery: &Delivery, verdict: Verdict) -> bool {
        self.lost_track.set(self.lost_track.get() || self.asked.get() && !self.selected.get());
        let decides = (self.selected.get() || self.awaited.get() > 0) && !delivery.no_ack();
        if decides {
            let (tag, certain) = (delivery.delivery_tag(), !self.lost_track.get());
            let settled = Settled { id, tag, verdict, again: false, certain };
            self.work.borrow_mut().settled.push(settled);
        }
        decides
    }

    /// A delivery is settled that the broker has requeued: the transaction must not be committed.
    pub(crate) fn stale(&self, delivery: &Delivery, verdict: Verdict) {
        let lost = is_final(verdict) && !delivery.no_ack();
        self.work.borrow_mut().stale |= self.selected.get() && lost;
    }

    /// The commit or the rollback is requested: later work belongs to the next transaction.
    pub(crate) fn end(&self) -> Work {
        self.work.take()
    }

    /// A transaction was rolled back: its settlements can be repeated.
    pub(crate) fn rolled_back(&self, work: &Work) {
        let settled = work.settled.iter().filter(|settled| !settled.again);
        self.again.borrow_mut().extend(settled.map(|settled| (settled.id, settled.tag)));
        // A delivery that was settled and rolled back twice stays unacknowledged, and may fill a prefetch limit.
        if work.settled.iter().any(|settled| settled.again) {
            self.lose_track();
        }
    }

    /// The outcome of a rollback is not known: what was settled may be unsettled again.
    pub(crate) fn perhaps_rolled_back(&self, work: &Work) {
        if !work.settled.is_empty() {
            self.lose_track();
        }
    }

    /// Counts one more request for everything unsettled at the end. Returns whether that is not one too many.
    pub(crate) fn ask_again(&self, losses: Option<u64>) -> bool {
        let (before, asked) = self.asked_again.get();
        let asked = if before == losses { asked + 1 } else { 1 };
        self.asked_again.set((losses, asked));
        asked <= ASKS
    }

    /// Deliveries that can be settled again.
    pub(crate) fn take_again(&self) -> Vec<(Id, DeliveryTag)> {
        self.again.take()
    }

    /// Such a delivery is acknowledged. Returns whether the transaction decides about it.
    pub(crate) fn settled_again(&self, id: Id, tag: DeliveryTag) {
        self.work.borrow_mut().settled.push(Settled {
            id,
            tag,
            verdict: Verdict::Acked,
            again: true,
            certain: true,
        });
    }
}

impl Work {
    /// All of it may take effect from now on.
    pub(crate) fn grant(&self, ledger: &mut Ledger) {
        for Settled { id, verdict, .. } in &self.settled {
            ledger.grant(*id, *verdict);
        }
    }

    /// The commit was reported to the application.
    pub(crate) fn committed(&self, ledger: &Ledger) -> Result<(), String> {
        if self.stale {
            return Err("a transaction was committed that had settled a stale delivery".to_owned());
        }
        self.published.iter().try_for_each(|id| ledger.is_accepted(*id))?;
        let certain = |settled: &&Settled| settled.certain && is_final(settled.verdict);
        let settled = self.settled.iter().filter(certain);
        settled.clone().try_for_each(|settled| ledger.is_settled(settled.id, settled.verdict))
    }

    /// The rollback was reported to the application, or the transaction was abandoned.
    pub(crate) fn undone(&self, ledger: &mut Ledger) -> Result<(), String> {
        for id in &self.published {
            ledger.roll_back(*id);
            ledger.is_invisible(*id)?;
        }
        Ok(())
    }
}

/// Returns whether this settlement removes the message.
const fn is_final(verdict: Verdict) -> bool {
    matches!(verdict, Verdict::Acked | Verdict::Rejected)
}
