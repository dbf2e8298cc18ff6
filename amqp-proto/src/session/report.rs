use alloc::vec::Vec;
use core::fmt;
use core::time::Duration;

use crate::{ChannelError, ChannelId, ConsumerId, ShortStr};

/// Something that a recovery brings back.
#[derive(Debug, Clone, PartialEq, Eq)]
#[non_exhaustive]
pub enum Entity {
    /// An exchange.
    Exchange(ShortStr),
    /// A queue, by the name that it had.
    Queue(ShortStr),
    /// A binding of a queue or an exchange.
    Binding {
        /// The exchange that messages come from.
        source: ShortStr,
        /// The queue or exchange that they reach.
        destination: ShortStr,
        /// What is matched.
        routing_key: ShortStr,
    },
    /// A channel.
    Channel(ChannelId),
    /// The prefetch limit of a channel.
    Prefetch(ChannelId),
    /// That deliveries on a channel are paused (`channel.flow`).
    Flow(ChannelId),
    /// A consumer.
    Consumer {
        /// Its channel.
        channel: ChannelId,
        /// Which of those on the session it is.
        consumer: ConsumerId,
        /// Its name.
        consumer_tag: ShortStr,
    },
}

impl Entity {
    /// Whether that is a binding by an empty routing key.
    pub(super) fn has_empty_key(&self) -> bool {
        matches!(self, Self::Binding { routing_key, .. } if routing_key.is_empty())
    }
}

impl fmt::Display for Entity {
    fn fmt(&self, f: &mut fmt::Formatter<'_>) -> fmt::Result {
        match self {
            Self::Exchange(name) => write!(f, "exchange '{name}'"),
            Self::Queue(name) => write!(f, "queue '{name}'"),
            Self::Binding { source, destination, routing_key } => {
                write!(f, "binding of '{destination}' to '{source}' by '{routing_key}'")
            }
            Self::Channel(id) => write!(f, "channel {id}"),
            Self::Flow(id) => write!(f, "pause of channel {id}"),
            Self::Prefetch(id) => write!(f, "prefetch limit of channel {id}"),
            Self::Consumer { channel, consumer_tag, .. } => {
                write!(f, "consumer '{consumer_tag}' of channel {channel}")
            }
        }
    }
}

/// What came of a recovery.
#[derive(Debug, Clone, PartialEq, Eq, Default)]
#[non_exhaustive]
pub struct RecoveryReport {
    /// The node that the session is connected to now, by its place in the list.
    pub node: usize,
    /// How many attempts to connect it took.
    pub attempts: u32,
    /// How many exchanges were declared again.
    pub exchanges: usize,
    /// How many queues were declared again.
    pub queues: usize,
    /// How many bindings were made again.
    pub bindings: usize,
    /// How many channels were opened again.
    pub channels: usize,
    /// How many consumers were started again.
    pub consumers: usize,
    /// How many messages were published again.
    pub republished: usize,
    /// Queues that the broker had named, and has named anew: the old names and the new ones.
    pub renamed: Vec<(ShortStr, ShortStr)>,
    /// What could not be brought back, and why. What depends on it was left out, and is not listed.
    pub failed: Vec<(Entity, ChannelError)>,
    /// Queues and exclusive consumers that somebody else holds, and that will be tried again.
    pub locked: Vec<Entity>,
    /// How long it took to be connected again, counted from the loss.
    pub connecting: Duration,
    /// How long it took after that to bring everything back.
    pub restoring: Duration,
}

impl RecoveryReport {
    pub(super) fn restored(&mut self, entity: &Entity) {
        match entity {
            Entity::Exchange(_) => self.exchanges += 1,
            Entity::Queue(_) => self.queues += 1,
            Entity::Binding { .. } => self.bindings += 1,
            Entity::Channel(_) => self.channels += 1,
            Entity::Prefetch(_) | Entity::Flow(_) => {}
            Entity::Consumer { .. } => self.consumers += 1,
        }
    }
}
