use std::pin::Pin;
use std::sync::Arc;
use std::task::{Context, Poll};

use futures_core::Stream;

use super::Connection;
use crate::event::ConnectionEvent;
use crate::logs::{Level, one_line};
use crate::panics::contained;
use crate::state::Shared;

impl Connection {
    /// Returns a stream of the connection's events from now on.
    #[must_use]
    pub fn events(&self) -> ConnectionEvents {
        ConnectionEvents::new(self.shared().clone())
    }

    /// Writes a line of a pattern in the log, as a warning. Lines of the same kind are limited together. `text` may run code of the
    /// user's: it runs outside the lock, and may panic.
    #[doc(hidden)]
    #[inline]
    pub fn log_limited(&self, kind: &'static str, text: impl FnOnce() -> String) {
        if cfg!(any(feature = "log", feature = "tracing")) {
            let Some((log, end)) = self.shared().lock().limit_pattern(kind) else { return };
            contained(|| {
                log.line(Level::Warn, None, || format!("{}{end}", one_line(&text())));
            });
            log.write();
        }
    }
}

/// The events of a connection since this listener was created, as a [`Stream`]. Ends after `Closed`.
///
/// Each listener gets every event. A slow listener delays nothing: it loses the oldest events, and `Missed` reports how many. A
/// listener does not keep the connection open.
///
/// ```no_run
/// # use amqp_client_core as amqp_client_tokio;
/// # use amqp_client_tokio::Connection;
/// use amqp_client_tokio::ConnectionEvent;
///
/// # async fn example(connection: Connection) -> Result<(), Box<dyn std::error::Error>> {
/// let mut events = connection.events();
/// while let Some(event) = events.next().await {
///     match event {
///         ConnectionEvent::Lost { reason } => println!("lost: {reason}"),
///         ConnectionEvent::Recovered(report) => println!("recovered: {report:?}"),
///         ConnectionEvent::Blocked { reason } => println!("blocked: {reason}"),
///         _ => {}
///     }
/// }
/// # Ok(())
/// # }
/// ```
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

    /// Returns the next event, or `None` after the last.
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
