//! The record of a channel: what outlives a connection.

pub(crate) mod careful;
pub(crate) mod consumers;
pub(crate) mod declared;
pub(crate) mod in_flight;
pub(crate) mod kept;
pub(crate) mod numbering;
pub(crate) mod reopened;
pub(crate) mod request;
pub(crate) mod streams;

use alloc::boxed::Box;
use alloc::collections::{BTreeMap, VecDeque};
use alloc::vec::Vec;
use core::ops::RangeInclusive;

use careful::Careful;
use consumers::{Consumer, Consumers};
use declared::Declared;
use in_flight::Requests;
use kept::Kept;
use numbering::{Seqs, Tags};
use reopened::Reopened;
use request::Held;
use streams::Streams;

use super::topology::queue_of;
use crate::method::{Arguments as _, BasicQos, Method, MethodFacts};
use crate::{ChannelError, ConsumerId, PublishSeq, RequestId, ShortStr};

/// The state of a channel that outlives a connection.
#[derive(Debug, Default)]
pub(crate) struct ChannelRecord {
    /// True if commands go to the connection's channel with this number. Otherwise they wait.
    pub(crate) attached: bool,
    /// True if `Opened` was emitted.
    pub(crate) opened: bool,
    /// True if the application has closed the channel.
    pub(crate) closing: bool,
    /// Number of deliveries that were unsettled when the channel ended, until that is reported.
    pub(crate) unsettled: usize,
    pub(crate) mode: Mode,
    /// The request that made the channel transactional.
    pub(crate) selected_by: Option<RequestId>,
    /// The restored prefetch limit of consumers that start from now on.
    pub(crate) qos: Option<BasicQos>,
    /// The prefetch limit in effect on the present channel, whether it will be restored or not.
    pub(crate) qos_now: Option<BasicQos>,
    /// True if the application has paused deliveries (`channel.flow`).
    pub(crate) paused: bool,
    /// The prefetch limit of the channel as a whole.
    pub(crate) global_qos: Option<BasicQos>,
    pub(crate) consumers: Consumers,
    /// Number of tags that were generated for them.
    pub(crate) renames: u64,
    /// Consumers whose cancel is pending, with their tags at the broker. They are not restored.
    pub(crate) cancelling: BTreeMap<ConsumerId, ShortStr>,
    /// Consumers whose handle was dropped while they were being restored, until all events were polled that the connection had then.
    /// Their deliveries are requeued.
    pub(crate) orphans: Vec<ConsumerId>,
    /// Consumers that the application dropped while the session was starting them again. They count for their queues like the
    /// consumer of an [abandoned start](request::InFlight::leaving).
    pub(crate) leaving: Vec<Consumer>,
    pub(crate) streams: Streams,
    /// Made by the first declaration of a queue: most channels declare none.
    pub(crate) declared: Option<Box<Declared>>,
    pub(crate) in_flight: Requests,
    /// Requests that wait until the channel is restored, or until messages that are sent in groups are confirmed.
    pub(crate) held: VecDeque<Held>,
    pub(crate) kept: Kept,
    /// Set while one of the kept messages is suspected of having closed the channel.
    pub(crate) careful: Option<Box<Careful>>,
    /// Made when the channel is opened again.
    pub(crate) reopened: Option<Box<Reopened>>,
    pub(crate) seqs: Seqs,
    pub(crate) tags: Tags,
}

#[derive(Debug, Default, Clone, Copy, PartialEq, Eq)]
pub(crate) enum Mode {
    #[default]
    Plain,
    Confirm,
    /// `dirty` while there is something to commit.
    Tx {
        dirty: bool,
        /// A part of the transaction is lost, so it must not be committed.
        lost: bool,
    },
}

impl Mode {
    /// Notes a publish or an acknowledgement.
    #[inline]
    pub(crate) const fn work(&mut self) {
        if let Self::Tx { dirty, .. } = self {
            *dirty = true;
        }
    }

    /// Notes that a part of the transaction is lost.
    pub(crate) const fn lose(&mut self) {
        if let Self::Tx { lost, .. } = self {
            *lost = true;
        }
    }

    /// Notes the loss of the channel, and so of everything uncommitted.
    pub(crate) const fn interrupt(&mut self) {
        if let Self::Tx { dirty, lost } = self {
            *lost |= *dirty;
            *dirty = false;
        }
    }
}

impl ChannelRecord {
    /// Makes the channel transactional. Selecting again does not begin a new transaction.
    pub(crate) const fn select(&mut self, request: RequestId) {
        if !matches!(self.mode, Mode::Tx { .. }) {
            self.mode = Mode::Tx { dirty: false, lost: false };
            self.selected_by = Some(request);
        }
    }

    /// A request has failed, and the application knows that. If it was to make the channel transactional, the channel is not: otherwise
    /// nobody would commit what is published and settled on it.
    pub(crate) fn not_selected(&mut self, failed: RequestId) {
        if self.selected_by.take_if(|request| *request == failed).is_some() {
            self.mode = Mode::Plain;
        }
    }

    /// Returns whether a request has to wait although the channel is open. A request that removes a queue, an exchange or a
    /// binding must not overtake messages that are sent in groups: they would be lost, or refused in their turn. The
    /// requests behind it wait as well.
    pub(crate) fn waits_for_messages(&mut self, method: &Method) -> bool {
        if self.careful.is_none() {
            return false;
        }
        !self.held.is_empty() || removes(method) && self.kept.next_unsent().is_some()
    }

    /// Returns whether the channel waits for its turn to send kept messages, since one of them closes the whole connection.
    pub(crate) fn takes_turns(&self) -> bool {
        self.careful.as_ref().is_some_and(|careful| careful.in_turns)
    }

    /// The channel is closed: on the next one, nothing is sent yet.
    pub(crate) fn send_anew(&mut self) {
        self.kept.restart();
        if let Some(careful) = &mut self.careful {
            // The last group was not confirmed. Groups after the recovery may be smaller, but not larger.
            careful.begin_again();
        }
    }

    /// Returns the number of kept messages that may be sent now.
    pub(crate) fn may_resend(&mut self) -> usize {
        let Some(careful) = &mut self.careful else { return usize::MAX };
        if self.kept.sent_here() > 0 {
            return 0;
        }
        if self.kept.first().is_none_or(|message| message.seq > careful.until) {
            self.careful = None;
            return usize::MAX;
        }
        careful.next_group()
    }

    /// Returns whether any of these publishes is not a kept message.
    pub(crate) fn any_other(&self, unconfirmed: &[RangeInclusive<PublishSeq>]) -> bool {
        let mut any = false;
        for sent in unconfirmed {
            self.seqs.of(sent, |publishes| self.kept.others(&publishes, |_| any = true));
        }
        any
    }

    /// Adds a request to those that wait.
    pub(crate) fn hold(
        &mut self,
        id: RequestId,
        mut method: Method,
        facts: &'static MethodFacts,
        wanted: bool,
        recovers: bool,
    ) {
        // When its channel is restored, the consumer has the application's tag again.
        if let Method::BasicCancel(cancel) = &mut method {
            if let Some(own) = self.consumers.meant_by(&cancel.consumer_tag) {
                cancel.consumer_tag = own.consume.consumer_tag.clone();
            }
        }
        let ahead_of = self.seqs.next();
        self.held.push_back(Held { id, method, facts, wanted, recovers, ahead_of });
    }

    /// The queues that were declared on the channel.
    pub(crate) fn declared(&mut self) -> &mut Declared {
        self.declared.get_or_insert_default()
    }

    /// Returns the queue that an empty name stands for in a request that is sent now. If that queue is yet to get its name from the
    /// broker, returns its declaration.
    pub(crate) fn queue_declared_last(&self) -> Result<ShortStr, RequestId> {
        let Some(declared) = &self.declared else { return Ok(ShortStr::EMPTY) };
        match &declared.declaring {
            Some((declaration, name)) if name.is_empty() => Err(*declaration),
            Some((_, name)) => Ok(name.clone()),
            None => Ok(declared.last_queue.clone()),
        }
    }

    /// Puts the name of the queue that was declared last where an empty one stands for it, if the broker does not know.
    pub(crate) fn name_last_queue(&self, method: &mut Method) {
        let declared = self.declared.as_ref().filter(|declared| declared.last_queue_unknown);
        let Some(Declared { last_queue, .. }) = declared.map(|declared| &**declared) else {
            return;
        };
        // RabbitMQ: with an empty queue name an empty routing key stands for the same name.
        let routing_key = match method {
            Method::QueueBind(bind) if bind.queue.is_empty() => Some(&mut bind.routing_key),
            Method::QueueUnbind(unbind) if unbind.queue.is_empty() => Some(&mut unbind.routing_key),
            _ => None,
        };
        if let Some(routing_key) = routing_key.filter(|key| key.is_empty()) {
            *routing_key = last_queue.clone();
        }
        if let Some(queue) = queue_of(method).filter(|queue| queue.is_empty()) {
            *queue = last_queue.clone();
        }
    }

    /// Undoes a prefetch limit for which the broker closed the channel, so that it is not set again.
    pub(crate) fn undo_guilty(&mut self, error: &ChannelError) {
        let cause = error.as_close().map(|close| (close.class_id, close.method_id));
        if cause != Some((BasicQos::CLASS_ID, BasicQos::METHOD_ID)) {
            return;
        }
        // The oldest pending one: those before it have their replies.
        let mut pending = self.in_flight.iter_mut().filter(|sent| sent.before.is_some());
        let Some(before) = pending.next().and_then(|sent| sent.before.take()) else { return };
        let next = pending.next().and_then(|sent| sent.before.as_ref());
        let guilty = next.map_or(&self.qos, |next| &next.qos);
        // Consumers that were started behind it without a reply are started again, with the limit of before.
        for consumer in self.consumers.iter_mut().filter(|consumer| consumer.qos == *guilty) {
            consumer.qos.clone_from(&before.qos);
        }
        (self.qos, self.global_qos) = (before.qos, before.global_qos);
    }

    /// Returns the consumer that this method cancels, if the broker does not have it: it waits for its queue, which is locked or
    /// is being declared again, or it is paused. Then the broker's reply does not concern it.
    pub(crate) fn cancels_absent(
        &self,
        channel: &mut crate::Channel<'_>,
        method: &Method,
    ) -> Option<ConsumerId> {
        let Method::BasicCancel(cancel) = method else { return None };
        let own = self.consumers.at_broker(&cancel.consumer_tag)?;
        (channel.wanted_consumer(&cancel.consumer_tag) != Some(own.id)).then_some(own.id)
    }

    /// Returns whether a method cancels a consumer that the session is starting again. RabbitMQ: a cancel that arrives before the
    /// queue has replied crashes the channel (seen with 3.10.8). An application that pipelines its own start and cancel gets what it
    /// asks for.
    pub(crate) fn cancels_too_early(&self, channel: &crate::Channel<'_>, method: &Method) -> bool {
        let Method::BasicCancel(cancel) = method else { return false };
        let own = self.consumers.meant_by(&cancel.consumer_tag);
        own.is_some_and(|own| {
            let starts_first = self.in_flight.contains(RequestId(own.id.get()));
            !starts_first && channel.is_starting(own.tag())
        })
    }

    /// Returns the prefetch limit of the next consumer.
    pub(crate) fn prefetch(&self) -> Option<&BasicQos> {
        let held = self.held.iter().rev().find_map(|held| match &held.method {
            Method::BasicQos(qos) if !qos.global => Some(qos),
            _ => None,
        });
        held.or(self.qos_now.as_ref())
    }

    /// Removes the consumer with this tag at the broker.
    pub(crate) fn remove_consumer(&mut self, tag: &ShortStr) -> Option<Consumer> {
        let id = self.consumers.at_broker(tag)?.id;
        self.consumers.remove(id)
    }

    /// Returns the tag at the broker for one of the application's tags.
    pub(crate) fn tag_at_broker(&self, tag: &ShortStr) -> ShortStr {
        self.consumers.named(tag).map_or_else(|| tag.clone(), |consumer| consumer.tag().clone())
    }

    /// Assigns a tag at the broker that no consumer of the channel has had.
    pub(crate) fn rename(&mut self, consumer: ConsumerId) {
        let Some(own) = self.consumers.get(consumer) else { return };
        let own = own.consume.consumer_tag.clone();
        let tag = loop {
            self.renames += 1;
            // A tag that is too long is cut at its end, so that the number remains.
            let tag = ShortStr::truncated(&alloc::format!("{}.{own}", self.renames));
            if self.consumers.tagged(&tag).next().is_none() {
                break tag;
            }
        };
        self.consumers.rename(consumer, tag);
    }

    /// Replaces the application's tag in a `basic.cancel` by the tag at the broker.
    pub(crate) fn rename_consumer(&self, method: &mut Method) {
        if let Method::BasicCancel(cancel) = method {
            cancel.consumer_tag = self.tag_at_broker(&cancel.consumer_tag);
        }
    }
}

/// Returns whether the method removes messages, or a queue, exchange or binding that routes them.
pub(crate) const fn removes(method: &Method) -> bool {
    matches!(
        method,
        Method::QueuePurge(_)
            | Method::QueueDelete(_)
            | Method::QueueUnbind(_)
            | Method::ExchangeDelete(_)
            | Method::ExchangeUnbind(_)
    )
}

#[cfg(test)]
mod tests {
    use super::*;

    /// Each open channel has one. What only some channels need belongs into a box that is made at its first use.
    #[test]
    fn a_record_is_small() {
        assert!(size_of::<ChannelRecord>() <= 480, "{} bytes", size_of::<ChannelRecord>());
    }
}
