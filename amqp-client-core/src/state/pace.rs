use std::time::{Duration, Instant};

/// Steps without a turn of the driver after which a task yields: yielding then costs little for each step.
const YIELD_AFTER_STEPS: u32 = 64;

/// The time after which a task yields. Less than a millisecond is not noticeable, and yielding costs little compared with that
/// much work.
const YIELD_AFTER: Duration = Duration::from_millis(1);

/// How many steps there are between two looks at the clock, at most. A task that was fast and then takes 100 ms for each step
/// is noticed after 1.6 s, once; from then on it looks at each step.
const CLOCK_STRIDE: u32 = 16;

/// Finds out whether a task that never waits keeps the driver from running, as when both share a thread: nobody would write
/// its acknowledgements and heartbeats then. Such a task yields, by count and by time.
///
/// It looks at the clock at each step of a task that takes its time, and at every 16th of one that does not.
#[derive(Debug)]
pub(crate) struct Pace {
    /// Steps until the next look.
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
pub(crate) enum Look {
    /// The driver runs, or has not waited for long.
    Fine,
    /// The driver has had no turn for many steps.
    Often,
    /// The driver has had no turn for a long time.
    Long,
}

impl Default for Pace {
    fn default() -> Self {
        Self { left: 1, stride: 1, steps: 0, since: None, turns: 0 }
    }
}

impl Pace {
    /// Counts a step. Returns whether it is time for a [`look`](Self::look).
    #[inline]
    pub(crate) const fn step(&mut self) -> bool {
        self.left = self.left.saturating_sub(1);
        self.left == 0
    }

    /// Compares the driver's turns and the time, if there is a clock, with those of the last look.
    #[cold]
    pub(crate) fn look(&mut self, turns: u64, now: Option<Instant>) -> Look {
        let passed = now.zip(self.since).map(|(now, since)| now.saturating_duration_since(since));
        let long = passed.is_some_and(|passed| passed >= YIELD_AFTER);
        self.steps += self.stride;
        self.stride = if long { 1 } else { (self.stride * 2).min(CLOCK_STRIDE) };
        self.left = self.stride;
        let driver_ran = std::mem::replace(&mut self.turns, turns) != turns;
        let found = if driver_ran {
            Look::Fine
        } else if long {
            Look::Long
        } else if self.steps >= YIELD_AFTER_STEPS {
            Look::Often
        } else {
            // Time and steps go on adding up.
            self.since = self.since.or(now);
            return Look::Fine;
        };
        (self.since, self.steps) = (now, 0);
        found
    }
}

#[cfg(test)]
mod tests {
    use super::*;

    /// Steps of a task that takes so long for each, with a driver that runs or does not. Returns at which ones it yields.
    fn yields(pace: &mut Pace, count: u32, each: Duration, driver_runs: bool) -> Vec<(u32, Look)> {
        let (mut now, mut turns) = (pace.since.unwrap_or_else(Instant::now), pace.turns);
        let steps = (0..count).filter_map(|step| {
            now += each;
            turns += u64::from(driver_runs);
            let found = if pace.step() { pace.look(turns, Some(now)) } else { Look::Fine };
            (found != Look::Fine).then_some((step, found))
        });
        steps.collect()
    }

    #[test]
    fn a_task_that_takes_its_time_yields_at_each_step() {
        for each in [YIELD_AFTER, Duration::from_millis(10), Duration::from_secs(5)] {
            let found = yields(&mut Pace::default(), 100, each, false);
            assert!(found.len() >= 97, "{found:?}");
            assert!(found.iter().all(|(_, found)| *found == Look::Long));
        }
    }

    #[test]
    fn a_fast_task_yields_by_count_and_one_in_between_by_time() {
        let found = yields(&mut Pace::default(), 1000, Duration::from_nanos(200), false);
        assert!((10..=16).contains(&found.len()), "{found:?}");
        assert!(found.iter().all(|(_, found)| *found == Look::Often));
        let found = yields(&mut Pace::default(), 1000, Duration::from_micros(100), false);
        assert!(found.len() > 50, "{found:?}");
        assert!(found.iter().all(|(_, found)| *found == Look::Long));
    }

    #[test]
    fn a_task_that_becomes_slow_is_noticed_soon() {
        let mut pace = Pace::default();
        yields(&mut pace, 1000, Duration::from_nanos(200), false);
        let found = yields(&mut pace, 100, Duration::from_millis(10), false);
        assert!(found[0].0 < CLOCK_STRIDE, "{found:?}");
        assert!(found.len() > 80, "{found:?}");
    }

    #[test]
    fn no_task_yields_while_the_driver_runs() {
        for each in [Duration::from_nanos(200), Duration::from_millis(10)] {
            assert_eq!(yields(&mut Pace::default(), 1000, each, true), []);
        }
    }

    #[test]
    fn without_a_clock_steps_count() {
        let mut pace = Pace::default();
        let looks = (0..1000).filter(|_| pace.step() && pace.look(7, None) != Look::Fine);
        assert!((10..=16).contains(&looks.count()));
    }
}
