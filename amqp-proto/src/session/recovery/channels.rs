//! Restoring channels: their modes, prefetch limits and consumers.

use alloc::vec::Vec;
use core::ops::RangeInclusive;

use super::plan::{ChannelRepair, ChannelStep};
use super::repair::{Repair, Scope};
use crate::method::{ConfirmSelect, Method, TxSelect};
use crate::session::channel::ends_transaction;
use crate::session::context::Context;
use crate::session::record::Mode;
use crate::session::record::consumers::Consumer;
use crate::session::report::Entity;
use crate::{ChannelError, ChannelId, CommandError, PublishSeq, ReplyCode, RequestId};

impl Repair {
    /// Opens a channel that the present connection does not have yet, and selects its mode.
    pub(super) fn open_channel(&mut self, cx: &mut Context, id: ChannelId) {
        let Some(record) = cx.channels.get(id) else { return };
        let transactional = matches!(record.mode, Mode::Tx { .. });
        match cx.connection.open_channel_numbered(id.get()) {
            Ok(_) => {
                let mut own = ChannelRepair::default();
                own.awaiting.extend(select_mode(cx, id));
                self.channels.insert(id, own);
                if transactional {
                    // Sent ahead of acknowledgements, which do not wait until everything is restored.
                    while cx.send_next_held(id, ends_transaction) {}
                }
            }
            // The new connection is already lost, and the next event reports that. The channel waits for another one.
            Err(_) if !cx.connection.is_open() => {}
            // This node allows fewer channels.
            Err(error) => {
                let error = ChannelError::not_restored(ReplyCode::NOT_ALLOWED, error);
                self.report_failure(cx, Entity::Channel(id), error.clone());
                cx.end_channel(id, error);
            }
        }
    }

    /// Reopens a channel that the broker has closed. `one_by_one`: one of the repair's own requests has closed it.
    pub(crate) fn reopen_channel(&mut self, cx: &mut Context, id: ChannelId, one_by_one: bool) {
        self.open_channel(cx, id);
        if let Some(own) = self.channels.get_mut(&id) {
            own.one_by_one = one_by_one;
        }
        let gone = cx.gone_with_channel(id);
        // A full repair declares everything before it starts the first consumer.
        if !gone.is_empty() && (self.declarations.done || self.scope == Scope::Partial) {
            self.declarations.add(gone);
        }
        if self.declarations.done {
            self.plan_channel(cx, id);
            self.send_channel(cx, id);
        }
    }

    /// All declarations are done: continues with channels.
    pub(super) fn begin_channels(&mut self, cx: &mut Context) {
        let wanted = core::mem::take(&mut self.consumers);
        let unplanned = self.channels.iter().filter(|(_, own)| !own.planned).map(|(id, _)| *id);
        let unplanned: Vec<_> = unplanned.collect();
        for &id in &unplanned {
            if cx.channels.get(id).is_some_and(|record| record.attached) {
                continue;
            }
            self.plan_channel(cx, id);
            self.send_channel(cx, id);
        }
        for (id, consumer) in wanted {
            // Other consumers of its queue may still run at the broker, if it has cancelled only this one.
            self.end_consumers_without_queue(cx, id, |own| own.id == consumer);
            let Some(record) = cx.channels.get(id) else { continue };
            // A channel that is yet to be planned, or was planned just now, starts all its consumers. One that was planned before
            // may have started this one already, and the broker has cancelled it since.
            let planned = self.channels.get(&id).is_some_and(|own| own.planned);
            if !record.attached && (!planned || unplanned.contains(&id)) {
                continue;
            }
            let mut steps = Vec::new();
            record.consumer_steps(
                id,
                record.qos_now.as_ref(),
                |found| found.id == consumer && !self.missing.contains_key(&found.consume.queue),
                &mut steps,
            );
            self.channels.entry(id).or_default().steps.extend(steps);
            self.send_channel(cx, id);
        }
    }

    /// Plans everything that belongs to a channel, except what another connection holds: that is retried later.
    fn plan_channel(&mut self, cx: &mut Context, id: ChannelId) {
        self.end_consumers_without_queue(cx, id, |_| true);
        let Some(record) = cx.channels.get(id) else { return };
        let Some(own) = self.channels.get_mut(&id) else { return };
        let locks = cx.recovering.as_ref().map(|recovering| &recovering.locks);
        let held = |consumer: &Consumer| {
            let queue = &consumer.consume.queue;
            locks.is_some_and(|locks| {
                locks.queues.contains(queue) || locks.consumers.contains(&(id, consumer.id))
            })
        };
        let missing = &self.missing;
        let steps = record.steps(id, |consumer| {
            !missing.contains_key(&consumer.consume.queue) && !held(consumer)
        });
        own.steps = steps.into();
        own.planned = true;
    }

    /// Ends those of some consumers whose queues could not be declared, except if that will be retried.
    fn end_consumers_without_queue(
        &mut self,
        cx: &mut Context,
        id: ChannelId,
        some: impl Fn(&Consumer) -> bool,
    ) {
        let Some(recovering) = &cx.recovering else { return };
        let Some(record) = cx.channels.get(id) else { return };
        let ended: Vec<_> = record
            .consumers
            .iter()
            .filter(|consumer| some(consumer))
            .filter(|consumer| !recovering.locks.queues.contains(&consumer.consume.queue))
            .filter_map(|own| {
                Some((own.id, own.consume.clone(), self.missing.get(&own.consume.queue)?.clone()))
            })
            .collect();
        for (consumer, consume, reason) in ended {
            let queue = &consume.queue;
            let why = alloc::format!("its queue {queue:?} could not be declared again: {reason}");
            let error = ChannelError::not_restored(ReplyCode::NOT_FOUND, why);
            let entity =
                Entity::Consumer { channel: id, consumer, consumer_tag: consume.consumer_tag };
            cx.end_consumer(id, consumer, &error);
            self.report_failure(cx, entity, error);
        }
    }

    fn send_channel(&mut self, cx: &mut Context, id: ChannelId) {
        if self.one_by_one && self.channels.values().any(|own| !own.awaiting.is_empty()) {
            return;
        }
        let Some(own) = self.channels.get_mut(&id) else { return };
        let Ok(mut channel) = cx.connection.channel(id) else { return };
        let mut failed = Vec::new();
        own.one_by_one |= self.one_by_one;
        while !own.one_by_one || own.awaiting.is_empty() {
            let Some(mut step) = own.steps.pop_front() else { break };
            if let (Entity::Consumer { consumer, .. }, Method::BasicConsume(consume)) =
                (&step.entity, &mut step.method)
            {
                // Its handle may have been dropped in between.
                let record = cx.channels.get(id);
                let Some(record) = record.filter(|record| record.consumers.contains(*consumer))
                else {
                    continue;
                };
                let is_stream = cx.topology.is_stream(&consume.queue);
                record.streams.resume(*consumer, consume, is_stream, cx.now);
            }
            let facts = step.method.facts();
            match channel.request_as(step.request, &step.method, facts, true) {
                Ok(id) => own.awaiting.push_back((id, step)),
                // The channel has ended. Its event is yet to come, and then all of this is planned again.
                Err(CommandError::Ended(_)) => break,
                // The consumer is running: an earlier step started it.
                Err(_) if is_running(&mut channel, &step.entity) => {}
                Err(error) => failed.push((step, ChannelError::not_sent(&error))),
            }
        }
        for (step, error) in failed {
            self.fail_step(cx, id, &step, error);
        }
    }

    /// Continues with channels that had to wait for another one.
    pub(super) fn send_next_channels(&mut self, cx: &mut Context) {
        if self.one_by_one && self.declarations.done {
            let ids: Vec<_> = self.channels.keys().copied().collect();
            ids.into_iter().for_each(|id| self.send_channel(cx, id));
        }
    }

    /// Handles the reply to a request that restores a part of a channel. Returns whether it is one.
    pub(super) fn handle_restored(
        &mut self,
        cx: &mut Context,
        id: ChannelId,
        request: RequestId,
    ) -> bool {
        let Some(own) = self.channels.get_mut(&id) else { return false };
        // Queues reply to `basic.consume`, so replies may come in another order.
        let index = own.awaiting.iter().position(|(awaited, _)| *awaited == request);
        let Some((_, step)) = index.and_then(|index| own.awaiting.remove(index)) else {
            return false;
        };
        match &step.entity {
            // A channel is restored when all that belongs to it is.
            Entity::Channel(_) => {}
            Entity::Consumer { consumer, consumer_tag, .. } => {
                if !cx.count_consumer(id, *consumer) {
                    cx.orphan_consumer(id, *consumer, consumer_tag);
                } else if !cx.end_pause(id, *consumer) {
                    self.report_success(cx, &step.entity);
                }
            }
            entity => self.report_success(cx, entity),
        }
        self.send_channel(cx, id);
        true
    }

    /// A part of a channel cannot be restored. The channel goes on without it.
    fn fail_step(
        &mut self,
        cx: &mut Context,
        id: ChannelId,
        step: &ChannelStep,
        error: ChannelError,
    ) {
        leave_out(cx, id, step, &error);
        self.report_failure(cx, step.entity.clone(), error);
    }

    /// The broker has closed a channel that is being restored. Reopens it, without the refused request if that is known.
    pub(super) fn handle_restored_channel_closed(
        &mut self,
        cx: &mut Context,
        id: ChannelId,
        error: &ChannelError,
        unconfirmed: &[RangeInclusive<PublishSeq>],
    ) {
        let is_alone = cx.channels.get(id).is_some_and(|record| record.in_flight.is_empty());
        cx.interrupt_over(id, error, unconfirmed);
        let ChannelRepair { mut awaiting, one_by_one, .. } =
            self.channels.remove(&id).unwrap_or_default();
        let cause = error.as_close().map(|close| (close.class_id, close.method_id));
        let is_named =
            awaiting.front().is_some_and(|(_, step)| cause == Some(step.method.facts().id));
        // The cause may be a request of the application, such as a commit. That is not repeated.
        let is_known = match one_by_one {
            true => is_alone || is_named,
            false => is_alone && is_named && awaiting.len() == 1,
        };
        if is_known {
            let Some((_, step)) = awaiting.pop_front() else {
                // No request that was sent can be the cause.
                return self.reopen_or_end(cx, id, error);
            };
            if !self.waits_for_exclusive(cx, id, &step, error) {
                self.fail_step(cx, id, &step, error.clone());
            }
        }
        if cx.channels.get(id).is_some_and(|record| !record.closing) {
            self.reopen_channel(cx, id, one_by_one || !is_known);
        }
    }

    fn reopen_or_end(&mut self, cx: &mut Context, id: ChannelId, error: &ChannelError) {
        if !cx.reopens_channels() {
            self.report_failure(cx, Entity::Channel(id), error.clone());
            return cx.end_channel(id, error.clone());
        }
        self.forget(id);
        if cx.reopens_at_once(id, false) {
            self.reopen_channel(cx, id, false);
        }
    }
}

/// Leaves out a part of a channel that cannot be restored, and reports that to the channel or consumer.
pub(super) fn leave_out(cx: &mut Context, id: ChannelId, step: &ChannelStep, error: &ChannelError) {
    let Some(record) = cx.channels.get_mut(id) else { return };
    match (&step.entity, &step.method) {
        (Entity::Consumer { consumer, .. }, _) => cx.end_consumer(id, *consumer, error),
        (Entity::Channel(_), _) => cx.end_channel(id, error.clone()),
        (Entity::Flow(_), _) => record.paused = false,
        (_, Method::BasicQos(qos)) if qos.global => record.global_qos = None,
        _ => {
            (record.qos, record.qos_now) = (None, None);
            for consumer in record.consumers.iter_mut() {
                (consumer.qos, consumer.qos_now) = (None, None);
            }
        }
    }
}

/// Selects the mode of a reopened channel. If the broker refuses the mode, the channel ends: without it, it is another one.
fn select_mode(cx: &mut Context, id: ChannelId) -> Option<(RequestId, ChannelStep)> {
    let method: Method = match cx.channels.get(id)?.mode {
        Mode::Plain => return None,
        Mode::Confirm => ConfirmSelect { no_wait: false }.into(),
        Mode::Tx { .. } => TxSelect {}.into(),
    };
    let facts = method.facts();
    let mut channel = cx.connection.channel(id).ok()?;
    let selected = channel.request_as(None, &method, facts, true);
    debug_assert!(selected.is_ok() || !channel.takes_commands(), "{selected:?}");
    let step = ChannelStep { request: None, method, entity: Entity::Channel(id) };
    Some((selected.ok()?, step))
}

/// Returns whether the entity is a consumer that was started on the channel already.
fn is_running(channel: &mut crate::Channel<'_>, entity: &Entity) -> bool {
    match entity {
        Entity::Consumer { consumer, consumer_tag, .. } => {
            channel.consumer(consumer_tag) == Some(*consumer)
        }
        _ => false,
    }
}
