//! Which partition has a key, and who has a partition: computed from the documentation of `Member` and `partition_of` alone. Nothing
//! here calls the library, so that the two can differ.

/// A member, as the ledger knows it.
#[derive(Debug, Clone, PartialEq, Eq)]
pub(crate) enum Kind {
    /// Its name decides, with this weight.
    Named {
        weight: u16,
    },
    Slot(u16),
}

/// The partition of a key.
pub(crate) fn partition_of(key: &str, partitions: u32) -> u32 {
    let hash = fnv(key.as_bytes());
    let folded = (hash ^ (hash >> 32)) % u64::from(partitions);
    u32::try_from(folded).unwrap_or(0)
}

/// The owner of each partition, by the number of the member.
pub(crate) fn owners(members: &[(String, Kind)], partitions: u32) -> Vec<Option<usize>> {
    let table = by_slots(members, partitions);
    let owner = |partition: u32| {
        table.as_ref().map_or_else(
            || by_names(members, partition),
            |table| table.get(partition as usize).copied(),
        )
    };
    (0..partitions).map(owner).collect()
}

/// The member whose cost is lowest.
fn by_names(members: &[(String, Kind)], partition: u32) -> Option<usize> {
    let cost = |(name, kind): &(String, Kind)| match kind {
        Kind::Named { weight } => {
            let mixed = mix(fnv(name.as_bytes()) ^ mix(u64::from(partition) + 1));
            let chance = ((mixed >> 11) as f64 + 0.5) / 9_007_199_254_740_992.0;
            -chance.ln() / f64::from(*weight)
        }
        Kind::Slot(_) => f64::INFINITY,
    };
    let costs = members.iter().map(cost).enumerate();
    costs.min_by(|(_, one), (_, other)| one.total_cmp(other)).map(|(member, _)| member)
}

/// Slot 0 has all partitions. Each next slot takes its share, one by one: the partition that the slot with most of them got last. `None` if
/// a slot is missing.
fn by_slots(members: &[(String, Kind)], partitions: u32) -> Option<Vec<usize>> {
    let mut slots = Vec::new();
    for slot in 0..members.len() {
        slots.push(members.iter().position(|(_, kind)| *kind == Kind::Slot(slot as u16))?);
    }
    let mut owned: Vec<Vec<u32>> = vec![(0..partitions).collect()];
    for slot in 1..slots.len() {
        let mut own = Vec::new();
        for _ in 0..partitions as usize / (slot + 1) {
            // The first one of several.
            let most = owned.iter().map(Vec::len).max()?;
            let fullest = owned.iter_mut().find(|owned| owned.len() == most)?;
            own.extend(fullest.pop());
        }
        owned.push(own);
    }
    let mut owners = vec![0; partitions as usize];
    for (slot, owned) in owned.iter().enumerate() {
        for partition in owned {
            owners[*partition as usize] = *slots.get(slot)?;
        }
    }
    Some(owners)
}

fn fnv(bytes: &[u8]) -> u64 {
    let mut hash = 14_695_981_039_346_656_037_u64;
    for byte in bytes {
        hash = (hash ^ u64::from(*byte)).wrapping_mul(1_099_511_628_211);
    }
    hash
}

/// The finalizer of splitmix64.
fn mix(mut number: u64) -> u64 {
    number = (number ^ (number >> 30)).wrapping_mul(0xbf58_476d_1ce4_e5b9);
    number = (number ^ (number >> 27)).wrapping_mul(0x94d0_49bb_1331_11eb);
    number ^ (number >> 31)
}

#[cfg(test)]
mod tests {
    use amqp_client_patterns::partitions::{Member, Partitions, partition_of as of_library};

    use super::*;

    #[test]
    fn the_library_does_what_it_documents() {
        for partitions in [1, 2, 3, 12, 100] {
            for key in (0..100).map(|key| format!("customer-{key}")) {
                assert_eq!(partition_of(&key, partitions), of_library(key.as_bytes(), partitions));
            }
            let orders = Partitions::new("orders", partitions).expect("a name");
            let named = |member: usize| {
                (format!("m{member}"), Kind::Named { weight: 1 + member as u16 % 3 })
            };
            let slot = |member: usize| (String::new(), Kind::Slot(member as u16));
            for count in 1..12 {
                let members: Vec<_> = (0..count).map(named).collect();
                let known = members.iter().map(|(name, kind)| match kind {
                    Kind::Named { weight } => Member::named(name).weight(*weight),
                    Kind::Slot(slot) => Member::slot(*slot),
                });
                assert_eq!(owners(&members, partitions), orders.owners(&known.collect::<Vec<_>>()));
                let known: Vec<_> = (0..count).map(|slot| Member::slot(slot as u16)).collect();
                let members: Vec<_> = (0..count).map(slot).collect();
                assert_eq!(
                    owners(&members, partitions),
                    orders.owners(&known),
                    "{partitions} {count}"
                );
            }
        }
    }
}
