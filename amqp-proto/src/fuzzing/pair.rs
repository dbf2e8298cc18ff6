//! Both ends in memory, and the bytes between them.

use std::sync::Arc;
use std::time::{Duration, Instant};

use bytes::{Buf as _, BufMut as _, BytesMut};

use crate::{ClientConfig, Connection, Event, Limits, ServerConfig, ServerEvent};

pub(super) struct Pair {
    pub(super) client: Connection,
    pub(super) server: Connection,
    pub(super) now: Instant,
    up: Wire,
    down: Wire,
    whole: bool,
}

/// One direction.
#[derive(Default)]
struct Wire {
    flying: BytesMut,
    /// Input that is not a complete frame yet.
    input: BytesMut,
}

impl Pair {
    /// An open connection.
    #[expect(clippy::disallowed_methods, reason = "virtual time has to start somewhere")]
    pub(super) fn new() -> Self {
        let now = Instant::now();
        let config = ClientConfig::default().limits(Limits::default().body_max(1 << 16));
        let mut pair = Self {
            client: Connection::client(Arc::new(config), now),
            server: Connection::server(Arc::new(ServerConfig::default()), now),
            now,
            up: Wire::default(),
            down: Wire::default(),
            whole: true,
        };
        while !pair.client.is_open() {
            pair.carry_all();
            while pair.client.poll_event().is_some() {}
            while let Some(event) = pair.server.poll_event() {
                let _decided = match event {
                    Event::Server(ServerEvent::Login { .. }) => pair.server.accept_login(),
                    Event::Server(ServerEvent::Open { .. }) => pair.server.accept_open(),
                    _ => Ok(()),
                };
            }
        }
        pair
    }

    /// Returns whether everything arrived, or will arrive, as it was sent.
    pub(super) const fn is_whole(&self) -> bool {
        self.whole
    }

    /// Lets bytes arrive in one direction, up to so many.
    pub(super) fn carry(&mut self, up: bool, most: usize) {
        self.write();
        let (wire, end) = match up {
            true => (&mut self.up, &mut self.server),
            false => (&mut self.down, &mut self.client),
        };
        let count = wire.flying.len().min(most);
        wire.input.put(wire.flying.split_to(count));
        // The error becomes the connection's end.
        let _over = end.handle_input(self.now, &mut wire.input);
    }

    /// Lets everything arrive, in both directions.
    pub(super) fn carry_all(&mut self) {
        self.carry(true, usize::MAX);
        self.carry(false, usize::MAX);
    }

    fn write(&mut self) {
        for (end, wire) in [(&mut self.client, &mut self.up), (&mut self.server, &mut self.down)] {
            while let Some(transmit) = end.poll_transmit(self.now) {
                wire.flying.put(transmit);
            }
        }
    }

    /// Changes a bit of the bytes in transit.
    pub(super) fn flip(&mut self, up: bool, at: usize, bit: u8) {
        self.write();
        let wire = if up { &mut self.up } else { &mut self.down };
        if let Some(byte) = wire.flying.get_mut(at) {
            *byte ^= 1 << (bit % 8);
            self.whole = false;
        }
    }

    pub(super) fn pass(&mut self, time: Duration) {
        self.now += time;
        self.client.handle_timeout(self.now);
        self.server.handle_timeout(self.now);
    }

    /// Processes bytes that neither end has sent, in pieces of given sizes.
    pub(super) fn feed(&mut self, bytes: &[u8], splits: &[u8], up: bool) {
        self.carry_all();
        let mut sizes = splits.iter().map(|size| usize::from(*size).max(1)).chain([usize::MAX]);
        let mut rest = bytes;
        while !rest.is_empty() {
            let (part, more) = rest.split_at(sizes.next().unwrap_or(usize::MAX).min(rest.len()));
            let wire = if up { &mut self.up } else { &mut self.down };
            wire.flying.extend_from_slice(part);
            self.carry(up, usize::MAX);
            let end = if up { &mut self.server } else { &mut self.client };
            while end.poll_event().is_some() {}
            rest = more;
        }
        self.pass(Duration::from_secs(600));
        self.end();
    }

    /// The transport ends.
    pub(super) fn end(&mut self) {
        self.client.handle_eof(self.now);
        self.server.handle_eof(self.now);
        for end in [&mut self.client, &mut self.server] {
            while let Some(transmit) = end.poll_transmit(self.now) {
                transmit.advance(transmit.remaining());
            }
        }
    }
}
