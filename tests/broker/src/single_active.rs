//! Single active consumers: one consumer of a queue gets all its messages, while the others wait.

use crate::engine::{At, Engine};
use crate::name::Name;
use crate::queue::{Consumer, Queue};

/// The state of a queue with a single active consumer.
#[derive(Debug, Default)]
pub(crate) struct SingleActive {
    /// The number of the active consumer.
    active: Option<u64>,
    /// A consumer of higher priority was there. The active one gets nothing more, and stops being active once it has settled all
    /// its deliveries, even if the other is gone by then.
    hands_over: bool,
}

/// How queues choose their active consumer.
#[derive(Debug, Clone, Copy, PartialEq, Eq)]
enum Rule {
    /// Quorum queues of RabbitMQ 3.10: the one that has waited longest. It stays active as long as it is there.
    Oldest,
    /// Classic queues of all versions: the one with the highest priority. It stays active as long as it is there.
    Highest,
    /// Quorum queues from RabbitMQ 4.0 on: the one with the highest priority. It takes over from one with a lower priority.
    TakesOver,
}

/// RabbitMQ: what a quorum queue sends at most to a consumer without a prefetch limit.
const UNLIMITED_PREFETCH: u16 = 2_000;

impl Rule {
    const fn of(queue: &Queue, rabbitmq_4_3: bool) -> Self {
        match (queue.limits.counts_deliveries, rabbitmq_4_3) {
            (false, _) => Self::Highest,
            (true, false) => Self::Oldest,
            (true, true) => Self::TakesOver,
        }
    }

    /// Returns the first consumer in line.
    fn first(self, consumers: &[Consumer]) -> Option<&Consumer> {
        consumers.iter().max_by_key(|consumer| {
            let age = std::cmp::Reverse(consumer.number);
            let limit = match consumer.prefetch {
                0 => UNLIMITED_PREFETCH,
                limit => limit,
            };
            match self {
                Self::Oldest => (0, 0, age),
                Self::Highest => (consumer.priority, 0, age),
                // RabbitMQ prefers consumers with room for more messages.
                Self::TakesOver => (consumer.priority, limit, age),
            }
        })
    }
}

impl Queue {
    /// Returns whether the queue delivers to this consumer.
    pub(crate) fn serves(&self, consumer: &Consumer) -> bool {
        let SingleActive { active, hands_over } = self.single_active;
        !self.limits.single_active || active == Some(consumer.number) && !hands_over
    }

    /// Returns the consumer that is active.
    fn active(&self) -> Option<&Consumer> {
        let active = self.single_active.active?;
        self.consumers.iter().find(|consumer| consumer.number == active)
    }
}

impl Engine {
    /// Chooses the active consumer of a queue again: consumers came or went, or the active one has settled a delivery.
    ///
    /// To be called at each such event: after several of them, the choice could be another one.
    pub(crate) fn choose_active(&mut self, name: &Name) {
        let Some(queue) = self.queues.get(name).filter(|queue| queue.limits.single_active) else {
            return;
        };
        let rule = Rule::of(queue, self.options.rabbitmq_4_3);
        let first = rule.first(&queue.consumers);
        let waits_for_active = match (queue.active(), first) {
            (Some(active), Some(first)) if rule == Rule::TakesOver => {
                let hands_over = queue.single_active.hands_over || first.priority > active.priority;
                (!hands_over || self.has_unsettled(active)).then_some((active.number, hands_over))
            }
            (Some(active), _) => Some((active.number, false)),
            (None, _) => None,
        };
        let (active, hands_over) = match waits_for_active {
            Some((active, hands_over)) => (Some(active), hands_over),
            None => (first.map(|first| first.number), false),
        };
        if let Some(queue) = self.queues.get_mut(name) {
            queue.single_active = SingleActive { active, hands_over };
            self.dirty.insert(name.clone());
        }
    }

    fn has_unsettled(&self, consumer: &Consumer) -> bool {
        let At { session, channel } = consumer.at();
        let channel = self.sessions.get(&session).and_then(|own| own.channels.get(&channel));
        let own = channel.and_then(|channel| channel.consumers.get(&consumer.tag));
        own.is_some_and(|own| own.unacked > 0)
    }
}
