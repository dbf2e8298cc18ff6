use alloc::vec::Vec;
use bytes::{BufMut as _, Bytes};

use super::{DecodeErrorKind, Parsed};

/// A type of the specification, as an argument of methods.
pub(crate) trait Wire: Sized {
    /// The specification's name for the type.
    const TYPE: &'static str;

    /// Parses one value. `input` is a part of `source`.
    fn decode<'a>(input: &'a [u8], source: &Bytes) -> Parsed<'a, Self>;

    fn encode(&self, out: &mut Vec<u8>);
}

macro_rules! fixed_size {
    ($($name:ident: $type:ty;)*) => {$(
        pub(crate) fn $name(input: &[u8]) -> Parsed<'_, $type> {
            match input.split_first_chunk() {
                Some((bytes, rest)) => Ok((rest, <$type>::from_be_bytes(*bytes))),
                None => Err(DecodeErrorKind::Truncated.fail()),
            }
        }
    )*};
}

fixed_size! {
    u8_be: u8;
    u16_be: u16;
    u32_be: u32;
    u64_be: u64;
    i8_be: i8;
    i16_be: i16;
    i32_be: i32;
    i64_be: i64;
    f32_be: f32;
    f64_be: f64;
}

macro_rules! integer_arguments {
    ($($type:ty = $spec:literal, $read:ident, $put:ident;)*) => {$(
        impl Wire for $type {
            const TYPE: &'static str = $spec;

            fn decode<'a>(input: &'a [u8], _: &Bytes) -> Parsed<'a, Self> {
                $read(input)
            }

            fn encode(&self, out: &mut Vec<u8>) {
                out.$put(*self);
            }
        }
    )*};
}

integer_arguments! {
    u8 = "octet", u8_be, put_u8;
    u16 = "short", u16_be, put_u16;
    u32 = "long", u32_be, put_u32;
    u64 = "longlong", u64_be, put_u64;
}

/// The next `length` bytes.
pub(crate) fn bytes(length: usize) -> impl Fn(&[u8]) -> Parsed<'_, &[u8]> {
    move |input| match input.split_at_checked(length) {
        Some((taken, rest)) => Ok((rest, taken)),
        None => Err(DecodeErrorKind::Truncated.fail()),
    }
}

/// The bytes of a short string.
pub(crate) fn short_bytes(input: &[u8]) -> Parsed<'_, &[u8]> {
    let (rest, length) = u8_be(input)?;
    bytes(usize::from(length))(rest)
}

/// The bytes of a long string, and of everything else that has a 32-bit length in front.
pub(crate) fn long_bytes(input: &[u8]) -> Parsed<'_, &[u8]> {
    let (rest, length) = u32_be(input)?;
    // A length that does not fit the machine's usize cannot fit the input either.
    bytes(usize::try_from(length).unwrap_or(usize::MAX))(rest)
}

/// Bit `index` of an octet of packed bits: the first declared bit is the lowest.
pub(crate) const fn bit_set(bits: u8, index: u32) -> bool {
    bits & (1 << index) != 0
}

/// The 32-bit length before `bytes`. Lengths are checked where values are created; a frame holds less anyway.
pub(crate) fn put_long_bytes(out: &mut Vec<u8>, bytes: &[u8]) {
    out.put_u32(u32::try_from(bytes.len()).unwrap_or(u32::MAX));
    out.extend_from_slice(bytes);
}
