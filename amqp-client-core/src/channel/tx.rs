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

    /// Runs `work` in a transaction on this channel: commits if it succeeds, rolls back if it fails, panics, or is dropped.
    ///
    /// All that is published and acknowledged on the channel meanwhile is part of the transaction, so use a channel for one at
    /// a time. Deliveries that are rolled back are unacknowledged again, see [`tx_rollback`](Self::tx_rollback). A delivery that
    /// is dropped meanwhile is requeued in any case, when the transaction ends.
    ///
    /// # Errors
    /// Those of `work`, at once: nobody waits for the rollback, which takes effect before whatever comes next on the channel. If
    /// it fails the channel is closed, which undoes the work as well. Otherwise [`CallError`] of `tx.select` and `tx.commit`.
    ///
    /// # Cancel safety
    /// If the future is dropped while `work` runs, the transaction is rolled back. Once `work` has succeeded the commit is sent
    /// and stays so, even if the future is dropped: nobody learns then whether the broker took it.
    pub async fn transaction<T, E, W>(&self, work: W) -> Result<T, E>
    where
        E: From<CallError>,
        W: AsyncFnOnce(&Self) -> Result<T, E>,
    {
        self.tx_select().await?;
        let mut roll_back = RollBack { channel: self, ended: false };
        let result = work(self).await?;
        roll_back.ended = true;
        self.tx_commit().await?;
        Ok(result)
    }
}

/// Rolls its transaction back when it is dropped, unless that has ended.
struct RollBack<'a> {
    channel: &'a Channel,
    ended: bool,
}

impl Drop for RollBack<'_> {
    fn drop(&mut self) {
        if !self.ended {
            // It is sent, and takes effect before whatever comes next on the channel. Nobody waits for the reply.
            drop(self.channel.tx_rollback());
        }
    }
}
