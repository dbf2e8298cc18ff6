//! The state of a session, and questions about it.

use alloc::collections::VecDeque;
use alloc::sync::Arc;
use alloc::vec::Vec;
use core::fmt;

use super::channels::Channels;
use super::context::{Context, Recovering};
use super::discard::Discard;
use super::outage::{Attempt, Outage};
use super::phase::Phase;
use super::policy::Recovery;
use super::record::kept::Budget;
use super::secret::Unanswered;
use super::topology::Topology;
use crate::time::Instant;
use crate::wire::ShortStr;
use crate::{ClientConfig, ConnectStep, Connection, ConnectionError, Negotiated};

/// One logical connection over many transports. See the [module](super).
pub struct Session {
    /// The configuration of the next connection.
    pub(super) config: Arc<ClientConfig>,
    pub(super) unanswered: Unanswered,
    pub(super) phase: Phase,
    /// The step at which the last attempt to connect failed, unless a transport was connected since.
    pub(super) failed_at: Option<ConnectStep>,
    pub(super) context: Context,
}

impl Session {
    /// Creates a session on a transport. Without [`recover_with`](Self::recover_with), the session ends with this connection.
    #[must_use]
    pub fn new(config: Arc<ClientConfig>, now: Instant) -> Self {
        let context = Context {
            connection: Connection::client(config.clone(), now),
            channels: Channels::default(),
            topology: Topology::default(),
            budget: Budget {
                kept: 0,
                max: Recovery::default().keep_max,
                discard: Discard::default(),
                unarmed: false,
                expires_at: None,
            },
            recovering: None,
            reopening: Vec::new(),
            orphans: false,
            turn: None,
            events: VecDeque::new(),
            now,
        };
        Self {
            config,
            unanswered: Unanswered::default(),
            phase: Phase::Connected,
            failed_at: None,
            context,
        }
    }

    /// Checks that the session is not closed.
    ///
    /// # Errors
    /// The reason why the session is closed.
    #[inline]
    pub fn check(&self) -> Result<(), ConnectionError> {
        match &self.phase {
            Phase::Ended(error) => Err(error.clone()),
            phase if phase.is_connected() => match self.context.connection.check() {
                Err(error) if !self.recovers_from(&error) => Err(error),
                _ => Ok(()),
            },
            _ => Ok(()),
        }
    }

    /// Returns whether the session is connected and fully restored.
    #[must_use]
    pub const fn is_open(&self) -> bool {
        self.phase.is_connected() && self.context.connection.is_open()
    }

    /// Returns the configuration that connections are made with at present.
    #[must_use]
    pub fn config(&self) -> &ClientConfig {
        &self.config
    }

    /// Returns whether the present transport is no longer used and can be closed. The session may continue with another transport.
    #[must_use]
    pub fn is_disconnected(&self) -> bool {
        self.context.connection.check().is_err()
    }

    /// Returns why the present transport is no longer used, if [`is_disconnected`](Self::is_disconnected). After an orderly close, that
    /// is the close.
    #[must_use]
    pub fn disconnect_reason(&self) -> Option<ConnectionError> {
        self.context.connection.check().err()
    }

    /// Returns whether the outgoing buffer is full; see [`Connection::is_full`].
    #[must_use]
    pub fn is_full(&self) -> bool {
        self.context.connection.is_full()
    }

    /// Returns whether the broker has blocked publishing (`connection.blocked`).
    #[must_use]
    pub const fn is_blocked(&self) -> bool {
        self.context.connection.is_blocked()
    }

    /// Returns whether the session is waiting for the peer; see [`Connection::awaits_peer`].
    #[must_use]
    pub fn awaits_peer(&self) -> bool {
        self.context.connection.awaits_peer()
    }

    /// Returns the negotiated limits and the peer's properties, once the first handshake has completed.
    #[must_use]
    pub const fn negotiated(&self) -> Option<&Arc<Negotiated>> {
        self.context.connection.negotiated()
    }

    /// Returns the number of channels.
    #[must_use]
    pub fn channel_count(&self) -> usize {
        self.context.channels.iter().count()
    }

    /// Returns the present name of a queue, from a name that the broker had generated for it. Other names are returned unchanged.
    #[must_use]
    pub fn current_name<'a>(&'a self, queue: &'a ShortStr) -> &'a ShortStr {
        self.context.topology.current(queue)
    }

    /// Returns the number of bytes that wait to be written.
    #[must_use]
    pub fn queued(&self) -> usize {
        self.context.connection.queued()
    }

    /// Returns how many more bytes can be queued before the outgoing buffer [is full](Self::is_full).
    #[must_use]
    pub fn room(&self) -> usize {
        self.context.connection.room()
    }

    /// Returns the number of bytes of kept messages.
    #[must_use]
    pub const fn kept(&self) -> usize {
        self.context.budget.kept
    }

    /// Returns how many more bytes of messages can be kept. While none is kept, one message can be larger than that.
    #[must_use]
    pub const fn kept_room(&self) -> usize {
        self.context.budget.max.saturating_sub(self.context.budget.kept)
    }

    /// Returns whether there is a transport to write to.
    pub(super) fn has_transport(&self) -> bool {
        match &self.phase {
            Phase::Connected | Phase::Repairing(_) => self.context.connection.check().is_ok(),
            Phase::Lost(outage) => outage.attempt == Attempt::Connected,
            Phase::Restoring(..) => true,
            Phase::Ended(_) => false,
        }
    }

    /// Returns whether channels can be opened on the connection right now, rather than with the next recovery.
    pub(super) fn has_connection(&self) -> bool {
        match self.phase {
            // The loss of the connection may not have been polled yet.
            Phase::Connected | Phase::Repairing(_) => self.context.connection.check().is_ok(),
            Phase::Restoring(..) => self.context.connection.is_open(),
            // The handshake may have completed without its event being polled. Then the channels from before the loss are not open
            // yet, and their numbers are free on the connection.
            Phase::Lost(_) | Phase::Ended(_) => false,
        }
    }

    pub(super) fn channel_max(&self) -> u16 {
        self.negotiated().map_or(self.config.limits.channel_max, |agreed| agreed.channel_max)
    }

    /// Returns whether the session recovers from this error.
    pub(super) fn recovers_from(&self, error: &ConnectionError) -> bool {
        // Only a connection that was open can be lost.
        if self.phase.is_connected() && self.context.connection.negotiated().is_none() {
            return false;
        }
        // The first connection is retried after fewer errors than one that was open before: if its transport ends during the
        // login, the credentials are wrong.
        let is_first = |outage: &Outage| outage.reason == ConnectionError::NotConnected;
        if self.phase.outage().is_some_and(is_first) && !error.is_transient() {
            return false;
        }
        // Regardless of the policy: a close by the application is final, and without a driver nothing can reconnect.
        let is_final = error.is_local_close() || matches!(error, ConnectionError::DriverGone);
        let recovers = |own: &Recovering| !is_final && own.policy.recovers.from(error);
        self.context.recovering.as_ref().is_some_and(recovers)
    }
}

/// For log lines: the state of the session, without messages and pending requests.
impl fmt::Debug for Session {
    fn fmt(&self, f: &mut fmt::Formatter<'_>) -> fmt::Result {
        let phase = match &self.phase {
            Phase::Connected | Phase::Repairing(_) => "connected",
            Phase::Lost(_) | Phase::Restoring(..) => "recovering",
            Phase::Ended(_) => "closed",
        };
        f.debug_struct("Session")
            .field("phase", &phase)
            .field("channels", &self.channel_count())
            .field("kept", &self.context.budget.kept)
            .field("connection", &self.context.connection)
            .finish_non_exhaustive()
    }
}
