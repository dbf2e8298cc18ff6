//! Events of the connection: the session handles them, and emits events to the application.

use alloc::vec::Vec;
use core::ops::RangeInclusive;

use super::state::Session;
use crate::method::Method;
use crate::{
    ChannelError, ChannelEvent, ChannelId, Close, Event, GetReply, Initiator, PublishSeq, Reply,
    RequestId, Settlement,
};

impl Session {
    pub(super) fn forget_channel(&mut self, id: ChannelId) {
        if !self.context.forget_channel(id) {
            return;
        }
        if let Some(repair) = self.phase.repair() {
            repair.forget(id);
        }
        // The repair may have waited for this channel alone.
        self.advance();
    }

    /// Handles an event of the connection. Returns the event for the application, if there is one.
    pub(super) fn take(
        &mut self,
        event: Event,
        unconfirmed: Vec<RangeInclusive<PublishSeq>>,
    ) -> Option<Event> {
        match event {
            Event::Channel(id, ChannelEvent::Closed(error)) => {
                self.take_closed(id, error, &unconfirmed)
            }
            Event::Channel(id, event) => self.take_channel(id, event),
            Event::Opened(_) if self.phase.outage().is_some() => {
                self.restore();
                None
            }
            Event::Closed(error) => self.take_end(error),
            Event::SecretUpdated => {
                self.unanswered.accepted();
                Some(Event::SecretUpdated)
            }
            other => Some(other),
        }
    }

    fn take_channel(&mut self, id: ChannelId, mut event: ChannelEvent) -> Option<Event> {
        let Some(record) = self.context.channels.get_mut(id) else {
            if let ChannelEvent::Reply { request, reply } = event {
                self.take_restored(id, request, &reply);
            }
            return None;
        };
        match &mut event {
            ChannelEvent::Delivery { consumer, delivery } => {
                let tag = delivery.delivery_tag();
                delivery.renumber(|tag| record.tags.received(tag));
                if record.orphans.contains(consumer) {
                    if let Ok(mut channel) = self.context.connection.channel(id) {
                        // This fails only if the delivery needs no acknowledgement. No other code settles it.
                        let settlement = match delivery.stream_offset() {
                            Some(_) => Settlement::Ack,
                            None => Settlement::Nack { requeue: true },
                        };
                        let _settled = channel.settle_apart(tag, settlement);
                    }
                    return None;
                }
                if record.streams.watches(*consumer) {
                    record.streams.delivered(*consumer, delivery);
                }
            }
            ChannelEvent::Unusable { consumer, delivery_tag, .. } => {
                let tag = *delivery_tag;
                *delivery_tag = record.tags.received(tag);
                if record.orphans.contains(consumer) {
                    if let Ok(mut channel) = self.context.connection.channel(id) {
                        // This fails only if the message needs no acknowledgement, or was requeued or rejected already.
                        let _settled =
                            channel.settle_apart(tag, Settlement::Nack { requeue: true });
                    }
                }
            }
            // A reopened channel is reported by `Restored` instead.
            ChannelEvent::Opened if record.opened => return None,
            ChannelEvent::Opened => record.opened = true,
            ChannelEvent::Reply { request, reply } => {
                let Some(sent) = record.in_flight.take(*request) else {
                    let known = self.context.judged(*request)
                        || self.handle_paused(id, *request)
                        || self.take_restored(id, *request, reply);
                    if !known {
                        self.context.handle_unwanted(id, *request, reply);
                    }
                    return None;
                };
                match reply {
                    Reply::Message(GetReply::Message { delivery, .. }) => {
                        delivery.renumber(|tag| record.tags.received(tag));
                    }
                    Reply::Message(GetReply::Unusable { delivery_tag, .. }) => {
                        *delivery_tag = record.tags.received(*delivery_tag);
                    }
                    Reply::Message(GetReply::Empty) | Reply::Method(_) => {}
                }
                match reply {
                    Reply::Method(Method::BasicConsumeOk(_)) => {
                        record.streams.started((*request).into(), self.context.now);
                    }
                    Reply::Method(Method::TxCommitOk(_)) => record.streams.committed(),
                    _ => {}
                }
                if let Some(note) = sent.note {
                    note.learn(
                        record,
                        &mut self.context.topology,
                        *request,
                        sent.recovers,
                        Some(reply),
                    );
                }
                if let Some(consumer) = sent.leaving {
                    // It has started, and ends now.
                    self.context.topology.unconsumed(&consumer);
                    self.context.handle_unwanted(id, *request, reply);
                }
                if sent.abandoned {
                    return None;
                }
            }
            ChannelEvent::Confirmed { publishes, ack } => {
                let ack = *ack;
                record.seqs.of(publishes, |publishes| {
                    self.context.budget.freed(|discard| record.kept.settled(&publishes, discard));
                    let event = ChannelEvent::Confirmed { publishes, ack };
                    self.context.events.push_back(Event::Channel(id, event));
                });
                if record.careful.is_some() {
                    self.context.resend(id);
                }
                return self.context.events.pop_front();
            }
            ChannelEvent::Returned { publish: Some(publish), .. } => {
                *publish = PublishSeq(record.seqs.one(publish.get()));
                // The outcome is known. If the message were sent again after a loss, it might reach a queue although it was
                // reported as returned.
                let seq = publish.get();
                self.context.budget.freed(|discard| record.kept.give_up(seq, discard));
            }
            ChannelEvent::Requeued { last } => *last = record.tags.own(*last),
            ChannelEvent::ConsumerEnded { consumer } => {
                record.cancelling.remove(consumer);
            }
            ChannelEvent::Cancelled { consumer } => {
                let consumer = *consumer;
                return (!self.resubscribe(id, consumer)).then_some(Event::Channel(id, event));
            }
            _ => {}
        }
        Some(Event::Channel(id, event))
    }

    /// Handles the reply to a request of the repair. Returns whether it is one.
    fn take_restored(&mut self, id: ChannelId, request: RequestId, reply: &Reply) -> bool {
        let cx = &mut self.context;
        let repair = self.phase.repair();
        let known = repair.is_some_and(|repair| repair.handle_reply(cx, id, request, reply));
        if known {
            cx.send_late_cancels(id);
            self.advance();
        }
        known
    }

    /// Handles the end of a channel.
    fn take_closed(
        &mut self,
        id: ChannelId,
        error: ChannelError,
        unconfirmed: &[RangeInclusive<PublishSeq>],
    ) -> Option<Event> {
        match &error {
            ChannelError::Connection(lost) if self.recovers_from(lost) => {
                if self.context.interrupt(id, &error, unconfirmed) {
                    return None;
                }
            }
            ChannelError::Closed(close) if close.by == Initiator::Peer => {
                if self.reopens(id, close, &error, unconfirmed) {
                    return None;
                }
            }
            // The application closed the channel, or nothing is recovered.
            ChannelError::Closed(_)
            | ChannelError::Connection(_)
            | ChannelError::NotRestored { .. } => {}
        }
        if self.context.channels.get(id).is_none() {
            // The number is free again. The repair may have waited for one.
            if let Some(repair) = self.phase.repair() {
                repair.forget(id);
            }
            self.advance();
            return None;
        }
        if matches!(&error, ChannelError::Closed(close) if close.by == Initiator::Peer) {
            self.context.uncount_starting(id);
        }
        self.forget_channel(id);
        Some(Event::Channel(id, ChannelEvent::Closed(error)))
    }

    /// The broker has closed a channel. Returns whether it is reopened.
    fn reopens(
        &mut self,
        id: ChannelId,
        close: &Close,
        error: &ChannelError,
        unconfirmed: &[RangeInclusive<PublishSeq>],
    ) -> bool {
        let cx = &mut self.context;
        let repair = self.phase.repair();
        if repair.is_some_and(|own| own.handle_channel_closed(cx, id, error, unconfirmed)) {
            self.advance();
            return true;
        }
        let comes_back = cx.channels.get(id).is_some_and(|record| !record.closing);
        let reopens = comes_back && (cx.hold_locked(id, close) || cx.reopens_channels());
        if reopens {
            self.reopen(id, error, unconfirmed);
        }
        reopens
    }
}
