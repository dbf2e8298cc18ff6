//! One direction of a simulated transport.

use std::collections::VecDeque;
use std::time::{Duration, Instant};

use bytes::{Buf, BufMut, Bytes, BytesMut};
use fastrand::Rng;

/// The way in which a wire ends.
#[derive(Debug, Clone, Copy, PartialEq, Eq)]
pub(crate) enum End {
    /// Everything arrives, then the end of the stream.
    Eof,
    /// Input that has not been read is lost.
    Reset,
}

/// The treatment of bytes that are sent over a wire.
#[derive(Debug, Clone, Copy)]
pub(crate) struct Conditions {
    /// Maximum delay of a piece.
    pub(crate) latency: Duration,
    /// The most bytes that one write accepts or one read returns.
    pub(crate) piece: usize,
    /// Number of bytes in transit before the writer has to wait.
    pub(crate) capacity: usize,
}

/// Bytes in transit from one end to the other, in order.
#[derive(Debug)]
pub(crate) struct Wire {
    conditions: Conditions,
    rng: Rng,
    flying: VecDeque<(Instant, Bytes)>,
    flying_bytes: usize,
    arrived: BytesMut,
    /// Nothing arrives earlier than bytes that were sent before.
    last_arrival: Instant,
    /// Nothing arrives before.
    stalled_until: Instant,
    /// After this many more bytes, the wire breaks.
    cut_after: Option<Break>,
    frames: Frames,
    end: Option<End>,
    /// True if the reader has seen the end.
    told: bool,
}

#[derive(Debug, Clone, Copy)]
struct Break {
    after: usize,
    end: End,
    at_frame: bool,
}

/// The ends of the frames of a stream, or of the records of a stream inside TLS.
#[derive(Debug, Clone, Default)]
struct Frames {
    tls: bool,
    /// The part of a frame's header that has arrived: type, channel and size.
    header: Vec<u8>,
    /// Number of bytes left of its payload and its end octet.
    left: usize,
}

impl Frames {
    /// The bytes of a frame that are not its payload: its header and its end.
    const HEADER: usize = 7;

    /// Goes on over bytes that were sent.
    fn pass(&mut self, bytes: &[u8]) {
        let mut bytes = bytes;
        while let Some((byte, rest)) = bytes.split_first() {
            if self.left > 0 {
                let payload = self.left.min(bytes.len());
                self.left -= payload;
                bytes = &bytes[payload..];
                continue;
            }
            bytes = rest;
            self.header.push(*byte);
            if self.tls {
                if let [_, _, _, high, low] = self.header[..] {
                    self.left = usize::from(u16::from_be_bytes([high, low]));
                    self.header.clear();
                }
                continue;
            }
            // The protocol header, which begins a connection, is one byte longer, and no frame.
            if self.header.first() == Some(&b'A') {
                if self.header.len() == Self::HEADER + 1 {
                    self.header.clear();
                }
            } else if self.header.len() == Self::HEADER {
                let size = self.header[3..].iter();
                self.left = 1 + size.fold(0, |size, byte| size << 8 | usize::from(*byte));
                self.header.clear();
            }
        }
    }

    /// After how many of these bytes a frame ends, at least `from` and at most `most`.
    fn boundary(&self, bytes: &[u8], from: usize, most: usize) -> Option<usize> {
        let mut frames = self.clone();
        (1..=most).find(|count| {
            frames.pass(&bytes[count - 1..*count]);
            *count >= from && frames.left == 0 && frames.header.is_empty()
        })
    }
}

/// The result of a read.
#[derive(Debug, PartialEq, Eq)]
pub(crate) enum Read {
    Bytes(Bytes),
    Nothing,
    End(End),
}

impl Wire {
    pub(crate) fn new(conditions: Conditions, seed: u64, tls: bool, now: Instant) -> Self {
        Self {
            conditions,
            rng: Rng::with_seed(seed),
            flying: VecDeque::new(),
            flying_bytes: 0,
            arrived: BytesMut::new(),
            last_arrival: now,
            stalled_until: now,
            cut_after: None,
            frames: Frames { tls, ..Frames::default() },
            end: None,
            told: false,
        }
    }

    /// Returns how much can be written now.
    pub(crate) fn room(&self) -> usize {
        match self.end {
            Some(_) => 0,
            None => self.conditions.capacity.saturating_sub(self.flying_bytes + self.arrived.len()),
        }
    }

    pub(crate) const fn is_broken(&self) -> bool {
        self.end.is_some()
    }

    /// Takes a piece of the pending output, of any size that there is room for. Returns whether there was any.
    pub(crate) fn write(&mut self, now: Instant, source: &mut impl Buf) -> bool {
        let most = source.chunk().len().min(self.room()).min(self.conditions.piece);
        if most == 0 {
            return false;
        }
        // Mostly all of it: else large bodies take forever.
        let mut count = if self.rng.u8(..4) == 0 { self.rng.usize(1..=most) } else { most };
        let mut ends = None;
        if let Some(cut) = &mut self.cut_after {
            if cut.after > count {
                cut.after -= count;
            } else if !cut.at_frame {
                (count, ends) = (cut.after, Some(cut.end));
            } else if let Some(boundary) = self.frames.boundary(source.chunk(), cut.after, most) {
                (count, ends) = (boundary, Some(cut.end));
            } else {
                cut.after = 1;
            }
        }
        let bytes = source.copy_to_bytes(count);
        self.frames.pass(&bytes);
        self.send(now, bytes);
        if let Some(end) = ends {
            self.cut_after = None;
            self.close(end);
        }
        true
    }

    /// Takes all that there is to write, whether there is room for it or not, unless the wire breaks.
    pub(crate) fn write_all(&mut self, now: Instant, source: &mut impl Buf) {
        let conditions = self.conditions;
        self.conditions.capacity = usize::MAX;
        while source.has_remaining() && self.write(now, source) {}
        self.conditions = conditions;
    }

    fn send(&mut self, now: Instant, bytes: Bytes) {
        let most = u64::try_from(self.conditions.latency.as_micros()).unwrap_or(u64::MAX);
        let latency = Duration::from_micros(self.rng.u64(0..=most));
        self.last_arrival = self.last_arrival.max(now + latency);
        self.flying_bytes += bytes.len();
        self.flying.push_back((self.last_arrival, bytes));
    }

    /// Ends the wire. A reset loses the bytes in transit; the end of the stream comes behind them.
    pub(crate) fn close(&mut self, end: End) {
        if end == End::Reset {
            self.flying.clear();
            self.flying_bytes = 0;
        }
        self.end.get_or_insert(end);
    }

    /// Lets the wire break after so many bytes more, or behind the frame in which they end.
    pub(crate) fn cut_after(&mut self, bytes: usize, end: End, at_frame: bool) {
        if self.end.is_none() {
            self.cut_after = Some(Break { after: bytes.max(1), end, at_frame });
        }
    }

    pub(crate) fn stall(&mut self, until: Instant) {
        self.stalled_until = self.stalled_until.max(until);
    }

    /// Delivers the bytes that have arrived until now.
    pub(crate) fn arrive(&mut self, now: Instant) {
        if now < self.stalled_until {
            return;
        }
        while self.flying.front().is_some_and(|(at, _)| *at <= now) {
            let Some((_, bytes)) = self.flying.pop_front() else { return };
            self.flying_bytes -= bytes.len();
            self.arrived.put(bytes);
        }
    }

    /// Returns when something arrives next.
    pub(crate) fn next_arrival(&self) -> Option<Instant> {
        self.flying.front().map(|(at, _)| (*at).max(self.stalled_until))
    }

    /// Returns whether a read would return anything.
    pub(crate) fn is_readable(&self) -> bool {
        !self.arrived.is_empty() || !self.told && self.end.is_some() && self.flying.is_empty()
    }

    /// Returns whether nothing is under way, and the wire is whole.
    pub(crate) fn is_idle(&self) -> bool {
        self.arrived.is_empty() && self.flying.is_empty() && self.end.is_none()
    }

    /// Reads a piece of any size up to `room`.
    pub(crate) fn read(&mut self, room: usize) -> Read {
        if self.arrived.is_empty() {
            return match self.end {
                Some(end) if self.flying.is_empty() && !self.told => {
                    self.told = true;
                    Read::End(end)
                }
                _ => Read::Nothing,
            };
        }
        let most = self.arrived.len().min(self.conditions.piece).min(room);
        let count = if self.rng.u8(..4) == 0 { self.rng.usize(1..=most) } else { most };
        Read::Bytes(self.arrived.split_to(count).freeze())
    }
}
