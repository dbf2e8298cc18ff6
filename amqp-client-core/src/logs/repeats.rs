use std::time::{Duration, Instant};

use super::{Counted, Level, Limit};
use crate::counters::Counters;

/// So many deliveries must be requeued between two checks: a few may come from handlers that fail now and then.
const REQUEUED_MIN: u64 = 10;

/// Detects messages of a channel that the application requeues as fast as they are delivered.
#[derive(Debug, Default)]
pub(super) struct Repeats {
    delivered: u64,
    redelivered: u64,
    requeued: u64,
    /// A line has reported such messages, and none that they have ended.
    reported: bool,
    pub(super) limit: Limit,
}

impl Repeats {
    /// Checks what was counted since the last check, `every` ago. Returns the level and the text of a line. `consumers` names those of
    /// the channel.
    pub(super) fn check(
        &mut self,
        counters: &Counters,
        (now, every): (Instant, Duration),
        consumers: impl FnOnce() -> Option<String>,
    ) -> Option<(Level, String)> {
        let delivered = counters.delivered.saturating_sub(self.delivered);
        let redelivered = counters.redelivered.saturating_sub(self.redelivered);
        let requeued = counters.requeued.saturating_sub(self.requeued);
        (self.delivered, self.redelivered) = (counters.delivered, counters.redelivered);
        self.requeued = counters.requeued;
        if requeued < REQUEUED_MIN || redelivered < REQUEUED_MIN || redelivered < delivered / 2 {
            let ended = std::mem::take(&mut self.reported);
            let text = || "the same messages are no longer requeued again and again".to_owned();
            return ended.then(|| (Level::Info, text()));
        }
        self.reported = true;
        let end = self.limit.count(Some(now))?;
        let of = consumers().map(|names| format!(" of {names}")).unwrap_or_default();
        let text = format!(
            "the same messages{of} are requeued again and again: of {} in {every:?}, {redelivered} had been delivered before, and the \
             application requeued {requeued}; reject a message that cannot be handled, without requeue{end}",
            Counted(delivered, "delivered message"),
        );
        Some((Level::Warn, text))
    }
}
