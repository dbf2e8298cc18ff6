//! Frames: the units of the wire format (spec 2.3, 4.2.3).

use alloc::vec::Vec;
use core::fmt;

use bytes::{Buf as _, Bytes, BytesMut};

use crate::wire::{DecodeError, DecodeErrorKind};

/// The first bytes of a client: `AMQP`, 0, and the version 0-9-1.
pub const PROTOCOL_HEADER: [u8; 8] = *b"AMQP\x00\x00\x09\x01";

/// Bytes of a frame that are not payload: type, channel and size before the payload, and the end octet after it.
pub const FRAME_OVERHEAD: usize = HEAD + 1;

/// The smallest limit that peers can agree on (spec 1.2, `frame-min-size`).
pub const FRAME_MIN_SIZE: u32 = 4096;

/// Number of bytes by which a content header from a server may exceed the negotiated limit.
///
/// RabbitMQ: it sends content headers that exceed the limit, because they cannot be split. Such a header comes from a publisher
/// with a higher limit, or has grown while the message was dead-lettered (`x-death`). A client that refused them would get the
/// same message again with each connection.
pub const HEADER_EXCESS: u32 = 1024 * 1024;

/// The octet after each payload.
pub const FRAME_END: u8 = 0xCE;

/// Type, channel and size.
const HEAD: usize = 7;

/// The kind of a frame.
#[derive(Debug, Clone, Copy, PartialEq, Eq, Hash)]
#[expect(clippy::exhaustive_enums, reason = "the specification knows these four")]
pub enum FrameKind {
    /// A method.
    Method,
    /// A content header.
    Header,
    /// A part of a body.
    Body,
    /// A heartbeat, without payload.
    Heartbeat,
}

impl FrameKind {
    /// The type octet.
    #[must_use]
    pub const fn octet(self) -> u8 {
        match self {
            Self::Method => 1,
            Self::Header => 2,
            Self::Body => 3,
            Self::Heartbeat => 8,
        }
    }

    /// Returns the kind with that type octet, if there is one.
    #[must_use]
    pub const fn from_octet(octet: u8) -> Option<Self> {
        Some(match octet {
            1 => Self::Method,
            2 => Self::Header,
            3 => Self::Body,
            8 => Self::Heartbeat,
            _ => return None,
        })
    }

    pub(crate) const fn name(self) -> &'static str {
        match self {
            Self::Method => "method",
            Self::Header => "content header",
            Self::Body => "body",
            Self::Heartbeat => "heartbeat",
        }
    }
}

/// A frame, for reading and writing frames by hand.
///
/// ```
/// use amqp_proto::frame::{Frame, FrameKind};
/// use bytes::{Bytes, BytesMut};
///
/// let frame = Frame { kind: FrameKind::Body, channel: 1, payload: Bytes::from("hello") };
/// let mut wire = Vec::new();
/// frame.encode(&mut wire);
/// assert_eq!(Frame::decode(&mut BytesMut::from(&wire[..]), 4096), Ok(Some(frame)));
/// ```
#[derive(Clone, PartialEq, Eq)]
#[expect(clippy::exhaustive_structs, reason = "a frame is these three things")]
pub struct Frame {
    /// The kind of the payload.
    pub kind: FrameKind,
    /// The channel; 0 is the connection itself.
    pub channel: u16,
    /// The payload.
    pub payload: Bytes,
}

/// Shows the length of the payload, but none of its bytes: there may be credentials or a body.
impl fmt::Debug for Frame {
    fn fmt(&self, f: &mut fmt::Formatter<'_>) -> fmt::Result {
        f.debug_struct("Frame")
            .field("kind", &self.kind)
            .field("channel", &self.channel)
            .field("payload_len", &self.payload.len())
            .finish_non_exhaustive()
    }
}

impl Frame {
    /// Removes the next frame from `input`, or returns `None` while it is incomplete.
    ///
    /// # Errors
    /// [`DecodeError`] if the input is not a frame, or the frame is larger than `frame_max` bytes.
    pub fn decode(input: &mut BytesMut, frame_max: u32) -> Result<Option<Self>, DecodeError> {
        let Some(head) = FrameHead::peek(input, frame_max, frame_max)? else {
            return Ok(None);
        };
        let mut whole = input.split_to(head.whole_len()).freeze();
        whole.advance(HEAD);
        whole.truncate(head.payload_len);
        Ok(Some(Self { kind: head.kind, channel: head.channel, payload: whole }))
    }

    /// Returns the length of the frame that `input` begins with, or `None` while the frame is incomplete. The frame stays where it
    /// is: this is for code that looks at frames as they pass.
    ///
    /// ```
    /// use amqp_proto::frame::Frame;
    ///
    /// let heartbeat = [8, 0, 0, 0, 0, 0, 0, 0xCE];
    /// assert_eq!(Frame::whole_len(&heartbeat, 4096), Ok(Some(8)));
    /// assert_eq!(Frame::whole_len(&heartbeat[..7], 4096), Ok(None));
    /// assert!(Frame::whole_len(b"HTTP/1.1 400", 4096).is_err());
    /// ```
    ///
    /// # Errors
    /// As [`decode`](Self::decode).
    pub fn whole_len(input: &[u8], frame_max: u32) -> Result<Option<usize>, DecodeError> {
        if let Some(kind) = input.first().filter(|kind| FrameKind::from_octet(**kind).is_none()) {
            return Err(DecodeError::new(DecodeErrorKind::UnknownFrameType(*kind), "frame head"));
        }
        Ok(FrameHead::peek(input, frame_max, frame_max)?.map(FrameHead::whole_len))
    }

    /// Appends the frame.
    pub fn encode(&self, out: &mut Vec<u8>) {
        let start = begin(out, self.kind, self.channel);
        out.extend_from_slice(&self.payload);
        finish(out, start);
    }
}

/// The head of a frame whose bytes are all there.
#[derive(Debug, Clone, Copy, PartialEq, Eq)]
pub(crate) struct FrameHead {
    pub(crate) kind: FrameKind,
    pub(crate) channel: u16,
    pub(crate) payload_len: usize,
}

impl FrameHead {
    /// Reads the head of the frame at the start of `input`, if the frame is complete, and checks its end. Content headers have
    /// a limit of their own.
    #[inline]
    pub(crate) fn peek(
        input: &[u8],
        frame_max: u32,
        header_max: u32,
    ) -> Result<Option<Self>, DecodeError> {
        let Some(&[kind, c0, c1, s0, s1, s2, s3]) = input.first_chunk() else {
            return Ok(None);
        };
        let (channel, size) = (u16::from_be_bytes([c0, c1]), u32::from_be_bytes([s0, s1, s2, s3]));
        let Some(kind) = FrameKind::from_octet(kind) else {
            return Err(DecodeError::new(DecodeErrorKind::UnknownFrameType(kind), "frame head"));
        };
        // The size is checked before anything waits, or reserves memory, for that many bytes.
        let max = if kind == FrameKind::Header { header_max } else { frame_max };
        if size > max.saturating_sub(8) {
            let size = u64::from(size) + 8;
            let kind = DecodeErrorKind::FrameTooLarge { size, max };
            return Err(DecodeError::new(kind, "frame head"));
        }
        let payload_len = usize::try_from(size).unwrap_or(usize::MAX - FRAME_OVERHEAD);
        match input.get(HEAD + payload_len) {
            None => Ok(None),
            Some(&FRAME_END) => Ok(Some(Self { kind, channel, payload_len })),
            Some(&other) => Err(DecodeError::new(DecodeErrorKind::FrameEnd(other), "frame end")),
        }
    }

    /// Reads the head of a frame that was looked at before, and found whole.
    #[inline]
    pub(crate) fn again(input: &[u8]) -> Option<Self> {
        let &[kind, c0, c1, s0, s1, s2, s3] = input.first_chunk()?;
        let payload_len = usize::try_from(u32::from_be_bytes([s0, s1, s2, s3])).ok()?;
        let kind = FrameKind::from_octet(kind)?;
        Some(Self { kind, channel: u16::from_be_bytes([c0, c1]), payload_len })
    }

    /// Returns the range of the payload of a frame that starts at `start`.
    pub(crate) const fn payload(self, start: usize) -> core::ops::Range<usize> {
        start + HEAD..start + HEAD + self.payload_len
    }

    /// The length of the whole frame.
    pub(crate) const fn whole_len(self) -> usize {
        self.payload_len + FRAME_OVERHEAD
    }
}

/// Appends a frame's head and returns where its payload starts; [`finish`] fills the size in.
pub(crate) fn begin(out: &mut Vec<u8>, kind: FrameKind, channel: u16) -> usize {
    let [high, low] = channel.to_be_bytes();
    out.extend_from_slice(&[kind.octet(), high, low, 0, 0, 0, 0]);
    out.len()
}

/// Ends the frame whose payload starts at `start`. Sizes are checked by the callers, against `frame_max`.
#[inline]
pub(crate) fn finish(out: &mut Vec<u8>, start: usize) {
    let size = u32::try_from(out.len() - start).unwrap_or(u32::MAX);
    if let Some(field) = out.get_mut(start - 4..start) {
        field.copy_from_slice(&size.to_be_bytes());
    }
    out.push(FRAME_END);
}

/// The head of a frame whose payload is written elsewhere.
pub(crate) fn head(kind: FrameKind, channel: u16, payload_len: usize) -> [u8; HEAD] {
    let [c0, c1] = channel.to_be_bytes();
    let [s0, s1, s2, s3] = size(payload_len);
    [kind.octet(), c0, c1, s0, s1, s2, s3]
}

/// The size field of a frame.
pub(crate) fn size(payload_len: usize) -> [u8; 4] {
    u32::try_from(payload_len).unwrap_or(u32::MAX).to_be_bytes()
}
