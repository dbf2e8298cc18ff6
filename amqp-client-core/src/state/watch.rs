//! Checks for the log whether the application makes progress. If it makes none, the connection works, and no other line reports it.

use std::time::{Duration, Instant};

use super::State;

/// The time between two checks. The driver has a turn with each heartbeat at least.
const EVERY: Duration = Duration::from_secs(10);

/// The time of the next check.
#[derive(Debug, Default)]
pub(super) struct Watch(Option<Instant>);

impl State {
    /// The driver has a turn: checks the channels if it is time.
    #[inline]
    pub(crate) fn log_progress(&mut self, now: Instant) {
        if self.log.is_built() && self.watch.0.is_none_or(|at| at <= now) {
            self.check_progress(now);
        }
    }

    #[cold]
    fn check_progress(&mut self, now: Instant) {
        let Self { channels, proto, watch, .. } = self;
        watch.0 = now.checked_add(EVERY);
        for channel in channels.iter_mut().flatten().filter(|channel| channel.ended.is_none()) {
            let unsettled = proto.channel(channel.id).map_or(0, |own| own.unsettled());
            channel.log.progress(unsettled, channel.tally.settlements(), now);
            let counters = channel.counters();
            channel.log.repeats(&counters, now, EVERY);
        }
        self.log_due();
    }
}
