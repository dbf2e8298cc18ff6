use amqp_proto::method::{ConfirmSelect, TxCommit, TxRollback, TxSelect};

use super::Channel;
use crate::error::CallError;
use crate::reply::Reply;

/// Transactions (spec 1.9) and publisher confirms (RabbitMQ). A channel has one of the two, or neither.
impl Channel {
    /// Makes the channel transactional: what is published and acknowledged from here on takes effect with
    /// [`tx_commit`](Self::tx_commit), or never (`tx.select`).
    pub fn tx_select(&self) -> Reply<()> {
        self.request(Ok::<_, CallError>(TxSelect {}))
    }

    /// Commits what was published and acknowledged since the last commit or rollback (`tx.commit`).
    pub fn tx_commit(&self) -> Reply<()> {
        self.request(Ok::<_, CallError>(TxCommit {}))
    }

    /// Abandons what was published and acknowledged since then (`tx.rollback`). The deliveries are unacknowledged again: settle
    /// them by their tags ([`basic_ack`](Self::basic_ack)), or ask for them again ([`basic_recover`](Self::basic_recover)).
    pub fn tx_rollback(&self) -> Reply<()> {
        self.request(Ok::<_, CallError>(TxRollback {}))
    }

    /// Has the broker confirm every publish of the channel from here on (`confirm.select`). A
    /// [`Publisher`](crate::Publisher) does this by itself.
    pub fn confirm_select(&self) -> Reply<()> {
        let request = ConfirmSelect { no_wait: false };
        Reply::send(self, request, |state, _| state.confirming = true, |_, _| Ok(()))
    }

    /// Runs `work` in a transaction on this channel: commits if it succeeds, rolls back if it fails.
    ///
    /// # Errors
    /// Those of `work`, and [`CallError`] of the transaction itself.
    ///
    /// # Cancel safety
    /// Dropping the future leaves the transaction open, neither committed nor rolled back.
    pub async fn transaction<T, E, W>(&self, work: W) -> Result<T, E>
    where
        E: From<CallError>,
        W: AsyncFnOnce(&Self) -> Result<T, E>,
    {
        self.tx_select().await?;
        match work(self).await {
            Ok(result) => {
                self.tx_commit().await?;
                Ok(result)
            }
            Err(error) => {
                self.tx_rollback().await?;
                Err(error)
            }
        }
    }
}
