//! Consumers that take nothing, and how they affect the other consumers of the connection.
//!
//! Deliveries that are not taken may fill the [delivery budget](crate::Settings::delivery_budget). Reading is suspended then, so
//! one consumer that takes nothing would stop all of them. It is reported, and if it takes nothing for a while longer, it is
//! paused ([`Session::pause_consumer`]): it keeps its share, the rest is requeued, and reading goes on for the others.
//!
//! Three consumers, and a budget of 12 MiB: the first takes nothing and holds 12 MiB. A share is 2 MiB, half the budget for all
//! of them together. The first is paused, keeps its oldest 2 MiB and requeues 10 MiB.
//!
//! A consumer that has ended gets no more deliveries, but its handle may still hold earlier ones. If nobody takes them, it keeps
//! its share as well, without being paused.

use std::time::{Duration, Instant};

use amqp_proto::ConsumerId;
#[cfg(doc)]
use amqp_proto::session::Session;

use super::queues::Queue;
use super::{ChannelState, ReadingPaused, State};
use crate::config::Settings;
use crate::event::{ChannelEvent, ConnectionEvent};

/// The time for which the budget is exceeded before a consumer that took nothing in that time is paused. A pause costs the
/// broker work and the messages their order, so it is not for consumers that are merely slow.
const PAUSE_AFTER: Duration = Duration::from_secs(1);

/// Sees to it that no consumer stops the others for long.
#[derive(Debug, Default)]
pub(crate) struct LagWatch {
    /// When to check which consumers have taken nothing. `None` while the budget is not exceeded.
    at: Option<Instant>,
}

impl LagWatch {
    /// Returns when to call this again at the latest.
    #[inline]
    pub(crate) fn turn(
        &mut self,
        state: &mut State,
        settings: &Settings,
        now: Instant,
    ) -> Option<Instant> {
        if state.delivered_bytes >= settings.delivery_budget {
            self.look(state, settings, now);
        } else {
            self.at = None;
        }
        self.at
    }

    #[cold]
    fn look(&mut self, state: &mut State, settings: &Settings, now: Instant) {
        match self.at {
            Some(at) if at > now => return,
            Some(_) => state.pause_laggards(settings),
            None => {}
        }
        state.mark_idle();
        let exceeded = state.delivered_bytes >= settings.delivery_budget;
        self.at = now.checked_add(PAUSE_AFTER).filter(|_| exceeded);
    }
}

impl State {
    /// Reading is suspended until consumers take their deliveries. Names the consumer that holds most.
    #[cold]
    pub(crate) fn report_lag(&mut self, budget: usize) {
        self.log_budget(budget);
        let Some(channel) = laggard(&mut self.channels) else { return };
        let Some(queue) = channel.queues.largest().filter(|queue| !queue.lags) else { return };
        queue.lags = true;
        let (id, consumer_tag, bytes) = (channel.id, queue.tag.clone(), queue.bytes);
        let event = ChannelEvent::ConsumerLags { consumer_tag: consumer_tag.clone(), bytes };
        channel.emit(&event, self.now, |waker| self.wakes.push(waker));
        self.emit(&ConnectionEvent::ConsumerLags { channel: id, consumer_tag, bytes });
    }

    /// Returns since when the driver does not read, and the consumer that holds most of what is not taken.
    pub(crate) fn reading_paused(&mut self) -> Option<ReadingPaused> {
        let since = self.reading_paused?;
        let channel = laggard(&mut self.channels)?;
        let queue = channel.queues.largest()?;
        let (consumer_tag, bytes) = (queue.tag.clone(), queue.bytes);
        Some(ReadingPaused { since, channel: channel.id, consumer_tag, bytes })
    }

    /// From now on, records which consumers take something.
    fn mark_idle(&mut self) {
        let channels = self.channels.iter_mut().flatten();
        channels
            .flat_map(|channel| channel.queues.iter_mut())
            .for_each(|queue| queue.idle = !queue.deliveries.is_empty());
    }

    /// Pauses consumers that took nothing, those that hold most first, until the others can go on.
    fn pause_laggards(&mut self, settings: &Settings) {
        // Deliveries that were decoded and not dispatched yet count as well.
        self.dispatch();
        let (mut running, mut busy, mut left) = (0, 0, 0);
        for queue in self.channels.iter_mut().flatten().flat_map(|own| own.queues.iter_mut()) {
            if queue.end.is_some() {
                left += usize::from(queue.is_left());
            } else {
                running += 1;
                busy += usize::from(!queue.idle && !queue.paused);
            }
        }
        let starved = !settings.may_read(self.delivered_bytes, &self.proto)
            && (busy > 0 || self.proto.awaits_peer());
        let share = settings.delivery_budget / (2 * (running + left).max(1));
        // When the last consumer was paused, there may have been fewer consumers, or no room to send the pause.
        let mut requeued = self.trim(share, |queue| queue.paused);
        if starved && self.delivered_bytes >= settings.delivery_budget {
            requeued += self.trim(share, Queue::is_left);
        }
        self.log_requeued(requeued);
        while starved && self.delivered_bytes >= settings.delivery_budget {
            let Some((place, consumer)) = self.next_laggard(share) else { return };
            if self.pause(place, consumer) {
                let requeued = self.trim(share, |queue| queue.paused);
                self.log_requeued(requeued);
                self.log_pause(place, consumer, requeued, settings.delivery_budget);
            }
        }
    }

    /// The consumer that took nothing and holds most, and more than its share. Each is returned once.
    fn next_laggard(&mut self, share: usize) -> Option<(u32, ConsumerId)> {
        let channels = (0..).zip(&mut self.channels);
        let channels = channels.filter_map(|(place, channel)| Some((place, channel.as_mut()?)));
        // A pause cancels the consumer, which a channel that is holding must not do.
        let open = channels.filter(|(_, own)| own.ended.is_none() && !own.holding);
        let queues = open.flat_map(|(place, channel)| {
            channel.queues.iter_with_id().map(move |(id, queue)| (place, id, queue))
        });
        let lagging = queues.filter(|(_, _, queue)| {
            let runs = queue.end.is_none() && !queue.paused && queue.pausable != Some(false);
            runs && queue.idle && queue.bytes > share
        });
        let (place, id, queue) = lagging.max_by_key(|(_, _, queue)| queue.bytes)?;
        queue.idle = false;
        Some((place, id))
    }

    fn pause(&mut self, place: u32, consumer: ConsumerId) -> bool {
        let Self { channels, proto, wakes, now, .. } = self;
        let Some(Some(channel)) = channels.get_mut(place as usize) else { return false };
        let id = channel.id;
        let Some(queue) = channel.queues.get(consumer) else { return false };
        if !proto.pause_consumer(id, consumer, queue.pausable == Some(true)) {
            return false;
        }
        queue.paused = true;
        let consumer_tag = queue.tag.clone();
        channel.emit(&ChannelEvent::ConsumerPaused { consumer_tag }, *now, |waker| {
            wakes.push(waker);
        });
        self.log_due();
        true
    }

    /// Requeues the newest deliveries of some consumers, down to their share. So the order stays as it was.
    ///
    /// Each keeps at least its oldest delivery. An application that looks for deliveries now and then would never find one
    /// otherwise: each would be requeued before the application looks again. What is larger than the share is not counted, so
    /// that reading goes on; that is one message for each of these consumers.
    ///
    /// Returns the number of requeued deliveries.
    fn trim(&mut self, share: usize, wanted: impl Fn(&Queue) -> bool) -> u64 {
        let mut requeued = 0;
        let Self { channels, proto, delivered_bytes, .. } = self;
        for channel in channels.iter_mut().flatten() {
            let (id, over) = (channel.id, channel.ended.is_some());
            for queue in channel.queues.iter_mut().filter(|queue| wanted(queue)) {
                while queue.bytes > share && !proto.is_full() {
                    if queue.deliveries.len() == 1 {
                        let uncounted = std::mem::take(&mut queue.bytes);
                        *delivered_bytes = delivered_bytes.saturating_sub(uncounted);
                        break;
                    }
                    let Some(delivery) = queue.take_newest() else { break };
                    *delivered_bytes = delivered_bytes.saturating_sub(delivery.size());
                    requeued += 1;
                    if over {
                        // The broker has requeued it, and the number may belong to another channel.
                        continue;
                    }
                    if let Ok(mut protocol) = proto.channel(id) {
                        channel.tally.give_back(&mut protocol, delivery.delivery_tag());
                    }
                }
            }
        }
        requeued
    }

    /// A paused consumer has taken all that it held.
    #[cold]
    pub(crate) fn resume(&mut self, place: u32, consumer: ConsumerId) {
        let Self { channels, proto, wakes, now, .. } = self;
        let Some(Some(channel)) = channels.get_mut(place as usize) else { return };
        let Some(queue) = channel.queues.get(consumer) else { return };
        let consumer_tag = queue.tag.clone();
        proto.resume_consumer(channel.id, consumer);
        channel.emit(&ChannelEvent::ConsumerResumed { consumer_tag }, *now, |waker| {
            wakes.push(waker);
        });
        self.log_due();
        self.wake_driver();
    }
}

/// Returns the channel of the consumer that holds most.
fn laggard(channels: &mut [Option<Box<ChannelState>>]) -> Option<&mut ChannelState> {
    let largest =
        |channel: &mut ChannelState| channel.queues.largest().map_or(0, |queue| queue.bytes);
    let channels = channels.iter_mut().filter_map(Option::as_deref_mut);
    let found = channels.map(|channel| (largest(channel), channel));
    found.max_by_key(|(bytes, _)| *bytes).map(|(_, channel)| channel)
}
