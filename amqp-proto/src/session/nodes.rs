use alloc::vec::Vec;
use core::time::Duration;

use super::policy::{LEAST_DELAY, Recovery};
use crate::time::{Instant, NEVER};

/// The nodes of a broker, and when each may be tried next.
#[derive(Debug)]
pub(super) struct Nodes {
    nodes: Vec<Node>,
    chance: Chance,
    delay_min: Duration,
    delay_max: Duration,
}

#[derive(Debug, Clone, Copy)]
struct Node {
    /// Its position in the shuffled order.
    rank: u64,
    not_before: Instant,
    /// Number of consecutive times that it could not be reached, or refused the session.
    failures: u32,
    /// Number of consecutive connections to it that were lost soon.
    early_losses: u32,
}

impl Nodes {
    pub(super) fn new(count: usize, recovery: &Recovery, now: Instant) -> Self {
        let node = Node { rank: 0, not_before: now, failures: 0, early_losses: 0 };
        Self {
            nodes: alloc::vec![node; count],
            chance: Chance(recovery.seed.unwrap_or_else(|| entropy(now))),
            delay_min: recovery.delay_min.min(recovery.delay_max).clamp(LEAST_DELAY, NEVER),
            delay_max: recovery.delay_max.clamp(LEAST_DELAY, NEVER),
        }
    }

    /// Returns the node to try next, and when.
    pub(super) fn next(&self) -> Option<(usize, Instant)> {
        let key = |(_, node): &(usize, &Node)| (node.not_before, node.rank);
        let (index, node) = self.nodes.iter().enumerate().min_by_key(key)?;
        Some((index, node.not_before))
    }

    /// Notes the loss of a connection to that node, which lasted that long. The node is tried last, and all others in a new order.
    ///
    /// If one connection after the other is lost soon, the cause may be something that each of them begins with. So the backoff of
    /// the node grows each time; otherwise recovery would loop as fast as it can.
    pub(super) fn lost(&mut self, node: usize, now: Instant, lasted: Duration) {
        for index in 0..self.nodes.len() {
            let rank = self.chance.next();
            // Nodes that failed recently keep their backoff.
            let delay = self.chance.up_to(self.delay_min / 2);
            if let Some(node) = self.nodes.get_mut(index) {
                node.rank = rank;
                node.not_before = node.not_before.max(later(now, delay));
            }
        }
        let soon = lasted < self.delay_max;
        let Some(early_losses) = self.nodes.get_mut(node).map(|node| {
            node.early_losses = if soon { node.early_losses.saturating_add(1) } else { 0 };
            node.early_losses
        }) else {
            return;
        };
        let delay = match early_losses {
            0 | 1 => self.delay_min / 2 + self.chance.up_to(self.delay_min / 2),
            losses => self.backoff(losses),
        };
        if let Some(node) = self.nodes.get_mut(node) {
            node.not_before = later(now, delay);
        }
    }

    /// Notes that the node could not be reached, or refused the session.
    pub(super) fn failed(&mut self, node: usize, now: Instant) {
        let Some(failures) = self.nodes.get_mut(node).map(|node| {
            node.failures = node.failures.saturating_add(1);
            node.failures
        }) else {
            return;
        };
        let delay = self.backoff(failures);
        if let Some(node) = self.nodes.get_mut(node) {
            node.not_before = later(now, delay);
        }
    }

    /// Returns the backoff after that many consecutive failures.
    pub(super) fn backoff(&mut self, failures: u32) -> Duration {
        let doubled = 1u32.checked_shl(failures.saturating_sub(1)).unwrap_or(u32::MAX);
        let delay = self.delay_min.saturating_mul(doubled).min(self.delay_max);
        delay / 2 + self.chance.up_to(delay / 2)
    }

    /// Notes that the node works.
    pub(super) fn worked(&mut self, node: usize) {
        if let Some(node) = self.nodes.get_mut(node) {
            node.failures = 0;
        }
    }
}

fn later(now: Instant, delay: Duration) -> Instant {
    let at = now.checked_add(delay);
    debug_assert!(at.is_some(), "{delay:?} is at most {NEVER:?}");
    at.unwrap_or(now)
}

/// Returns a seed for a session without a configured seed.
#[cfg(feature = "std")]
fn entropy(_: Instant) -> u64 {
    use std::hash::{BuildHasher as _, Hasher as _, RandomState};
    RandomState::new().build_hasher().finish()
}

#[cfg(not(feature = "std"))]
fn entropy(now: Instant) -> u64 {
    let since_start = now.duration_since(Instant::START);
    since_start.as_secs().rotate_left(32) ^ u64::from(since_start.subsec_nanos())
}

/// A pseudorandom number generator (SplitMix64).
#[derive(Debug)]
struct Chance(u64);

impl Chance {
    const fn next(&mut self) -> u64 {
        self.0 = self.0.wrapping_add(0x9e37_79b9_7f4a_7c15);
        let mut mixed = self.0;
        mixed = (mixed ^ (mixed >> 30)).wrapping_mul(0xbf58_476d_1ce4_e5b9);
        mixed = (mixed ^ (mixed >> 27)).wrapping_mul(0x94d0_49bb_1331_11eb);
        mixed ^ (mixed >> 31)
    }

    fn up_to(&mut self, limit: Duration) -> Duration {
        // A resolution of 1/1024 is fine enough, and cannot overflow.
        let part = u32::try_from(self.next() % 1025).unwrap_or_default();
        limit / 1024 * part
    }
}

#[cfg(all(test, feature = "std"))]
mod tests {
    use super::*;

    const DELAY: Duration = Duration::from_millis(100);

    #[expect(clippy::disallowed_methods, reason = "virtual time has to start somewhere")]
    fn nodes(count: usize, seed: u64) -> (Nodes, Instant) {
        let now = Instant::now();
        (Nodes::new(count, &Recovery { seed: Some(seed), ..Recovery::default() }, now), now)
    }

    #[test]
    fn a_node_that_fails_is_left_alone_for_longer_and_longer() {
        let (mut nodes, now) = nodes(1, 7);
        for failures in 0..20 {
            nodes.failed(0, now);
            let (_, at) = nodes.next().expect("there is one");
            let full = (DELAY * 2u32.pow(failures.min(15))).min(Duration::from_secs(5));
            assert!(at >= now + full / 2 && at <= now + full, "{failures}: {:?}", at - now);
        }
        nodes.worked(0);
        nodes.failed(0, now);
        assert!(nodes.next().expect("there is one").1 <= now + DELAY);
    }

    #[test]
    fn there_is_a_pause_with_any_delays() {
        let (zero, most) = (Duration::ZERO, Duration::MAX);
        for (delay_min, delay_max) in [(zero, zero), (zero, most), (most, zero), (most, most)] {
            let recovery = Recovery { delay_min, delay_max, ..Recovery::default() };
            let (_, now) = nodes(1, 7);
            let mut nodes = Nodes::new(1, &recovery, now);
            for _ in 0..100 {
                nodes.failed(0, now);
                let (_, at) = nodes.next().expect("there is one");
                assert!(at >= now + LEAST_DELAY / 2, "{delay_min:?} to {delay_max:?}");
                nodes.lost(0, now, zero);
                let (_, at) = nodes.next().expect("there is one");
                assert!(at >= now + LEAST_DELAY / 2, "{delay_min:?} to {delay_max:?}");
            }
        }
    }

    #[test]
    fn after_a_loss_the_other_nodes_come_first_in_random_order() {
        let mut firsts = [0; 4];
        for seed in 0..200 {
            let (mut nodes, now) = nodes(4, seed);
            nodes.lost(2, now, Duration::from_secs(60));
            let (first, at) = nodes.next().expect("there are four");
            assert!(at <= now + DELAY / 2);
            firsts[first] += 1;
            nodes.failed(first, now);
            assert_ne!(nodes.next().expect("there are four").0, first);
        }
        assert_eq!(firsts[2], 0);
        assert!(firsts.iter().enumerate().all(|(node, count)| node == 2 || *count > 20));
    }
}
