//! Points in time.
//!
//! With the feature `std`, which is on by default, [`Instant`] is the standard library's type, so that `Instant::now()` fits.
//! Without it, [`Instant`] is a type of this crate. A program that makes its instants with a [`Clock`] compiles with and without
//! the feature: every operation of this crate's type is also one of the standard library's.
//!
//! ```
//! use amqp_proto::Connection;
//! use amqp_proto::time::Clock;
//! use std::sync::Arc;
//! use std::time::Duration;
//!
//! # fn milliseconds_since_reset() -> u64 { 5 }
//! let clock = Clock::new();
//! let now = clock.at(Duration::from_millis(milliseconds_since_reset()));
//! let connection = Connection::client(Arc::default(), now);
//! let (due, _) = connection.poll_timeout().expect("the handshake has a timeout");
//! assert_eq!(due.saturating_duration_since(now), Duration::from_secs(20));
//! ```

#[cfg(feature = "std")]
pub use std::time::Instant;

#[cfg(not(feature = "std"))]
pub use own::Instant;

use core::time::Duration;

/// Stands for "never": 30 years, which can be added to any time of any platform's clock.
pub(crate) const NEVER: Duration = Duration::from_secs(30 * 365 * 24 * 60 * 60);

/// Converts durations to instants and back, for programs that have a timer of their own: one that counts from the reset of the
/// machine, or the virtual time of a test.
///
/// A clock does not move by itself. Two instants can be compared if the same clock, or a copy of it, made them.
#[derive(Debug, Clone, Copy)]
pub struct Clock {
    start: Instant,
}

impl Clock {
    /// Creates a clock. Its start is an arbitrary point in time.
    #[must_use]
    pub fn new() -> Self {
        #[cfg(feature = "std")]
        #[expect(clippy::disallowed_methods, reason = "there is no other way to make one of these")]
        let start = Instant::now();
        #[cfg(not(feature = "std"))]
        let start = Instant::START;
        Self { start }
    }

    /// Returns the instant `time` after the start of this clock. With the feature `std`, this is at most 30 years after the start
    /// if the system cannot represent a later one.
    #[must_use]
    pub fn at(&self, time: Duration) -> Instant {
        self.start.checked_add(time).unwrap_or_else(|| self.start + NEVER)
    }

    /// Returns how long after the start of this clock an instant is; zero if it is before the start.
    #[must_use]
    pub fn since_start(&self, at: Instant) -> Duration {
        at.saturating_duration_since(self.start)
    }
}

impl Default for Clock {
    fn default() -> Self {
        Self::new()
    }
}

#[cfg(not(feature = "std"))]
mod own {
    use core::ops::{Add, AddAssign};
    use core::time::Duration;

    /// A point in time. With the feature `std`, this is the type of the standard library.
    ///
    /// A [`Clock`](super::Clock) makes instants. The methods take what those of the standard library take.
    #[derive(Debug, Clone, Copy, PartialEq, Eq, PartialOrd, Ord, Hash)]
    pub struct Instant(Duration);

    impl Instant {
        /// The start of every clock.
        pub(crate) const START: Self = Self(Duration::ZERO);

        /// Returns the instant `time` later; `None` on overflow.
        #[must_use]
        pub fn checked_add(&self, time: Duration) -> Option<Self> {
            self.0.checked_add(time).map(Self)
        }

        /// Returns how much later this is than `earlier`; zero, if it is not.
        #[must_use]
        pub fn saturating_duration_since(&self, earlier: Self) -> Duration {
            self.0.saturating_sub(earlier.0)
        }

        /// Returns how much later this is than `earlier`; zero, if it is not.
        #[must_use]
        pub fn duration_since(&self, earlier: Self) -> Duration {
            self.saturating_duration_since(earlier)
        }
    }

    impl Add<Duration> for Instant {
        type Output = Self;

        /// Returns the last representable instant if the result would be later. The standard library's type panics in that case.
        fn add(self, time: Duration) -> Self {
            Self(self.0.saturating_add(time))
        }
    }

    impl AddAssign<Duration> for Instant {
        fn add_assign(&mut self, time: Duration) {
            *self = *self + time;
        }
    }

    #[cfg(test)]
    mod tests {
        use super::*;

        #[test]
        fn sums_do_not_overflow() {
            let second = Duration::from_secs(1);
            let last = Instant::START + second + Duration::MAX;
            assert_eq!(last, Instant(Duration::MAX));
            assert_eq!(last.checked_add(second), None);
            assert_eq!(Instant::START.duration_since(last), Duration::ZERO);
        }
    }
}
