use alloc::collections::VecDeque;
use alloc::vec::Vec;

use crate::method::BasicAck;
use crate::{DeliveryTag, Misuse};

/// The unsettled deliveries of a channel, and those that were acknowledged since the last flush.
///
/// Acknowledgements are merged: when all deliveries up to one are settled, a single `multiple` covers them. It covers no other
/// delivery, so merging never acknowledges what the caller has not.
#[derive(Debug, Default)]
pub(crate) struct Unsettled {
    /// Oldest first; tags strictly increase.
    entries: VecDeque<Entry>,
    /// Number of entries that were acknowledged since the last flush.
    acked: usize,
    /// Number of entries at the front that were acknowledged in order. Their state stays `Waiting`; only this counter marks them
    /// as acknowledged (fast path).
    in_order: usize,
    /// Tags that were acknowledged one by one since the last flush, out of order.
    since_flush: Vec<u64>,
    /// Number of entries that are `Settled`. They are removed once they are the majority, even if the oldest delivery waits
    /// forever.
    settled: usize,
    /// On a transactional channel: the tags that were sent to the peer since the last commit or rollback, in the order of
    /// sending. A rollback makes them unacknowledged again.
    uncommitted: Option<Vec<u64>>,
    /// The last delivery that the peer was asked to take back (`basic.recover`), with all before it.
    recovered: u64,
    /// The last delivery.
    last: u64,
    /// Recoveries without a reply. Deliveries that arrive before the reply are delivered again, under another tag.
    recovering: u32,
}

/// The way to settle a delivery.
#[derive(Debug, Clone, Copy, PartialEq, Eq)]
#[non_exhaustive]
pub enum Settlement {
    /// The delivery was processed (`basic.ack`).
    Ack,
    /// The delivery is returned without blame (`basic.nack`): requeued, or else dropped or dead-lettered.
    Nack {
        /// True if the broker requeues it.
        requeue: bool,
    },
    /// The delivery is returned as failed (`basic.reject`): requeued, or else dropped or dead-lettered.
    Reject {
        /// True if the broker requeues it.
        requeue: bool,
    },
}

#[derive(Debug, Clone, Copy)]
struct Entry {
    tag: u64,
    state: AckState,
}

#[derive(Debug, Clone, Copy, PartialEq, Eq)]
enum AckState {
    /// The application has it.
    Waiting,
    /// The application acknowledged it; the peer does not know yet.
    Acked,
    /// The peer knows, but an older delivery is still waiting.
    Settled,
}

/// What becomes of a delivery that arrives.
#[derive(Debug, Clone, Copy, PartialEq, Eq)]
pub(crate) enum Arrival {
    /// It can be settled.
    Waits,
    /// The peer requeues it, because of a `basic.recover` without a reply yet.
    Requeued,
    /// Its tag does not follow the earlier ones.
    OutOfOrder,
}

impl Unsettled {
    /// Records a delivery.
    pub(crate) fn delivered(&mut self, tag: u64) -> Arrival {
        if self.last >= tag {
            return Arrival::OutOfOrder;
        }
        self.last = tag;
        if self.recovering == 0 {
            self.entries.push_back(Entry { tag, state: AckState::Waiting });
            Arrival::Waits
        } else {
            self.recovered = tag;
            Arrival::Requeued
        }
    }

    /// Returns the last delivery that the peer was asked to take back, with all before it, if there is one.
    pub(crate) fn last_recovered(&self) -> Option<DeliveryTag> {
        (self.recovered > 0).then_some(DeliveryTag(self.recovered))
    }

    /// The oldest delivery that waits.
    pub(crate) fn oldest(&self) -> Option<DeliveryTag> {
        let mut rest = self.entries.iter().skip(self.in_order);
        rest.find(|entry| entry.state == AckState::Waiting).map(|entry| DeliveryTag(entry.tag))
    }

    /// Returns the number of deliveries that the application has not settled.
    pub(crate) fn len(&self) -> usize {
        let not_in_order = self.entries.iter().skip(self.in_order);
        not_in_order.filter(|entry| entry.state == AckState::Waiting).count()
    }

    /// Returns whether [`flush`](Self::flush) would send something.
    pub(crate) const fn needs_flush(&self) -> bool {
        self.acked > 0
    }

    /// Acknowledges one delivery.
    #[inline]
    pub(crate) fn ack(&mut self, tag: DeliveryTag) -> Result<(), Misuse> {
        match self.entries.get(self.in_order) {
            Some(next) if next.tag == tag.0 && next.state == AckState::Waiting => {
                self.in_order += 1;
                self.acked += 1;
                Ok(())
            }
            _ => self.ack_out_of_order(tag),
        }
    }

    fn ack_out_of_order(&mut self, tag: DeliveryTag) -> Result<(), Misuse> {
        let entry = self.waiting(tag)?;
        entry.state = AckState::Acked;
        self.acked += 1;
        self.since_flush.push(tag.0);
        Ok(())
    }

    /// Acknowledges all deliveries up to `tag`; 0 means all.
    pub(crate) fn ack_up_to(&mut self, tag: DeliveryTag) -> Result<(), Misuse> {
        let acked = self.mark_up_to(tag, AckState::Acked)?.1;
        self.acked += acked;
        Ok(())
    }

    /// Settles one delivery otherwise than by acknowledging it. Flush first: a later acknowledgement of several must not speak
    /// for it.
    pub(crate) fn settle(&mut self, tag: DeliveryTag) -> Result<(), Misuse> {
        self.waiting(tag)?.state = AckState::Settled;
        self.settled += 1;
        self.uncommitted.iter_mut().for_each(|tags| tags.push(tag.0));
        self.drop_settled();
        Ok(())
    }

    /// Settles all unsettled deliveries up to `tag`; 0 means all. Returns the last of them. Flush first.
    pub(crate) fn settle_up_to(&mut self, tag: DeliveryTag) -> Result<u64, Misuse> {
        let (last, settled) = self.mark_up_to(tag, AckState::Settled)?;
        self.settled += settled;
        self.drop_settled();
        Ok(last)
    }

    /// Sends what was acknowledged, in as few methods as are exact.
    #[inline(never)]
    pub(crate) fn flush(&mut self, mut send: impl FnMut(BasicAck)) {
        if self.acked == 0 {
            return;
        }
        let mut run = core::mem::take(&mut self.in_order);
        if let Some(uncommitted) = &mut self.uncommitted {
            uncommitted.extend(self.entries.iter().take(run).map(|entry| entry.tag));
        }
        let mut last = self.entries.drain(..run).next_back().map_or(0, |entry| entry.tag);
        while let Some(entry) = self.entries.front() {
            match entry.state {
                AckState::Waiting => break,
                AckState::Acked => {
                    run += 1;
                    last = entry.tag;
                    self.uncommitted.iter_mut().for_each(|tags| tags.push(last));
                }
                AckState::Settled => self.settled -= 1,
            }
            self.entries.pop_front();
        }
        if run > 0 {
            send(BasicAck { delivery_tag: last, multiple: run > 1 });
            self.acked -= run;
        }
        // The remaining acknowledgements are behind a delivery that is still unsettled.
        let mut since_flush = core::mem::take(&mut self.since_flush);
        if self.acked > 0 {
            since_flush.sort_unstable();
            for tag in &since_flush {
                self.flush_one(*tag, &mut send);
            }
            self.drop_settled();
        }
        since_flush.clear();
        self.since_flush = since_flush;
    }

    fn flush_one(&mut self, tag: u64, send: &mut impl FnMut(BasicAck)) {
        let entry = self.index_of(tag).and_then(|index| self.entries.get_mut(index));
        let Some(entry) = entry.filter(|entry| entry.state == AckState::Acked) else { return };
        entry.state = AckState::Settled;
        self.acked -= 1;
        self.settled += 1;
        self.uncommitted.iter_mut().for_each(|tags| tags.push(tag));
        send(BasicAck { delivery_tag: tag, multiple: false });
    }

    /// `tx.select` was sent: from now on, settlements can be rolled back. Flush first.
    pub(crate) fn begin(&mut self) {
        debug_assert_eq!(
            self.acked, 0,
            "acknowledgements from before are not part of the transaction"
        );
        self.uncommitted.get_or_insert_default();
    }

    /// `tx.commit` was sent: settlements are final. Flush first. If the commit fails, the peer closes the channel.
    pub(crate) fn commit(&mut self) {
        debug_assert_eq!(self.acked, 0, "acknowledgements from before are part of the transaction");
        self.uncommitted.iter_mut().for_each(Vec::clear);
    }

    /// Returns the number of deliveries that were settled since the last commit or rollback.
    pub(crate) fn uncommitted(&self) -> usize {
        self.uncommitted.as_ref().map_or(0, Vec::len)
    }

    /// `tx.rollback` was sent: all that the transaction settled is unacknowledged again, and can be settled once more.
    /// Flush first.
    ///
    /// The reply need not be awaited: the peer carries out methods in order, so later settlements follow the rollback.
    pub(crate) fn roll_back(&mut self) {
        debug_assert_eq!(self.acked, 0, "acknowledgements from before are part of the transaction");
        let Some(uncommitted) = &mut self.uncommitted else { return };
        // Some of these tags are still in `entries` as `Settled`, others were removed. After removing all `Settled` entries, none
        // is in there twice.
        self.entries.retain(|entry| entry.state != AckState::Settled);
        self.settled = 0;
        let restored = uncommitted.drain(..).map(|tag| Entry { tag, state: AckState::Waiting });
        self.entries.extend(restored);
        self.entries.make_contiguous().sort_unstable_by_key(|entry| entry.tag);
    }

    /// `basic.recover` was requested: the peer requeues all unsettled deliveries. RabbitMQ: deliveries that a transaction has
    /// settled stay settled until the transaction ends.
    pub(crate) fn recover(&mut self, answered: bool) {
        self.entries.clear();
        self.since_flush.clear();
        self.in_order = 0;
        self.acked = 0;
        self.settled = 0;
        self.recovered = self.last;
        self.recovering += u32::from(answered);
    }

    /// `basic.recover-ok` came.
    pub(crate) fn recovered(&mut self) {
        self.recovering = self.recovering.saturating_sub(1);
    }

    /// Returns whether the application has not settled that delivery.
    pub(crate) fn is_waiting(&self, tag: u64) -> bool {
        let index = self.index_of(tag).filter(|index| *index >= self.in_order);
        let entry = index.and_then(|index| self.entries.get(index));
        entry.is_some_and(|entry| entry.state == AckState::Waiting)
    }

    /// Returns whether the application has not settled that delivery, or a rollback could undo the settlement.
    pub(crate) fn may_wait(&self, tag: u64) -> bool {
        let uncommitted = self.uncommitted.as_ref();
        self.is_waiting(tag) || uncommitted.is_some_and(|tags| tags.contains(&tag))
    }

    /// The deliveries up to `last` that the application has not settled.
    pub(crate) fn waiting_up_to(&self, last: u64) -> impl Iterator<Item = u64> {
        let entries = self.entries.iter().skip(self.in_order);
        let waiting = entries.take_while(move |entry| entry.tag <= last);
        waiting.filter(|entry| entry.state == AckState::Waiting).map(|entry| entry.tag)
    }

    fn waiting(&mut self, tag: DeliveryTag) -> Result<&mut Entry, Misuse> {
        let not_waiting = self.not_waiting(tag);
        let index = self.index_of(tag.0).filter(|index| *index >= self.in_order);
        index
            .and_then(|index| self.entries.get_mut(index))
            .filter(|entry| entry.state == AckState::Waiting)
            .ok_or(not_waiting)
    }

    /// Returns the error of settling a delivery that is not unsettled: it was settled before, or its tag is unknown.
    const fn not_waiting(&self, tag: DeliveryTag) -> Misuse {
        match tag.0 {
            1.. if tag.0 <= self.recovered => Misuse::StaleDelivery(tag.0),
            _ => Misuse::UnknownDelivery(tag.0),
        }
    }

    /// Tags are dense as long as every delivery needs an acknowledgement, so the place is a subtraction away.
    fn index_of(&self, tag: u64) -> Option<usize> {
        let first = self.entries.front()?.tag;
        let guess = usize::try_from(tag.checked_sub(first)?).ok()?;
        match self.entries.get(guess) {
            Some(entry) if entry.tag == tag => Some(guess),
            _ => self.entries.binary_search_by_key(&tag, |entry| entry.tag).ok(),
        }
    }

    /// Marks the waiting ones up to `tag`; returns the last of them and how many there were.
    fn mark_up_to(&mut self, tag: DeliveryTag, state: AckState) -> Result<(u64, usize), Misuse> {
        let limit = if tag.0 == 0 { u64::MAX } else { tag.0 };
        let mut last = None;
        let mut count = 0;
        let entries = self.entries.iter_mut().skip(self.in_order);
        for entry in entries.take_while(|entry| entry.tag <= limit) {
            if entry.state == AckState::Waiting {
                entry.state = state;
                last = Some(entry.tag);
                count += 1;
                if state == AckState::Settled {
                    self.uncommitted.iter_mut().for_each(|tags| tags.push(entry.tag));
                }
            }
        }
        last.map(|last| (last, count)).ok_or_else(|| self.not_waiting(tag))
    }

    fn drop_settled(&mut self) {
        while self.entries.front().is_some_and(|entry| entry.state == AckState::Settled) {
            self.entries.pop_front();
            self.settled -= 1;
        }
        if self.settled > COMPACT_FROM && self.settled > self.entries.len() / 2 {
            self.entries.retain(|entry| entry.state != AckState::Settled);
            self.settled = 0;
        }
    }
}

/// Settled entries from which on the others are moved together. Fewer take at most 1 KiB, and moving costs more than skipping
/// them.
const COMPACT_FROM: usize = 64;

#[cfg(test)]
mod tests {
    use super::*;

    fn flushed(unsettled: &mut Unsettled) -> Vec<(u64, bool)> {
        let mut sent = Vec::new();
        unsettled.flush(|ack| sent.push((ack.delivery_tag, ack.multiple)));
        sent
    }

    #[test]
    fn each_acknowledgement_is_sent_exactly_once_in_any_order() {
        let mut unsettled = Unsettled::default();
        assert!((1..=9).all(|tag| unsettled.delivered(tag) == Arrival::Waits));
        for tag in [1, 2, 5, 3] {
            unsettled.ack(DeliveryTag(tag)).expect("it waits");
            assert_eq!(unsettled.ack(DeliveryTag(tag)), Err(Misuse::UnknownDelivery(tag)));
        }
        assert_eq!(unsettled.len(), 5);
        assert_eq!(unsettled.ack_up_to(DeliveryTag(3)), Err(Misuse::UnknownDelivery(3)));
        assert_eq!(flushed(&mut unsettled), [(3, true), (5, false)]);
        unsettled.ack(DeliveryTag(4)).expect("it waits");
        unsettled.ack_up_to(DeliveryTag(7)).expect("two wait");
        unsettled.ack(DeliveryTag(9)).expect("it waits");
        assert_eq!(flushed(&mut unsettled), [(7, true), (9, false)]);
        assert_eq!(unsettled.len(), 1);
        unsettled.ack(DeliveryTag(8)).expect("it waits");
        assert!(unsettled.settle(DeliveryTag(8)).is_err());
        assert_eq!(flushed(&mut unsettled), [(8, false)]);
        assert!(unsettled.entries.is_empty() && !unsettled.needs_flush());
        assert_eq!((unsettled.in_order, unsettled.settled), (0, 0));
    }

    #[test]
    fn a_delivery_that_waits_for_ever_does_not_make_the_others_be_remembered() {
        let mut unsettled = Unsettled::default();
        assert_eq!(unsettled.delivered(1), Arrival::Waits);
        for tag in 2..10_000 {
            assert_eq!(unsettled.delivered(tag), Arrival::Waits);
            unsettled.ack(DeliveryTag(tag)).expect("it waits");
            let mut sent = Vec::new();
            unsettled.flush(|ack| sent.push(ack));
            assert_eq!(sent, [BasicAck { delivery_tag: tag, multiple: false }]);
            assert!(unsettled.entries.len() <= 2 * COMPACT_FROM);
        }
        unsettled.ack(DeliveryTag(1)).expect("it waits");
        unsettled.flush(|_| {});
        assert!(unsettled.entries.is_empty());
        assert_eq!((unsettled.acked, unsettled.settled), (0, 0));
    }

    #[test]
    fn many_that_are_settled_at_once_behind_one_that_waits_are_not_remembered() {
        let mut unsettled = Unsettled::default();
        assert!((1..=1000).all(|tag| unsettled.delivered(tag) == Arrival::Waits));
        (2..=1000).for_each(|tag| unsettled.ack(DeliveryTag(tag)).expect("it waits"));
        assert_eq!(flushed(&mut unsettled).len(), 999);
        assert!(unsettled.entries.len() <= 2 * COMPACT_FROM);
        // Rejected deliveries are counted until they are removed.
        assert!((1001..=1003).all(|tag| unsettled.delivered(tag) == Arrival::Waits));
        for tag in [1002, 1001, 1] {
            unsettled.settle(DeliveryTag(tag)).expect("it waits");
        }
        assert_eq!((unsettled.entries.len(), unsettled.settled), (1, 0));
    }
}
