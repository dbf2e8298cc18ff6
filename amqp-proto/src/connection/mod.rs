//! The connection: handshake, heartbeats, closing, and dispatch of incoming frames.

mod handshake;
mod input;
mod timers;

use crate::error::TransportFailure;
use crate::time::Instant;
use alloc::sync::Arc;
use alloc::vec::Vec;
use core::fmt;
use core::ops::RangeInclusive;

use bytes::{Buf as _, BytesMut};

use crate::body_pool::BodyPool;
use crate::channel::Channels;
use crate::event::{Event, Negotiated, TimerReason};
use crate::frame::{self, FrameKind, PROTOCOL_HEADER};
use crate::method::{
    ConnectionBlocked, ConnectionClose, ConnectionUnblocked, ConnectionUpdateSecret,
};
use crate::outbound::{Outbound, Role};
use crate::transmit::Overtaken;
use crate::wire::{Secret, ShortStr};
use crate::{
    Channel, ChannelEvent, ChannelId, ClientConfig, Close, CommandError, ConnectStep,
    ConnectionError, ConsumerId, Delivery, LoginError, Misuse, OpenChannelError, PublishSeq,
    ReplyCode, RequestId, ServerConfig, Transmit,
};
use handshake::Handshake;
use timers::Timers;

/// One side of an AMQP 0-9-1 connection, as a state machine without I/O.
///
/// It has four kinds of methods:
/// - *Getters* return its state.
/// - *Handlers*, `handle_*`, report what happened outside: bytes arrived, time passed, the transport ended.
/// - *Commands* carry out requests of the application. They queue bytes and return at once.
/// - *Polls*, `poll_*`, return its output: bytes to write, events, and when to call
///   [`handle_timeout`](Self::handle_timeout).
///
/// There is one rule: **after handlers and commands, drain the polls** — `poll_event` until it returns nothing, `poll_transmit`
/// until it returns nothing or the transport accepts no more, then wait until `poll_timeout`, input or a command. Any
/// number of commands may precede a drain; the more, the fewer and larger the writes. The [crate](crate)
/// documentation has the loop.
///
/// Once the connection is closed, every handler and command returns the reason. Write what
/// [`poll_transmit`](Self::poll_transmit) still returns, and then close the transport.
pub struct Connection {
    state: Result<ConnectionPhase, ConnectionError>,
    side: Side,
    outbound: Outbound,
    channels: Channels,
    timers: Timers,
    negotiated: Option<Arc<Negotiated>>,
    /// The step of the handshake, also after it has failed.
    connect_step: Option<ConnectStep>,
    /// Number of pending `connection.update-secret` requests.
    updating_secret: u32,
}

/// ```text
///  Handshake ──open-ok──▶ Open ──close()──▶ Closing
///      └───────────┬────────┴──────────────────┘
///                  ▼
///       Err: closed, failed or lost
/// ```
enum ConnectionPhase {
    Handshake(Handshake),
    Open,
    /// This side has sent the close.
    Closing(Close),
}

/// The state that only one side has, in addition to [`Role`].
enum Side {
    Client(Arc<ClientConfig>),
    Server(Arc<ServerConfig>),
}

impl Connection {
    /// Creates the client's side. Queues the protocol header, so poll for it first.
    #[must_use]
    pub fn client(config: Arc<ClientConfig>, now: Instant) -> Self {
        let mut outbound = Outbound::new(Role::Client, config.limits);
        outbound.transmit.buffer().extend_from_slice(&PROTOCOL_HEADER);
        let timers = Timers::new(now, config.handshake_timeout);
        Self::new(Side::Client(config), outbound, timers, Handshake::AwaitStart)
    }

    /// Creates the server's side, for brokers, proxies, mocks and tests.
    #[must_use]
    pub fn server(config: Arc<ServerConfig>, now: Instant) -> Self {
        let outbound = Outbound::new(Role::Server, config.limits);
        let timers = Timers::new(now, config.handshake_timeout);
        Self::new(Side::Server(config), outbound, timers, Handshake::AwaitHeader)
    }

    fn new(side: Side, outbound: Outbound, timers: Timers, handshake: Handshake) -> Self {
        let mut channels = Channels::default();
        channels.set_max(outbound.limits.channel_max);
        Self {
            state: Ok(ConnectionPhase::Handshake(handshake)),
            side,
            outbound,
            channels,
            timers,
            negotiated: None,
            connect_step: Some(ConnectStep::ProtocolHeader),
            updating_secret: 0,
        }
    }

    /// Handles all complete frames in `input` and removes them. Leaves an incomplete frame for the next call.
    ///
    /// An incomplete frame is at most `frame_max` long, and content headers from a server at most
    /// [`HEADER_EXCESS`](crate::frame::HEADER_EXCESS) longer: a larger frame is an error as soon as its header has arrived.
    /// Once the connection is closed, input is dropped.
    ///
    /// # Errors
    /// The reason why the connection is closed, if it is.
    pub fn handle_input(
        &mut self,
        now: Instant,
        input: &mut BytesMut,
    ) -> Result<(), ConnectionError> {
        if !input.is_empty() {
            self.timers.received(now);
        }
        let taken = self.receive(now, input);
        if let Err(error) = taken {
            self.fail(error);
        }
        if self.outbound.requeues {
            self.timers.requeue_later(now);
        }
        self.check()
    }

    /// Reports the end of the transport: the peer will not send anything any more.
    pub fn handle_eof(&mut self, _now: Instant) {
        let error = match &self.state {
            Err(_) => return drop(self.discard_transmit()),
            Ok(ConnectionPhase::Handshake(handshake)) if handshake.credentials_sent() => {
                LoginError::HungUp.into()
            }
            Ok(ConnectionPhase::Closing(close)) => ConnectionError::Closed(close.clone()),
            Ok(ConnectionPhase::Handshake(_) | ConnectionPhase::Open) => ConnectionError::Eof,
        };
        self.fail(error);
        drop(self.discard_transmit());
    }

    /// Reports an error of the transport. If a write failed, read first: the peer may have sent the reason before.
    #[cfg(feature = "std")]
    pub fn handle_transport_error(&mut self, now: Instant, error: &std::io::Error) {
        match error.kind() {
            // A connection that was closed in an orderly way or refused ends like this if the peer does not wait for the last bytes.
            std::io::ErrorKind::ConnectionReset | std::io::ErrorKind::BrokenPipe
                if !matches!(self.state, Ok(ConnectionPhase::Open)) =>
            {
                self.handle_eof(now);
            }
            _ => self.fail(ConnectionError::transport(error)),
        }
        drop(self.discard_transmit());
    }

    /// Reports an error of a transport that does not use `std::io` errors.
    pub fn handle_transport_failure(&mut self, reason: &str) {
        self.fail(ConnectionError::Transport(TransportFailure::new(reason)));
        drop(self.discard_transmit());
    }

    /// Discards the queued output, which can no longer be written. Returns the large bodies in it.
    pub(crate) fn discard_transmit(&mut self) -> impl Iterator<Item = bytes::Bytes> + use<> {
        self.outbound.transmit.discard()
    }

    /// Reports that the driver of the connection was dropped.
    pub fn handle_driver_gone(&mut self) {
        self.fail(ConnectionError::DriverGone);
    }

    /// Handles due timers. Calling this early or late is harmless.
    ///
    /// If the peer seems silent, the connection fails a quarter of a second later, if this is called again and nothing arrived in
    /// between. So if a loop was suspended, it finds what the peer has sent meanwhile, provided that it reads between the two
    /// calls. A loop whose reads may not find it (because it uses a reactor, or has suspended reading) reports that to
    /// [`handle_reading`](Self::handle_reading).
    pub fn handle_timeout(&mut self, now: Instant) {
        while let Some(reason) = self.timers.expired(now) {
            if self.state.is_err() {
                return;
            }
            match reason {
                TimerReason::Heartbeat => {
                    // Idle connections release memory.
                    self.outbound.body_pool = BodyPool::default();
                    self.send_heartbeat();
                    self.timers.sent(now);
                }
                TimerReason::Silence => {
                    if self.timers.note_silence(now) {
                        self.fail(ConnectionError::PeerSilent(self.timers.receive_timeout()));
                    }
                }
                TimerReason::Handshake | TimerReason::Close => self.fail(self.out_of_time()),
                TimerReason::Requeue => self.requeue_held(now),
                // This timer belongs to sessions.
                TimerReason::Recovery => {}
            }
        }
    }

    fn requeue_held(&mut self, now: Instant) {
        self.timers.clear_requeue();
        if !core::mem::take(&mut self.outbound.requeues) || !self.is_open() {
            return;
        }
        if let Err(error) = self.channels.requeue_held(&mut self.outbound) {
            self.fail(error);
        } else if self.outbound.requeues {
            self.timers.requeue_later(now);
        }
    }

    /// Reports that reading from the transport was suspended or resumed. While it is suspended, time alone does not make the peer
    /// count as silent.
    ///
    /// Reads that find nothing detect a peer that dies in the meantime. When [`peer_seems_silent`](Self::peer_seems_silent), read
    /// once, however much is buffered already, and report with [`handle_no_input`](Self::handle_no_input) if nothing was there.
    pub fn handle_reading(&mut self, now: Instant, reading: bool) {
        self.timers.suspend_reading(now, !reading);
    }

    /// Returns whether nothing has arrived for two heartbeat intervals, as far as [`handle_timeout`](Self::handle_timeout) knows:
    /// the peer may be dead, or the loop has not read.
    #[must_use]
    pub fn peer_seems_silent(&self) -> bool {
        self.state.is_ok() && self.timers.peer_seems_silent()
    }

    /// Reports a read that began at `now` and found nothing. The connection fails if the peer has been silent for two heartbeat
    /// intervals.
    ///
    /// The read must have been a system call. The readiness that a reactor remembers for a socket may be older than the time for
    /// which the loop was held up.
    pub fn handle_no_input(&mut self, now: Instant) {
        if self.timers.is_silent(now) {
            self.fail(ConnectionError::PeerSilent(self.timers.receive_timeout()));
        }
    }

    /// Reports progress in writing the bytes that [`take_transmit`](Self::take_transmit) has moved: the last write was at
    /// `now`, and `left` bytes are still to be written. Repeating a report is harmless.
    ///
    /// The peer's [time to reply to a close](ClientConfig::close_timeout) runs from when the close is written, which may be long
    /// after it was queued. Bytes from [`poll_transmit`](Self::poll_transmit) need no report.
    ///
    /// Frames that have overtaken others count as queued until this method reports that they are written, or until all taken bytes
    /// are written and `take_transmit` is called again.
    #[inline]
    pub fn handle_written(&mut self, now: Instant, left: usize) {
        self.timers.written(now, self.outbound.transmit.remaining().saturating_add(left));
        self.outbound.overtaken.written(left);
    }

    /// Opens a channel. The channel can be used at once. [`ChannelEvent::Opened`] reports that the server has opened it.
    ///
    /// # Errors
    /// [`OpenChannelError`].
    pub fn open_channel(&mut self) -> Result<ChannelId, OpenChannelError> {
        self.check_open()?;
        self.channels.open(&mut self.outbound)
    }

    /// Opens a channel with the given number.
    ///
    /// # Errors
    /// [`OpenChannelError`].
    pub fn open_channel_numbered(&mut self, number: u16) -> Result<ChannelId, OpenChannelError> {
        self.check_open()?;
        self.channels.open_number(number, &mut self.outbound)
    }

    /// Checks that channels can be opened.
    fn check_open(&self) -> Result<(), OpenChannelError> {
        match &self.state {
            Ok(ConnectionPhase::Open) if self.outbound.role == Role::Client => Ok(()),
            Ok(ConnectionPhase::Open | ConnectionPhase::Handshake(_)) => {
                Err(OpenChannelError::NotOpenYet)
            }
            Ok(ConnectionPhase::Closing(close)) => {
                Err(OpenChannelError::Connection(ConnectionError::Closed(close.clone())))
            }
            Err(error) => Err(OpenChannelError::Connection(error.clone())),
        }
    }

    /// Returns a short-lived view of a channel, for issuing commands.
    ///
    /// # Errors
    /// [`Misuse::NoSuchChannel`], if the channel is not open, or its `Closed` event was polled.
    pub fn channel(&mut self, id: ChannelId) -> Result<Channel<'_>, Misuse> {
        self.channels.view(id, &mut self.outbound)
    }

    /// Replaces the secret, for example before a token expires. [`Event::SecretUpdated`] reports RabbitMQ's reply.
    ///
    /// # Errors
    /// [`CommandError`].
    pub fn update_secret(&mut self, secret: Secret, reason: &str) -> Result<(), CommandError> {
        self.check().map_err(crate::ChannelError::from)?;
        if self.outbound.role == Role::Server {
            return Err(Misuse::WrongSide("client").into());
        }
        match &self.state {
            Ok(ConnectionPhase::Open) => {}
            Ok(ConnectionPhase::Closing(close)) => {
                let error = ConnectionError::Closed(close.clone());
                return Err(crate::ChannelError::from(error).into());
            }
            _ => return Err(Misuse::NotOpenYet.into()),
        }
        let reason = ShortStr::truncated(reason);
        self.outbound.send(0, &ConnectionUpdateSecret { new_secret: secret, reason }.into())?;
        self.outbound.transmit.holds_secret();
        self.updating_secret += 1;
        Ok(())
    }

    /// Servers: requests that the client stops publishing, for this reason, or lets it continue (`connection.blocked`, RabbitMQ).
    pub fn set_blocked(&mut self, reason: Option<&str>) {
        if !self.is_open() || self.outbound.role == Role::Client {
            return;
        }
        match reason {
            Some(reason) => {
                let reason = ShortStr::truncated(reason);
                self.outbound.send_small(0, &ConnectionBlocked { reason });
            }
            None => self.outbound.send_small(0, &ConnectionUnblocked {}),
        }
    }

    /// Sends a heartbeat now, in addition to the automatic ones.
    pub fn send_heartbeat(&mut self) {
        if self.state.is_ok() && self.negotiated.is_some() {
            let out = self.outbound.transmit.buffer();
            let start = frame::begin(out, FrameKind::Heartbeat, 0);
            frame::finish(out, start);
        }
    }

    /// Closes the connection. [`Event::Closed`] follows when the peer has replied, or has not replied in time.
    ///
    /// Does nothing if the connection is closing already. During the handshake, a client is closed at once: it queues the close if
    /// the peer has sent anything, but does not wait for a reply.
    pub fn close(&mut self, now: Instant, reply_code: ReplyCode, reply_text: &str) {
        self.close_over(now, reply_code, reply_text, (0, 0));
    }

    /// Closes the connection because of a method, named by its class id and method id, as servers do.
    pub fn close_over(
        &mut self,
        now: Instant,
        reply_code: ReplyCode,
        reply_text: &str,
        (class_id, method_id): (u16, u16),
    ) {
        let reply_text = ShortStr::truncated(reply_text);
        let close = Close { class_id, method_id, ..Close::local(None, reply_code, reply_text) };
        match &self.state {
            Ok(ConnectionPhase::Handshake(handshake)) if !handshake.may_close() => {
                self.fail(ConnectionError::Closed(close));
            }
            Ok(ConnectionPhase::Handshake(_)) if matches!(self.side, Side::Client(_)) => {
                // The peer may never reply: that may be the reason why this side closes.
                self.outbound.send_small(0, &close_method(&close));
                self.fail(ConnectionError::Closed(close));
            }
            Ok(ConnectionPhase::Open | ConnectionPhase::Handshake(_)) => {
                self.flush_acks();
                self.outbound.send_small(0, &close_method(&close));
                self.outbound.closing = Some(close.clone());
                self.state = Ok(ConnectionPhase::Closing(close));
                let timeout = match &self.side {
                    Side::Client(config) => config.close_timeout,
                    Side::Server(config) => config.close_timeout,
                };
                self.timers.close_by(now, timeout);
            }
            Ok(ConnectionPhase::Closing(_)) | Err(_) => {}
        }
    }

    /// Returns bytes to write, if there are any. Write some, [`advance`](bytes::Buf::advance) by the number of written bytes, and call
    /// this again.
    pub fn poll_transmit(&mut self, now: Instant) -> Option<&mut Transmit> {
        self.flush_acks();
        self.timers.written(now, self.outbound.transmit.remaining());
        if self.outbound.transmit.is_empty() {
            return None;
        }
        self.timers.sent(now);
        Some(&mut self.outbound.transmit)
    }

    /// Moves all bytes to write into `transmit`, if that is empty, to write them without borrowing the connection. Returns
    /// whether `transmit` has any bytes. Report what is written with [`handle_written`](Self::handle_written).
    ///
    /// A large message holds up its channel only. If more than twice the [high-water mark](crate::Limits::transmit_high_water) is to be
    /// written, frames of other channels go ahead of it, between two of its frames: requests, messages, and parts of large messages in
    /// turns. Order is kept within each channel, and settlements and the close of the connection stay behind everything that was
    /// queued before them. So call this method before each write, also while `transmit` has bytes. It changes nothing in the first
    /// [chunk](bytes::Buf::chunk): a write of that chunk may be under way.
    pub fn take_transmit(&mut self, now: Instant, transmit: &mut Transmit) -> bool {
        self.flush_acks();
        let patience = self.outbound.patience();
        let queued = &mut self.outbound.transmit;
        if transmit.is_empty() {
            // Whether or not this was reported: all of it is written.
            self.outbound.overtaken = Overtaken::default();
            if !queued.is_empty() {
                self.timers.sent(now);
                core::mem::swap(queued, transmit);
                transmit.spread(patience);
            }
        } else if !queued.is_empty() {
            self.outbound.overtaken.add(transmit.let_overtake(queued, patience));
        }
        !transmit.is_empty()
    }

    /// Returns the next event.
    #[inline]
    pub fn poll_event(&mut self) -> Option<Event> {
        if let Some(Event::Channel(id, ChannelEvent::Closed(_))) = self.peek_event() {
            let id = *id;
            self.channels.release(id);
        }
        self.outbound.events.pop()
    }

    /// Returns the next event, if it is a delivery. [`poll_event`](Self::poll_event) returns deliveries as well; this method is
    /// faster.
    #[inline]
    pub fn poll_delivery(&mut self) -> Option<(ChannelId, ConsumerId, Delivery)> {
        self.outbound.events.pop_delivery()
    }

    /// Returns the next event without removing it, unless it is a delivery.
    pub(crate) fn peek_event(&self) -> Option<&Event> {
        self.outbound.events.peek_other()
    }

    /// Returns the next event without removing it, if it is a delivery.
    #[inline]
    pub(crate) fn peek_delivery(&mut self) -> Option<(ChannelId, ConsumerId, &mut Delivery)> {
        self.outbound.events.peek_delivery()
    }

    /// Returns the unconfirmed publishes of a channel, until its `Closed` event is polled.
    pub(crate) fn unconfirmed(&mut self, id: ChannelId) -> Vec<RangeInclusive<PublishSeq>> {
        self.channels.unconfirmed(id)
    }

    /// Returns the number of unsettled deliveries of a channel, until its `Closed` event is polled.
    pub(crate) fn unsettled(&mut self, id: ChannelId) -> usize {
        self.channels.unsettled(id)
    }

    /// Returns whether a channel is being closed, so that its number will be free soon.
    pub(crate) fn is_closing_channels(&self) -> bool {
        self.channels.any_ending()
    }

    /// Reserves a number for a request that is made later.
    pub(crate) const fn reserve_request(&mut self) -> RequestId {
        self.outbound.next_request()
    }

    /// Continues the request numbers of the previous connection.
    pub(crate) const fn follow(&mut self, before: &Self) {
        self.outbound.continue_requests(&before.outbound);
    }

    /// Returns when to call [`handle_timeout`](Self::handle_timeout), and the purpose of that timer.
    #[must_use]
    pub fn poll_timeout(&self) -> Option<(Instant, TimerReason)> {
        self.state.as_ref().ok().and_then(|_| self.timers.next())
    }

    /// Checks that the connection is not closed.
    ///
    /// # Errors
    /// The reason why the connection is closed.
    #[inline]
    pub fn check(&self) -> Result<(), ConnectionError> {
        match &self.state {
            Ok(_) => Ok(()),
            Err(error) => Err(error.clone()),
        }
    }

    /// Returns whether the handshake has completed and neither side has begun to close.
    #[must_use]
    pub const fn is_open(&self) -> bool {
        matches!(self.state, Ok(ConnectionPhase::Open))
    }

    /// Returns whether the connection is closed and everything is written: the transport can be closed.
    #[must_use]
    pub fn is_drained(&self) -> bool {
        self.state.is_err() && self.outbound.transmit.is_empty()
    }

    /// Returns whether the outgoing buffer has reached its [limit](crate::Limits::transmit_high_water), so that publishing has to
    /// wait ([`Gate::Full`](crate::Gate::Full)).
    #[must_use]
    pub fn is_full(&self) -> bool {
        self.outbound.is_full()
    }

    /// Returns how many more bytes can be queued before the outgoing buffer [is full](Self::is_full).
    #[must_use]
    pub fn room(&self) -> usize {
        self.outbound.room()
    }

    /// Returns whether the broker has blocked publishing (`connection.blocked`).
    #[must_use]
    pub const fn is_blocked(&self) -> bool {
        self.outbound.blocked
    }

    /// Returns whether this side is waiting for the peer: for a reply, a confirm, unblocking, or its part in opening or closing. The
    /// awaited frame arrives after everything that the peer has sent already, so the loop has to continue reading.
    #[must_use]
    pub fn awaits_peer(&self) -> bool {
        match &self.state {
            Ok(ConnectionPhase::Open) => {
                self.outbound.blocked || self.updating_secret > 0 || self.outbound.awaiting > 0
            }
            Ok(ConnectionPhase::Handshake(_) | ConnectionPhase::Closing(_)) => true,
            Err(_) => false,
        }
    }

    /// Number of bytes of incomplete bodies, on all channels.
    #[cfg(any(all(test, feature = "std"), feature = "fuzzing"))]
    pub(crate) const fn unfinished(&self) -> usize {
        self.outbound.unfinished
    }

    /// Number of channels that wait for the peer: as counted incrementally, and as counted from the channels.
    #[cfg(any(all(test, feature = "std"), feature = "fuzzing"))]
    pub(crate) fn awaiting(&self) -> (usize, usize) {
        (self.outbound.awaiting, self.channels.awaiting())
    }

    /// Returns the negotiated limits and the peer's properties, once the handshake has completed.
    #[must_use]
    pub const fn negotiated(&self) -> Option<&Arc<Negotiated>> {
        self.negotiated.as_ref()
    }

    /// Returns the number of bytes that wait to be written.
    #[must_use]
    pub fn queued(&self) -> usize {
        self.outbound.transmit.remaining()
    }

    /// Returns the number of channels that are open, opening or closing.
    #[must_use]
    pub fn channel_count(&self) -> usize {
        self.channels.len()
    }

    /// Returns the step that the handshake is at, or at which it failed. `None` once the connection is open, also after that.
    ///
    /// The connection does not know how its transport is made, so [`ConnectStep::ProtocolHeader`] is the first.
    #[must_use]
    pub const fn connect_step(&self) -> Option<ConnectStep> {
        self.connect_step
    }

    /// Closes the connection with an error, which every later call returns.
    fn fail(&mut self, error: ConnectionError) {
        if self.state.is_err() {
            return;
        }
        let handshaken = !matches!(self.state, Ok(ConnectionPhase::Handshake(_)));
        if let Some((code, text)) = error.to_close().filter(|_| handshaken) {
            let close = Close::local(None, code, ShortStr::truncated(&text));
            self.outbound.send_small(0, &close_method(&close));
        }
        self.connect_step = self.connect_step.map(|step| step.of_failure(&error));
        self.state = Err(error.clone());
        self.channels.terminate(&mut self.outbound, &error);
        self.outbound.events.push(Event::Closed(error));
    }

    fn out_of_time(&self) -> ConnectionError {
        let (handshake, close) = match &self.side {
            Side::Client(config) => (config.handshake_timeout, config.close_timeout),
            Side::Server(config) => (config.handshake_timeout, config.close_timeout),
        };
        match &self.state {
            Ok(ConnectionPhase::Handshake(step)) => ConnectionError::HandshakeTimeout {
                waiting_for: step.waiting_for(),
                limit: handshake,
            },
            _ => ConnectionError::CloseTimeout(close),
        }
    }

    fn flush_acks(&mut self) {
        while let Some(id) = self.outbound.unflushed.pop() {
            if let Some(channel) = self.channels.get(id.0) {
                channel.flush_listed(&mut self.outbound);
            }
        }
    }
}

fn close_method(close: &Close) -> ConnectionClose {
    ConnectionClose {
        reply_code: close.reply_code.0,
        reply_text: close.reply_text.clone(),
        class_id: close.class_id,
        method_id: close.method_id,
    }
}

impl fmt::Debug for Connection {
    fn fmt(&self, f: &mut fmt::Formatter<'_>) -> fmt::Result {
        let state = match &self.state {
            Ok(ConnectionPhase::Handshake(step)) => step.waiting_for(),
            Ok(ConnectionPhase::Open) => "open",
            Ok(ConnectionPhase::Closing(_)) => "closing",
            Err(_) => "over",
        };
        f.debug_struct("Connection")
            .field("state", &state)
            .field("channels", &self.channels.len())
            .field("queued", &self.queued())
            .finish_non_exhaustive()
    }
}
