//! Reopening channels that the broker closed, with the backoff of reconnecting.

use core::ops::RangeInclusive;

use super::state::Session;
use crate::time::Instant;
use crate::{ChannelError, ChannelId, PublishSeq};

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
