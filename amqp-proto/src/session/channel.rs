use alloc::boxed::Box;
use alloc::collections::VecDeque;
use core::time::Duration;

use super::noted::{ask_for_reply, note};
use super::record::kept::{Budget, Expires, KeptMessage};
use super::record::{ChannelRecord, Mode};
use super::topology::Topology;
use crate::method::{BasicQos, Method, Request, TxRollback};
use crate::time::Instant;
use crate::{
    Body, ChannelError, ChannelEvent, ChannelId, Close, CommandError, Connection, ConnectionError,
    ConsumerId, EncodeProperties, Event, Gate, Misuse, Prepared, PublishError, PublishSeq,
    RawProperties, ReplyCode, RequestId, Route, ShortStr,
};

/// A short-lived view of a channel of a [`Session`](super::Session), for issuing commands.
///
/// It has the commands of a connection's [`Channel`](crate::Channel). While there is no connection, requests wait for one, publishing
/// fails with [`Gate::Recovering`], and acknowledgements fail with [`Misuse::StaleDelivery`].
#[derive(Debug)]
pub struct SessionChannel<'a> {
    pub(super) id: ChannelId,
    pub(super) record: &'a mut ChannelRecord,
    pub(super) topology: &'a mut Topology,
    pub(super) budget: &'a mut Budget,
    pub(super) events: &'a mut VecDeque<Event>,
    pub(super) reach: Reach<'a>,
    /// The latest time that was passed to the session.
    pub(super) now: Instant,
    /// True if the effect of commands is restored after a loss.
    pub(super) recovers: bool,
    /// The time for which a message is kept.
    pub(super) keep_for: Option<Duration>,
}

/// The destination of commands.
#[derive(Debug)]
pub(super) enum Reach<'a> {
    Channel(crate::Channel<'a>),
    /// Commands wait for a connection. The present connection only numbers them.
    Nowhere(&'a mut Connection),
    /// The channel accepts no commands any more: the session is closed for that reason, or the channel was closed while there was no
    /// connection.
    Ended(Option<&'a ConnectionError>),
}

impl Reach<'_> {
    /// Returns the channel for messages that are not kept.
    #[inline]
    fn publishing(
        &mut self,
        id: ChannelId,
        record: &ChannelRecord,
    ) -> Result<crate::Channel<'_>, PublishError> {
        match self {
            Self::Channel(channel) if record.careful.is_none() => Ok(channel.reborrow()),
            // Kept messages go first, and their confirms must not be mixed up with others.
            Self::Channel(_) | Self::Nowhere(_) => Err(Gate::Recovering.into()),
            Self::Ended(over) => Err(ended(id, *over).into()),
        }
    }
}

/// Returns the reason why a channel accepts no commands any more.
#[cold]
pub(super) fn ended(id: ChannelId, over: Option<&ConnectionError>) -> ChannelError {
    let closed =
        || ChannelError::Closed(Close::local(Some(id), ReplyCode::REPLY_SUCCESS, ShortStr::EMPTY));
    over.map_or_else(closed, |error| error.clone().into())
}

impl Reach<'_> {
    /// Returns the connection's channel while it is being restored, for commands that cannot wait until everything is restored.
    pub(super) fn restored(&mut self, id: ChannelId) -> Option<crate::Channel<'_>> {
        match self {
            Self::Nowhere(connection) if connection.is_open() => connection.channel(id).ok(),
            _ => None,
        }
    }
}

impl SessionChannel<'_> {
    /// Returns the channel's number. It stays the same on each connection of the session.
    #[must_use]
    pub const fn id(&self) -> ChannelId {
        self.id
    }

    /// Makes the effect of the next command temporary: it is not restored after a loss of the connection.
    #[must_use]
    pub fn unrecovered(mut self) -> Self {
        self.recovers = false;
        self
    }

    /// Limits how long a message that the next command [keeps](Self::publish_kept) may still be sent, counted from the next
    /// [`handle_timeout`](super::Session::handle_timeout). If it is neither confirmed nor in flight by then, it fails with
    /// [`ChannelEvent::PublishFailed`] ([`PublishError::Expired`]). If it is in flight, its confirm still arrives.
    #[must_use]
    pub fn keep_for(mut self, time: Option<Duration>) -> Self {
        self.keep_for = time;
        self
    }

    /// Withdraws a [kept](Self::publish_kept) message: it is no longer sent. Returns `true` if the message was never sent.
    ///
    /// If it was sent before a loss, the broker may have it or not. If it is in flight on the present connection, its confirm still
    /// arrives. In all other cases, [`ChannelEvent::PublishFailed`] reports that it was withdrawn.
    pub fn withdraw(&mut self, publish: PublishSeq) -> bool {
        let Some(message) = self.record.kept.find(publish.get()) else { return false };
        let (sent, here) = (message.sent, message.here && self.record.attached);
        self.budget.freed(|discard| self.record.kept.give_up(publish.get(), discard));
        if !here {
            let failed = ChannelEvent::PublishFailed { publish, error: PublishError::Withdrawn };
            self.events.push_back(Event::Channel(self.id, failed));
        }
        !sent
    }

    /// Queues a request; see [`Channel::request`](crate::Channel::request).
    ///
    /// Its effect (declared, bound, started or selected) is restored after a loss, unless the command is
    /// [unrecovered](Self::unrecovered). While there is no connection, the request waits.
    ///
    /// Some requests have a reply on the wire although their `no_wait` is set, because recovery needs it: the declaration of a queue
    /// that the broker names, and a delete on a condition. No event reports that reply.
    ///
    /// # Errors
    /// [`CommandError`]; nothing was queued.
    pub fn request<R: Request>(&mut self, request: R) -> Result<RequestId, CommandError> {
        let wanted = !request.is_no_wait();
        let mut method = request.into();
        self.topology.translate(&mut method);
        self.check_transaction(&method)?;
        self.check_stream(&method)?;
        let selects = matches!(method, Method::TxSelect(_));
        if selects || ends_transaction(&method) && self.is_transactional() {
            // Acknowledgements are sent at once on a channel that is being restored, and so are the beginning and the end of their
            // transaction: if these waited for the rest, later acknowledgements would overtake them.
            if let Some(mut channel) = self.reach.restored(self.id) {
                check_held(self.record, &method)?;
                let id = channel.request_as(None, &method, &R::FACTS, wanted)?;
                note(self.record, self.topology, id, method, wanted, self.recovers, self.now);
                return Ok(id);
            }
        }
        let id = match &mut self.reach {
            Reach::Channel(channel)
                if channel.takes_commands()
                    && (self.record.waits_for_messages(&method)
                        || self.record.cancels_too_early(channel, &method)) =>
            {
                check_consumer_tag(self.record, &method)?;
                check_held(self.record, &method)?;
                let id = channel.reserve_request();
                self.record.hold(id, method, &R::FACTS, wanted, self.recovers);
                id
            }
            Reach::Channel(channel) => {
                check_consumer_tag(self.record, &method)?;
                self.record.name_last_queue(&mut method);
                self.record.rename_consumer(&mut method);
                let absent = self.record.cancels_absent(channel, &method);
                let answered = ask_for_reply(&mut method, wanted);
                let id = channel.request_as(None, &method, &R::FACTS, answered)?;
                note(self.record, self.topology, id, method, wanted, self.recovers, self.now);
                if let Some(consumer) = absent {
                    // Emit its end only once, whatever the reply to the cancel is.
                    self.record.cancelling.remove(&consumer);
                    let ended = ChannelEvent::ConsumerEnded { consumer };
                    self.events.push_back(Event::Channel(self.id, ended));
                }
                id
            }
            Reach::Nowhere(connection) => {
                check_held(self.record, &method)?;
                let id = connection.reserve_request();
                match method {
                    // From now on, kept messages are accepted.
                    Method::ConfirmSelect(_) => self.record.mode = Mode::Confirm,
                    // From now on, acknowledgements can be rolled back: the channel is restored as transactional.
                    Method::TxSelect(_) => self.record.select(id),
                    _ => {}
                }
                self.record.hold(id, method, &R::FACTS, wanted, self.recovers);
                id
            }
            Reach::Ended(over) => return Err(ended(self.id, *over).into()),
        };
        Ok(id)
    }

    /// Returns the prefetch limit of the consumers that start next: the last `basic.qos` for consumers, even if it has to wait for a
    /// connection. A `prefetch_count` of 0 is no limit.
    #[must_use]
    pub fn prefetch(&self) -> BasicQos {
        self.record.prefetch().cloned().unwrap_or_default()
    }

    /// Discards the reply to a request; see [`Channel::abandon`](crate::Channel::abandon).
    pub fn abandon(&mut self, request: RequestId) {
        let held = self.record.held.iter().position(|held| held.id == request);
        if let Some(held) = held.and_then(|index| self.record.held.remove(index)) {
            return self.abandon_held(&held.method);
        }
        match self.record.in_flight.find(request) {
            // The entity that the request declares exists regardless, so its reply is still needed. A prefetch limit that the broker
            // refuses later must not be set again.
            Some(sent)
                if sent.before.is_some()
                    || sent.note.as_ref().is_some_and(|note| note.is_topology()) =>
            {
                sent.abandoned = true;
                return;
            }
            Some(sent) => {
                if let Some(consumer) = self.record.consumers.remove(request.into()) {
                    (sent.abandoned, sent.leaving) = (true, Some(Box::new(consumer)));
                    if let Reach::Channel(channel) = &mut self.reach {
                        channel.abandon_start(request);
                    }
                    return;
                }
                self.record.in_flight.take(request);
            }
            // Its reply was emitted. If it has started a consumer, the session may be starting that again under the same number.
            None => return,
        }
        if let Reach::Channel(channel) = &mut self.reach {
            channel.abandon(request);
        }
    }

    /// Drops a request that was not sent yet. A cancel needs no connection: the consumer is simply not restored.
    fn abandon_held(&mut self, method: &Method) {
        let Method::BasicCancel(cancel) = method else { return };
        let tag = &cancel.consumer_tag;
        let Some(consumer) = self.record.consumers.named(tag).map(|own| own.id) else { return };
        let ended = ChannelEvent::ConsumerEnded { consumer };
        self.discard_consumer(consumer);
        self.events.push_back(Event::Channel(self.id, ended));
    }

    /// Cancels a consumer whose deliveries are no longer wanted; see
    /// [`Channel::discard_consumer`](crate::Channel::discard_consumer). Another consumer may have its tag by now: that is not
    /// affected. If its start has no reply yet, none is reported.
    pub fn discard_consumer(&mut self, consumer: ConsumerId) {
        let start = RequestId(consumer.get());
        if self.record.consumers.contains(consumer) && self.record.in_flight.contains(start) {
            // The broker may be about to generate its tag, so it is found by its start.
            return self.abandon(start);
        }
        self.record.held.retain(|held| ConsumerId::from(held.id) != consumer);
        let mut cancel_waits = false;
        let removed = self.record.consumers.remove(consumer);
        let at_broker = match &removed {
            Some(own) => {
                // A waiting cancel is for this consumer, and not for the next consumer with its tag.
                for held in &mut self.record.held {
                    match &mut held.method {
                        Method::BasicCancel(cancel)
                            if cancel.consumer_tag == own.consume.consumer_tag =>
                        {
                            cancel.consumer_tag = own.tag().clone();
                            cancel_waits = true;
                        }
                        _ => {}
                    }
                }
                own.tag().clone()
            }
            None => match self.record.cancelling.get(&consumer) {
                Some(at_broker) => at_broker.clone(),
                None => return,
            },
        };
        let channel = match &mut self.reach {
            Reach::Channel(channel) => Some(channel.reborrow()),
            // The consumer may have been restored already.
            Reach::Nowhere(connection) => connection.channel(self.id).ok(),
            Reach::Ended(_) => None,
        };
        let mut waits = false;
        if let Some(mut channel) = channel {
            // The session awaits the reply to each start of its own, so it must not be discarded with the consumer. When the
            // reply comes, the consumer is discarded, and a cancel that waits is sent.
            let is_own_start = !self.record.in_flight.contains(RequestId(consumer.get()));
            waits = (cancel_waits || is_own_start) && channel.is_starting(&at_broker);
            if !waits && channel.consumer(&at_broker) == Some(consumer) {
                channel.discard_consumer(&at_broker);
            }
        }
        match removed {
            Some(own) if waits => self.record.leaving.push(own),
            Some(own) => self.topology.unconsumed(&own),
            None => {}
        }
    }

    /// Returns whether the reply to a `basic.consume` is outstanding, for a consumer that is restored as well; see
    /// [`Channel::starts_consumer`](crate::Channel::starts_consumer).
    #[must_use]
    pub fn starts_consumer(&mut self) -> bool {
        match &mut self.reach {
            Reach::Channel(channel) => channel.starts_consumer(),
            reach => reach.restored(self.id).is_some_and(|channel| channel.starts_consumer()),
        }
    }

    /// Publishes a message; see [`Channel::publish`](crate::Channel::publish). If its outcome is lost with the connection, it is
    /// reported as [`ChannelEvent::Unconfirmed`].
    ///
    /// # Errors
    /// [`PublishError`]; nothing was queued, and no number assigned.
    #[inline(always)]
    pub fn publish(
        &mut self,
        route: &Route<'_>,
        properties: &impl EncodeProperties,
        body: impl Body,
    ) -> Result<Option<PublishSeq>, PublishError> {
        let mut channel = self.reach.publishing(self.id, self.record)?;
        let sent = channel.publish(&self.topology.redirect(route), properties, body)?;
        self.record.mode.work();
        Ok(sent.map(|sent| self.record.seqs.published(sent)))
    }

    /// Publishes a body with a prepared template; see [`publish`](Self::publish).
    ///
    /// # Errors
    /// [`PublishError`]; nothing was queued, and no number assigned.
    #[inline(always)]
    pub fn publish_prepared(
        &mut self,
        prepared: &Prepared,
        body: impl Body,
    ) -> Result<Option<PublishSeq>, PublishError> {
        let mut channel = self.reach.publishing(self.id, self.record)?;
        let sent = if prepared.is_to_queue() && self.topology.renames() {
            let route = prepared.route();
            channel.publish(&self.topology.redirect(&route), prepared.properties(), body)?
        } else {
            channel.publish_prepared(prepared, body)?
        };
        self.record.mode.work();
        Ok(sent.map(|sent| self.record.seqs.published(sent)))
    }

    /// Publishes a message and keeps it until it is confirmed. After a loss, kept messages are published again in their order, with
    /// the header `x-republished`. While there is no connection, messages are still accepted, as long as there is room. So each
    /// message arrives at least once. Receivers that must not process a message twice can compare message ids.
    ///
    /// The channel must have publisher confirms on.
    ///
    /// # Errors
    /// [`PublishError`]; nothing was queued, and no number assigned.
    pub fn publish_kept(
        &mut self,
        route: &Route<'_>,
        properties: &RawProperties,
        body: impl Body,
    ) -> Result<PublishSeq, PublishError> {
        if self.record.mode != Mode::Confirm {
            return Err(Misuse::NeedsConfirms.into());
        }
        let mut message = KeptMessage {
            seq: 0,
            exchange: ShortStr::named("exchange", route.exchange)?,
            routing_key: ShortStr::named("routing key", route.routing_key)?,
            mandatory: route.mandatory,
            immediate: route.immediate,
            properties: properties.clone(),
            body: body.into_bytes(),
            sent: false,
            here: false,
            expires: self.keep_for.map(Expires::After),
            coincidences: 0,
        };
        match self.send_kept(route, &mut message) {
            Ok(seq) => {
                message.seq = seq.get();
                self.budget.unarmed |= message.expires.is_some();
                self.budget.kept += message.size();
                self.record.kept.push(message);
                Ok(seq)
            }
            Err(error) => {
                message.discard(&mut self.budget.discard);
                Err(error)
            }
        }
    }

    fn send_kept(
        &mut self,
        route: &Route<'_>,
        message: &mut KeptMessage,
    ) -> Result<PublishSeq, PublishError> {
        self.check_kept_gate(route, &message.properties, message.body.len())?;
        match &mut self.reach {
            Reach::Channel(channel) if self.record.careful.is_none() => {
                let route = self.topology.redirect(route);
                let sent = channel.publish(&route, &message.properties, &message.body)?;
                (message.sent, message.here) = (true, true);
                debug_assert!(sent.is_some(), "the channel has publisher confirms");
                Ok(self.record.seqs.published(sent.ok_or(Misuse::NeedsConfirms)?))
            }
            // The message is sent later, in its order among the kept messages.
            Reach::Channel(_) | Reach::Nowhere(_) => Ok(self.record.seqs.reserve()),
            Reach::Ended(over) => Err(ended(self.id, *over).into()),
        }
    }

    /// Refuses requests on streams that would make RabbitMQ close the channel or connection. A queue is known to be a stream if the
    /// session has declared it, or if the consumer has a stream offset.
    fn check_stream(&self, method: &Method) -> Result<(), Misuse> {
        match method {
            Method::BasicConsume(consume) => {
                let begins = consume.arguments.get("x-stream-offset").is_some();
                if !begins && !self.is_stream(&consume.queue) {
                    return Ok(());
                }
                match (consume.no_ack, self.prefetch().prefetch_count) {
                    (true, _) => Err(Misuse::StreamNeedsAcks),
                    (false, 0) => Err(Misuse::StreamNeedsPrefetch),
                    _ => Ok(()),
                }
            }
            Method::BasicGet(get) if self.is_stream(&get.queue) => Err(Misuse::StreamHasNoGet),
            _ => Ok(()),
        }
    }

    fn is_stream(&self, queue: &ShortStr) -> bool {
        let last = queue.is_empty() && self.record.held.is_empty();
        let last = last.then(|| self.record.queue_declared_last().ok()).flatten();
        self.topology.is_stream(last.as_ref().unwrap_or(queue))
    }

    /// Closes the channel; see [`Channel::close`](crate::Channel::close). Without a connection, it is closed at once.
    pub fn close(&mut self, reply_code: ReplyCode, reply_text: &str) {
        self.close_over(reply_code, reply_text, (0, 0));
    }

    /// Closes the channel because of a method; see [`Channel::close_over`](crate::Channel::close_over).
    pub fn close_over(&mut self, reply_code: ReplyCode, reply_text: &str, cause: (u16, u16)) {
        if self.record.closing {
            return;
        }
        self.record.closing = true;
        match &mut self.reach {
            Reach::Channel(channel) => channel.close_over(reply_code, reply_text, cause),
            Reach::Nowhere(_) => {
                let (class_id, method_id) = cause;
                let reply_text = ShortStr::truncated(reply_text);
                let close = Close::local(Some(self.id), reply_code, reply_text);
                let close = Close { class_id, method_id, ..close };
                let closed = ChannelEvent::Closed(ChannelError::Closed(close));
                self.events.push_back(Event::Channel(self.id, closed));
                self.reach = Reach::Ended(None);
            }
            // `Closed` was emitted already.
            Reach::Ended(_) => {}
        }
    }

    /// Checks whether a message may be published right now. A closed channel passes this check: publishing returns the reason of the
    /// close.
    ///
    /// # Errors
    /// The gate that is shut.
    pub fn check_gate(&self) -> Result<(), Gate> {
        match &self.reach {
            Reach::Channel(_) if self.record.careful.is_some() => Err(Gate::Recovering),
            Reach::Channel(channel) => channel.check_gate(),
            Reach::Nowhere(_) => Err(Gate::Recovering),
            Reach::Ended(_) => Ok(()),
        }
    }

    /// Returns the number of bytes that such a message counts for against the limit of kept messages
    /// ([`Recovery::keep_max`](super::Recovery::keep_max)). `body` is the size of its body.
    #[must_use]
    pub fn kept_size(route: &Route<'_>, properties: &RawProperties, body: usize) -> usize {
        let names = route.exchange.len() + route.routing_key.len();
        KeptMessage::counted_size(names, properties, body)
    }

    /// Checks whether [`publish_kept`](Self::publish_kept) would accept such a message right now.
    ///
    /// # Errors
    /// The gate that is shut.
    pub fn check_kept_gate(
        &self,
        route: &Route<'_>,
        properties: &RawProperties,
        body: usize,
    ) -> Result<(), Gate> {
        let size = Self::kept_size(route, properties, body);
        match &self.reach {
            Reach::Ended(_) => Ok(()),
            _ if self.budget.kept > 0
                && self.budget.kept.saturating_add(size) > self.budget.max =>
            {
                Err(Gate::Kept)
            }
            Reach::Channel(channel) if self.record.careful.is_none() => channel.check_gate(),
            Reach::Channel(_) | Reach::Nowhere(_) => Ok(()),
        }
    }

    /// Returns whether the channel uses publisher confirms (`confirm.select`).
    #[must_use]
    pub const fn is_confirming(&self) -> bool {
        matches!(self.record.mode, Mode::Confirm)
    }

    /// Returns whether the channel is transactional (`tx.select`).
    #[must_use]
    pub const fn is_transactional(&self) -> bool {
        matches!(self.record.mode, Mode::Tx { .. })
    }

    /// Returns whether the broker accepts messages on the channel (`channel.flow`).
    #[must_use]
    pub const fn is_flowing(&self) -> bool {
        match &self.reach {
            Reach::Channel(channel) => channel.is_flowing(),
            Reach::Nowhere(_) | Reach::Ended(_) => false,
        }
    }

    /// Returns the number of unsettled deliveries, without those that are [held](crate::Oversized::Hold).
    #[must_use]
    pub fn unsettled(&self) -> usize {
        match &self.reach {
            Reach::Channel(channel) => channel.unsettled(),
            Reach::Nowhere(_) | Reach::Ended(_) => 0,
        }
    }

    /// Returns the number of unsettled deliveries that are [held](crate::Oversized::Hold), because the client does not accept them.
    #[must_use]
    pub fn held(&self) -> usize {
        match &self.reach {
            Reach::Channel(channel) => channel.held(),
            Reach::Nowhere(_) | Reach::Ended(_) => 0,
        }
    }

    /// Refuses to commit a transaction of which a part was lost, and rolls it back.
    fn check_transaction(&mut self, method: &Method) -> Result<(), CommandError> {
        let Mode::Tx { dirty, lost } = &mut self.record.mode else {
            return Ok(());
        };
        if !ends_transaction(method) {
            return Ok(());
        }
        *dirty = false;
        let commits = !*lost && matches!(method, Method::TxCommit(_));
        self.record.streams.end_transaction(commits);
        if !core::mem::take(lost) || matches!(method, Method::TxRollback(_)) {
            return Ok(());
        }
        match &mut self.reach {
            Reach::Channel(channel) => drop(channel.request(TxRollback {})?),
            // Acknowledgements on a channel that is being restored belong to the transaction.
            reach => {
                if let Some(mut channel) = reach.restored(self.id) {
                    channel.request(TxRollback {})?;
                }
            }
        }
        Err(Misuse::TransactionLost.into())
    }
}

pub(super) const fn ends_transaction(method: &Method) -> bool {
    matches!(method, Method::TxCommit(_) | Method::TxRollback(_))
}

fn starts(method: &Method, consumer_tag: &ShortStr) -> bool {
    matches!(method, Method::BasicConsume(consume) if consume.consumer_tag == *consumer_tag)
}

/// Refuses the tags of the channel's consumers. The connection would do so as well, but it does not know those that are paused,
/// were resumed under another tag, or wait for a queue that another connection holds.
fn check_consumer_tag(record: &ChannelRecord, method: &Method) -> Result<(), Misuse> {
    let Method::BasicConsume(consume) = method else { return Ok(()) };
    // An empty tag asks the broker for one.
    let tag = Some(&consume.consumer_tag).filter(|tag| !tag.is_empty());
    match tag.is_some_and(|tag| record.consumers.tagged(tag).next().is_some()) {
        true => Err(Misuse::ConsumerTagInUse),
        false => Ok(()),
    }
}

/// Checks a request that waits for a connection for errors that a connection would report at once.
fn check_held(record: &ChannelRecord, method: &Method) -> Result<(), Misuse> {
    let tag_taken = |tag: &ShortStr| {
        record.consumers.named(tag).is_some()
            || record.held.iter().any(|held| starts(&held.method, tag))
    };
    match (method, record.mode) {
        (Method::TxSelect(_), Mode::Confirm) | (Method::ConfirmSelect(_), Mode::Tx { .. }) => {
            Err(Misuse::TxAndConfirm)
        }
        (Method::BasicConsume(consume), _)
            if !consume.consumer_tag.is_empty() && tag_taken(&consume.consumer_tag) =>
        {
            Err(Misuse::ConsumerTagInUse)
        }
        _ => Ok(()),
    }
}
