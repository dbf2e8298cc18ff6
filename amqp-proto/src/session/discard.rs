use alloc::vec::Vec;
use core::fmt;

use bytes::Bytes;

use crate::Connection;

/// Bodies of messages, their encoded properties, and connections that were lost, which a session has no more use for. Dropping it
/// drops them; see [`Session::hold_discarded`](super::Session::hold_discarded).
#[derive(Default)]
#[must_use = "dropping it may run code of those who made the bodies"]
pub struct Discarded {
    bodies: Vec<Bytes>,
    /// Connections, with bodies that were not written and with their configuration.
    connections: Vec<Connection>,
}

/// Shows how much there is, without contents.
impl fmt::Debug for Discarded {
    fn fmt(&self, f: &mut fmt::Formatter<'_>) -> fmt::Result {
        f.debug_struct("Discarded").field("bodies", &self.bodies.len()).finish_non_exhaustive()
    }
}

/// Drops such bodies, or collects them.
#[derive(Debug, Default)]
pub(super) struct Discard {
    held: Option<Discarded>,
}

impl Discard {
    pub(super) fn hold(&mut self) {
        self.held.get_or_insert_default();
    }

    pub(super) fn bodies(&mut self, bodies: impl IntoIterator<Item = Bytes>) {
        match &mut self.held {
            Some(held) => held.bodies.extend(bodies),
            None => bodies.into_iter().for_each(drop),
        }
    }

    pub(super) fn connection(&mut self, connection: Connection) {
        if let Some(held) = &mut self.held {
            held.connections.push(connection);
        }
    }

    #[inline]
    pub(super) fn take(&mut self) -> Option<Discarded> {
        let held = self.held.as_mut()?;
        let is_empty = held.bodies.is_empty() && held.connections.is_empty();
        (!is_empty).then(|| core::mem::take(held))
    }
}
