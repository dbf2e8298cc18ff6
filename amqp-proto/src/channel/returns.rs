//! Which publish a `basic.return` returns: the method does not say, so the message is recognized by all of it.

use alloc::collections::VecDeque;
use alloc::vec::Vec;

use super::confirms::Outstanding;

/// Recognizes a message among those that are outstanding.
///
/// Messages of equal fingerprints are the same to every receiver; see [`equals`](super::equals) for which of them came back. Each mandatory message is hashed as a whole, so this has to be fast. Whoever
/// finds messages that collide can only have them taken for each other.
#[derive(Debug, Clone, Copy, PartialEq, Eq, PartialOrd, Ord)]
pub(crate) struct Fingerprint(u64);

/// The fingerprint of everything but the body.
#[derive(Debug, Clone, Copy, PartialEq, Eq)]
pub(crate) struct Head([u64; 4]);

impl Head {
    pub(crate) fn of(
        exchange: &[u8],
        routing_key: &[u8],
        (message_id, correlation_id): (&[u8], &[u8]),
    ) -> Self {
        let parts = [exchange, routing_key, message_id, correlation_id];
        // At most 255 bytes each. The lengths are hashed, so that the bytes of one part are not confused with those of another.
        let lengths = parts.iter().fold(0, |lengths, part| lengths << 8 | part.len() as u64);
        let head = Self([SEED ^ lengths, SEED, SEED, SEED]);
        parts.into_iter().filter(|part| !part.is_empty()).fold(head, Self::with)
    }

    #[inline]
    pub(crate) fn body(mut self, body: &[u8]) -> Fingerprint {
        self.0[1] ^= body.len() as u64;
        let Self([a, b, c, d]) = self.with(body);
        Fingerprint(mix(mix(a, b), mix(c, d)))
    }

    /// Adds the bytes of one part.
    #[inline]
    fn with(self, bytes: &[u8]) -> Self {
        let Self([mut a, mut b, mut c, mut d]) = self;
        let mut blocks = bytes.chunks_exact(64);
        for block in &mut blocks {
            // Four multiplications that do not depend on each other.
            let word = |at: usize| block.get(at..).map_or(0, word);
            a = mix(a ^ word(0), word(8));
            b = mix(b ^ word(16), word(24));
            c = mix(c ^ word(32), word(40));
            d = mix(d ^ word(48), word(56));
        }
        let mut pairs = blocks.remainder().chunks_exact(16);
        for pair in &mut pairs {
            a = mix(a ^ word(pair), pair.get(8..).map_or(0, word));
        }
        let rest = pairs.remainder();
        if !rest.is_empty() {
            // The last eight bytes may be read twice: the length, which is part of the hash, makes that unambiguous.
            a = mix(a ^ word(rest), rest.last_chunk().map_or(0, |last| u64::from_le_bytes(*last)));
        }
        Self([a, b, c, d])
    }
}

/// Any odd numbers with bits all over.
const SEED: u64 = 0x243f_6a88_85a3_08d3;
const MULTIPLIER: u64 = 0x9e37_79b9_7f4a_7c15;

/// Mixes 16 more bytes into a hash.
#[expect(clippy::cast_possible_truncation, reason = "both halves are used")]
const fn mix(hash: u64, word: u64) -> u64 {
    let product = (hash ^ SEED) as u128 * (word ^ MULTIPLIER) as u128;
    (product as u64) ^ ((product >> 64) as u64)
}

/// The first eight bytes as a number, or all if there are fewer.
#[inline]
fn word(bytes: &[u8]) -> u64 {
    if let Some(first) = bytes.first_chunk() {
        return u64::from_le_bytes(*first);
    }
    match (bytes.first_chunk(), bytes.last_chunk()) {
        (Some(first), Some(last)) => {
            u64::from(u32::from_le_bytes(*first)) | u64::from(u32::from_le_bytes(*last)) << 32
        }
        _ => bytes.iter().fold(0, |word, byte| word << 8 | u64::from(*byte)),
    }
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
    /// Those in use are the first ones, a power of two.
    buckets: Vec<Bucket>,
    /// How many are in use; 0 if the index is not built.
    used: usize,
    /// How many publishes were looked at.
    #[cfg(test)]
    pub(super) steps: u64,
}

/// The numbers of the first and the last publish in a list; 0 if there is none.
#[derive(Debug, Clone, Copy, Default)]
struct Bucket {
    first: u64,
    last: u64,
}

/// Which outstanding publishes have a fingerprint.
#[derive(Debug, Clone, Copy, PartialEq, Eq)]
pub(super) enum Found {
    None,
    /// Its number.
    One(u64),
    /// How many.
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
            self.outbound(&mut ring, seq);
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
            self.outbound(&mut ring, seq);
        }
    }

    /// Appends a publish to its list, if it may be returned.
    fn outbound(&mut self, ring: &mut Ring<'_>, seq: u64) {
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
    use alloc::vec;
    use alloc::vec::Vec;

    use alloc::boxed::Box;

    use bytes::Bytes;

    use super::*;
    use crate::channel::confirms::Confirms;
    use crate::channel::equals::Attribution;
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

    #[test]
    fn every_byte_and_every_boundary_counts() {
        let parts = [&b"exchange"[..], b"routing.key", b"message", b"correlation"];
        let of = |parts: [&[u8]; 4], body: &[u8]| {
            Head::of(parts[0], parts[1], (parts[2], parts[3])).body(body)
        };
        let mut all = Vec::new();
        for len in (0..150).chain([1000]) {
            let body: Vec<_> = (0..len).map(|at: usize| at as u8).collect();
            all.push(of(parts, &body));
            for at in 0..len {
                for bit in [1, 0x80] {
                    let mut other = body.clone();
                    other[at] ^= bit;
                    all.push(of(parts, &other));
                }
            }
        }
        // Sequences of zeros differ by their lengths.
        all.extend((0..200).map(|len| of([b"", b"", b"", b""], &vec![0; len])));
        for moved in 0..3 {
            let (mut from, mut to) = (parts[moved].to_vec(), parts[moved + 1].to_vec());
            to.insert(0, from.pop().expect("it is not empty"));
            let mut other = parts;
            (other[moved], other[moved + 1]) = (&from, &to);
            all.push(of(other, b"body"));
        }
        all.push(of([parts[1], parts[0], parts[2], parts[3]], b"body"));
        let count = all.len();
        all.sort_unstable_by_key(|fingerprint| fingerprint.0);
        all.dedup();
        assert_eq!(all.len(), count);
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
            // How many messages of each kind were returned and are not attributed yet.
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
                        let mut told = Vec::new();
                        confirms.confirming(last, multiple, |seq, _| told.push(seq.get()));
                        assert_eq!(told, expected);
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
