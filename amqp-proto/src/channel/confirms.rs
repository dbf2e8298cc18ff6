use std::collections::VecDeque;
use std::hash::{DefaultHasher, Hasher as _};
use std::ops::RangeInclusive;

use crate::PublishSeq;

/// The publishes of a channel that the broker has not confirmed yet.
#[derive(Debug)]
pub(crate) struct Confirms {
    /// The number of the next publish.
    next: u64,
    /// Publishes up to `next`, the oldest unconfirmed one first.
    outstanding: VecDeque<Outstanding>,
}

#[derive(Debug, Clone, Copy)]
struct Outstanding {
    confirmed: bool,
    /// What a returned message is recognized by; only for mandatory ones that did not come back.
    fingerprint: Option<Fingerprint>,
}

/// Recognizes a message among those that are outstanding.
///
/// `basic.return` does not say which publish it returns. Messages of equal fingerprints are the same to every receiver,
/// so which of them is taken for the returned one makes no difference to what has to be published again.
#[derive(Debug, Clone, Copy, PartialEq, Eq)]
pub(crate) struct Fingerprint(u64);

impl Fingerprint {
    pub(crate) fn of(parts: [&[u8]; 5]) -> Self {
        let mut hasher = DefaultHasher::new();
        for part in parts {
            hasher.write_usize(part.len());
            hasher.write(part);
        }
        Self(hasher.finish())
    }
}

impl Confirms {
    pub(crate) const fn new() -> Self {
        Self { next: 1, outstanding: VecDeque::new() }
    }

    /// Numbers a publish whose bytes were just queued.
    pub(crate) fn published(&mut self, fingerprint: Option<Fingerprint>) -> PublishSeq {
        let seq = PublishSeq(self.next);
        self.next += 1;
        self.outstanding.push_back(Outstanding { confirmed: false, fingerprint });
        seq
    }

    /// How many publishes are not confirmed, counting those behind the oldest unconfirmed one.
    pub(crate) fn len(&self) -> usize {
        self.outstanding.len()
    }

    /// Which publish came back: the oldest outstanding one that looks like it.
    pub(crate) fn returned(&mut self, fingerprint: Fingerprint) -> Option<PublishSeq> {
        let base = self.base();
        let index = self
            .outstanding
            .iter()
            .position(|publish| !publish.confirmed && publish.fingerprint == Some(fingerprint))?;
        self.outstanding.get_mut(index)?.fingerprint = None;
        Some(PublishSeq(base + index as u64))
    }

    /// Settles one publish, or all up to it (tag 0: all there are), and reports each run of them that was not settled
    /// before. Returns false for a number that was never given.
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
        while self.outstanding.front().is_some_and(|publish| publish.confirmed) {
            self.outstanding.pop_front();
        }
        true
    }

    /// The number of the oldest entry.
    fn base(&self) -> u64 {
        self.next - self.outstanding.len() as u64
    }
}
