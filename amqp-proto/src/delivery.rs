//! Messages that have arrived.

use alloc::vec;
use alloc::vec::Vec;
use core::fmt;
use core::ops::Range;

use bytes::Bytes;

use crate::content::{Apart, MaybeApart};
use crate::method::{BasicGetEmpty, BasicPublish, BasicReturn, FromReply, Method};
use crate::wire::{Parsed, short_bytes, u8_be, u32_be, u64_be};
use crate::{DeliveryTag, RawProperties, ReplyCode, ShortStr};

/// A message that the server delivered.
///
/// A small delivery is a slice of the read buffer, without copies. As long as it exists, the whole buffer is kept; see
/// [`detach`](Self::detach).
#[derive(Clone, PartialEq, Eq)]
pub struct Delivery {
    /// The payload of the method frame, then, somewhere, the properties, and at the end the body. There are many deliveries and
    /// each is moved often, so offsets are stored in as few bytes as possible.
    bytes: Bytes,
    /// The body, if it is not part of `bytes`.
    apart: MaybeApart,
    tag: DeliveryTag,
    properties_at: u32,
    properties_len: u32,
    body_len: u32,
    names: Names,
    redelivered: bool,
    no_ack: bool,
}

/// The lengths of the texts in the method's arguments, from which their positions follow.
#[derive(Debug, Clone, Copy, PartialEq, Eq)]
struct Names {
    /// `None` in `basic.get-ok`, which has none.
    consumer_tag: Option<u8>,
    exchange: u8,
    routing_key: u8,
}

/// The arguments of `basic.deliver` or `basic.get-ok`, not yet owned by anything.
#[derive(Debug, Clone, Copy)]
pub(crate) struct DeliverArguments<'a> {
    pub(crate) consumer_tag: &'a [u8],
    pub(crate) tag: u64,
    redelivered: bool,
    names: Names,
}

impl<'a> DeliverArguments<'a> {
    /// Reads the payload of a `basic.deliver` frame.
    pub(crate) fn deliver(payload: &'a [u8]) -> Parsed<'a, Self> {
        let (rest, _ids) = u32_be(payload)?;
        let (rest, consumer_tag) = short_bytes(rest)?;
        Self::envelope(rest, Some(consumer_tag))
    }

    /// Reads the payload of a `basic.get-ok` frame; the message count is last.
    pub(crate) fn get_ok(payload: &'a [u8]) -> Parsed<'a, (Self, u32)> {
        let (rest, _ids) = u32_be(payload)?;
        let (rest, arguments) = Self::envelope(rest, None)?;
        let (rest, message_count) = u32_be(rest)?;
        Ok((rest, (arguments, message_count)))
    }

    /// Parses the fields that `basic.deliver` and `basic.get-ok` have in common.
    fn envelope(input: &'a [u8], consumer_tag: Option<&'a [u8]>) -> Parsed<'a, Self> {
        let (rest, tag) = u64_be(input)?;
        let (rest, bits) = u8_be(rest)?;
        let (rest, exchange) = short_bytes(rest)?;
        let (rest, routing_key) = short_bytes(rest)?;
        let names = Names {
            consumer_tag: consumer_tag.map(short_len),
            exchange: short_len(exchange),
            routing_key: short_len(routing_key),
        };
        let consumer_tag = consumer_tag.unwrap_or_default();
        Ok((rest, Self { consumer_tag, tag, redelivered: bits & 1 != 0, names }))
    }
}

impl Names {
    fn consumer_tag(self) -> Range<usize> {
        let len = self.consumer_tag.unwrap_or_default();
        IDS + 1..IDS + 1 + usize::from(len)
    }

    fn exchange(self) -> Range<usize> {
        let before = self.consumer_tag.map_or(0, |len| 1 + usize::from(len));
        // The tag, the bits, and the length of the text.
        let start = IDS + before + 8 + 1 + 1;
        start..start + usize::from(self.exchange)
    }

    fn routing_key(self) -> Range<usize> {
        let start = self.exchange().end + 1;
        start..start + usize::from(self.routing_key)
    }
}

/// The size of class and method id, before the arguments.
const IDS: usize = 4;

/// The length of a short string.
fn short_len(text: &[u8]) -> u8 {
    u8::try_from(text.len()).unwrap_or(u8::MAX)
}

/// The header of deliveries from streams, and the argument of consumers that sets the starting position.
pub(crate) const STREAM_OFFSET: &str = "x-stream-offset";

/// The offset in its stream of a message with these properties.
pub(crate) fn stream_offset(properties: &RawProperties) -> Option<i64> {
    properties.headers().ok()??.get(STREAM_OFFSET)?.as_i64()
}

impl Delivery {
    /// Replaces the delivery tag.
    #[inline]
    pub(crate) fn renumber(&mut self, number: impl FnOnce(DeliveryTag) -> DeliveryTag) {
        self.tag = number(self.tag);
    }

    /// A delivery whose parts are all in `bytes`: the method's payload first, the body last.
    #[inline]
    pub(crate) fn contiguous(
        bytes: Bytes,
        arguments: &DeliverArguments<'_>,
        properties: Range<usize>,
        body_len: usize,
        no_ack: bool,
    ) -> Self {
        Self {
            bytes,
            apart: MaybeApart::NONE,
            tag: DeliveryTag(arguments.tag),
            properties_at: offset(properties.start),
            properties_len: offset(properties.len()),
            body_len: offset(body_len),
            names: arguments.names,
            redelivered: arguments.redelivered,
            no_ack,
        }
    }

    /// A delivery whose frames came apart: method and properties are copied together, the body is not.
    pub(crate) fn assembled(
        method: &[u8],
        arguments: &DeliverArguments<'_>,
        properties: &[u8],
        body: Apart,
        no_ack: bool,
    ) -> Self {
        let bytes = Bytes::from([method, properties].concat());
        let properties = method.len()..bytes.len();
        Self { apart: body.into(), ..Self::contiguous(bytes, arguments, properties, 0, no_ack) }
    }

    /// Returns the tag of the consumer at the broker; empty for a message that was fetched with `basic.get`. If the consumer was
    /// [paused](crate::session::Session::pause_consumer), this tag differs from the one that the application chose.
    #[must_use]
    pub fn consumer_tag(&self) -> ShortStr {
        self.short(self.names.consumer_tag())
    }

    /// Returns the broker's number of the delivery, for acknowledging it.
    #[must_use]
    pub const fn delivery_tag(&self) -> DeliveryTag {
        self.tag
    }

    /// Returns whether the message may have been delivered before, to this consumer or another.
    #[must_use]
    pub const fn redelivered(&self) -> bool {
        self.redelivered
    }

    /// Returns whether the delivery needs no acknowledgement.
    #[must_use]
    pub const fn no_ack(&self) -> bool {
        self.no_ack
    }

    /// Returns the exchange that the message was published to. The default exchange has an empty name.
    #[must_use]
    pub fn exchange(&self) -> ShortStr {
        self.short(self.names.exchange())
    }

    /// Returns the routing key that the message was published with.
    #[must_use]
    pub fn routing_key(&self) -> ShortStr {
        self.short(self.names.routing_key())
    }

    /// Returns the message's properties, not yet decoded. Reading a malformed property returns the error.
    #[must_use]
    pub fn properties(&self) -> RawProperties {
        let start = self.properties_at as usize;
        let encoded = self.bytes_at(start..start + self.properties_len as usize);
        RawProperties::unchecked(self.bytes.slice_ref(encoded))
    }

    /// Returns the message's offset in its stream (`x-stream-offset`). `None` if the message is not from a stream, or if its
    /// headers cannot be read.
    #[must_use]
    pub fn stream_offset(&self) -> Option<i64> {
        stream_offset(&self.properties())
    }

    /// Returns the message's body. With [`Limits::body_chunks`](crate::Limits::body_chunks), the first call puts a body of several
    /// frames together, and copies it.
    #[must_use]
    pub fn body(&self) -> &[u8] {
        match self.apart.get() {
            None => self.bytes_at(
                self.bytes.len().saturating_sub(self.body_len as usize)..self.bytes.len(),
            ),
            Some(body) => body.whole(),
        }
    }

    /// Returns the message's body. It shares memory with the delivery.
    #[must_use]
    pub fn body_bytes(&self) -> Bytes {
        match self.apart.get() {
            None => self.bytes.slice_ref(self.body()),
            Some(body) => body.whole().clone(),
        }
    }

    /// Returns the number of bytes of the message's body.
    #[inline]
    #[must_use]
    pub fn body_len(&self) -> usize {
        match self.apart.get() {
            None => (self.body_len as usize).min(self.bytes.len()),
            Some(body) => body.len(),
        }
    }

    /// Returns the message's body as the parts in which it arrived, uncopied and in order. Their memory is shared with the delivery.
    ///
    /// There are several parts only if the body arrived in several frames and
    /// [`Limits::body_chunks`](crate::Limits::body_chunks) is set. Otherwise there is one, or none if the body is empty.
    ///
    /// ```
    /// # use std::io::Write;
    /// # fn example(delivery: &amqp_proto::Delivery, mut file: std::fs::File) -> std::io::Result<()> {
    /// for chunk in delivery.body_chunks() {
    ///     file.write_all(&chunk)?;
    /// }
    /// # Ok(())
    /// # }
    /// ```
    #[must_use]
    pub fn body_chunks(&self) -> Vec<Bytes> {
        match self.apart.get() {
            Some(body) => body.chunks(),
            None if self.body_len == 0 => Vec::new(),
            None => vec![self.body_bytes()],
        }
    }

    /// Returns the number of bytes that the delivery takes in memory, for bounding queues of deliveries.
    #[must_use]
    pub fn size(&self) -> usize {
        let apart = self.apart.get().map_or(0, |body| body.size());
        size_of::<Self>() + self.bytes.len() + apart
    }

    /// Copies the delivery out of the read buffer, which it otherwise keeps alive as a whole. Call this for a small message that
    /// is stored for long.
    pub fn detach(&mut self) {
        self.bytes = Bytes::copy_from_slice(&self.bytes);
        if let Some(body) = self.apart.get() {
            self.apart = Apart::Whole(Bytes::copy_from_slice(body.whole())).into();
        }
    }

    fn short(&self, at: Range<usize>) -> ShortStr {
        ShortStr::shared(&self.bytes, self.bytes_at(at))
    }

    fn bytes_at(&self, at: Range<usize>) -> &[u8] {
        self.bytes.get(at).unwrap_or_default()
    }
}

/// For log lines: where the message came from and how large it is, but neither body nor properties.
impl fmt::Debug for Delivery {
    fn fmt(&self, f: &mut fmt::Formatter<'_>) -> fmt::Result {
        f.debug_struct("Delivery")
            .field("delivery_tag", &self.tag.0)
            .field("consumer_tag", &self.consumer_tag())
            .field("exchange", &self.exchange())
            .field("routing_key", &self.routing_key())
            .field("redelivered", &self.redelivered)
            .field("body_len", &self.body_len())
            .finish_non_exhaustive()
    }
}

/// Offsets lie within one read of at most a few frames, far below 4 GiB.
fn offset(bytes: usize) -> u32 {
    u32::try_from(bytes).unwrap_or(u32::MAX)
}

/// A mandatory message that reached no queue and was returned.
///
/// ```
/// # use amqp_proto::Returned;
/// # fn example(returned: &Returned) {
/// println!(
///     "{} bytes to {:?} with key {:?}: {}",
///     returned.body.len(), returned.exchange, returned.routing_key, returned.reply_text,
/// );
/// # }
/// ```
#[derive(Clone, PartialEq, Eq)]
#[non_exhaustive]
pub struct Returned {
    /// The reply code; RabbitMQ sends 312, NO_ROUTE.
    pub reply_code: ReplyCode,
    /// The reason, as text.
    pub reply_text: ShortStr,
    /// The exchange it was published to.
    pub exchange: ShortStr,
    /// The routing key it was published with.
    pub routing_key: ShortStr,
    /// Its properties.
    pub properties: RawProperties,
    /// Its body.
    pub body: Bytes,
}

/// Bodies of returned messages up to this size are copied. Larger ones are most of the buffer that they were read to, or were
/// put together in one of their own.
const RETURNED_COPY_MAX: usize = 128 * 1024;

impl Returned {
    /// A message that does not keep the buffer that it was read to: it is kept until a confirmation or a listener is polled, and
    /// nothing counts the buffer.
    pub(crate) fn new(method: &BasicReturn, properties: &RawProperties, body: Bytes) -> Self {
        let names = [&method.reply_text, &method.exchange, &method.routing_key];
        let copied = if body.len() <= RETURNED_COPY_MAX { &body[..] } else { &[] };
        let [text, exchange, key] = names.map(ShortStr::as_bytes);
        let mut rest = Bytes::from([text, exchange, key, properties.as_encoded(), copied].concat());
        let mut next = |len: usize| rest.split_to(len);
        let [reply_text, exchange, routing_key] =
            names.map(|name| next(name.len())).map(|bytes| ShortStr::shared(&bytes, &bytes));
        let properties = RawProperties::unchecked(next(properties.as_encoded().len()));
        let body = if body.len() <= RETURNED_COPY_MAX { rest } else { body };
        Self {
            reply_code: ReplyCode(method.reply_code),
            reply_text,
            exchange,
            routing_key,
            properties,
            body,
        }
    }
}

/// For log lines: the reason and the intended destination, but neither body nor properties.
impl fmt::Debug for Returned {
    fn fmt(&self, f: &mut fmt::Formatter<'_>) -> fmt::Result {
        f.debug_struct("Returned")
            .field("reply_code", &self.reply_code)
            .field("reply_text", &self.reply_text)
            .field("exchange", &self.exchange)
            .field("routing_key", &self.routing_key)
            .field("body_len", &self.body.len())
            .finish_non_exhaustive()
    }
}

/// A message that a client published, as its server sees it.
#[derive(Clone, PartialEq)]
#[non_exhaustive]
pub struct Published {
    /// The exchange and routing key.
    pub method: BasicPublish,
    /// Its properties.
    pub properties: RawProperties,
    /// Its body.
    pub body: Bytes,
}

/// For log lines: where it goes, but neither body nor properties.
impl fmt::Debug for Published {
    fn fmt(&self, f: &mut fmt::Formatter<'_>) -> fmt::Result {
        f.debug_struct("Published")
            .field("method", &self.method)
            .field("body_len", &self.body.len())
            .finish_non_exhaustive()
    }
}

/// The reason why a message is unusable. The connection is not affected.
///
/// ```
/// # use amqp_proto::Unusable;
/// # fn example(why: &Unusable) {
/// match why {
///     Unusable::BodyTooLarge { size, limit } => println!("{size} bytes, allowed are {limit}"),
///     other => println!("{other}"),
/// }
/// # }
/// ```
#[derive(Clone, PartialEq, Eq, thiserror::Error)]
#[non_exhaustive]
pub enum Unusable {
    /// The body is larger than the limit of this side.
    #[error("message body of {size} bytes exceeds the limit of {limit}; raise Limits::body_max")]
    BodyTooLarge {
        /// Bytes of the body.
        size: u64,
        /// The limit, [`Limits::body_max`](crate::Limits::body_max).
        limit: u64,
    },
}

crate::error::debug_shows_chain! { Unusable }

/// The reply to a request.
#[derive(Debug, Clone, PartialEq)]
#[non_exhaustive]
pub enum Reply {
    /// A method.
    Method(Method),
    /// The message that was requested with `basic.get`.
    Message(GetReply),
}

/// The reply to `basic.get`.
#[derive(Debug, Clone, PartialEq)]
#[non_exhaustive]
pub enum GetReply {
    /// A message.
    Message {
        /// The message.
        delivery: Delivery,
        /// Messages left in the queue.
        message_count: u32,
    },
    /// The queue is empty.
    Empty,
    /// There was a message, but it was unusable. It was held, requeued or rejected, as configured by
    /// [`Limits::oversized`](crate::Limits::oversized); if it needed no acknowledgement, it is lost.
    Unusable {
        /// The tag to settle it by, if it is held.
        delivery_tag: DeliveryTag,
        /// The reason.
        why: Unusable,
    },
}

impl FromReply for GetReply {
    fn from_reply(reply: Reply) -> Option<Self> {
        match reply {
            Reply::Message(message) => Some(message),
            Reply::Method(Method::BasicGetEmpty(BasicGetEmpty { .. })) => Some(Self::Empty),
            Reply::Method(_) => None,
        }
    }
}
