//! The properties of a message: [`Properties`] to fill in, [`RawProperties`] in their wire format.

mod headers;

use alloc::vec::Vec;
use core::fmt;

use bytes::{BufMut as _, Bytes};

use crate::wire::{
    DecodeError, DecodeErrorKind, FieldTable, Parsed, ShortStr, Timestamp, Wire, bytes,
    check_fields, long_bytes, short_bytes, u16_be, unwrapped,
};

/// One more word of flags follows; never set by a property.
const CONTINUES: u16 = 1;

/// The flag of no property.
const UNUSED: u16 = 2;

macro_rules! properties {
    ($($(#[$doc:meta])* $name:ident: $type:ty = $bit:literal, $kind:ident;)*) => {
        /// The properties of a message (spec 1.8, class `basic`). Each property is optional.
        ///
        /// ```
        /// # use amqp_proto::{Properties, ShortStr};
        /// let properties = Properties {
        ///     content_type: Some(ShortStr::try_from("application/json")?),
        ///     delivery_mode: Some(2),
        ///     ..Properties::default()
        /// };
        /// # Ok::<(), amqp_proto::TooLong>(())
        /// ```
        #[derive(Debug, Clone, PartialEq, Eq, Default)]
        pub struct Properties {
            $($(#[$doc])* pub $name: Option<$type>,)*
        }

        impl Properties {
            /// Appends the properties in their wire format: a word of flags, then the values.
            pub fn encode(&self, out: &mut Vec<u8>) {
                let mut flags = 0;
                $(if self.$name.is_some() { flags |= 1 << $bit; })*
                out.put_u16(flags);
                $(if let Some(value) = &self.$name { value.encode(out); })*
            }

            /// Returns these properties, and those of `others` that are missing here. Headers are one property.
            #[must_use]
            pub fn or(self, others: Self) -> Self {
                Self { $($name: self.$name.or(others.$name),)* }
            }

            /// Calls `visit` with the name and the value of each property that is set.
            ///
            /// ```
            /// # use amqp_proto::Properties;
            /// let properties = Properties { priority: Some(3), ..Properties::default() };
            /// properties.each(|name, value| assert_eq!(format!("{name}={value:?}"), "priority=3"));
            /// ```
            pub fn each(&self, mut visit: impl FnMut(&'static str, &dyn fmt::Debug)) {
                $(if let Some(value) = &self.$name { visit(stringify!($name), value); })*
            }

            /// Decodes properties from their wire format.
            ///
            /// # Errors
            /// [`DecodeError`] if they are malformed.
            pub fn decode(encoded: &Bytes) -> Result<Self, DecodeError> {
                RawProperties(encoded.clone()).decode()
            }
        }

        impl RawProperties {
            /// Decodes all properties at once.
            ///
            /// # Errors
            /// [`DecodeError`] if any of them is malformed, or bytes are left over. The others can be read one by one.
            pub fn decode(&self) -> Result<Properties, DecodeError> {
                let mut properties = Properties::default();
                let (mut rest, flags) = flags(&self.0).map_err(in_flags)?;
                $(if flags & 1 << $bit != 0 {
                    let decoded = <$type as Wire>::decode(rest, &self.0);
                    let (after, value) = decoded.map_err(|error| within(error, $bit))?;
                    properties.$name = Some(value);
                    rest = after;
                })*
                match rest.len() {
                    0 => Ok(properties),
                    more => Err(DecodeError::new(DecodeErrorKind::Trailing(more), "properties")),
                }
            }

            $($(#[$doc])*
            ///
            /// # Errors
            /// [`DecodeError`] if the property, or what precedes it on the wire, is malformed.
            pub fn $name(&self) -> Result<Option<$type>, DecodeError> {
                let Some(value) = locate(&self.0, $bit)? else { return Ok(None) };
                match <$type as Wire>::decode(value, &self.0) {
                    Ok((_, value)) => Ok(Some(value)),
                    Err(error) => Err(within(error, $bit)),
                }
            })*
        }

        /// The properties, from the highest flag to the lowest, which is their order on the wire.
        const LAYOUT: [(u32, Kind); 14] = [$(($bit, Kind::$kind),)*];

        const PLACES: [&str; 14] = [$(concat!("property ", stringify!($name)),)*];
    };
}

properties! {
    /// MIME type of the body.
    content_type: ShortStr = 15, ShortStr;
    /// MIME encoding of the body.
    content_encoding: ShortStr = 14, ShortStr;
    /// Application headers; headers exchanges match them.
    headers: FieldTable = 13, Table;
    /// 1 is transient, 2 is persistent.
    delivery_mode: u8 = 12, Octet;
    /// From 0 up to the queue's `x-max-priority`.
    priority: u8 = 11, Octet;
    /// Relates a reply to its request.
    correlation_id: ShortStr = 10, ShortStr;
    /// The queue for replies.
    reply_to: ShortStr = 9, ShortStr;
    /// Number of milliseconds that the message may wait in a queue, in decimal digits.
    expiration: ShortStr = 8, ShortStr;
    /// Identifies the message to the applications.
    message_id: ShortStr = 7, ShortStr;
    /// When the message was created.
    timestamp: Timestamp = 6, Timestamp;
    /// The application's name for the type of the message (`type` in the specification).
    kind: ShortStr = 5, ShortStr;
    /// The user who published; RabbitMQ checks it against the login.
    user_id: ShortStr = 4, ShortStr;
    /// The application that published.
    app_id: ShortStr = 3, ShortStr;
    /// Reserved; `cluster_id` in earlier versions.
    cluster_id: ShortStr = 2, ShortStr;
}

#[derive(Clone, Copy)]
enum Kind {
    ShortStr,
    Table,
    Octet,
    Timestamp,
}

/// The properties of a message as encoded bytes, decoded one by one on access.
///
/// The properties of a received message are kept as they were received. They can be malformed: the publisher may have written a
/// field type that RabbitMQ does not define, or tables nested deeper than [`MAX_TABLE_DEPTH`](crate::wire::MAX_TABLE_DEPTH). The
/// message is delivered nevertheless. Reading a malformed property returns the error. The other properties can be read, and the
/// [encoded bytes](Self::as_encoded) can be published again.
///
/// ```
/// # use amqp_proto::{Properties, RawProperties};
/// let properties = Properties { priority: Some(3), ..Properties::default() };
/// let encoded = RawProperties::from(&properties);
/// assert_eq!(encoded.priority()?, Some(3));
/// assert_eq!(encoded.reply_to()?, None);
/// # Ok::<(), amqp_proto::DecodeError>(())
/// ```
#[derive(Clone, PartialEq, Eq)]
pub struct RawProperties(Bytes);

impl RawProperties {
    /// No properties.
    pub const EMPTY: Self = Self(Bytes::from_static(&[0, 0]));

    /// Wraps encoded properties: flags and values, and nothing after them.
    ///
    /// # Errors
    /// [`DecodeError`] if they are malformed.
    pub fn checked(encoded: Bytes) -> Result<Self, DecodeError> {
        check(&encoded)?;
        Ok(Self(encoded))
    }

    /// Wraps encoded properties without checking them.
    #[must_use]
    pub const fn unchecked(encoded: Bytes) -> Self {
        Self(encoded)
    }

    /// Returns the properties in their wire format: flags and values.
    #[must_use]
    pub fn as_encoded(&self) -> &[u8] {
        &self.0
    }

    pub(crate) fn into_encoded(self) -> Bytes {
        self.0
    }

    /// Returns these properties for publishing, with `mode` as their delivery mode unless they have one.
    ///
    /// Nothing is allocated: the mode is inserted when the properties are copied into the frame.
    #[must_use]
    pub const fn or_delivery_mode(&self, mode: Option<u8>) -> OrDeliveryMode<'_> {
        OrDeliveryMode { properties: self, mode }
    }
}

/// Properties with a delivery mode for those that have none; see [`RawProperties::or_delivery_mode`].
#[derive(Debug, Clone, Copy)]
pub struct OrDeliveryMode<'a> {
    properties: &'a RawProperties,
    mode: Option<u8>,
}

impl OrDeliveryMode<'_> {
    /// The mode to insert, and the encoded properties before and behind its place. `None` if nothing is to be inserted.
    fn insertion(&self) -> Option<(u8, &[u8], &[u8])> {
        let encoded = &*self.properties.0;
        let mode = self.mode?;
        let place = missing(encoded, DELIVERY_MODE)?;
        let (before, behind) = encoded.split_at_checked(encoded.len() - place.len())?;
        Some((mode, before, behind))
    }
}

impl EncodeProperties for OrDeliveryMode<'_> {
    fn encode_into(&self, out: &mut Vec<u8>) {
        let Some((mode, before, behind)) = self.insertion() else {
            return self.properties.encode_into(out);
        };
        let start = out.len();
        out.extend_from_slice(before);
        out.push(mode);
        out.extend_from_slice(behind);
        if let Some(flags) = out.get_mut(start) {
            // The mode's flag is in the upper octet of the first word.
            *flags |= 1 << (DELIVERY_MODE - 8);
        }
    }
}

impl From<OrDeliveryMode<'_>> for RawProperties {
    /// Allocates only if a delivery mode is inserted.
    fn from(from: OrDeliveryMode<'_>) -> Self {
        if from.insertion().is_none() {
            return from.properties.clone();
        }
        let mut encoded = Vec::with_capacity(from.properties.0.len() + 1);
        from.encode_into(&mut encoded);
        Self(encoded.into())
    }
}

impl From<&Properties> for RawProperties {
    /// Encodes once, for publishing many times.
    fn from(properties: &Properties) -> Self {
        // Enough for most. Growing step by step costs more than the encoding itself.
        let mut encoded = Vec::with_capacity(128);
        properties.encode(&mut encoded);
        Self(encoded.into())
    }
}

impl Default for RawProperties {
    fn default() -> Self {
        Self::EMPTY
    }
}

impl fmt::Debug for RawProperties {
    fn fmt(&self, f: &mut fmt::Formatter<'_>) -> fmt::Result {
        match self.decode() {
            Ok(properties) => properties.fmt(f),
            Err(error) => f
                .debug_struct("RawProperties")
                .field("bytes", &self.0.len())
                .field("malformed", &format_args!("{error}"))
                .finish(),
        }
    }
}

/// The properties of a message to publish: [`Properties`], or [`RawProperties`] that were encoded before.
///
/// This trait is sealed, as [`Body`](crate::Body) is: it is called in the middle of a frame.
pub trait EncodeProperties: sealed::Sealed {
    /// Appends flags and values.
    fn encode_into(&self, out: &mut Vec<u8>);
}

mod sealed {
    #[expect(unnameable_types, reason = "that it cannot be named is what seals the trait")]
    pub trait Sealed {}

    impl Sealed for super::Properties {}
    impl Sealed for super::RawProperties {}
    impl Sealed for super::OrDeliveryMode<'_> {}
}

impl EncodeProperties for Properties {
    fn encode_into(&self, out: &mut Vec<u8>) {
        self.encode(out);
    }
}

impl EncodeProperties for RawProperties {
    #[inline]
    fn encode_into(&self, out: &mut Vec<u8>) {
        out.extend_from_slice(&self.0);
    }
}

/// Returns the properties that distinguish messages with the same body: message id and correlation id, empty where missing.
pub(crate) fn identity(encoded: &[u8]) -> (&[u8], &[u8]) {
    let text = |bit| {
        // A property that cannot be read is missing in the same way when the message is returned.
        let value = locate(encoded, bit).ok()??;
        short_bytes(value).ok().map(|(_, bytes)| bytes)
    };
    (text(MESSAGE_ID).unwrap_or_default(), text(CORRELATION_ID).unwrap_or_default())
}

const HEADERS: u32 = 13;
const DELIVERY_MODE: u32 = 12;
const MESSAGE_ID: u32 = 7;
const CORRELATION_ID: u32 = 10;

/// Checks that `encoded` is a well-formed list of properties and nothing else.
fn check(encoded: &[u8]) -> Result<(), DecodeError> {
    let (mut rest, flags) = flags(encoded).map_err(in_flags)?;
    for (bit, kind) in LAYOUT {
        if flags & 1 << bit != 0 {
            (rest, ()) = checked_value(kind, rest).map_err(|error| within(error, bit))?;
        }
    }
    match rest.len() {
        0 => Ok(()),
        more => Err(DecodeError::new(DecodeErrorKind::Trailing(more), "properties")),
    }
}

fn in_flags(error: nom::Err<DecodeError>) -> DecodeError {
    unwrapped(error).within("property flags")
}

/// The error, with the name of the property of flag `bit`.
fn within(error: nom::Err<DecodeError>, bit: u32) -> DecodeError {
    let place = LAYOUT.iter().zip(PLACES).find(|((flag, _), _)| *flag == bit);
    unwrapped(error).within(place.map_or("properties", |(_, place)| place))
}

/// The first word of flags. Further words (spec 4.2.6.1) are there only for properties that do not exist, so they may
/// come, but must be empty.
fn flags(encoded: &[u8]) -> Parsed<'_, u16> {
    let (mut rest, first) = u16_be(encoded)?;
    let mut word = first;
    let mut unknown = first & UNUSED;
    while word & CONTINUES != 0 {
        (rest, word) = u16_be(rest)?;
        unknown |= word & !CONTINUES;
    }
    if unknown != 0 {
        return Err(DecodeErrorKind::UnknownProperty(unknown).fail());
    }
    Ok((rest, first))
}

fn checked_value(kind: Kind, input: &[u8]) -> Parsed<'_, ()> {
    if let Kind::Table = kind {
        let (_, entries) = long_bytes(input)?;
        check_fields(entries, true, 0).map_err(DecodeErrorKind::fail)?;
    }
    step_over(kind, input)
}

/// Steps over a value without looking inside.
fn step_over(kind: Kind, input: &[u8]) -> Parsed<'_, ()> {
    let (rest, _) = match kind {
        Kind::ShortStr => short_bytes(input)?,
        Kind::Octet => bytes(1)(input)?,
        Kind::Timestamp => bytes(8)(input)?,
        Kind::Table => long_bytes(input)?,
    };
    Ok((rest, ()))
}

/// The bytes from the value of flag `wanted` on, if it is set.
fn locate(encoded: &[u8], wanted: u32) -> Result<Option<&[u8]>, DecodeError> {
    let (rest, flags) = flags(encoded).map_err(in_flags)?;
    if flags & 1 << wanted == 0 {
        return Ok(None);
    }
    behind_earlier(rest, flags, wanted).map(Some)
}

/// The bytes from the place on where the value of flag `wanted` belongs, if it is not set and the place can be found.
fn missing(encoded: &[u8], wanted: u32) -> Option<&[u8]> {
    let (rest, flags) = flags(encoded).ok()?;
    if flags & 1 << wanted != 0 {
        return None;
    }
    behind_earlier(rest, flags, wanted).ok()
}

/// Skips the values before the value of flag `wanted`.
fn behind_earlier(mut rest: &[u8], flags: u16, wanted: u32) -> Result<&[u8], DecodeError> {
    for (bit, kind) in LAYOUT {
        if bit == wanted {
            break;
        }
        if flags & 1 << bit != 0 {
            (rest, ()) = step_over(kind, rest).map_err(|error| within(error, bit))?;
        }
    }
    Ok(rest)
}
