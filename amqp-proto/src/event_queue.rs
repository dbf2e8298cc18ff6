use alloc::collections::VecDeque;

use crate::event::{ChannelEvent, Event};
use crate::{ChannelId, ConsumerId, Delivery};

/// Events for the application, in order.
///
/// Deliveries are by far the most frequent events and only half the size of an [`Event`]. They have their own queue, so that none is
/// moved as an `Event`.
#[derive(Debug, Default)]
pub(crate) struct EventQueue {
    deliveries: VecDeque<Queued>,
    others: VecDeque<Event>,
    /// Number of other events that were pushed and popped. Only differences matter, so these numbers may wrap.
    pushed: u32,
    popped: u32,
}

#[derive(Debug)]
struct Queued {
    channel: ChannelId,
    /// Number of other events that were pushed before.
    after: u32,
    consumer: ConsumerId,
    delivery: Delivery,
}

impl EventQueue {
    /// Adds an event that is not a delivery.
    #[inline]
    pub(crate) fn push(&mut self, event: Event) {
        self.others.push_back(event);
        self.pushed = self.pushed.wrapping_add(1);
    }

    #[inline]
    pub(crate) fn push_delivery(
        &mut self,
        channel: ChannelId,
        consumer: ConsumerId,
        delivery: Delivery,
    ) {
        self.deliveries.push_back(Queued { channel, after: self.pushed, consumer, delivery });
    }

    /// Returns the next event, unless it is a delivery.
    #[inline]
    pub(crate) fn peek_other(&self) -> Option<&Event> {
        if self.is_delivery_next() { None } else { self.others.front() }
    }

    /// Returns the next event, if it is a delivery.
    #[inline]
    pub(crate) fn peek_delivery(&mut self) -> Option<(ChannelId, ConsumerId, &mut Delivery)> {
        let next = self.deliveries.front_mut().filter(|next| next.after == self.popped)?;
        Some((next.channel, next.consumer, &mut next.delivery))
    }

    /// Removes the next event, if it is a delivery.
    #[inline]
    pub(crate) fn pop_delivery(&mut self) -> Option<(ChannelId, ConsumerId, Delivery)> {
        if !self.is_delivery_next() {
            return None;
        }
        let Queued { channel, consumer, delivery, .. } = self.deliveries.pop_front()?;
        Some((channel, consumer, delivery))
    }

    #[inline]
    pub(crate) fn pop(&mut self) -> Option<Event> {
        if self.is_delivery_next() {
            return self.pop_delivery_event();
        }
        let event = self.others.pop_front()?;
        self.popped = self.popped.wrapping_add(1);
        Some(event)
    }

    /// Apart from `pop`, which is compiled into each loop over events.
    #[inline(never)]
    fn pop_delivery_event(&mut self) -> Option<Event> {
        let (channel, consumer, delivery) = self.pop_delivery()?;
        Some(Event::Channel(channel, ChannelEvent::Delivery { consumer, delivery }))
    }

    #[inline]
    fn is_delivery_next(&self) -> bool {
        self.deliveries.front().is_some_and(|next| next.after == self.popped)
    }
}

#[cfg(test)]
mod tests {
    use bytes::Bytes;

    use super::*;
    use crate::delivery::DeliverArguments;

    fn delivery() -> Delivery {
        let method = [0; 17];
        let arguments = DeliverArguments::deliver(&method).expect("its texts are empty").1;
        Delivery::contiguous(Bytes::copy_from_slice(&method), &arguments, 17..17, 0, true)
    }

    /// Each event carries its number in the order of all events.
    fn push(queue: &mut EventQueue, number: u16, is_delivery: bool) {
        match is_delivery {
            true => queue.push_delivery(ChannelId(number), ConsumerId(1), delivery()),
            false => queue.push(Event::Channel(ChannelId(number), ChannelEvent::Opened)),
        }
    }

    /// Removes the next event, and returns its number.
    fn pop(queue: &mut EventQueue) -> Option<u16> {
        let delivery = queue.peek_delivery().map(|(channel, ..)| channel);
        let other = queue.peek_other().cloned();
        let popped = queue.pop_delivery().map(|(channel, ..)| channel);
        assert_eq!(popped, delivery);
        if popped.is_none() {
            assert_eq!(queue.pop(), other);
        }
        match (delivery, other) {
            (Some(channel), None) | (None, Some(Event::Channel(channel, _))) => Some(channel.get()),
            (None, None) => None,
            both => panic!("only one event is the next: {both:?}"),
        }
    }

    #[test]
    fn all_events_keep_their_order() {
        const STEPS: u32 = 9;
        for steps in 0..3u32.pow(STEPS) {
            let mut queue = EventQueue { pushed: u32::MAX, popped: u32::MAX, ..<_>::default() };
            let (mut pushed, mut popped) = (0..u16::MAX, 0..u16::MAX);
            for step in (0..STEPS).map(|step| steps / 3u32.pow(step) % 3) {
                match step {
                    0 => {
                        let left = pushed.start > popped.start;
                        assert_eq!(pop(&mut queue), left.then(|| popped.next()).flatten());
                    }
                    kind => push(&mut queue, pushed.next().expect("there are few"), kind == 1),
                }
            }
            for number in popped.start..pushed.start {
                assert_eq!(pop(&mut queue), Some(number));
            }
            assert_eq!(queue.pop(), None);
        }
    }
}
