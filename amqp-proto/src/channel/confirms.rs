use alloc::boxed::Box;
use alloc::collections::VecDeque;
use core::ops::RangeInclusive;

use super::equals::{Attribution, Equals};
use super::fingerprint::Fingerprint;
use super::returns::{Found, Index, Outstanding};
use crate::{PublishSeq, Returned};

/// The publishes of a channel that the broker has not confirmed yet.
#[derive(Debug)]
pub(crate) struct Confirms {
    /// The number of the next publish.
    next: u64,
    /// Publishes up to `next`, the oldest unconfirmed one first.
    outstanding: VecDeque<Outstanding>,
    index: Index,
    equals: Equals,
}

impl Confirms {
    pub(crate) fn new() -> Self {
        Self {
            next: 1,
            outstanding: VecDeque::new(),
            index: Index::default(),
            equals: Equals::default(),
        }
    }

    /// Numbers a publish whose bytes were just queued.
    pub(crate) fn published(&mut self, fingerprint: Option<Fingerprint>) -> PublishSeq {
        let seq = PublishSeq(self.next);
        self.next += 1;
        self.outstanding.push_back(Outstanding { confirmed: false, next: 0, fingerprint });
        let base = self.base();
        self.index.published((&mut self.outstanding, base), seq.0);
        if !self.equals.is_empty() {
            self.equals.published(fingerprint);
        }
        seq
    }

    /// Returns the number of publishes from the oldest unconfirmed one on, confirmed ones among them included.
    pub(crate) fn len(&self) -> usize {
        self.outstanding.len()
    }

    /// Returns which publish a returned message belongs to, if that is known yet.
    pub(crate) fn returned(
        &mut self,
        fingerprint: Fingerprint,
        returned: Box<Returned>,
    ) -> Attribution {
        let returned = match self.equals.returned(fingerprint, returned) {
            Ok(()) => return Attribution::Open,
            Err(returned) if self.equals.are_all_returned(fingerprint) => {
                return Attribution::Known(None, returned);
            }
            Err(returned) => returned,
        };
        let base = self.base();
        match self.index.take((&mut self.outstanding, base), fingerprint) {
            Found::None => Attribution::Known(None, returned),
            Found::One(seq) => Attribution::Known(Some(PublishSeq(seq)), returned),
            Found::Several(outstanding) => {
                self.equals.insert(fingerprint, outstanding, returned);
                Attribution::Open
            }
        }
    }

    /// Reports which of these publishes were returned, if only this confirm reveals it. Call this before
    /// [`settle`](Self::settle).
    #[inline]
    pub(crate) fn confirming(
        &mut self,
        tag: u64,
        multiple: bool,
        report: impl FnMut(PublishSeq, Box<Returned>),
    ) {
        if !self.equals.is_empty() {
            let first = if multiple { self.base() } else { tag };
            let last = if tag == 0 && multiple { u64::MAX } else { tag };
            self.tell_returned(first..=last, report);
        }
    }

    /// No more confirms follow. Of equal messages that may have been returned, the oldest is reported.
    pub(crate) fn end(&mut self, report: impl FnMut(PublishSeq, Box<Returned>)) {
        if !self.equals.is_empty() {
            self.tell_returned(0..=u64::MAX, report);
        }
    }

    #[cold]
    fn tell_returned(
        &mut self,
        seqs: RangeInclusive<u64>,
        report: impl FnMut(PublishSeq, Box<Returned>),
    ) {
        let base = self.base();
        let first = (*seqs.start()).max(base);
        // A confirm of confirmed publishes has no effect.
        let Some(more) = seqs.end().checked_sub(first) else { return };
        let index = |distance: u64| usize::try_from(distance).unwrap_or(usize::MAX);
        let publishes = (base..).zip(&self.outstanding).skip(index(first - base));
        let publishes = publishes.take(index(more).saturating_add(1));
        self.equals.settle(publishes, report);
    }

    /// Settles one publish, or all up to it (tag 0: all outstanding), and reports each run of publishes that were not settled
    /// before. Returns false for a number that was never assigned.
    pub(crate) fn settle(
        &mut self,
        tag: u64,
        multiple: bool,
        mut report: impl FnMut(RangeInclusive<PublishSeq>),
    ) -> bool {
        let last = if tag == 0 && multiple { self.next - 1 } else { tag };
        if last == 0 && !multiple || last >= self.next {
            return false;
        }
        let base = self.base();
        let first = if multiple { base } else { last };
        let mut run: Option<(u64, u64)> = None;
        for seq in first.max(base)..=last {
            let Some(publish) =
                usize::try_from(seq - base).ok().and_then(|index| self.outstanding.get_mut(index))
            else {
                break;
            };
            if publish.confirmed {
                if let Some((from, to)) = run.take() {
                    report(PublishSeq(from)..=PublishSeq(to));
                }
            } else {
                publish.confirmed = true;
                run = Some((run.map_or(seq, |(from, _)| from), seq));
            }
        }
        if let Some((from, to)) = run {
            report(PublishSeq(from)..=PublishSeq(to));
        }
        let mut seq = base;
        while let Some(publish) = self.outstanding.front().filter(|publish| publish.confirmed) {
            self.index.remove(seq, publish);
            self.outstanding.pop_front();
            seq += 1;
        }
        if self.outstanding.is_empty() {
            self.index.clear();
        }
        true
    }

    /// Iterates over the unconfirmed publishes, as ranges.
    pub(crate) fn unconfirmed(&self) -> impl Iterator<Item = RangeInclusive<PublishSeq>> {
        let base = self.base();
        let outstanding =
            || (base..).zip(&self.outstanding).filter(|(_, publish)| !publish.confirmed);
        let mut seqs = outstanding().map(|(seq, _)| seq).peekable();
        core::iter::from_fn(move || {
            let first = seqs.next()?;
            let mut last = first;
            while let Some(next) = seqs.next_if_eq(&(last + 1)) {
                last = next;
            }
            Some(PublishSeq(first)..=PublishSeq(last))
        })
    }

    /// Returns the number of publishes that were examined to identify returned messages.
    #[cfg(test)]
    pub(super) const fn steps(&self) -> u64 {
        self.index.steps
    }

    /// The number of the oldest entry.
    fn base(&self) -> u64 {
        self.next - self.outstanding.len() as u64
    }
}

#[cfg(test)]
mod tests {
    use alloc::vec::Vec;

    use super::*;

    #[test]
    fn unconfirmed_publishes_are_reported_in_runs() {
        let mut confirms = Confirms::new();
        let runs = |confirms: &Confirms| -> Vec<_> {
            confirms.unconfirmed().map(|run| (run.start().get(), run.end().get())).collect()
        };
        assert_eq!(runs(&confirms), []);
        for _ in 1..=8 {
            confirms.published(None);
        }
        assert_eq!(runs(&confirms), [(1, 8)]);
        for tag in [1, 4, 7] {
            assert!(confirms.settle(tag, false, |_| {}));
        }
        assert_eq!(runs(&confirms), [(2, 3), (5, 6), (8, 8)]);
        assert!(confirms.settle(6, true, |_| {}));
        assert_eq!(runs(&confirms), [(8, 8)]);
    }
}
