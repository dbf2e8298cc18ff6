//! The recent reopenings of a channel, which determine the delay before the next one.

use core::time::Duration;

use crate::time::Instant;

/// The recent reopenings of a channel.
#[derive(Debug, Default)]
pub(crate) struct Reopened {
    /// Number of consecutive times that it was closed soon afterwards.
    pub(crate) failures: u32,
    /// The last delay before it was reopened.
    pub(crate) delay: Duration,
    /// Since when the channel is open again, if it is.
    pub(crate) since: Option<Instant>,
}

/// A channel that is closed within that time of its return is closed for the same reason again, whatever the delays are: the
/// broker cannot close it sooner than a round trip after it is open.
const SAME_CAUSE_WITHIN: Duration = Duration::from_secs(1);

impl Reopened {
    /// The channel is closed. Returns whether it was open long enough that the earlier close cannot be the reason.
    pub(crate) fn was_stable(&mut self, now: Instant, delay_min: Duration) -> bool {
        let enough = self.delay.saturating_mul(2).max(delay_min).max(SAME_CAUSE_WITHIN);
        self.since.take().is_some_and(|since| now.duration_since(since) >= enough)
    }
}
