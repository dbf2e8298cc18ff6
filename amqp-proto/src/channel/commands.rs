//! The commands of a channel, except publishing.

use alloc::boxed::Box;
use core::fmt;

use super::acks::Settlement;
use super::held::HeldDelivery;
use super::requests::{Effect, Pending};
use super::state::{ChannelState, Mode, Phase};
use crate::method::{
    Arguments as _, BasicCancel, BasicNack, BasicRecoverAsync, BasicReject, ChannelClose, Method,
    MethodFacts, Request, TxCommit, TxRollback,
};
use crate::outbound::{Outbound, Role};
use crate::{
    ChannelError, ChannelId, Close, CommandError, ConnectionError, ConsumerId, DeliveryTag, Gate,
    Misuse, ReplyCode, RequestId, ShortStr,
};

/// A short-lived view of a channel of a [`Connection`](crate::Connection), for issuing commands.
///
/// A command queues all of its bytes or, if it fails, none. Commands may be issued before the channel's opening has been confirmed,
/// and one after the other without waiting: requests are pipelined, and each reply is matched to its request.
pub struct Channel<'a> {
    pub(crate) state: &'a mut ChannelState,
    pub(crate) outbound: &'a mut Outbound,
}

/// For log lines: the state of the channel, without messages and pending requests.
impl fmt::Debug for Channel<'_> {
    fn fmt(&self, f: &mut fmt::Formatter<'_>) -> fmt::Result {
        let phase = match self.state.phase {
            Phase::Opening => "opening",
            Phase::Open => "open",
            Phase::Closing(_) => "closing",
            Phase::Closed(_) => "closed",
        };
        f.debug_struct("Channel")
            .field("id", &self.state.id.0)
            .field("phase", &phase)
            .field("pending", &self.state.pending.len())
            .field("unsettled", &self.unsettled())
            .field("unconfirmed", &self.unconfirmed())
            .finish_non_exhaustive()
    }
}

impl Channel<'_> {
    /// Returns the channel's number.
    #[must_use]
    pub fn id(&self) -> ChannelId {
        self.state.id
    }

    /// Queues a request. Its reply is emitted as [`ChannelEvent::Reply`](crate::ChannelEvent::Reply) with the same number, unless
    /// the request's `no_wait` bit is set.
    ///
    /// A consumer is identified by the number of its `basic.consume`, see [`ConsumerId`]. A `basic.cancel` with `no_wait` ends its
    /// consumer at once. It is sent without that bit, and its reply is discarded; until the reply arrives, the tag is in use.
    ///
    /// # Errors
    /// [`CommandError`]; nothing was queued.
    pub fn request<R: Request>(&mut self, request: R) -> Result<RequestId, CommandError> {
        let answered = !request.is_no_wait();
        self.request_as(None, &request.into(), &R::FACTS, answered)
    }

    /// Like [`request`](Self::request), with a number that was reserved before, for sessions.
    pub(crate) fn request_as(
        &mut self,
        id: Option<RequestId>,
        request: &Method,
        method: &'static MethodFacts,
        answered: bool,
    ) -> Result<RequestId, CommandError> {
        self.check_open()?;
        self.check_mode(request)?;
        self.check_consumer(request)?;
        self.flush_acks();
        match (request, self.outbound.role) {
            (Method::BasicCancel(cancel), Role::Client) if cancel.no_wait => {
                // Deliveries may arrive until the reply. Only then is the tag free, and held messages can be requeued.
                let cancel = BasicCancel { no_wait: false, ..cancel.clone() };
                self.outbound.send(self.state.id.0, &cancel.into())?;
            }
            _ => self.outbound.send(self.state.id.0, request)?,
        }
        let id = id.unwrap_or_else(|| self.outbound.next_request());
        let effect = self.state.started(id, request, answered);
        if matches!(effect, Effect::Recover) {
            self.state.report_requeued(self.outbound);
        }
        if let (Effect::Cancel { tag, consumer: Some(consumer) }, false) = (&effect, answered) {
            self.state.give_up(self.outbound, tag, *consumer);
        }
        if answered || matches!(effect, Effect::Cancel { .. }) {
            self.state.pending.push(Pending { id, method, effect, abandoned: !answered });
            self.state.note_awaiting(self.outbound);
        }
        match method.id {
            id if id == TxCommit::FACTS.id => self.state.transaction_ended(self.outbound, true),
            id if id == TxRollback::FACTS.id => self.state.transaction_ended(self.outbound, false),
            _ => {}
        }
        Ok(id)
    }

    /// Discards the reply to a request. When the reply arrives, its effect is undone: a consumer is cancelled, a fetched message is
    /// requeued. A consumer whose cancel is abandoned ends at once, and later deliveries for it are requeued.
    pub fn abandon(&mut self, request: RequestId) {
        let Some(pending) = self.state.pending.find(request) else { return };
        pending.abandoned = true;
        match &pending.effect {
            Effect::Consume { tag, .. } => self.state.consumers.abandon(tag.as_bytes()),
            Effect::Cancel { tag, consumer: Some(consumer) } => {
                let (tag, consumer) = (tag.clone(), *consumer);
                self.state.give_up(self.outbound, &tag, consumer);
            }
            _ => {}
        }
    }

    /// Abandons the start of a consumer. Unlike with [`abandon`](Self::abandon), the reply is emitted when it arrives.
    pub(crate) fn abandon_start(&mut self, request: RequestId) {
        self.abandon(request);
        let effect = self.state.pending.find(request).map(|pending| &mut pending.effect);
        if let Some(Effect::Consume { noted, .. }) = effect {
            *noted = true;
        }
    }

    /// Cancels a consumer whose deliveries are no longer wanted: there is no event for the reply, and deliveries in flight are
    /// requeued.
    pub fn discard_consumer(&mut self, consumer_tag: &ShortStr) {
        let found = self.state.consumers.find(consumer_tag.as_bytes());
        let Some(found) = found.filter(|_| self.check_open().is_ok()) else { return };
        self.state.consumers.abandon(consumer_tag.as_bytes());
        if self.state.pending.is_cancelling(consumer_tag, found.id) {
            return;
        }
        match self.state.pending.starting(consumer_tag) {
            // RabbitMQ: a cancel that arrives before the queue has replied crashes the channel (seen with 3.10.8).
            Some(starting) => starting.abandoned = true,
            None => {
                self.state.cancel_unwanted(self.outbound, consumer_tag.clone(), true);
            }
        }
    }

    /// Cancels a consumer that will be started again later. Later deliveries for it are requeued; the reply is reported.
    /// Returns `None` if the consumer cannot be cancelled now.
    pub(crate) fn pause_consumer(
        &mut self,
        consumer_tag: &ShortStr,
        consumer: ConsumerId,
    ) -> Option<RequestId> {
        self.check_open().ok()?;
        let runs = self.wanted_consumer(consumer_tag) == Some(consumer)
            // RabbitMQ: a cancel that arrives before the queue has replied crashes the channel (seen with 3.10.8).
            && !self.state.pending.is_starting(consumer_tag)
            && !self.state.pending.is_cancelling(consumer_tag, consumer);
        if !runs {
            return None;
        }
        self.state.consumers.abandon(consumer_tag.as_bytes());
        Some(self.state.cancel_unwanted(self.outbound, consumer_tag.clone(), false))
    }

    /// Returns the consumer with this tag, if its deliveries are wanted.
    pub(crate) fn wanted_consumer(&mut self, consumer_tag: &ShortStr) -> Option<ConsumerId> {
        let found = self.state.consumer_of(consumer_tag.as_bytes());
        found.and_then(|(id, _, unwanted)| (!unwanted).then_some(id))
    }

    /// Returns the consumer with this tag.
    pub(crate) fn consumer(&mut self, consumer_tag: &ShortStr) -> Option<ConsumerId> {
        self.state.consumer_of(consumer_tag.as_bytes()).map(|(id, ..)| id)
    }

    /// Returns whether a consumer with this tag is being started: the reply is still outstanding.
    pub(crate) fn is_starting(&self, consumer_tag: &ShortStr) -> bool {
        self.state.pending.is_starting(consumer_tag)
    }

    /// Returns whether the reply to a `basic.consume` is outstanding. The consumer cannot be cancelled before it.
    #[must_use]
    pub fn starts_consumer(&self) -> bool {
        self.check_open().is_ok() && self.state.pending.starts_consumer()
    }

    /// Acknowledges one delivery. The acknowledgement is sent with the next flush, merged with others where the result is identical.
    ///
    /// # Errors
    /// [`CommandError`], if the delivery is not waiting for an acknowledgement.
    pub fn ack(&mut self, delivery: DeliveryTag) -> Result<(), CommandError> {
        self.check_open()?;
        self.state.unsettled.ack(delivery)?;
        self.list_for_flush();
        Ok(())
    }

    /// Acknowledges all deliveries up to and including this one, except [held](crate::Oversized::Hold) ones; tag 0 means all.
    ///
    /// # Errors
    /// [`CommandError`], if no delivery is waiting for an acknowledgement.
    pub fn ack_up_to(&mut self, delivery: DeliveryTag) -> Result<(), CommandError> {
        self.check_open()?;
        match self.state.around_held(delivery)? {
            None => self.state.unsettled.ack_up_to(delivery)?,
            Some(others) => {
                others.into_iter().try_for_each(|other| self.state.unsettled.ack(other))?;
            }
        }
        self.list_for_flush();
        Ok(())
    }

    /// Rejects one delivery (`basic.reject`). The broker requeues it if `requeue` is set, and otherwise drops or dead-letters it.
    ///
    /// RabbitMQ: from 4.3, a quorum queue counts a requeued reject as a failed delivery, and drops or dead-letters the message
    /// beyond the queue's limit (`x-delivery-limit`, default 20). To requeue a delivery that was not attempted, use
    /// [`nack`](Self::nack).
    ///
    /// # Errors
    /// [`CommandError`], if the delivery is not waiting for an acknowledgement.
    pub fn reject(&mut self, delivery: DeliveryTag, requeue: bool) -> Result<(), CommandError> {
        self.check_open()?;
        if self.state.held.is_of_stream(delivery) {
            return self.ack(delivery);
        }
        self.flush_acks();
        self.state.unsettled.settle(delivery)?;
        let reject = BasicReject { delivery_tag: delivery.0, requeue };
        self.outbound.send_small(self.state.id.0, &reject);
        Ok(())
    }

    /// Returns one delivery to the broker (`basic.nack`). The broker requeues it if `requeue` is set, and otherwise drops or
    /// dead-letters it. From RabbitMQ 4.3, a requeued nack does not count as a failed delivery. If the peer has not announced the
    /// capability `basic.nack`, this is a [`reject`](Self::reject).
    ///
    /// # Errors
    /// [`CommandError`], if the delivery is not waiting for an acknowledgement.
    pub fn nack(&mut self, delivery: DeliveryTag, requeue: bool) -> Result<(), CommandError> {
        self.check_open()?;
        if self.state.held.is_of_stream(delivery) {
            return self.ack(delivery);
        }
        self.flush_acks();
        Ok(self.state.nack(self.outbound, delivery, requeue)?)
    }

    /// Returns all unacknowledged deliveries up to and including this one; tag 0 means all. See [`nack`](Self::nack).
    ///
    /// # Errors
    /// [`CommandError`], if no delivery is waiting for an acknowledgement.
    pub fn nack_up_to(&mut self, delivery: DeliveryTag, requeue: bool) -> Result<(), CommandError> {
        self.check_open()?;
        self.flush_acks();
        if let Some(others) = self.state.around_held(delivery)? {
            for other in others {
                self.state.nack(self.outbound, other, requeue)?;
            }
            return Ok(());
        }
        if self.outbound.nacks {
            let delivery_tag = self.state.unsettled.settle_up_to(delivery)?;
            let nack = BasicNack { delivery_tag, multiple: true, requeue };
            self.outbound.send_small(self.state.id.0, &nack);
            return Ok(());
        }
        // `basic.reject` has no `multiple`.
        let covers = |oldest: &DeliveryTag| delivery.0 == 0 || *oldest <= delivery;
        let mut rejected = Err(Misuse::UnknownDelivery(delivery.0));
        while let Some(oldest) = self.state.unsettled.oldest().filter(covers) {
            rejected = self.state.nack(self.outbound, oldest, requeue);
            rejected?;
        }
        Ok(rejected?)
    }

    /// Settles one delivery regardless of the outcome of a transaction. Use this for deliveries that are returned without the
    /// application's decision, for example because it has dropped them. On a transactional channel, this takes effect at once if the
    /// application has published and settled nothing since the last commit or rollback, and otherwise with the next commit or
    /// rollback. A rollback does not undo it.
    ///
    /// # Errors
    /// [`CommandError`], if the delivery is not waiting for an acknowledgement.
    pub fn settle_apart(
        &mut self,
        delivery: DeliveryTag,
        settlement: Settlement,
    ) -> Result<(), CommandError> {
        self.check_open()?;
        let of_stream = self.state.held.is_of_stream(delivery);
        let settlement = if of_stream { Settlement::Ack } else { settlement };
        Ok(self.state.settle_apart(self.outbound, delivery, settlement)?)
    }

    /// Leaves a delivery unacknowledged until the channel is closed: then the peer requeues it. Like deliveries that are
    /// [held](crate::Oversized::Hold), it can still be settled by its tag, but [`ack_up_to`](Self::ack_up_to) and
    /// [`nack_up_to`](Self::nack_up_to) leave it out, and it does not count as [unsettled](Self::unsettled).
    ///
    /// # Errors
    /// [`CommandError`], if the delivery is not waiting for an acknowledgement.
    pub fn hold(&mut self, delivery: DeliveryTag) -> Result<(), CommandError> {
        self.check_open()?;
        let ChannelState { held, unsettled, .. } = &mut *self.state;
        if !unsettled.is_waiting(delivery.get()) {
            return Err(Misuse::UnknownDelivery(delivery.get()).into());
        }
        let of_stream = held.is_of_stream(delivery);
        let held_for_good =
            HeldDelivery { tag: delivery.get(), consumer: None, of_stream, requeue: false };
        held.add(held_for_good, unsettled);
        Ok(())
    }

    /// Requeues all unacknowledged deliveries, including those in flight, with [`nack`](Self::nack). Use this for a channel that is
    /// about to be closed, and whose consumers are cancelled: RabbitMQ counts deliveries that are unacknowledged when a channel
    /// closes as failed, see [`reject`](Self::reject).
    ///
    /// On a transactional channel, this rolls the transaction back, which the close would do as well. Does nothing if the peer has
    /// not announced `basic.nack`.
    pub fn requeue_all(&mut self) {
        if !self.outbound.nacks || self.check_open().is_err() {
            return;
        }
        // In a transaction, acknowledgements that were not sent yet are uncommitted as well.
        self.flush_acks();
        let state = &*self.state;
        let unsettled = state.unsettled.oldest().is_some() || state.unsettled.uncommitted() > 0;
        let coming = !state.consumers.is_empty() || state.pending.brings_message();
        if !(unsettled || coming) {
            return;
        }
        self.state.requeue_all(self.outbound, |state, outbound| {
            // No delivery is unsettled here if all of them are still in flight.
            let _none = state.unsettled.settle_up_to(DeliveryTag(0));
            // Tag 0 covers deliveries that the broker has sent and this side has not received, which the last known tag would not.
            let nack = BasicNack { delivery_tag: 0, multiple: true, requeue: true };
            outbound.send_small(state.id.0, &nack);
        });
    }

    /// Returns whether any [held](crate::Oversized::Hold) delivery comes from a stream.
    pub(crate) fn holds_of_stream(&self) -> bool {
        self.state.held.any_of_stream()
    }

    /// Requests redelivery of all unacknowledged deliveries, without a reply. Deprecated in the protocol; prefer the request
    /// [`BasicRecover`](crate::method::BasicRecover).
    ///
    /// # Errors
    /// [`CommandError`].
    pub fn recover_async(&mut self, requeue: bool) -> Result<(), CommandError> {
        self.check_open()?;
        self.flush_acks();
        self.state.unsettled.recover(false);
        self.state.report_requeued(self.outbound);
        self.outbound.send_small(self.state.id.0, &BasicRecoverAsync { requeue });
        Ok(())
    }

    /// Closes the channel. Pending requests still get their replies; deliveries are no longer reported.
    ///
    /// Ends with [`ChannelEvent::Closed`](crate::ChannelEvent::Closed). Does nothing if the channel is closing already.
    pub fn close(&mut self, reply_code: ReplyCode, reply_text: &str) {
        self.close_over(reply_code, reply_text, (0, 0));
    }

    /// Closes the channel because of a method, named by its class id and method id, as servers do.
    pub fn close_over(&mut self, reply_code: ReplyCode, reply_text: &str, cause: (u16, u16)) {
        if self.check_open().is_err() {
            return;
        }
        self.flush_acks();
        let (class_id, method_id) = cause;
        let reply_text = ShortStr::truncated(reply_text);
        let close = Close {
            class_id,
            method_id,
            ..Close::local(Some(self.state.id), reply_code, reply_text)
        };
        self.outbound.send_small(
            self.state.id.0,
            &ChannelClose {
                reply_code: reply_code.0,
                reply_text: close.reply_text.clone(),
                class_id,
                method_id,
            },
        );
        self.state.phase = Phase::Closing(Box::new(close));
        self.state.note_awaiting(self.outbound);
    }

    /// Checks whether a message may be published right now.
    ///
    /// # Errors
    /// The gate that is shut.
    pub fn check_gate(&self) -> Result<(), Gate> {
        match () {
            () if self.outbound.blocked => Err(Gate::Blocked),
            () if !self.state.flow => Err(Gate::Flow),
            () if self.outbound.is_full() => Err(Gate::Full),
            () => Ok(()),
        }
    }

    /// Returns whether the channel uses publisher confirms (`confirm.select`).
    #[must_use]
    pub const fn is_confirming(&self) -> bool {
        matches!(self.state.mode, Mode::Confirm(_))
    }

    /// Returns whether the channel is transactional (`tx.select`).
    #[must_use]
    pub const fn is_transactional(&self) -> bool {
        matches!(self.state.mode, Mode::Tx(_))
    }

    /// Returns whether the peer accepts messages on the channel (`channel.flow`).
    #[must_use]
    pub const fn is_flowing(&self) -> bool {
        self.state.flow
    }

    /// Returns the number of publishes since the oldest unconfirmed one, which is included.
    #[must_use]
    pub fn unconfirmed(&self) -> usize {
        match &self.state.mode {
            Mode::Confirm(confirms) => confirms.len(),
            Mode::Plain | Mode::Tx(_) => 0,
        }
    }

    /// Returns the number of unsettled deliveries, without those that are [held](crate::Oversized::Hold).
    #[must_use]
    pub fn unsettled(&self) -> usize {
        self.state.unsettled.len().saturating_sub(self.held())
    }

    /// Returns the unsettled deliveries up to and including this one, without those that are [held](crate::Oversized::Hold); tag 0
    /// means all. [`ack_up_to`](Self::ack_up_to) would settle these.
    pub fn unsettled_up_to(&self, delivery: DeliveryTag) -> impl Iterator<Item = DeliveryTag> {
        let last = if delivery.0 == 0 { u64::MAX } else { delivery.0 };
        let waiting = self.state.unsettled.waiting_up_to(last);
        waiting.filter(|tag| self.state.held.find(*tag).is_none()).map(DeliveryTag)
    }

    /// Returns the number of unsettled deliveries that are [held](crate::Oversized::Hold), because the client does not accept them.
    #[must_use]
    pub fn held(&self) -> usize {
        self.state.held.len(&self.state.unsettled)
    }

    /// Returns whether deliveries may be unsettled for the broker, also those that are held or that a transaction has settled.
    pub(crate) fn may_have_unsettled(&self) -> bool {
        self.state.unsettled.len() > 0 || matches!(self.state.mode, Mode::Tx(_))
    }

    /// Servers: queues a method that is not a request, or the reply to a request.
    ///
    /// # Errors
    /// [`CommandError`].
    pub fn send(&mut self, method: impl Into<Method>) -> Result<(), CommandError> {
        self.check_open()?;
        self.check_server()?;
        self.outbound.send(self.state.id.0, &method.into())
    }

    pub(super) fn check_server(&self) -> Result<(), Misuse> {
        match self.outbound.role {
            Role::Server => Ok(()),
            Role::Client => Err(Misuse::WrongSide("server")),
        }
    }

    /// Returns another view of the same channel. A call that is not inlined gets the address of that one, so that this view can stay
    /// in registers.
    #[inline]
    pub(crate) const fn reborrow(&mut self) -> Channel<'_> {
        Channel { state: self.state, outbound: self.outbound }
    }

    /// Reserves a number for a request that is made later.
    pub(crate) const fn reserve_request(&mut self) -> RequestId {
        self.outbound.next_request()
    }

    /// Returns whether commands reach the peer: the channel is open or opening. Its close may still be among the events to
    /// poll.
    pub(crate) fn takes_commands(&self) -> bool {
        self.check_open().is_ok()
    }

    #[inline]
    pub(super) fn check_open(&self) -> Result<(), ChannelError> {
        match &self.state.phase {
            Phase::Opening | Phase::Open if self.outbound.closing.is_none() => Ok(()),
            _ => self.why_closed(),
        }
    }

    #[cold]
    fn why_closed(&self) -> Result<(), ChannelError> {
        match (&self.state.phase, &self.outbound.closing) {
            (Phase::Closed(error), _) => Err((**error).clone()),
            (_, Some(close)) => Err(ConnectionError::Closed(close.clone()).into()),
            (Phase::Closing(close), None) => Err(ChannelError::Closed((**close).clone())),
            (Phase::Opening | Phase::Open, None) => Ok(()),
        }
    }

    /// Checks for mistakes for which RabbitMQ would close the channel, or the connection if a tag is in use.
    fn check_mode(&self, method: &Method) -> Result<(), Misuse> {
        match (&self.state.mode, method) {
            (Mode::Confirm(_), Method::TxSelect(_)) | (Mode::Tx(_), Method::ConfirmSelect(_)) => {
                Err(Misuse::TxAndConfirm)
            }
            _ => Ok(()),
        }
    }

    fn check_consumer(&self, method: &Method) -> Result<(), Misuse> {
        match method {
            Method::BasicConsume(consume)
                if self.state.consumers.contains(&consume.consumer_tag)
                    && self.outbound.role == Role::Client =>
            {
                Err(Misuse::ConsumerTagInUse)
            }
            _ => Ok(()),
        }
    }

    pub(super) fn list_for_flush(&mut self) {
        self.state.list_for_flush(self.outbound);
    }

    pub(super) fn flush_acks(&mut self) {
        self.state.flush_acks(self.outbound);
    }
}
