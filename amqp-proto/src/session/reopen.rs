//! Reopening channels that the broker closed, with the backoff of reconnecting.

use core::ops::RangeInclusive;
use core::time::Duration;

use super::Session;
use super::context::{Context, Recovering};
use crate::method::{Arguments as _, QueueDeclare};
use crate::time::Instant;
use crate::{ChannelError, ChannelId, Close, PublishSeq, ReplyCode};

impl Context {
    /// Interrupts a channel that the broker has closed, and gives up the messages for which it was closed. Returns whether there
    /// were any.
    pub(super) fn interrupt_over(
        &mut self,
        id: ChannelId,
        error: &ChannelError,
        unconfirmed: &[RangeInclusive<PublishSeq>],
    ) -> bool {
        // Before messages are given up: messages that are not kept are reported as unconfirmed, and each message is reported
        // once.
        let continues = self.interrupt(id, error, unconfirmed);
        debug_assert!(continues, "channels that the application closes are not reopened");
        let blamed = match error {
            ChannelError::Closed(close) => self.blame(id, close, unconfirmed),
            ChannelError::Connection(_) | ChannelError::NotRestored { .. } => false,
        };
        if let Some(record) = self.channels.get_mut(id) {
            record.send_anew();
        }
        self.end_turn(id);
        blamed
    }

    /// Returns whether to reopen a channel that the broker has closed at once. Otherwise, [`Session::reopen_in_time`] reopens it.
    /// `progress`: the cause of the close is removed.
    pub(super) fn reopens_at_once(&mut self, id: ChannelId, progress: bool) -> bool {
        let now = self.now;
        let (Some(recovering), Some(record)) = (&mut self.recovering, self.channels.get_mut(id))
        else {
            return false;
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
        let later = now.checked_add(reopened.delay).filter(|at| *at > now);
        self.reopening.extend(later.map(|at| (at, id)));
        later.is_none()
    }

    /// Returns whether the broker closed the channel because of the declaration of a queue that another connection holds exclusively,
    /// and that is to be retried. Then the declaration is held until the channel is open again.
    pub(super) fn hold_locked(&mut self, id: ChannelId, close: &Close) -> bool {
        let cause = (QueueDeclare::CLASS_ID, QueueDeclare::METHOD_ID);
        let locked = close.reply_code == ReplyCode::RESOURCE_LOCKED
            && (close.class_id, close.method_id) == cause;
        let retries = |recovering: &Recovering| recovering.policy.retry_locked;
        if !locked || !self.recovering.as_ref().is_some_and(retries) {
            return false;
        }
        let Some(record) = self.channels.get_mut(id) else { return false };
        // The oldest pending request: those before it have a reply.
        let refused = record.in_flight.iter_mut().find_map(|sent| sent.as_queue_declaration());
        let Some(held) = refused else { return false };
        record.in_flight.take(held.id);
        record.held.push_front(held);
        true
    }
}

impl Session {
    /// Reopens a channel that the broker has closed: at once, or later if that happens again and again.
    pub(super) fn reopen(
        &mut self,
        id: ChannelId,
        error: &ChannelError,
        unconfirmed: &[RangeInclusive<PublishSeq>],
    ) {
        let progress = self.context.interrupt_over(id, error, unconfirmed);
        if let Some(repair) = self.phase.repair() {
            repair.forget(id);
        }
        if self.context.reopens_at_once(id, progress) {
            self.reopen_now(id);
        }
        self.advance();
    }

    fn reopen_now(&mut self, id: ChannelId) {
        if let Some(repair) = self.phase.begin_repair() {
            repair.reopen_channel(&mut self.context, id, false);
        }
    }

    /// Reopens the channels that are due.
    pub(super) fn reopen_in_time(&mut self) {
        while self.next_reopening().is_some_and(|at| at <= self.context.now) {
            let now = self.context.now;
            let due = self.context.reopening.iter().position(|(at, _)| *at <= now);
            let Some(index) = due else { return };
            let (_, id) = self.context.reopening.swap_remove(index);
            self.reopen_now(id);
            self.advance();
        }
    }

    /// Returns when to reopen the next channel.
    pub(super) fn next_reopening(&self) -> Option<Instant> {
        // While the session is not open, a time that has passed must not be returned again and again: nothing is reopened then.
        let due = self.context.reopening.iter().filter(|_| self.is_open());
        due.map(|(at, _)| *at).min()
    }
}
