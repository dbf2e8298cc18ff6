//! Putting a message together from its method, header and body frames, as a connection does.

use alloc::boxed::Box;
use core::mem;

use bytes::{Bytes, BytesMut};

use super::BASIC;
use super::apart::{Apart, Chunks};
use super::header::{FIXED_PART_LEN, fixed_part};
use super::progress::Progress;
use crate::body_pool::BodyPool;
use crate::delivery::DeliverArguments;
use crate::frame::{FrameHead, FrameKind};
use crate::method::{BasicPublish, BasicReturn};
use crate::outbound::Outbound;
use crate::wire::unwrapped;
use crate::{
    ConnectionError, ConsumerId, DecodeError, RawProperties, ShortStr, Unusable, Violation,
};

/// The first method of a message, waiting for the rest.
#[derive(Debug)]
pub(crate) enum ContentMethod {
    Deliver { consumer: ConsumerId, no_ack: bool, payload: Bytes },
    GetOk { payload: Bytes },
    Return(BasicReturn),
    Publish(BasicPublish),
}

impl ContentMethod {
    /// Returns whether the message becomes a [`Delivery`](crate::Delivery).
    const fn is_delivery(&self) -> bool {
        matches!(self, Self::Deliver { .. } | Self::GetOk { .. })
    }
}

/// A message of which some frames are still missing. One value serves one message after another.
#[derive(Debug, Default)]
pub(crate) struct Incoming {
    /// `None` between two messages.
    method: Option<ContentMethod>,
    progress: Progress,
    /// The reason why the body is counted and not stored.
    unusable: Option<Unusable>,
    body: Arrived,
    /// Bytes of method and properties that were copied out of the read buffer, and how many there were at the last copy.
    copied: usize,
    detached: Detached,
}

/// The part of a body that has arrived.
#[derive(Debug)]
enum Arrived {
    /// Several frames, copied together.
    Joined(BytesMut),
    /// All of it, in one frame.
    Single(Bytes),
    /// Several frames, uncopied.
    Chunks(Box<Chunks>),
}

impl Default for Arrived {
    fn default() -> Self {
        Self::Joined(BytesMut::new())
    }
}

/// The part of a message that has been copied out of the read buffer.
#[derive(Debug, Default, Clone, Copy, PartialEq, Eq, PartialOrd, Ord)]
enum Detached {
    #[default]
    Nothing,
    Method,
    Header,
}

/// A complete message.
#[derive(Debug)]
pub(crate) struct Complete {
    pub(crate) method: ContentMethod,
    pub(crate) properties: RawProperties,
    pub(crate) body: Result<Apart, Unusable>,
}

impl Incoming {
    /// Begins a message. The one before is complete.
    pub(crate) fn begin(&mut self, method: ContentMethod) {
        debug_assert!(self.method.is_none() && self.kept() == 0, "the message before is complete");
        self.method = Some(method);
    }

    /// Returns whether a message has begun, and is not taken yet.
    pub(crate) const fn has_begun(&self) -> bool {
        self.method.is_some()
    }

    /// Processes the content header. Properties are decoded only when they are read.
    pub(crate) fn header(
        &mut self,
        payload: &Bytes,
        outbound: &Outbound,
    ) -> Result<(), ConnectionError> {
        let header = self.progress.receive_header::<ConnectionError>(payload)?;
        let body_size = header.body_size;
        let body_max = match self.method {
            // A returned message may be as large as the messages that were sent, whatever the limit for others is: otherwise it
            // could not be attributed to a publish.
            Some(ContentMethod::Return(_)) => outbound.limits.body_max.max(outbound.returnable),
            _ => outbound.limits.body_max,
        };
        let too_large = Unusable::BodyTooLarge { size: body_size, limit: body_max };
        if outbound.limits.body_chunks
            && self.method.as_ref().is_some_and(ContentMethod::is_delivery)
        {
            self.body = Arrived::Chunks(Box::default());
        }
        self.unusable = (body_size > body_max).then_some(too_large);
        Ok(())
    }

    /// Adds a part of the body. Returns how many bytes are stored apart from the read buffer, or keep it alive. Memory grows with
    /// the bytes that arrive, not with the announced size. But if memory of an earlier body is free, it is reused.
    pub(crate) fn body(
        &mut self,
        payload: Bytes,
        body_pool: &mut BodyPool,
    ) -> Result<usize, Violation> {
        let body_size = self.progress.receive_body(payload.len())?;
        if self.unusable.is_some() {
            return Ok(0);
        }
        if payload.len() as u64 == body_size {
            self.body = Arrived::Single(payload);
            return Ok(0);
        }
        let body = match &mut self.body {
            Arrived::Chunks(chunks) => return Ok(chunks.push(payload, self.progress.is_complete())),
            Arrived::Joined(body) => body,
            // All of it was there, so this frame is empty.
            Arrived::Single(_) => return Ok(0),
        };
        if body.is_empty() {
            *body = body_pool.take(usize::try_from(body_size).unwrap_or(usize::MAX));
        }
        body.extend_from_slice(&payload);
        Ok(payload.len())
    }

    /// The rest comes with another read: copies what has arrived out of the read buffer, which it would otherwise keep alive.
    /// Returns how much was copied. The body is copied as it arrives.
    pub(crate) fn detach(&mut self) -> usize {
        let mut copied = 0;
        let mut copy = |bytes: &mut Bytes| {
            copied += bytes.len();
            *bytes = Bytes::copy_from_slice(bytes);
        };
        if self.detached == Detached::Nothing {
            self.detached = Detached::Method;
            match &mut self.method {
                Some(ContentMethod::Deliver { payload, .. } | ContentMethod::GetOk { payload }) => {
                    copy(payload);
                }
                Some(ContentMethod::Return(returned)) => {
                    let BasicReturn { reply_text, exchange, routing_key, .. } = returned;
                    copied += detach_all([reply_text, exchange, routing_key]);
                }
                Some(ContentMethod::Publish(publish)) => {
                    copied += detach_all([&mut publish.exchange, &mut publish.routing_key]);
                }
                None => {}
            }
        }
        if let (Some(header), Detached::Method) = (self.progress.header_mut(), self.detached) {
            self.detached = Detached::Header;
            copied += header.properties.as_encoded().len();
            let properties = Bytes::copy_from_slice(header.properties.as_encoded());
            header.properties = RawProperties::unchecked(properties);
        }
        self.copied += copied;
        copied
    }

    /// Returns the number of bytes of the message that are stored outside the read buffer.
    pub(crate) fn kept(&self) -> usize {
        let body = match &self.body {
            Arrived::Joined(body) => body.len(),
            Arrived::Single(_) => 0,
            Arrived::Chunks(chunks) => chunks.size(),
        };
        body + self.copied
    }

    /// Returns whether the message is complete.
    pub(crate) fn is_complete(&self) -> bool {
        self.progress.is_complete()
    }

    /// Takes the complete message.
    pub(crate) fn take_complete(&mut self, body_pool: &mut BodyPool) -> Option<Complete> {
        let method = self.method.take()?;
        let body = match mem::take(&mut self.body) {
            Arrived::Joined(body) => Apart::Whole(body_pool.finish(body)),
            Arrived::Single(body) => Apart::Whole(body),
            Arrived::Chunks(chunks) => chunks.into_apart(),
        };
        (self.copied, self.detached) = (0, Detached::Nothing);
        let header = self.progress.take_header();
        debug_assert!(header.is_some(), "a message without a header is not complete");
        let properties = header.map(|header| header.properties).unwrap_or_default();
        Some(Complete { method, properties, body: self.unusable.take().map_or(Ok(body), Err) })
    }

    /// Describes the frame that has to come next, for errors.
    pub(crate) const fn expected(&self) -> &'static str {
        self.progress.expected()
    }
}

/// Copies texts out of the read buffer. Returns how long they are.
fn detach_all<const N: usize>(texts: [&mut ShortStr; N]) -> usize {
    let detach = |text: &mut ShortStr| {
        *text = text.detached();
        text.as_bytes().len()
    };
    texts.into_iter().map(detach).sum()
}

/// The positions of the rest of a delivery in the bytes after its method frame: offsets of properties and body, and the end of
/// the last frame.
#[derive(Debug)]
pub(crate) struct Whole {
    pub(crate) properties: core::ops::Range<usize>,
    pub(crate) body: core::ops::Range<usize>,
    pub(crate) end: usize,
}

/// Looks for a message whose header and only body frame follow its method in one run of complete frames: the common case
/// of small messages, which then become deliveries without any state in between.
///
/// Returns `None` for everything else, errors included: [`Incoming`] handles it.
pub(crate) fn find_whole(chunk: &[u8], start: usize, channel: u16, body_max: u64) -> Option<Whole> {
    let header = next_frame(chunk, start, channel, FrameKind::Header)?;
    let at = header.payload(start);
    let payload = chunk.get(at.clone())?;
    let (_properties, (class, body_size)) = fixed_part(payload).ok()?;
    if class != BASIC || body_size > body_max {
        return None;
    }
    let properties = at.start + FIXED_PART_LEN..at.end;
    let end = start + header.whole_len();
    if body_size == 0 {
        return Some(Whole { properties, body: end..end, end });
    }
    let body = next_frame(chunk, end, channel, FrameKind::Body)?;
    (body.payload_len as u64 == body_size).then(|| Whole {
        properties,
        body: body.payload(end),
        end: end + body.whole_len(),
    })
}

fn next_frame(chunk: &[u8], start: usize, channel: u16, kind: FrameKind) -> Option<FrameHead> {
    let head = FrameHead::again(chunk.get(start..)?)?;
    (head.kind == kind && head.channel == channel).then_some(head)
}

/// The arguments of a delivery, which were read before and so can be again.
pub(crate) fn arguments_of(payload: &[u8]) -> Result<DeliverArguments<'_>, DecodeError> {
    match DeliverArguments::deliver(payload) {
        Ok((_, arguments)) => Ok(arguments),
        Err(error) => Err(unwrapped(error).within("basic.deliver")),
    }
}
