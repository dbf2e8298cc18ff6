//! Finds the publish that a `basic.return` returns: the method does not name it, so the whole message is compared.

use alloc::collections::VecDeque;
use alloc::vec::Vec;

use super::fingerprint::Fingerprint;

/// A publish that the broker has not confirmed, or that follows one.
#[derive(Debug, Clone, Copy)]
pub(super) struct Outstanding {
    pub(super) confirmed: bool,
    /// Distance to the next publish in the list of the [`Index`]; 0 if there is none.
    pub(super) next: u32,
    /// The fingerprint by which a return of this message is recognized. Only for mandatory messages that were not returned yet.
    pub(super) fingerprint: Option<Fingerprint>,
}

/// Up to this many outstanding publishes are searched one by one, which costs less than building an index.
const SCAN_MAX: usize = 32;

/// Finds outstanding publishes by their fingerprints.
///
/// The index is built at the first return while many publishes are outstanding, and kept up to date until none is. Publishers
/// whose messages are not returned pay nothing for it.
///
/// Each bucket is a list of publishes in their order, linked through [`Outstanding::next`]. So the publish that leaves the ring,
/// the oldest of all, is the first of its list, and is unlinked without a search.
#[derive(Debug, Default)]
pub(super) struct Index {
    /// The first entries, a power of two, are in use.
    buckets: Vec<Bucket>,
    /// Number of entries in use; 0 if the index is not built.
    used: usize,
    /// Number of publishes that were inspected.
    #[cfg(test)]
    pub(super) steps: u64,
}

/// The numbers of the first and the last publish in a list; 0 if there is none.
#[derive(Debug, Clone, Copy, Default)]
struct Bucket {
    first: u64,
    last: u64,
}

/// The outstanding publishes by fingerprint.
#[derive(Debug, Clone, Copy, PartialEq, Eq)]
pub(super) enum Found {
    None,
    /// Its number.
    One(u64),
    /// Their number.
    Several(usize),
}

/// The outstanding publishes, and the number of the first.
pub(super) type Ring<'a> = (&'a mut VecDeque<Outstanding>, u64);

fn at<'a>((ring, base): &'a mut Ring<'_>, seq: u64) -> Option<&'a mut Outstanding> {
    ring.get_mut(usize::try_from(seq.checked_sub(*base)?).ok()?)
}

impl Index {
    /// Adds the publish that was numbered `seq`, the last of the ring.
    #[inline]
    pub(super) fn published(&mut self, ring: Ring<'_>, seq: u64) {
        if self.used > 0 {
            self.extend(ring, seq);
        }
    }

    #[cold]
    fn extend(&mut self, mut ring: Ring<'_>, seq: u64) {
        if ring.0.len() > self.used {
            self.build(ring);
        } else {
            self.link(&mut ring, seq);
        }
    }

    /// Looks for outstanding publishes with that fingerprint. One that is the only one is not found again.
    pub(super) fn take(&mut self, mut ring: Ring<'_>, wanted: Fingerprint) -> Found {
        if self.used == 0 {
            if ring.0.len() <= SCAN_MAX {
                return self.search(ring, wanted);
            }
            self.build((&mut *ring.0, ring.1));
        }
        let place = self.place(wanted);
        let (mut found, mut count, mut before) = (None, 0, None);
        let mut seq = self.buckets.get(place).map_or(0, |bucket| bucket.first);
        while let Some(publish) = at(&mut ring, seq) {
            self.count();
            let next = publish.following(seq);
            if publish.confirmed {
                // A confirmed message is not returned any more, so its fingerprint is not needed.
                publish.fingerprint = None;
                self.unlink(&mut ring, place, before, next);
            } else {
                if publish.fingerprint == Some(wanted) {
                    count += 1;
                    found = found.or(Some((seq, before)));
                }
                before = Some(seq);
            }
            seq = next;
        }
        let Some((seq, before)) = found else { return Found::None };
        if count > 1 {
            return Found::Several(count);
        }
        if let Some(publish) = at(&mut ring, seq) {
            publish.fingerprint = None;
            let next = publish.following(seq);
            self.unlink(&mut ring, place, before, next);
        }
        Found::One(seq)
    }

    /// The publish numbered `seq` leaves the ring.
    #[inline]
    pub(super) fn remove(&mut self, seq: u64, publish: &Outstanding) {
        if let (true, Some(fingerprint)) = (self.used > 0, publish.fingerprint) {
            self.remove_first(seq, publish, fingerprint);
        }
    }

    #[cold]
    fn remove_first(&mut self, seq: u64, publish: &Outstanding, fingerprint: Fingerprint) {
        let place = self.place(fingerprint);
        let Some(bucket) = self.buckets.get_mut(place) else { return };
        debug_assert_eq!(bucket.first, seq, "the oldest publish is the first of its list");
        if bucket.first == seq {
            bucket.first = publish.following(seq);
            if bucket.first == 0 {
                bucket.last = 0;
            }
        }
    }

    /// Clears the index, because nothing is outstanding.
    #[inline]
    pub(super) fn clear(&mut self) {
        self.used = 0;
    }

    fn search(&mut self, (ring, base): Ring<'_>, wanted: Fingerprint) -> Found {
        let (mut found, mut count) = (None, 0);
        for (seq, publish) in (base..).zip(ring) {
            self.count();
            if !publish.confirmed && publish.fingerprint == Some(wanted) {
                count += 1;
                found.get_or_insert((seq, publish));
            }
        }
        match found {
            Some((seq, publish)) if count == 1 => {
                publish.fingerprint = None;
                Found::One(seq)
            }
            Some(_) => Found::Several(count),
            None => Found::None,
        }
    }

    /// Links all publishes that may be returned, in buckets for twice as many.
    #[cold]
    fn build(&mut self, mut ring: Ring<'_>) {
        let (len, base) = (ring.0.len(), ring.1);
        self.used = (2 * len).next_power_of_two();
        if self.buckets.len() < self.used {
            self.buckets.resize(self.used, Bucket::default());
        }
        self.buckets.iter_mut().take(self.used).for_each(|bucket| *bucket = Bucket::default());
        for seq in (base..).take(len) {
            self.count();
            self.link(&mut ring, seq);
        }
    }

    /// Appends a publish to its list, if it may be returned.
    fn link(&mut self, ring: &mut Ring<'_>, seq: u64) {
        let Some(publish) = at(ring, seq) else { return };
        publish.next = 0;
        if publish.confirmed {
            publish.fingerprint = None;
        }
        let Some(fingerprint) = publish.fingerprint else { return };
        let place = self.place(fingerprint);
        let Some(bucket) = self.buckets.get_mut(place) else { return };
        let last = core::mem::replace(&mut bucket.last, seq);
        match at(ring, last) {
            Some(before) => before.follow(last, seq),
            None => bucket.first = seq,
        }
    }

    /// Removes the entry between these two from its list.
    fn unlink(&mut self, ring: &mut Ring<'_>, place: usize, before: Option<u64>, next: u64) {
        let Some(bucket) = self.buckets.get_mut(place) else { return };
        match before {
            None => bucket.first = next,
            Some(seq) => {
                if let Some(publish) = at(ring, seq) {
                    publish.follow(seq, next);
                }
            }
        }
        if next == 0 {
            bucket.last = before.unwrap_or(0);
        }
    }

    #[expect(clippy::cast_possible_truncation, reason = "the lower bits are as good as any")]
    const fn place(&self, fingerprint: Fingerprint) -> usize {
        fingerprint.0 as usize & self.used.wrapping_sub(1)
    }

    fn count(&mut self) {
        #[cfg(test)]
        {
            self.steps += 1;
        }
    }
}

impl Outstanding {
    /// Returns the number of the next publish in the list, from the publish's own number; 0 if there is none.
    const fn following(&self, seq: u64) -> u64 {
        if self.next == 0 { 0 } else { seq + self.next as u64 }
    }

    fn follow(&mut self, seq: u64, next: u64) {
        // A distance that does not fit ends the list. There are never that many outstanding publishes.
        self.next = u32::try_from(next.saturating_sub(seq)).unwrap_or(0);
    }
}

#[cfg(test)]
mod tests {
    use alloc::vec::Vec;

    use alloc::boxed::Box;

    use bytes::Bytes;

    use super::*;
    use crate::channel::confirms::Confirms;
    use crate::channel::equals::Attribution;
    use crate::channel::fingerprint::Head;
    use crate::{RawProperties, Returned};

    /// Processes a return: 0 if no outstanding publish matches, `None` if it is not known yet which one it is.
    fn returned(confirms: &mut Confirms, fingerprint: Fingerprint) -> Option<u64> {
        let message = Returned::new(&<_>::default(), &RawProperties::EMPTY, Bytes::new());
        match confirms.returned(fingerprint, Box::new(message)) {
            Attribution::Known(seq, _) => Some(seq.map_or(0, |seq| seq.get())),
            Attribution::Open => None,
        }
    }

    fn fingerprint(number: u64) -> Fingerprint {
        Head::of(b"exchange", b"key", (b"", b"")).body(&number.to_be_bytes())
    }

    /// However returns come, and whatever is confirmed meanwhile, each costs a few steps.
    #[test]
    fn the_cost_of_returns_does_not_grow_with_outstanding_publishes() {
        const COUNT: u64 = 64_000;
        type Order = fn(u64) -> u64;
        let orders: [(&str, Order); 3] = [
            ("in their order", |at| at),
            ("in reverse", |at| COUNT - 1 - at),
            ("at random", |at| at * 7919 % COUNT),
        ];
        for (name, order) in orders {
            for kinds in [1, 10, COUNT] {
                let mut confirms = Confirms::new();
                (0..COUNT).for_each(|at| {
                    confirms.published(Some(fingerprint(at % kinds)));
                });
                let mut found = vec![false; COUNT as usize];
                let mut find = |seq: u64| {
                    let found = &mut found[seq as usize - 1];
                    assert!(!std::mem::replace(found, true), "{name}, {kinds}");
                };
                for at in (0..COUNT).map(order) {
                    let seq = returned(&mut confirms, fingerprint(at % kinds));
                    assert_eq!(seq.is_some(), kinds == COUNT, "{name}, {kinds}");
                    if let Some(seq) = seq {
                        assert_eq!(seq - 1, at, "{name}, {kinds}");
                        find(seq);
                    }
                    // Nor does a return of something that was never published cost more.
                    assert_eq!(returned(&mut confirms, fingerprint(COUNT + at)), Some(0));
                }
                confirms.confirming(COUNT, true, |seq, _| find(seq.get()));
                assert!(found.iter().all(|found| *found), "{name}, {kinds}");
                assert!(confirms.steps() < 8 * COUNT, "{name}, {kinds}: {}", confirms.steps());
            }
        }
    }

    /// Compares the index with a search through all publishes.
    #[test]
    fn of_similar_messages_the_one_confirmed_next_was_returned() {
        let mut random = 1_u64;
        let mut below = |limit: u64| {
            random = random.wrapping_mul(6_364_136_223_846_793_005).wrapping_add(1);
            (random >> 33) % limit
        };
        for kinds in [2, 30, 1000] {
            let mut confirms = Confirms::new();
            // Number, kind, whether it may be returned.
            let mut model: VecDeque<(u64, u64, bool)> = VecDeque::new();
            // Number of messages of each kind that were returned and are not attributed yet.
            let mut open = vec![0_usize; kinds as usize];
            let mut next = 1;
            for _ in 0..40_000 {
                match below(8) {
                    0..=3 => {
                        let kind = below(kinds);
                        let mandatory = below(10) > 0;
                        let seq = confirms.published(mandatory.then(|| fingerprint(kind)));
                        assert_eq!(seq.get(), next);
                        model.push_back((next, kind, mandatory));
                        next += 1;
                    }
                    4 | 5 => {
                        let kind = below(kinds);
                        let own = &mut open[kind as usize];
                        let mut alike: Vec<_> = model
                            .iter_mut()
                            .filter(|(_, own, back)| *back && *own == kind)
                            .collect();
                        let expected = match &mut alike[..] {
                            [only] if *own == 0 => {
                                only.2 = false;
                                Some(only.0)
                            }
                            alike if *own < alike.len() => {
                                *own += 1;
                                None
                            }
                            _ => Some(0),
                        };
                        assert_eq!(returned(&mut confirms, fingerprint(kind)), expected);
                    }
                    choice => {
                        // One of them; or several from the first on, sometimes all.
                        let many = if below(50) == 0 { u64::MAX } else { 3 };
                        let wanted = match choice {
                            6 => model.get(below(model.len() as u64 + 1) as usize),
                            _ => model.iter().take(many as usize).next_back(),
                        };
                        let Some((last, ..)) = wanted.copied() else { continue };
                        let multiple = choice == 7;
                        let confirmed = |seq: u64| seq == last || multiple && seq < last;
                        let mut expected = Vec::new();
                        for (seq, kind, back) in model.iter().filter(|(seq, ..)| confirmed(*seq)) {
                            if *back && open[*kind as usize] > 0 {
                                open[*kind as usize] -= 1;
                                expected.push(*seq);
                            }
                        }
                        let mut reported = Vec::new();
                        confirms.confirming(last, multiple, |seq, _| reported.push(seq.get()));
                        assert_eq!(reported, expected);
                        assert!(confirms.settle(last, multiple, |_| {}));
                        model.retain(|(seq, ..)| !confirmed(*seq));
                        // A message that is confirmed twice is reported once.
                        confirms.confirming(last, false, |seq, _| panic!("{seq}"));
                    }
                }
            }
        }
    }
}
