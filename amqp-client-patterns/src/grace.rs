use std::task::Context;
use std::time::Duration;

use amqp_client_core::{After, Connection};
use futures_util::FutureExt as _;

/// The time for which handlers may go on running once nothing more is taken for them.
pub(crate) struct Grace {
    time: Duration,
    end: Option<After>,
}

impl Grace {
    pub(crate) const fn new(time: Duration) -> Self {
        Self { time, end: None }
    }

    /// Returns whether the time is over. It begins with the first call. Once the connection is closed, nothing measures it, and the
    /// broker has requeued what the handlers work on: then it is over.
    pub(crate) fn is_over(&mut self, connection: &Connection, cx: &mut Context<'_>) -> bool {
        self.end.get_or_insert_with(|| connection.after(self.time)).poll_unpin(cx).is_ready()
    }
}
