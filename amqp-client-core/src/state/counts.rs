//! The counters of channels and connections, and the times of messages.

use std::time::{Duration, Instant};

use amqp_proto::session::SessionChannel;
use amqp_proto::{ChannelId, CommandError, Delivery, DeliveryTag, Settlement};

use super::ages::Ages;
use super::queues::Arrived;
use super::{ChannelState, State};
use crate::counters::{Counters, Numbers, Times};

/// The counters of a channel, except for the outcomes of publishes and requests: these are counted where they are stored.
#[derive(Debug, Default)]
pub(crate) struct Tally {
    pub(crate) counters: Numbers,
    /// Boxed, because in a program that opens many channels, most of them record no time.
    times: Option<Box<Times>>,
    /// When the application took its deliveries.
    ages: Option<Box<Ages>>,
}

impl Tally {
    pub(super) fn times(&mut self) -> &mut Times {
        self.times.get_or_insert_default()
    }

    /// A message was accepted for publishing.
    #[inline]
    pub(crate) const fn published(&mut self, size: usize) {
        self.counters.published += 1;
        self.counters.published_bytes += size as u64;
    }

    /// The application takes messages; `first` is the first of them. It can settle them from now on.
    pub(crate) fn taken(&mut self, first: &Delivery, now: Option<Instant>) {
        self.ages.get_or_insert_default().taken(first.delivery_tag().get(), now);
    }

    /// A message was fetched.
    pub(super) fn got(&mut self, delivery: &Delivery, now: Option<Instant>) {
        self.counters.got += 1;
        self.counters.redelivered += u64::from(delivery.redelivered());
        self.taken(delivery, now);
    }

    /// Returns the number of deliveries that the application has settled.
    pub(super) const fn settlements(&self) -> u64 {
        let Numbers { acked, rejected, requeued, .. } = self.counters;
        acked + rejected + requeued
    }

    /// The reply to a request has arrived. The request was written at the time `written`.
    pub(super) fn answered(&mut self, written: Option<Instant>, now: Option<Instant>) {
        if let (Some(written), Some(now)) = (written, now) {
            self.times().requests.record(now.saturating_duration_since(written), 1);
        }
    }

    /// The application settled a delivery. Returns whether to [time](State::time_later) it at the next turn of the driver.
    #[inline]
    pub(crate) fn settled(&mut self, tag: DeliveryTag, how: Settlement) -> bool {
        *self.counter_of(how) += 1;
        self.ages.as_mut().is_some_and(|ages| ages.end(tag.get()))
    }

    /// Settles all deliveries up to `tag`, and counts them. Returns whether to [time](State::time_later) them at the next turn of
    /// the driver.
    pub(crate) fn settle_up_to(
        &mut self,
        protocol: &mut SessionChannel<'_>,
        tag: DeliveryTag,
        how: Settlement,
        settle: impl FnOnce(&mut SessionChannel<'_>) -> Result<(), CommandError>,
    ) -> Result<bool, CommandError> {
        let (mut timed, mut count) = (false, 0);
        // If there are unsettled deliveries, `settle` fails only on a channel that is being closed. There, times no longer matter.
        protocol.unsettled_up_to(tag, |tag| {
            timed |= self.ages.as_mut().is_some_and(|ages| ages.end(tag.get()));
            count += 1;
        });
        settle(protocol)?;
        *self.counter_of(how) += count;
        Ok(timed)
    }

    #[inline]
    fn counter_of(&mut self, how: Settlement) -> &mut u64 {
        match how {
            Settlement::Ack => &mut self.counters.acked,
            Settlement::Nack { requeue: true } | Settlement::Reject { requeue: true } => {
                &mut self.counters.requeued
            }
            _ => &mut self.counters.rejected,
        }
    }

    /// Requeues a delivery that the application has not taken.
    pub(crate) fn give_back(&mut self, protocol: &mut SessionChannel<'_>, tag: DeliveryTag) {
        // It fails only for deliveries that are settled already, or need no acknowledgement: then there is nothing to requeue.
        if protocol.settle_apart(tag, Settlement::Nack { requeue: true }).is_ok() {
            self.counters.requeued += 1;
        }
    }

    /// Requeues all unsettled deliveries of a channel that is about to be closed.
    pub(super) fn give_back_all(&mut self, protocol: &mut SessionChannel<'_>) {
        self.counters.requeued += protocol.unsettled() as u64;
        protocol.requeue_all();
    }
}

impl ChannelState {
    /// Returns the counters of the channel.
    pub(crate) fn counters(&self) -> Counters {
        let mut counters = self.tally.counters.with_times(self.tally.times.as_deref());
        if let Some(confirms) = &self.confirms {
            let outcomes = &confirms.outcomes;
            counters.confirmed += outcomes.confirmed;
            counters.nacked += outcomes.nacked;
            counters.returned += outcomes.returned;
            counters.unconfirmed += outcomes.unconfirmed;
        }
        counters.requests_failed += self.requests.failed;
        let Arrived { count, bytes, redelivered } = self.queues.arrived();
        counters.delivered += count;
        counters.delivered_bytes += bytes;
        counters.redelivered += redelivered;
        counters
    }

    /// Begins the times of messages and requests that are handed to the transport, and ends those of settled deliveries.
    fn turn(&mut self, now: Instant) {
        self.untimed = false;
        self.confirms.iter_mut().for_each(|confirms| confirms.turn(now));
        self.requests.turn(now);
        let Tally { times, ages, .. } = &mut self.tally;
        if let Some(ages) = ages.as_mut().filter(|ages| ages.has_ended()) {
            ages.flush(now, &mut times.get_or_insert_default().processing);
        }
    }
}

impl State {
    /// Returns the sum of the counters of the connection and all its channels.
    pub(crate) fn counters(&self) -> Counters {
        let mut sum = self.counters;
        self.channels.iter().flatten().for_each(|channel| sum.add(&channel.counters()));
        sum.blocked_time += self.blocked_for();
        sum
    }

    /// The application takes messages of a channel; `first` is the first of them.
    pub(crate) fn time_taken(&mut self, place: u32, first: Option<&Delivery>) {
        let now = self.now;
        if let (Some(channel), Some(first)) = (self.channel(place), first) {
            channel.tally.taken(first, now);
        }
    }

    /// The channel at `place` has queued a message, a request or a settlement. The driver's next turn writes and times it.
    #[cold]
    pub(crate) fn time_later(&mut self, place: u32) {
        let Self { channels, untimed, .. } = self;
        let channel = channels.get_mut(place as usize).and_then(Option::as_mut);
        if let Some(channel) = channel.filter(|channel| !channel.untimed) {
            channel.untimed = true;
            untimed.push(place);
        }
    }

    /// The driver has its turn, and writes what was queued since the last one.
    #[inline]
    pub(crate) fn time_turn(&mut self, now: Instant) {
        if !self.untimed.is_empty() {
            self.time_channels(now);
        }
    }

    fn time_channels(&mut self, now: Instant) {
        let Self { channels, untimed, .. } = self;
        for place in untimed.drain(..) {
            if let Some(Some(channel)) = channels.get_mut(place as usize) {
                channel.turn(now);
            }
        }
    }

    /// Bytes were read.
    pub(crate) const fn count_read(&mut self, bytes: usize) {
        self.counters.reads += 1;
        self.counters.bytes_read += bytes as u64;
    }

    /// Adds the number of writes since the last turn and the number of their bytes, and resets both.
    pub(crate) fn count_written(&mut self, written: &mut (u64, u64)) {
        let (writes, bytes) = std::mem::take(written);
        self.counters.writes += writes;
        self.counters.bytes_written += bytes;
    }

    /// Requeues the unsettled deliveries of the channel `id`, which is about to be closed.
    pub(super) fn give_back_all(
        channels: &mut [Option<Box<ChannelState>>],
        id: ChannelId,
        protocol: &mut SessionChannel<'_>,
    ) {
        let mut open = channels.iter_mut().flatten().filter(|channel| channel.ended.is_none());
        match open.find(|channel| channel.id == id) {
            Some(channel) => channel.give_back_all(protocol),
            None => protocol.requeue_all(),
        }
    }

    /// Returns for how long the broker has been blocking publishing; zero if it does not block.
    fn blocked_for(&self) -> Duration {
        let since = self.blocked.as_ref().and_then(|(since, _)| *since);
        let times = self.now.zip(since);
        times.map_or(Duration::ZERO, |(now, since)| now.saturating_duration_since(since))
    }

    /// The broker accepts messages again, or is gone.
    pub(super) fn end_blocked(&mut self) {
        self.counters.blocked_time += self.blocked_for();
        self.blocked = None;
    }
}
