//! The deliveries that a group has handed out.

use std::fmt;
use std::ops::Deref;
use std::sync::{Arc, Mutex, MutexGuard, PoisonError};
use std::task::Waker;

use amqp_client_core::{CallError, Delivery};
use bytes::Bytes;
use slab::Slab;

use super::key_of;

/// A delivery of a [`Group`](super::Group), with its partition. Dereferences to the [`Delivery`].
///
/// A group never requeues: a message that is requeued comes again after those that are on their way, and its key loses its order. So try
/// again with the same delivery, or publish the message elsewhere and acknowledge it.
///
/// A delivery that is dropped without being settled ends the group, with [`GroupEnd::Dropped`](super::GroupEnd::Dropped): the messages
/// behind it must not be handled before it. After a loss of the connection, or after [`leave`](super::Group::leave), dropping it has no
/// effect, because the broker delivers the message again.
#[derive(Debug)]
#[must_use = "a delivery that is dropped ends the group"]
pub struct PartitionDelivery {
    /// Dropped first.
    place: Place,
    delivery: Delivery,
    /// Whether it is the first one since its partition was assigned.
    is_first: bool,
}

impl PartitionDelivery {
    pub(crate) const fn new(place: Place, delivery: Delivery, is_first: bool) -> Self {
        Self { place, delivery, is_first }
    }

    /// Returns whether it is the first one since its partition was assigned: of the messages that were delivered before, and not
    /// settled, it is the oldest.
    pub(crate) const fn is_first(&self) -> bool {
        self.is_first
    }

    /// Returns the partition.
    #[must_use]
    pub const fn partition(&self) -> u32 {
        self.place.partition
    }

    /// Returns the key of the message, if a [`PartitionPublisher`](super::PartitionPublisher) has published it.
    #[must_use]
    pub fn key(&self) -> Option<Bytes> {
        key_of(&self.delivery)
    }

    /// Acknowledges the delivery: see [`Delivery::ack`].
    ///
    /// # Errors
    /// [`CallError`], if the channel is closed.
    pub fn ack(self) -> Result<(), CallError> {
        self.settle(Delivery::ack)
    }

    /// Rejects the delivery. The broker dead-letters the message if the queue has a dead-letter exchange, and drops it otherwise.
    ///
    /// # Errors
    /// [`CallError`], if the channel is closed.
    pub fn reject(self) -> Result<(), CallError> {
        self.settle(|delivery| delivery.reject(false))
    }

    /// Returns the delivery, and what knows that it is held.
    pub(crate) fn into_parts(self) -> (Place, Delivery) {
        (self.place, self.delivery)
    }

    fn settle(
        self,
        settle: impl FnOnce(Delivery) -> Result<(), CallError>,
    ) -> Result<(), CallError> {
        let Self { mut place, delivery, .. } = self;
        place.settled = true;
        settle(delivery)
    }
}

impl Deref for PartitionDelivery {
    type Target = Delivery;

    fn deref(&self) -> &Delivery {
        &self.delivery
    }
}

/// The place of a delivery in [`Held`].
pub(crate) struct Place {
    held: Arc<Held>,
    number: usize,
    partition: u32,
    settled: bool,
}

impl Drop for Place {
    fn drop(&mut self) {
        self.held.end(self.number, self.settled);
    }
}

impl fmt::Debug for Place {
    fn fmt(&self, f: &mut fmt::Formatter<'_>) -> fmt::Result {
        f.debug_struct("Place").field("partition", &self.partition).finish_non_exhaustive()
    }
}

/// What is known of the deliveries that were handed out and are not settled.
#[derive(Default)]
pub(super) struct Held(Mutex<State>);

#[derive(Default)]
struct State {
    out: Slab<Out>,
    /// The number of losses of the connection.
    losses: u32,
    /// The partition of a delivery that was dropped without being settled since the last loss.
    dropped: Option<u32>,
    waker: Option<Waker>,
}

struct Out {
    partition: u32,
    losses: u32,
    since: u32,
}

impl Held {
    fn state(&self) -> MutexGuard<'_, State> {
        self.0.lock().unwrap_or_else(PoisonError::into_inner)
    }

    pub(super) fn hand_out(self: &Arc<Self>, partition: u32, now: u32) -> Place {
        let mut state = self.state();
        let losses = state.losses;
        let number = state.out.insert(Out { partition, losses, since: now });
        Place { held: self.clone(), number, partition, settled: false }
    }

    fn end(&self, number: usize, settled: bool) {
        let mut state = self.state();
        let Some(out) = state.out.try_remove(number) else { return };
        if !settled && out.losses == state.losses {
            state.dropped.get_or_insert(out.partition);
        }
        // The group waits for the last one, and for one that was dropped.
        let wakes = !settled || state.out.is_empty();
        let waker = state.waker.take_if(|_| wakes);
        drop(state);
        waker.into_iter().for_each(Waker::wake);
    }

    /// Wakes this task when nothing is held any more, or when a delivery was dropped.
    pub(super) fn wake_with(&self, waker: &Waker) {
        let mut state = self.state();
        if !state.waker.as_ref().is_some_and(|known| known.will_wake(waker)) {
            // The old one is dropped without the lock: it is foreign code.
            let old = state.waker.replace(waker.clone());
            drop(state);
            drop(old);
        }
    }

    /// The connection was lost: the broker delivers again what is held.
    pub(super) fn lose(&self) {
        let mut state = self.state();
        state.losses += 1;
        state.dropped = None;
    }

    /// Returns the partition of a delivery that was dropped without being settled since the last loss.
    pub(super) fn dropped(&self) -> Option<u32> {
        self.state().dropped
    }

    /// Returns the number of deliveries that are held.
    pub(super) fn len(&self) -> usize {
        self.state().out.len()
    }

    /// Returns the partition that has held a delivery for longest, and since when.
    pub(super) fn oldest(&self) -> Option<(u32, u32)> {
        let state = self.state();
        let current = state.out.iter().filter(|(_, out)| out.losses == state.losses);
        current.map(|(_, out)| (out.since, out.partition)).min().map(|(since, at)| (at, since))
    }

    /// Calls `see` for the partition of each delivery that is held.
    pub(super) fn partitions(&self, mut see: impl FnMut(u32)) {
        self.state().out.iter().for_each(|(_, out)| see(out.partition));
    }
}
