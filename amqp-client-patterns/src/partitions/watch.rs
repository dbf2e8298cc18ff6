//! What a group knows of its partitions by watching them: RabbitMQ does not say which consumer is active.

use std::fmt;
use std::future::Future;
use std::pin::Pin;
use std::task::{Context, Poll};
use std::time::Duration;

use amqp_client_core::{After, Connection, DeliveryTag, ShortStr, Unusable};
use futures_util::FutureExt as _;

use super::Partitions;
use super::held::Held;

/// An event of a group: see [`Join::on_event`](super::Join::on_event).
#[derive(Debug, Clone, PartialEq)]
#[non_exhaustive]
pub enum GroupEvent {
    /// The member gets messages of this partition: this is reported before the first delivery, and before the first one after
    /// [`Revoked`](Self::Revoked).
    ///
    /// The broker does not say when a member becomes the owner of a partition. So a partition without messages is not assigned.
    Assigned {
        /// The partition.
        partition: u32,
    },
    /// Another member may have got messages of this partition: nothing has come for [some time](super::Join::silence), the connection
    /// was lost, or the member leaves. What is known from earlier messages of the partition, such as a cache, may be outdated.
    Revoked {
        /// The partition.
        partition: u32,
    },
    /// Messages wait in a partition, this member gets none of them, and they have not become fewer for
    /// [some time](super::Join::stalled_after). Either the member that has the partition is slower than the publishers, or it hangs, or
    /// the broker has stopped delivering.
    Stalled {
        /// The partition.
        partition: u32,
        /// The number of messages that wait.
        messages: u32,
    },
    /// After a loss of the connection, another member has the [slot](super::Member::any_slot). Both have the same priorities now: the one
    /// that came first gets the messages, and the other one is its reserve. Leave the group, and join again to get a free slot.
    ///
    /// This is reported once after a loss, after [some time](super::Join::silence). If the broker has not noticed the loss by then, the
    /// slot still belongs to the old connection.
    SlotLost {
        /// The slot.
        slot: u16,
    },
    /// The client did not accept a message, because its body is larger than
    /// [`Limits::body_max`](amqp_client_core::Limits::body_max). It was held or rejected, as
    /// [`Limits::oversized`](amqp_client_core::Limits::oversized) configures. A message that is held takes one place of the
    /// [prefetch limit](super::Join::prefetch).
    Unusable {
        /// The delivery tag of the message.
        delivery_tag: DeliveryTag,
        /// The reason.
        why: Unusable,
    },
}

/// For log lines.
impl fmt::Display for GroupEvent {
    fn fmt(&self, f: &mut fmt::Formatter<'_>) -> fmt::Result {
        match self {
            Self::Assigned { partition } => write!(f, "partition {partition} is assigned"),
            Self::Revoked { partition } => write!(f, "partition {partition} is revoked"),
            Self::Stalled { partition, messages } => write!(
                f,
                "partition {partition}: {messages} messages wait, and do not become fewer; \
                 its consumer is too slow, or hangs, or the broker has stopped delivering"
            ),
            Self::SlotLost { slot } => {
                write!(f, "slot {slot} has another member now; leave the group, and join again")
            }
            Self::Unusable { delivery_tag, why } => {
                write!(f, "message {delivery_tag}: the client does not accept it: {why}")
            }
        }
    }
}

/// The number of ticks within a silence.
const TICKS: u32 = 4;

/// The times of a group.
#[derive(Debug, Clone, Copy)]
pub(super) struct Times {
    pub(super) silence: Duration,
    pub(super) stalled_after: Duration,
    pub(super) held_at_most: Duration,
}

impl Times {
    fn tick(&self) -> Duration {
        let shortest = self.silence.min(self.stalled_after).min(self.held_at_most);
        (shortest / TICKS).max(Duration::from_millis(1))
    }

    fn ticks(&self, time: Duration) -> u32 {
        let ticks = time.as_nanos().div_ceil(self.tick().as_nanos());
        u32::try_from(ticks).unwrap_or(u32::MAX)
    }
}

/// Watches the partitions of a group.
pub(super) struct Watch {
    connection: Connection,
    partitions: Partitions,
    times: Times,
    tick: After,
    /// The number of ticks so far: the clock of everything here.
    now: u32,
    seen: Vec<Seen>,
    look: Option<Look>,
    looked: u32,
}

/// What was seen of a partition.
#[derive(Debug, Clone, Copy, Default)]
struct Seen {
    /// When a delivery was last there, if the partition is assigned.
    last: Option<u32>,
    /// The number of messages at the last look, if nothing has come since.
    waiting: Option<u32>,
}

/// Asks the broker for the numbers of messages of some partitions.
type Look = Pin<Box<dyn Future<Output = Vec<(u32, u32)>> + Send>>;

impl Watch {
    pub(super) fn new(connection: &Connection, partitions: &Partitions, times: Times) -> Self {
        Self {
            connection: connection.clone(),
            partitions: partitions.clone(),
            times,
            tick: connection.after(times.tick()),
            now: 0,
            seen: vec![Seen::default(); partitions.count() as usize],
            look: None,
            looked: 0,
        }
    }

    pub(super) const fn silence(&self) -> Duration {
        self.times.silence
    }

    pub(super) const fn now(&self) -> u32 {
        self.now
    }

    /// A delivery has come. Returns whether its partition was not assigned before.
    pub(super) fn delivered(&mut self, partition: u32) -> bool {
        let Some(seen) = self.seen.get_mut(partition as usize) else { return false };
        seen.waiting = None;
        seen.last.replace(self.now).is_none()
    }

    /// Nothing is assigned any more. Calls `report` for each partition that was.
    pub(super) fn revoke_all(&mut self, mut report: impl FnMut(GroupEvent)) {
        for (partition, seen) in (0..).zip(&mut self.seen) {
            seen.waiting = None;
            if seen.last.take().is_some() {
                report(GroupEvent::Revoked { partition });
            }
        }
    }

    /// Lets time pass. Reports what has been silent for too long. Returns the partition of a delivery that is held for too long, and for
    /// how long.
    pub(super) fn poll(
        &mut self,
        held: &Held,
        mut report: impl FnMut(GroupEvent),
        cx: &mut Context<'_>,
    ) -> Option<(u32, Duration)> {
        // Once the connection has ended, no time passes.
        while let Poll::Ready(Ok(())) = self.tick.poll_unpin(cx) {
            self.tick = self.connection.after(self.times.tick());
            self.now = self.now.wrapping_add(1);
            self.revoke_silent(held, &mut report);
            if let Some((partition, since)) = held.oldest() {
                let ticks = self.now.wrapping_sub(since);
                if ticks > self.times.ticks(self.times.held_at_most) {
                    return Some((partition, self.times.held_at_most));
                }
            }
            let stall = self.times.ticks(self.times.stalled_after);
            if self.look.is_none() && self.now.wrapping_sub(self.looked) >= stall {
                self.looked = self.now;
                self.look = Some(self.start_look());
            }
        }
        let look = self.look.as_mut()?;
        if let Poll::Ready(found) = look.poll_unpin(cx) {
            self.look = None;
            found.into_iter().for_each(|(at, messages)| self.compare(at, messages, &mut report));
        }
        None
    }

    fn revoke_silent(&mut self, held: &Held, report: &mut impl FnMut(GroupEvent)) {
        let now = self.now;
        let silence = self.times.ticks(self.times.silence);
        // While the broker waits for an acknowledgement, nobody else gets the partition.
        held.partitions(|partition| {
            let seen = self.seen.get_mut(partition as usize);
            if let Some(last) = seen.and_then(|seen| seen.last.as_mut()) {
                *last = now;
            }
        });
        for (partition, seen) in (0..).zip(&mut self.seen) {
            if seen.last.take_if(|last| now.wrapping_sub(*last) > silence).is_some() {
                report(GroupEvent::Revoked { partition });
            }
        }
    }

    /// Looks at the partitions that this member does not have.
    fn start_look(&self) -> Look {
        let others = (0..).zip(&self.seen).filter(|(_, seen)| seen.last.is_none());
        let queue = |(partition, _)| Some((partition, self.partitions.queue(partition)?.clone()));
        let queues: Vec<(u32, ShortStr)> = others.filter_map(queue).collect();
        let connection = self.connection.clone();
        Box::pin(async move {
            let mut found = Vec::new();
            let Ok(channel) = connection.open_channel().await else { return found };
            let ask = |(partition, queue)| (partition, channel.queue_declare_passive(queue));
            let asked: Vec<_> = queues.into_iter().map(ask).collect();
            for (partition, reply) in asked {
                // A queue that does not exist closes the channel. Its consumer reports that.
                let Ok(queue) = reply.await else { break };
                found.push((partition, queue.message_count()));
            }
            found
        })
    }

    fn compare(&mut self, partition: u32, messages: u32, report: &mut impl FnMut(GroupEvent)) {
        let Some(seen) = self.seen.get_mut(partition as usize) else { return };
        if seen.last.is_some() {
            return;
        }
        let before = seen.waiting.replace(messages);
        if messages > 0 && before.is_some_and(|before| before > 0 && messages >= before) {
            report(GroupEvent::Stalled { partition, messages });
        }
    }
}
