use std::pin::Pin;
use std::task::{Context, Poll};

use futures_core::Stream;

use super::Channel;
use crate::event::ChannelEvent;

impl Channel {
    /// Returns a stream of the channel's events from now on: returned messages, cancelled consumers, flow control, the close of the
    /// channel.
    #[must_use]
    pub fn events(&self) -> ChannelEvents {
        ChannelEvents::new(self.clone())
    }
}

/// The events of a channel since this listener was created, as a [`Stream`]. Ends after `Closed`.
///
/// It behaves like [`ConnectionEvents`](crate::ConnectionEvents), with one difference: it is a handle of the channel, so it keeps
/// the channel open.
///
/// ```no_run
/// # use amqp_client_core as amqp_client_tokio;
/// # use amqp_client_tokio::Channel;
/// use amqp_client_tokio::ChannelEvent;
///
/// # async fn example(channel: Channel) -> Result<(), Box<dyn std::error::Error>> {
/// let mut events = channel.events();
/// while let Some(event) = events.next().await {
///     match event {
///         ChannelEvent::Returned(returned) => println!("{}: no queue", returned.routing_key),
///         ChannelEvent::Closed(reason) => println!("closed: {reason}"),
///         _ => {}
///     }
/// }
/// # Ok(())
/// # }
/// ```
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

    /// Returns the next event, or `None` after the last.
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
