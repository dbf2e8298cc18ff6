use alloc::format;
use alloc::string::String;
use alloc::vec::Vec;
use core::fmt;
#[cfg(feature = "std")]
use std::time::{Duration, SystemTime, UNIX_EPOCH};

use bytes::{BufMut as _, Bytes};

use super::primitive::{
    Wire, f32_be, f64_be, i8_be, i16_be, i32_be, i64_be, long_bytes, put_long_bytes, u8_be, u16_be,
    u32_be, u64_be,
};
use super::{DecodeErrorKind, FieldArray, FieldTable, LongStr, Parsed, bytes, share};

/// A value in a field table, with the type bytes of RabbitMQ.
///
/// They differ from the specification's: `s` is a signed 16-bit integer, `l` a signed 64-bit one, and `x` an array of
/// bytes (<https://www.rabbitmq.com/amqp-0-9-1-errata>, section 3). `L`, which py-amqp (Celery) writes, decodes as
/// [`I64`](Self::I64), as in RabbitMQ. RabbitMQ knows no other types.
///
/// ```
/// # use amqp_proto::{FieldTable, Value};
/// let headers = FieldTable::new().with("attempt", 3)?.with("source", "billing")?;
/// assert_eq!(headers.get("attempt"), Some(Value::from(3)));
/// assert_eq!(headers.get("source").as_ref().and_then(Value::as_str), Some("billing"));
/// # Ok::<(), amqp_proto::FieldError>(())
/// ```
///
/// # Interoperability
/// Every value is written as RabbitMQ reads and writes it. Not every client agrees: py-amqp takes `s` for a short string,
/// `l` for unsigned, and swaps `b` and `B`. All clients read [`I32`](Self::I32), [`LongStr`](Self::LongStr),
/// [`Bool`](Self::Bool), [`F64`](Self::F64), [`Timestamp`](Self::Timestamp), [`Table`](Self::Table) and
/// [`Array`](Self::Array) alike: prefer those in messages that other clients read.
#[derive(Debug, Clone, PartialEq)]
#[non_exhaustive]
pub enum Value {
    /// `t`
    Bool(bool),
    /// `b`
    I8(i8),
    /// `B`
    U8(u8),
    /// `s`
    I16(i16),
    /// `u`
    U16(u16),
    /// `I`
    I32(i32),
    /// `i`
    U32(u32),
    /// `l`; `L` decodes to it as well
    I64(i64),
    /// `f`
    F32(f32),
    /// `d`
    F64(f64),
    /// `D`
    Decimal(Decimal),
    /// `S`: text by convention, bytes on the wire.
    LongStr(LongStr),
    /// `A`
    Array(FieldArray),
    /// `T`
    Timestamp(Timestamp),
    /// `F`
    Table(FieldTable),
    /// `V`
    Void,
    /// `x`
    ByteArray(Bytes),
}

impl Value {
    /// Parses a type octet and the value after it. Nested tables were checked with the outer value.
    pub(crate) fn decode<'a>(input: &'a [u8], source: &Bytes) -> Parsed<'a, Self> {
        let (rest, kind) = u8_be(input)?;
        Ok(match kind {
            b't' => map(u8_be(rest)?, |v| Self::Bool(v != 0)),
            b'b' => map(i8_be(rest)?, Self::I8),
            b'B' => map(u8_be(rest)?, Self::U8),
            b's' => map(i16_be(rest)?, Self::I16),
            b'u' => map(u16_be(rest)?, Self::U16),
            b'I' => map(i32_be(rest)?, Self::I32),
            b'i' => map(u32_be(rest)?, Self::U32),
            // RabbitMQ: `L` is `l`; py-amqp writes it for integers of more than 31 bits.
            b'l' | b'L' => map(i64_be(rest)?, Self::I64),
            b'f' => map(f32_be(rest)?, Self::F32),
            b'd' => map(f64_be(rest)?, Self::F64),
            b'T' => map(u64_be(rest)?, |v| Self::Timestamp(Timestamp(v))),
            b'V' => (rest, Self::Void),
            b'D' => {
                let (rest, scale) = u8_be(rest)?;
                map(i32_be(rest)?, |value| Self::Decimal(Decimal { scale, value }))
            }
            b'S' => map(long_bytes(rest)?, |v| Self::LongStr(LongStr::from(share(source, v)))),
            b'x' => map(long_bytes(rest)?, |v| Self::ByteArray(share(source, v))),
            b'F' => map(long_bytes(rest)?, |v| Self::Table(FieldTable::trusted(share(source, v)))),
            b'A' => map(long_bytes(rest)?, |v| Self::Array(FieldArray::trusted(share(source, v)))),
            unknown => return Err(DecodeErrorKind::UnknownFieldType(unknown).fail()),
        })
    }

    pub(super) fn encode(&self, out: &mut Vec<u8>) {
        out.put_u8(self.type_octet());
        match self {
            Self::Bool(v) => out.put_u8(u8::from(*v)),
            Self::I8(v) => out.put_i8(*v),
            Self::U8(v) => out.put_u8(*v),
            Self::I16(v) => out.put_i16(*v),
            Self::U16(v) => out.put_u16(*v),
            Self::I32(v) => out.put_i32(*v),
            Self::U32(v) => out.put_u32(*v),
            Self::I64(v) => out.put_i64(*v),
            Self::F32(v) => out.put_f32(*v),
            Self::F64(v) => out.put_f64(*v),
            Self::Decimal(v) => {
                out.put_u8(v.scale);
                out.put_i32(v.value);
            }
            Self::LongStr(v) => v.encode(out),
            Self::Array(v) => put_long_bytes(out, v.as_encoded()),
            Self::Timestamp(v) => out.put_u64(v.0),
            Self::Table(v) => put_long_bytes(out, v.as_encoded()),
            Self::Void => {}
            Self::ByteArray(v) => put_long_bytes(out, v),
        }
    }

    /// The octet that encodes the type.
    #[must_use]
    pub const fn type_octet(&self) -> u8 {
        match self {
            Self::Bool(_) => b't',
            Self::I8(_) => b'b',
            Self::U8(_) => b'B',
            Self::I16(_) => b's',
            Self::U16(_) => b'u',
            Self::I32(_) => b'I',
            Self::U32(_) => b'i',
            Self::I64(_) => b'l',
            Self::F32(_) => b'f',
            Self::F64(_) => b'd',
            Self::Decimal(_) => b'D',
            Self::LongStr(_) => b'S',
            Self::Array(_) => b'A',
            Self::Timestamp(_) => b'T',
            Self::Table(_) => b'F',
            Self::Void => b'V',
            Self::ByteArray(_) => b'x',
        }
    }

    /// The text of a long string that is UTF-8.
    #[must_use]
    pub fn as_str(&self) -> Option<&str> {
        match self {
            Self::LongStr(text) => text.to_str().ok(),
            _ => None,
        }
    }

    /// The value of any integer type, widened.
    #[must_use]
    pub fn as_i64(&self) -> Option<i64> {
        Some(match self {
            Self::I8(v) => (*v).into(),
            Self::U8(v) => (*v).into(),
            Self::I16(v) => (*v).into(),
            Self::U16(v) => (*v).into(),
            Self::I32(v) => (*v).into(),
            Self::U32(v) => (*v).into(),
            Self::I64(v) => *v,
            _ => return None,
        })
    }

    /// The value of either floating-point type, widened.
    #[must_use]
    pub fn as_f64(&self) -> Option<f64> {
        match self {
            Self::F32(v) => Some((*v).into()),
            Self::F64(v) => Some(*v),
            _ => None,
        }
    }

    /// The value of a boolean.
    #[must_use]
    pub const fn as_bool(&self) -> Option<bool> {
        match self {
            Self::Bool(v) => Some(*v),
            _ => None,
        }
    }

    /// The nested table.
    #[must_use]
    pub const fn as_table(&self) -> Option<&FieldTable> {
        match self {
            Self::Table(v) => Some(v),
            _ => None,
        }
    }

    /// The nested array.
    #[must_use]
    pub const fn as_array(&self) -> Option<&FieldArray> {
        match self {
            Self::Array(v) => Some(v),
            _ => None,
        }
    }
}

fn map<T>((rest, value): (&[u8], T), wrap: impl FnOnce(T) -> Value) -> (&[u8], Value) {
    (rest, wrap(value))
}

/// Steps over the value of type `kind`; `nested` checks the content of a table (`true`) or an array.
pub(super) fn skip<'a>(
    kind: u8,
    input: &'a [u8],
    nested: impl FnOnce(bool, &'a [u8]) -> Result<(), DecodeErrorKind>,
) -> Parsed<'a, ()> {
    let fixed = match kind {
        b't' | b'b' | b'B' => 1,
        b's' | b'u' => 2,
        b'I' | b'i' | b'f' => 4,
        b'D' => 5,
        b'l' | b'L' | b'd' | b'T' => 8,
        b'V' => 0,
        b'S' | b'x' => return long_bytes(input).map(|(rest, _)| (rest, ())),
        b'F' | b'A' => {
            let (rest, content) = long_bytes(input)?;
            nested(kind == b'F', content).map_err(DecodeErrorKind::fail)?;
            return Ok((rest, ()));
        }
        unknown => return Err(DecodeErrorKind::UnknownFieldType(unknown).fail()),
    };
    bytes(fixed)(input).map(|(rest, _)| (rest, ()))
}

/// A decimal number: `value` with `scale` digits after the decimal point.
///
/// ```
/// # use amqp_proto::Decimal;
/// let price = Decimal { scale: 2, value: 1999 };
/// assert_eq!(price.to_string(), "19.99");
/// ```
#[derive(Debug, Clone, Copy, PartialEq, Eq, Hash, Default)]
pub struct Decimal {
    /// Number of digits after the decimal point.
    pub scale: u8,
    /// All digits, without the decimal point.
    pub value: i32,
}

impl fmt::Display for Decimal {
    fn fmt(&self, f: &mut fmt::Formatter<'_>) -> fmt::Result {
        let sign = if self.value < 0 { "-" } else { "" };
        let scale = usize::from(self.scale);
        let digits = format!("{:0>width$}", self.value.unsigned_abs(), width = scale + 1);
        let (whole, fraction) = digits.split_at(digits.len() - scale);
        let point = if scale == 0 { "" } else { "." };
        write!(f, "{sign}{whole}{point}{fraction}")
    }
}

/// Seconds since 1970-01-01 00:00:00 UTC (spec 4.2.5.4).
///
/// ```
/// # use amqp_proto::Timestamp;
/// # #[cfg(feature = "std")] {
/// use std::time::SystemTime;
///
/// let now = Timestamp::from(SystemTime::now());
/// println!("{:?}", now.to_system_time());
/// # }
/// ```
#[derive(Debug, Clone, Copy, PartialEq, Eq, PartialOrd, Ord, Hash, Default)]
pub struct Timestamp(pub u64);

#[cfg(feature = "std")]
impl Timestamp {
    /// The point in time, if the platform can represent it.
    #[must_use]
    pub fn to_system_time(self) -> Option<SystemTime> {
        UNIX_EPOCH.checked_add(Duration::from_secs(self.0))
    }
}

#[cfg(feature = "std")]
impl From<SystemTime> for Timestamp {
    /// Fractions of a second are cut off; times before 1970 become 0.
    fn from(time: SystemTime) -> Self {
        Self(time.duration_since(UNIX_EPOCH).map_or(0, |since| since.as_secs()))
    }
}

impl Wire for Timestamp {
    const TYPE: &'static str = "timestamp";

    fn decode<'a>(input: &'a [u8], _: &Bytes) -> Parsed<'a, Self> {
        u64_be(input).map(|(rest, seconds)| (rest, Self(seconds)))
    }

    fn encode(&self, out: &mut Vec<u8>) {
        out.put_u64(self.0);
    }
}

macro_rules! value_from {
    ($($from:ty: |$value:ident| $made:expr;)*) => {$(
        impl From<$from> for Value {
            fn from($value: $from) -> Self {
                $made
            }
        }
    )*};
}

value_from! {
    bool: |v| Self::Bool(v);
    i8: |v| Self::I8(v);
    u8: |v| Self::U8(v);
    i16: |v| Self::I16(v);
    u16: |v| Self::U16(v);
    i32: |v| Self::I32(v);
    u32: |v| Self::U32(v);
    i64: |v| Self::I64(v);
    f32: |v| Self::F32(v);
    f64: |v| Self::F64(v);
    Decimal: |v| Self::Decimal(v);
    &str: |v| Self::LongStr(LongStr::from(v.as_bytes().to_vec()));
    String: |v| Self::LongStr(LongStr::from(v));
    LongStr: |v| Self::LongStr(v);
    Vec<u8>: |v| Self::ByteArray(v.into());
    Bytes: |v| Self::ByteArray(v);
    FieldArray: |v| Self::Array(v);
    FieldTable: |v| Self::Table(v);
    Timestamp: |v| Self::Timestamp(v);
}

#[cfg(feature = "std")]
impl From<SystemTime> for Value {
    fn from(time: SystemTime) -> Self {
        Self::Timestamp(time.into())
    }
}

impl TryFrom<u64> for Value {
    type Error = core::num::TryFromIntError;

    /// There is no unsigned 64-bit type on the wire: values up to `i64::MAX` travel as signed.
    fn try_from(value: u64) -> Result<Self, Self::Error> {
        i64::try_from(value).map(Self::I64)
    }
}
