//! Numbers of deliveries and publishes, across connections.
//!
//! On each channel that is opened, the broker counts deliveries and publishes from 1. The session's numbers never start over, so a
//! number from before a loss is never confused with a later one.
//!
//! # Deliveries: an example
//!
//! | | broker's tag | session's tag |
//! |---|---|---|
//! | first connection | 1, 2, 3 | 1, 2, 3 |
//! | after a loss: [`Tags::before`] is 3 | 1, 2 | 4, 5 |
//!
//! An acknowledgement of 5 is sent as 2. An acknowledgement of 2 is stale: the broker has requeued that delivery.
//!
//! # Publishes: an example
//!
//! On the first connection, 1 to 10 are published, and the connection is lost while the kept messages 4, 5 and 9 are unconfirmed.
//! While there is no connection, one more message is kept: it [reserves](Seqs::reserve) 11. Then the channel is reopened, the kept
//! messages are sent again in their order, and 12 and 13 are published:
//!
//! | broker's number | 1 | 2 | 3 | 4 | 5 | 6 |
//! |---|---|---|---|---|---|---|
//! | session's number | 4 | 5 | 9 | 11 | 12 | 13 |
//! | known from | `resent[0]` | `resent[1]` | `resent[2]` | `resent[3]` | 5 + `ahead` | 6 + `ahead` |
//!
//! So `ahead` is 7. If the broker confirms everything up to 6 at once, the session reports 4 to 5, 9, 11, and 12 to 13.

use alloc::vec::Vec;
use core::ops::RangeInclusive;

use crate::{DeliveryTag, PublishSeq};

/// Translates delivery tags between the session and the broker.
#[derive(Debug, Default)]
pub(crate) struct Tags {
    /// The offset between the session's tags and the broker's.
    before: u64,
    last: u64,
}

impl Tags {
    /// Returns the session's tag for one of the broker's.
    #[inline]
    pub(crate) fn received(&mut self, tag: DeliveryTag) -> DeliveryTag {
        // The connection refuses tags that no server reaches, so the sum does not overflow.
        debug_assert!(self.before.checked_add(tag.get()).is_some(), "{tag} behind {}", self.before);
        let tag = self.before.saturating_add(tag.get());
        // Tags of deliveries without acknowledgement need not grow. The next channel must not use any of this one's tags again.
        self.last = self.last.max(tag);
        DeliveryTag::new(tag)
    }

    /// Returns the session's tag for one of the broker's that was received already.
    pub(crate) const fn own(&self, tag: DeliveryTag) -> DeliveryTag {
        DeliveryTag::new(self.before.saturating_add(tag.get()))
    }

    /// Returns the last tag that was received since the channel was opened.
    pub(crate) fn last(&self) -> Option<DeliveryTag> {
        (self.last > self.before).then(|| DeliveryTag::new(self.last))
    }

    /// Returns the broker's tag for one of the session's, or `None` if the broker has requeued that delivery.
    #[inline]
    pub(crate) fn sent(&self, tag: DeliveryTag) -> Option<DeliveryTag> {
        match tag.get() {
            // Tag 0 means all deliveries.
            0 => Some(tag),
            tag => tag.checked_sub(self.before).filter(|tag| *tag > 0).map(DeliveryTag::new),
        }
    }

    /// Begins again for a reopened channel. Returns the last tag that is stale.
    pub(crate) fn restart(&mut self) -> DeliveryTag {
        self.before = self.last;
        DeliveryTag::new(self.last)
    }
}

/// Translates publish numbers between the session and the broker.
#[derive(Debug)]
pub(crate) struct Seqs {
    /// The number of the next publish.
    next: u64,
    /// The numbers of messages that were sent again; they are the first on their channel.
    resent: Vec<u64>,
    /// The offset between all other numbers and the broker's.
    ahead: u64,
}

impl Default for Seqs {
    fn default() -> Self {
        Self { next: 1, resent: Vec::new(), ahead: 0 }
    }
}

impl Seqs {
    /// Notes a message that was sent for the first time, with the broker's number. Returns the session's number.
    #[inline]
    pub(crate) fn published(&mut self, sent: PublishSeq) -> PublishSeq {
        self.next = sent.get() + self.ahead + 1;
        PublishSeq(sent.get() + self.ahead)
    }

    /// Reserves the number of a message that is sent later.
    pub(crate) const fn reserve(&mut self) -> PublishSeq {
        let seq = self.next;
        self.next += 1;
        self.ahead += 1;
        PublishSeq(seq)
    }

    /// Returns the number of the next publish.
    pub(crate) const fn next(&self) -> u64 {
        self.next
    }

    /// Begins again for a reopened channel.
    pub(crate) fn restart(&mut self) {
        self.ahead = self.next - 1;
        self.resent.clear();
    }

    /// Notes a message that was sent on the new channel and has this number already. A message that could not be sent is not
    /// noted: the broker counts only the messages that it receives.
    pub(crate) fn resent(&mut self, seq: u64) {
        debug_assert_eq!(
            self.ahead + self.resent.len() as u64,
            self.next - 1,
            "nothing is published for the first time before all that is kept is sent"
        );
        self.resent.push(seq);
        self.ahead = self.ahead.saturating_sub(1);
    }

    /// Returns the session's numbers for a range of the broker's, in runs.
    pub(crate) fn of(
        &self,
        sent: &RangeInclusive<PublishSeq>,
        mut run: impl FnMut(RangeInclusive<PublishSeq>),
    ) {
        let (first, last) = (sent.start().get(), sent.end().get());
        let count = self.resent.len() as u64;
        let mut open: Option<(u64, u64)> = None;
        for sent in first..=last.min(count) {
            let seq = self.one(sent);
            match &mut open {
                Some((_, end)) if *end + 1 == seq => *end = seq,
                _ => {
                    if let Some((start, end)) = open.replace((seq, seq)) {
                        run(PublishSeq(start)..=PublishSeq(end));
                    }
                }
            }
        }
        if let Some((start, end)) = open {
            run(PublishSeq(start)..=PublishSeq(end));
        }
        if last > count {
            let first = first.max(count + 1);
            run(PublishSeq(first + self.ahead)..=PublishSeq(last + self.ahead));
        }
    }

    /// Returns the session's number for one of the broker's.
    pub(crate) fn one(&self, sent: u64) -> u64 {
        let resent = sent.checked_sub(1).and_then(|index| usize::try_from(index).ok());
        resent.and_then(|index| self.resent.get(index).copied()).unwrap_or(sent + self.ahead)
    }
}

#[cfg(all(test, feature = "std"))]
mod tests {
    use super::*;

    fn runs(seqs: &Seqs, first: u64, last: u64) -> Vec<(u64, u64)> {
        let mut all = Vec::new();
        seqs.of(&(PublishSeq(first)..=PublishSeq(last)), |run| {
            all.push((run.start().get(), run.end().get()));
        });
        all
    }

    #[test]
    fn publish_numbers_continue_over_a_restart() {
        let mut seqs = Seqs::default();
        for seq in 1..=10 {
            assert_eq!(seqs.published(PublishSeq(seq)).get(), seq);
        }
        assert_eq!(runs(&seqs, 3, 7), [(3, 7)]);
        // 4, 5 and 9 are sent again, and one that was never sent.
        let waiting = seqs.reserve().get();
        assert_eq!(waiting, 11);
        seqs.restart();
        [4, 5, 9, waiting].into_iter().for_each(|seq| seqs.resent(seq));
        assert_eq!(seqs.published(PublishSeq(5)).get(), 12);
        assert_eq!(runs(&seqs, 1, 6), [(4, 5), (9, 9), (11, 11), (12, 13)]);
        assert_eq!(runs(&seqs, 1, 4), [(4, 5), (9, 9), (11, 11)], "no empty run follows");
        assert_eq!(runs(&seqs, 2, 2), [(5, 5)]);
        seqs.restart();
        // 9 is sent again, and one more is taken before that.
        assert_eq!(seqs.reserve().get(), 13);
        seqs.resent(9);
        assert_eq!(seqs.published(PublishSeq(2)).get(), 14);
        assert_eq!(runs(&seqs, 1, 2), [(9, 9), (14, 14)]);
    }

    #[test]
    fn tags_of_different_times_are_never_the_same() {
        let mut tags = Tags::default();
        let first = tags.received(DeliveryTag::new(1));
        let second = tags.received(DeliveryTag::new(2));
        assert_eq!(tags.sent(second), Some(DeliveryTag::new(2)));
        assert_eq!(tags.restart(), second);
        assert_eq!((tags.sent(first), tags.sent(second)), (None, None));
        let later = tags.received(DeliveryTag::new(9));
        let smaller = tags.received(DeliveryTag::new(1));
        assert!(smaller > second);
        assert_eq!((tags.restart(), tags.sent(later), tags.sent(smaller)), (later, None, None));
        let third = tags.received(DeliveryTag::new(1));
        assert_eq!((third.get(), tags.sent(third)), (12, Some(DeliveryTag::new(1))));
        assert_eq!(tags.sent(DeliveryTag::new(0)), Some(DeliveryTag::new(0)));
    }
}
