//! Opening channels again that the broker closed, at most as often as nodes are asked for a connection.

use core::ops::RangeInclusive;
use core::time::Duration;

use super::outage::Recovering;
use super::{Session, slot};
use crate::method::{Arguments as _, QueueDeclare};
use crate::time::Instant;
use crate::{ChannelError, ChannelId, Close, Event, PublishSeq, ReplyCode};

/// How often a channel was opened again lately.
#[derive(Debug, Default)]
pub(super) struct Reopened {
    /// How often in a row it was closed soon after.
    failures: u32,
    /// How long it was left closed the last time.
    delay: Duration,
    /// Since when it is back, if it is.
    pub(super) since: Option<Instant>,
}

/// A channel that is closed within that time of its return is closed for the same reason again, whatever the delays are: the
/// broker cannot close it sooner than a round trip after it is open.
const SOON: Duration = Duration::from_secs(1);

impl Reopened {
    /// The channel is closed. Returns whether it was open for long enough to have nothing to do with what closed it before.
    fn was_stable(&mut self, now: Instant, delay_min: Duration) -> bool {
        let enough = self.delay.saturating_mul(2).max(delay_min).max(SOON);
        self.since.take().is_some_and(|since| now.duration_since(since) >= enough)
    }
}

impl Session {
    /// Opens a channel again that the broker has closed: at once, or later if that happens again and again.
    pub(super) fn reopen(
        &mut self,
        id: ChannelId,
        error: &ChannelError,
        unconfirmed: &[RangeInclusive<PublishSeq>],
    ) -> Option<Event> {
        let progress = self.interrupt_over(id, error, unconfirmed);
        self.reopen_later(id, progress);
        None
    }

    /// Ends everything that was pending on a channel that the broker has closed, and gives up the messages that it was
    /// closed for. Returns whether there were any.
    pub(super) fn interrupt_over(
        &mut self,
        id: ChannelId,
        error: &ChannelError,
        unconfirmed: &[RangeInclusive<PublishSeq>],
    ) -> bool {
        // Before messages are given up: what is not kept is reported as unconfirmed, and each message is reported once.
        let end = self.interrupt(id, error, unconfirmed);
        debug_assert!(end.is_none(), "channels that this end closes are not opened again");
        let blamed = match error {
            ChannelError::Closed(close) => self.blame(id, close, unconfirmed),
            ChannelError::Connection(_) | ChannelError::NotRestored { .. } => false,
        };
        if let Some(record) = slot(&mut self.channels, id) {
            record.send_anew();
        }
        self.end_turn(id);
        blamed
    }

    /// `progress`: what closed the channel will not do so again.
    pub(super) fn reopen_later(&mut self, id: ChannelId, progress: bool) {
        let now = self.now;
        let (Some(recovering), Some(record)) = (&mut self.recovering, slot(&mut self.channels, id))
        else {
            return;
        };
        let reopened = &mut record.reopened;
        if reopened.was_stable(now, recovering.policy.delay_min) {
            reopened.failures = 0;
        }
        let failures = if progress { reopened.failures.min(1) } else { reopened.failures };
        reopened.delay = match failures {
            0 => Duration::ZERO,
            failures => recovering.nodes.backoff(failures),
        };
        reopened.failures = failures.saturating_add(1);
        if let Some(replay) = &mut self.replay {
            replay.forget(id);
        }
        match now.checked_add(reopened.delay).filter(|at| *at > now) {
            Some(at) => {
                self.reopening.push((at, id));
                self.send_declarations();
            }
            None => self.reopen_now(id),
        }
    }

    /// Keeps a declaration for the next channel, if the channel was closed over it because another connection holds the
    /// queue exclusively. Returns whether it did.
    pub(super) fn hold_locked(&mut self, id: ChannelId, close: &Close) -> bool {
        let cause = (QueueDeclare::CLASS_ID, QueueDeclare::METHOD_ID);
        let locked = close.reply_code == ReplyCode::RESOURCE_LOCKED
            && (close.class_id, close.method_id) == cause;
        let retries = |recovering: &Recovering| recovering.policy.retry_locked;
        if !locked || !self.recovering.as_ref().is_some_and(retries) {
            return false;
        }
        let Some(record) = slot(&mut self.channels, id) else { return false };
        // The oldest, since those before it were answered.
        let refused = record.in_flight.iter_mut().find_map(|sent| sent.as_queue_declaration());
        let Some(held) = refused else { return false };
        record.in_flight.take(held.id);
        record.held.push_front(held);
        true
    }

    fn reopen_now(&mut self, id: ChannelId) {
        self.partly();
        self.open_again(id);
        self.restore_channel(id);
    }

    /// Opens the channels again whose time has come.
    pub(super) fn reopen_in_time(&mut self) {
        // During a recovery, other channels come first. A connection that closes opens none.
        if !self.is_open() {
            return;
        }
        while let Some(index) = self.reopening.iter().position(|(at, _)| *at <= self.now) {
            let (_, id) = self.reopening.swap_remove(index);
            self.reopen_now(id);
        }
    }

    /// Returns when the next channel is due to be reopened.
    pub(super) fn next_reopening(&self) -> Option<Instant> {
        // While the session is not open, a time that has come must not be returned again and again: nothing is reopened then.
        let due = self.reopening.iter().filter(|_| self.is_open());
        due.map(|(at, _)| *at).min()
    }
}
