//! One channel: its requests, consumers, confirms and acknowledgements.

mod acks;
mod confirms;
mod consumers;
mod equals;
mod held;
mod prepared;
mod publish;
mod receive;
mod requests;
mod returns;
mod table;
mod transaction;

pub use prepared::Prepared;
pub use publish::Route;
pub(crate) use table::Channels;
pub use transaction::Settlement;

use core::fmt;

use acks::Unsettled;
use confirms::Confirms;
use consumers::{Consumer, Consumers};
use held::Held;
use requests::Requests;
use transaction::Transaction;

use crate::content::Incoming;
use crate::link::{Link, Role};
use crate::method::{
    Arguments as _, BasicCancel, BasicNack, BasicRecoverAsync, BasicReject, ChannelClose, Method,
    MethodFacts, Request, TxCommit, TxRollback,
};
use crate::{
    ChannelError, ChannelEvent, ChannelId, Close, CommandError, ConnectionError, ConsumerId,
    DeliveryTag, Gate, Misuse, ReplyCode, RequestId, ShortStr,
};

/// A channel of a [`Connection`](crate::Connection), borrowed to give it commands.
///
/// A command queues all its bytes or, when it fails, none. Commands may be given before the channel's opening is
/// answered, and after one another without waiting: requests are pipelined, and each answer finds its own.
pub struct Channel<'a> {
    pub(super) state: &'a mut ChannelState,
    pub(super) link: &'a mut Link,
}

/// What is known of one channel.
#[derive(Debug)]
pub(crate) struct ChannelState {
    id: ChannelId,
    phase: Phase,
    pending: Requests,
    consumers: Consumers,
    /// The message whose frames are coming in.
    incoming: Option<Incoming>,
    mode: Mode,
    unsettled: Unsettled,
    held: Held,
    /// The peer lets content flow.
    flow: bool,
    /// The channel stands in the link's list of channels to flush.
    listed: bool,
    /// The channel is counted among those on which the peer owes something; see [`note_awaiting`](Self::note_awaiting).
    awaits: bool,
}

/// ```text
///  Opening ──open-ok──▶ Open ──close()──▶ Closing ──close-ok──▶ Closed
///     └──────────close from the peer, or the end of the connection──┘
/// ```
#[derive(Debug)]
enum Phase {
    Opening,
    Open,
    /// This end asked for the close.
    Closing(Close),
    /// Over; the number is free once the event has been polled.
    Closed(ChannelError),
}

#[derive(Debug)]
enum Mode {
    Plain,
    Confirm(Confirms),
    Tx(Transaction),
}

/// A request on its way.
#[derive(Debug)]
struct Pending {
    id: RequestId,
    method: &'static MethodFacts,
    effect: Effect,
    /// Nobody waits for the answer: what it brings is undone.
    abandoned: bool,
}

/// What an answer changes.
#[derive(Debug)]
enum Effect {
    None,
    Consume {
        tag: ShortStr,
        no_ack: bool,
    },
    /// The consumer, if there was one of that tag: another may have taken the tag when the answer comes.
    Cancel {
        tag: ShortStr,
        consumer: Option<ConsumerId>,
    },
    Get {
        no_ack: bool,
    },
    Recover,
}

/// For log lines: how the channel is, but nothing that is under way on it.
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
    /// The channel's number.
    #[must_use]
    pub fn id(&self) -> ChannelId {
        self.state.id
    }

    /// Queues a request. Its answer comes as [`ChannelEvent::Reply`](crate::ChannelEvent::Reply) of the same number,
    /// unless its `no_wait` bit is set.
    ///
    /// A consumer is known by the number of its `basic.consume`, see [`ConsumerId`]. A `basic.cancel` with `no_wait` ends its
    /// consumer at once. It is sent without that bit, and its reply is swallowed: until that comes, the tag is taken.
    ///
    /// # Errors
    /// [`CommandError`]; nothing was queued then.
    pub fn request<R: Request>(&mut self, request: R) -> Result<RequestId, CommandError> {
        let answered = !request.is_no_wait();
        self.request_as(None, request.into(), &R::FACTS, answered)
    }

    /// The same under a number that was given before, which a session does.
    pub(crate) fn request_as(
        &mut self,
        id: Option<RequestId>,
        mut request: Method,
        method: &'static MethodFacts,
        answered: bool,
    ) -> Result<RequestId, CommandError> {
        self.check_open()?;
        self.check_mode(&request)?;
        self.check_consumer(&request)?;
        if let (Method::BasicCancel(cancel), Role::Client) = (&mut request, self.link.role) {
            // Only the reply says that no more deliveries come: then the tag is free, and what is held can be requeued.
            cancel.no_wait = false;
        }
        self.flush_acks();
        self.link.send(self.state.id.0, &request)?;
        let id = id.unwrap_or_else(|| self.link.next_request());
        let effect = self.state.started(id, request, answered);
        if let (Effect::Cancel { tag, consumer: Some(consumer) }, false) = (&effect, answered) {
            self.state.give_up(self.link, tag, *consumer);
        }
        if answered || matches!(effect, Effect::Cancel { .. }) {
            self.state.pending.push(Pending { id, method, effect, abandoned: !answered });
            self.state.note_awaiting(self.link);
        }
        match method.id {
            id if id == TxCommit::FACTS.id => self.state.transaction_ended(self.link, true),
            id if id == TxRollback::FACTS.id => self.state.transaction_ended(self.link, false),
            _ => {}
        }
        Ok(id)
    }

    /// Nobody waits for that answer any more. When it comes it is swallowed, and what it brought is undone: a consumer is
    /// cancelled, a message that was got is requeued. A consumer whose cancel is not awaited ends at once, and what still arrives
    /// for it is requeued.
    pub fn abandon(&mut self, request: RequestId) {
        let Some(pending) = self.state.pending.find(request) else { return };
        pending.abandoned = true;
        match &pending.effect {
            Effect::Consume { tag, .. } => self.state.consumers.abandon(tag.as_bytes()),
            Effect::Cancel { tag, consumer: Some(consumer) } => {
                let (tag, consumer) = (tag.clone(), *consumer);
                self.state.give_up(self.link, &tag, consumer);
            }
            _ => {}
        }
    }

    /// Cancels a consumer that nobody listens to any more: there is no event for the answer, and deliveries that are on
    /// their way go back to their queue.
    pub fn discard_consumer(&mut self, consumer_tag: &ShortStr) {
        let found = self.state.consumers.find(consumer_tag.as_bytes());
        let Some(found) = found.filter(|_| self.check_open().is_ok()) else { return };
        self.state.consumers.abandon(consumer_tag.as_bytes());
        if self.state.pending.is_cancelling(consumer_tag, found.id) {
            return;
        }
        match self.state.pending.starting(consumer_tag) {
            // RabbitMQ: a cancel that arrives before the queue has answered crashes the channel (seen with 3.10.8).
            Some(starting) => starting.abandoned = true,
            None => {
                self.state.cancel_unwanted(self.link, consumer_tag.clone(), true);
            }
        }
    }

    /// Cancels a consumer that is to be started again later. What still arrives for it is requeued; the reply is reported.
    /// Returns nothing if the consumer cannot be cancelled now.
    pub(crate) fn pause_consumer(
        &mut self,
        consumer_tag: &ShortStr,
        consumer: ConsumerId,
    ) -> Option<RequestId> {
        self.check_open().ok()?;
        let runs = self.wanted_consumer(consumer_tag) == Some(consumer)
            // RabbitMQ: a cancel that arrives before the queue has answered crashes the channel (seen with 3.10.8).
            && !self.state.pending.is_starting(consumer_tag)
            && !self.state.pending.is_cancelling(consumer_tag, consumer);
        if !runs {
            return None;
        }
        self.state.consumers.abandon(consumer_tag.as_bytes());
        Some(self.state.cancel_unwanted(self.link, consumer_tag.clone(), false))
    }

    /// Which consumer has this tag, if its deliveries are wanted.
    pub(crate) fn wanted_consumer(&mut self, consumer_tag: &ShortStr) -> Option<ConsumerId> {
        let found = self.state.consumer_of(consumer_tag.as_bytes());
        found.and_then(|(id, _, unwanted)| (!unwanted).then_some(id))
    }

    /// Which consumer has this tag.
    pub(crate) fn consumer(&mut self, consumer_tag: &ShortStr) -> Option<ConsumerId> {
        self.state.consumer_of(consumer_tag.as_bytes()).map(|(id, ..)| id)
    }

    /// Whether a consumer's start is not answered yet.
    pub(crate) fn is_starting(&self, consumer_tag: &ShortStr) -> bool {
        self.state.pending.is_starting(consumer_tag)
    }

    /// Acknowledges one delivery. It is sent with the next flush, merged with others where that is exact.
    ///
    /// # Errors
    /// [`CommandError`], if the delivery is not waiting for it.
    pub fn ack(&mut self, delivery: DeliveryTag) -> Result<(), CommandError> {
        self.check_open()?;
        self.state.unsettled.ack(delivery)?;
        self.list_for_flush();
        Ok(())
    }

    /// Acknowledges all deliveries up to and including that one; tag 0 means all there are. Those that are
    /// [held](crate::Oversized::Hold) are not among them.
    ///
    /// # Errors
    /// [`CommandError`], if none is waiting for it.
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

    /// Rejects one delivery (`basic.reject`): the broker requeues it, or else drops or dead-letters it.
    ///
    /// RabbitMQ: from 4.3 a quorum queue counts a requeued reject as a failed delivery, and drops or dead-letters the message
    /// beyond the queue's limit (`x-delivery-limit`, default 20). To requeue what nobody failed at, use [`nack`](Self::nack).
    ///
    /// # Errors
    /// [`CommandError`], if the delivery is not waiting for it.
    pub fn reject(&mut self, delivery: DeliveryTag, requeue: bool) -> Result<(), CommandError> {
        self.check_open()?;
        if self.state.held.is_of_stream(delivery) {
            return self.ack(delivery);
        }
        self.flush_acks();
        self.state.unsettled.settle(delivery)?;
        let reject = BasicReject { delivery_tag: delivery.0, requeue };
        self.link.send_small(self.state.id.0, &reject);
        Ok(())
    }

    /// Returns one delivery without blame (`basic.nack`): the broker requeues it, or else drops or dead-letters it. To a peer
    /// that has not announced the capability `basic.nack` this is a [`reject`](Self::reject).
    ///
    /// # Errors
    /// [`CommandError`], if the delivery is not waiting for it.
    pub fn nack(&mut self, delivery: DeliveryTag, requeue: bool) -> Result<(), CommandError> {
        self.check_open()?;
        if self.state.held.is_of_stream(delivery) {
            return self.ack(delivery);
        }
        self.flush_acks();
        Ok(self.state.nack(self.link, delivery, requeue)?)
    }

    /// Returns all deliveries up to and including that one that were not acknowledged; tag 0 means all there are. See
    /// [`nack`](Self::nack).
    ///
    /// # Errors
    /// [`CommandError`], if none is waiting.
    pub fn nack_up_to(&mut self, delivery: DeliveryTag, requeue: bool) -> Result<(), CommandError> {
        self.check_open()?;
        self.flush_acks();
        if let Some(others) = self.state.around_held(delivery)? {
            for other in others {
                self.state.nack(self.link, other, requeue)?;
            }
            return Ok(());
        }
        if self.link.nacks {
            let delivery_tag = self.state.unsettled.settle_up_to(delivery)?;
            let nack = BasicNack { delivery_tag, multiple: true, requeue };
            self.link.send_small(self.state.id.0, &nack);
            return Ok(());
        }
        // `basic.reject` knows no `multiple`.
        let covers = |oldest: &DeliveryTag| delivery.0 == 0 || *oldest <= delivery;
        let mut rejected = Err(Misuse::UnknownDelivery(delivery.0));
        while let Some(oldest) = self.state.unsettled.oldest().filter(covers) {
            rejected = self.state.nack(self.link, oldest, requeue);
            rejected?;
        }
        Ok(rejected?)
    }

    /// Settles one delivery whatever becomes of the transaction, if the channel is transactional: for what is returned without the
    /// application's decision, as when it has dropped a delivery. It takes effect at once if the application has published and
    /// settled nothing since the last commit or rollback, otherwise with the next of them. A rollback does not undo it.
    ///
    /// # Errors
    /// [`CommandError`], if the delivery is not waiting for it.
    pub fn settle_apart(
        &mut self,
        delivery: DeliveryTag,
        settlement: Settlement,
    ) -> Result<(), CommandError> {
        self.check_open()?;
        Ok(self.state.settle_apart(self.link, delivery, settlement)?)
    }

    /// Requeues all unacknowledged deliveries without blame, those that are still on their way included. For a channel that is
    /// about to be closed, and whose consumers are cancelled: RabbitMQ counts what is unacknowledged at the end of a channel as
    /// failed, see [`reject`](Self::reject).
    ///
    /// On a transactional channel this rolls the transaction back, which the close would do as well. Does nothing for a peer that
    /// has not announced `basic.nack`.
    pub fn requeue_all(&mut self) {
        if !self.link.nacks || self.check_open().is_err() {
            return;
        }
        // In a transaction, what was acknowledged and not sent yet is uncommitted as well.
        self.flush_acks();
        let state = &*self.state;
        let unsettled = state.unsettled.oldest().is_some() || state.unsettled.uncommitted() > 0;
        let coming = !state.consumers.is_empty() || state.pending.brings_message();
        if !(unsettled || coming) {
            return;
        }
        self.state.requeue_all(self.link, |state, link| {
            // Nothing waits if all of it is still on its way.
            let _none = state.unsettled.settle_up_to(DeliveryTag(0));
            // Tag 0 covers what the broker has sent and this end has not seen, which the last known tag would not.
            let nack = BasicNack { delivery_tag: 0, multiple: true, requeue: true };
            link.send_small(state.id.0, &nack);
        });
    }

    /// Whether deliveries of streams are [held](crate::Oversized::Hold).
    pub(crate) fn holds_of_stream(&self) -> bool {
        self.state.held.any_of_stream()
    }

    /// Asks for all unacknowledged deliveries again, without an answer. Deprecated in the protocol; prefer the request
    /// [`BasicRecover`](crate::method::BasicRecover).
    ///
    /// # Errors
    /// [`CommandError`].
    pub fn recover_async(&mut self, requeue: bool) -> Result<(), CommandError> {
        self.check_open()?;
        self.flush_acks();
        self.state.unsettled.recover(false);
        self.link.send_small(self.state.id.0, &BasicRecoverAsync { requeue });
        Ok(())
    }

    /// Closes the channel. Requests that are under way are still answered, deliveries are no longer reported.
    ///
    /// Ends with [`ChannelEvent::Closed`](crate::ChannelEvent::Closed). Does nothing if it is closing already.
    pub fn close(&mut self, reply_code: ReplyCode, reply_text: &str) {
        self.close_over(reply_code, reply_text, (0, 0));
    }

    /// Closes the channel because of a method, named by its class id and method id: the manner of servers.
    pub fn close_over(&mut self, reply_code: ReplyCode, reply_text: &str, cause: (u16, u16)) {
        if self.check_open().is_err() {
            return;
        }
        self.flush_acks();
        let (class_id, method_id) = cause;
        let reply_text = ShortStr::truncated(reply_text);
        let close = Close { class_id, method_id, ..Close::local(reply_code, reply_text) };
        self.link.send_small(
            self.state.id.0,
            &ChannelClose {
                reply_code: reply_code.0,
                reply_text: close.reply_text.clone(),
                class_id,
                method_id,
            },
        );
        self.state.phase = Phase::Closing(close);
        self.state.note_awaiting(self.link);
    }

    /// Whether content may be published right now.
    ///
    /// # Errors
    /// The gate that is shut.
    pub fn check_gate(&self) -> Result<(), Gate> {
        match () {
            () if self.link.blocked => Err(Gate::Blocked),
            () if !self.state.flow => Err(Gate::Flow),
            () if self.link.is_full() => Err(Gate::Full),
            () => Ok(()),
        }
    }

    /// Whether publishes on the channel are confirmed (`confirm.select`).
    #[must_use]
    pub const fn is_confirming(&self) -> bool {
        matches!(self.state.mode, Mode::Confirm(_))
    }

    /// Whether the channel is transactional (`tx.select`).
    #[must_use]
    pub const fn is_transactional(&self) -> bool {
        matches!(self.state.mode, Mode::Tx(_))
    }

    /// Whether the peer lets content flow on the channel (`channel.flow`).
    #[must_use]
    pub const fn is_flowing(&self) -> bool {
        self.state.flow
    }

    /// How many publishes are not confirmed yet, counting from the oldest of them.
    #[must_use]
    pub fn unconfirmed(&self) -> usize {
        match &self.state.mode {
            Mode::Confirm(confirms) => confirms.len(),
            Mode::Plain | Mode::Tx(_) => 0,
        }
    }

    /// How many deliveries wait to be acknowledged, without those that are [held](crate::Oversized::Hold).
    #[must_use]
    pub fn unsettled(&self) -> usize {
        self.state.unsettled.len().saturating_sub(self.state.held.len(&self.state.unsettled))
    }

    /// Servers: queues a method that no request stands behind, or the answer to one.
    ///
    /// # Errors
    /// [`CommandError`].
    pub fn send(&mut self, method: impl Into<Method>) -> Result<(), CommandError> {
        self.check_open()?;
        self.check_server()?;
        self.link.send(self.state.id.0, &method.into())
    }

    fn check_server(&self) -> Result<(), Misuse> {
        match self.link.role {
            Role::Server => Ok(()),
            Role::Client => Err(Misuse::WrongSide("server")),
        }
    }

    /// The same channel. A call that is not inlined gets this one's address, and the view itself can stay in registers.
    #[inline]
    pub(crate) const fn reborrow(&mut self) -> Channel<'_> {
        Channel { state: self.state, link: self.link }
    }

    /// A number for a request that is made later.
    pub(crate) const fn reserve_request(&mut self) -> RequestId {
        self.link.next_request()
    }

    /// Whether commands reach the peer: the channel is open or opening, though its end may be one of the events to come.
    pub(crate) fn takes_commands(&self) -> bool {
        self.check_open().is_ok()
    }

    #[inline]
    fn check_open(&self) -> Result<(), ChannelError> {
        match &self.state.phase {
            Phase::Opening | Phase::Open if self.link.closing.is_none() => Ok(()),
            _ => self.why_closed(),
        }
    }

    #[cold]
    fn why_closed(&self) -> Result<(), ChannelError> {
        match (&self.state.phase, &self.link.closing) {
            (Phase::Closed(error), _) => Err(error.clone()),
            (_, Some(close)) => Err(ConnectionError::Closed(close.clone()).into()),
            (Phase::Closing(close), None) => Err(ChannelError::Closed(close.clone())),
            (Phase::Opening | Phase::Open, None) => Ok(()),
        }
    }

    /// RabbitMQ would close the channel over these, and the connection over a tag that is in use.
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
                    && self.link.role == Role::Client =>
            {
                Err(Misuse::ConsumerTagInUse)
            }
            _ => Ok(()),
        }
    }

    fn list_for_flush(&mut self) {
        self.state.list_for_flush(self.link);
    }

    fn flush_acks(&mut self) {
        self.state.flush_acks(self.link);
    }
}

impl ChannelState {
    /// Whether the peer owes an answer, a confirm, or leave to publish.
    fn awaits_peer(&self) -> bool {
        let unconfirmed = matches!(&self.mode, Mode::Confirm(confirms) if confirms.len() > 0);
        match self.phase {
            Phase::Opening | Phase::Closing(_) => true,
            Phase::Open => !self.pending.is_empty() || unconfirmed || !self.flow,
            Phase::Closed(_) => false,
        }
    }

    /// Counts the channel among those on which the peer owes something, or no more. Called by whatever changes that, so that
    /// nobody has to look at all channels.
    fn note_awaiting(&mut self, link: &mut Link) {
        let awaits = self.awaits_peer();
        if awaits != self.awaits {
            self.awaits = awaits;
            if awaits {
                link.awaiting += 1;
            } else {
                debug_assert!(link.awaiting > 0, "this channel was counted");
                link.awaiting = link.awaiting.saturating_sub(1);
            }
        }
    }

    /// The same behind a publish that is to be confirmed.
    #[inline]
    fn note_unconfirmed(&mut self, link: &mut Link) {
        if !self.awaits {
            self.awaits = true;
            link.awaiting += 1;
        }
    }

    fn new(id: ChannelId, phase: Phase) -> Self {
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

    /// At the end of the turn there is something to send.
    #[inline]
    fn list_for_flush(&mut self, link: &mut Link) {
        if !self.listed {
            self.listed = true;
            link.unflushed.push(self.id);
        }
    }

    /// Sends the acknowledgements that were given since the last flush. Called before anything else is queued on the
    /// channel, so that the order of methods is the caller's.
    #[inline]
    fn flush_acks(&mut self, link: &mut Link) {
        if self.unsettled.needs_flush() {
            self.unsettled.flush(|ack| link.send_small(self.id.0, &ack));
        }
    }

    /// The same, at the end of a turn.
    pub(crate) fn flush_listed(&mut self, link: &mut Link) {
        self.listed = false;
        if matches!(self.phase, Phase::Opening | Phase::Open) {
            self.flush_acks(link);
            self.commit_apart(link);
        }
    }

    /// Returns a delivery without blame. Flush first.
    fn nack(&mut self, link: &mut Link, tag: DeliveryTag, requeue: bool) -> Result<(), Misuse> {
        self.unsettled.settle(tag)?;
        if link.nacks {
            let nack = BasicNack { delivery_tag: tag.0, multiple: false, requeue };
            link.send_small(self.id.0, &nack);
        } else {
            link.send_small(self.id.0, &BasicReject { delivery_tag: tag.0, requeue });
        }
        Ok(())
    }

    /// The part of a request's effect that does not wait for the answer.
    fn started(&mut self, id: RequestId, method: Method, answered: bool) -> Effect {
        match method {
            Method::BasicConsume(consume) => {
                let tag = consume.consumer_tag;
                if !tag.is_empty() {
                    let consumer =
                        Consumer { id: id.into(), no_ack: consume.no_ack, unwanted: false };
                    self.consumers.insert(tag.clone(), consumer);
                }
                Effect::Consume { tag, no_ack: consume.no_ack }
            }
            Method::BasicCancel(cancel) => {
                let tag = cancel.consumer_tag;
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
                    self.mode = Mode::Confirm(Confirms::new());
                }
                Effect::None
            }
            Method::TxSelect(_) => {
                if !matches!(self.mode, Mode::Tx(_)) {
                    self.mode = Mode::Tx(Transaction::default());
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

    /// Nobody waits until that consumer is cancelled, though it is about to be: it ends now, and what still arrives for it is
    /// requeued.
    fn give_up(&mut self, link: &mut Link, tag: &ShortStr, consumer: ConsumerId) {
        let found = self.consumers.find(tag.as_bytes());
        if found.is_some_and(|found| found.id == consumer && !found.unwanted) {
            self.consumers.abandon(tag.as_bytes());
            link.emit(self.id, ChannelEvent::ConsumerEnded { consumer });
        }
    }

    /// Cancels a consumer on the channel's own account. With `abandoned`, nobody waits for the reply.
    fn cancel_unwanted(&mut self, link: &mut Link, tag: ShortStr, abandoned: bool) -> RequestId {
        let cancel = BasicCancel { consumer_tag: tag.clone(), no_wait: false };
        self.flush_acks(link);
        link.send_small(self.id.0, &cancel);
        let consumer = self.consumers.find(tag.as_bytes()).map(|found| found.id);
        let id = link.next_request();
        let effect = Effect::Cancel { tag, consumer };
        self.pending.push(Pending { id, method: &BasicCancel::FACTS, effect, abandoned });
        self.note_awaiting(link);
        id
    }

    fn consumer_of(&mut self, tag: &[u8]) -> Option<(ConsumerId, bool, bool)> {
        self.consumers.find(tag).map(|found| (found.id, found.no_ack, found.unwanted))
    }
}
