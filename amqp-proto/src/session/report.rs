use alloc::vec::Vec;
use core::fmt;
use core::time::Duration;

use crate::{ChannelError, ChannelId, ConsumerId, ShortStr};

/// An entity that recovery restores.
///
/// ```
/// # use amqp_proto::session::{Entity, RecoveryReport};
/// # fn example(report: &RecoveryReport) {
/// for (entity, error) in &report.failed {
///     match entity {
///         Entity::Queue(name) => println!("queue {name} is missing: {error}"),
///         other => println!("{other} was not restored: {error}"),
///     }
/// }
/// # }
/// ```
#[derive(Debug, Clone, PartialEq, Eq)]
#[non_exhaustive]
pub enum Entity {
    /// An exchange.
    Exchange(ShortStr),
    /// A queue, by its name before the recovery.
    Queue(ShortStr),
    /// A binding of a queue or an exchange.
    Binding {
        /// The exchange from which messages are routed.
        source: ShortStr,
        /// The queue or exchange to which they are routed.
        destination: ShortStr,
        /// The routing key or pattern.
        routing_key: ShortStr,
    },
    /// A channel.
    Channel(ChannelId),
    /// The prefetch limit of a channel.
    Prefetch(ChannelId),
    /// The pause of deliveries on a channel (`channel.flow`).
    Flow(ChannelId),
    /// A consumer.
    Consumer {
        /// The consumer's channel.
        channel: ChannelId,
        /// The consumer's id in the session.
        consumer: ConsumerId,
        /// The consumer's tag.
        consumer_tag: ShortStr,
    },
}

impl Entity {
    /// Returns whether this is a binding with an empty routing key.
    pub(super) fn has_empty_key(&self) -> bool {
        matches!(self, Self::Binding { routing_key, .. } if routing_key.is_empty())
    }
}

/// One line, for logs: names are [escaped](ShortStr::escaped).
impl fmt::Display for Entity {
    fn fmt(&self, f: &mut fmt::Formatter<'_>) -> fmt::Result {
        match self {
            Self::Exchange(name) => write!(f, "exchange '{}'", name.escaped()),
            Self::Queue(name) => write!(f, "queue '{}'", name.escaped()),
            Self::Binding { source, destination, routing_key } => write!(
                f,
                "binding of '{}' to '{}' by '{}'",
                destination.escaped(),
                source.escaped(),
                routing_key.escaped(),
            ),
            Self::Channel(id) => write!(f, "channel {id}"),
            Self::Flow(id) => write!(f, "pause of channel {id}"),
            Self::Prefetch(id) => write!(f, "prefetch limit of channel {id}"),
            Self::Consumer { channel, consumer_tag, .. } => {
                write!(f, "consumer '{}' of channel {channel}", consumer_tag.escaped())
            }
        }
    }
}

/// The result of a recovery.
///
/// ```
/// # use amqp_proto::session::RecoveryReport;
/// # fn example(report: &RecoveryReport) {
/// println!("{} consumers restored in {:?}", report.consumers, report.restoring);
/// for (entity, error) in &report.failed {
///     println!("{entity:?} is missing: {error}");
/// }
/// # }
/// ```
#[derive(Debug, Clone, PartialEq, Eq, Default)]
#[non_exhaustive]
pub struct RecoveryReport {
    /// The node that the session is connected to now, as an index into the list of nodes.
    pub node: usize,
    /// Number of attempts to reconnect.
    pub attempts: u32,
    /// Number of exchanges that were declared again.
    pub exchanges: usize,
    /// Number of queues that were declared again.
    pub queues: usize,
    /// Number of bindings that were created again.
    pub bindings: usize,
    /// Number of channels that were reopened.
    pub channels: usize,
    /// Number of consumers that were started again.
    pub consumers: usize,
    /// Number of messages that were published again.
    pub republished: usize,
    /// Queues with names from the broker that have a new name: pairs of the old and the new name.
    pub renamed: Vec<(ShortStr, ShortStr)>,
    /// Entities that could not be restored, with the reasons.
    pub failed: Vec<(Entity, ChannelError)>,
    /// Bindings that were left out because their queue could not be declared.
    pub left_out: Vec<Entity>,
    /// Queues that another connection holds exclusively, and exclusive consumers whose queue is in use. They will be retried.
    pub locked: Vec<Entity>,
    /// Time from the loss until the session had reconnected.
    pub connecting: Duration,
    /// Time after that until everything was restored.
    pub restoring: Duration,
}

impl RecoveryReport {
    pub(super) fn restored(&mut self, entity: &Entity) {
        match entity {
            Entity::Exchange(_) => self.exchanges += 1,
            Entity::Queue(_) => self.queues += 1,
            Entity::Binding { .. } => self.bindings += 1,
            // Channels and their consumers are counted when the repair is finished.
            Entity::Channel(_)
            | Entity::Prefetch(_)
            | Entity::Flow(_)
            | Entity::Consumer { .. } => {}
        }
    }
}

#[cfg(test)]
mod tests {
    use alloc::string::ToString as _;

    use super::*;

    #[test]
    fn names_do_not_break_the_line() {
        let bad = ShortStr::truncated("a\nb");
        let channel = ChannelId(3);
        let entities = [
            (Entity::Exchange(bad.clone()), r"exchange 'a\nb'"),
            (Entity::Queue(bad.clone()), r"queue 'a\nb'"),
            (
                Entity::Binding {
                    source: bad.clone(),
                    destination: bad.clone(),
                    routing_key: bad.clone(),
                },
                r"binding of 'a\nb' to 'a\nb' by 'a\nb'",
            ),
            (
                Entity::Consumer { channel, consumer: ConsumerId(1), consumer_tag: bad },
                r"consumer 'a\nb' of channel 3",
            ),
        ];
        for (entity, line) in entities {
            assert_eq!(entity.to_string(), line);
        }
    }
}
