//! Puts frames together from pieces of any size.

use amqp_proto::config::FRAME_MAX_CAP;
use amqp_proto::frame::{Frame, FrameKind, HEADER_EXCESS, PROTOCOL_HEADER};
use amqp_proto::method::mask_credentials;

use super::Kind;

/// The largest frame that the client accepts, in bytes. It limits the memory for an incomplete frame.
const FRAME_SIZE_MAX: u32 = FRAME_MAX_CAP + HEADER_EXCESS;

/// The memory, in bytes, that is kept for the next incomplete frame.
const KEPT: usize = 64 * 1024;

/// The number of bytes before the payload: type, channel and size.
const HEAD: usize = amqp_proto::frame::FRAME_OVERHEAD - 1;

/// The beginning of the protocol headers of all versions.
const PROTOCOL: &[u8] = b"AMQP";

/// A part of the bytes, as it is reported to the taps.
pub(super) struct Part<'a> {
    pub(super) kind: Kind,
    pub(super) bytes: &'a [u8],
    pub(super) masked: bool,
}

/// Puts the frames of one direction together, and masks credentials.
#[derive(Default)]
pub(super) struct Splitter {
    /// The beginning of a frame.
    partial: Vec<u8>,
    expects: Expects,
}

#[derive(Clone, Copy, PartialEq, Eq, Default)]
enum Expects {
    /// A protocol header or a frame.
    #[default]
    Start,
    Frames,
    /// Some bytes were not a frame, so it is unknown where the next frame begins.
    Nothing,
}

impl Splitter {
    /// Reports the frames that end in these bytes, and keeps the beginning of the next.
    pub(super) fn split(&mut self, bytes: &[u8], report: &mut impl FnMut(Part<'_>)) {
        if self.partial.is_empty() {
            let used = self.report_whole(bytes, report).0;
            self.partial.extend_from_slice(bytes.get(used..).unwrap_or_default());
            return;
        }
        let mut partial = std::mem::take(&mut self.partial);
        partial.extend_from_slice(bytes);
        let (used, masked) = self.report_whole(&partial, report);
        if masked {
            wipe(partial.get_mut(..used).unwrap_or_default());
        }
        partial.drain(..used);
        if partial.is_empty() {
            partial.shrink_to(KEPT);
        }
        self.partial = partial;
    }

    /// Reports the beginning of a frame whose end never comes.
    pub(super) fn end(&mut self, report: &mut impl FnMut(Part<'_>)) {
        let mut partial = std::mem::take(&mut self.partial);
        if !partial.is_empty() {
            report_broken(Kind::Cut, &partial, report);
            wipe(&mut partial);
        }
    }

    /// Reports the whole frames. Returns the number of their bytes, and whether one of them had credentials.
    fn report_whole(&mut self, bytes: &[u8], report: &mut impl FnMut(Part<'_>)) -> (usize, bool) {
        let (mut rest, mut any_masked) = (bytes, false);
        while !rest.is_empty() {
            let (kind, len) = match self.first(rest) {
                First::Incomplete => break,
                First::Whole(kind, len) => (kind, len),
                First::Unreadable => {
                    self.expects = Expects::Nothing;
                    report_broken(Kind::Unreadable, rest, report);
                    return (bytes.len(), true);
                }
            };
            self.expects = Expects::Frames;
            let (whole, after) = rest.split_at_checked(len).unwrap_or((rest, &[]));
            any_masked |= report_frame(kind, whole, report);
            rest = after;
        }
        (bytes.len() - rest.len(), any_masked)
    }

    /// Returns the kind of the first part of the bytes. There is at least one byte.
    fn first(&self, bytes: &[u8]) -> First {
        let header_len = PROTOCOL_HEADER.len();
        match self.expects {
            Expects::Nothing => First::Unreadable,
            Expects::Start
                if bytes.iter().zip(PROTOCOL).all(|(byte, expected)| byte == expected) =>
            {
                match bytes.len() {
                    len if len < header_len => First::Incomplete,
                    _ => First::Whole(Kind::ProtocolHeader, header_len),
                }
            }
            Expects::Start | Expects::Frames => {
                let kind = bytes.first().and_then(|octet| FrameKind::from_octet(*octet));
                match (kind, Frame::whole_len(bytes, FRAME_SIZE_MAX)) {
                    (Some(kind), Ok(Some(len))) => First::Whole(Kind::Frame(kind), len),
                    (Some(_), Ok(None)) => First::Incomplete,
                    _ => First::Unreadable,
                }
            }
        }
    }
}

/// The first part of some bytes.
enum First {
    Whole(Kind, usize),
    Incomplete,
    Unreadable,
}

/// Reports a whole frame. Returns whether it had credentials.
fn report_frame(kind: Kind, bytes: &[u8], report: &mut impl FnMut(Part<'_>)) -> bool {
    let payload = || bytes.get(HEAD..bytes.len().saturating_sub(1)).unwrap_or_default();
    let is_method = kind == Kind::Frame(FrameKind::Method);
    let Some(masked) = is_method.then(payload).and_then(mask_credentials) else {
        report(Part { kind, bytes, masked: false });
        return false;
    };
    let channel = bytes.get(1..3).and_then(<[u8]>::first_chunk).copied().unwrap_or_default();
    let frame = Frame {
        kind: FrameKind::Method,
        channel: u16::from_be_bytes(channel),
        payload: masked.into(),
    };
    let mut encoded = Vec::new();
    frame.encode(&mut encoded);
    report(Part { kind, bytes: &encoded, masked: true });
    true
}

/// Reports bytes that are not a whole frame, and masks credentials in them. They may be the beginning of a frame of this client, or a
/// copy of it that a peer sent back.
fn report_broken(kind: Kind, bytes: &[u8], report: &mut impl FnMut(Part<'_>)) {
    let is_method = bytes.first() == Some(&FrameKind::Method.octet());
    let ids = bytes.get(HEAD..HEAD + 4).filter(|_| is_method);
    match ids.and_then(mask_credentials) {
        // Only the ids of the method are passed, so the mask replaces all arguments.
        Some(masked) => {
            let bytes = [bytes.get(..HEAD).unwrap_or_default(), &masked].concat();
            report(Part { kind, bytes: &bytes, masked: true });
        }
        None => report(Part { kind, bytes, masked: false }),
    }
}

/// Overwrites credentials, as far as safe code can do that.
fn wipe(bytes: &mut [u8]) {
    bytes.fill(0);
    // Otherwise the compiler might remove the write, because nothing reads it.
    std::hint::black_box(bytes);
}
