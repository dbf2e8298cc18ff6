//! Events: what happens without being asked for.

use std::pin::Pin;
use std::sync::Arc;
use std::task::{Context, Poll};
use std::time::Duration;

use amqp_proto::session::{Entity, RecoveryReport};
use amqp_proto::{
    ChannelError, ChannelId, ConnectionError, DeliveryTag, Returned, SessionEvent, ShortStr,
    Unusable,
};
use futures_core::Stream;

use crate::Channel;
use crate::state::{Shared, Tell};

/// Something happened to a connection.
#[derive(Debug, Clone, PartialEq)]
#[non_exhaustive]
pub enum ConnectionEvent {
    /// The broker is short of resources and does not want content (`connection.blocked`). Publishing waits.
    ///
    /// RabbitMQ reads nothing more from this connection until the alarm ends: requests, acknowledgements and a close on any of
    /// its channels wait as well, and time out. It blocks connections that publish during an alarm, and no others
    /// ([alarms](https://www.rabbitmq.com/docs/alarms)). So publish on one connection and consume on another.
    Blocked {
        /// Which resource it is short of.
        reason: ShortStr,
    },
    /// Content may flow again.
    Unblocked,
    /// A consumer does not take its deliveries, and all consumers of the connection wait for it; see
    /// [`ChannelEvent::ConsumerLags`].
    ConsumerLags {
        /// The number of its channel.
        channel: ChannelId,
        /// Which consumer.
        consumer_tag: ShortStr,
        /// How many bytes it holds.
        bytes: usize,
    },
    /// There is no new token to log in with ([`TokenSource`](crate::login::TokenSource)). It is tried again until the
    /// connection is over, which it will be when the broker finds that the last has expired.
    TokenNotRenewed {
        /// Why.
        why: String,
    },
    /// The connection was lost. Another is made; handles stay as they are.
    Lost {
        /// Why.
        reason: ConnectionError,
    },
    /// Time passes before the next attempt.
    Waiting {
        /// The node that it will go to, by its place among the [endpoints](crate::Target::endpoints).
        node: usize,
        /// How much.
        time: Duration,
    },
    /// An attempt to connect again begins.
    Connecting {
        /// The node that it goes to, by its place among the [endpoints](crate::Target::endpoints).
        node: usize,
        /// How many there were since the loss, this one included.
        attempt: u32,
    },
    /// An attempt to connect again failed.
    AttemptFailed {
        /// The node that it went to, by its place among the [endpoints](crate::Target::endpoints).
        node: usize,
        /// Why.
        reason: String,
    },
    /// There is a connection again, and on it all that came back.
    Recovered(Arc<RecoveryReport>),
    /// Something came back later than the rest, as a queue that the broker had not released.
    Restored {
        /// What it is.
        entity: Entity,
    },
    /// Something that was tried later than the rest did not come back.
    NotRestored {
        /// What it is.
        entity: Entity,
        /// Why.
        error: ChannelError,
    },
    /// The connection is over for good. Nothing comes behind this.
    Closed(ConnectionError),
    /// The listener was too slow for this many events, which are lost to it.
    Missed(u64),
}

/// Something happened to a channel.
#[derive(Debug, Clone, PartialEq)]
#[non_exhaustive]
pub enum ChannelEvent {
    /// A mandatory message reached no queue. If it was published with confirms, its future tells so as well.
    Returned(Box<Returned>),
    /// A consumer does not take its deliveries, and holds most of the
    /// [`delivery_budget`](crate::Settings::delivery_budget): reading is suspended, and all consumers of the connection wait for
    /// this one, until it is [paused](Self::ConsumerPaused) where that is possible. Give it a prefetch limit ([`basic_qos`](crate::Channel::basic_qos)), or a connection of its own.
    ///
    /// Reported once, until the consumer has taken what it holds.
    ConsumerLags {
        /// Which consumer.
        consumer_tag: ShortStr,
        /// How many bytes it holds.
        bytes: usize,
    },
    /// A consumer that [lags](Self::ConsumerLags) has taken nothing for a second, and others wait for their deliveries. It is
    /// [paused](crate::Consumer#consumers-that-lag): cancelled until it takes what it holds. Most of that was requeued.
    ConsumerPaused {
        /// Which consumer.
        consumer_tag: ShortStr,
    },
    /// A consumer that was [paused](Self::ConsumerPaused) has taken what it held, and is started again.
    ConsumerResumed {
        /// Which consumer.
        consumer_tag: ShortStr,
    },
    /// The broker cancelled a consumer, as when its queue is deleted. Its stream tells so as well.
    ConsumerCancelled {
        /// Which consumer.
        consumer_tag: ShortStr,
    },
    /// A message could not be taken in, because its body is larger than
    /// [`Limits::body_max`](amqp_proto::Limits::body_max). It was held, requeued or rejected, as
    /// [`Limits::oversized`](amqp_proto::Limits::oversized) says; if it needed no acknowledgement, it is lost.
    /// [`Health::unusable`](crate::Health::unusable) counts them.
    Unusable {
        /// Which consumer it was for.
        consumer_tag: ShortStr,
        /// If it is held: the tag to settle it by, with [`basic_reject`](crate::Channel::basic_reject).
        delivery_tag: DeliveryTag,
        /// Why.
        why: Unusable,
    },
    /// The handler of a delivery panicked, which was contained ([`OnPanic`](crate::OnPanic)).
    HandlerPanicked {
        /// The consumer that it was delivered to.
        consumer_tag: ShortStr,
        /// What the panic says.
        text: String,
    },
    /// The broker pauses or resumes content on this channel.
    Flow {
        /// Whether content may flow.
        active: bool,
    },
    /// The connection was lost, or the channel is opened again after an error. Deliveries that were not acknowledged have gone
    /// back to their queues.
    Interrupted(ChannelError),
    /// The channel is there again, with all that came back.
    Restored,
    /// The channel is over for good. Nothing comes behind this.
    Closed(ChannelError),
    /// The listener was too slow for this many events, which are lost to it.
    Missed(u64),
}

impl ConnectionEvent {
    pub(crate) fn of_session(event: SessionEvent) -> Option<Self> {
        Some(match event {
            SessionEvent::Lost { reason } => Self::Lost { reason },
            SessionEvent::Waiting { node, time } => Self::Waiting { node, time },
            SessionEvent::Connecting { node, attempt } => Self::Connecting { node, attempt },
            SessionEvent::AttemptFailed { node, reason } => Self::AttemptFailed { node, reason },
            SessionEvent::Recovered(report) => Self::Recovered(Arc::new(*report)),
            SessionEvent::Restored { entity } => Self::Restored { entity },
            SessionEvent::NotRestored { entity, error } => Self::NotRestored { entity, error },
            _ => return None,
        })
    }
}

impl Tell for ConnectionEvent {
    fn octets(&self) -> usize {
        0
    }
}

impl Tell for ChannelEvent {
    fn octets(&self) -> usize {
        match self {
            Self::Returned(returned) => {
                returned.body.len() + returned.properties.as_encoded().len()
            }
            _ => 0,
        }
    }
}

/// The events of a connection from the moment this was made, as a [`Stream`]. Ends behind `Closed`.
///
/// Each listener hears every event. One that does not listen stops nothing: it loses the oldest events, and is told how
/// many. Listening does not keep the connection open.
#[derive(Debug)]
pub struct ConnectionEvents {
    shared: Arc<Shared>,
    id: u64,
}

impl ConnectionEvents {
    pub(crate) fn new(shared: Arc<Shared>) -> Self {
        let id = shared.lock().listeners.subscribe();
        Self { shared, id }
    }

    /// The next event, or nothing behind the last.
    ///
    /// # Cancel safety
    /// Dropping the future loses nothing.
    pub async fn next(&mut self) -> Option<ConnectionEvent> {
        std::future::poll_fn(|cx| Pin::new(&mut *self).poll_next(cx)).await
    }
}

impl Stream for ConnectionEvents {
    type Item = ConnectionEvent;

    fn poll_next(self: Pin<&mut Self>, cx: &mut Context<'_>) -> Poll<Option<ConnectionEvent>> {
        let heard = self.shared.poll(cx, |state, task| state.listeners.poll(self.id, task));
        heard.map(|heard| heard.map(|heard| heard.or_missed(ConnectionEvent::Missed)))
    }
}

impl Drop for ConnectionEvents {
    fn drop(&mut self) {
        let _waker = self.shared.lock().listeners.unsubscribe(self.id);
    }
}

/// The events of a channel from the moment this was made, as a [`Stream`]. Ends behind `Closed`.
///
/// Like [`ConnectionEvents`], but it is one more handle of the channel, and keeps it open like the others.
#[derive(Debug)]
pub struct ChannelEvents {
    channel: Channel,
    id: u64,
}

impl ChannelEvents {
    pub(crate) fn new(channel: Channel) -> Self {
        let id = channel.with_state(|state| state.listeners.subscribe());
        Self { channel, id }
    }

    /// The next event, or nothing behind the last.
    ///
    /// # Cancel safety
    /// Dropping the future loses nothing.
    pub async fn next(&mut self) -> Option<ChannelEvent> {
        std::future::poll_fn(|cx| Pin::new(&mut *self).poll_next(cx)).await
    }
}

impl Stream for ChannelEvents {
    type Item = ChannelEvent;

    fn poll_next(self: Pin<&mut Self>, cx: &mut Context<'_>) -> Poll<Option<ChannelEvent>> {
        let heard = self.channel.poll_state(cx, |state, task| state.listeners.poll(self.id, task));
        heard.map(|heard| heard.map(|heard| heard.or_missed(ChannelEvent::Missed)))
    }
}

impl Drop for ChannelEvents {
    fn drop(&mut self) {
        let _waker = self.channel.with_state(|state| state.listeners.unsubscribe(self.id));
    }
}
