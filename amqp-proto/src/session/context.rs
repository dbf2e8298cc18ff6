use alloc::collections::{BTreeSet, VecDeque};
use alloc::vec::Vec;

use super::channels::Channels;
use super::nodes::Nodes;
use super::policy::{LEAST_DELAY, Locked, OnCancel, Recovery};
use super::record::consumers::{Consumer, Pause};
use super::record::kept::Budget;
use super::report::Entity;
use super::topology::{Declaration, Topology};
use crate::method::{Method, QueueDeclare};
use crate::time::Instant;
use crate::{
    ChannelError, ChannelEvent, ChannelId, Connection, ConsumerId, Event, GetReply, Reply,
    RequestId, Settlement, ShortStr,
};

/// The part of a session that does not depend on its phase: the state kept across connections, and the present connection.
#[derive(Debug)]
pub(super) struct Context {
    /// The present connection, or the one that was lost.
    pub(super) connection: Connection,
    pub(super) channels: Channels,
    pub(super) topology: Topology,
    pub(super) budget: Budget,
    /// The recovery policy, if recovery is on.
    pub(super) recovering: Option<Recovering>,
    /// Channels that the broker has closed, and when to reopen them.
    pub(super) reopening: Vec<(Instant, ChannelId)>,
    /// True if any channel has orphans.
    pub(super) orphans: bool,
    /// The careful channel that may close the connection at present.
    pub(super) turn: Option<Turn>,
    /// Events to emit before the connection's own.
    pub(super) events: VecDeque<Event>,
    /// The latest time that was passed to the session.
    pub(super) now: Instant,
}

/// The parts of a session's recovery.
#[derive(Debug)]
pub(super) struct Recovering {
    pub(super) policy: Recovery,
    pub(super) nodes: Nodes,
    /// The node of the present transport, or of the last one.
    pub(super) node: usize,
    /// When everything was restored on that node.
    pub(super) since: Instant,
    pub(super) locks: Locks,
}

/// A consumer of a channel.
pub(super) type Waiting = (ChannelId, ConsumerId);

/// The queues and consumers that other connections block, and the time of the next retry.
#[derive(Debug, Default)]
pub(super) struct Locks {
    /// Queues that another connection holds exclusively.
    pub(super) queues: Vec<ShortStr>,
    /// Consumers whose queues another connection consumes exclusively.
    pub(super) consumers: Vec<Waiting>,
    pub(super) retry_at: Option<Instant>,
}

/// The turn of a careful channel, as [`turns`](super::resend) explains: the broker has not looked at its group yet.
#[derive(Debug)]
pub(super) struct Turn {
    pub(super) channel: ChannelId,
    /// The request behind the group.
    pub(super) probe: RequestId,
}

impl Recovering {
    /// Plans to retry what other connections hold. Returns whether the policy allows that.
    pub(super) fn retry_later(&mut self, now: Instant) -> bool {
        let Locked::Retry(after) = self.policy.locked else { return false };
        self.locks.retry_at = now.checked_add(after.max(LEAST_DELAY));
        true
    }
}

impl Locks {
    pub(super) fn clear(&mut self) {
        *self = Self::default();
    }
}

impl Context {
    pub(super) fn emit(&mut self, channel: ChannelId, event: ChannelEvent) {
        self.events.push_back(Event::Channel(channel, event));
    }

    /// Returns whether the session reopens channels that the broker closes.
    pub(super) fn reopens_channels(&self) -> bool {
        self.recovering.as_ref().is_some_and(|recovering| recovering.policy.reopen_channels)
    }

    /// Returns the channels that are not open on the present connection, but will be.
    pub(super) fn detached_channels(&self) -> Vec<ChannelId> {
        let detached = self.channels.iter().filter(|(_, own)| !own.attached && !own.closing);
        detached.map(|(id, _)| id).collect()
    }

    /// Counts a consumer that was started again. Returns whether there is one.
    pub(super) fn count_consumer(&mut self, id: ChannelId, consumer: ConsumerId) -> bool {
        let record = self.channels.get_mut(id);
        let found = record.and_then(|record| record.consumers.get_mut(consumer));
        found.map(|found| self.topology.consumed(found)).is_some()
    }

    pub(super) fn end_consumer(
        &mut self,
        id: ChannelId,
        consumer: ConsumerId,
        error: &ChannelError,
    ) {
        let record = self.channels.get_mut(id);
        let removed = record.and_then(|record| record.consumers.remove(consumer));
        if let Some(removed) = removed {
            self.topology.uncount(&removed);
        }
        self.emit(id, ChannelEvent::ConsumerFailed { consumer, error: error.clone() });
    }

    /// Cancels a consumer that has started although its handle was dropped. Its deliveries are requeued.
    pub(super) fn orphan_consumer(&mut self, id: ChannelId, consumer: ConsumerId, tag: &ShortStr) {
        if let Some(record) = self.channels.get_mut(id) {
            if let Some(left) = record.leaving.iter().position(|own| own.id == consumer) {
                // It has started, and ends now.
                self.topology.unconsumed(&record.leaving.swap_remove(left));
            }
            // The application has cancelled it, and takes deliveries until the broker replies.
            if record.cancelling.contains_key(&consumer) {
                return;
            }
            record.orphans.push(consumer);
            self.orphans = true;
        }
        if let Ok(mut channel) = self.connection.channel(id) {
            channel.discard_consumer(tag);
        }
    }

    /// All events were polled. From now on, the connection itself requeues the deliveries of consumers that it has discarded.
    #[inline]
    pub(super) fn forget_orphans(&mut self) {
        if core::mem::take(&mut self.orphans) {
            self.channels.iter_mut().for_each(|(_, record)| record.orphans.clear());
        }
    }

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
            let removed = record.consumers.remove(consumer);
            removed.iter().for_each(|own| self.topology.unconsumed(own));
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

    /// Ends the pause of a consumer that was started. Returns whether it was paused: then the application is not notified.
    pub(super) fn end_pause(&mut self, id: ChannelId, consumer: ConsumerId) -> bool {
        let found = self.consumer(id, consumer);
        let resuming = found.filter(|found| found.pause == Pause::Resuming);
        resuming.map(|found| found.pause = Pause::Running).is_some()
    }

    pub(super) fn consumer(
        &mut self,
        id: ChannelId,
        consumer: ConsumerId,
    ) -> Option<&mut Consumer> {
        self.channels.get_mut(id)?.consumers.get_mut(consumer)
    }

    /// A queue has a new name from the broker.
    pub(super) fn rename(&mut self, old: &ShortStr, new: &ShortStr) {
        self.topology.renamed(old, new);
        for (_, record) in self.channels.iter_mut() {
            let consumers = record.consumers.iter_mut().map(|consumer| &mut consumer.consume.queue);
            let declared = record.declared.iter_mut().flat_map(|declared| declared.names());
            let names = consumers.chain(declared);
            for name in names.filter(|name| *name == old) {
                *name = new.clone();
            }
        }
    }

    /// Returns the declarations of everything that the broker has deleted with the consumers of a channel.
    pub(super) fn gone_with_channel(&mut self, id: ChannelId) -> Vec<Declaration> {
        let Some(record) = self.channels.get(id) else { return Vec::new() };
        let locked = self.recovering.as_ref().map_or(&[][..], |own| &own.locks.queues);
        let queues = record.consumers.iter().map(|consumer| &consumer.consume.queue);
        let gone = queues.filter(|queue| self.topology.goes_with_consumers(queue));
        let mut gone: BTreeSet<_> = gone.filter(|queue| !locked.contains(queue)).cloned().collect();
        // A queue that has another consumer is still there. If it has a generated name, declaring it would create another queue.
        for (id, record) in self.channels.iter() {
            let Ok(mut channel) = self.connection.channel(id) else { continue };
            for own in record.consumers.iter() {
                if channel.consumer(own.tag()) == Some(own.id) {
                    gone.remove(&own.consume.queue);
                }
            }
        }
        gone.iter().flat_map(|queue| self.topology.steps_again(queue)).collect()
    }

    /// The application has abandoned a request, and its reply arrives. What it brought is requeued or cancelled.
    pub(super) fn handle_unwanted(&mut self, id: ChannelId, request: RequestId, reply: &mut Reply) {
        let Some(record) = self.channels.get_mut(id) else { return };
        let Ok(mut channel) = self.connection.channel(id) else { return };
        match reply {
            Reply::Message(GetReply::Message { delivery, .. }) => {
                let tag = delivery.delivery_tag();
                delivery.renumber(|tag| record.tags.received(tag));
                // This fails only if the delivery needs no acknowledgement. No other code settles it.
                let _settled = channel.settle_apart(tag, Settlement::Nack { requeue: true });
            }
            Reply::Message(GetReply::Unusable { delivery_tag, .. }) => {
                let tag = *delivery_tag;
                *delivery_tag = record.tags.received(tag);
                // This fails only if the message needs no acknowledgement, or was requeued or rejected already.
                let _settled = channel.settle_apart(tag, Settlement::Nack { requeue: true });
            }
            Reply::Method(Method::BasicConsumeOk(started))
                if channel.consumer(&started.consumer_tag) == Some(request.into()) =>
            {
                record.orphans.push(request.into());
                self.orphans = true;
                channel.discard_consumer(&started.consumer_tag);
            }
            _ => {}
        }
    }
}
