//! Sending kept messages and held requests on a channel that was reopened.
//!
//! The broker may have closed the channel, or the connection, for one of the messages. [`blame`] finds that message, and
//! [`turns`] orders the channels that send such messages.

mod blame;
mod turns;

use alloc::vec::Vec;

use super::context::Context;
use super::noted::{ask_for_reply, note};
use super::record::kept::KeptMessage;
use super::record::{Mode, removes};
use crate::method::{ConfirmSelect, Method};
use crate::{
    ChannelError, ChannelEvent, ChannelId, CommandError, Event, FieldTable, PublishSeq,
    RawProperties, Route,
};

impl Context {
    /// Commands go to the channel from now on, the first of them being those that waited. Returns how many messages were
    /// published again.
    pub(crate) fn attach(&mut self, id: ChannelId) -> usize {
        let Some(record) = self.channels.get_mut(id) else { return 0 };
        let Ok(mut channel) = self.connection.channel(id) else { return 0 };
        record.attached = true;
        record.reopened.get_or_insert_default().since = Some(self.now);
        if let Some(declared) = &mut record.declared {
            declared.last_queue_unknown = !declared.last_queue.is_empty();
        }
        debug_assert_eq!(
            record.kept.sent_here(),
            0,
            "nothing is sent on a channel that was not open"
        );
        record.seqs.restart();
        if record.mode == Mode::Confirm && !channel.is_confirming() {
            let selected = channel.request(ConfirmSelect { no_wait: true });
            debug_assert!(selected.is_ok() || !channel.takes_commands(), "{selected:?}");
        }
        self.resend(id)
    }

    /// Sends requests and kept messages that wait, in the order in which they were made: all of them, or some if the channel is
    /// [careful](blame::Careful). Returns how many of the messages were published before.
    pub(crate) fn resend(&mut self, id: ChannelId) -> usize {
        let was_careful = self.channels.get_mut(id).is_some_and(|record| record.careful.is_some());
        let mut again = 0;
        loop {
            let Some(next) = self.next_held(id, |_| true) else {
                again += self.resend_ahead_of(id, u64::MAX);
                break;
            };
            let Some(record) = self.channels.get_mut(id) else { return again };
            let Some(held) = record.held.get(next) else { break };
            let (ahead_of, removes) = (held.ahead_of, removes(&held.method));
            again += self.resend_ahead_of(id, ahead_of);
            let Some(record) = self.channels.get_mut(id) else { break };
            let is_behind = record.kept.next_unsent().is_some_and(|own| own.seq < ahead_of);
            // Other requests do not wait until messages are confirmed.
            if removes && is_behind || !self.send_next_held(id, |_| true) {
                break;
            }
        }
        if again > 0 {
            self.emit(id, ChannelEvent::Republished { count: again });
        }
        if was_careful && self.channels.get_mut(id).is_some_and(|record| record.careful.is_none()) {
            self.emit(id, ChannelEvent::GateOpened);
        }
        again
    }

    /// Publishes kept messages with smaller numbers than that.
    fn resend_ahead_of(&mut self, id: ChannelId, end: u64) -> usize {
        let mut again = 0;
        if self.waits_for_turn(id) {
            return again;
        }
        let Some(record) = self.channels.get_mut(id) else { return again };
        let Ok(mut channel) = self.connection.channel(id) else { return again };
        // A group that is not sent must not count: otherwise the next one would be larger.
        if record.kept.next_unsent().is_some_and(|message| message.seq >= end) {
            return again;
        }
        let mut sent_any = false;
        let mut room = record.may_resend();
        // If the channel has ended, its event follows. Until then, the messages stay where they are.
        while room > 0 && channel.takes_commands() {
            let Some(message) = record.kept.next_unsent().filter(|own| own.seq < end) else {
                break;
            };
            let mut route = Route::new(&message.exchange, &message.routing_key);
            (route.mandatory, route.immediate) = (message.mandatory, message.immediate);
            let route = self.topology.redirect(&route);
            let marked = message.sent.then(|| marked(message)).flatten();
            let properties = marked.as_ref().unwrap_or(&message.properties);
            let mut sent = channel.publish_unchecked(&route, properties, &message.body);
            if sent.is_err() && marked.is_some() {
                // The header `x-republished` does not fit. The message may fit without it, as before.
                sent = channel.publish_unchecked(&route, &message.properties, &message.body);
            }
            match sent {
                Ok(number) => {
                    room -= 1;
                    sent_any = true;
                    again += usize::from(message.sent);
                    (message.sent, message.here) = (true, true);
                    record.seqs.resent(message.seq);
                    // Both ends count in the same way, or confirms would be attributed to the wrong messages.
                    debug_assert_eq!(
                        number.map(|number| record.seqs.one(number.get())),
                        Some(message.seq)
                    );
                }
                // This node allows smaller frames. The broker never gets the message, and does not count it.
                Err(error) => {
                    let seq = message.seq;
                    self.budget.freed(|discard| record.kept.give_up(seq, discard));
                    let failed = ChannelEvent::PublishFailed { publish: PublishSeq(seq), error };
                    self.events.push_back(Event::Channel(id, failed));
                }
            }
        }
        if record.kept.first().is_none() {
            record.careful = None;
        }
        if sent_any && record.takes_turns() {
            self.take_turn(id);
        }
        again
    }

    /// Sends the cancels that waited until their consumers had started.
    pub(crate) fn send_late_cancels(&mut self, id: ChannelId) {
        let Some(record) = self.channels.get_mut(id).filter(|record| record.attached) else {
            return;
        };
        if record.careful.is_some() {
            // It sends everything in order, and requests behind the cancel may wait as well.
            self.resend(id);
            return;
        }
        let Ok(channel) = self.connection.channel(id) else { return };
        let held = record.held.iter().map(|held| &held.method);
        let due = held.filter_map(|method| match method {
            Method::BasicCancel(cancel) if !record.cancels_too_early(&channel, method) => {
                Some(cancel.consumer_tag.clone())
            }
            _ => None,
        });
        let due: Vec<_> = due.collect();
        while self.send_next_held(id, |method| {
            matches!(method, Method::BasicCancel(cancel) if due.contains(&cancel.consumer_tag))
        }) {}
    }

    /// Returns the place of the oldest of the waiting requests that can be sent now. Cancels wait until their consumers have started.
    fn next_held(&mut self, id: ChannelId, due: impl Fn(&Method) -> bool) -> Option<usize> {
        let channel = self.connection.channel(id).ok()?;
        let record = self.channels.get(id)?;
        let is_due = |method| due(method) && !record.cancels_too_early(&channel, method);
        record.held.iter().position(|held| is_due(&held.method))
    }

    /// Makes the oldest of the waiting requests. Returns whether there was one, and the channel accepts more.
    pub(crate) fn send_next_held(&mut self, id: ChannelId, due: impl Fn(&Method) -> bool) -> bool {
        let Some(next) = self.next_held(id, due) else { return false };
        let Some(record) = self.channels.get_mut(id) else { return false };
        let Ok(mut channel) = self.connection.channel(id) else { return false };
        let Some(mut held) = record.held.remove(next) else { return false };
        self.topology.translate(&mut held.method);
        record.name_last_queue(&mut held.method);
        let (request, wanted) = (held.id, held.wanted);
        let mut method = held.method.clone();
        record.rename_consumer(&mut method);
        let absent = record.cancels_absent(&mut channel, &method);
        let answered = ask_for_reply(&mut method, wanted);
        match channel.request_as(Some(request), &method, held.facts, answered) {
            Ok(_) => {
                note(record, &mut self.topology, request, method, wanted, held.recovers, self.now);
                // If it has to be repeated, it is again sent ahead of the same messages.
                if let Some(sent) = record.in_flight.last().filter(|sent| sent.id == request) {
                    sent.ahead_of = held.ahead_of;
                }
                if let Some(consumer) = absent {
                    record.cancelling.remove(&consumer);
                    let ended = ChannelEvent::ConsumerEnded { consumer };
                    self.events.push_back(Event::Channel(id, ended));
                }
            }
            // The channel's end is not reported yet. Nothing of this was sent.
            Err(CommandError::Ended(_)) => {
                record.held.insert(next, held);
                return false;
            }
            Err(error) => {
                if matches!(method, Method::BasicConsume(_)) && !wanted {
                    let (consumer, error) = (request.into(), ChannelError::not_sent(&error));
                    let failed = ChannelEvent::ConsumerFailed { consumer, error };
                    self.events.push_back(Event::Channel(id, failed));
                }
                let failed = ChannelEvent::Failed { request, error };
                self.events.push_back(Event::Channel(id, failed));
            }
        }
        true
    }
}

/// The properties of a message that is sent again, which say so.
fn marked(message: &KeptMessage) -> Option<RawProperties> {
    let again = FieldTable::new().with("x-republished", true).ok()?;
    // Properties that cannot be read are sent again as they are.
    message.properties.with_headers(&again).ok()
}
