use alloc::vec::Vec;

use bytes::Bytes;

use super::BASIC;
use crate::frame::{Frame, FrameKind};
use crate::properties::EncodeProperties as _;
use crate::wire::{DecodeErrorKind, Parsed, u32_be, u64_be, unwrapped};
use crate::{DecodeError, RawProperties};

/// The content header of a message: the payload of the frame between its method and its body (spec 2.3.5.2).
///
/// ```
/// use amqp_proto::content::ContentHeader;
/// use amqp_proto::{Properties, RawProperties};
///
/// let properties = Properties { priority: Some(3), ..Properties::default() };
/// let header = ContentHeader::basic(5, RawProperties::from(&properties));
/// let frame = header.to_frame(1);
/// assert_eq!(ContentHeader::decode(&frame.payload)?, header);
/// assert_eq!(frame.payload[..4], [0, 60, 0, 0]);
/// # Ok::<(), amqp_proto::DecodeError>(())
/// ```
#[derive(Debug, Clone, PartialEq, Eq)]
#[expect(clippy::exhaustive_structs, reason = "a content header is these three things")]
pub struct ContentHeader {
    /// The class of the method. Only methods of class 60, `basic`, carry content.
    pub class_id: u16,
    /// The number of bytes of the whole body.
    pub body_size: u64,
    /// The properties. Those of a received header can be malformed; see [`RawProperties`].
    pub properties: RawProperties,
}

impl ContentHeader {
    /// Creates the header of a message of class `basic`.
    #[must_use]
    pub const fn basic(body_size: u64, properties: RawProperties) -> Self {
        Self { class_id: BASIC, body_size, properties }
    }

    /// Decodes the payload of a content header frame. The properties share its memory, and are decoded when they are read.
    ///
    /// # Errors
    /// [`DecodeError`], if the payload is too short.
    pub fn decode(payload: &Bytes) -> Result<Self, DecodeError> {
        let (rest, (class_id, body_size)) =
            fixed_part(payload).map_err(|error| unwrapped(error).within(PLACE))?;
        let properties = RawProperties::unchecked(payload.slice_ref(rest));
        Ok(Self { class_id, body_size, properties })
    }

    /// Appends the payload of the frame.
    pub fn encode(&self, out: &mut Vec<u8>) {
        out.extend_from_slice(&encoded_fixed_part(self.class_id, self.body_size));
        self.properties.encode_into(out);
    }

    /// Returns the frame.
    #[must_use]
    pub fn to_frame(&self, channel: u16) -> Frame {
        let mut payload = Vec::new();
        self.encode(&mut payload);
        Frame { kind: FrameKind::Header, channel, payload: payload.into() }
    }

    /// Checks that the class is one whose methods carry content.
    pub(crate) const fn check_class(&self) -> Result<(), DecodeError> {
        match self.class_id {
            BASIC => Ok(()),
            other => Err(DecodeError::new(DecodeErrorKind::UnknownContentClass(other), PLACE)),
        }
    }
}

/// The place of errors.
const PLACE: &str = "content header";

/// Steps over the fixed part of a content header: class, weight, body size; then come the properties.
pub(crate) fn fixed_part(payload: &[u8]) -> Parsed<'_, (u16, u64)> {
    let (rest, ids) = u32_be(payload)?;
    let (rest, body_size) = u64_be(rest)?;
    let [high, low, ..] = ids.to_be_bytes();
    Ok((rest, (u16::from_be_bytes([high, low]), body_size)))
}

/// Returns the fixed part of a content header. The weight is always 0.
pub(crate) const fn encoded_fixed_part(class_id: u16, body_size: u64) -> [u8; FIXED_PART_LEN] {
    let [c0, c1] = class_id.to_be_bytes();
    let [s0, s1, s2, s3, s4, s5, s6, s7] = body_size.to_be_bytes();
    [c0, c1, 0, 0, s0, s1, s2, s3, s4, s5, s6, s7]
}

/// Length of the fixed part of a content header.
pub(crate) const FIXED_PART_LEN: usize = 12;
