//! The pending requests of a channel.

use alloc::collections::{BTreeMap, VecDeque};

use crate::method::MethodFacts;
use crate::{ConsumerId, RequestId, ShortStr};

/// Pending requests, to be matched with their replies.
///
/// The channel replies to its requests in their order. RabbitMQ: the replies to `basic.consume` and `basic.cancel` come from the
/// queue, so they can overtake the channel's and each other. Those name their consumer.
#[derive(Debug, Default)]
pub(super) struct Requests {
    /// Requests that the channel replies to, the oldest first.
    of_channel: VecDeque<Pending>,
    /// Requests that queues reply to.
    of_queues: BTreeMap<RequestId, Pending>,
    by_tag: BTreeMap<(Kind, ShortStr), VecDeque<RequestId>>,
}

#[derive(Debug, Clone, Copy, PartialEq, Eq, PartialOrd, Ord)]
enum Kind {
    Consume,
    Cancel,
}

/// A pending request.
#[derive(Debug)]
pub(super) struct Pending {
    pub(super) id: RequestId,
    pub(super) method: &'static MethodFacts,
    pub(super) effect: Effect,
    /// True if the reply is not wanted: its effect is undone.
    pub(super) abandoned: bool,
}

/// The effect of a reply.
#[derive(Debug)]
pub(super) enum Effect {
    None,
    Consume {
        tag: ShortStr,
        no_ack: bool,
        /// True if the reply is emitted although it is not wanted: a session needs it.
        noted: bool,
    },
    /// The consumer, if there was one with that tag: another may have the tag when the reply arrives.
    Cancel {
        tag: ShortStr,
        consumer: Option<ConsumerId>,
    },
    Get {
        no_ack: bool,
    },
    Recover,
}

impl Requests {
    pub(super) fn len(&self) -> usize {
        self.of_channel.len() + self.of_queues.len()
    }

    pub(super) fn is_empty(&self) -> bool {
        self.of_channel.is_empty() && self.of_queues.is_empty()
    }

    /// Returns whether the reply to one of the requests may be a message (`basic.get`).
    pub(super) fn brings_message(&self) -> bool {
        self.of_channel.iter().any(|pending| matches!(pending.effect, Effect::Get { .. }))
    }

    pub(super) fn clear(&mut self) {
        *self = Self::default();
    }

    pub(super) fn push(&mut self, pending: Pending) {
        let key = match &pending.effect {
            Effect::Consume { tag, .. } => (Kind::Consume, tag.clone()),
            Effect::Cancel { tag, .. } => (Kind::Cancel, tag.clone()),
            _ => return self.of_channel.push_back(pending),
        };
        self.by_tag.entry(key).or_default().push_back(pending.id);
        self.of_queues.insert(pending.id, pending);
    }

    /// The oldest request that the channel itself replies to.
    pub(super) fn oldest(&self) -> Option<&Pending> {
        self.of_channel.front()
    }

    pub(super) fn take_oldest(&mut self) -> Option<Pending> {
        self.of_channel.pop_front()
    }

    /// The oldest request for a consumer of that tag, or else for one that the server names.
    pub(super) fn take_consume(&mut self, tag: &ShortStr) -> Option<Pending> {
        self.take_of_queue(Kind::Consume, tag)
            .or_else(|| self.take_of_queue(Kind::Consume, &ShortStr::EMPTY))
    }

    /// The oldest cancel of a consumer of that tag.
    pub(super) fn take_cancel(&mut self, tag: &ShortStr) -> Option<Pending> {
        self.take_of_queue(Kind::Cancel, tag)
    }

    fn take_of_queue(&mut self, kind: Kind, tag: &ShortStr) -> Option<Pending> {
        let key = (kind, tag.clone());
        let ids = self.by_tag.get_mut(&key)?;
        let id = ids.pop_front();
        if ids.is_empty() {
            self.by_tag.remove(&key);
        }
        self.of_queues.remove(&id?)
    }

    /// The request that starts the consumer of that tag.
    pub(super) fn starting(&mut self, tag: &ShortStr) -> Option<&mut Pending> {
        let id = self.by_tag.get(&(Kind::Consume, tag.clone()))?.front()?;
        self.of_queues.get_mut(id)
    }

    pub(super) fn is_starting(&self, tag: &ShortStr) -> bool {
        self.by_tag.contains_key(&(Kind::Consume, tag.clone()))
    }

    /// Returns whether a consume is outstanding.
    pub(super) fn starts_consumer(&self) -> bool {
        self.by_tag.keys().any(|(kind, _)| *kind == Kind::Consume)
    }

    /// Returns whether the reply to the cancel of that consumer is outstanding.
    pub(super) fn is_cancelling(&self, tag: &ShortStr, consumer: ConsumerId) -> bool {
        let ids = self.by_tag.get(&(Kind::Cancel, tag.clone())).into_iter().flatten();
        ids.filter_map(|id| self.of_queues.get(id)).any(|pending| {
            matches!(pending.effect, Effect::Cancel { consumer: Some(own), .. } if own == consumer)
        })
    }

    pub(super) fn find(&mut self, id: RequestId) -> Option<&mut Pending> {
        if let Some(pending) = self.of_queues.get_mut(&id) {
            return Some(pending);
        }
        // Numbers grow, except when a session sends requests that were made before it restored the channel.
        let index = self.of_channel.binary_search_by_key(&id, |pending| pending.id).ok();
        let index =
            index.or_else(|| self.of_channel.iter().position(|pending| pending.id == id))?;
        self.of_channel.get_mut(index)
    }
}

#[cfg(test)]
mod tests {
    use alloc::vec::Vec;

    use super::*;
    use crate::method::{Arguments as _, BasicConsume, BasicQos};

    fn tag(number: u64) -> ShortStr {
        ShortStr::truncated(&alloc::format!("consumer {number}"))
    }

    fn consume(number: u64, tag: ShortStr) -> Pending {
        let effect = Effect::Consume { tag, no_ack: false, noted: false };
        Pending { id: RequestId(number), method: &BasicConsume::FACTS, effect, abandoned: false }
    }

    fn qos(number: u64) -> Pending {
        let (id, method) = (RequestId(number), &BasicQos::FACTS);
        Pending { id, method, effect: Effect::None, abandoned: false }
    }

    /// With this number, the test takes minutes if each costs a scan of all.
    const COUNT: u64 = 100_000;

    #[test]
    fn replies_in_any_order_cost_the_same() {
        let orders: [fn(u64) -> u64; 3] = [|at| at, |at| COUNT - 1 - at, |at| at * 7919 % COUNT];
        for order in orders {
            let mut requests = Requests::default();
            (0..COUNT).for_each(|number| requests.push(consume(number, tag(number))));
            (COUNT..2 * COUNT).for_each(|number| requests.push(qos(number)));
            for number in (0..COUNT).map(order) {
                let id = requests.take_consume(&tag(number)).expect("it is pending").id;
                assert_eq!(id, RequestId(number));
            }
            for number in COUNT..2 * COUNT {
                assert_eq!(requests.take_oldest().expect("it is pending").id, RequestId(number));
            }
            assert!(requests.is_empty() && requests.by_tag.is_empty());
        }
    }

    #[test]
    fn the_oldest_is_abandoned_last_at_no_higher_price() {
        let mut requests = Requests::default();
        for number in 0..COUNT {
            requests.push(qos(2 * number));
            requests.push(consume(2 * number + 1, tag(number)));
        }
        for number in (0..2 * COUNT).rev() {
            requests.find(RequestId(number)).expect("it is pending").abandoned = true;
        }
        assert!(requests.of_channel.iter().all(|pending| pending.abandoned));
        assert!(requests.of_queues.values().all(|pending| pending.abandoned));
        assert!(requests.find(RequestId(2 * COUNT)).is_none());
    }

    #[test]
    fn a_request_is_found_among_numbers_that_do_not_grow() {
        let mut requests = Requests::default();
        let numbers = [7, 9, 3, 4, 12, 1];
        numbers.into_iter().for_each(|number| requests.push(qos(number)));
        for number in numbers {
            assert_eq!(requests.find(RequestId(number)).map(|found| found.id.0), Some(number));
        }
    }

    #[test]
    fn a_chosen_tag_is_not_confused_with_a_generated_one() {
        let mut requests = Requests::default();
        requests.push(consume(1, ShortStr::EMPTY));
        requests.push(consume(2, tag(2)));
        requests.push(consume(3, ShortStr::EMPTY));
        let order = [tag(2), tag(100), tag(101), tag(102)];
        let ids: Vec<_> =
            order.iter().map(|tag| requests.take_consume(tag).map(|it| it.id.0)).collect();
        assert_eq!(ids, [Some(2), Some(1), Some(3), None]);
    }
}
