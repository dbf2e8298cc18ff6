use std::collections::{BTreeMap, HashMap};

use amqp_proto::method::BasicPublish;
use amqp_proto::{RawProperties, ShortStr};
use bytes::Bytes;

use crate::message::Message;

/// What the broker knows of one channel.
#[derive(Debug, Default)]
pub(crate) struct ChannelState {
    pub(crate) consumers: HashMap<ShortStr, ChannelConsumer>,
    /// Deliveries that wait to be acknowledged.
    pub(crate) unacked: BTreeMap<u64, Unacked>,
    pub(crate) last_delivery: u64,
    /// For consumers that start from now on; 0 is no limit.
    pub(crate) prefetch: u16,
    /// For all consumers together; 0 is no limit.
    pub(crate) global_prefetch: u16,
    pub(crate) mode: Mode,
    /// What an empty queue name means.
    pub(crate) last_queue: ShortStr,
    /// Counts consumers, for naming them.
    pub(crate) last_consumer: u64,
}

#[derive(Debug)]
pub(crate) struct ChannelConsumer {
    pub(crate) queue: ShortStr,
    pub(crate) prefetch: u16,
    /// How many of its deliveries are unacknowledged.
    pub(crate) unacked: u16,
}

/// A delivery that waits to be acknowledged.
#[derive(Debug)]
pub(crate) struct Unacked {
    pub(crate) queue: ShortStr,
    pub(crate) message: Message,
    /// Nothing for one that was got.
    pub(crate) consumer: Option<ShortStr>,
}

#[derive(Debug, Default)]
pub(crate) enum Mode {
    #[default]
    Plain,
    Confirm {
        published: u64,
    },
    Tx(Transaction),
}

/// What takes effect with the commit.
#[derive(Debug, Default)]
pub(crate) struct Transaction {
    pub(crate) publishes: Vec<(BasicPublish, RawProperties, Bytes)>,
    pub(crate) settlements: Vec<(u64, Settlement)>,
}

/// What a client says of a delivery.
#[derive(Debug, Clone, Copy, PartialEq, Eq)]
pub(crate) enum Settlement {
    Ack,
    Requeue,
    Reject,
}

impl ChannelState {
    /// Whether a consumer may have one more delivery.
    pub(crate) fn has_room(&self, tag: &ShortStr) -> bool {
        let Some(consumer) = self.consumers.get(tag) else { return false };
        let own = consumer.prefetch == 0 || consumer.unacked < consumer.prefetch;
        own && (self.global_prefetch == 0 || self.unacked.len() < self.global_prefetch.into())
    }
}
