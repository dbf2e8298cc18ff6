//! Fingerprints, by which returned messages are recognized.

/// Recognizes a message among those that are outstanding.
///
/// Messages of equal fingerprints are the same to every receiver; see [`equals`](super::equals) for which of them was returned.
/// Each mandatory message is hashed as a whole, so this has to be fast. Messages whose fingerprints collide can only be confused
/// with each other.
#[derive(Debug, Clone, Copy, PartialEq, Eq, PartialOrd, Ord)]
pub(crate) struct Fingerprint(pub(super) u64);

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

#[cfg(test)]
mod tests {
    use alloc::vec;
    use alloc::vec::Vec;

    use super::*;

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
}
