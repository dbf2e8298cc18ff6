//! Driving a session: input, output, timers, events, and the application's commands.

use alloc::sync::Arc;
use alloc::vec::Vec;

use bytes::BytesMut;

use super::channel::{Reach, SessionChannel};
use super::discard::Discarded;
use super::phase::Phase;
use super::record::ChannelRecord;
use super::state::Session;
use crate::time::Instant;
use crate::wire::{Secret, ShortStr};
use crate::{
    ChannelError, ChannelEvent, ChannelId, Close, CommandError, ConnectStep, ConnectionError,
    ConsumerId, Delivery, Event, Misuse, OpenChannelError, ReplyCode, TimerReason, Transmit,
};

impl Session {
    /// Handles all complete frames in `input` and removes them; see [`Connection::handle_input`](crate::Connection::handle_input).
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

    /// Reports an error of the transport; see [`Connection::handle_transport_error`](crate::Connection::handle_transport_error).
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

    /// Reports that reading from the transport was suspended or resumed; see
    /// [`Connection::handle_reading`](crate::Connection::handle_reading).
    pub fn handle_reading(&mut self, now: Instant, reading: bool) {
        self.context.connection.handle_reading(now, reading);
    }

    /// Returns whether the peer seems silent; see [`Connection::peer_seems_silent`](crate::Connection::peer_seems_silent).
    #[must_use]
    pub fn peer_seems_silent(&self) -> bool {
        self.context.connection.peer_seems_silent()
    }

    /// Reports a read that found nothing; see [`Connection::handle_no_input`](crate::Connection::handle_no_input).
    pub fn handle_no_input(&mut self, now: Instant) {
        self.context.now = now;
        self.context.connection.handle_no_input(now);
    }

    /// Reports how much of the taken output is written; see [`Connection::handle_written`](crate::Connection::handle_written).
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
        let mut in_use = 0;
        loop {
            let unused = self.context.channels.unused(in_use, channel_max).next();
            let Some(number) = unused else {
                return Err(OpenChannelError::Exhausted { channel_max });
            };
            match self.open_channel_numbered(number) {
                // The session may have forgotten a channel that the connection is still closing.
                Err(OpenChannelError::InUse { .. }) => in_use = number,
                result => return result,
            }
        }
    }

    /// Opens a channel with the given number.
    ///
    /// # Errors
    /// [`OpenChannelError`]. While the session restores queues, one free number is [in use](OpenChannelError::InUse) by the session
    /// itself: try again later.
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

    /// Returns the step that the handshake is at, or at which the last attempt to connect failed. `None` once the connection is
    /// open; see [`Connection::connect_step`](crate::Connection::connect_step).
    #[must_use]
    pub const fn connect_step(&self) -> Option<ConnectStep> {
        match self.failed_at {
            Some(step) => Some(step),
            None => self.context.connection.connect_step(),
        }
    }

    /// Sends a heartbeat now, in addition to the automatic ones.
    pub fn send_heartbeat(&mut self) {
        self.context.connection.send_heartbeat();
    }

    /// Replaces the secret, on the present connection and for the next ones; see
    /// [`Connection::update_secret`](crate::Connection::update_secret). Later connections, to all nodes, log in with the new secret,
    /// by the mechanisms that [have a secret](crate::Mechanism::with_secret). A configuration passed to
    /// [`handle_transport`](Self::handle_transport) takes precedence.
    ///
    /// [`Event::SecretUpdated`](crate::Event::SecretUpdated) reports the broker's reply, one for each secret. There is no event
    /// for secrets that were sent before [`Lost`](crate::SessionEvent::Lost) or
    /// [`AttemptFailed`](crate::SessionEvent::AttemptFailed).
    ///
    /// A secret that the broker refuses is discarded.
    ///
    /// # Errors
    /// [`CommandError`]: nothing was sent. Unless the session is closed or the secret is too large, the next connection still logs in
    /// with it.
    pub fn update_secret(&mut self, secret: Secret, reason: &str) -> Result<(), CommandError> {
        self.check().map_err(ChannelError::from)?;
        let config = Arc::new(self.config.with_secret(&secret));
        let sent = self.context.connection.update_secret(secret, reason);
        if matches!(sent, Err(CommandError::Misuse(Misuse::TooLarge { .. }))) {
            return sent;
        }
        let before = core::mem::replace(&mut self.config, config);
        if sent.is_ok() {
            self.unanswered.sent(before);
        }
        sent
    }

    /// Closes the session. It does not reconnect any more.
    pub fn close(&mut self, now: Instant, reply_code: ReplyCode, reply_text: &str) {
        self.close_over(now, reply_code, reply_text, (0, 0));
    }

    /// Closes the session because of a method; see [`Connection::close_over`](crate::Connection::close_over).
    pub fn close_over(
        &mut self,
        now: Instant,
        reply_code: ReplyCode,
        reply_text: &str,
        cause: (u16, u16),
    ) {
        self.context.now = now;
        self.context.recovering = None;
        if !self.has_transport() {
            let close = Close::local(None, reply_code, ShortStr::truncated(reply_text));
            let (class_id, method_id) = cause;
            return self.end(ConnectionError::Closed(Close { class_id, method_id, ..close }));
        }
        self.context.connection.close_over(now, reply_code, reply_text, cause);
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

    /// Returns bytes to write, if there are any; see [`Connection::poll_transmit`](crate::Connection::poll_transmit).
    pub fn poll_transmit(&mut self, now: Instant) -> Option<&mut Transmit> {
        self.context.connection.poll_transmit(now)
    }

    /// Moves all bytes to write into `transmit`; see [`Connection::take_transmit`](crate::Connection::take_transmit).
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
            let unconfirmed = match self.context.connection.peek_event() {
                Some(Event::Channel(id, ChannelEvent::Closed(_))) => {
                    let id = *id;
                    if let Some(record) = self.context.channels.get_mut(id) {
                        record.unsettled = self.context.connection.unsettled(id);
                    }
                    self.context.connection.unconfirmed(id)
                }
                _ => Vec::new(),
            };
            let Some(event) = self.context.connection.poll_event() else {
                self.context.forget_orphans();
                return None;
            };
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
        let (id, consumer, delivery) = self.context.connection.peek_delivery()?;
        let record = self.context.channels.get_mut(id).filter(|own| own.orphans.is_empty())?;
        if record.streams.watches(consumer) {
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

    /// Returns the next time at which [`handle_timeout`](Self::handle_timeout) has something to do for the recovery.
    fn recovery_timer(&self) -> Option<Instant> {
        let idle = matches!(self.phase, Phase::Connected);
        let recovering = self.context.recovering.as_ref().filter(|_| idle);
        let locks = recovering.and_then(|recovering| recovering.locks.retry_at);
        let attempt = self.attempt_ends().map(|(at, _)| at).or_else(|| self.next_attempt());
        let timers = [
            self.gives_up_at(),
            locks,
            attempt,
            self.next_reopening(),
            self.context.budget.expires_at,
        ];
        timers.into_iter().flatten().min()
    }

    fn opened(&mut self, id: ChannelId, attached: bool) -> ChannelId {
        self.context.channels.insert(id, ChannelRecord { attached, ..ChannelRecord::default() });
        id
    }
}
