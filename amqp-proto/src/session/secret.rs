//! The secret with which the next connection logs in.

use alloc::collections::VecDeque;
use alloc::sync::Arc;

use crate::method::{Arguments as _, ConnectionUpdateSecret};
use crate::{ClientConfig, ConnectionError, Initiator};

/// For each secret without a reply from the broker, the configuration before it, the oldest first. If the broker refuses a secret,
/// the session returns to the configuration before it.
#[derive(Debug, Default)]
pub(super) struct Unanswered(VecDeque<Arc<ClientConfig>>);

impl Unanswered {
    /// A secret was sent. `before` is the configuration before it.
    pub(super) fn sent(&mut self, before: Arc<ClientConfig>) {
        self.0.push_back(before);
    }

    /// The broker has accepted the oldest pending secret.
    pub(super) fn accepted(&mut self) {
        self.0.pop_front();
    }

    /// The connection has ended. If the broker closed it because of a secret, returns the configuration before that secret.
    pub(super) fn refused(&mut self, error: &ConnectionError) -> Option<Arc<ClientConfig>> {
        let mut unanswered = core::mem::take(&mut self.0);
        let cause = (ConnectionUpdateSecret::CLASS_ID, ConnectionUpdateSecret::METHOD_ID);
        let refused = error.as_close().is_some_and(|close| {
            close.by == Initiator::Peer && (close.class_id, close.method_id) == cause
        });
        unanswered.pop_front().filter(|_| refused)
    }
}
