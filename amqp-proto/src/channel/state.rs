//! The state of a channel.

use alloc::boxed::Box;
use alloc::vec::Vec;

use super::acks::{Settlement, Unsettled};
use super::confirms::Confirms;
use super::consumers::{Consumer, Consumers};
use super::held::Held;
use super::requests::{Effect, Pending, Requests};
use crate::content::Incoming;
use crate::method::{Arguments as _, BasicCancel, BasicNack, BasicReject, Method};
use crate::outbound::Outbound;
use crate::{
    ChannelError, ChannelEvent, ChannelId, Close, ConsumerId, DeliveryTag, Misuse, RequestId,
    ShortStr,
};

/// The state of one channel.
#[derive(Debug)]
pub(crate) struct ChannelState {
    pub(super) id: ChannelId,
    pub(super) phase: Phase,
    pub(super) pending: Requests,
    pub(super) consumers: Consumers,
    /// The message whose frames are arriving, if one [has begun](Incoming::has_begun). Made for the first message that does not arrive
    /// in one piece, and kept for the next: most channels need none, and the others need no allocation for each message.
    pub(super) incoming: Option<Box<Incoming>>,
    pub(super) mode: Mode,
    pub(super) unsettled: Unsettled,
    pub(super) held: Held,
    /// True if the peer accepts messages (`channel.flow`).
    pub(super) flow: bool,
    /// True if the channel is in the connection's list of channels to flush.
    pub(super) listed: bool,
    /// True if the channel is counted among those that wait for the peer; see [`note_awaiting`](Self::note_awaiting).
    pub(super) awaits: bool,
}

/// ```text
///  Opening ──open-ok──▶ Open ──close()──▶ Closing ──close-ok──▶ Closed
///     └──────────close from the peer, or the end of the connection──┘
/// ```
#[derive(Debug)]
pub(super) enum Phase {
    Opening,
    Open,
    /// This side has sent the close.
    Closing(Box<Close>),
    /// Closed; the number is free once the event has been polled.
    Closed(Box<ChannelError>),
}

#[derive(Debug)]
pub(super) enum Mode {
    Plain,
    Confirm(Box<Confirms>),
    Tx(Box<Transaction>),
}

/// The transaction of a channel that is not committed or rolled back yet.
#[derive(Debug, Default)]
pub(super) struct Transaction {
    /// The application has published something.
    pub(super) published: bool,
    /// Deliveries that were settled [apart](ChannelState::settle_apart), and how. A rollback undoes that: they are settled again.
    pub(super) apart: Vec<(u64, Settlement)>,
}

impl ChannelState {
    /// Returns whether the channel is waiting for the peer: for a reply, a confirm, or the resumption of its flow.
    pub(super) fn awaits_peer(&self) -> bool {
        let unconfirmed = matches!(&self.mode, Mode::Confirm(confirms) if confirms.len() > 0);
        match self.phase {
            Phase::Opening | Phase::Closing(_) => true,
            Phase::Open => !self.pending.is_empty() || unconfirmed || !self.flow,
            Phase::Closed(_) => false,
        }
    }

    /// Updates the number of channels that wait for the peer. Called after each change, so that the number is known without a look at
    /// all channels.
    pub(super) fn note_awaiting(&mut self, outbound: &mut Outbound) {
        let awaits = self.awaits_peer();
        if awaits != self.awaits {
            self.awaits = awaits;
            if awaits {
                outbound.awaiting += 1;
            } else {
                debug_assert!(outbound.awaiting > 0, "this channel was counted");
                outbound.awaiting = outbound.awaiting.saturating_sub(1);
            }
        }
    }

    /// Like `note_awaiting`, after a publish that will be confirmed.
    #[inline]
    pub(super) fn note_unconfirmed(&mut self, outbound: &mut Outbound) {
        if !self.awaits {
            self.awaits = true;
            outbound.awaiting += 1;
        }
    }

    /// Returns the message whose frames are arriving, if there is one.
    #[inline]
    pub(super) fn incoming(&mut self) -> Option<&mut Incoming> {
        self.incoming.as_deref_mut().filter(|incoming| incoming.has_begun())
    }

    pub(super) fn new(id: ChannelId, phase: Phase) -> Self {
        Self {
            id,
            phase,
            pending: Requests::default(),
            consumers: Consumers::default(),
            incoming: None,
            mode: Mode::Plain,
            unsettled: Unsettled::default(),
            held: Held::default(),
            flow: true,
            listed: false,
            awaits: false,
        }
    }

    /// Records that there is something to send at the end of the turn.
    #[inline]
    pub(super) fn list_for_flush(&mut self, outbound: &mut Outbound) {
        if !self.listed {
            self.listed = true;
            outbound.unflushed.push(self.id);
        }
    }

    /// Sends the acknowledgements since the last flush. Called before anything else is queued on the channel, to keep the order of
    /// the caller's commands.
    #[inline]
    pub(super) fn flush_acks(&mut self, outbound: &mut Outbound) {
        if self.unsettled.needs_flush() {
            self.unsettled.flush(|ack| outbound.send_small(self.id.0, &ack));
        }
    }

    /// Like `flush_acks`, at the end of a turn.
    pub(crate) fn flush_listed(&mut self, outbound: &mut Outbound) {
        self.listed = false;
        if matches!(self.phase, Phase::Opening | Phase::Open) {
            self.flush_acks(outbound);
            self.commit_apart(outbound);
        }
    }

    /// Returns a delivery without blame. Flush first.
    pub(super) fn nack(
        &mut self,
        outbound: &mut Outbound,
        tag: DeliveryTag,
        requeue: bool,
    ) -> Result<(), Misuse> {
        self.unsettled.settle(tag)?;
        if outbound.nacks {
            let nack = BasicNack { delivery_tag: tag.0, multiple: false, requeue };
            outbound.send_small(self.id.0, &nack);
        } else {
            outbound.send_small(self.id.0, &BasicReject { delivery_tag: tag.0, requeue });
        }
        Ok(())
    }

    /// Applies the part of a request's effect that does not wait for the reply.
    pub(super) fn started(&mut self, id: RequestId, method: &Method, answered: bool) -> Effect {
        match method {
            Method::BasicConsume(consume) => {
                let tag = consume.consumer_tag.clone();
                if !tag.is_empty() {
                    let consumer =
                        Consumer { id: id.into(), no_ack: consume.no_ack, unwanted: false };
                    self.consumers.insert(tag.clone(), consumer);
                }
                Effect::Consume { tag, no_ack: consume.no_ack, noted: false }
            }
            Method::BasicCancel(cancel) => {
                let tag = cancel.consumer_tag.clone();
                let consumer = self.consumers.find(tag.as_bytes()).map(|found| found.id);
                Effect::Cancel { tag, consumer }
            }
            Method::BasicGet(get) => Effect::Get { no_ack: get.no_ack },
            Method::BasicRecover(_) => {
                self.unsettled.recover(answered);
                Effect::Recover
            }
            Method::ConfirmSelect(_) => {
                if matches!(self.mode, Mode::Plain) {
                    self.mode = Mode::Confirm(Box::new(Confirms::new()));
                }
                Effect::None
            }
            Method::TxSelect(_) => {
                if !matches!(self.mode, Mode::Tx(_)) {
                    self.mode = Mode::Tx(Box::default());
                }
                self.unsettled.begin();
                Effect::None
            }
            Method::TxCommit(_) => {
                self.unsettled.commit();
                Effect::None
            }
            Method::TxRollback(_) => {
                self.unsettled.roll_back();
                Effect::None
            }
            _ => Effect::None,
        }
    }

    /// Ends a consumer at once whose cancel is pending and not awaited. Later deliveries for it are requeued.
    pub(super) fn give_up(
        &mut self,
        outbound: &mut Outbound,
        tag: &ShortStr,
        consumer: ConsumerId,
    ) {
        let found = self.consumers.find(tag.as_bytes());
        if found.is_some_and(|found| found.id == consumer && !found.unwanted) {
            self.consumers.abandon(tag.as_bytes());
            outbound.emit(self.id, ChannelEvent::ConsumerEnded { consumer });
        }
    }

    /// Cancels a consumer without a request of the application. With `abandoned`, the reply is discarded.
    pub(super) fn cancel_unwanted(
        &mut self,
        outbound: &mut Outbound,
        tag: ShortStr,
        abandoned: bool,
    ) -> RequestId {
        let cancel = BasicCancel { consumer_tag: tag.clone(), no_wait: false };
        self.flush_acks(outbound);
        outbound.send_small(self.id.0, &cancel);
        let consumer = self.consumers.find(tag.as_bytes()).map(|found| found.id);
        let id = outbound.next_request();
        let effect = Effect::Cancel { tag, consumer };
        self.pending.push(Pending { id, method: &BasicCancel::FACTS, effect, abandoned });
        self.note_awaiting(outbound);
        id
    }

    pub(super) fn consumer_of(&mut self, tag: &[u8]) -> Option<(ConsumerId, bool, bool)> {
        self.consumers.find(tag).map(|found| (found.id, found.no_ack, found.unwanted))
    }
}

#[cfg(test)]
mod tests {
    use super::*;

    /// Each open channel has one. What only some channels need belongs into a box that is made at its first use.
    #[test]
    fn a_channel_is_small() {
        assert!(size_of::<ChannelState>() <= 384, "{} bytes", size_of::<ChannelState>());
    }
}
