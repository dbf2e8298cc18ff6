use std::fmt;
use std::future::{Future, poll_fn};
use std::pin::Pin;
use std::sync::Arc;
use std::task::{Context, Poll, ready};
use std::time::Duration;

use amqp_client_core::{
    CallError, Channel, ChannelEvent, ChannelEvents, Consumer, ConsumerEnd, Delivery,
};
use futures_core::Stream;
use futures_util::stream::SelectAll;
use futures_util::{FutureExt as _, StreamExt as _};
use thiserror::Error;

use super::Partitions;
use super::held::{Held, PartitionDelivery};
use super::slot::Slot;
use super::watch::{GroupEvent, Times, Watch};
use crate::grace::Grace;
use crate::shown::debug_shows_chain;

/// A membership in the group that consumes [`Partitions`]: a stream of deliveries. See [`Partitions::join`].
///
/// The deliveries of a partition come in its order, and those of different partitions mixed. They may be handled concurrently, as long
/// as those of one key are handled one after another: [`Work::on_group`](crate::work::Work::on_group) does that.
///
/// Poll the group also while handlers run, for example by `select`: otherwise it reports no [events](GroupEvent) and does not notice
/// [deliveries that are held for too long](super::Join::held_at_most).
///
/// # Leaving
/// [`leave`](Self::leave) finishes what was handed out, and leaves the rest to the other members in its order. If the group is dropped
/// instead, its channel closes when the last delivery is settled or dropped. Either way, no message changes its place.
///
/// # Losses
/// After a loss of the connection that is recovered, the member gets its partitions again, with the same priorities. Deliveries that
/// were not acknowledged come again, perhaps to another member. Acknowledging the old ones has no effect.
#[must_use = "a group that is dropped is left"]
pub struct Group {
    partitions: Partitions,
    channel: Channel,
    consumers: SelectAll<Numbered>,
    /// For each partition.
    prefetch: u16,
    events: ChannelEvents,
    slot: Option<Slot>,
    held: Arc<Held>,
    watch: Watch,
    observer: Observer,
    ending: Option<Ending>,
}

/// A group has ended. Its channel is closed, so the broker delivers everything that is not acknowledged to other members, in its order.
#[derive(Error, Clone, PartialEq, Eq)]
#[non_exhaustive]
pub enum GroupEnd {
    /// A delivery was dropped without being settled, for example because its handler failed or panicked. The messages behind it must
    /// not be handled before it.
    #[error(
        "a delivery of partition {partition} was dropped without being settled; \
         acknowledge it, reject it, or try again until it succeeds"
    )]
    Dropped {
        /// The partition.
        partition: u32,
    },
    /// A delivery was not settled for too long: [`Join::held_at_most`](super::Join::held_at_most).
    #[error(
        "a delivery of partition {partition} was not settled within {after:?}; \
         the handler hangs, or needs a longer time in `held_at_most`"
    )]
    Stuck {
        /// The partition.
        partition: u32,
        /// The time.
        after: Duration,
    },
    /// A partition cannot be consumed any more: its queue was deleted, or the channel or the connection closed for good.
    #[error("partition {partition} cannot be consumed any more")]
    Ended {
        /// The partition.
        partition: u32,
        /// The reason.
        #[source]
        end: ConsumerEnd,
    },
}

/// Calls the user's function for events.
pub(super) struct Observer(pub(super) Option<Box<Observe>>);

type Observe = dyn FnMut(&GroupEvent) + Send;

/// The consumer of a partition.
pub(super) struct Numbered {
    pub(super) partition: u32,
    pub(super) consumer: Consumer,
}

/// The channel is being closed.
struct Ending {
    reason: Option<GroupEnd>,
    close: Pin<Box<dyn Future<Output = ()> + Send>>,
}

impl Group {
    pub(super) fn new(
        partitions: &Partitions,
        (channel, events): (Channel, ChannelEvents),
        (consumers, prefetch): (SelectAll<Numbered>, u16),
        slot: Option<Slot>,
        times: Times,
        observer: Observer,
    ) -> Self {
        let watch = Watch::new(channel.connection(), partitions, times);
        Self {
            partitions: partitions.clone(),
            channel,
            consumers,
            prefetch,
            events,
            slot,
            held: Arc::default(),
            watch,
            observer,
            ending: None,
        }
    }

    /// Returns the partitions.
    #[must_use]
    pub const fn partitions(&self) -> &Partitions {
        &self.partitions
    }

    /// Returns the channel on which the group consumes.
    #[must_use]
    pub const fn channel(&self) -> &Channel {
        &self.channel
    }

    /// Returns the member's slot, if it has [any slot](super::Member::any_slot).
    #[must_use]
    pub fn slot(&self) -> Option<u16> {
        self.slot.as_ref().map(Slot::number)
    }

    /// Waits for the next delivery. An error is returned once, and `None` after it.
    ///
    /// # Errors
    /// [`GroupEnd`].
    ///
    /// # Cancel safety
    /// Dropping the future loses nothing.
    pub async fn next(&mut self) -> Option<Result<PartitionDelivery, GroupEnd>> {
        poll_fn(|cx| self.poll_delivery(cx)).await
    }

    /// Leaves the group: takes nothing more, waits until all deliveries that were handed out are settled, but only for this time, and
    /// closes the channel. The other members get everything that is not acknowledged, in its order.
    ///
    /// Returns the number of deliveries that were not settled in time. They can no longer be acknowledged.
    ///
    /// # Errors
    /// [`CallError`], if the channel could not be closed. It is closed if the connection is.
    ///
    /// # Cancel safety
    /// Dropping the future is the same as dropping the group.
    pub async fn leave(mut self, grace: Duration) -> Result<usize, CallError> {
        self.stop();
        let mut grace = Grace::new(grace);
        poll_fn(|cx| {
            self.held.wake_with(cx.waker());
            let over = self.held.len() == 0 || grace.is_over(self.channel.connection(), cx);
            if over { Poll::Ready(()) } else { Poll::Pending }
        })
        .await;
        let left = self.held.len();
        self.watch.revoke_all(|event| self.observer.report(&event));
        // The next member finds the slot free once the partitions are.
        self.channel.close().await?;
        Ok(left)
    }

    /// Takes nothing more. What was not taken stays with the broker until the channel closes.
    pub(crate) fn stop(&mut self) {
        self.consumers.clear();
    }

    /// Returns the number of deliveries that may be unsettled, all partitions together.
    pub(crate) fn prefetch(&self) -> usize {
        usize::from(self.prefetch).saturating_mul(self.partitions.count() as usize)
    }

    fn poll_delivery(
        &mut self,
        cx: &mut Context<'_>,
    ) -> Poll<Option<Result<PartitionDelivery, GroupEnd>>> {
        if self.ending.is_none() {
            self.listen(cx);
            if let Some(reason) = self.reason_to_end(cx) {
                self.end(reason);
            }
        }
        if let Some(ending) = &mut self.ending {
            if ending.reason.is_some() {
                ready!(ending.close.poll_unpin(cx));
            }
            return Poll::Ready(ending.reason.take().map(Err));
        }
        match ready!(self.consumers.poll_next_unpin(cx)) {
            Some((partition, Ok(delivery))) => {
                let is_first = self.watch.delivered(partition);
                if is_first {
                    self.observer.report(&GroupEvent::Assigned { partition });
                }
                let place = self.held.hand_out(partition, self.watch.now());
                Poll::Ready(Some(Ok(PartitionDelivery::new(place, delivery, is_first))))
            }
            Some((partition, Err(end))) => {
                self.end(GroupEnd::Ended { partition, end });
                self.poll_delivery(cx)
            }
            None => Poll::Ready(None),
        }
    }

    /// Takes the events of the channel: before any delivery that came after them.
    fn listen(&mut self, cx: &mut Context<'_>) {
        while let Poll::Ready(Some(event)) = self.events.poll_next_unpin(cx) {
            match event {
                // The broker delivers again what was not acknowledged. A loss may be among the events that were missed.
                ChannelEvent::Interrupted(_) | ChannelEvent::Missed(_) => {
                    self.held.lose();
                    self.watch.revoke_all(|event| self.observer.report(&event));
                }
                ChannelEvent::Restored => {
                    let time = self.watch.silence();
                    self.slot.iter_mut().for_each(|slot| slot.check_after(time));
                }
                ChannelEvent::Unusable { delivery_tag, why, .. } => {
                    self.observer.report(&GroupEvent::Unusable { delivery_tag, why });
                }
                _ => {}
            }
        }
        if self.slot.as_mut().is_some_and(|slot| slot.is_lost(cx)) {
            let lost = self.slot().map(|slot| GroupEvent::SlotLost { slot });
            lost.iter().for_each(|event| self.observer.report(event));
        }
    }

    fn reason_to_end(&mut self, cx: &mut Context<'_>) -> Option<GroupEnd> {
        self.held.wake_with(cx.waker());
        if self.held.dropped().is_some() {
            // A delivery may be dropped because of a loss that was not seen yet. Then nothing counts as dropped after this.
            self.listen(cx);
        }
        if let Some(partition) = self.held.dropped() {
            return Some(GroupEnd::Dropped { partition });
        }
        let report = |event| self.observer.report(&event);
        let (partition, after) = self.watch.poll(&self.held, report, cx)?;
        Some(GroupEnd::Stuck { partition, after })
    }

    fn end(&mut self, reason: GroupEnd) {
        self.consumers.clear();
        self.watch.revoke_all(|event| self.observer.report(&event));
        let channel = self.channel.clone();
        // If it fails, the channel is closed already.
        let close = async move { drop(channel.close().await) };
        self.ending = Some(Ending { reason: Some(reason), close: Box::pin(close) });
        self.slot = None;
    }
}

impl Observer {
    fn report(&mut self, event: &GroupEvent) {
        if let Some(observer) = &mut self.0 {
            observer(event);
        }
    }
}

impl Stream for Group {
    type Item = Result<PartitionDelivery, GroupEnd>;

    fn poll_next(mut self: Pin<&mut Self>, cx: &mut Context<'_>) -> Poll<Option<Self::Item>> {
        self.poll_delivery(cx)
    }
}

impl Stream for Numbered {
    type Item = (u32, Result<Delivery, ConsumerEnd>);

    fn poll_next(mut self: Pin<&mut Self>, cx: &mut Context<'_>) -> Poll<Option<Self::Item>> {
        let partition = self.partition;
        let next = ready!(self.consumer.poll_next_unpin(cx));
        Poll::Ready(next.map(|next| (partition, next)))
    }
}

impl fmt::Debug for Group {
    fn fmt(&self, f: &mut fmt::Formatter<'_>) -> fmt::Result {
        f.debug_struct("Group")
            .field("partitions", &self.partitions.name())
            .field("channel", &self.channel)
            .field("held", &self.held.len())
            .finish_non_exhaustive()
    }
}

debug_shows_chain! { GroupEnd }
