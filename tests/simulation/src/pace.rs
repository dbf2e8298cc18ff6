//! Checks how often a client connects, and how long it waits before.

use std::collections::VecDeque;
use std::time::{Duration, Instant};

/// The time over which connections are counted.
const WINDOW: Duration = Duration::from_secs(60);

/// The recovery policy of a client, and its recent attempts.
#[derive(Debug, Clone)]
pub(crate) struct Pace {
    delay_min: Duration,
    delay_max: Duration,
    nodes: usize,
    connected: VecDeque<Instant>,
}

impl Pace {
    /// The documented defaults of recovery.
    pub(crate) const DEFAULT: (Duration, Duration) =
        (Duration::from_millis(100), Duration::from_secs(5));

    pub(crate) fn new(delays: (Duration, Duration), nodes: usize) -> Self {
        Self { delay_min: delays.0, delay_max: delays.1, nodes, connected: VecDeque::new() }
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
        let (count, most) = (self.connected.len() as u128, self.most());
        match count > most {
            true => Err(format!("a client connected {count} times in {WINDOW:?}, at most {most}")),
            false => Ok(()),
        }
    }

    /// Returns the largest number of connections within the window. One that is lost soon makes its node wait twice as long
    /// as before, at least half of the longest delay in the end; one that lasts as long as that lets the node begin anew.
    fn most(&self) -> u128 {
        let longest = self.delay_max.as_millis().max(1);
        let doublings =
            u128::from((longest / self.delay_min.as_millis().max(1)).max(1).ilog2()) + 3;
        let (window, nodes) = (WINDOW.as_millis(), self.nodes as u128);
        nodes * ((window / longest + 1) * doublings + 2 * window / longest)
    }
}
