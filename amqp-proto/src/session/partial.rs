//! Restoring a part of the state while the rest continues: consumers that the broker cancelled, and queues that other connections
//! held.
//!
//! Two other parts have files of their own: closed channels ([`reopen`](super::reopen)), and paused consumers
//! ([`pause`](super::pause)).

use alloc::vec::Vec;

use super::phase::Phase;
use super::state::Session;
use super::topology::Declaration;
use crate::{ChannelId, ConsumerId};

impl Session {
    /// Makes declarations, and starts consumers after them.
    pub(super) fn restore_part(
        &mut self,
        declarations: Vec<Declaration>,
        consumers: impl IntoIterator<Item = (ChannelId, ConsumerId)>,
    ) {
        if let Some(repair) = self.phase.begin_repair() {
            repair.add(declarations, consumers);
        }
        self.advance();
    }

    /// Handles a consumer that the broker has cancelled. Returns whether it is started again.
    pub(super) fn resubscribe(&mut self, id: ChannelId, consumer: ConsumerId) -> bool {
        let declarations = self.context.resubscription(id, consumer);
        let resubscribes = declarations.is_some();
        if let Some(declarations) = declarations {
            self.restore_part(declarations, [(id, consumer)]);
        }
        resubscribes
    }

    /// Retries what other connections held, if that is due.
    pub(super) fn retry_locked(&mut self) {
        let cx = &mut self.context;
        let Some(recovering) = &mut cx.recovering else { return };
        let due = recovering.locks.retry_at.is_some_and(|at| at <= cx.now);
        if !due || !matches!(self.phase, Phase::Connected) {
            return;
        }
        // All channels are in use. One of the application's could be closed for this.
        let max = cx.connection.negotiated().map_or(0, |agreed| agreed.channel_max);
        if cx.channels.unused(0, max).next().is_none() {
            recovering.retry_later(cx.now);
            return;
        }
        let locks = core::mem::take(&mut recovering.locks);
        let queues = locks.queues.iter();
        let mut declarations: Vec<_> =
            queues.flat_map(|queue| cx.topology.queue_steps(queue)).collect();
        declarations.extend(locks.consumers.into_iter().filter_map(|waiting| cx.probe(waiting)));
        let mut consumers = Vec::new();
        for (id, record) in cx.channels.iter() {
            let all = record.consumers.iter();
            let waiting = all.filter(|own| locks.queues.contains(&own.consume.queue));
            consumers.extend(waiting.map(|own| (id, own.id)));
        }
        self.restore_part(declarations, consumers);
    }
}
