use std::sync::atomic::{AtomicU64, Ordering};
use std::sync::{Arc, Weak};
use std::task::Waker;
use std::time::Instant;

use amqp_proto::session::{Session, SessionChannel};
use amqp_proto::{
    ChannelError, ChannelEvent as Event, ChannelId, ConnectionError, ConsumerId, Delivery,
    DeliveryTag, GetReply, Reply, Settlement,
};

use super::callbacks::OnClose;
use super::confirms::Confirms;
use super::counts::Tally;
use super::line::{Line, Room, Ticket};
use super::listeners::Listeners;
use super::queues::{End, Queues};
use super::requests::Requests;
use super::waiters::{Task, Waiters};
use crate::channel::Handle;
use crate::error::ConsumerEnd;
use crate::event::ChannelEvent;
use crate::logs::ChannelLog;
use crate::options::Window;

/// Everything that waits for something on one channel.
#[derive(Debug)]
pub(crate) struct ChannelState {
    pub(crate) id: ChannelId,
    pub(crate) opened: bool,
    /// The reason, if the channel is closed.
    pub(crate) ended: Option<Box<ChannelError>>,
    /// The part that all handles share. Empty once the application has closed the channel.
    pub(crate) handle: Weak<Handle>,
    /// Its handles were dropped.
    pub(crate) abandoned: bool,
    /// Tasks to wake when the channel is open or closed.
    pub(crate) watchers: Waiters,
    /// Tasks that wait until content may flow on the channel: `channel.flow`, or the end of an outage.
    pub(crate) gate: Waiters,
    /// Tasks that wait for room in a window. Most channels have one size of window.
    pub(crate) windows: Vec<(Window, Line)>,
    /// Tasks that wait until everything is confirmed.
    pub(crate) confirmed: Waiters,
    pub(crate) requests: Requests,
    pub(crate) queues: Queues,
    /// Made by the first publish with a confirm: most channels only consume, or publish without confirms.
    pub(crate) confirms: Option<Box<Confirms>>,
    pub(crate) confirming: bool,
    /// What is dropped stays unsettled; see [`Channel::hold_until_closed`](crate::Channel::hold_until_closed).
    pub(crate) holding: bool,
    /// Deliveries up to this tag were requeued: the connection was lost, or the application requested it.
    pub(crate) stale: Arc<AtomicU64>,
    pub(crate) listeners: Listeners<ChannelEvent>,
    pub(crate) on_close: OnClose<ChannelError>,
    /// Counts the consumers, for naming them.
    pub(crate) consumers: u32,
    pub(crate) tally: Tally,
    /// It is among those that have something to time at the next turn of the driver.
    pub(super) untimed: bool,
    pub(crate) log: ChannelLog,
}

/// The effect of an event on others than the tasks that waited on the channel.
#[derive(Debug, Default)]
pub(super) struct Outcome {
    /// The channel has ended.
    pub(super) over: bool,
}

impl ChannelState {
    pub(super) fn new(id: ChannelId) -> Self {
        Self {
            id,
            opened: false,
            ended: None,
            handle: Weak::new(),
            abandoned: false,
            watchers: Waiters::default(),
            gate: Waiters::default(),
            windows: Vec::new(),
            confirmed: Waiters::default(),
            requests: Requests::default(),
            queues: Queues::default(),
            confirms: None,
            confirming: false,
            holding: false,
            stale: Arc::default(),
            listeners: Listeners::default(),
            on_close: OnClose::default(),
            consumers: 0,
            tally: Tally::default(),
            untimed: false,
            log: ChannelLog::default(),
        }
    }

    /// Stands in for a channel that the connection does not know. Handles keep their channels known, so it never has to.
    pub(crate) fn lost(id: ChannelId) -> Self {
        Self { ended: Some(Box::new(Self::lost_reason())), ..Self::new(id) }
    }

    pub(crate) const fn lost_reason() -> ChannelError {
        ChannelError::Connection(ConnectionError::DriverGone)
    }

    /// The publishes with confirms.
    #[inline]
    pub(crate) fn confirms(&mut self) -> &mut Confirms {
        self.confirms.get_or_insert_default()
    }

    /// Messages that are not confirmed, and their bytes.
    #[inline]
    pub(crate) fn unconfirmed(&self) -> (usize, usize) {
        let confirms = self.confirms.as_deref();
        confirms.map_or((0, 0), |confirms| (confirms.outstanding(), confirms.bytes()))
    }

    pub(super) fn handle(
        &mut self,
        event: Event,
        proto: &mut Session,
        delivered_bytes: &mut usize,
        now: Option<Instant>,
        mut wake: impl FnMut(Waker),
    ) -> Outcome {
        let mut outcome = Outcome::default();
        match event {
            Event::Delivery { consumer, delivery } => {
                self.deliver(consumer, delivery, proto, delivered_bytes, wake);
            }
            Event::Confirmed { publishes, ack } => {
                self.log.confirmed(*publishes.start(), *publishes.end(), ack, now);
                let Self { confirms, tally, .. } = self;
                if let Some(confirms) = confirms {
                    confirms.confirmed(&publishes, ack, &mut wake);
                    if let Some(now) = now {
                        confirms.ages.flush(now, &mut tally.times().confirms);
                    }
                }
                self.confirms_changed(wake);
            }
            Event::Reply { request, reply } => {
                match &reply {
                    Reply::Message(GetReply::Message { delivery, .. }) => {
                        self.tally.got(delivery, now);
                    }
                    Reply::Message(GetReply::Unusable { .. }) => self.tally.counters.unusable += 1,
                    _ => {}
                }
                let (waker, written) = self.requests.answered(request, reply);
                self.tally.answered(written, now);
                waker.into_iter().for_each(wake);
            }
            Event::Opened => {
                self.opened = true;
                self.watchers.wake_all(&mut wake);
                self.gate.wake_all(wake);
            }
            Event::Returned { publish, returned } => {
                let event = ChannelEvent::Returned(returned.clone());
                self.log.event(&event, now);
                self.listeners.emit(&event, wake);
                match publish {
                    Some(publish) => self.confirms().returned(publish, returned),
                    // With confirms, the message is counted when its confirm arrives.
                    None if proto.channel(self.id).is_ok_and(|own| own.is_confirming()) => {}
                    // Without confirms, this is its only outcome.
                    None => self.tally.counters.returned += 1,
                }
            }
            Event::ConsumerEnded { consumer } => {
                if let Some(queue) = self.queues.get(consumer) {
                    self.log.consumer_cancelled(&queue.tag, "cancelled");
                    queue.end(End::Cancelled).into_iter().for_each(wake);
                }
            }
            Event::Cancelled { consumer } => {
                let Some(queue) = self.queues.get(consumer) else {
                    return outcome;
                };
                let consumer_tag = queue.tag.clone();
                queue.end(End::Unasked(ConsumerEnd::Cancelled)).into_iter().for_each(&mut wake);
                self.emit(&ChannelEvent::ConsumerCancelled { consumer_tag }, now, wake);
            }
            Event::Republished { count } => self.tally.counters.republished += count as u64,
            Event::Unusable { consumer, delivery_tag, why } => {
                self.tally.counters.unusable += 1;
                let consumer_tag =
                    self.queues.get(consumer).map(|queue| queue.tag.clone()).unwrap_or_default();
                let event = ChannelEvent::Unusable { consumer_tag, delivery_tag, why };
                self.log.event(&event, now);
                self.listeners.emit(&event, wake);
            }
            Event::Flow { active } => {
                if active {
                    self.gate.wake_all(&mut wake);
                }
                self.emit(&ChannelEvent::Flow { active }, now, wake);
            }
            Event::Failed { request, error } => {
                self.log.request_failed();
                self.requests.failed(request, error.into()).into_iter().for_each(wake);
            }
            Event::Unconfirmed { publishes, error } => {
                self.log.unconfirmed(*publishes.start(), *publishes.end());
                self.confirms().unconfirmed(&publishes, &error, &mut wake);
                self.confirms_changed(wake);
            }
            Event::PublishFailed { publish, error } => {
                self.log.not_resent(&error, now);
                self.confirms().given_up(publish, &error, &mut wake);
                self.confirms_changed(wake);
            }
            Event::Interrupted { delivered, unsettled, error } => {
                self.log.interrupted(unsettled);
                let freed = self.queues.discard_up_to(delivered);
                *delivered_bytes = delivered_bytes.saturating_sub(freed);
                // Recovery starts them again, like all others.
                self.queues.iter_mut().for_each(|queue| queue.paused = false);
                self.stale.store(delivered.get(), Ordering::Release);
                self.emit(&ChannelEvent::Interrupted(error), now, wake);
            }
            Event::Requeued { last } => {
                let freed = self.queues.discard_up_to(last);
                *delivered_bytes = delivered_bytes.saturating_sub(freed);
                self.stale.store(last.get(), Ordering::Release);
            }
            Event::ConsumerFailed { consumer, error } => {
                let Some(queue) = self.queues.get(consumer) else {
                    return outcome;
                };
                self.log.consumer_failed(&queue.tag, &error);
                let end = End::Unasked(ConsumerEnd::Ended(error));
                queue.end(end).into_iter().for_each(wake);
            }
            Event::Restored => {
                self.gate.wake_all(&mut wake);
                self.emit(&ChannelEvent::Restored, now, wake);
            }
            Event::GateOpened => self.gate.wake_all(wake),
            Event::Closed(reason) => {
                self.terminate(reason, now, wake);
                outcome = Outcome { over: true };
            }
            // Only servers get the other events.
            _ => {}
        }
        outcome
    }

    /// Reports an event, to listeners and in the log.
    pub(crate) fn emit(
        &mut self,
        event: &ChannelEvent,
        now: Option<Instant>,
        wake: impl FnMut(Waker),
    ) {
        self.log.event(event, now);
        self.listeners.emit(event, wake);
    }

    #[inline]
    pub(super) fn deliver(
        &mut self,
        consumer: ConsumerId,
        delivery: Delivery,
        proto: &mut Session,
        delivered_bytes: &mut usize,
        mut wake: impl FnMut(Waker),
    ) {
        match self.queues.get(consumer) {
            Some(queue) if !queue.held => {
                let bytes = delivery.size();
                *delivered_bytes += bytes;
                queue.bytes += bytes;
                queue.arrived.count(&delivery);
                queue.deliveries.push_back(delivery);
                if let Some(waker) = queue.waker.take() {
                    wake(waker);
                }
            }
            // The consumer's handle was dropped, and the cancel that it sent has no reply yet. The connection requeues most such
            // deliveries without passing them on. So none is counted.
            _ if !delivery.no_ack() => {
                if let Ok(mut channel) = proto.channel(self.id) {
                    let tag = delivery.delivery_tag();
                    let requeue = Settlement::Nack { requeue: true };
                    let _closing = match self.holding {
                        true => channel.hold(tag),
                        false => channel.settle_apart(tag, requeue),
                    };
                }
            }
            _ => {}
        }
    }

    /// Requeues a delivery that the application has not taken, or holds it.
    pub(crate) fn give_back(&mut self, protocol: &mut SessionChannel<'_>, tag: DeliveryTag) {
        if self.holding {
            // It fails only for deliveries that are settled already.
            let _settled = protocol.hold(tag);
        } else {
            self.tally.give_back(protocol, tag);
        }
    }

    /// Requeues all unsettled deliveries of a channel that is about to be closed, unless the close is to do that.
    pub(super) fn give_back_all(&mut self, protocol: &mut SessionChannel<'_>) {
        if !self.holding {
            self.tally.give_back_all(protocol);
        }
    }

    /// Returns whether a message of `size` bytes fits into the window, and it is the turn of the future with that ticket.
    #[inline]
    pub(crate) fn has_room(&self, window: Window, size: usize, ticket: Option<Ticket>) -> bool {
        let (messages, bytes) = self.unconfirmed();
        let room = window.has_room(messages, bytes, size);
        room && (self.windows.is_empty() || self.has_turn(window, size, ticket))
    }

    /// Returns whether it is the turn of the future with that ticket, and the message fits behind those that go first.
    fn has_turn(&self, window: Window, size: usize, ticket: Option<Ticket>) -> bool {
        let (messages, bytes) = self.unconfirmed();
        let Some((_, line)) = self.windows.iter().find(|(of, _)| *of == window) else {
            return true;
        };
        line.turn(ticket).is_some_and(|others| {
            let bytes = bytes.saturating_add(others.bytes);
            window.has_room(messages.saturating_add(others.messages), bytes, size)
        })
    }

    /// Waits for room in the window.
    pub(crate) fn wait_for_room(
        &mut self,
        window: Window,
        ticket: &mut Option<Ticket>,
        size: usize,
        task: &mut Task<'_>,
    ) {
        let index = self.windows.iter().position(|(of, _)| *of == window).unwrap_or_else(|| {
            self.windows.push((window, Line::default()));
            self.windows.len() - 1
        });
        if let Some((_, line)) = self.windows.get_mut(index) {
            line.wait(ticket, size, task);
        }
    }

    /// Waits no more for room in the window, having used it or not. Returns the waker, to be dropped behind the lock.
    #[must_use = "a waker is not dropped under the lock"]
    pub(crate) fn leave_window(
        &mut self,
        window: Window,
        ticket: Ticket,
        wake: impl FnMut(Waker),
    ) -> Option<Waker> {
        let index = self.windows.iter().position(|(of, _)| *of == window)?;
        let (_, line) = self.windows.get_mut(index)?;
        let waker = line.leave(ticket);
        if line.is_empty() {
            self.windows.swap_remove(index);
        } else {
            self.call_publishers(wake);
        }
        waker
    }

    /// Wakes as many publishers as there is room for in their window.
    fn call_publishers(&mut self, mut wake: impl FnMut(Waker)) {
        let (messages, bytes) = self.unconfirmed();
        for (window, line) in &mut self.windows {
            let has_room = |granted: Room, size| {
                let bytes = bytes.saturating_add(granted.bytes);
                window.has_room(messages.saturating_add(granted.messages), bytes, size)
            };
            line.call(has_room, &mut wake);
        }
    }

    fn confirms_changed(&mut self, mut wake: impl FnMut(Waker)) {
        self.call_publishers(&mut wake);
        if self.unconfirmed().0 == 0 {
            self.confirmed.wake_all(wake);
        }
    }

    /// A gate of the channel's publishers has changed: all of them check it.
    pub(super) fn open_gates(&mut self, mut wake: impl FnMut(Waker)) {
        self.gate.wake_all(&mut wake);
        for (_, line) in &mut self.windows {
            line.call_all(&mut wake);
        }
    }

    /// Ends the channel and everything that waits on it.
    fn terminate(
        &mut self,
        reason: ChannelError,
        now: Option<Instant>,
        mut wake: impl FnMut(Waker),
    ) {
        self.log.ends_with(self.requests.waiting(), self.unconfirmed().0);
        self.requests.terminate(&reason, &mut wake);
        self.confirms.iter_mut().for_each(|confirms| confirms.terminate(&reason, &mut wake));
        for queue in self.queues.iter_mut() {
            let end = End::Unasked(ConsumerEnd::Ended(reason.clone()));
            queue.end(end).into_iter().for_each(&mut wake);
        }
        self.watchers.wake_all(&mut wake);
        self.open_gates(&mut wake);
        self.confirmed.wake_all(&mut wake);
        self.emit(&ChannelEvent::Closed(reason.clone()), now, &mut wake);
        self.listeners.close(&mut wake);
        self.ended = Some(Box::new(reason));
    }
}

#[cfg(test)]
mod tests {
    use super::*;

    /// Each open channel has one. What only some channels need belongs into a box that is made at its first use.
    #[test]
    fn a_channel_is_small() {
        assert!(size_of::<ChannelState>() <= 384, "{} bytes", size_of::<ChannelState>());
    }
}
