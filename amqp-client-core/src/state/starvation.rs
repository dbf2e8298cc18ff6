use std::time::{Duration, Instant};

/// Number of steps after which a task yields if the driver had no turn meanwhile. At each yield, the driver writes what the task
/// has queued, such as acknowledgements. With 64 steps, acknowledging cost a third more. A slow task yields earlier, by time.
const YIELD_AFTER_STEPS: u32 = 1024;

/// Replaces [`YIELD_AFTER_STEPS`] if the runtime has no clock. Then a slow task cannot yield by time, so it yields after fewer steps.
const YIELD_AFTER_UNTIMED_STEPS: u32 = 64;

/// The time after which a task yields. Less than a millisecond is not noticeable, and yielding costs little compared with that
/// much work.
const YIELD_AFTER: Duration = Duration::from_millis(1);

/// Maximum number of steps between two reads of the clock. A task that was fast and then takes 100 ms for each step is noticed
/// after 1.6 s, once; from then on, the clock is read at each step.
const CLOCK_STRIDE: u32 = 16;

/// Finds out whether a task that never waits keeps the driver from running, as when both share a thread: nobody would write
/// its acknowledgements and heartbeats then. Such a task yields, by count and by time.
///
/// It reads the clock at each step of a slow task, and at every 16th step of a fast one.
#[derive(Debug)]
pub(crate) struct StarvationWatch {
    /// Steps until the next check.
    left: u32,
    stride: u32,
    /// Steps since `since`.
    steps: u32,
    /// When the driver was last seen to have had a turn, or the task last yielded.
    since: Option<Instant>,
    /// The driver's turns by then.
    turns: u64,
}

/// The result of a check.
#[derive(Debug, Clone, Copy, PartialEq, Eq)]
pub(crate) enum Starvation {
    /// The driver runs, or has not waited for long.
    None,
    /// The driver has had no turn for many steps.
    BySteps,
    /// The driver has had no turn for a long time.
    ByTime,
}

impl Default for StarvationWatch {
    fn default() -> Self {
        Self { left: 1, stride: 1, steps: 0, since: None, turns: 0 }
    }
}

impl StarvationWatch {
    /// Counts a step. Returns whether it is time for a [`check`](Self::check).
    #[inline]
    pub(crate) const fn count_step(&mut self) -> bool {
        self.left = self.left.saturating_sub(1);
        self.left == 0
    }

    /// Compares the driver's turns and the time, if there is a clock, with those of the last check.
    #[cold]
    pub(crate) fn check(&mut self, turns: u64, now: Option<Instant>) -> Starvation {
        let passed = now.zip(self.since).map(|(now, since)| now.saturating_duration_since(since));
        let long = passed.is_some_and(|passed| passed >= YIELD_AFTER);
        self.steps += self.stride;
        self.stride = if long { 1 } else { (self.stride * 2).min(CLOCK_STRIDE) };
        self.left = self.stride;
        let many = if now.is_some() { YIELD_AFTER_STEPS } else { YIELD_AFTER_UNTIMED_STEPS };
        let driver_ran = std::mem::replace(&mut self.turns, turns) != turns;
        let found = if driver_ran {
            Starvation::None
        } else if long {
            Starvation::ByTime
        } else if self.steps >= many {
            Starvation::BySteps
        } else {
            // Time and steps continue to add up.
            self.since = self.since.or(now);
            return Starvation::None;
        };
        (self.since, self.steps) = (now, 0);
        found
    }
}

#[cfg(test)]
mod tests {
    use super::*;

    /// Steps of a task that takes so long for each, with a driver that runs or does not. Returns at which ones it yields.
    fn yields(
        watch: &mut StarvationWatch,
        count: u32,
        each: Duration,
        driver_runs: bool,
    ) -> Vec<(u32, Starvation)> {
        let (mut now, mut turns) = (watch.since.unwrap_or_else(Instant::now), watch.turns);
        let steps = (0..count).filter_map(|step| {
            now += each;
            turns += u64::from(driver_runs);
            let found =
                if watch.count_step() { watch.check(turns, Some(now)) } else { Starvation::None };
            (found != Starvation::None).then_some((step, found))
        });
        steps.collect()
    }

    #[test]
    fn a_task_that_takes_its_time_yields_at_each_step() {
        for each in [YIELD_AFTER, Duration::from_millis(10), Duration::from_secs(5)] {
            let found = yields(&mut StarvationWatch::default(), 100, each, false);
            assert!(found.len() >= 97, "{found:?}");
            assert!(found.iter().all(|(_, found)| *found == Starvation::ByTime));
        }
    }

    #[test]
    fn a_fast_task_yields_by_count_and_one_in_between_by_time() {
        let found =
            yields(&mut StarvationWatch::default(), 16_000, Duration::from_nanos(200), false);
        assert!((10..=16).contains(&found.len()), "{found:?}");
        assert!(found.iter().all(|(_, found)| *found == Starvation::BySteps));
        let found =
            yields(&mut StarvationWatch::default(), 1000, Duration::from_micros(100), false);
        assert!(found.len() > 50, "{found:?}");
        assert!(found.iter().all(|(_, found)| *found == Starvation::ByTime));
    }

    #[test]
    fn a_task_that_becomes_slow_is_noticed_soon() {
        let mut watch = StarvationWatch::default();
        yields(&mut watch, 1000, Duration::from_nanos(200), false);
        let found = yields(&mut watch, 100, Duration::from_millis(10), false);
        assert!(found[0].0 < CLOCK_STRIDE, "{found:?}");
        assert!(found.len() > 80, "{found:?}");
    }

    #[test]
    fn no_task_yields_while_the_driver_runs() {
        for each in [Duration::from_nanos(200), Duration::from_millis(10)] {
            assert_eq!(yields(&mut StarvationWatch::default(), 1000, each, true), []);
        }
    }

    #[test]
    fn without_a_clock_steps_count() {
        let mut watch = StarvationWatch::default();
        let looks =
            (0..1000).filter(|_| watch.count_step() && watch.check(7, None) != Starvation::None);
        assert!((10..=16).contains(&looks.count()));
    }
}
