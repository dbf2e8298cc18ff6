//! Settlements on a transactional channel that are not part of the application's transactions.

use alloc::boxed::Box;

use super::acks::Settlement;
use super::requests::{Effect, Pending};
use super::state::{ChannelState, Mode, Transaction};
use crate::method::{Arguments as _, BasicReject, TxCommit, TxRollback};
use crate::outbound::Outbound;
use crate::{DeliveryTag, Misuse};

impl ChannelState {
    /// Settles a delivery whatever becomes of the transaction.
    ///
    /// The broker knows only one transaction for each channel. If the application has begun none, this one is committed at the
    /// end of the turn, with others like it. Otherwise it is part of the application's, and is sent again behind a rollback.
    ///
    /// | sent | by |
    /// |---|---|
    /// | `basic.ack` 1, `basic.nack` 2 | the application, which has dropped 2 |
    /// | `tx.rollback` | the application |
    /// | `basic.nack` 2, `tx.commit` | this end |
    pub(super) fn settle_apart(
        &mut self,
        outbound: &mut Outbound,
        tag: DeliveryTag,
        settlement: Settlement,
    ) -> Result<(), Misuse> {
        self.flush_acks(outbound);
        self.settle_now(outbound, tag, settlement)?;
        if let Mode::Tx(transaction) = &mut self.mode {
            transaction.apart.push((tag.0, settlement));
            self.list_for_flush(outbound);
        }
        Ok(())
    }

    fn settle_now(
        &mut self,
        outbound: &mut Outbound,
        tag: DeliveryTag,
        settlement: Settlement,
    ) -> Result<(), Misuse> {
        match settlement {
            Settlement::Ack => {
                self.unsettled.ack(tag)?;
                self.flush_acks(outbound);
            }
            Settlement::Nack { requeue } => self.nack(outbound, tag, requeue)?,
            Settlement::Reject { requeue } => {
                self.unsettled.settle(tag)?;
                outbound.send_small(self.id.0, &BasicReject { delivery_tag: tag.0, requeue });
            }
        }
        Ok(())
    }

    /// The application's commit or rollback was sent.
    pub(super) fn transaction_ended(&mut self, outbound: &mut Outbound, commits: bool) {
        let Mode::Tx(transaction) = &mut self.mode else { return };
        let Transaction { apart, .. } = core::mem::take(&mut **transaction);
        if commits || apart.is_empty() {
            return;
        }
        for (tag, settlement) in apart {
            let settled = self.settle_now(outbound, DeliveryTag(tag), settlement);
            debug_assert!(settled.is_ok(), "the rollback has made it unsettled: {settled:?}");
        }
        self.commit_own(outbound);
    }

    /// Commits what was settled separately, if there is nothing else to commit. Flush first.
    pub(super) fn commit_apart(&mut self, outbound: &mut Outbound) {
        let Mode::Tx(transaction) = &mut self.mode else { return };
        let Transaction { published, apart } = &mut **transaction;
        if apart.is_empty() || *published || self.unsettled.uncommitted() != apart.len() {
            return;
        }
        apart.clear();
        self.commit_own(outbound);
    }

    /// Requeues all unacknowledged deliveries, and those that the transaction has settled, before the channel is closed: that
    /// would undo the transaction as well.
    pub(super) fn requeue_all(
        &mut self,
        outbound: &mut Outbound,
        requeue: impl FnOnce(&mut Self, &mut Outbound),
    ) {
        let transactional = matches!(self.mode, Mode::Tx(_));
        if transactional {
            outbound.send_small(self.id.0, &TxRollback {});
            self.unsettled.roll_back();
            self.mode = Mode::Tx(Box::default());
            self.await_own(outbound, &TxRollback::FACTS);
        }
        requeue(self, outbound);
        if transactional {
            self.commit_own(outbound);
        }
    }

    fn commit_own(&mut self, outbound: &mut Outbound) {
        outbound.send_small(self.id.0, &TxCommit {});
        self.unsettled.commit();
        self.await_own(outbound, &TxCommit::FACTS);
    }

    /// Only this end waits for the reply, to match the ones behind it.
    fn await_own(&mut self, outbound: &mut Outbound, method: &'static crate::method::MethodFacts) {
        let id = outbound.next_request();
        self.pending.push(Pending { id, method, effect: Effect::None, abandoned: true });
        self.note_awaiting(outbound);
    }
}
