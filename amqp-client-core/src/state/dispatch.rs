//! Events of the session: passed on to channels, consumers, waiting tasks and listeners.

use amqp_proto::{
    ChannelEvent, ChannelId, ConnectionError, ConsumerId, Delivery, Event, SessionEvent,
};

use super::State;
use crate::event::ConnectionEvent;

impl State {
    /// Passes on the events of the protocol.
    pub(crate) fn dispatch(&mut self) {
        self.dispatch_events();
        self.bury_discarded();
    }

    /// Bodies that the session has no more use for are dropped once the lock is released.
    #[inline]
    pub(crate) fn bury_discarded(&mut self) {
        if let Some(discarded) = self.proto.take_discarded() {
            self.bury(discarded);
        }
    }

    fn dispatch_events(&mut self) {
        loop {
            while let Some((id, consumer, delivery)) = self.proto.poll_delivery() {
                self.deliver(id, consumer, delivery);
            }
            let Some(event) = self.proto.poll_event() else { return };
            match event {
                Event::Channel(id, event) => self.dispatch_to_channel(id, event),
                Event::Opened(_) => self.opened(),
                Event::Blocked { reason } => {
                    self.counters.blocked += 1;
                    // The broker may report further reasons while it blocks. It has blocked since the first one.
                    let since = self.blocked.as_ref().map_or(self.now, |(since, _)| *since);
                    self.blocked = Some((since, reason.clone()));
                    self.emit(&ConnectionEvent::Blocked { reason });
                }
                Event::Unblocked => {
                    self.end_blocked();
                    let Self { gate, wakes, .. } = self;
                    gate.wake_all(|waker| wakes.push(waker));
                    self.emit(&ConnectionEvent::Unblocked);
                }
                Event::SecretUpdated => {
                    if let Some(update) = self.secrets.pop_front() {
                        // The outcome is set only once: the update was in the queue.
                        let _set = update.set(Ok(()));
                    }
                    self.wake_watchers();
                }
                Event::Session(event) => self.dispatch_of_session(event),
                Event::Closed(reason) => self.terminate(reason),
                // A client's connection has no other events.
                _ => {}
            }
        }
    }

    /// The connection is open for the first time.
    fn opened(&mut self) {
        if self.recovers_until_open {
            self.proto.stop_recovery();
        }
        self.wake_watchers();
        self.emit(&ConnectionEvent::Opened);
    }

    #[inline]
    fn deliver(&mut self, id: ChannelId, consumer: ConsumerId, delivery: Delivery) {
        let place = self.by_number.get(usize::from(id.get())).copied().flatten();
        let Some(place) = place else { return };
        let Self { channels, proto, wakes, delivered_bytes, .. } = self;
        if let Some(Some(channel)) = channels.get_mut(place as usize) {
            channel.deliver(consumer, delivery, proto, delivered_bytes, |waker| wakes.push(waker));
        }
    }

    fn dispatch_of_session(&mut self, event: SessionEvent) {
        // A connection that is lost while it is restored is an attempt that failed, and it may have been sent a secret, too.
        let lost_secrets = match &event {
            SessionEvent::Lost { reason } => Some(reason.clone()),
            SessionEvent::AttemptFailed { .. } => Some(ConnectionError::NotConnected),
            _ => None,
        };
        if let Some(reason) = lost_secrets {
            for update in self.secrets.drain(..) {
                let _set = update.set(Err(reason.clone()));
            }
            self.wake_watchers();
        }
        if let SessionEvent::Lost { .. } = &event {
            self.counters.losses += 1;
            self.end_blocked();
            self.deadlines.lose();
            self.open_gates();
            self.wake_watchers();
            // Reading may have been suspended because of the requeued deliveries.
            self.wake_driver();
        }
        if let SessionEvent::Connecting { node, .. } = &event {
            self.node = *node;
        }
        if let SessionEvent::Recovered(_) = &event {
            self.deadlines.recover(self.proto.queued());
            if self.counters.losses == 0 {
                // It began without a transport. Nothing was lost, so nothing was recovered.
                return self.opened();
            }
            self.counters.recoveries += 1;
        }
        let event = match event {
            SessionEvent::AttemptFailed { node, step, reason } => {
                SessionEvent::AttemptFailed { node, step: self.refine(step), reason }
            }
            event => event,
        };
        let Some(event) = ConnectionEvent::of_session(event, &self.endpoints) else { return };
        if let ConnectionEvent::Recovered(report) = &event {
            self.wake_watchers();
            for callback in self.on_recover.clone() {
                let report = report.clone();
                self.call(Box::new(move || (callback.0)(&report)));
            }
        }
        self.emit(&event);
    }

    fn dispatch_to_channel(&mut self, id: ChannelId, event: ChannelEvent) {
        let place = self.by_number.get(usize::from(id.get())).copied().flatten();
        let Some(place) = place else { return };
        if matches!(event, ChannelEvent::Restored) {
            self.deadlines.reopen(place, self.proto.queued());
        }
        let Self {
            channels, proto, wakes, delivered_bytes, full, kept, counters, now, story, ..
        } = self;
        let Some(Some(channel)) = channels.get_mut(place as usize) else {
            return;
        };
        let was_open = channel.opened;
        let outcome =
            channel.handle(event, proto, delivered_bytes, *now, |waker| wakes.push(waker));
        story.add(channel.log.take_lost());
        counters.channels_opened += u64::from(channel.opened && !was_open);
        counters.channels_closed += u64::from(channel.opened && outcome.over);
        if let Some(reports) = channel.confirms.as_mut().and_then(|confirms| confirms.reports()) {
            wakes.call(reports);
        }
        if outcome.over {
            // Some of the tasks that wait there may belong to the channel.
            full.call_all(|waker| wakes.push(waker));
            kept.call_all(|waker| wakes.push(waker));
        } else if !kept.is_empty() {
            self.call_publishers();
        }
        let Some(Some(channel)) = self.channels.get_mut(place as usize) else {
            return;
        };
        if let Some(reason) = channel.ended.as_ref().filter(|_| outcome.over) {
            channel.on_close.calls(reason).for_each(|call| self.call(call));
        }
        if outcome.over {
            self.by_number[usize::from(id.get())] = None;
            if self.channel(place).is_some_and(|channel| channel.abandoned) {
                // The number may belong to another channel soon.
                self.released.retain(|released| *released != id);
                self.free_channel(place);
            }
        }
        self.log_due();
    }

    /// The connection has ended, and everything that waits ends with it. The channels have ended one by one before.
    fn terminate(&mut self, reason: ConnectionError) {
        self.end_blocked();
        self.reading_paused = None;
        self.open_gates();
        self.wake_watchers();
        // If the driver was dropped, it has no turn any more.
        self.wake_turns();
        self.on_close.calls(&reason).for_each(|call| self.call(call));
        // Callbacks that own handles would keep this state alive, and themselves with it.
        let on_recover = std::mem::take(&mut self.on_recover);
        self.bury(on_recover);
        self.emit(&ConnectionEvent::Closed(reason));
        let Self { listeners, wakes, .. } = self;
        listeners.close(|waker| wakes.push(waker));
        self.wake_driver();
    }

    pub(crate) fn emit(&mut self, event: &ConnectionEvent) {
        self.log_event(event);
        let Self { listeners, wakes, .. } = self;
        listeners.emit(event, |waker| wakes.push(waker));
        self.log_due();
    }
}
