use alloc::vec::Vec;
use core::ops::Range;

use bytes::Bytes;

use super::commands::Channel;
use super::fingerprint::Head;
use super::state::Mode;
use crate::body::Body;
use crate::content::{FIXED_PART_LEN, encoded_fixed_part};
use crate::frame::{self, FRAME_END, FRAME_OVERHEAD, FrameKind, HEADER_EXCESS};
use crate::method::{Arguments, BasicPublish, Method};
use crate::outbound::{Outbound, Role};
use crate::properties::{EncodeProperties, identity};
use crate::wire::checked_short;
use crate::{CommandError, Misuse, PublishError, PublishSeq, TooLong, Transmit};

/// Bodies, and parts of bodies, from this size on are not copied. Below, a copy costs less than one more slice in a
/// vectored write.
pub(super) const UNCOPIED_FROM: usize = 2048;

/// The destination of a message. Borrows its names, so that publishing allocates nothing.
///
/// ```
/// # use amqp_proto::Route;
/// let to_queue = Route::queue("jobs");
/// let by_topic = Route::new("logs", "app.error").mandatory();
/// ```
#[derive(Debug, Clone, Copy, Default)]
pub struct Route<'a> {
    pub(crate) exchange: &'a [u8],
    pub(crate) routing_key: &'a [u8],
    pub(crate) mandatory: bool,
    pub(crate) immediate: bool,
}

impl<'a> Route<'a> {
    /// Routes to an exchange, by the routing key. Names longer than 255 bytes fail when publishing.
    pub fn new(
        exchange: &'a (impl AsRef<[u8]> + ?Sized),
        routing_key: &'a (impl AsRef<[u8]> + ?Sized),
    ) -> Self {
        Self {
            exchange: exchange.as_ref(),
            routing_key: routing_key.as_ref(),
            mandatory: false,
            immediate: false,
        }
    }

    /// Routes to a queue, through the default exchange.
    pub fn queue(name: &'a (impl AsRef<[u8]> + ?Sized)) -> Self {
        Self::new("", name)
    }

    /// Sets the `mandatory` flag: the broker returns the message if it reaches no queue.
    #[must_use]
    pub const fn mandatory(mut self) -> Self {
        self.mandatory = true;
        self
    }

    /// Sets the `immediate` flag: the broker returns the message if no consumer takes it at once. RabbitMQ closes the connection
    /// (540).
    #[must_use]
    pub const fn immediate(mut self) -> Self {
        self.immediate = true;
        self
    }

    /// Returns the exchange; empty for the default exchange.
    #[must_use]
    pub const fn exchange(&self) -> &'a [u8] {
        self.exchange
    }

    /// Returns the routing key.
    #[must_use]
    pub const fn routing_key(&self) -> &'a [u8] {
        self.routing_key
    }

    /// Returns whether the broker returns the message if it reaches no queue.
    #[must_use]
    pub const fn is_mandatory(&self) -> bool {
        self.mandatory
    }

    /// Returns the number of bytes that a message with this route takes in the outgoing buffer. `body` is the size of its body. The
    /// overhead of further frames, for bodies that need several, is not included.
    #[must_use]
    pub fn queued_size(&self, properties: &impl EncodeProperties, body: usize) -> usize {
        let mut encoded = Vec::new();
        properties.encode_into(&mut encoded);
        let texts = self.exchange.len() + self.routing_key.len();
        HEADS_SIZE.saturating_add(texts + encoded.len()).saturating_add(body)
    }
}

impl Channel<'_> {
    /// Publishes a message. With publisher confirms on (`confirm.select`), returns the number that its confirm will name.
    ///
    /// # Errors
    /// [`PublishError`]. Then nothing was queued, and no number was assigned.
    pub fn publish(
        &mut self,
        route: &Route<'_>,
        properties: &impl EncodeProperties,
        body: impl Body,
    ) -> Result<Option<PublishSeq>, PublishError> {
        self.check_may_publish()?;
        self.publish_unchecked(route, properties, body)
    }

    #[inline]
    pub(super) fn check_may_publish(&self) -> Result<(), PublishError> {
        self.check_open()?;
        if self.outbound.role == Role::Server {
            return Err(Misuse::WrongSide("client").into());
        }
        Ok(self.check_gate()?)
    }

    /// Publishes without checking whether content may be sent now, for messages that were accepted before.
    pub(crate) fn publish_unchecked(
        &mut self,
        route: &Route<'_>,
        properties: &impl EncodeProperties,
        body: impl Body,
    ) -> Result<Option<PublishSeq>, PublishError> {
        self.flush_acks();
        let channel = self.state.id.0;
        let bytes = body.as_bytes();
        let out = self.outbound.transmit.buffer();
        let start = out.len();
        let copied = if bytes.len() < UNCOPIED_FROM { bytes.len() } else { 0 };
        out.reserve(HEADS_SIZE + route.exchange.len() + route.routing_key.len() + copied);
        let properties_at = push_heads(out, channel, route, properties, bytes.len())?;
        let size = properties_at.len() + FIXED_PART_LEN + FRAME_OVERHEAD;
        if size > self.outbound.frame_max as usize {
            out.truncate(start);
            return Err(PublishError::PropertiesTooLarge {
                size,
                frame_max: self.outbound.frame_max,
            });
        }
        let Mode::Confirm(confirms) = &mut self.state.mode else {
            if let Mode::Tx(transaction) = &mut self.state.mode {
                transaction.published = true;
            }
            push_body(self.outbound, channel, body);
            return Ok(None);
        };
        let fingerprint = (route.mandatory || route.immediate).then(|| {
            self.outbound.returnable = self.outbound.returnable.max(body.as_bytes().len() as u64);
            let encoded = self.outbound.transmit.buffer().get(properties_at).unwrap_or_default();
            let head = Head::of(route.exchange, route.routing_key, identity(encoded));
            head.body(body.as_bytes())
        });
        push_body(self.outbound, channel, body);
        let seq = confirms.published(fingerprint);
        self.state.note_unconfirmed(self.outbound);
        Ok(Some(seq))
    }

    /// Servers: sends a message, that is `basic.deliver`, `basic.get-ok` or `basic.return` with its content. A content header
    /// may exceed the agreed limit by [`HEADER_EXCESS`](crate::frame::HEADER_EXCESS).
    ///
    /// # Errors
    /// [`CommandError`]; nothing was queued then.
    pub fn send_content(
        &mut self,
        method: impl Arguments,
        properties: &impl EncodeProperties,
        body: impl Body,
    ) -> Result<(), CommandError> {
        self.check_open()?;
        self.check_server()?;
        let method: Method = method.into();
        let facts = method.facts();
        if !facts.content {
            return Err(Misuse::NoContent(facts.name).into());
        }
        let start = self.outbound.transmit.buffer().len();
        self.outbound.send(self.state.id.0, &method)?;
        let channel = self.state.id.0;
        push_header(self.outbound, channel, properties, body.as_bytes().len()).map_err(|size| {
            self.outbound.transmit.buffer().truncate(start);
            let frame_max = self.outbound.frame_max.saturating_add(HEADER_EXCESS);
            Misuse::TooLarge { method: facts.name, size, frame_max }
        })?;
        push_body(self.outbound, channel, body);
        Ok(())
    }
}

/// `basic.publish`, as two 16-bit numbers.
const METHOD_IDS: [u8; 4] = {
    let [c0, c1] = BasicPublish::CLASS_ID.to_be_bytes();
    let [m0, m1] = BasicPublish::METHOD_ID.to_be_bytes();
    [c0, c1, m0, m1]
};

/// Three frames' overhead and the fixed parts of method and header: the size of a small publish, without its texts and body.
const HEADS_SIZE: usize = 3 * FRAME_OVERHEAD + 9 + 14;

/// Appends the method and the content header of a publish. Returns where its properties are.
#[inline]
pub(super) fn push_heads(
    out: &mut Vec<u8>,
    channel: u16,
    route: &Route<'_>,
    properties: &impl EncodeProperties,
    body_len: usize,
) -> Result<Range<usize>, TooLong> {
    let exchange_len = checked_short("exchange", route.exchange)?;
    let routing_key_len = checked_short("routing key", route.routing_key)?;
    let [c0, c1, m0, m1] = METHOD_IDS;
    let payload = 4 + 2 + 1 + route.exchange.len() + 1 + route.routing_key.len() + 1;
    let [k, n0, n1, p0, p1, p2, p3] = frame::head(FrameKind::Method, channel, payload);
    out.extend_from_slice(&[k, n0, n1, p0, p1, p2, p3, c0, c1, m0, m1, 0, 0, exchange_len]);
    out.extend_from_slice(route.exchange);
    out.push(routing_key_len);
    out.extend_from_slice(route.routing_key);
    let bits = u8::from(route.mandatory) | u8::from(route.immediate) << 1;
    let [s0, s1, s2, s3, s4, s5, s6, s7] = (body_len as u64).to_be_bytes();
    let k = FrameKind::Header.octet();
    out.extend_from_slice(&[
        bits, FRAME_END, k, n0, n1, 0, 0, 0, 0, c0, c1, 0, 0, s0, s1, s2, s3, s4, s5, s6, s7,
    ]);
    let at = out.len();
    properties.encode_into(out);
    let properties_at = at..out.len();
    frame::finish(out, at - FIXED_PART_LEN);
    Ok(properties_at)
}

/// Queues a content header and returns where in the buffer its properties are, or the size of the frame it would take.
fn push_header(
    outbound: &mut Outbound,
    channel: u16,
    properties: &impl EncodeProperties,
    body_len: usize,
) -> Result<Range<usize>, usize> {
    let header_max = outbound.frame_max.saturating_add(HEADER_EXCESS) as usize;
    let out = outbound.transmit.buffer();
    let before = out.len();
    let start = frame::begin(out, FrameKind::Header, channel);
    out.extend_from_slice(&encoded_fixed_part(BasicPublish::CLASS_ID, body_len as u64));
    let properties_at = out.len();
    properties.encode_into(out);
    let range = properties_at..out.len();
    frame::finish(out, start);
    match out.len() - before {
        size if size > header_max => Err(size),
        _ => Ok(range),
    }
}

/// Queues the body in as many frames as it takes: none, if it is empty.
fn push_body(outbound: &mut Outbound, channel: u16, body: impl Body) {
    let room = (outbound.frame_max as usize).saturating_sub(FRAME_OVERHEAD);
    let bytes = body.as_bytes();
    match bytes.len() {
        0 => {}
        len if len < UNCOPIED_FROM && len <= room => {
            let out = outbound.transmit.buffer();
            out.extend_from_slice(&frame::head(FrameKind::Body, channel, len));
            out.extend_from_slice(bytes);
            out.push(FRAME_END);
        }
        _ => push_frames(&mut outbound.transmit, channel, body.into_bytes(), room),
    }
}

pub(super) fn push_frames(transmit: &mut Transmit, channel: u16, mut body: Bytes, room: usize) {
    while !body.is_empty() {
        let part = body.split_to(body.len().min(room));
        transmit.buffer().extend_from_slice(&frame::head(FrameKind::Body, channel, part.len()));
        if part.len() < UNCOPIED_FROM {
            transmit.buffer().extend_from_slice(&part);
        } else {
            transmit.push_body(part);
        }
        transmit.buffer().push(FRAME_END);
    }
}
