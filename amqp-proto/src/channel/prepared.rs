use alloc::boxed::Box;
use alloc::vec::Vec;
use core::fmt;

use super::commands::Channel;
use super::fingerprint::Head;
use super::publish::Route;
use super::publish::{UNCOPIED_FROM, push_frames, push_heads};
use super::state::Mode;
use crate::body::Body;
use crate::content::FIXED_PART_LEN;
use crate::frame::{self, FRAME_END, FRAME_OVERHEAD, FrameKind};
use crate::properties::identity;
use crate::{ChannelId, PublishError, PublishSeq, RawProperties, ShortStr, TooLong};

/// A message template: everything except the body, encoded once.
///
/// Publishing it copies the encoded bytes, sets the size of the body, and appends the body. It can be used on each channel, and
/// is fastest on the one for which it was made.
///
/// ```
/// # use std::sync::Arc;
/// # use std::time::Instant;
/// # use amqp_proto::{Connection, Prepared, RawProperties, Route};
/// # fn example(connection: &mut Connection) -> Result<(), Box<dyn std::error::Error>> {
/// let id = connection.open_channel()?;
/// let order = Prepared::new(id, &Route::new("orders", "new"), &RawProperties::EMPTY)?;
/// let mut channel = connection.channel(id)?;
/// channel.publish_prepared(&order, "one")?;
/// channel.publish_prepared(&order, "another")?;
/// # Ok(())
/// # }
/// ```
#[derive(Clone, PartialEq, Eq)]
pub struct Prepared {
    channel: ChannelId,
    /// The method, the content header, and the head of a body frame.
    heads: Box<[u8]>,
    /// The positions of the size of the body, and of the size of the body frame.
    size_at: usize,
    frame_size_at: usize,
    /// The size of the content header.
    header_size: usize,
    exchange: ShortStr,
    routing_key: ShortStr,
    mandatory: bool,
    immediate: bool,
    properties: RawProperties,
    /// The fingerprint by which a return is recognized, without the body.
    recognized: Option<Head>,
}

/// For log lines: where the messages go, but not their properties.
impl fmt::Debug for Prepared {
    fn fmt(&self, f: &mut fmt::Formatter<'_>) -> fmt::Result {
        f.debug_struct("Prepared")
            .field("channel", &self.channel.0)
            .field("exchange", &self.exchange)
            .field("routing_key", &self.routing_key)
            .field("mandatory", &self.mandatory)
            .finish_non_exhaustive()
    }
}

impl Prepared {
    /// Encodes the common part of the messages.
    ///
    /// # Errors
    /// [`TooLong`], for the exchange's name or the routing key.
    pub fn new(
        channel: ChannelId,
        route: &Route<'_>,
        properties: &RawProperties,
    ) -> Result<Self, TooLong> {
        let mut heads = Vec::new();
        let properties_at = push_heads(&mut heads, channel.0, route, properties, 0)?;
        let frame_at = heads.len();
        heads.extend_from_slice(&frame::head(FrameKind::Body, channel.0, 0));
        let name = |what, bytes: &[u8]| ShortStr::named(what, bytes);
        Ok(Self {
            channel,
            size_at: properties_at.start - 8,
            frame_size_at: frame_at + 3,
            header_size: properties_at.len() + FIXED_PART_LEN + FRAME_OVERHEAD,
            heads: heads.into(),
            exchange: name("exchange", route.exchange)?,
            routing_key: name("routing key", route.routing_key)?,
            mandatory: route.mandatory,
            immediate: route.immediate,
            properties: properties.clone(),
            recognized: (route.mandatory || route.immediate).then(|| {
                let identity = identity(properties.as_encoded());
                Head::of(route.exchange, route.routing_key, identity)
            }),
        })
    }

    /// Returns the exchange and routing key of the messages.
    #[must_use]
    pub fn route(&self) -> Route<'_> {
        Route {
            exchange: self.exchange.as_bytes(),
            routing_key: self.routing_key.as_bytes(),
            mandatory: self.mandatory,
            immediate: self.immediate,
        }
    }

    /// Their properties.
    #[must_use]
    pub const fn properties(&self) -> &RawProperties {
        &self.properties
    }

    /// Returns whether the messages go to a queue by its name.
    pub(crate) fn is_to_queue(&self) -> bool {
        self.exchange.is_empty()
    }
}

impl Channel<'_> {
    /// Publishes a message by its template; see [`publish`](Self::publish).
    ///
    /// # Errors
    /// [`PublishError`]. Then nothing was queued, and no number was assigned.
    #[inline]
    pub fn publish_prepared(
        &mut self,
        prepared: &Prepared,
        body: impl Body,
    ) -> Result<Option<PublishSeq>, PublishError> {
        let frame_max = self.outbound.frame_max as usize;
        if prepared.channel != self.state.id || prepared.header_size > frame_max {
            return self.reborrow().publish(&prepared.route(), &prepared.properties, body);
        }
        self.check_may_publish()?;
        self.flush_acks();
        let seq = match self.state.mode {
            Mode::Plain => None,
            Mode::Confirm(_) | Mode::Tx(_) => {
                self.reborrow().note_prepared(prepared, body.as_bytes())
            }
        };
        self.push_prepared(prepared, body, frame_max.saturating_sub(FRAME_OVERHEAD));
        Ok(seq)
    }

    /// The message is to be confirmed, or committed.
    #[inline(never)]
    fn note_prepared(&mut self, prepared: &Prepared, body: &[u8]) -> Option<PublishSeq> {
        match &mut self.state.mode {
            Mode::Confirm(confirms) => {
                let fingerprint = prepared.recognized.map(|head| {
                    self.outbound.returnable = self.outbound.returnable.max(body.len() as u64);
                    head.body(body)
                });
                let seq = confirms.published(fingerprint);
                self.state.note_unconfirmed(self.outbound);
                Some(seq)
            }
            Mode::Tx(transaction) => {
                transaction.published = true;
                None
            }
            Mode::Plain => None,
        }
    }

    #[inline]
    fn push_prepared(&mut self, prepared: &Prepared, body: impl Body, room: usize) {
        let bytes = body.as_bytes();
        let len = bytes.len();
        let in_place = len < UNCOPIED_FROM && len <= room && len > 0;
        let out = self.outbound.transmit.buffer();
        let start = out.len();
        out.reserve(prepared.heads.len() + UNCOPIED_FROM);
        out.extend_from_slice(&prepared.heads);
        if let Some(size) = at(out, start + prepared.size_at) {
            *size = (len as u64).to_be_bytes();
        }
        if in_place {
            if let Some(size) = at(out, start + prepared.frame_size_at) {
                *size = frame::size(len);
            }
            out.extend_from_slice(bytes);
            out.push(FRAME_END);
            return;
        }
        out.truncate(start + prepared.frame_size_at - 3);
        push_frames(&mut self.outbound.transmit, prepared.channel.0, body.into_bytes(), room);
    }
}

/// The `N` bytes at that place.
#[inline]
fn at<const N: usize>(out: &mut [u8], start: usize) -> Option<&mut [u8; N]> {
    out.get_mut(start..)?.first_chunk_mut()
}
