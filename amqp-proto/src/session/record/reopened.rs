//! How often a channel was reopened lately, which decides how long it is left closed the next time.

use core::time::Duration;

use crate::time::Instant;

/// How often a channel was opened again lately.
#[derive(Debug, Default)]
pub(crate) struct Reopened {
    /// How often in a row it was closed soon after.
    pub(crate) failures: u32,
    /// How long it was left closed the last time.
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
