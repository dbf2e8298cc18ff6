//! Events: what happens without being asked for.

use std::pin::Pin;
use std::sync::Arc;
use std::task::{Context, Poll};

use amqp_proto::{ChannelError, ConnectionError, Returned, ShortStr, Unusable};
use futures_core::Stream;

use crate::Channel;
use crate::state::{Shared, Tell};

/// Something happened to a connection.
#[derive(Debug, Clone, PartialEq)]
#[non_exhaustive]
pub enum ConnectionEvent {
    /// The broker is short of resources and does not want content (`connection.blocked`). Publishing waits.
    Blocked {
        /// Which resource it is short of.
        reason: ShortStr,
    },
    /// Content may flow again.
    Unblocked,
    /// There is no new token to log in with ([`TokenSource`](crate::login::TokenSource)). It is tried again until the
    /// connection is over, which it will be when the broker finds that the last has expired.
    TokenNotRenewed {
        /// Why.
        why: String,
    },
    /// The connection is over. Nothing comes behind this.
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
    /// The broker cancelled a consumer, as when its queue is deleted. Its stream tells so as well.
    ConsumerCancelled {
        /// Which consumer.
        consumer_tag: ShortStr,
    },
    /// A message could not be taken in. It was rejected without requeueing, unless it needed no acknowledgement.
    Unusable {
        /// Which consumer it was for.
        consumer_tag: ShortStr,
        /// Why.
        why: Unusable,
    },
    /// The broker pauses or resumes content on this channel.
    Flow {
        /// Whether content may flow.
        active: bool,
    },
    /// The channel is over. Nothing comes behind this.
    Closed(ChannelError),
    /// The listener was too slow for this many events, which are lost to it.
    Missed(u64),
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
        let heard = self.shared.lock().listeners.poll(self.id, cx.waker());
        heard.map(|heard| heard.map(|heard| heard.or_missed(ConnectionEvent::Missed)))
    }
}

impl Drop for ConnectionEvents {
    fn drop(&mut self) {
        self.shared.lock().listeners.unsubscribe(self.id);
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
        let heard = self.channel.with_state(|state| state.listeners.poll(self.id, cx.waker()));
        heard.map(|heard| heard.map(|heard| heard.or_missed(ChannelEvent::Missed)))
    }
}

impl Drop for ChannelEvents {
    fn drop(&mut self) {
        self.channel.with_state(|state| state.listeners.unsubscribe(self.id));
    }
}
