//! The consumers of a session's channel, found by number and by tag however many there are.

use alloc::collections::{BTreeMap, BTreeSet};

use crate::method::{BasicConsume, BasicQos};
use crate::{ConsumerId, RequestId, ShortStr};

/// The consumers of a channel, in the order in which the application started them.
#[derive(Debug, Default)]
pub(crate) struct Consumers {
    all: BTreeMap<ConsumerId, Consumer>,
    /// The tags of the application and those at the broker, with their consumers. Two consumers of one tag are the
    /// application's mistake, over which the broker closes the connection; until then there are two.
    tags: BTreeSet<(ShortStr, ConsumerId)>,
}

/// A consumer of a session's channel.
#[derive(Debug)]
pub(crate) struct Consumer {
    pub(crate) id: ConsumerId,
    pub(crate) consume: BasicConsume,
    /// The declaration of its queue, until its reply names the queue.
    pub(crate) declaration: Option<RequestId>,
    /// The consumer's tag at the broker, if it differs from the application's: see [`pause`](crate::session::pause).
    pub(crate) renamed: Option<ShortStr>,
    /// The restored prefetch limit when the consumer was started.
    pub(crate) qos: Option<BasicQos>,
    /// The prefetch limit in effect when the consumer was started on the present channel.
    pub(crate) qos_now: Option<BasicQos>,
    /// True if the consumer is restored after a loss.
    pub(crate) recovers: bool,
    /// The incarnation of its queue as a consumer of which it counts, once the name of the queue is known.
    pub(crate) counts: Option<u64>,
    pub(crate) pause: Pause,
}

impl Consumer {
    /// Returns the consumer's tag at the broker.
    pub(crate) fn tag(&self) -> &ShortStr {
        self.renamed.as_ref().unwrap_or(&self.consume.consumer_tag)
    }
}

/// The steps of a consumer's pause.
#[derive(Debug, Default, Clone, Copy, PartialEq, Eq)]
pub(crate) enum Pause {
    #[default]
    Running,
    /// The cancel is pending.
    Cancelling {
        cancel: RequestId,
        /// It is started again as soon as the cancel has its reply: only then is its tag free.
        resume: bool,
    },
    Paused,
    Resuming,
}

impl Consumers {
    pub(crate) fn insert(&mut self, consumer: Consumer) {
        self.remove(consumer.id);
        self.tags.extend(tags_of(&consumer));
        self.all.insert(consumer.id, consumer);
    }

    pub(crate) fn remove(&mut self, id: ConsumerId) -> Option<Consumer> {
        let consumer = self.all.remove(&id)?;
        for tag in tags_of(&consumer) {
            self.tags.remove(&tag);
        }
        Some(consumer)
    }

    pub(crate) fn retain(&mut self, mut stays: impl FnMut(&Consumer) -> bool) {
        let Self { all, tags } = self;
        all.retain(|_, consumer| {
            let stays = stays(consumer);
            if !stays {
                for tag in tags_of(consumer) {
                    tags.remove(&tag);
                }
            }
            stays
        });
    }

    pub(crate) fn contains(&self, id: ConsumerId) -> bool {
        self.all.contains_key(&id)
    }

    pub(crate) fn get(&self, id: ConsumerId) -> Option<&Consumer> {
        self.all.get(&id)
    }

    /// Returns a consumer, to change anything except its tags.
    pub(crate) fn get_mut(&mut self, id: ConsumerId) -> Option<&mut Consumer> {
        self.all.get_mut(&id)
    }

    pub(crate) fn iter(&self) -> impl ExactSizeIterator<Item = &Consumer> {
        self.all.values()
    }

    /// Returns all consumers, to change anything except their tags.
    pub(crate) fn iter_mut(&mut self) -> impl Iterator<Item = &mut Consumer> {
        self.all.values_mut()
    }

    /// Returns the consumers with this tag, in the application or at the broker.
    pub(crate) fn tagged(&self, tag: &ShortStr) -> impl Iterator<Item = &Consumer> {
        let range = (tag.clone(), ConsumerId(0))..=(tag.clone(), ConsumerId(u64::MAX));
        self.tags.range(range).filter_map(|(_, id)| self.all.get(id))
    }

    /// The one that has this tag at the broker.
    pub(crate) fn at_broker(&self, tag: &ShortStr) -> Option<&Consumer> {
        self.tagged(tag).find(|consumer| consumer.tag() == tag)
    }

    /// Returns the consumer to which the application assigned this tag.
    pub(crate) fn named(&self, tag: &ShortStr) -> Option<&Consumer> {
        self.tagged(tag).find(|consumer| consumer.consume.consumer_tag == *tag)
    }

    /// Returns the consumer that the application means by this tag: its own, or the one at the broker, which deliveries show.
    pub(crate) fn meant_by(&self, tag: &ShortStr) -> Option<&Consumer> {
        self.named(tag).or_else(|| self.at_broker(tag))
    }

    /// The broker has named it.
    pub(crate) fn set_tag(&mut self, id: ConsumerId, tag: ShortStr) {
        if self.get(id).is_none_or(|consumer| consumer.consume.consumer_tag == tag) {
            return;
        }
        if let Some(mut consumer) = self.remove(id) {
            consumer.consume.consumer_tag = tag;
            self.insert(consumer);
        }
    }

    /// Records another tag of the consumer at the broker.
    pub(crate) fn rename(&mut self, id: ConsumerId, renamed: ShortStr) {
        if let Some(mut consumer) = self.remove(id) {
            consumer.renamed = Some(renamed);
            self.insert(consumer);
        }
    }

    /// The broker has none of them any more: when they are started again, it is with their own tags and
    /// restored limits.
    pub(crate) fn interrupt(&mut self) {
        for consumer in self.all.values_mut() {
            consumer.pause = Pause::Running;
            consumer.qos_now = consumer.qos.clone();
            if let Some(renamed) = consumer.renamed.take() {
                self.tags.remove(&(renamed, consumer.id));
            }
            // If both tags were equal, its own tag is still in use.
            self.tags.insert((consumer.consume.consumer_tag.clone(), consumer.id));
        }
    }
}

fn tags_of(consumer: &Consumer) -> impl Iterator<Item = (ShortStr, ConsumerId)> + use<> {
    let renamed = consumer.renamed.clone();
    let tags = [Some(consumer.consume.consumer_tag.clone()), renamed].into_iter().flatten();
    let id = consumer.id;
    tags.map(move |tag| (tag, id))
}

#[cfg(test)]
mod tests {
    use alloc::format;
    use alloc::vec::Vec;

    use super::*;

    /// With this number, the test takes minutes if each costs a scan of all.
    const COUNT: u64 = 100_000;

    fn tag(number: u64) -> ShortStr {
        ShortStr::truncated(&format!("consumer-{number}"))
    }

    fn consumer(number: u64, consumer_tag: ShortStr) -> Consumer {
        Consumer {
            id: ConsumerId(number),
            consume: BasicConsume { consumer_tag, ..BasicConsume::default() },
            declaration: None,
            renamed: None,
            qos: None,
            qos_now: None,
            recovers: true,
            counts: None,
            pause: Pause::Running,
        }
    }

    #[test]
    fn consumers_that_leave_in_any_order_cost_the_same() {
        let orders: [fn(u64) -> u64; 3] = [|at| at, |at| COUNT - 1 - at, |at| at * 7919 % COUNT];
        for order in orders {
            let mut consumers = Consumers::default();
            (0..COUNT).for_each(|number| consumers.insert(consumer(number, tag(number))));
            for number in (0..COUNT).map(order) {
                let id = consumers.named(&tag(number)).expect("it is there").id;
                assert_eq!(id, ConsumerId(number));
                assert!(consumers.remove(id).is_some() && consumers.remove(id).is_none());
            }
            assert!(consumers.all.is_empty() && consumers.tags.is_empty());
        }
    }

    #[test]
    fn tags_of_the_application_and_of_the_broker_are_distinguished() {
        let mut consumers = Consumers::default();
        (1..=3).for_each(|number| consumers.insert(consumer(number, tag(number % 3))));
        let (one, three) = (ConsumerId(1), ConsumerId(3));
        consumers.rename(one, tag(9));
        assert!(consumers.at_broker(&tag(1)).is_none());
        assert_eq!(consumers.at_broker(&tag(9)).map(|own| own.id), Some(one));
        assert_eq!(consumers.named(&tag(1)).map(|own| own.id), Some(one));
        assert!(consumers.named(&tag(9)).is_none());
        consumers.set_tag(three, tag(1));
        assert_eq!(consumers.at_broker(&tag(1)).map(|own| own.id), Some(three));
        assert_eq!(consumers.tagged(&tag(1)).count(), 2);
        consumers.interrupt();
        assert!(consumers.at_broker(&tag(9)).is_none());
        assert_eq!(consumers.at_broker(&tag(1)).map(|own| own.id), Some(one));
        consumers.retain(|own| own.id != one);
        assert_eq!(consumers.at_broker(&tag(1)).map(|own| own.id), Some(three));
        let left: Vec<_> = consumers.iter().map(|own| own.id).collect();
        assert_eq!(left, [ConsumerId(2), three]);
        assert_eq!(consumers.tags.len(), 2);
    }

    /// A consumer may be renamed to the tag that it has.
    #[test]
    fn both_tags_of_a_consumer_may_be_equal() {
        let mut consumers = Consumers::default();
        consumers.insert(consumer(1, tag(1)));
        consumers.rename(ConsumerId(1), tag(1));
        consumers.interrupt();
        assert!(consumers.at_broker(&tag(1)).is_some());
        consumers.remove(ConsumerId(1));
        assert!(consumers.tags.is_empty());
    }
}
