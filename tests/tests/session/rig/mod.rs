//! The session rig: a session and a peer, with time and transports that the test controls.

mod broker;
mod requests;
mod script;

use std::sync::Arc;
use std::time::Instant;

use amqp_client_core::proto::session::{
    Reconnect, Recovery, RecoveryReport, Session, SessionChannel,
};
use amqp_client_core::proto::{
    ChannelEvent, ChannelId, ClientConfig, ConnectStep, ConsumerId, Event, SessionEvent,
};
use bytes::{Buf as _, BytesMut};

use crate::harness::Peer;
pub(crate) use requests::{durable, exclusive, nameless, short, text};
pub(crate) use script::{Script, accept};

/// A session, its peer, and the bytes between them.
///
/// [`run`](Self::run) lets bytes flow until nothing moves. The transport ends by [`cut`](Self::cut), and there is another one by
/// [`reconnect`](Self::reconnect).
pub(crate) struct SessionRig<P> {
    pub(crate) session: Session,
    pub(crate) peer: P,
    pub(crate) now: Instant,
    /// The events that were not inspected yet.
    pub(crate) events: Vec<Event>,
    /// True if there is a transport.
    connected: bool,
    up: BytesMut,
    down: BytesMut,
    /// Number of round trips.
    pub(crate) rounds: usize,
    /// Number of rounds after which the transport is cut.
    pub(crate) cut_after: Option<usize>,
    /// True if nodes can be reached.
    pub(crate) reachable: bool,
    /// Bytes arrive one by one, and deliveries are acknowledged at once.
    pub(crate) eager: bool,
    /// The credentials for the next connection, if they are new.
    pub(crate) next_config: Option<Arc<ClientConfig>>,
}

impl<P: Peer> SessionRig<P> {
    /// A session that is yet to be opened, with a peer that it is connected to.
    fn connecting(peer: P, now: Instant) -> Self {
        Self {
            session: Session::new(Arc::new(ClientConfig::default()), now),
            peer,
            now,
            events: Vec::new(),
            connected: true,
            up: BytesMut::new(),
            down: BytesMut::new(),
            rounds: 0,
            cut_after: None,
            reachable: true,
            eager: false,
            next_config: None,
        }
    }

    /// Lets bytes flow until nothing moves.
    pub(crate) fn run(&mut self) {
        self.run_by(P::reply);
    }

    /// Like [`run`](Self::run), with these replies of the peer.
    fn run_by(&mut self, mut reply: impl FnMut(&mut P, Instant)) {
        while self.round_by(&mut reply) {}
    }

    /// Lets bytes flow once.
    pub(crate) fn round(&mut self) {
        self.round_by(&mut P::reply);
    }

    /// Returns whether anything moved.
    fn round_by(&mut self, reply: &mut impl FnMut(&mut P, Instant)) -> bool {
        self.session.handle_timeout(self.now);
        self.poll_events();
        let moved = self.carry_by(reply);
        self.poll_events();
        moved
    }

    /// Carries the session's output and the peer's replies once. Unlike [`round`](Self::round), it polls no events.
    pub(crate) fn carry(&mut self) {
        self.carry_by(&mut P::reply);
    }

    fn carry_by(&mut self, reply: &mut impl FnMut(&mut P, Instant)) -> bool {
        if !self.connected {
            return false;
        }
        let mut moved = false;
        while let Some(transmit) = self.session.poll_transmit(self.now) {
            moved = true;
            self.up.extend_from_slice(transmit.chunk());
            transmit.advance(transmit.chunk().len());
        }
        match self.eager {
            // Each frame is processed separately, so that replies and deliveries mix.
            true => {
                let mut input = BytesMut::new();
                while self.up.has_remaining() {
                    input.extend_from_slice(&self.up.split_to(1));
                    self.peer.handle_input(self.now, &mut input);
                }
            }
            false => self.peer.handle_input(self.now, &mut self.up),
        }
        reply(&mut self.peer, self.now);
        while let Some(transmit) = self.peer.poll_transmit(self.now) {
            moved = true;
            self.down.extend_from_slice(transmit.chunk());
            transmit.advance(transmit.chunk().len());
        }
        if moved {
            self.rounds += 1;
            if self.cut_after.is_some_and(|after| self.rounds >= after) {
                self.cut_after = None;
                self.cut();
                return true;
            }
        }
        match self.eager {
            true => self.receive_eagerly(),
            false => {
                let _lost = self.session.handle_input(self.now, &mut self.down);
            }
        }
        if self.session.is_disconnected() {
            self.poll_events();
            self.disconnect();
        }
        moved
    }

    fn receive_eagerly(&mut self) {
        let mut input = BytesMut::new();
        while self.down.has_remaining() {
            input.extend_from_slice(&self.down.split_to(1));
            let _lost = self.session.handle_input(self.now, &mut input);
            while let Some(event) = self.session.poll_event() {
                if let Event::Channel(id, ChannelEvent::Delivery { delivery, .. }) = &event {
                    let channel = &mut self.session.channel(*id).expect("it delivers");
                    channel.ack(delivery.delivery_tag()).expect("it was delivered just now");
                }
                self.events.push(event);
            }
        }
    }

    fn poll_events(&mut self) {
        self.events.extend(std::iter::from_fn(|| self.session.poll_event()));
    }

    /// The transport ends, for both.
    pub(crate) fn cut(&mut self) {
        self.session.handle_eof(self.now);
        self.disconnect();
        self.poll_events();
    }

    fn disconnect(&mut self) {
        self.up.clear();
        self.down.clear();
        if std::mem::take(&mut self.connected) {
            self.peer.handle_eof(self.now);
        }
    }

    /// Another session in the place of this one, which does not recover.
    pub(crate) fn replace_session(&mut self) {
        self.disconnect();
        self.connect();
        self.session = Session::new(Arc::new(ClientConfig::default()), self.now);
        self.run();
        assert!(self.session.is_open());
        self.events.clear();
    }

    fn connect(&mut self) {
        self.peer.connect(self.now);
        self.connected = true;
    }

    /// Reconnects once, waiting as long as the session requests. Returns whether there is a transport.
    pub(crate) fn reconnect(&mut self) -> bool {
        loop {
            match self.session.poll_reconnect(self.now) {
                Reconnect::Wait(at) => self.now = at,
                Reconnect::Connect { .. } if self.reachable => {
                    self.connect();
                    let config = self.next_config.take();
                    assert!(self.session.handle_transport(self.now, config), "it asked for it");
                    return true;
                }
                Reconnect::Connect { .. } => {
                    self.session.handle_unreachable(self.now, ConnectStep::Tcp, "no route to host");
                    return false;
                }
                _ => return false,
            }
        }
    }

    /// Reconnects and runs until the session is restored. Returns its report.
    pub(crate) fn recover(&mut self) -> RecoveryReport {
        for _ in 0..100 {
            self.reconnect();
            self.run();
            if self.session.is_open() {
                return self.report().clone();
            }
        }
        panic!("not recovered: {:?}", self.events);
    }

    /// Sets the recovery policy of the session.
    fn recover_with(&mut self, recovery: Recovery) {
        self.session.recover_with(recovery, 1, 0);
    }

    /// The last report of a recovery.
    pub(crate) fn report(&self) -> &RecoveryReport {
        let report = self.events.iter().rev().find_map(|event| match event {
            Event::Session(SessionEvent::Recovered(report)) => Some(&**report),
            _ => None,
        });
        report.expect("it is recovered")
    }

    pub(crate) fn channel(&mut self, id: ChannelId) -> SessionChannel<'_> {
        self.session.channel(id).expect("it is open")
    }

    pub(crate) fn session_events(&self) -> impl Iterator<Item = &SessionEvent> {
        self.events.iter().filter_map(|event| match event {
            Event::Session(event) => Some(event),
            _ => None,
        })
    }

    pub(crate) fn channel_events(&self) -> impl Iterator<Item = &ChannelEvent> {
        self.events.iter().filter_map(|event| match event {
            Event::Channel(_, event) => Some(event),
            _ => None,
        })
    }

    /// The consumers that were reported to have failed.
    pub(crate) fn failed_consumers(&self) -> Vec<ConsumerId> {
        let failed = self.channel_events().filter_map(|event| match event {
            ChannelEvent::ConsumerFailed { consumer, .. } => Some(*consumer),
            _ => None,
        });
        failed.collect()
    }

    /// The publishes that were confirmed.
    pub(crate) fn confirmed(&self) -> Vec<u64> {
        let confirmed = self.channel_events().filter_map(|event| match event {
            ChannelEvent::Confirmed { publishes, ack: true } => {
                Some(publishes.start().get()..=publishes.end().get())
            }
            _ => None,
        });
        confirmed.flatten().collect()
    }
}
