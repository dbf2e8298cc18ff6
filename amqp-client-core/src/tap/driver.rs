//! The driver's side of the taps.

use std::net::SocketAddr;
use std::sync::atomic::{AtomicU64, Ordering};
use std::time::{Instant, SystemTime};

use amqp_proto::{ConnectionError, Transmit};
use bytes::Buf as _;

use super::split::{Part, Splitter};
use super::{Direction, Frame, Tap, Taps, Transport};
use crate::panics::contained;

/// The number of the last connection that has a tap.
static CONNECTIONS: AtomicU64 = AtomicU64::new(0);

/// The taps of a connection, over all its transports.
#[derive(Debug)]
pub(crate) struct ConnectionTap {
    taps: Taps,
    connection: u64,
    transports: u64,
}

impl ConnectionTap {
    /// Returns the taps of a new connection, if it has any.
    pub(crate) fn new(taps: Taps) -> Option<Box<Self>> {
        let any = !taps.0.is_empty();
        any.then(|| {
            let connection = CONNECTIONS.fetch_add(1, Ordering::Relaxed) + 1;
            Box::new(Self { taps, connection, transports: 0 })
        })
    }

    /// Begins the next transport.
    pub(crate) fn transport(&mut self, now: Instant) -> Box<TransportTap> {
        self.transports += 1;
        let transport = Transport {
            connection: self.connection,
            number: self.transports,
            peer: None,
            since: now,
            since_system_time: SystemTime::now(),
        };
        Box::new(TransportTap {
            taps: self.taps.clone(),
            transport,
            sent: Splitter::default(),
            received: Splitter::default(),
            phase: Phase::New,
            last: now,
        })
    }
}

/// The taps of one transport. When it is dropped, it reports the end of the transport, if that was not reported before.
pub(crate) struct TransportTap {
    taps: Taps,
    transport: Transport,
    sent: Splitter,
    received: Splitter,
    phase: Phase,
    /// The time of the last turn, read or write.
    last: Instant,
}

#[derive(Clone, Copy, PartialEq, Eq)]
enum Phase {
    /// Nothing is reported yet. The address of the peer may still be unknown.
    New,
    Connected,
    Ended,
}

impl TransportTap {
    /// Reports that the transport is connected, unless this was reported before.
    pub(crate) fn connected(&mut self, now: Instant, peer: Option<SocketAddr>) {
        self.last = now;
        if self.phase == Phase::New {
            self.transport.peer = peer;
            self.begin();
        }
    }

    /// Reports that the transport is no longer used, unless this was reported before.
    pub(crate) fn disconnected(&mut self, now: Instant, reason: Option<&ConnectionError>) {
        if self.phase == Phase::Ended {
            return;
        }
        self.begin();
        let Self { taps, transport, sent, received, phase, .. } = self;
        sent.end(&mut reporter(taps, transport, Direction::Sent, now));
        received.end(&mut reporter(taps, transport, Direction::Received, now));
        taps.each(|tap| tap.disconnected(transport, now, reason));
        taps.each(|tap| tap.flush());
        *phase = Phase::Ended;
    }

    /// Reports the frames that end in these bytes, which were read.
    pub(crate) fn received(&mut self, now: Instant, bytes: &[u8]) {
        self.begin();
        self.last = now;
        let Self { taps, transport, received, .. } = self;
        received.split(bytes, &mut reporter(taps, transport, Direction::Received, now));
        taps.each(|tap| tap.flush());
    }

    /// Reports the frames that end in the first `count` bytes of the output, which were written. Removes these bytes from the output.
    pub(crate) fn written(&mut self, now: Instant, output: &mut Transmit, count: usize) {
        self.begin();
        self.last = now;
        let Self { taps, transport, sent, .. } = self;
        let mut report = reporter(taps, transport, Direction::Sent, now);
        let mut left = count.min(output.remaining());
        while left > 0 {
            let chunk = output.chunk();
            let part = chunk.get(..left).unwrap_or(chunk);
            let len = part.len();
            sent.split(part, &mut report);
            output.advance(len);
            left -= len;
        }
        taps.each(|tap| tap.flush());
    }

    fn begin(&mut self) {
        if self.phase == Phase::New {
            self.phase = Phase::Connected;
            self.taps.each(|tap| tap.connected(&self.transport));
            self.taps.each(|tap| tap.flush());
        }
    }
}

impl Drop for TransportTap {
    fn drop(&mut self) {
        self.disconnected(self.last, None);
    }
}

/// Returns a function that shows a part of the bytes to all taps.
fn reporter<'a>(
    taps: &'a Taps,
    transport: &'a Transport,
    direction: Direction,
    at: Instant,
) -> impl FnMut(Part<'_>) + 'a {
    move |Part { kind, bytes, masked }| {
        taps.each(|tap| tap.frame(&Frame { transport, direction, at, kind, bytes, masked }));
    }
}

impl Taps {
    /// Calls each tap. A panic of one does not keep the others from being called.
    fn each(&self, call: impl Fn(&dyn Tap)) {
        for tap in &self.0 {
            contained(|| call(&**tap));
        }
    }
}
