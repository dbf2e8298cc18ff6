//! Which partition has a key. This is a part of the format: all publishers of a set of partitions have to agree.

/// Returns the partition of a key, out of `partitions`: the FNV-1a hash of its bytes, folded, modulo their number.
///
/// ```
/// use amqp_client_patterns::partitions::partition_of;
///
/// assert_eq!(partition_of(b"customer-4711", 12), 1);
/// ```
///
/// In any other language, with unsigned numbers of 64 bits that wrap around:
///
/// ```text
/// hash = 0xcbf29ce484222325
/// for each byte of the key: hash = (hash XOR byte) * 0x100000001b3
/// partition = (hash XOR (hash >> 32)) MOD partitions
/// ```
///
/// Without the fold, a number of partitions that is a power of two would use only the lowest bits of each byte: those of
/// `A` and `a` are the same.
#[must_use]
pub fn partition_of(key: &[u8], partitions: u32) -> u32 {
    let hash = fnv_1a(key);
    let folded = hash ^ (hash >> 32);
    // Less than `partitions`, so it fits.
    u32::try_from(folded % u64::from(partitions.max(1))).unwrap_or_default()
}

/// The hash FNV-1a of 64 bits.
pub(super) fn fnv_1a(bytes: &[u8]) -> u64 {
    bytes.iter().fold(0xcbf2_9ce4_8422_2325, |hash, byte| {
        (hash ^ u64::from(*byte)).wrapping_mul(0x0100_0000_01b3)
    })
}

#[cfg(test)]
mod tests {
    use super::*;

    #[test]
    fn the_hash_is_that_of_its_definition() {
        // Values of the authors' test suite.
        assert_eq!(fnv_1a(b""), 0xcbf2_9ce4_8422_2325);
        assert_eq!(fnv_1a(b"a"), 0xaf63_dc4c_8601_ec8c);
        assert_eq!(fnv_1a(b"foobar"), 0x8594_4171_f739_67e8);
    }

    #[test]
    fn keys_spread_as_by_chance() {
        type Keys = fn(u32) -> String;
        let kinds: [Keys; 4] = [
            |number| number.to_string(),
            |number| format!("customer-{number:08}"),
            |number| format!("{:016X}", u64::from(number).wrapping_mul(0x9e37_79b9_7f4a_7c15)),
            |number| format!("{number}/orders/eu-west-1"),
        ];
        for (kind, key) in kinds.into_iter().enumerate() {
            for partitions in [2, 3, 8, 12, 16, 64, 100, 1024] {
                let mean = 200;
                let mut counts = vec![0u32; partitions as usize];
                for number in 0..partitions * mean {
                    counts[partition_of(key(number).as_bytes(), partitions) as usize] += 1;
                }
                // The mean is 200 and the deviation 14: by chance, one count of a million is more than five deviations away.
                let (least, most) = (counts.iter().min(), counts.iter().max());
                let within = least > Some(&(mean - 71)) && most < Some(&(mean + 71));
                assert!(within, "kind {kind}, {partitions}: {least:?} to {most:?}");
            }
        }
    }

    #[test]
    fn the_format_does_not_change() {
        let keys: [&[u8]; 5] = [b"", b"a", b"customer-4711", b"\xff\x00", "äöü".as_bytes()];
        let found: Vec<_> = keys.iter().map(|key| partition_of(key, 12)).collect();
        assert_eq!(found, [9, 4, 1, 1, 6]);
    }
}
