//! One logical connection over many transports.
//!
//! A [`Session`] is driven like a [`Connection`]. When its transport is lost, it requests another one to a given node at a given
//! time, and restores its state on the new transport: exchanges, queues, bindings, channels with their modes and prefetch limits,
//! consumers, and kept unconfirmed messages. Numbers of channels, requests, consumers, publishes and deliveries stay the same, so the
//! application can continue to use them.
//!
//! # Driving a session
//!
//! In addition to driving a connection, the loop follows [`Session::poll_reconnect`]: [`Reconnect::Wait`], then
//! [`Reconnect::Connect`] to a node. It reports the result to [`handle_transport`](Session::handle_transport) or
//! [`handle_unreachable`](Session::handle_unreachable). While there is no transport, there are still events and timers.
//!
//! # What a loss means
//!
//! - Pending requests fail ([`ChannelEvent::Failed`]): their outcome is unknown. Requests that are made while there is no connection
//!   wait for the next one.
//! - Unconfirmed publishes fail with [`ChannelEvent::Unconfirmed`], except [kept](SessionChannel::publish_kept) messages, which are sent
//!   again.
//! - Unacknowledged deliveries are requeued and delivered again. Acknowledging the earlier deliveries fails with
//!   [`Misuse::StaleDelivery`].
//! - A transaction that has begun is rolled back, and its commit fails.
//! - Everything is restored in two round trips after the handshake, however much there is. Each declaration that the broker refuses
//!   costs another one. If the broker closes a channel over a consumer or another of its requests, the channel is opened again, and
//!   its requests are sent one by one. [`SessionEvent::Recovered`](crate::SessionEvent::Recovered) reports the result.
//!
//! If the connection is lost during recovery, recovery starts over.
//!
//! # Consumers that take nothing
//!
//! A loop that stops reading because one consumer takes nothing stops all consumers. [`Session::pause_consumer`] stops that
//! consumer only: its messages stay in the broker until [`Session::resume_consumer`].

mod channel;
mod channels;
mod context;
mod discard;
mod endings;
mod nodes;
mod noted;
mod outage;
mod partial;
mod pause;
mod phase;
mod policy;
mod reconnect;
mod record;
mod recovery;
mod reopen;
mod report;
mod resend;
mod secret;
mod topology;

use alloc::collections::VecDeque;
use alloc::sync::Arc;
use alloc::vec::Vec;
use core::fmt;
use core::ops::RangeInclusive;

use bytes::BytesMut;

use channel::Reach;
pub use channel::SessionChannel;
use channels::Channels;
use context::Context;
use discard::Discard;
pub use discard::Discarded;
use phase::Phase;
pub use policy::{Locked, OnCancel, Recovery};
pub use reconnect::Reconnect;
use record::ChannelRecord;
use record::kept::Budget;
pub use report::{Entity, RecoveryReport};
use secret::Unanswered;
use topology::Topology;

use crate::method::Method;
use crate::time::Instant;
use crate::wire::ShortStr;
use crate::{
    ChannelError, ChannelEvent, ChannelId, ClientConfig, Close, Connection, ConnectionError,
    ConsumerId, Delivery, Event, GetReply, Initiator, Misuse, Negotiated, OpenChannelError,
    PublishSeq, Reply, ReplyCode, RequestId, Settlement, TimerReason, Transmit,
};

/// One logical connection over many transports. See the [module](self).
pub struct Session {
    /// The configuration of the next connection.
    config: Arc<ClientConfig>,
    unanswered: Unanswered,
    phase: Phase,
    context: Context,
}

impl Session {
    /// Creates a session on a transport. Without [`recover_with`](Self::recover_with), the session ends with this connection.
    #[must_use]
    pub fn new(config: Arc<ClientConfig>, now: Instant) -> Self {
        let context = Context {
            connection: Connection::client(config.clone(), now),
            channels: Channels::default(),
            topology: Topology::default(),
            budget: Budget {
                kept: 0,
                max: Recovery::default().keep_max,
                discard: Discard::default(),
                unarmed: false,
                expires_at: None,
            },
            recovering: None,
            reopening: Vec::new(),
            turn: None,
            events: VecDeque::new(),
            now,
        };
        Self { config, unanswered: Unanswered::default(), phase: Phase::Connected, context }
    }

    /// Handles all complete frames in `input` and removes them; see [`Connection::handle_input`].
    ///
    /// # Errors
    /// The reason why the session is closed, if it is.
    pub fn handle_input(
        &mut self,
        now: Instant,
        input: &mut BytesMut,
    ) -> Result<(), ConnectionError> {
        self.context.now = now;
        // If this connection fails, an event reports the reason.
        let _lost = self.context.connection.handle_input(now, input);
        self.check()
    }

    /// Reports the end of the transport.
    pub fn handle_eof(&mut self, now: Instant) {
        self.context.now = now;
        self.discard_transmit();
        self.context.connection.handle_eof(now);
    }

    /// Reports an error of the transport; see [`Connection::handle_transport_error`].
    #[cfg(feature = "std")]
    pub fn handle_transport_error(&mut self, now: Instant, error: &std::io::Error) {
        self.context.now = now;
        self.discard_transmit();
        self.context.connection.handle_transport_error(now, error);
    }

    /// Reports an error of a transport that does not use `std::io` errors.
    pub fn handle_transport_failure(&mut self, now: Instant, reason: &str) {
        self.context.now = now;
        self.discard_transmit();
        self.context.connection.handle_transport_failure(reason);
    }

    /// Reports that the driver of the session was dropped.
    pub fn handle_driver_gone(&mut self) {
        self.context.connection.handle_driver_gone();
        if self.phase.outage().is_some() {
            self.end(ConnectionError::DriverGone);
        }
    }

    /// Handles due timers. Calling this early or late is harmless.
    pub fn handle_timeout(&mut self, now: Instant) {
        self.context.now = now;
        self.context.connection.handle_timeout(now);
        self.context.expire_kept();
        self.end_attempt_in_time();
        self.give_up_in_time();
        self.retry_locked();
        self.reopen_in_time();
    }

    /// Reports that reading from the transport was suspended or resumed; see [`Connection::handle_reading`].
    pub fn handle_reading(&mut self, now: Instant, reading: bool) {
        self.context.connection.handle_reading(now, reading);
    }

    /// Returns whether the peer seems silent; see [`Connection::is_in_doubt`].
    #[must_use]
    pub fn is_in_doubt(&self) -> bool {
        self.context.connection.is_in_doubt()
    }

    /// Reports a read that found nothing; see [`Connection::handle_no_input`].
    pub fn handle_no_input(&mut self, now: Instant) {
        self.context.now = now;
        self.context.connection.handle_no_input(now);
    }

    /// Reports how much of the taken output is written; see [`Connection::handle_written`].
    #[inline]
    pub fn handle_written(&mut self, now: Instant, left: usize) {
        self.context.connection.handle_written(now, left);
    }

    /// Opens a channel. Without a connection, the channel is opened once there is one.
    ///
    /// # Errors
    /// [`OpenChannelError`].
    pub fn open_channel(&mut self) -> Result<ChannelId, OpenChannelError> {
        self.check().map_err(OpenChannelError::Connection)?;
        let channel_max = self.channel_max();
        for number in 1..=channel_max {
            match self.open_channel_numbered(number) {
                // The session may have forgotten a channel that the connection is still closing.
                Err(OpenChannelError::InUse { .. }) => {}
                result => return result,
            }
        }
        Err(OpenChannelError::Exhausted { channel_max })
    }

    /// Opens a channel with the given number.
    ///
    /// # Errors
    /// [`OpenChannelError`].
    pub fn open_channel_numbered(&mut self, number: u16) -> Result<ChannelId, OpenChannelError> {
        self.check().map_err(OpenChannelError::Connection)?;
        // The connection may not know this channel: one that was closed without a connection exists until its `Closed` event is
        // polled.
        if self.context.channels.get(ChannelId(number)).is_some() {
            return Err(OpenChannelError::InUse { number });
        }
        if self.has_connection() {
            return self
                .context
                .connection
                .open_channel_numbered(number)
                .map(|id| self.opened(id, true));
        }
        let channel_max = self.channel_max();
        if number == 0 || number > channel_max {
            return Err(OpenChannelError::NoSuchNumber { number, channel_max });
        }
        Ok(self.opened(ChannelId(number), false))
    }

    /// Returns a short-lived view of a channel, for issuing commands.
    ///
    /// # Errors
    /// [`Misuse::NoSuchChannel`], if the channel is not open, or its `Closed` event was polled.
    #[inline]
    pub fn channel(&mut self, id: ChannelId) -> Result<SessionChannel<'_>, Misuse> {
        let cx = &mut self.context;
        let record = cx.channels.get_mut(id).ok_or_else(|| Misuse::NoSuchChannel(id.get()))?;
        let reach = match (record.attached, &self.phase) {
            (true, _) => Reach::Channel(cx.connection.channel(id)?),
            (false, Phase::Ended(error)) => Reach::Ended(Some(error)),
            (false, _) if record.closing => Reach::Ended(None),
            (false, _) => Reach::Nowhere(&mut cx.connection),
        };
        Ok(SessionChannel {
            id,
            record,
            topology: &mut cx.topology,
            budget: &mut cx.budget,
            events: &mut cx.events,
            reach,
            now: cx.now,
            recovers: true,
            keep_for: None,
        })
    }

    /// Sends a heartbeat now, in addition to the automatic ones.
    pub fn send_heartbeat(&mut self) {
        self.context.connection.send_heartbeat();
    }

    /// Closes the session for good.
    pub fn close(&mut self, now: Instant, reply_code: ReplyCode, reply_text: &str) {
        self.context.now = now;
        self.context.recovering = None;
        if !self.has_transport() {
            let close = Close::local(None, reply_code, ShortStr::truncated(reply_text));
            return self.end(ConnectionError::Closed(close));
        }
        self.context.connection.close(now, reply_code, reply_text);
    }

    /// From now on, the session collects the bodies, properties and lost connections that it would otherwise drop, for
    /// [`take_discarded`](Self::take_discarded). Dropping a body may run the application's code
    /// ([`Bytes::from_owner`](bytes::Bytes::from_owner)), which must not happen under a lock that protects the session.
    pub fn hold_discarded(&mut self) {
        self.context.budget.discard.hold();
    }

    /// Takes the [collected](Self::hold_discarded) values, if there are any. Call this after each `handle_*` call.
    #[inline]
    pub fn take_discarded(&mut self) -> Option<Discarded> {
        self.context.budget.discard.take()
    }

    /// Discards the queued output, which can no longer be written.
    fn discard_transmit(&mut self) {
        self.context.budget.discard.bodies(self.context.connection.discard_transmit());
    }

    /// Returns bytes to write, if there are any; see [`Connection::poll_transmit`].
    pub fn poll_transmit(&mut self, now: Instant) -> Option<&mut Transmit> {
        self.context.connection.poll_transmit(now)
    }

    /// Moves all bytes to write into `transmit`; see [`Connection::take_transmit`].
    pub fn take_transmit(&mut self, now: Instant, transmit: &mut Transmit) -> bool {
        self.context.connection.take_transmit(now, transmit)
    }

    /// Returns the next event.
    pub fn poll_event(&mut self) -> Option<Event> {
        loop {
            if let Some(event) = self.context.events.pop_front() {
                if let Event::Channel(id, ChannelEvent::Closed(_)) = &event {
                    self.forget_channel(*id);
                }
                return Some(event);
            }
            if let Some((id, consumer, delivery)) = self.poll_delivery() {
                return Some(Event::Channel(id, ChannelEvent::Delivery { consumer, delivery }));
            }
            let unconfirmed = match self.context.connection.peek_event()? {
                Event::Channel(id, ChannelEvent::Closed(_)) => {
                    let id = *id;
                    self.context.connection.unconfirmed(id)
                }
                _ => Vec::new(),
            };
            let event = self.context.connection.poll_event()?;
            if let Some(event) = self.take(event, unconfirmed) {
                return Some(event);
            }
        }
    }

    /// Returns the next event, if it is a delivery that can be returned at once. [`poll_event`](Self::poll_event) returns all
    /// deliveries; this method is faster.
    #[inline]
    pub fn poll_delivery(&mut self) -> Option<(ChannelId, ConsumerId, Delivery)> {
        if !self.context.events.is_empty() {
            return None;
        }
        let Event::Channel(id, ChannelEvent::Delivery { consumer, delivery }) =
            self.context.connection.peek_event()?
        else {
            return None;
        };
        let record = self.context.channels.get_mut(*id).filter(|own| own.orphans.is_empty())?;
        if record.streams.watches(*consumer) {
            return None;
        }
        delivery.renumber(|tag| record.tags.received(tag));
        self.context.connection.poll_delivery()
    }

    /// Returns when to call [`handle_timeout`](Self::handle_timeout), and the purpose of that timer.
    #[must_use]
    pub fn poll_timeout(&self) -> Option<(Instant, TimerReason)> {
        let own = self.recovery_timer().map(|at| (at, TimerReason::Recovery));
        let connection = self.context.connection.poll_timeout();
        own.into_iter().chain(connection).min_by_key(|(at, _)| *at)
    }

    /// Checks that the session is not closed.
    ///
    /// # Errors
    /// The reason why the session is closed.
    pub fn check(&self) -> Result<(), ConnectionError> {
        match (&self.phase, self.context.connection.check()) {
            (Phase::Ended(error), _) => Err(error.clone()),
            (phase, Err(error)) if phase.is_connected() && !self.recovers_from(&error) => {
                Err(error)
            }
            _ => Ok(()),
        }
    }

    /// Returns whether the session is connected and fully restored.
    #[must_use]
    pub const fn is_open(&self) -> bool {
        self.phase.is_connected() && self.context.connection.is_open()
    }

    /// Returns the configuration that connections are made with at present.
    #[must_use]
    pub fn config(&self) -> &ClientConfig {
        &self.config
    }

    /// Returns whether the present transport is no longer used and can be closed. The session may continue with another transport.
    #[must_use]
    pub fn is_disconnected(&self) -> bool {
        self.context.connection.check().is_err()
    }

    /// Returns whether the outgoing buffer is full; see [`Connection::is_full`].
    #[must_use]
    pub fn is_full(&self) -> bool {
        self.context.connection.is_full()
    }

    /// Returns whether the broker has blocked publishing (`connection.blocked`).
    #[must_use]
    pub const fn is_blocked(&self) -> bool {
        self.context.connection.is_blocked()
    }

    /// Returns whether the session is waiting for the peer; see [`Connection::awaits_peer`].
    #[must_use]
    pub fn awaits_peer(&self) -> bool {
        self.context.connection.awaits_peer()
    }

    /// Returns the negotiated limits and the peer's properties, once the first handshake has completed.
    #[must_use]
    pub const fn negotiated(&self) -> Option<&Arc<Negotiated>> {
        self.context.connection.negotiated()
    }

    /// Returns the number of channels.
    #[must_use]
    pub fn channel_count(&self) -> usize {
        self.context.channels.iter().count()
    }

    /// Returns the present name of a queue, from a name that the broker had generated for it. Other names are returned unchanged.
    #[must_use]
    pub fn current_name<'a>(&'a self, queue: &'a ShortStr) -> &'a ShortStr {
        self.context.topology.current(queue)
    }

    /// Returns the number of bytes that wait to be written.
    #[must_use]
    pub fn queued(&self) -> usize {
        self.context.connection.queued()
    }

    /// Returns how many more bytes can be queued before the outgoing buffer [is full](Self::is_full).
    #[must_use]
    pub fn room(&self) -> usize {
        self.config.limits.transmit_high_water.max(1).saturating_sub(self.queued())
    }

    /// Returns the number of bytes of kept messages.
    #[must_use]
    pub const fn kept(&self) -> usize {
        self.context.budget.kept
    }

    /// Returns how many more bytes of messages can be kept. While none is kept, one message of any size can be.
    #[must_use]
    pub const fn kept_room(&self) -> usize {
        match self.context.budget.kept {
            0 => usize::MAX,
            kept => self.context.budget.max.saturating_sub(kept),
        }
    }

    /// Returns whether channels can be opened on the connection right now, rather than with the next recovery.
    fn has_connection(&self) -> bool {
        match self.phase {
            // The loss of the connection may not have been polled yet.
            Phase::Connected | Phase::Repairing(_) => self.context.connection.check().is_ok(),
            Phase::Restoring(..) => self.context.connection.is_open(),
            // The handshake may have completed without its event being polled. Then the channels from before the loss are not open
            // yet, and their numbers are free on the connection.
            Phase::Lost(_) | Phase::Ended(_) => false,
        }
    }

    fn channel_max(&self) -> u16 {
        self.negotiated().map_or(self.config.limits.channel_max, |agreed| agreed.channel_max)
    }

    fn opened(&mut self, id: ChannelId, attached: bool) -> ChannelId {
        self.context.channels.insert(id, ChannelRecord { attached, ..ChannelRecord::default() });
        id
    }

    fn forget_channel(&mut self, id: ChannelId) {
        if !self.context.forget_channel(id) {
            return;
        }
        if let Some(repair) = self.phase.repair() {
            repair.forget(id);
        }
        // The repair may have waited for this channel alone.
        self.advance();
    }

    /// Handles an event of the connection. Returns the event for the application, if there is one.
    fn take(
        &mut self,
        event: Event,
        unconfirmed: Vec<RangeInclusive<PublishSeq>>,
    ) -> Option<Event> {
        match event {
            Event::Channel(id, ChannelEvent::Closed(error)) => {
                self.take_closed(id, error, &unconfirmed)
            }
            Event::Channel(id, event) => self.take_channel(id, event),
            Event::Opened(_) if self.phase.outage().is_some() => {
                self.restore();
                None
            }
            Event::Closed(error) => self.take_end(error),
            Event::SecretUpdated => {
                self.secret_updated();
                Some(Event::SecretUpdated)
            }
            other => Some(other),
        }
    }

    fn take_channel(&mut self, id: ChannelId, mut event: ChannelEvent) -> Option<Event> {
        let Some(record) = self.context.channels.get_mut(id) else {
            if let ChannelEvent::Reply { request, reply } = event {
                self.take_restored(id, request, &reply);
            }
            return None;
        };
        match &mut event {
            ChannelEvent::Delivery { consumer, delivery } => {
                let tag = delivery.delivery_tag();
                delivery.renumber(|tag| record.tags.received(tag));
                if record.streams.watches(*consumer) {
                    record.streams.delivered(*consumer, delivery);
                }
                if record.orphans.contains(consumer) {
                    if let Ok(mut channel) = self.context.connection.channel(id) {
                        // This fails only if the delivery needs no acknowledgement. No other code settles it.
                        let settlement = match delivery.stream_offset() {
                            Some(_) => Settlement::Ack,
                            None => Settlement::Nack { requeue: true },
                        };
                        let _settled = channel.settle_apart(tag, settlement);
                    }
                    return None;
                }
            }
            ChannelEvent::Unusable { consumer, delivery_tag, .. } => {
                let tag = *delivery_tag;
                *delivery_tag = record.tags.received(tag);
                if record.orphans.contains(consumer) {
                    if let Ok(mut channel) = self.context.connection.channel(id) {
                        // This fails only if the message needs no acknowledgement, or was requeued or rejected already.
                        let _settled =
                            channel.settle_apart(tag, Settlement::Nack { requeue: true });
                    }
                }
            }
            // A reopened channel is reported by `Restored` instead.
            ChannelEvent::Opened if record.opened => return None,
            ChannelEvent::Opened => record.opened = true,
            ChannelEvent::Reply { request, reply } => {
                let Some(sent) = record.in_flight.take(*request) else {
                    let known = self.context.judged(*request)
                        || self.handle_paused(id, *request)
                        || self.take_restored(id, *request, reply);
                    if !known {
                        self.context.handle_unwanted(id, *request, reply);
                    }
                    return None;
                };
                match reply {
                    Reply::Message(GetReply::Message { delivery, .. }) => {
                        delivery.renumber(|tag| record.tags.received(tag));
                    }
                    Reply::Message(GetReply::Unusable { delivery_tag, .. }) => {
                        *delivery_tag = record.tags.received(*delivery_tag);
                    }
                    Reply::Message(GetReply::Empty) | Reply::Method(_) => {}
                }
                match reply {
                    Reply::Method(Method::BasicConsumeOk(_)) => {
                        record.streams.started((*request).into(), self.context.now);
                    }
                    Reply::Method(Method::TxCommitOk(_)) => record.streams.committed(),
                    _ => {}
                }
                if let Some(note) = sent.note {
                    let consumer = (*request).into();
                    note.learn(
                        record,
                        &mut self.context.topology,
                        consumer,
                        sent.recovers,
                        Some(reply),
                    );
                }
                if sent.abandoned {
                    return None;
                }
            }
            ChannelEvent::Confirmed { publishes, ack } => {
                let ack = *ack;
                record.seqs.of(publishes, |publishes| {
                    self.context.budget.freed(|discard| record.kept.settled(&publishes, discard));
                    let event = ChannelEvent::Confirmed { publishes, ack };
                    self.context.events.push_back(Event::Channel(id, event));
                });
                if record.careful.is_some() {
                    self.context.resend(id);
                }
                return self.context.events.pop_front();
            }
            ChannelEvent::Returned { publish: Some(publish), .. } => {
                *publish = PublishSeq(record.seqs.one(publish.get()));
                // The outcome is known. If the message were sent again after a loss, it might reach a queue although it was
                // reported as returned.
                let seq = publish.get();
                self.context.budget.freed(|discard| record.kept.give_up(seq, discard));
            }
            ChannelEvent::ConsumerEnded { consumer } => {
                record.cancelling.remove(consumer);
            }
            ChannelEvent::Cancelled { consumer } => {
                let consumer = *consumer;
                return (!self.resubscribe(id, consumer)).then_some(Event::Channel(id, event));
            }
            _ => {}
        }
        Some(Event::Channel(id, event))
    }

    /// Handles the reply to a request of the repair. Returns whether it is one.
    fn take_restored(&mut self, id: ChannelId, request: RequestId, reply: &Reply) -> bool {
        let cx = &mut self.context;
        let repair = self.phase.repair();
        let known = repair.is_some_and(|repair| repair.handle_reply(cx, id, request, reply));
        if known {
            cx.send_late_cancels(id);
            self.advance();
        }
        known
    }

    /// Handles the end of a channel.
    fn take_closed(
        &mut self,
        id: ChannelId,
        error: ChannelError,
        unconfirmed: &[RangeInclusive<PublishSeq>],
    ) -> Option<Event> {
        match &error {
            ChannelError::Connection(lost) if self.recovers_from(lost) => {
                if self.context.interrupt(id, &error, unconfirmed) {
                    return None;
                }
            }
            ChannelError::Closed(close) if close.by == Initiator::Peer => {
                if self.reopens(id, close, &error, unconfirmed) {
                    return None;
                }
            }
            // The application closed the channel, or nothing is recovered.
            ChannelError::Closed(_)
            | ChannelError::Connection(_)
            | ChannelError::NotRestored { .. } => {}
        }
        if self.context.channels.get(id).is_none() {
            // The number is free again. The repair may have waited for one.
            if let Some(repair) = self.phase.repair() {
                repair.forget(id);
            }
            self.advance();
            return None;
        }
        self.forget_channel(id);
        Some(Event::Channel(id, ChannelEvent::Closed(error)))
    }

    /// The broker has closed a channel. Returns whether it is reopened.
    fn reopens(
        &mut self,
        id: ChannelId,
        close: &Close,
        error: &ChannelError,
        unconfirmed: &[RangeInclusive<PublishSeq>],
    ) -> bool {
        let cx = &mut self.context;
        let repair = self.phase.repair();
        if repair.is_some_and(|own| own.handle_channel_closed(cx, id, error, unconfirmed)) {
            self.advance();
            return true;
        }
        let comes_back = cx.channels.get(id).is_some_and(|record| !record.closing);
        let reopens = comes_back && (cx.hold_locked(id, close) || cx.reopens_channels());
        if reopens {
            self.reopen(id, error, unconfirmed);
        }
        reopens
    }
}

/// For log lines: the state of the session, without messages and pending requests.
impl fmt::Debug for Session {
    fn fmt(&self, f: &mut fmt::Formatter<'_>) -> fmt::Result {
        let phase = match &self.phase {
            Phase::Connected | Phase::Repairing(_) => "connected",
            Phase::Lost(_) | Phase::Restoring(..) => "recovering",
            Phase::Ended(_) => "closed",
        };
        f.debug_struct("Session")
            .field("phase", &phase)
            .field("channels", &self.channel_count())
            .field("kept", &self.context.budget.kept)
            .field("connection", &self.context.connection)
            .finish_non_exhaustive()
    }
}
