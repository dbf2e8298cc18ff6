//! Checks how often a client connects, and how long it waits before.

use std::collections::VecDeque;
use std::time::{Duration, Instant};

/// The time over which connections are counted.
const WINDOW: Duration = Duration::from_secs(60);

/// The shortest delay that a policy can set.
const LEAST_DELAY: Duration = Duration::from_millis(1);

/// The recovery policy of a client, and its recent attempts.
#[derive(Debug, Clone)]
pub(crate) struct Pace {
    delay_min: Duration,
    delay_max: Duration,
    nodes: usize,
    connected: VecDeque<Instant>,
    /// The largest number of connections within the window, once it is known.
    most: Option<usize>,
}

impl Pace {
    /// The documented defaults of recovery.
    pub(crate) const DEFAULT: (Duration, Duration) =
        (Duration::from_millis(100), Duration::from_secs(5));

    pub(crate) fn new(delays: (Duration, Duration), nodes: usize) -> Self {
        let (delay_min, delay_max) = delays;
        Self { delay_min, delay_max, nodes, connected: VecDeque::new(), most: None }
    }

    /// There is nothing to do before `wake_at`: the next attempt must not be further away than the longest delay.
    pub(crate) fn waits(&self, now: Instant, wake_at: Option<Instant>) -> Result<(), String> {
        let wait = wake_at.map(|at| at.saturating_duration_since(now));
        match wait.filter(|wait| *wait <= self.delay_max) {
            Some(_) => Ok(()),
            None => {
                Err(format!("a client waits {wait:?} to connect, at most {:?}", self.delay_max))
            }
        }
    }

    /// There is another connection.
    pub(crate) fn connects(&mut self, now: Instant) -> Result<(), String> {
        self.connected.push_back(now);
        while self.connected.front().is_some_and(|at| now - *at > WINDOW) {
            self.connected.pop_front();
        }
        // Each node has its own backoff.
        let most = *self.most.get_or_insert_with(|| {
            let longest = self.delay_max.max(LEAST_DELAY);
            self.nodes * most_of_a_node(self.delay_min.clamp(LEAST_DELAY, longest), longest)
        });
        let count = self.connected.len();
        match count > most {
            true => Err(format!("a client connected {count} times in {WINDOW:?}, at most {most}")),
            false => Ok(()),
        }
    }
}

/// Returns the largest number of connections to a node within the window.
///
/// A node has two backoffs, for connections that are lost soon and for those that do not get that far. Each doubles from the
/// shortest delay to the longest, and at least half of it passes. A connection that is open ends the backoff of the other kind, and
/// one that lasts as long as the longest delay ends both. So a client connects most often with some sequence of the three. Step by
/// step, this finds the shortest time in which each pair of backoffs can be reached with one connection more.
fn most_of_a_node(shortest: Duration, longest: Duration) -> usize {
    let doublings = (longest.as_nanos() / shortest.as_nanos()).ilog2() as usize + 2;
    let wait = |count: usize| (shortest * (1 << (count - 1).min(doublings))).min(longest) / 2;
    let next = |count: usize| (count + 1).min(doublings);
    let never = WINDOW * 2;
    let mut reached = vec![vec![never; doublings + 1]; doublings + 1];
    reached[0][0] = Duration::ZERO;
    for connections in 1.. {
        let mut then = vec![vec![never; doublings + 1]; doublings + 1];
        for (lost, times) in reached.iter().enumerate() {
            for (failed, time) in times.iter().enumerate().filter(|(_, time)| **time <= WINDOW) {
                let (more_lost, more_failed) = (next(lost), next(failed));
                for (lost, failed, takes) in [
                    (lost, more_failed, wait(more_failed)),
                    (more_lost, 0, wait(more_lost)),
                    (0, 0, longest + wait(1)),
                ] {
                    let own = &mut then[lost][failed];
                    *own = (*own).min(*time + takes);
                }
            }
        }
        reached = then;
        if reached.iter().flatten().all(|time| *time > WINDOW) {
            return connections;
        }
    }
    usize::MAX
}

#[cfg(test)]
mod tests {
    use super::*;

    #[test]
    fn a_node_with_one_delay_is_connected_to_twice_within_it() {
        let delay = Duration::from_secs(1);
        assert_eq!(most_of_a_node(delay, delay), 121);
    }

    #[test]
    fn failures_and_losses_that_alternate_count() {
        let (shortest, longest) = Pace::DEFAULT;
        let most = most_of_a_node(shortest, longest);
        // As many as if only one of the backoffs grew, and at most one after each shortest delay.
        assert!((25..200).contains(&most), "{most}");
    }
}
