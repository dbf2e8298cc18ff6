//! What the log says of an application that makes no progress: the connection is well, and nothing else would be written.

use std::time::{Duration, Instant};

use super::State;
use crate::logs::{Counted, Level, Limit};

/// How often the log looks. The driver has a turn with each heartbeat at least.
const EVERY: Duration = Duration::from_secs(10);

/// So many deliveries must be requeued between two looks: a few may come from handlers that fail now and then.
const REQUEUED_MIN: u64 = 10;

/// What the log saw when it last looked.
#[derive(Debug, Default)]
pub(super) struct Watch {
    at: Option<Instant>,
    requeued: u64,
    delivered: u64,
    redelivered: u64,
    circles: Limit,
}

impl State {
    /// The driver has a turn: looks now and then.
    #[inline]
    pub(crate) fn log_progress(&mut self, now: Instant) {
        if self.log.is_built() && self.watch.at.is_none_or(|at| at <= now) {
            self.look(now);
        }
    }

    #[cold]
    fn look(&mut self, now: Instant) {
        self.watch.at = now.checked_add(EVERY);
        self.look_for_circles(now);
        self.look_for_stuck(now);
        self.log_due();
    }

    /// Messages that are requeued as fast as they are delivered.
    fn look_for_circles(&mut self, now: Instant) {
        let all = self.counters();
        let watch = &mut self.watch;
        let requeued = all.requeued.saturating_sub(watch.requeued);
        let delivered = all.delivered.saturating_sub(watch.delivered);
        let redelivered = all.redelivered.saturating_sub(watch.redelivered);
        (watch.requeued, watch.delivered) = (all.requeued, all.delivered);
        watch.redelivered = all.redelivered;
        if requeued < REQUEUED_MIN || redelivered < delivered / 2 || redelivered < REQUEUED_MIN {
            return;
        }
        let Some(end) = watch.circles.count(Some(now)) else { return };
        self.log.line(Level::Warn, None, || {
            format!(
                "messages go in circles: of {} delivered in {EVERY:?}, {redelivered} had been delivered before, and {requeued} were requeued \
                 here; a message that cannot be handled comes back for ever, unless it is rejected without requeue{end}",
                Counted(delivered, "message")
            )
        });
    }

    /// Channels whose deliveries nobody settles.
    fn look_for_stuck(&mut self, now: Instant) {
        let Self { channels, proto, .. } = self;
        for channel in channels.iter_mut().flatten().filter(|channel| channel.ended.is_none()) {
            let unsettled = proto.channel(channel.id).map_or(0, |own| own.unsettled());
            channel.log.progress(unsettled, channel.tally.settlements(), now);
        }
    }
}
