//! One logical connection over many transports.
//!
//! A [`Session`] is driven as a [`Connection`] is. When its transport is lost it asks for another one, says when and to which
//! node, and on that brings back what was there: exchanges, queues, bindings, channels with their modes and prefetch limits,
//! consumers, and the unconfirmed messages that it was to keep. Numbers of channels, requests, consumers, publishes and
//! deliveries stay what they were, so whoever holds them need not know.
//!
//! # Driving a session
//!
//! Beside what a connection asks for, a loop does what [`Session::poll_dial`] says: [`Dial::Wait`], then [`Dial::Connect`] to
//! a node, and tells [`handle_transport`](Session::handle_transport) or [`handle_unreachable`](Session::handle_unreachable).
//! While there is no transport, there are still events and timers.
//!
//! # What a loss means
//!
//! - Requests on their way fail ([`ChannelEvent::Failed`]): whether they were carried out is not known. Requests that are made
//!   while there is no connection wait for the next.
//! - Publishes that are not confirmed are [`ChannelEvent::Unconfirmed`], but those that are
//!   [kept](Channel::publish_kept), which are sent again.
//! - Deliveries that were not acknowledged go back to their queues and are delivered again. Acknowledging them is
//!   [`Misuse::StaleDelivery`].
//! - A transaction that has begun is rolled back, and its commit says so.
//! - Everything comes back in two round trips behind the handshake, however much there is; one more for each entity that
//!   cannot be brought back. [`SessionEvent::Recovered`](crate::SessionEvent::Recovered) tells what came of it.
//!
//! A loss amid recovery is another loss.
//!
//! # Consumers that take nothing
//!
//! Whoever stops reading because one consumer takes nothing stops all of them. [`Session::pause_consumer`] stops that one
//! instead: its deliveries stay in the broker until [`Session::resume_consumer`].

mod blame;
mod channel;
mod consumers;
mod declare;
mod discard;
mod exclusive;
mod in_flight;
mod nodes;
mod noted;
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
    /// How the next connection logs in.
    config: Arc<ClientConfig>,
    unanswered: Unanswered,
    /// How it comes back, if it does.
    recovering: Option<Recovering>,
    phase: Phase,
    /// The present connection, or the one that was lost.
    connection: Connection,
    /// Channel `n` stands at `n - 1`.
    channels: Vec<Option<Box<ChannelRecord>>>,
    topology: Topology,
    budget: Budget,
    /// What is being brought back.
    replay: Option<Box<Replay>>,
    /// Channels that the broker has closed, and when to open them again.
    reopening: Vec<(Instant, ChannelId)>,
    /// Which careful channel may close the connection at present.
    turn: Option<Turn>,
    /// Told before the connection's own.
    events: VecDeque<Event>,
    /// The latest time that was told.
    now: Instant,
}

#[derive(Debug)]
enum Phase {
    /// There is a connection; or the first is being made.
    Up,
    /// There is none, or it is not what it was yet.
    Down(Box<Outage>),
    Over(ConnectionError),
}

impl Session {
    /// Begins a session on a transport. Until [`recover_with`](Self::recover_with) it ends with its first connection.
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

    /// Takes all whole frames off `input`; see [`Connection::handle_input`].
    ///
    /// # Errors
    /// Why the session is over, if it is.
    pub fn handle_input(
        &mut self,
        now: Instant,
        input: &mut BytesMut,
    ) -> Result<(), ConnectionError> {
        self.now = now;
        // Why this connection is over, if it is, comes as an event.
        let _lost = self.connection.handle_input(now, input);
        self.check()
    }

    /// The transport ended.
    pub fn handle_eof(&mut self, now: Instant) {
        self.now = now;
        self.discard_transmit();
        self.connection.handle_eof(now);
    }

    /// The transport failed; see [`Connection::handle_transport_error`].
    #[cfg(feature = "std")]
    pub fn handle_transport_error(&mut self, now: Instant, error: &std::io::Error) {
        self.now = now;
        self.discard_transmit();
        self.connection.handle_transport_error(now, error);
    }

    /// The same for transports whose errors are not those of `std::io`.
    pub fn handle_transport_failure(&mut self, now: Instant, reason: &str) {
        self.now = now;
        self.discard_transmit();
        self.connection.handle_transport_failure(reason);
    }

    /// Whatever drove the session will not do so any more.
    pub fn handle_driver_gone(&mut self) {
        self.connection.handle_driver_gone();
        if matches!(self.phase, Phase::Down(_)) {
            self.end(ConnectionError::DriverGone);
        }
    }

    /// Time has passed. Calling it early or late is harmless.
    pub fn handle_timeout(&mut self, now: Instant) {
        self.now = now;
        self.connection.handle_timeout(now);
        self.expire_kept();
        self.end_attempt_in_time();
        self.give_up_in_time();
        self.retry_locked();
        self.reopen_in_time();
    }

    /// Reading from the transport was suspended, or goes on; see [`Connection::handle_reading`].
    pub fn handle_reading(&mut self, now: Instant, reading: bool) {
        self.connection.handle_reading(now, reading);
    }

    /// Whether the peer seems silent; see [`Connection::is_in_doubt`].
    #[must_use]
    pub fn is_in_doubt(&self) -> bool {
        self.connection.is_in_doubt()
    }

    /// A read found nothing; see [`Connection::handle_no_input`].
    pub fn handle_no_input(&mut self, now: Instant) {
        self.now = now;
        self.connection.handle_no_input(now);
    }

    /// Some of what was taken is written; see [`Connection::handle_written`].
    #[inline]
    pub fn handle_written(&mut self, now: Instant, left: usize) {
        self.connection.handle_written(now, left);
    }

    /// Opens a channel. Without a connection it is opened when there is one.
    ///
    /// # Errors
    /// [`OpenChannelError`].
    pub fn open_channel(&mut self) -> Result<ChannelId, OpenChannelError> {
        self.check().map_err(OpenChannelError::Connection)?;
        let channel_max = self.channel_max();
        for number in 1..=channel_max {
            match self.open_channel_numbered(number) {
                // A channel may have ended here, and not yet on the connection.
                Err(OpenChannelError::InUse { .. }) => {}
                result => return result,
            }
        }
        Err(OpenChannelError::Exhausted { channel_max })
    }

    /// The same with a number of the caller's choice.
    ///
    /// # Errors
    /// [`OpenChannelError`].
    pub fn open_channel_numbered(&mut self, number: u16) -> Result<ChannelId, OpenChannelError> {
        self.check().map_err(OpenChannelError::Connection)?;
        // The connection may not know of it: one that was closed without a connection ends with its event.
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

    /// The channel of that number, to give it commands.
    ///
    /// # Errors
    /// [`Misuse::NoSuchChannel`], if it is not open, or its closing event was polled.
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

    /// Sends a heartbeat now; they are sent by themselves, too.
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

    /// From now on the session holds what it would drop of messages that it was given, for
    /// [`take_discarded`](Self::take_discarded). Dropping a body may run code of whoever made it
    /// ([`Bytes::from_owner`](bytes::Bytes::from_owner)); a session behind a lock must not do that under the lock.
    pub fn hold_discarded(&mut self) {
        self.budget.discard.hold();
    }

    /// Takes what was [held](Self::hold_discarded), if there is anything. Ask after each call that handles something.
    #[inline]
    pub fn take_discarded(&mut self) -> Option<Discarded> {
        self.budget.discard.take()
    }

    /// Nothing of it can be written any more.
    fn discard_transmit(&mut self) {
        self.budget.discard.bodies(self.connection.discard_transmit());
    }

    /// Octets to write, if there are any; see [`Connection::poll_transmit`].
    pub fn poll_transmit(&mut self, now: Instant) -> Option<&mut Transmit> {
        self.connection.poll_transmit(now)
    }

    /// Moves all octets to write into `transmit`; see [`Connection::take_transmit`].
    pub fn take_transmit(&mut self, now: Instant, transmit: &mut Transmit) -> bool {
        self.connection.take_transmit(now, transmit)
    }

    /// The next thing that happened.
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

    /// The next thing that happened, if it is a delivery that can be passed on at once. [`poll_event`](Self::poll_event) shows
    /// all deliveries; this costs less, for what comes by the thousand.
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

    /// When to call [`handle_timeout`](Self::handle_timeout), and what for.
    #[must_use]
    pub fn poll_timeout(&self) -> Option<(Instant, TimerReason)> {
        let own = self.recovery_timer().map(|at| (at, TimerReason::Recovery));
        let connection = self.connection.poll_timeout();
        own.into_iter().chain(connection).min_by_key(|(at, _)| *at)
    }

    /// Why the session is over, if it is.
    ///
    /// # Errors
    /// That reason.
    pub fn check(&self) -> Result<(), ConnectionError> {
        match (&self.phase, self.connection.check()) {
            (Phase::Over(error), _) => Err(error.clone()),
            (Phase::Up, Err(error)) if !self.recovers_from(&error) => Err(error),
            _ => Ok(()),
        }
    }

    /// Whether there is a connection, with all that came back.
    #[must_use]
    pub const fn is_open(&self) -> bool {
        matches!(self.phase, Phase::Up) && self.connection.is_open()
    }

    /// Whether the present transport is used up and can be closed. The session may go on with another.
    #[must_use]
    pub fn is_disconnected(&self) -> bool {
        self.connection.check().is_err()
    }

    /// Whether as many octets wait for the transport as may; see [`Connection::is_full`].
    #[must_use]
    pub fn is_full(&self) -> bool {
        self.connection.is_full()
    }

    /// Whether `connection.blocked` holds.
    #[must_use]
    pub const fn is_blocked(&self) -> bool {
        self.connection.is_blocked()
    }

    /// Whether the peer owes anything; see [`Connection::awaits_peer`].
    #[must_use]
    pub fn awaits_peer(&self) -> bool {
        self.connection.awaits_peer()
    }

    /// What both ends have agreed on, once the first handshake is over.
    #[must_use]
    pub const fn negotiated(&self) -> Option<&Arc<Negotiated>> {
        self.connection.negotiated()
    }

    /// How many channels there are.
    #[must_use]
    pub fn channel_count(&self) -> usize {
        self.channels.iter().flatten().count()
    }

    /// What a queue is called now that had been named by the broker.
    #[must_use]
    pub fn current_name<'a>(&'a self, queue: &'a ShortStr) -> &'a ShortStr {
        self.topology.current(queue)
    }

    /// How many octets wait to be written.
    #[must_use]
    pub fn queued(&self) -> usize {
        self.connection.queued()
    }

    /// How many more bytes can be queued before it [is full](Self::is_full).
    #[must_use]
    pub fn room(&self) -> usize {
        self.config.limits.transmit_high_water.max(1).saturating_sub(self.queued())
    }

    /// How many octets of messages are kept until they are confirmed.
    #[must_use]
    pub const fn kept(&self) -> usize {
        self.budget.kept
    }

    /// How many more bytes of messages can be kept. While none is kept, one of any size can be.
    #[must_use]
    pub const fn kept_room(&self) -> usize {
        match self.budget.kept {
            0 => usize::MAX,
            kept => self.budget.max.saturating_sub(kept),
        }
    }

    /// Whether channels are opened on the connection right now, and not with the next recovery.
    fn has_connection(&self) -> bool {
        match self.phase {
            // Its loss may not have been polled yet.
            Phase::Up => self.connection.check().is_ok(),
            // The handshake may have ended, which was not polled: the channels of before the loss are not open yet then, and
            // their numbers are free on the connection.
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
        // It was closed while it was being opened again.
        if let Ok(mut channel) = self.connection.channel(id) {
            channel.close(ReplyCode::REPLY_SUCCESS, "not wanted any more");
        }
        // What is being brought back may have waited for this channel alone.
        self.send_declarations();
    }

    fn emit(&mut self, channel: ChannelId, event: ChannelEvent) {
        self.events.push_back(Event::Channel(channel, event));
    }

    /// Takes an event of the connection; passes on what is for the application.
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
                        // It needs no answer, or is settled by nobody else.
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
                        // It needs no answer, or is requeued or rejected already.
                        let _settled =
                            channel.settle_apart(tag, Settlement::Nack { requeue: true });
                    }
                }
            }
            // That it is open again is told otherwise.
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
                // Its verdict is known. Sent again after a loss, it might reach a queue although it was reported as returned.
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

/// For log lines: how the session is, but nothing that is under way in it.
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
