//! The secret with which the next connection logs in.

use alloc::collections::VecDeque;
use alloc::sync::Arc;

use super::Session;
use crate::method::{Arguments as _, ConnectionUpdateSecret};
use crate::wire::Secret;
use crate::{ChannelError, ClientConfig, CommandError, ConnectionError, Initiator, Misuse};

/// For each secret without a reply from the broker, the configuration before it, the oldest first. If the broker refuses a secret,
/// the session returns to the configuration before it.
#[derive(Debug, Default)]
pub(super) struct Unanswered(VecDeque<Arc<ClientConfig>>);

impl Session {
    /// Replaces the secret, on the present connection and for the next ones; see [`Connection::update_secret`]. Later
    /// connections, to all nodes, log in with it, by the mechanisms that [have a secret](crate::Mechanism::with_secret). A
    /// configuration passed to [`handle_transport`](Self::handle_transport) takes precedence.
    ///
    /// [`Event::SecretUpdated`](crate::Event::SecretUpdated) reports the broker's reply, one for each secret. None comes for secrets
    /// that were sent before [`Lost`](crate::SessionEvent::Lost) or [`AttemptFailed`](crate::SessionEvent::AttemptFailed).
    ///
    /// A secret that the broker refuses is discarded.
    ///
    /// [`Connection::update_secret`]: crate::Connection::update_secret
    ///
    /// # Errors
    /// [`CommandError`]: nothing was sent. Unless the session is closed or the secret is too large, the next connection still logs in
    /// with it.
    pub fn update_secret(&mut self, secret: Secret, reason: &str) -> Result<(), CommandError> {
        self.check().map_err(ChannelError::from)?;
        let config = Arc::new(self.config.with_secret(&secret));
        let sent = self.context.connection.update_secret(secret, reason);
        if matches!(sent, Err(CommandError::Misuse(Misuse::TooLarge { .. }))) {
            return sent;
        }
        let before = core::mem::replace(&mut self.config, config);
        if sent.is_ok() {
            self.unanswered.0.push_back(before);
        }
        sent
    }

    /// The broker has accepted the oldest pending secret.
    pub(super) fn secret_updated(&mut self) {
        self.unanswered.0.pop_front();
    }

    /// The connection has ended. If the broker closed it because of a secret, that secret is not used again.
    pub(super) fn forget_refused_secret(&mut self, error: &ConnectionError) {
        let mut unanswered = core::mem::take(&mut self.unanswered.0);
        let cause = (ConnectionUpdateSecret::CLASS_ID, ConnectionUpdateSecret::METHOD_ID);
        let refused = error.as_close().is_some_and(|close| {
            close.by == Initiator::Peer && (close.class_id, close.method_id) == cause
        });
        if let Some(before) = unanswered.pop_front().filter(|_| refused) {
            self.config = before;
        }
    }
}
