//! The broker's end of a TLS session.

use std::io::{self, Read as _, Write as _};
use std::time::Instant;

use bytes::{Buf, BufMut as _, BytesMut};
use fastrand::Rng;
use rustls::{AlertDescription, Error, ServerConnection};

use super::setup;
use crate::wire::Wire;

/// The largest fragment of a record.
const FRAGMENT: usize = 16 * 1024;

/// Between the broker and the wires.
pub(in crate::network) struct ServerEnd {
    session: ServerConnection,
    rng: Rng,
    /// Records that wait for the wire.
    outgoing: BytesMut,
    /// Bytes that came out of the session, and bytes that went into it.
    received: u64,
    sent: u64,
    /// True if the client has ended its session.
    peer_ended: bool,
    /// True if this end has.
    ended: bool,
}

/// The way in which the broker ends a transport.
#[derive(Debug, Clone, Copy, PartialEq, Eq)]
pub(in crate::network) enum Farewell {
    /// The transport ends, and the session within it does not.
    Silent,
    /// The session ends, and then the transport.
    Whole,
    /// The session ends. The client has to end the transport.
    HalfClosed,
}

impl ServerEnd {
    pub(in crate::network) fn new(seed: u64) -> Self {
        let mut rng = Rng::with_seed(seed);
        let node = [0, 0, 1, 2][rng.usize(..4)];
        let session = ServerConnection::new(setup().nodes[node].clone());
        Self {
            session: session.expect("nodes are set up well"),
            rng,
            outgoing: BytesMut::new(),
            received: 0,
            sent: 0,
            peer_ended: false,
            ended: false,
        }
    }

    /// Processes the bytes that arrived, and appends the plain text to `input`.
    pub(in crate::network) fn receive(
        &mut self,
        mut bytes: &[u8],
        input: &mut BytesMut,
    ) -> Result<(), String> {
        while !bytes.is_empty() {
            let taken = self.session.read_tls(&mut bytes).map_err(|error| failed(&error))?;
            if taken == 0 {
                return Err("a client goes on behind the end of its TLS session".to_owned());
            }
            self.peer_ended |= match self.session.process_new_packets() {
                Ok(state) => state.peer_has_closed(),
                // During the handshake, it counts as an error.
                Err(Error::AlertReceived(AlertDescription::CloseNotify)) => true,
                Err(error) => return Err(failed(&io::Error::other(error))),
            };
            let mut plain = Vec::new();
            // It fails when there is nothing more at present.
            let _nothing_more = self.session.reader().read_to_end(&mut plain);
            self.received += plain.len() as u64;
            input.extend_from_slice(&plain);
        }
        Ok(())
    }

    /// Writes records. Returns whether there is room for more, so that the session can take something.
    pub(in crate::network) fn flush(
        &mut self,
        now: Instant,
        wire: &mut Wire,
    ) -> Result<bool, String> {
        loop {
            while self.outgoing.has_remaining() {
                if !wire.write(now, &mut self.outgoing) {
                    return Ok(false);
                }
            }
            if !self.session.wants_write() {
                return Ok(!self.ended && !self.session.is_handshaking());
            }
            self.write_records()?;
        }
    }

    fn write_records(&mut self) -> Result<(), String> {
        let written = self.session.write_tls(&mut (&mut self.outgoing).writer());
        written.map(drop).map_err(|error| failed(&error))
    }

    /// Encrypts a part of the broker's output as a record, usually as much as fits.
    pub(in crate::network) fn take(&mut self, source: &mut impl Buf) -> Result<(), String> {
        let most = source.chunk().len().min(FRAGMENT);
        let count = if self.rng.u8(..4) == 0 { self.rng.usize(..=most) } else { most };
        if self.rng.u8(..64) == 0 {
            // Only TLS 1.3 can do that.
            let _changed = self.session.refresh_traffic_keys();
        }
        let chunk = &source.chunk()[..count];
        let taken = self.session.writer().write(chunk).map_err(|error| failed(&error))?;
        source.advance(taken);
        self.sent += taken as u64;
        Ok(())
    }

    /// Ends the session: the broker is not heard any more, and hears the client on. A session that has not begun goes on:
    /// peers do not notice its end before.
    pub(in crate::network) fn end(&mut self) {
        if !self.ended && !self.session.is_handshaking() {
            self.session.send_close_notify();
            self.ended = true;
        }
    }

    /// The broker has nothing more to say. Whatever waits goes out, and perhaps the end of the session.
    pub(in crate::network) fn finish(
        &mut self,
        now: Instant,
        wire: &mut Wire,
    ) -> Result<Farewell, String> {
        let all = [Farewell::Silent, Farewell::Whole, Farewell::HalfClosed];
        let farewell = all[self.rng.usize(..all.len())];
        if farewell != Farewell::Silent {
            self.end();
        }
        while self.session.wants_write() {
            self.write_records()?;
        }
        wire.write_all(now, &mut self.outgoing);
        Ok(if self.ended { farewell } else { Farewell::Silent })
    }

    /// The client has ended the transport in an orderly way.
    pub(in crate::network) fn judge_end(&mut self) -> Result<(), String> {
        // Amid a handshake of TLS 1.2, the end of the session is not noticed.
        match self.peer_ended || self.session.is_handshaking() {
            true => Ok(()),
            false => Err("a client has closed its transport, and not its TLS session".to_owned()),
        }
    }

    /// Returns whether all of a session that has ended is on the wire.
    pub(in crate::network) fn has_said_all(&self) -> bool {
        self.ended && self.is_drained()
    }

    pub(in crate::network) fn is_drained(&self) -> bool {
        self.outgoing.is_empty() && !self.session.wants_write()
    }

    pub(in crate::network) fn is_handshaking(&self) -> bool {
        self.session.is_handshaking()
    }

    pub(in crate::network) const fn received(&self) -> u64 {
        self.received
    }

    pub(in crate::network) const fn sent(&self) -> u64 {
        self.sent
    }
}

/// The network breaks transports, and damages nothing that it carries.
fn failed(error: &io::Error) -> String {
    format!("the broker cannot read or write TLS: {error}")
}
