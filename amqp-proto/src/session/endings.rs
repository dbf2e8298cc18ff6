//! Channels that end: for good, or until they are reopened.

use alloc::vec::Vec;
use core::ops::RangeInclusive;
use core::time::Duration;

use super::context::{Context, Recovering};
use super::record::ChannelRecord;
use super::topology::Topology;
use crate::method::{Arguments as _, QueueDeclare};
use crate::{ChannelError, ChannelEvent, ChannelId, Close, Event, PublishSeq, ReplyCode};

/// The reason for the end of a consumer that was started with the empty name: no queue was declared, or the declaration failed
/// before the broker named the queue.
const UNNAMED: &str = "it was started with an empty queue name, and that name stands for no queue";

impl Context {
    /// Interrupts a channel whose connection was lost, or that the broker has closed: fails its pending requests and publishes, and
    /// makes its deliveries stale. Returns `false` if the application was closing the channel: then it has ended.
    pub(super) fn interrupt(
        &mut self,
        id: ChannelId,
        error: &ChannelError,
        unconfirmed: &[RangeInclusive<PublishSeq>],
    ) -> bool {
        let Some(record) = self.channels.get_mut(id) else { return true };
        record.undo_guilty(error);
        if record.closing {
            return false;
        }
        record.attached = false;
        record.orphans.clear();
        record.mode.interrupt();
        record.streams.interrupt();
        let mut events = fail_pending(record, &mut self.topology, error, unconfirmed);
        // The deliveries of paused consumers are requeued. So the application would never take them, and that is what resumes a
        // consumer.
        record.qos_now = record.qos.clone();
        record.consumers.interrupt();
        let delivered = record.tags.restart();
        let unsettled = core::mem::take(&mut record.unsettled);
        events.push(ChannelEvent::Interrupted { delivered, unsettled, error: error.clone() });
        let mut ended = Vec::new();
        record.consumers.retain(|consumer| {
            let nowhere = consumer.declaration.is_some() || consumer.consume.queue.is_empty();
            let error = match nowhere {
                _ if !consumer.recovers => error.clone(),
                // The reply that would have named its queue is lost, or there is none. With the empty name, the broker would
                // refuse it and close the channel.
                true => ChannelError::not_restored(ReplyCode::NOT_FOUND, UNNAMED),
                false => return true,
            };
            self.topology.unconsumed(consumer);
            ended.push((consumer.id, error));
            false
        });
        for (consumer, error) in ended {
            events.push(ChannelEvent::ConsumerFailed { consumer, error });
        }
        self.events.extend(events.into_iter().map(|event| Event::Channel(id, event)));
        true
    }

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

    /// Returns whether to reopen a channel that the broker has closed at once. Otherwise, `Session::reopen_in_time` reopens it.
    /// `progress`: the cause of the close is removed.
    pub(super) fn reopens_at_once(&mut self, id: ChannelId, progress: bool) -> bool {
        let now = self.now;
        let (Some(recovering), Some(record)) = (&mut self.recovering, self.channels.get_mut(id))
        else {
            return false;
        };
        let reopened = record.reopened.get_or_insert_default();
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
    /// and that is to be retried. Then the declaration is held until the channel is open again, unless its reply is no longer wanted.
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
        let Some((held, abandoned)) = refused else { return false };
        record.in_flight.take(held.id);
        if !abandoned {
            record.held.push_front(held);
        }
        true
    }

    /// The broker has closed a channel because of a request: consumers whose starts have no reply were not started, so no queue is
    /// deleted with them.
    pub(super) fn uncount_starting(&mut self, id: ChannelId) {
        let Some(record) = self.channels.get_mut(id) else { return };
        for sent in record.in_flight.take_all() {
            let leaving = sent.leaving.map(|consumer| *consumer);
            if let Some(consumer) = record.consumers.remove(sent.id.into()).or(leaving) {
                self.topology.uncount(&consumer);
            }
        }
        for consumer in record.leaving.drain(..) {
            self.topology.uncount(&consumer);
        }
    }

    /// Forgets a channel that has ended. Returns whether there was one.
    pub(super) fn forget_channel(&mut self, id: ChannelId) -> bool {
        let Some(mut record) = self.channels.remove(id) else { return false };
        self.budget.freed(|discard| record.kept.clear(discard));
        let abandoned = record.in_flight.take_all().filter_map(|sent| sent.leaving);
        for consumer in abandoned.map(|consumer| *consumer).chain(record.leaving) {
            self.topology.unconsumed(&consumer);
        }
        for consumer in record.consumers.iter() {
            self.topology.unconsumed(consumer);
        }
        self.reopening.retain(|(_, waiting)| *waiting != id);
        if let Some(recovering) = &mut self.recovering {
            recovering.locks.consumers.retain(|(channel, _)| *channel != id);
        }
        self.end_turn(id);
        // The channel may have been closed while it was being reopened.
        if let Ok(mut channel) = self.connection.channel(id) {
            channel.close(ReplyCode::REPLY_SUCCESS, "not wanted any more");
        }
        true
    }

    /// Ends a channel that cannot be restored. It accepts no more commands, and is forgotten when its end is polled.
    pub(super) fn end_channel(&mut self, id: ChannelId, error: ChannelError) {
        if let Some(record) = self.channels.get_mut(id) {
            (record.attached, record.closing) = (false, true);
            for consumer in record.consumers.iter_mut() {
                self.topology.uncount(consumer);
                consumer.counts = None;
            }
        }
        self.emit(id, ChannelEvent::Closed(error));
    }
}

/// Fails the pending requests and publishes of a channel. Kept messages stay.
fn fail_pending(
    record: &mut ChannelRecord,
    topology: &mut Topology,
    error: &ChannelError,
    unconfirmed: &[RangeInclusive<PublishSeq>],
) -> Vec<ChannelEvent> {
    let mut events = Vec::new();
    record.declared.iter_mut().for_each(|declared| declared.interrupt());
    for sent in record.in_flight.take_all() {
        // A consumer that was not started has deleted no queue by its end.
        let leaving = sent.leaving.map(|consumer| *consumer);
        if let Some(consumer) = record.consumers.remove(sent.id.into()).or(leaving) {
            topology.uncount(&consumer);
        }
        if !sent.abandoned {
            record.not_selected(sent.id);
            let error = error.clone().into();
            events.push(ChannelEvent::Failed { request: sent.id, error });
        }
    }
    for consumer in record.leaving.drain(..) {
        topology.uncount(&consumer);
    }
    // Their cancels had no reply yet, but the broker has ended these consumers with the channel.
    let cancelled = core::mem::take(&mut record.cancelling);
    events.extend(cancelled.into_keys().map(|consumer| ChannelEvent::ConsumerEnded { consumer }));
    let mut gone = Vec::new();
    for sent in unconfirmed {
        record.seqs.of(sent, |publishes| record.kept.others(&publishes, |seqs| gone.push(seqs)));
    }
    events.extend(gone.into_iter().map(|publishes| {
        let error = error.clone();
        ChannelEvent::Unconfirmed { publishes, error }
    }));
    events
}
