//! Finds the kept message for which the broker closed a channel.
//!
//! `channel.close` reports that a `basic.publish` is to blame, but not which one. Sending everything again would close the next
//! channel, too, and so on forever. Giving everything up would lose messages that are fine. So:
//!
//! 1. The text of a 404 names the exchange that does not exist: messages to it are given up.
//! 2. A message that was the only unconfirmed one is to blame, and is given up.
//! 3. Otherwise the channel is [careful](Careful): it sends one message, then two, then four, each group when the one before
//!    is confirmed. The next close leaves fewer suspects, and one at last.
//!
//! Between two closes a message is confirmed or given up, so this ends. Each message that is given up is reported to its own
//! future, with the close as the reason.
//!
//! `connection.close` names no channel either. Then all channels that had sent kept messages are careful, and take
//! [turns](super::turns): the next close leaves one channel.

use alloc::boxed::Box;
use alloc::vec::Vec;
use core::ops::RangeInclusive;

use crate::method::{Arguments as _, BasicPublish};
use crate::session::context::{Context, Turn};
use crate::session::record::careful::Careful;
use crate::session::record::kept::{Kept, KeptMessage};
use crate::time::Instant;
use crate::{
    ChannelError, ChannelEvent, ChannelId, Close, ConnectionError, Event, PublishError, PublishSeq,
    ReplyCode,
};

/// After this many closes without a named cause, the only unconfirmed message counts as the cause.
const COINCIDENCES: u8 = 3;

impl Context {
    /// The broker has closed a channel, with these publishes unconfirmed. Gives up the kept messages that were the cause.
    /// Returns whether there were any.
    pub(crate) fn blame(
        &mut self,
        id: ChannelId,
        close: &Close,
        unconfirmed: &[RangeInclusive<PublishSeq>],
    ) -> bool {
        let cause = (close.class_id, close.method_id);
        let is_publish = cause == (BasicPublish::CLASS_ID, BasicPublish::METHOD_ID);
        // Some brokers do not report the cause.
        if !is_publish && cause != (0, 0) {
            return false;
        }
        let Some(record) = self.channels.get_mut(id) else { return false };
        let sent = record.kept.sent_here();
        let Some(last) = sent.checked_sub(1).and_then(|last| record.kept.get(last)) else {
            return false;
        };
        let until = last.seq;
        let named = |message: &KeptMessage| is_publish && names(close, message);
        let mut to_blame: Vec<_> =
            record.kept.iter().filter(|message| named(message)).map(|found| found.seq).collect();
        if to_blame.is_empty() && sent == 1 && !record.any_other(unconfirmed) {
            to_blame.extend(record.kept.suspect(is_publish, close));
        }
        if to_blame.is_empty() {
            // The message that was sent last may have closed the channel, and an earlier one the connection.
            let in_turns = record.takes_turns();
            record.careful = Some(Box::new(Careful::new(until, in_turns)));
            return false;
        }
        self.give_up_kept(id, &to_blame, &ChannelError::Closed(close.clone()));
        true
    }
}

impl Context {
    /// The connection was lost. If the broker closed it for a publish, looks for the kept messages that were the cause.
    ///
    /// They are certain for `immediate` only, which RabbitMQ does not have (540). For any other code, the close names neither
    /// the message nor the channel.
    pub(crate) fn blame_over_connection(&mut self, error: &ConnectionError) {
        let turn = self.turn.take();
        if let Some(close) = closed_over_publish(error) {
            if !self.blame_immediate(close, error) {
                self.blame_in_turns(close, error, turn.as_ref());
            }
        }
        for (_, record) in self.channels.iter_mut() {
            record.send_anew();
        }
    }

    /// Gives up messages with `immediate`, if the broker closed the connection because it does not have that. Returns whether
    /// there were any.
    fn blame_immediate(&mut self, close: &Close, error: &ConnectionError) -> bool {
        if close.reply_code != ReplyCode::NOT_IMPLEMENTED {
            return false;
        }
        let mut to_blame = Vec::new();
        for (id, record) in self.channels.iter() {
            let refused = record.kept.iter().take(record.kept.sent_here());
            let refused = refused.filter(|message| message.immediate);
            let seqs: Vec<_> = refused.map(|message| message.seq).collect();
            if !seqs.is_empty() {
                to_blame.push((id, seqs));
            }
        }
        for (id, seqs) in &to_blame {
            self.give_up_kept(*id, seqs, &error.clone().into());
        }
        !to_blame.is_empty()
    }

    /// Makes all channels careful that may have sent the message. If there is one channel with one message, that is given up.
    fn blame_in_turns(&mut self, close: &Close, error: &ConnectionError, turn: Option<&Turn>) {
        let mut suspects = Vec::new();
        for (id, record) in self.channels.iter_mut() {
            // The broker has accepted the messages of earlier turns.
            if record.takes_turns() && turn.is_none_or(|turn| turn.channel != id) {
                continue;
            }
            let sent = record.kept.sent_here();
            let Some(last) = sent.checked_sub(1).and_then(|last| record.kept.get(last)) else {
                continue;
            };
            record.careful = Some(Box::new(Careful::new(last.seq, true)));
            suspects.push((id, sent));
        }
        let &[(id, 1)] = suspects.as_slice() else { return };
        let Some(record) = self.channels.get_mut(id) else { return };
        // A message that was not kept may have been the cause, but not every time.
        let seqs = record.kept.suspect(false, close);
        self.give_up_kept(id, &seqs, &error.clone().into());
    }

    /// Gives up kept messages whose time to live has passed.
    pub(crate) fn expire_kept(&mut self) {
        let now = self.now;
        let budget = &mut self.budget;
        let earliest = |next: &mut Option<Instant>, at: Instant| {
            *next = Some(next.map_or(at, |next| next.min(at)));
        };
        if core::mem::take(&mut budget.unarmed) {
            for (_, record) in self.channels.iter_mut() {
                record.kept.arm(now, |at| earliest(&mut budget.expires_at, at));
            }
        }
        if budget.expires_at.is_none_or(|at| at > now) {
            return;
        }
        budget.expires_at = None;
        for (id, record) in self.channels.iter_mut() {
            let expired = record.kept.expired(now, |at| earliest(&mut budget.expires_at, at));
            for seq in expired {
                let Some(message) = record.kept.find(seq) else { continue };
                let here = message.here && record.attached;
                budget.freed(|discard| record.kept.give_up(seq, discard));
                if !here {
                    let (publish, error) = (PublishSeq(seq), PublishError::Expired);
                    let failed = ChannelEvent::PublishFailed { publish, error };
                    self.events.push_back(Event::Channel(id, failed));
                }
            }
        }
    }

    /// Reports that these messages were refused, and keeps them no longer.
    fn give_up_kept(&mut self, id: ChannelId, seqs: &[u64], error: &ChannelError) {
        let Some(record) = self.channels.get_mut(id) else { return };
        for seq in seqs {
            self.budget.freed(|discard| record.kept.give_up(*seq, discard));
            let error = error.clone().into();
            let failed = ChannelEvent::PublishFailed { publish: PublishSeq(*seq), error };
            self.events.push_back(Event::Channel(id, failed));
        }
    }
}

impl Kept {
    /// The first message was the only unconfirmed one when the channel was closed. Returns the messages to give up: that one,
    /// if it is certain that it was the cause, and those that the broker would refuse for the same reason.
    fn suspect(&mut self, is_publish: bool, close: &Close) -> Vec<u64> {
        let Some(message) = self.first_mut() else { return Vec::new() };
        message.coincidences = message.coincidences.saturating_add(1);
        if !is_publish && message.coincidences < COINCIDENCES {
            return Vec::new();
        }
        let (seq, exchange) = (message.seq, message.exchange.clone());
        let missing = is_publish && close.reply_code == ReplyCode::NOT_FOUND;
        let alike = |other: &&KeptMessage| {
            other.seq == seq || missing && !exchange.is_empty() && other.exchange == exchange
        };
        self.iter().filter(alike).map(|message| message.seq).collect()
    }
}

/// The close, if the broker closed the connection for a publish.
fn closed_over_publish(error: &ConnectionError) -> Option<&Close> {
    let ConnectionError::Closed(close) = error else { return None };
    let cause = (close.class_id, close.method_id);
    (cause == (BasicPublish::CLASS_ID, BasicPublish::METHOD_ID)).then_some(close)
}

/// Returns whether the close reports that the message's exchange does not exist. RabbitMQ: `NOT_FOUND - no exchange 'x' in vhost
/// '/'`.
fn names(close: &Close, message: &KeptMessage) -> bool {
    if close.reply_code != ReplyCode::NOT_FOUND || message.exchange.is_empty() {
        return false;
    }
    let (text, quote) = (close.reply_text.as_bytes(), b'\'');
    let mut start = b"exchange '".to_vec();
    start.extend_from_slice(message.exchange.as_bytes());
    start.push(quote);
    text.windows(start.len()).any(|part| part == start)
}
