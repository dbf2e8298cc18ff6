//! The harness of tests in memory, with the broker as a peer.

#![allow(dead_code, unused_imports, reason = "each user needs a part of it")]

#[path = "../../../amqp-client-core/tests/harness/mod.rs"]
mod base;

mod tls;

use std::time::Instant;

use amqp_client_core::proto::Transmit;
use amqp_client_core::{Config, Connection};
use amqp_test_broker::{Engine, Options, SessionId};
pub(crate) use base::*;
use bytes::BytesMut;
pub(crate) use tls::{TlsEnd, localhost};

/// The in-memory broker, and its side of the client's transport.
pub(crate) struct Broker {
    pub(crate) engine: Engine,
    /// The client, as long as the broker counts it as connected.
    pub(crate) client: Option<SessionId>,
}

impl Broker {
    /// A broker with nothing in it, to which a client has connected.
    pub(crate) fn new(now: Instant) -> Self {
        let mut broker = Self { engine: Engine::new(Options::new(), now), client: None };
        broker.connect(now);
        broker
    }

    /// Returns whether nothing more is to be sent to the client, so that the transport can be closed.
    pub(crate) fn is_over(&self) -> bool {
        self.client.is_none_or(|client| self.engine.is_over(client))
    }

    /// Returns the number of deliveries that the client has not acknowledged.
    pub(crate) fn unacknowledged_count(&self) -> usize {
        self.client.map_or(0, |client| self.engine.unacknowledged_count(client))
    }
}

impl Peer for Broker {
    fn connect(&mut self, now: Instant) {
        self.client = Some(self.engine.connect(now));
    }

    fn handle_input(&mut self, now: Instant, input: &mut BytesMut) {
        if let Some(client) = self.client {
            self.engine.handle_input(client, now, input);
        }
    }

    fn reply(&mut self, now: Instant) {
        self.engine.handle_timeout(now);
    }

    fn poll_transmit(&mut self, now: Instant) -> Option<&mut Transmit> {
        self.engine.poll_transmit(self.client?, now)
    }

    fn handle_eof(&mut self, now: Instant) {
        if let Some(client) = self.client.take() {
            self.engine.handle_eof(client, now);
        }
    }
}

impl ClientRig<Broker> {
    /// A client that connects to the broker.
    pub(crate) fn joined() -> (Self, Connection) {
        let now = Instant::now();
        let rig = Self::connecting(Config::default(), Broker::new(now), now);
        let connection = rig.connection.clone();
        (rig, connection)
    }
}
