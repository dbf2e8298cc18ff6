//! Measures how long messages take, without a clock in the handles and without a time for each message.

use std::collections::VecDeque;
use std::time::Instant;

use crate::counters::Histogram;

/// Number of runs that are remembered. If there are more, a run is merged with the run before it, unless that changes its age by more
/// than an eighth. About 170 runs are left if the oldest is a billion times as old as the newest.
const RUNS_MAX: usize = 256;

/// The times at which numbered messages were written or taken: the publishes of a channel, or its deliveries.
///
/// Messages that the same turn of the driver wrote, or that a consumer took at once, form a run with one time. Only the first
/// message of a run does more than compare a few numbers.
///
/// An example: 1 to 100 are published before the driver's turn at 12:00:01, and 101 to 150 before its turn at 12:00:02. There are
/// two runs. The confirm of 1 to 120 is read at 12:00:03. It adds 100 times of 2 s and 20 times of 1 s to the histogram.
#[derive(Debug, Default)]
pub(crate) struct Ages {
    /// The first number of each run and its time, oldest first. A run ends where the next one begins. The last run has no time until
    /// the driver's turn.
    runs: VecDeque<(u64, Option<Instant>)>,
    /// The run of the message that ended last. The next message is most often of the same run.
    current: Current,
    /// Messages of other runs that ended since the last [`flush`](Self::flush): when they began, and how many.
    ended: Vec<(Instant, u64)>,
}

#[derive(Debug, Default)]
struct Current {
    first: u64,
    /// Number of messages in the run; 0 after a flush, so that the run of the next message is looked up.
    length: u64,
    at: Option<Instant>,
    /// Messages of this run that ended since the last flush.
    ended: u64,
}

impl Ages {
    /// A consumer takes messages; `first` is the first of them. `at` is the time of the last turn.
    #[cold]
    pub(crate) fn taken(&mut self, first: u64, at: Option<Instant>) {
        if self.runs.back().is_none_or(|(last, _)| first >= *last) {
            return self.begin(first, at);
        }
        // If several consumers share a channel, one may take older messages later than another took newer ones. Nothing says which
        // of the messages between these two are whose. So they are not timed: the time of an earlier run would be wrong.
        let next = self.runs.partition_point(|(number, _)| *number < first);
        let is_full = self.runs.len() >= RUNS_MAX;
        match self.runs.get_mut(next) {
            Some((number, at)) if *number == first => *at = None,
            _ if !is_full => self.runs.insert(next, (first, None)),
            // The other messages of that run lose their time as well, which is rare.
            _ => self.runs.range_mut(..next).next_back().into_iter().for_each(|(_, at)| *at = None),
        }
        // The run in use may be the one that was cut. The next message looks it up again.
        self.current.length = 0;
    }

    /// Begins a run with the message `number`. If `at` is `None`, its time is that of the next [`turn`](Self::turn).
    #[cold]
    pub(crate) fn begin(&mut self, number: u64, at: Option<Instant>) {
        // Messages that are sent again after a loss belong to the run in which they were sent first.
        if self.runs.back().is_some_and(|(first, last)| number <= *first || *last == at) {
            return;
        }
        // The run in use may be the last one, and ends here.
        self.current.length = self.current.length.min(number.saturating_sub(self.current.first));
        if self.runs.len() >= RUNS_MAX {
            self.merge();
        }
        self.runs.push_back((number, at));
    }

    fn merge(&mut self) {
        let Some(newest) = self.runs.back().and_then(|(_, at)| *at) else { return };
        let mut before: Option<Instant> = None;
        self.runs.retain(|(_, at)| {
            let (Some(at), Some(before)) = (at, &mut before) else {
                before = *at;
                return true;
            };
            let age = newest.saturating_duration_since(*at);
            let stays = at.saturating_duration_since(*before) > age / 8 || age.is_zero();
            *before = if stays { *at } else { *before };
            stays
        });
        // Merging may leave too many runs, if their times differ by much: then the oldest are forgotten.
        self.runs.drain(..self.runs.len().saturating_sub(RUNS_MAX - 1));
    }

    /// All messages have ended: forgets their runs.
    pub(crate) fn forget_all(&mut self) {
        self.runs.clear();
    }

    /// The driver has its turn: it writes the last run.
    pub(crate) fn turn(&mut self, now: Instant) {
        if let Some((_, at)) = self.runs.back_mut() {
            at.get_or_insert(now);
        }
    }

    /// Ends a message. Returns true for the first one since the last [`flush`](Self::flush), and now and then for others.
    #[inline]
    pub(crate) fn end(&mut self, number: u64) -> bool {
        let is_other = number.wrapping_sub(self.current.first) >= self.current.length;
        if is_other {
            self.look_up(number);
        }
        self.current.ended += 1;
        is_other
    }

    #[cold]
    fn look_up(&mut self, number: u64) {
        self.ended.extend(self.current.take());
        let next = self.runs.partition_point(|(first, _)| *first <= number);
        let run = next.checked_sub(1).and_then(|index| self.runs.get(index));
        // A message from before the first run is not timed.
        let (first, at) = run.map_or((0, None), |(first, at)| (*first, *at));
        let end = self.runs.get(next).map_or(u64::MAX, |(first, _)| *first);
        self.current = Current { first, length: end - first, at, ended: 0 };
    }

    /// Returns whether messages have ended since the last flush.
    pub(crate) fn has_ended(&self) -> bool {
        self.current.ended > 0 || !self.ended.is_empty()
    }

    /// Records the times of the messages that ended since the last flush. Their end is `now`.
    pub(crate) fn flush(&mut self, now: Instant, times: &mut Histogram) {
        for (at, count) in self.ended.drain(..).chain(self.current.take()) {
            times.record(now.saturating_duration_since(at), count);
        }
        self.current.length = 0;
    }
}

impl Current {
    fn take(&mut self) -> Option<(Instant, u64)> {
        let ended = std::mem::take(&mut self.ended);
        self.at.filter(|_| ended > 0).map(|at| (at, ended))
    }
}

#[cfg(test)]
mod tests {
    use std::time::Duration;

    use super::*;

    const SECOND: Duration = Duration::from_secs(1);

    /// Returns how many times there are, and their sum in seconds.
    fn flushed(ages: &mut Ages, now: Instant) -> (u64, u64) {
        let mut times = Histogram::default();
        ages.flush(now, &mut times);
        (times.count(), times.sum().as_secs())
    }

    #[test]
    fn each_message_counts_from_the_time_of_its_run() {
        let (mut ages, began) = (Ages::default(), Instant::now());
        ages.begin(1, None);
        ages.turn(began);
        ages.begin(101, None);
        ages.turn(began + SECOND);
        let firsts: Vec<_> = (1..=120).filter(|number| ages.end(*number)).collect();
        assert_eq!(firsts, [1, 101], "the first of each run is looked up");
        assert_eq!(flushed(&mut ages, began + 2 * SECOND), (120, 220));
        assert_eq!(flushed(&mut ages, began + 3 * SECOND), (0, 0));
        // In any order, and a run that begins behind the one in use.
        assert!(ages.end(150));
        ages.begin(151, Some(began + 4 * SECOND));
        assert!(ages.end(151));
        assert!(ages.end(50));
        assert_eq!(flushed(&mut ages, began + 5 * SECOND), (3, 4 + 1 + 5));
    }

    #[test]
    fn messages_that_are_taken_later_than_newer_ones_get_no_older_time() {
        let (mut ages, began) = (Ages::default(), Instant::now());
        ages.taken(1, Some(began));
        ages.taken(10, Some(began + SECOND));
        assert!(ages.end(2), "it belongs to the first run");
        ages.taken(5, Some(began + 2 * SECOND));
        // Of these, 4 belongs to the first run, 5 and 9 to nobody knows which, and 11 to the second run.
        for number in [4, 5, 9, 11] {
            ages.end(number);
        }
        assert_eq!(flushed(&mut ages, began + 3 * SECOND), (3, 3 + 3 + 2));
        // The same message once more, and more than can be remembered.
        ages.taken(5, Some(began + 3 * SECOND));
        for first in (0..2000).rev() {
            ages.taken(20 + first, Some(began + u32::try_from(first).expect("small") * SECOND));
        }
        assert!(ages.runs.len() <= RUNS_MAX);
        ages.end(20);
        assert_eq!(flushed(&mut ages, began + 4000 * SECOND), (0, 0));
    }

    #[test]
    fn what_was_never_written_or_is_too_old_has_no_time() {
        let (mut ages, began) = (Ages::default(), Instant::now());
        assert!(ages.end(7));
        assert_eq!(flushed(&mut ages, began), (0, 0));
        ages.begin(8, None);
        assert!(ages.end(8));
        assert!(ages.end(7));
        assert_eq!(flushed(&mut ages, began), (0, 0));
    }

    #[test]
    fn old_runs_are_merged_and_their_times_stay_nearly_right() {
        let (mut ages, began) = (Ages::default(), Instant::now());
        let runs = 100_000;
        for run in 0..runs {
            ages.begin(u64::from(run) + 1, Some(began + run * SECOND));
        }
        assert!(ages.runs.len() <= RUNS_MAX);
        let now = began + runs * SECOND;
        for run in [0, 1, 1000, 50_000, 90_000, 99_000, runs - 8, runs - 1] {
            ages.end(u64::from(run) + 1);
            let (age, (count, time)) = (u64::from(runs - run), flushed(&mut ages, now));
            assert_eq!(count, 1);
            assert!((age..=age + age / 4 + 1).contains(&time), "{time} s instead of {age} s");
        }
    }
}
