//! Messages that are kept until they are confirmed, so that they can be published again after a loss.

use alloc::collections::VecDeque;
use alloc::vec::Vec;
use core::ops::RangeInclusive;
use core::time::Duration;

use bytes::Bytes;

use crate::session::discard::Discard;
use crate::time::{Instant, NEVER};
use crate::{PublishSeq, RawProperties, ShortStr};

/// Messages that are kept until they are confirmed, oldest first.
#[derive(Debug, Default)]
pub(crate) struct Kept {
    messages: VecDeque<KeptMessage>,
}

#[derive(Debug, Clone)]
pub(crate) struct KeptMessage {
    pub(crate) seq: u64,
    pub(crate) exchange: ShortStr,
    pub(crate) routing_key: ShortStr,
    pub(crate) mandatory: bool,
    pub(crate) immediate: bool,
    pub(crate) properties: RawProperties,
    pub(crate) body: Bytes,
    /// When the message expires.
    pub(crate) expires: Option<Expires>,
    /// True if it was sent before. If so, it is sent again with the header `x-republished`.
    pub(crate) sent: bool,
    /// True if it was sent on the present channel. Sent messages are in front of those that were not sent.
    pub(crate) here: bool,
    /// Number of times that the channel was closed for no known reason while this was the only unconfirmed message.
    pub(crate) coincidences: u8,
}

#[derive(Debug, Clone, Copy)]
pub(crate) enum Expires {
    /// After this time, counted from the next time that is passed to the session.
    After(Duration),
    At(Instant),
}

/// The number of bytes of kept messages, and its limit.
#[derive(Debug)]
pub(crate) struct Budget {
    pub(crate) kept: usize,
    pub(crate) max: usize,
    /// Collects the bodies of messages that are no longer kept.
    pub(crate) discard: Discard,
    /// True if there are messages whose time to live has not started yet.
    pub(crate) unarmed: bool,
    /// No message expires before this time.
    pub(crate) expires_at: Option<Instant>,
}

impl Budget {
    /// Drops messages; `discard` returns the number of bytes that they counted for.
    pub(crate) fn freed(&mut self, discard: impl FnOnce(&mut Discard) -> usize) {
        let freed = discard(&mut self.discard);
        self.kept = self.kept.saturating_sub(freed);
    }
}

impl KeptMessage {
    /// Returns the number of bytes that the message counts for against the limit.
    pub(crate) fn size(&self) -> usize {
        let names = self.exchange.len() + self.routing_key.len();
        Self::counted_size(names, &self.properties, self.body.len())
    }

    pub(crate) fn counted_size(names: usize, properties: &RawProperties, body: usize) -> usize {
        size_of::<Self>() + names + properties.as_encoded().len() + body
    }

    /// Drops the message's body and properties, or collects them.
    pub(crate) fn discard(self, discard: &mut Discard) {
        discard.bodies([self.body, self.properties.into_encoded()]);
    }
}

impl Kept {
    pub(crate) fn push(&mut self, message: KeptMessage) {
        self.messages.push_back(message);
    }

    /// Removes messages that were confirmed or refused. Returns the number of bytes that are free again.
    pub(crate) fn settled(
        &mut self,
        seqs: &RangeInclusive<PublishSeq>,
        discard: &mut Discard,
    ) -> usize {
        let from = self.messages.partition_point(|message| message.seq < seqs.start().get());
        let to = self.messages.partition_point(|message| message.seq <= seqs.end().get());
        let mut freed = 0;
        for message in self.messages.drain(from..to) {
            freed += message.size();
            message.discard(discard);
        }
        freed
    }

    /// Calls back with those of these numbers that are not kept, in runs.
    pub(crate) fn others(
        &self,
        seqs: &RangeInclusive<PublishSeq>,
        mut run: impl FnMut(RangeInclusive<PublishSeq>),
    ) {
        let mut first = seqs.start().get();
        for kept in self.messages.iter().map(|message| message.seq) {
            if kept < first || kept > seqs.end().get() {
                continue;
            }
            if kept > first {
                run(PublishSeq(first)..=PublishSeq(kept - 1));
            }
            first = kept + 1;
        }
        if first <= seqs.end().get() {
            run(PublishSeq(first)..=*seqs.end());
        }
    }

    /// Drops all messages. Returns the number of bytes that are free again.
    pub(crate) fn clear(&mut self, discard: &mut Discard) -> usize {
        let mut freed = 0;
        for message in self.messages.drain(..) {
            freed += message.size();
            message.discard(discard);
        }
        freed
    }

    /// Marks all messages as not sent on the present channel, for a new channel.
    pub(crate) fn restart(&mut self) {
        self.messages.iter_mut().for_each(|message| message.here = false);
    }

    /// Returns the oldest message that was not sent on the present channel.
    pub(crate) fn next_unsent(&mut self) -> Option<&mut KeptMessage> {
        let sent = self.sent_here();
        self.messages.get_mut(sent)
    }

    /// Returns the number of messages that were sent on the present channel.
    pub(crate) fn sent_here(&self) -> usize {
        self.messages.partition_point(|message| message.here)
    }

    pub(crate) fn iter(&self) -> impl Iterator<Item = &KeptMessage> {
        self.messages.iter()
    }

    pub(crate) fn get(&self, index: usize) -> Option<&KeptMessage> {
        self.messages.get(index)
    }

    pub(crate) fn first(&self) -> Option<&KeptMessage> {
        self.messages.front()
    }

    pub(crate) fn first_mut(&mut self) -> Option<&mut KeptMessage> {
        self.messages.front_mut()
    }

    pub(crate) fn find(&self, seq: u64) -> Option<&KeptMessage> {
        let index = self.messages.binary_search_by_key(&seq, |message| message.seq).ok()?;
        self.messages.get(index)
    }

    /// Starts the time to live of new messages.
    pub(crate) fn arm(&mut self, now: Instant, mut arm: impl FnMut(Instant)) {
        for message in self.messages.iter_mut().rev() {
            match message.expires {
                Some(Expires::At(_)) => break,
                Some(Expires::After(time)) => {
                    // A message that never expires gets a time as well; otherwise each check would look at all older messages.
                    let at = now.checked_add(time.min(NEVER));
                    message.expires = at.map(Expires::At);
                    at.into_iter().for_each(&mut arm);
                }
                None => {}
            }
        }
    }

    /// Returns the messages that have expired; `later` gets the expiry times of the others.
    pub(crate) fn expired(&self, now: Instant, mut later: impl FnMut(Instant)) -> Vec<u64> {
        let expired = self.messages.iter().filter(|message| match message.expires {
            Some(Expires::At(at)) if at <= now => true,
            Some(Expires::At(at)) => {
                later(at);
                false
            }
            _ => false,
        });
        expired.map(|message| message.seq).collect()
    }

    /// Drops one message. Returns the number of bytes that are free again.
    pub(crate) fn give_up(&mut self, seq: u64, discard: &mut Discard) -> usize {
        self.settled(&(PublishSeq(seq)..=PublishSeq(seq)), discard)
    }
}

#[cfg(all(test, feature = "std"))]
mod tests {
    use super::*;

    #[test]
    fn messages_that_are_not_kept_are_reported_in_runs() {
        let others = |kept: &[u64], first, last| {
            let message = |seq: &u64| KeptMessage {
                seq: *seq,
                exchange: ShortStr::default(),
                routing_key: ShortStr::default(),
                mandatory: false,
                immediate: false,
                properties: RawProperties::EMPTY,
                body: Bytes::new(),
                expires: None,
                sent: true,
                here: true,
                coincidences: 0,
            };
            let kept = Kept { messages: kept.iter().map(message).collect() };
            let mut runs = Vec::new();
            kept.others(&(PublishSeq(first)..=PublishSeq(last)), |run| {
                runs.push((run.start().get(), run.end().get()));
            });
            runs
        };
        assert_eq!(others(&[], 2, 9), [(2, 9)]);
        assert_eq!(others(&[1, 10], 2, 9), [(2, 9)]);
        assert_eq!(others(&[1, 2, 5, 8, 10], 2, 9), [(3, 4), (6, 7), (9, 9)]);
        assert_eq!(others(&[2, 3, 4], 2, 4), []);
    }
}
