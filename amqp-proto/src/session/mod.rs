//! One logical connection over many transports.
//!
//! A [`Session`] is driven like a [`Connection`]. When its transport is lost, it requests another one to a given node at a given
//! time, and restores its state on the new transport: exchanges, queues, bindings, channels with their modes and prefetch limits,
//! consumers, and kept unconfirmed messages. Numbers of channels, requests, consumers, publishes and deliveries stay the same, so the
//! application can continue to use them.
//!
//! # Driving a session
//!
//! In addition to driving a connection, the loop follows [`Session::poll_dial`]: [`Dial::Wait`], then [`Dial::Connect`] to a node. It
//! reports the result to [`handle_transport`](Session::handle_transport) or [`handle_unreachable`](Session::handle_unreachable).
//! While there is no transport, there are still events and timers.
//!
//! # What a loss means
//!
//! - Pending requests fail ([`ChannelEvent::Failed`]): their outcome is unknown. Requests that are made while there is no connection
//!   wait for the next one.
//! - Unconfirmed publishes fail with [`ChannelEvent::Unconfirmed`], except [kept](Channel::publish_kept) messages, which are sent
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

mod blame;
mod channel;
mod consumers;
mod declare;
mod discard;
mod exclusive;
mod in_flight;
mod kept;
mod nodes;
mod noted;
mod numbering;
mod outage;
mod pause;
mod policy;
mod record;
mod reopen;
mod replay;
mod report;
mod restore;
mod secret;
mod steps;
mod streams;
mod topology;
mod turns;

use alloc::boxed::Box;
use alloc::collections::VecDeque;
use alloc::sync::Arc;
use alloc::vec::Vec;
use core::fmt;

use bytes::BytesMut;

pub use channel::Channel;
use channel::{Budget, Reach};
use discard::Discard;
pub use discard::Discarded;
pub use outage::Dial;
use outage::{Outage, Recovering};
use policy::LEAST_DELAY;
pub use policy::{Locked, OnCancel, Recovery};
use record::ChannelRecord;
use replay::Replay;
pub use report::{Entity, RecoveryReport};
use secret::Unanswered;
use topology::Topology;
use turns::Turn;

use crate::method::Method;
use crate::time::Instant;
use crate::wire::ShortStr;
use crate::{
    ChannelEvent, ChannelId, ClientConfig, Close, Connection, ConnectionError, ConsumerId,
    Delivery, Event, GetReply, Misuse, Negotiated, OpenChannelError, PublishSeq, Reply, ReplyCode,
    Settlement, TimerReason, Transmit,
};

/// One logical connection over many transports. See the [module](self).
pub struct Session {
    /// The configuration of the next connection.
    config: Arc<ClientConfig>,
    unanswered: Unanswered,
    /// The state of recovery, if it is on.
    recovering: Option<Recovering>,
    phase: Phase,
    /// The present connection, or the one that was lost.
    connection: Connection,
    /// Channel `n` has index `n - 1`.
    channels: Vec<Option<Box<ChannelRecord>>>,
    topology: Topology,
    budget: Budget,
    /// The state that is being restored.
    replay: Option<Box<Replay>>,
    /// Channels that the broker has closed, and when to reopen them.
    reopening: Vec<(Instant, ChannelId)>,
    /// The careful channel that may close the connection at present.
    turn: Option<Turn>,
    /// Events to emit before the connection's own.
    events: VecDeque<Event>,
    /// The latest time that the session was given.
    now: Instant,
}

#[derive(Debug)]
enum Phase {
    /// Connected, or making the first connection.
    Up,
    /// Disconnected, or reconnected but not fully restored.
    Down(Box<Outage>),
    Over(ConnectionError),
}

impl Session {
    /// Creates a session on a transport. Without [`recover_with`](Self::recover_with), the session ends with this connection.
    #[must_use]
    pub fn new(config: Arc<ClientConfig>, now: Instant) -> Self {
        Self {
            connection: Connection::client(config.clone(), now),
            config,
            unanswered: Unanswered::default(),
            recovering: None,
            phase: Phase::Up,
            channels: Vec::new(),
            topology: Topology::default(),
            budget: Budget {
                kept: 0,
                max: Recovery::default().keep_max,
                discard: Discard::default(),
                unarmed: false,
                expires_at: None,
            },
            replay: None,
            reopening: Vec::new(),
            turn: None,
            events: VecDeque::new(),
            now,
        }
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
        self.now = now;
        // If this connection fails, an event reports the reason.
        let _lost = self.connection.handle_input(now, input);
        self.check()
    }

    /// Reports the end of the transport.
    pub fn handle_eof(&mut self, now: Instant) {
        self.now = now;
        self.discard_transmit();
        self.connection.handle_eof(now);
    }

    /// Reports an error of the transport; see [`Connection::handle_transport_error`].
    #[cfg(feature = "std")]
    pub fn handle_transport_error(&mut self, now: Instant, error: &std::io::Error) {
        self.now = now;
        self.discard_transmit();
        self.connection.handle_transport_error(now, error);
    }

    /// Reports an error of a transport that does not use `std::io` errors.
    pub fn handle_transport_failure(&mut self, now: Instant, reason: &str) {
        self.now = now;
        self.discard_transmit();
        self.connection.handle_transport_failure(reason);
    }

    /// Reports that the driver of the session was dropped.
    pub fn handle_driver_gone(&mut self) {
        self.connection.handle_driver_gone();
        if matches!(self.phase, Phase::Down(_)) {
            self.end(ConnectionError::DriverGone);
        }
    }

    /// Handles due timers. Calling this early or late is harmless.
    pub fn handle_timeout(&mut self, now: Instant) {
        self.now = now;
        self.connection.handle_timeout(now);
        self.expire_kept();
        self.end_attempt_in_time();
        self.give_up_in_time();
        self.retry_locked();
        self.reopen_in_time();
    }

    /// Reports that reading from the transport was suspended or resumed; see [`Connection::handle_reading`].
    pub fn handle_reading(&mut self, now: Instant, reading: bool) {
        self.connection.handle_reading(now, reading);
    }

    /// Returns whether the peer seems silent; see [`Connection::is_in_doubt`].
    #[must_use]
    pub fn is_in_doubt(&self) -> bool {
        self.connection.is_in_doubt()
    }

    /// Reports a read that found nothing; see [`Connection::handle_no_input`].
    pub fn handle_no_input(&mut self, now: Instant) {
        self.now = now;
        self.connection.handle_no_input(now);
    }

    /// Reports how much of the taken output is written; see [`Connection::handle_written`].
    #[inline]
    pub fn handle_written(&mut self, now: Instant, left: usize) {
        self.connection.handle_written(now, left);
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
        if self.record(ChannelId(number)).is_some() {
            return Err(OpenChannelError::InUse { number });
        }
        if self.has_connection() {
            return self.connection.open_channel_numbered(number).map(|id| self.opened(id, true));
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
    pub fn channel(&mut self, id: ChannelId) -> Result<Channel<'_>, Misuse> {
        let record = slot(&mut self.channels, id).ok_or_else(|| Misuse::NoSuchChannel(id.get()))?;
        let reach = match (record.attached, &self.phase) {
            (true, _) => Reach::Channel(self.connection.channel(id)?),
            (false, Phase::Over(error)) => Reach::Ended(Some(error)),
            (false, _) if record.closing => Reach::Ended(None),
            (false, _) => Reach::Nowhere(&mut self.connection),
        };
        Ok(Channel {
            id,
            record,
            topology: &mut self.topology,
            budget: &mut self.budget,
            events: &mut self.events,
            reach,
            now: self.now,
            recovers: true,
            keep_for: None,
        })
    }

    /// Sends a heartbeat now, in addition to the automatic ones.
    pub fn send_heartbeat(&mut self) {
        self.connection.send_heartbeat();
    }

    /// Closes the session for good.
    pub fn close(&mut self, now: Instant, reply_code: ReplyCode, reply_text: &str) {
        self.now = now;
        self.recovering = None;
        if !self.has_transport() {
            let close = Close::local(reply_code, ShortStr::truncated(reply_text));
            return self.end(ConnectionError::Closed(close));
        }
        self.connection.close(now, reply_code, reply_text);
    }

    /// From now on, the session collects the bodies, properties and lost connections that it would otherwise drop, for
    /// [`take_discarded`](Self::take_discarded). Dropping a body may run the application's code
    /// ([`Bytes::from_owner`](bytes::Bytes::from_owner)), which must not happen under a lock that protects the session.
    pub fn hold_discarded(&mut self) {
        self.budget.discard.hold();
    }

    /// Takes what was [collected](Self::hold_discarded), if there is anything. Call this after each `handle_*` call.
    #[inline]
    pub fn take_discarded(&mut self) -> Option<Discarded> {
        self.budget.discard.take()
    }

    /// Discards the queued output, which can no longer be written.
    fn discard_transmit(&mut self) {
        self.budget.discard.bodies(self.connection.discard_transmit());
    }

    /// Returns bytes to write, if there are any; see [`Connection::poll_transmit`].
    pub fn poll_transmit(&mut self, now: Instant) -> Option<&mut Transmit> {
        self.connection.poll_transmit(now)
    }

    /// Moves all bytes to write into `transmit`; see [`Connection::take_transmit`].
    pub fn take_transmit(&mut self, now: Instant, transmit: &mut Transmit) -> bool {
        self.connection.take_transmit(now, transmit)
    }

    /// Returns the next event.
    pub fn poll_event(&mut self) -> Option<Event> {
        loop {
            if let Some(event) = self.events.pop_front() {
                if let Event::Channel(id, ChannelEvent::Closed(_)) = &event {
                    self.forget_channel(*id);
                }
                return Some(event);
            }
            if let Some((id, consumer, delivery)) = self.poll_delivery() {
                return Some(Event::Channel(id, ChannelEvent::Delivery { consumer, delivery }));
            }
            let unconfirmed = match self.connection.peek_event()? {
                Event::Channel(id, ChannelEvent::Closed(_)) => {
                    let id = *id;
                    self.connection.unconfirmed(id)
                }
                _ => Vec::new(),
            };
            let event = self.connection.poll_event()?;
            if let Some(event) = self.take(event, unconfirmed) {
                return Some(event);
            }
        }
    }

    /// Returns the next event, if it is a delivery that can be returned at once. [`poll_event`](Self::poll_event) returns all
    /// deliveries; this method is faster.
    #[inline]
    pub fn poll_delivery(&mut self) -> Option<(ChannelId, ConsumerId, Delivery)> {
        if !self.events.is_empty() {
            return None;
        }
        let Event::Channel(id, ChannelEvent::Delivery { consumer, delivery }) =
            self.connection.peek_event()?
        else {
            return None;
        };
        let record = slot(&mut self.channels, *id).filter(|record| record.orphans.is_empty())?;
        if record.streams.watches(*consumer) {
            return None;
        }
        delivery.renumber(|tag| record.tags.received(tag));
        self.connection.poll_delivery()
    }

    /// Returns when to call [`handle_timeout`](Self::handle_timeout), and the purpose of that timer.
    #[must_use]
    pub fn poll_timeout(&self) -> Option<(Instant, TimerReason)> {
        let own = self.recovery_timer().map(|at| (at, TimerReason::Recovery));
        let connection = self.connection.poll_timeout();
        own.into_iter().chain(connection).min_by_key(|(at, _)| *at)
    }

    /// Checks that the session is not closed.
    ///
    /// # Errors
    /// The reason why the session is closed.
    pub fn check(&self) -> Result<(), ConnectionError> {
        match (&self.phase, self.connection.check()) {
            (Phase::Over(error), _) => Err(error.clone()),
            (Phase::Up, Err(error)) if !self.recovers_from(&error) => Err(error),
            _ => Ok(()),
        }
    }

    /// Returns whether the session is connected and fully restored.
    #[must_use]
    pub const fn is_open(&self) -> bool {
        matches!(self.phase, Phase::Up) && self.connection.is_open()
    }

    /// Returns the configuration that connections are made with at present.
    #[must_use]
    pub fn config(&self) -> &ClientConfig {
        &self.config
    }

    /// Returns whether the present transport is no longer used and can be closed. The session may continue with another transport.
    #[must_use]
    pub fn is_disconnected(&self) -> bool {
        self.connection.check().is_err()
    }

    /// Returns whether the outgoing buffer is full; see [`Connection::is_full`].
    #[must_use]
    pub fn is_full(&self) -> bool {
        self.connection.is_full()
    }

    /// Returns whether the broker has blocked publishing (`connection.blocked`).
    #[must_use]
    pub const fn is_blocked(&self) -> bool {
        self.connection.is_blocked()
    }

    /// Returns whether the session is waiting for the peer; see [`Connection::awaits_peer`].
    #[must_use]
    pub fn awaits_peer(&self) -> bool {
        self.connection.awaits_peer()
    }

    /// Returns the negotiated limits and the peer's properties, once the first handshake has completed.
    #[must_use]
    pub const fn negotiated(&self) -> Option<&Arc<Negotiated>> {
        self.connection.negotiated()
    }

    /// Returns the number of channels.
    #[must_use]
    pub fn channel_count(&self) -> usize {
        self.channels.iter().flatten().count()
    }

    /// Returns the present name of a queue, given a name that the broker had generated for it. Other names are returned unchanged.
    #[must_use]
    pub fn current_name<'a>(&'a self, queue: &'a ShortStr) -> &'a ShortStr {
        self.topology.current(queue)
    }

    /// Returns the number of bytes that wait to be written.
    #[must_use]
    pub fn queued(&self) -> usize {
        self.connection.queued()
    }

    /// Returns how many more bytes can be queued before the outgoing buffer [is full](Self::is_full).
    #[must_use]
    pub fn room(&self) -> usize {
        self.config.limits.transmit_high_water.max(1).saturating_sub(self.queued())
    }

    /// Returns the number of bytes of kept messages.
    #[must_use]
    pub const fn kept(&self) -> usize {
        self.budget.kept
    }

    /// Returns how many more bytes of messages can be kept. While none is kept, one message of any size can be.
    #[must_use]
    pub const fn kept_room(&self) -> usize {
        match self.budget.kept {
            0 => usize::MAX,
            kept => self.budget.max.saturating_sub(kept),
        }
    }

    /// Returns whether channels can be opened on the connection right now, rather than with the next recovery.
    fn has_connection(&self) -> bool {
        match self.phase {
            // The loss of the connection may not have been polled yet.
            Phase::Up => self.connection.check().is_ok(),
            // The handshake may have completed without its event being polled. Then the channels from before the loss are not open
            // yet, and their numbers are free on the connection.
            Phase::Down(_) => self.connection.is_open() && self.replay.is_some(),
            Phase::Over(_) => false,
        }
    }

    fn channel_max(&self) -> u16 {
        self.negotiated().map_or(self.config.limits.channel_max, |agreed| agreed.channel_max)
    }

    fn record(&mut self, id: ChannelId) -> Option<&mut ChannelRecord> {
        slot(&mut self.channels, id)
    }

    fn opened(&mut self, id: ChannelId, attached: bool) -> ChannelId {
        let index = usize::from(id.get()).saturating_sub(1);
        if self.channels.len() <= index {
            self.channels.resize_with(index + 1, || None);
        }
        if let Some(slot) = self.channels.get_mut(index) {
            *slot = Some(Box::new(ChannelRecord { attached, ..ChannelRecord::default() }));
        }
        id
    }

    fn forget_channel(&mut self, id: ChannelId) {
        let index = usize::from(id.get()).saturating_sub(1);
        let Some(mut record) = self.channels.get_mut(index).and_then(Option::take) else { return };
        self.budget.freed(|discard| record.kept.clear(discard));
        for consumer in record.consumers.iter() {
            self.topology.unconsumed(&consumer.consume.queue);
        }
        self.reopening.retain(|(_, waiting)| *waiting != id);
        if let Some(recovering) = &mut self.recovering {
            recovering.exclusive.retain(|(channel, _)| *channel != id);
        }
        if let Some(replay) = &mut self.replay {
            replay.forget(id);
        }
        self.end_turn(id);
        // The channel was closed while it was being reopened.
        if let Ok(mut channel) = self.connection.channel(id) {
            channel.close(ReplyCode::REPLY_SUCCESS, "not wanted any more");
        }
        // Restoring may have waited for this channel alone.
        self.send_declarations();
    }

    fn emit(&mut self, channel: ChannelId, event: ChannelEvent) {
        self.events.push_back(Event::Channel(channel, event));
    }

    /// Handles an event of the connection. Returns the event for the application, if there is one.
    fn take(
        &mut self,
        event: Event,
        unconfirmed: Vec<core::ops::RangeInclusive<PublishSeq>>,
    ) -> Option<Event> {
        match event {
            Event::Channel(id, ChannelEvent::Closed(error)) => {
                self.take_closed(id, error, &unconfirmed)
            }
            Event::Channel(id, event) => self.take_channel(id, event),
            Event::Opened(_) if matches!(self.phase, Phase::Down(_)) => {
                self.begin_replay();
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
        let index = usize::from(id.get()).checked_sub(1)?;
        let Some(record) = self.channels.get_mut(index).and_then(Option::as_deref_mut) else {
            if let ChannelEvent::Reply { request, reply } = event {
                self.declared(id, request, &reply);
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
                    if let Ok(mut channel) = self.connection.channel(id) {
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
                    if let Ok(mut channel) = self.connection.channel(id) {
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
                    let known = self.judged(*request)
                        || self.paused(id, *request)
                        || self.take_restored(id, *request, reply);
                    if !known {
                        self.take_unwanted(id, *request, reply);
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
                        record.streams.started((*request).into(), self.now);
                    }
                    Reply::Method(Method::TxCommitOk(_)) => record.streams.committed(),
                    _ => {}
                }
                if let Some(note) = sent.note {
                    let consumer = (*request).into();
                    note.learn(record, &mut self.topology, consumer, sent.recovers, Some(reply));
                }
                if sent.abandoned {
                    return None;
                }
            }
            ChannelEvent::Confirmed { publishes, ack } => {
                let ack = *ack;
                record.seqs.of(publishes, |publishes| {
                    self.budget.freed(|discard| record.kept.settled(&publishes, discard));
                    let event = ChannelEvent::Confirmed { publishes, ack };
                    self.events.push_back(Event::Channel(id, event));
                });
                if record.careful.is_some() {
                    self.resend(id);
                }
                return self.events.pop_front();
            }
            ChannelEvent::Returned { publish: Some(publish), .. } => {
                *publish = PublishSeq(record.seqs.one(publish.get()));
                // The outcome is known. If the message were sent again after a loss, it might reach a queue although it was
                // reported as returned.
                let seq = publish.get();
                self.budget.freed(|discard| record.kept.give_up(seq, discard));
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
}

/// For log lines: the state of the session, without messages and pending requests.
impl fmt::Debug for Session {
    fn fmt(&self, f: &mut fmt::Formatter<'_>) -> fmt::Result {
        let phase = match &self.phase {
            Phase::Up => "connected",
            Phase::Down(_) => "recovering",
            Phase::Over(_) => "closed",
        };
        f.debug_struct("Session")
            .field("phase", &phase)
            .field("channels", &self.channel_count())
            .field("kept", &self.budget.kept)
            .field("connection", &self.connection)
            .finish_non_exhaustive()
    }
}

fn slot(channels: &mut [Option<Box<ChannelRecord>>], id: ChannelId) -> Option<&mut ChannelRecord> {
    channels.get_mut(usize::from(id.get()).checked_sub(1)?)?.as_deref_mut()
}
