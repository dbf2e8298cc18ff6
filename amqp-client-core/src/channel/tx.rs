use amqp_proto::method::{ConfirmSelect, TxCommit, TxRollback, TxSelect};

use super::Channel;
use crate::error::CallError;
use crate::reply::Reply;

/// Transactions (spec 1.9) and publisher confirms (RabbitMQ). A channel has one of the two, or neither.
impl Channel {
    /// Makes the channel transactional (`tx.select`): publishes and acknowledgements from now on take effect only with
    /// [`tx_commit`](Self::tx_commit).
    ///
    /// # Errors
    /// [`CallError`]. Even if the request timed out or was dropped, the channel may be transactional: select again, or use
    /// another channel.
    pub fn tx_select(&self) -> Reply<()> {
        self.request(Ok::<_, CallError>(TxSelect {}))
    }

    /// Commits the publishes and acknowledgements since the last commit or rollback (`tx.commit`).
    ///
    /// # Errors
    /// [`CallError`]. [`Misuse::TransactionLost`](amqp_proto::Misuse::TransactionLost): a part of the transaction was lost with a
    /// connection, so the rest was rolled back. Its deliveries are unacknowledged again, as after [`tx_rollback`](Self::tx_rollback).
    pub fn tx_commit(&self) -> Reply<()> {
        self.request(Ok::<_, CallError>(TxCommit {}))
    }

    /// Discards the publishes and acknowledgements since the last commit or rollback (`tx.rollback`). The deliveries are
    /// unacknowledged again: settle them by their tags ([`basic_ack`](Self::basic_ack)), or request them again
    /// ([`basic_recover`](Self::basic_recover)).
    pub fn tx_rollback(&self) -> Reply<()> {
        self.request(Ok::<_, CallError>(TxRollback {}))
    }

    /// Turns publisher confirms on: the broker confirms every publish of the channel from now on (`confirm.select`). A
    /// [`Publisher`](crate::Publisher) does this by itself.
    pub fn confirm_select(&self) -> Reply<()> {
        let request = ConfirmSelect { no_wait: false };
        Reply::send(self, request, |state, _| state.confirming = true, |_, _| Ok(()))
    }

    /// Runs `work` in a transaction on this channel: commits if it succeeds, rolls back if it fails, panics, or is dropped.
    ///
    /// All publishes and acknowledgements on the channel in the meantime are part of the transaction, so run one transaction at a
    /// time on a channel. Deliveries that are rolled back are unacknowledged again, see [`tx_rollback`](Self::tx_rollback). A
    /// delivery that is dropped in the meantime is requeued when the transaction ends, whether it is committed or rolled back.
    ///
    /// # Errors
    /// The error of `work`, at once: the method does not wait for the rollback, which takes effect before anything that is sent
    /// later on the channel. If the rollback fails, the channel is closed, which undoes the work as well. Otherwise the
    /// [`CallError`] of `tx.select` or `tx.commit`.
    ///
    /// # Cancel safety
    /// If the future is dropped while `work` runs, the transaction is rolled back. Once `work` has succeeded, the commit is sent. If
    /// the future is dropped then, the commit is not undone, and its outcome is unknown.
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

/// Rolls its transaction back when it is dropped, unless the transaction has ended.
struct RollBack<'a> {
    channel: &'a Channel,
    ended: bool,
}

impl Drop for RollBack<'_> {
    fn drop(&mut self) {
        if !self.ended {
            // The rollback is queued here and takes effect before anything that is sent later. The reply is not awaited.
            drop(self.channel.tx_rollback());
        }
    }
}
