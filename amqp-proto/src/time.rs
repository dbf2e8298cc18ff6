//! Points in time.
//!
//! With the feature `std`, which is on by default, [`Instant`] is the standard library's type. Without it, [`Instant`] is the
//! time since a point that the embedder chooses, such as the start of the machine, and has the few operations that the protocol
//! needs.

#[cfg(feature = "std")]
pub use std::time::Instant;

#[cfg(not(feature = "std"))]
pub use own::Instant;

use core::time::Duration;

/// Stands for "never": 30 years, which can be added to any time of any platform's clock.
pub(crate) const NEVER: Duration = Duration::from_secs(30 * 365 * 24 * 60 * 60);

#[cfg(not(feature = "std"))]
mod own {
    use core::ops::{Add, AddAssign};
    use core::time::Duration;

    /// A point in time: the duration since a point that the embedder has chosen.
    #[derive(Debug, Clone, Copy, PartialEq, Eq, PartialOrd, Ord, Hash)]
    pub struct Instant(Duration);

    impl Instant {
        /// Returns the instant `time` after the start of this clock.
        #[must_use]
        pub const fn after_start(time: Duration) -> Self {
            Self(time)
        }

        /// Returns the instant `time` later; `None` on overflow.
        #[must_use]
        pub const fn checked_add(self, time: Duration) -> Option<Self> {
            match self.0.checked_add(time) {
                Some(time) => Some(Self(time)),
                None => None,
            }
        }

        /// Returns how much later this is than `earlier`; zero, if it is not.
        #[must_use]
        pub const fn saturating_duration_since(self, earlier: Self) -> Duration {
            self.0.saturating_sub(earlier.0)
        }

        /// Returns how much later this is than `earlier`; zero, if it is not.
        #[must_use]
        pub const fn duration_since(self, earlier: Self) -> Duration {
            self.saturating_duration_since(earlier)
        }
    }

    impl Add<Duration> for Instant {
        type Output = Self;

        /// The last time there is, if that would be beyond it.
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
        fn it_counts_from_where_one_likes_and_does_not_overflow() {
            let second = Duration::from_secs(1);
            let start = Instant::after_start(second);
            assert_eq!((start + second).duration_since(start), second);
            assert_eq!(start.saturating_duration_since(start + second), Duration::ZERO);
            assert_eq!(start.checked_add(Duration::MAX), None);
            let mut last = start + Duration::MAX;
            last += second;
            assert_eq!(last, Instant::after_start(Duration::MAX));
            assert!(start < last);
        }

        #[test]
        fn a_connection_keeps_time_by_it() {
            use crate::{Connection, TimerReason};
            let start = Instant::after_start(Duration::ZERO);
            let mut client = Connection::client(alloc::sync::Arc::default(), start);
            let (due, reason) = client.poll_timeout().expect("the handshake has a limit");
            assert_eq!(reason, TimerReason::Handshake);
            client.handle_timeout(due);
            assert!(client.check().is_err());
            client.handle_transport_failure("gone");
        }
    }
}
