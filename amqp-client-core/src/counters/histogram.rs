use std::fmt;
use std::time::Duration;

/// Buckets: one for each power of two from 1 µs to 2^30 µs, which is 18 minutes, and one for longer times.
const BUCKETS: usize = 32;

/// A distribution of times, in buckets whose bounds are powers of two of a microsecond.
///
/// A [`percentile`](Self::percentile) is therefore at most twice as long as the true one, or 1 µs if that is longer.
///
/// ```no_run
/// # use amqp_client_core as amqp_client_tokio;
/// # use amqp_client_tokio::Connection;
/// use amqp_client_tokio::Histogram;
///
/// # fn example(connection: Connection) {
/// let times: Histogram = connection.counters().confirm_times;
/// println!("{} confirms, 99 % of them within {:?}", times.count(), times.percentile(99.0));
///
/// // Prometheus counts all values up to a bound, so the counts are added up.
/// let mut total = 0;
/// for (bound, count) in times.buckets() {
///     total += count;
///     println!("amqp_confirm_seconds_bucket{{le=\"{}\"}} {total}", bound.as_secs_f64());
/// }
/// println!("amqp_confirm_seconds_sum {}", times.sum().as_secs_f64());
/// # }
/// ```
#[derive(Clone, Copy, PartialEq, Eq)]
pub struct Histogram {
    buckets: [u64; BUCKETS],
    count: u64,
    /// In microseconds.
    sum: u64,
    max: u64,
}

impl Default for Histogram {
    fn default() -> Self {
        Self { buckets: [0; BUCKETS], count: 0, sum: 0, max: 0 }
    }
}

impl Histogram {
    /// Counts `count` equal times.
    pub(crate) fn record(&mut self, time: Duration, count: u64) {
        let micros = u64::try_from(time.as_micros()).unwrap_or(u64::MAX);
        // Times up to 1 µs are in bucket 0, up to 2 µs in bucket 1, up to 4 µs in bucket 2.
        let bits = u64::BITS - micros.saturating_sub(1).leading_zeros();
        let last = BUCKETS - 1;
        let index = usize::try_from(bits).map_or(last, |bits| bits.min(last));
        if let Some(bucket) = self.buckets.get_mut(index) {
            *bucket += count;
        }
        self.count += count;
        self.sum = self.sum.saturating_add(micros.saturating_mul(count));
        self.max = self.max.max(micros);
    }

    pub(crate) fn add(&mut self, other: &Self) {
        self.buckets.iter_mut().zip(other.buckets).for_each(|(own, other)| *own += other);
        self.count += other.count;
        self.sum = self.sum.saturating_add(other.sum);
        self.max = self.max.max(other.max);
    }

    /// Returns the number of times.
    #[must_use]
    pub const fn count(&self) -> u64 {
        self.count
    }

    /// Returns the sum of all times.
    #[must_use]
    pub const fn sum(&self) -> Duration {
        Duration::from_micros(self.sum)
    }

    /// Returns the longest time; zero if there is none.
    #[must_use]
    pub const fn max(&self) -> Duration {
        Duration::from_micros(self.max)
    }

    /// Returns a time that `percent` percent of the times do not exceed: the upper bound of a bucket, or the longest time if that is
    /// shorter. If `percent` is 0 or less, returns the bound of the shortest time's bucket. If it is 100 or more, returns the longest
    /// time. `None` if there are no times, or if `percent` is not a number (NaN).
    #[must_use]
    pub fn percentile(&self, percent: f64) -> Option<Duration> {
        if percent.is_nan() {
            return None;
        }
        let (all, mut below) = (self.count as f64, 0);
        let bucket = self.buckets().find(|(_, count)| {
            below += count;
            // The multiplication comes first: 29 % of 100 is not exact the other way round.
            below > 0 && below as f64 * 100.0 >= percent * all
        });
        // Without one, `percent` is above 100.
        let bound = bucket.map_or(Duration::MAX, |(bound, _)| bound);
        (self.count > 0).then(|| bound.min(self.max()))
    }

    /// Returns the buckets, from short to long times. Each has its upper bound and the number of its times. A time that equals the
    /// bound is in the bucket. The last bucket has no limit: its bound is [`Duration::MAX`]. Empty buckets are included, so the bounds
    /// are always the same.
    pub fn buckets(&self) -> impl Iterator<Item = (Duration, u64)> + use<> {
        let bounds = (0..BUCKETS - 1).map(|bits| Duration::from_micros(1 << bits));
        bounds.chain([Duration::MAX]).zip(self.buckets)
    }
}

/// Shows the most important values, without the buckets, for log lines.
impl fmt::Debug for Histogram {
    fn fmt(&self, f: &mut fmt::Formatter<'_>) -> fmt::Result {
        f.debug_struct("Histogram")
            .field("count", &self.count)
            .field("p50", &self.percentile(50.0).unwrap_or_default())
            .field("p99", &self.percentile(99.0).unwrap_or_default())
            .field("max", &self.max())
            .finish_non_exhaustive()
    }
}

#[cfg(test)]
mod tests {
    use super::*;

    const fn micros(micros: u64) -> Duration {
        Duration::from_micros(micros)
    }

    #[test]
    fn each_time_is_in_the_bucket_whose_bound_it_does_not_exceed() {
        let longest = micros(1 << 30);
        let table = [
            (Duration::ZERO, micros(1)),
            (Duration::from_nanos(1999), micros(1)),
            (micros(1), micros(1)),
            (micros(2), micros(2)),
            (micros(3), micros(4)),
            (micros(4), micros(4)),
            (micros(5), micros(8)),
            (micros(1000), micros(1024)),
            (longest - micros(1), longest),
            (longest, longest),
            (longest + micros(1), Duration::MAX),
            (Duration::MAX, Duration::MAX),
        ];
        for (time, bound) in table {
            let mut histogram = Histogram::default();
            histogram.record(time, 3);
            let filled: Vec<_> = histogram.buckets().filter(|(_, count)| *count > 0).collect();
            assert_eq!(filled, [(bound, 3)], "{time:?}");
        }
    }

    #[test]
    fn percentiles_are_bounds_of_buckets_and_never_above_the_longest() {
        let mut histogram = Histogram::default();
        assert_eq!(histogram.percentile(50.0), None);
        (1..=100).for_each(|time| histogram.record(micros(time), 1));
        let table = [
            (f64::NEG_INFINITY, 1),
            (0.0, 1),
            (1.0, 1),
            (2.0, 2),
            (29.0, 32),
            (32.0, 32),
            (32.1, 64),
            (64.0, 64),
            (65.0, 100),
            (100.0, 100),
            (f64::INFINITY, 100),
        ];
        for (percent, time) in table {
            assert_eq!(histogram.percentile(percent), Some(micros(time)), "{percent} %");
        }
        assert_eq!(histogram.percentile(f64::NAN), None);
        assert_eq!((histogram.count(), histogram.sum()), (100, micros(5050)));
    }

    #[test]
    fn sums_have_all_times_and_do_not_overflow() {
        let (mut one, mut other) = (Histogram::default(), Histogram::default());
        one.record(micros(7), 1);
        other.record(Duration::MAX, 2);
        one.add(&other);
        assert_eq!((one.count(), one.sum(), one.max()), (3, micros(u64::MAX), micros(u64::MAX)));
        assert_eq!(one.buckets().map(|(_, count)| count).sum::<u64>(), 3);
    }
}
