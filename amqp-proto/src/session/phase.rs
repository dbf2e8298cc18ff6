use alloc::boxed::Box;

use super::outage::Outage;
use super::recovery::Repair;
use crate::ConnectionError;

/// The phase of a session.
///
/// ```text
///                  a channel, consumer or queue is to be restored
///  ┌───────────┐ ───────────────────────────────────────────────> ┌───────────┐
///  │ Connected │                                                  │ Repairing │
///  └───────────┘ <─────────────────────────────────────────────── └───────────┘
///     │     ^                  it is restored                           │
///     │     └────────────────────────────────────┐                     │
///     │ the connection is lost                    │ everything          │ the connection is lost
///     v                                           │ is restored         v
///  ┌──────┐      the handshake is complete      ┌───────────┐
///  │ Lost │ ──────────────────────────────────> │ Restoring │       (to Lost)
///  └──────┘ <────────────────────────────────── └───────────┘
///                 the connection is lost
/// ```
///
/// Each phase ends with [`Ended`](Self::Ended), if the session is closed, gives up, or does not recover from an error.
#[derive(Debug)]
pub(super) enum Phase {
    /// Connected, or making the first connection of a session that was created with its transport.
    Connected,
    /// Connected, while a part of the state is being restored.
    Repairing(Box<Repair>),
    /// Without a connection: waiting, connecting, or in the handshake.
    Lost(Box<Outage>),
    /// Connected again, while everything is being restored.
    Restoring(Box<Outage>, Box<Repair>),
    /// Closed for good.
    Ended(ConnectionError),
}

impl Phase {
    /// Returns whether the application can use the connection.
    pub(super) const fn is_connected(&self) -> bool {
        matches!(self, Self::Connected | Self::Repairing(_))
    }

    /// Returns the outage that has not ended yet.
    pub(super) const fn outage(&self) -> Option<&Outage> {
        match self {
            Self::Lost(outage) | Self::Restoring(outage, _) => Some(outage),
            Self::Connected | Self::Repairing(_) | Self::Ended(_) => None,
        }
    }

    /// Returns the repair that is in progress.
    pub(super) const fn repair(&mut self) -> Option<&mut Repair> {
        match self {
            Self::Repairing(repair) | Self::Restoring(_, repair) => Some(repair),
            Self::Connected | Self::Lost(_) | Self::Ended(_) => None,
        }
    }

    /// Returns the repair that is in progress, or begins one. Returns `None` without a connection: the next one restores everything.
    pub(super) fn begin_repair(&mut self) -> Option<&mut Repair> {
        if matches!(self, Self::Connected) {
            *self = Self::Repairing(Box::new(Repair::partial()));
        }
        self.repair()
    }
}
