use alloc::collections::VecDeque;
use core::ops::RangeInclusive;

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
        let mut lanes = [SEED; 4];
        for part in parts {
            lanes[0] = mix(lanes[0], part.len() as u64);
            let mut blocks = part.chunks_exact(8 * lanes.len());
            for block in &mut blocks {
                // Multiplications that do not wait for each other.
                for (lane, word) in lanes.iter_mut().zip(block.chunks_exact(8)) {
                    *lane = mix(*lane, word.try_into().map_or(0, u64::from_le_bytes));
                }
            }
            for rest in blocks.remainder().chunks(8) {
                let mut word = [0; 8];
                for (octet, given) in word.iter_mut().zip(rest) {
                    *octet = *given;
                }
                lanes[0] = mix(lanes[0], u64::from_le_bytes(word));
            }
        }
        Self(lanes.into_iter().fold(SEED, mix))
    }
}

/// Any odd numbers with bits all over.
const SEED: u64 = 0x243f_6a88_85a3_08d3;
const MULTIPLIER: u64 = 0x9e37_79b9_7f4a_7c15;

/// Takes eight octets more into a hash, and spreads them over all of its bits. Each mandatory message is hashed as a whole, so
/// this has to be fast; who finds messages that collide can only have them taken for each other.
#[expect(clippy::cast_possible_truncation, reason = "both halves are used")]
const fn mix(hash: u64, word: u64) -> u64 {
    let product = (hash ^ word) as u128 * MULTIPLIER as u128;
    ((product as u64) ^ ((product >> 64) as u64)).wrapping_add(SEED)
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

    /// What is not confirmed, in runs.
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

    /// The number of the oldest entry.
    fn base(&self) -> u64 {
        self.next - self.outstanding.len() as u64
    }
}
