use std::collections::BTreeMap;

use amqp_proto::method::BasicPublish;
use amqp_proto::{RawProperties, ShortStr};
use bytes::Bytes;

use crate::confirms::Confirms;
use crate::direct_reply::ReplyConsumer;
use crate::fault::Fault;
use crate::message::Message;
use crate::name::Name;

/// The state of one channel.
#[derive(Debug, Default)]
pub(crate) struct ChannelState {
    pub(crate) consumers: BTreeMap<ShortStr, ChannelConsumer>,
    /// Deliveries that wait to be acknowledged.
    pub(crate) unacked: BTreeMap<u64, Unacked>,
    pub(crate) last_delivery: u64,
    /// For consumers that start from now on; 0 is no limit.
    pub(crate) prefetch: u16,
    /// For all consumers together; 0 is no limit.
    pub(crate) global_prefetch: u16,
    pub(crate) mode: Mode,
    /// The queue that an empty queue name means.
    pub(crate) last_queue: ShortStr,
    /// Counts consumers, for naming them.
    last_consumer: u64,
    /// Its consumer for direct replies.
    pub(crate) replies: Option<ReplyConsumer>,
}

#[derive(Debug)]
pub(crate) struct ChannelConsumer {
    pub(crate) queue: Name,
    pub(crate) prefetch: u16,
    /// Number of its unacknowledged deliveries.
    pub(crate) unacked: usize,
    /// It gets nothing: its quorum queue takes it for one that was cancelled.
    pub(crate) confused: bool,
}

/// A delivery that waits to be acknowledged.
#[derive(Debug)]
pub(crate) struct Unacked {
    pub(crate) queue: Name,
    pub(crate) message: Message,
    /// Nothing for one that was got.
    pub(crate) consumer: Option<ShortStr>,
}

#[derive(Debug, Default)]
pub(crate) enum Mode {
    #[default]
    Plain,
    Confirm(Confirms),
    Tx(Transaction),
}

/// The commands that take effect with the commit.
#[derive(Debug, Default)]
pub(crate) struct Transaction {
    pub(crate) publishes: Vec<(BasicPublish, RawProperties, Bytes)>,
    /// With their delivery tags. They are not among the unacknowledged any more, unless they are rolled back.
    pub(crate) settlements: Vec<(u64, Unacked, Settlement)>,
}

/// A client's decision about a delivery.
#[derive(Debug, Clone, Copy, PartialEq, Eq)]
pub(crate) enum Settlement {
    Ack,
    /// Requeued without blame.
    Return,
    /// Requeued as a failed delivery.
    Fail,
    /// Dropped or dead-lettered.
    Discard,
}

impl ChannelState {
    /// The tag of a new consumer: the one that the client wants, if it wants one.
    pub(crate) fn name_consumer(&mut self, tag: ShortStr) -> Result<ShortStr, Fault> {
        if tag.is_empty() {
            self.last_consumer += 1;
            return Ok(ShortStr::truncated(&format!("amq.ctag-{}", self.last_consumer)));
        }
        let taken = self.replies.as_ref().is_some_and(|consumer| consumer.tag == tag);
        if taken || self.consumers.contains_key(&tag) {
            return Err(Fault::not_allowed(&format!("attempt to reuse consumer tag '{tag}'")));
        }
        Ok(tag)
    }

    /// Returns whether a consumer may have one more delivery.
    pub(crate) fn has_room(&self, tag: &ShortStr) -> bool {
        let Some(consumer) = self.consumers.get(tag) else { return false };
        let prefetch = usize::from(consumer.prefetch);
        let own = !consumer.confused && (prefetch == 0 || consumer.unacked < prefetch);
        own && (self.global_prefetch == 0
            || self.unacknowledged_count() < self.global_prefetch.into())
    }

    /// Returns whether a consumer of the queue with that tag, which there is no more, has left deliveries unsettled.
    pub(crate) fn has_left(&self, queue: &Name, tag: &ShortStr) -> bool {
        let settled = match &self.mode {
            Mode::Tx(transaction) => &transaction.settlements[..],
            Mode::Plain | Mode::Confirm(_) => &[],
        };
        let settled = settled.iter().map(|(_, unacked, _)| unacked);
        let mut all = self.unacked.values().chain(settled);
        all.any(|unacked| unacked.queue == *queue && unacked.consumer.as_ref() == Some(tag))
    }

    /// The queue was deleted, so it no longer matters which consumers had its deliveries.
    pub(crate) fn forget_consumers(&mut self, queue: &Name) {
        let settled = match &mut self.mode {
            Mode::Tx(transaction) => &mut transaction.settlements[..],
            Mode::Plain | Mode::Confirm(_) => &mut [],
        };
        let settled = settled.iter_mut().map(|(_, unacked, _)| unacked);
        let of_queue =
            self.unacked.values_mut().chain(settled).filter(|unacked| unacked.queue == *queue);
        of_queue.for_each(|unacked| unacked.consumer = None);
    }

    /// Returns the number of deliveries that are not settled, or are settled by an open transaction.
    pub(crate) fn unacknowledged_count(&self) -> usize {
        match &self.mode {
            Mode::Tx(transaction) => self.unacked.len() + transaction.settlements.len(),
            Mode::Plain | Mode::Confirm(_) => self.unacked.len(),
        }
    }

    /// The deliveries that are not settled for good, by their tags: those that the transaction has settled are among them.
    pub(crate) fn unsettled(&self) -> impl Iterator<Item = (u64, &Unacked)> {
        let settled = match &self.mode {
            Mode::Tx(transaction) => transaction.settlements.as_slice(),
            Mode::Plain | Mode::Confirm(_) => &[],
        };
        let settled = settled.iter().map(|(tag, unacked, _)| (*tag, unacked));
        self.unacked.iter().map(|(tag, unacked)| (*tag, unacked)).chain(settled)
    }

    /// Undoes the settlements of a transaction.
    pub(crate) fn roll_back(&mut self, transaction: Transaction) {
        let settlements = transaction.settlements.into_iter();
        self.unacked.extend(settlements.map(|(tag, unacked, _)| (tag, unacked)));
    }

    /// The deliveries that are not settled for good, once the channel is over. What was not committed is void.
    pub(crate) fn into_unacked(mut self) -> impl Iterator<Item = Unacked> {
        if let Mode::Tx(transaction) = std::mem::take(&mut self.mode) {
            self.roll_back(transaction);
        }
        self.unacked.into_values()
    }
}
