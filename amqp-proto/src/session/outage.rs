use alloc::sync::Arc;
use alloc::vec::Vec;

use super::report::Entity;
use crate::ConnectionError;
use crate::time::Instant;

/// The time from the loss of a connection until everything is restored.
#[derive(Debug)]
pub(super) struct Outage {
    pub(super) reason: ConnectionError,
    pub(super) since: Instant,
    pub(super) attempts: u32,
    pub(super) attempt: Attempt,
    /// The reason why the last attempt failed.
    pub(super) last: Option<Arc<str>>,
    /// Entities whose restoring made the broker close the connection. They are left out from then on.
    pub(super) condemned: Vec<(Entity, ConnectionError)>,
    /// Restore entities one by one, because it is not known which of several requests made the broker close the connection.
    pub(super) one_by_one: bool,
}

/// The present attempt to connect.
#[derive(Debug, Clone, Copy, PartialEq, Eq)]
pub(super) enum Attempt {
    /// The next one is yet to begin. `announced`: whether `SessionEvent::Waiting` was emitted.
    Waiting { announced: bool },
    /// Waiting for a transport, since that time.
    Connecting { since: Instant },
    /// The transport is connected.
    Connected,
}

impl Outage {
    pub(super) fn new(reason: ConnectionError, since: Instant) -> Self {
        Self {
            reason,
            since,
            attempts: 0,
            attempt: Attempt::Waiting { announced: false },
            last: None,
            condemned: Vec::new(),
            one_by_one: false,
        }
    }
}
