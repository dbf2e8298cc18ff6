use std::sync::{Arc, Weak};

use crate::counters::Counters;
use crate::state::{Health, Shared, Status};

/// Reads the counters and the health of a connection, and does not keep the connection open. Created with
/// [`Connection::monitor`](super::Connection::monitor).
///
/// ```no_run
/// # use amqp_client_core as amqp_client_tokio;
/// # use amqp_client_tokio::Connection;
/// # fn example(connection: Connection) {
/// let monitor = connection.monitor();
/// std::thread::spawn(move || {
///     while let Some(counters) = monitor.counters() {
///         println!("{} published", counters.published);
///         std::thread::sleep(std::time::Duration::from_secs(10));
///     }
/// });
/// # }
/// ```
#[derive(Debug, Clone)]
pub struct Monitor {
    shared: Weak<Shared>,
}

impl Monitor {
    pub(super) fn new(shared: &Arc<Shared>) -> Self {
        Self { shared: Arc::downgrade(shared) }
    }

    /// Returns the counters, or `None` once the connection has ended and all its handles are dropped.
    #[must_use]
    pub fn counters(&self) -> Option<Counters> {
        Some(self.shared.upgrade()?.lock().counters())
    }

    /// Returns a snapshot of the connection's state, or `None` once the connection has ended and all its handles are dropped.
    #[must_use]
    pub fn health(&self) -> Option<Health> {
        Some(self.shared.upgrade()?.health())
    }
}

impl Shared {
    pub(super) fn health(&self) -> Health {
        let mut guard = self.lock();
        let state = &mut *guard;
        let (unsettled, unconfirmed) = state.in_flight();
        let counters = state.counters();
        Health {
            status: match (state.proto.is_open(), state.proto.check()) {
                (true, _) => Status::Open,
                (false, Ok(())) if counters.losses > 0 => Status::Recovering,
                (false, Ok(())) => Status::Connecting,
                (false, Err(error)) => Status::Closed(error),
            },
            blocked: state.proto.is_blocked(),
            blocked_since: state.blocked.as_ref().and_then(|(since, _)| *since),
            blocked_reason: state.blocked.as_ref().map(|(_, reason)| reason.clone()),
            reading_paused: state.reading_paused(),
            peer_addr: state.peer_addr,
            losses: counters.losses,
            last_heard: state.last_heard,
            stale: counters.stale,
            unusable: counters.unusable,
            channels: state.proto.channel_count(),
            closed_channels: state.closed_channels(),
            unconfirmed,
            unsettled,
            kept_bytes: state.proto.kept(),
            queued_bytes: state.proto.queued(),
            delivered_bytes: state.delivered_bytes,
        }
    }
}
