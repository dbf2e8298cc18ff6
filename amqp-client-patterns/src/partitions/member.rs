//! Members of a group, and the priority that each has for each partition.

use std::cmp::{Ordering, Reverse};
use std::collections::BinaryHeap;
use std::fmt;
use std::hash::{BuildHasher as _, RandomState};
use std::sync::Arc;

use super::Partitions;
use super::key::fnv_1a;

/// A member of a group: it decides which partitions are its own. See [`Partitions::join`].
///
/// Each member has a priority for each partition, which depends on its name or slot only. Of the members that are there, the one with
/// the highest priority gets the partition. So they agree without talking to each other. If one joins, it gets partitions from the
/// others, and nothing moves between them. If one leaves, the others share its partitions, and keep theirs.
///
/// | | Partitions per member | For |
/// |---|---|---|
/// | [`random`](Self::random), [`named`](Self::named) | by chance: with 12 partitions and 5 members, the busiest has 4 of 12 half of the time | any number of members that come and go |
/// | [`slot`](Self::slot), [`any_slot`](Self::any_slot) | equal, or almost | numbered members, and few partitions for each |
///
/// All members of a group have to be of the same kind: names or slots.
///
/// # How the owner is computed
/// This is a part of the format: all members of a group have to agree, whatever language they are written in. Numbers have 64 bits and
/// wrap around. `fnv` is the hash of [`partition_of`](super::partition_of), before it is folded.
///
/// ```text
/// mix(n)    = n XOR (n >> 30), times 0xbf58476d1ce4e5b9;
///             n XOR (n >> 27), times 0x94d049bb133111eb;
///             n XOR (n >> 31)
/// chance    = ((mix(fnv(name) XOR mix(partition + 1)) >> 11) + 0.5) / 2^53
/// x-priority of a name = 2^62 - floor(-ln(chance) / weight * 2^56)
/// x-priority of a name with the weight 0 = 1 + floor(chance * 2^56)
/// ```
///
/// Slots share the partitions by a table. Slot 0 has all of them. Of n partitions, each next slot k takes n / (k + 1), rounded down, one
/// after another: each time from the slot that has most, and of several from the lowest, and there the last one that it got. A later slot
/// that takes a partition has a higher priority for it than all before.
#[derive(Debug, Clone, PartialEq, Eq)]
pub struct Member {
    pub(super) kind: Kind,
    weight: u16,
}

#[derive(Clone, PartialEq, Eq)]
pub(super) enum Kind {
    Named(Arc<[u8]>),
    Slot(u16),
    AnySlot,
}

/// The highest priority of a name.
const HIGHEST: i64 = 1 << 62;

/// The unit of costs. The highest cost is below 40. So all priorities are above 0, and a foreign consumer without a priority gets nothing
/// while there is a member.
const UNIT: f64 = (1u64 << 56) as f64;

impl Member {
    /// A member with a random name. A clone has the same name.
    #[must_use]
    pub fn random() -> Self {
        let random = RandomState::new();
        let numbers = [random.hash_one(0), random.hash_one(1)];
        Self::named(numbers.map(u64::to_be_bytes).concat())
    }

    /// A member with this name, such as that of its host. With the same name, it gets the same partitions after a restart.
    ///
    /// If two members have the same name, one of them gets nothing as long as the other is there.
    #[must_use]
    pub fn named(name: impl AsRef<[u8]>) -> Self {
        Self { kind: Kind::Named(name.as_ref().into()), weight: 1 }
    }

    /// A member in this slot. The members of a group have different slots, from 0 on: the numbers of a `StatefulSet`, for example.
    ///
    /// With slots 0 to n, each of the n + 1 members has an equal number of partitions, or one more or less. If slots are missing, the
    /// numbers differ more. A slot that is not below the number of partitions is a reserve: it gets partitions only if another is missing.
    #[must_use]
    pub const fn slot(slot: u16) -> Self {
        Self { kind: Kind::Slot(slot), weight: 1 }
    }

    /// A member in the lowest [slot](Self::slot) that is free. While it is there, it has an exclusive queue, `orders.slot.0` for
    /// example, which shows the others that the slot is taken. After a loss of the connection, another member may take the slot:
    /// [`GroupEvent::SlotLost`](super::GroupEvent::SlotLost).
    #[must_use]
    pub const fn any_slot() -> Self {
        Self { kind: Kind::AnySlot, weight: 1 }
    }

    /// Sets how many partitions this member gets, compared with the others. Default 1: with a weight of 2, it gets twice as many as a
    /// member with a weight of 1. With 0, it is a reserve: it gets partitions only while no member has a weight. Has no effect on
    /// slots.
    #[must_use]
    pub const fn weight(mut self, weight: u16) -> Self {
        self.weight = weight;
        self
    }

    /// Returns the priorities of this member, by partition. `None` if its slot is not known yet.
    pub(super) fn priorities(&self, partitions: u32) -> Option<Vec<i64>> {
        match &self.kind {
            Kind::Named(name) => {
                let name = fnv_1a(name);
                Some((0..partitions).map(|place| by_hash(name, place, self.weight)).collect())
            }
            Kind::Slot(slot) => Some(by_slot(*slot, partitions)),
            Kind::AnySlot => None,
        }
    }
}

impl Partitions {
    /// Returns the owner of each partition, as an index of `members`, if these are all that have joined. Members in
    /// [any slot](Member::any_slot) are left out, because their slots are not known.
    ///
    /// ```
    /// use amqp_client_patterns::partitions::{Member, Partitions};
    ///
    /// # fn main() -> Result<(), Box<dyn std::error::Error>> {
    /// let orders = Partitions::new("orders", 12)?;
    /// let owners = orders.owners(&[Member::slot(0), Member::slot(1), Member::slot(2)]);
    /// assert_eq!(owners.iter().filter(|owner| **owner == Some(2)).count(), 4);
    /// # Ok(())
    /// # }
    /// ```
    #[must_use]
    pub fn owners(&self, members: &[Member]) -> Vec<Option<usize>> {
        let priorities = members.iter().map(|member| member.priorities(self.count()));
        let known: Vec<_> =
            priorities.enumerate().filter_map(|(at, own)| Some((at, own?))).collect();
        let owner = |place: usize| {
            let highest = known.iter().max_by_key(|(at, own)| (own.get(place), Reverse(*at)))?;
            Some(highest.0)
        };
        (0..self.queues.len()).map(owner).collect()
    }
}

/// A priority by weighted rendezvous hashing: of several members, each is the highest as often as its weight says.
fn by_hash(name: u64, partition: u32, weight: u16) -> i64 {
    let chance = chance(name, partition);
    if weight == 0 {
        // Below all others: their costs are below 64.
        return 1 + (chance * UNIT) as i64;
    }
    HIGHEST - (-chance.ln() / f64::from(weight) * UNIT) as i64
}

/// A number between 0 and 1, but neither of them, which depends on both hash and partition.
fn chance(hash: u64, partition: u32) -> f64 {
    let mixed = mixed(hash ^ mixed(u64::from(partition) + 1));
    ((mixed >> 11) as f64 + 0.5) / (1u64 << 53) as f64
}

/// Mixes all bits of a number: the finalizer of `splitmix64`.
const fn mixed(number: u64) -> u64 {
    let number = (number ^ (number >> 30)).wrapping_mul(0xbf58_476d_1ce4_e5b9);
    let number = (number ^ (number >> 27)).wrapping_mul(0x94d0_49bb_1331_11eb);
    number ^ (number >> 31)
}

/// The priorities of a slot.
///
/// The table says which slots take a partition from each other, one after another. Of two of them, the later one has the higher priority,
/// and a slot that does not take it is below the last one before it that does. So if all slots up to any number are there, the last one
/// that takes a partition has it. If a slot is missing, all others share its partitions by chance.
fn by_slot(slot: u16, partitions: u32) -> Vec<i64> {
    let hash = fnv_1a(&slot.to_be_bytes());
    let table = Table::new(slot, partitions);
    let priority = |(partition, Place { takers, takes, next })| {
        // The slot that loses the partition to another stands for all slots before that one, because they cannot get it before this one.
        let (band, weight) = match (takes, next) {
            (false, _) => (takers, 1),
            (true, Some(next)) => (takers + 2, next),
            (true, None) => (takers + 2, u16::MAX),
        };
        i64::from(band) * BAND
            + (chance(hash, partition).powf(1.0 / f64::from(weight)) * BAND as f64) as i64
    };
    (0..).zip(table.0).map(priority).collect()
}

/// The number of priorities between two slots that take a partition one after the other.
const BAND: i64 = 1 << 48;

/// For one slot, what happens to each partition.
struct Table(Vec<Place>);

#[derive(Debug, Clone, Copy, Default)]
struct Place {
    /// The number of slots before this one that take the partition.
    takers: u32,
    /// This slot takes it.
    takes: bool,
    /// The first slot after this one that takes it.
    next: Option<u16>,
}

impl Table {
    /// Slot 0 takes all partitions. Each next slot takes its share from those before it, one partition at a time, always from the slot
    /// that has most.
    fn new(slot: u16, partitions: u32) -> Self {
        let first = Place { takers: u32::from(slot > 0), takes: slot == 0, next: None };
        let mut places = vec![first; partitions as usize];
        let mut owned: Vec<Vec<u32>> = vec![(0..partitions).collect()];
        let mut fullest = BinaryHeap::from([(partitions, Reverse(0))]);
        for taker in 1..=u16::MAX {
            let share = partitions / (u32::from(taker) + 1);
            if share == 0 {
                break;
            }
            let mut own = Vec::with_capacity(share as usize);
            for _ in 0..share {
                let Some((count, Reverse(from))) = fullest.pop() else { break };
                fullest.push((count - 1, Reverse(from)));
                own.extend(owned.get_mut(usize::from(from)).and_then(Vec::pop));
            }
            for partition in &own {
                if let Some(place) = places.get_mut(*partition as usize) {
                    match taker.cmp(&slot) {
                        Ordering::Less => place.takers += 1,
                        Ordering::Equal => place.takes = true,
                        Ordering::Greater => place.next = place.next.or(Some(taker)),
                    }
                }
            }
            fullest.push((share, Reverse(taker)));
            owned.push(own);
        }
        Self(places)
    }
}

impl fmt::Debug for Kind {
    fn fmt(&self, f: &mut fmt::Formatter<'_>) -> fmt::Result {
        match self {
            Self::Named(name) => write!(f, "Named({})", name.escape_ascii()),
            Self::Slot(slot) => write!(f, "Slot({slot})"),
            Self::AnySlot => f.write_str("AnySlot"),
        }
    }
}

#[cfg(test)]
mod tests {
    use super::*;

    fn partitions(count: u32) -> Partitions {
        Partitions::new("p", count).expect("a name")
    }

    fn named(members: u32) -> Vec<Member> {
        (0..members).map(|number| Member::named(format!("member-{number}"))).collect()
    }

    fn slots(members: u16) -> Vec<Member> {
        (0..members).map(Member::slot).collect()
    }

    /// The number of partitions of each member.
    fn counts(count: u32, members: &[Member]) -> Vec<u32> {
        let mut counts = vec![0; members.len()];
        for owner in partitions(count).owners(members) {
            counts[owner.expect("somebody is there")] += 1;
        }
        counts
    }

    #[test]
    fn only_the_partitions_of_a_member_that_comes_or_goes_move() {
        for members in [named(20), slots(20)] {
            for count in [1, 12, 96, 1000] {
                let partitions = partitions(count);
                let all = partitions.owners(&members);
                for gone in 0..members.len() {
                    let mut rest = members.clone();
                    rest.remove(gone);
                    let later = partitions.owners(&rest);
                    for (before, after) in all.iter().zip(later) {
                        let after = after.map(|at| at + usize::from(at >= gone));
                        assert!(*before == after || *before == Some(gone), "{gone} of {members:?}");
                    }
                }
            }
        }
    }

    #[test]
    fn slots_share_equally() {
        for count in [1, 7, 12, 64, 96, 1000] {
            for members in 1..=40 {
                let counts = counts(count, &slots(members));
                let (least, most) = (counts.iter().min(), counts.iter().max());
                assert!(
                    most.zip(least).is_some_and(|(most, least)| most - least <= 1),
                    "{members} share {count}: {counts:?}"
                );
            }
        }
    }

    #[test]
    fn a_missing_slot_is_shared_by_the_others() {
        for (count, members) in [(12, 3), (12, 5), (96, 5), (96, 12), (1000, 20)] {
            for missing in 0..members {
                let mut rest = slots(members);
                rest.remove(usize::from(missing));
                let counts = counts(count, &rest);
                let most = f64::from(*counts.iter().max().expect("somebody is there"));
                let fair = f64::from(count) / f64::from(members - 1);
                assert!(most / fair <= 1.7, "{count}, {members} without {missing}: {counts:?}");
            }
        }
    }

    #[test]
    fn members_get_partitions_by_their_weight() {
        let mut members = named(9);
        members[8] = members[8].clone().weight(8);
        let counts = counts(16_000, &members);
        // Of 16 shares, one has eight. The deviation is below 65.
        assert!((7_600..8_400).contains(&counts[8]), "{counts:?}");
        assert!(counts[..8].iter().all(|count| (700..1_300).contains(count)), "{counts:?}");
    }

    #[test]
    fn a_weight_of_0_is_a_reserve() {
        let mut members = named(3);
        members[1] = members[1].clone().weight(0);
        assert_eq!(counts(1_000, &members)[1], 0);
        let reserves = named(2).into_iter().map(|member| member.weight(0)).collect::<Vec<_>>();
        assert!(counts(1_000, &reserves).iter().all(|count| *count > 400));
    }

    #[test]
    fn every_member_comes_before_a_consumer_without_a_priority() {
        let kinds = [Member::named("m"), Member::named("").weight(u16::MAX), Member::slot(0)];
        for member in kinds.into_iter().chain([Member::slot(u16::MAX), Member::random()]) {
            let priorities = member.priorities(65_536).expect("its slot is known");
            assert!(priorities.iter().all(|priority| *priority > 0), "{member:?}");
        }
        assert_eq!(Member::any_slot().priorities(12), None);
    }

    fn taken(slot: u16, partitions: u32) -> Vec<u32> {
        let places = (0..).zip(Table::new(slot, partitions).0);
        places.filter(|(_, place)| place.takes).map(|(partition, _)| partition).collect()
    }

    /// All members of a group compute them, perhaps in different versions of this library.
    #[test]
    fn the_priorities_do_not_change() {
        let near = |found: i64, expected: i64| (found - expected).abs() < 1 << 10;
        let found = Member::named("member-1").weight(3).priorities(3).expect("a name");
        assert!(found.iter().zip(FIXED).all(|(found, old)| near(*found, old)), "{found:?}");
        assert_eq!(taken(0, 4), [0, 1, 2, 3]);
        assert_eq!(taken(1, 4), [2, 3]);
        assert_eq!(taken(3, 12), TAKEN_BY_3);
        assert!(taken(u16::MAX, 12).is_empty());
    }

    const FIXED: [i64; 3] =
        [4_603_080_282_236_484_523, 4_586_463_471_401_538_612, 4_550_508_525_511_946_568];
    const TAKEN_BY_3: [u32; 3] = [3, 7, 8];
}
