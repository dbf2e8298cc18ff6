//! Restoring a part of the state while the rest continues: consumers that the broker cancelled, and queues that other connections
//! held.
//!
//! Two other parts have files of their own: closed channels ([`reopen`](super::reopen)), and paused consumers
//! ([`pause`](super::pause)).

use alloc::vec::Vec;

use super::context::Context;
use super::phase::Phase;
use super::report::Entity;
use super::topology::Declaration;
use super::{OnCancel, Session};
use crate::method::QueueDeclare;
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
        if cx.channels.unused(max).next().is_none() {
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

impl Context {
    /// Returns what to declare before a consumer that the broker has cancelled is started again. If the consumer is not to be
    /// started again, removes it and returns `None`.
    pub(super) fn resubscription(
        &mut self,
        id: ChannelId,
        consumer: ConsumerId,
    ) -> Option<Vec<Declaration>> {
        let policy = self.recovering.as_ref().map(|recovering| recovering.policy.on_cancel);
        let record = self.channels.get_mut(id)?;
        let found = record.consumers.get(consumer)?;
        let queue = found.consume.queue.clone();
        if policy != Some(OnCancel::Resubscribe) || !found.recovers {
            record.consumers.remove(consumer);
            self.topology.unconsumed(&queue);
            return None;
        }
        // RabbitMQ remembers the tag until the consumer's deliveries are settled: see `pause`.
        let channel = self.connection.channel(id).ok();
        if !found.consume.no_ack && channel.is_some_and(|own| own.may_have_unsettled()) {
            record.rename(consumer);
        }
        record.streams.interrupt_one(consumer);
        let mut steps = self.topology.queue_steps(&queue);
        if steps.is_empty() {
            let declare = QueueDeclare { queue: queue.clone(), passive: true, ..<_>::default() };
            let entity = Entity::Queue(queue.clone());
            steps.push(Declaration::new(declare.into(), entity, Some(&queue)));
        }
        Some(steps)
    }
}
