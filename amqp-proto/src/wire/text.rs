use alloc::string::String;
use alloc::vec::Vec;
use core::borrow::Borrow;
use core::fmt::{self, Write as _};
use core::str::Utf8Error;

use bytes::{BufMut as _, Bytes};

use super::primitive::{long_bytes, put_long_bytes};
use super::{Parsed, Wire, share, short_bytes};

/// A name (exchange, queue, routing key, consumer tag...) is longer than the 255 bytes a short string holds.
///
/// ```
/// # use amqp_proto::ShortStr;
/// let error = ShortStr::named("queue", "q".repeat(300)).unwrap_err();
/// assert_eq!(error.to_string(), "queue is 300 bytes long; AMQP allows at most 255");
/// ```
#[derive(Clone, Copy, PartialEq, Eq, thiserror::Error)]
#[error("{what} is {length} bytes long; AMQP allows at most 255")]
pub struct TooLong {
    /// The kind of name.
    pub what: &'static str,
    /// Its length in bytes.
    pub length: usize,
}

crate::error::debug_shows_chain! { TooLong }

/// Returns the length octet of a short string. The error names the value that is too long.
pub(crate) fn checked_short(what: &'static str, bytes: &[u8]) -> Result<u8, TooLong> {
    let length = bytes.len();
    u8::try_from(length).map_err(|_| TooLong { what, length })
}

/// A short string: up to 255 bytes, not necessarily UTF-8 (spec 4.2.5.3).
///
/// Names of exchanges, queues, consumers, virtual hosts, and routing keys are short strings. Cloning shares the bytes.
///
/// ```
/// # use amqp_proto::ShortStr;
/// let queue = ShortStr::try_from("orders")?;
/// assert_eq!(queue, "orders");
/// assert!(ShortStr::try_from("x".repeat(256)).is_err());
/// # Ok::<(), amqp_proto::TooLong>(())
/// ```
#[derive(Clone, Default, PartialEq, Eq, PartialOrd, Ord, Hash)]
pub struct ShortStr(Bytes);

impl ShortStr {
    /// The empty string.
    pub const EMPTY: Self = Self(Bytes::new());

    /// Copies `bytes`, unless there are more than 255.
    ///
    /// # Errors
    /// [`TooLong`], which names the value as `what`.
    pub fn named(what: &'static str, bytes: impl AsRef<[u8]>) -> Result<Self, TooLong> {
        let bytes = bytes.as_ref();
        super::checked_short(what, bytes)?;
        // `Bytes` of the caller may run user code when they are dropped, and clients drop strings under a lock.
        Ok(Self(Bytes::copy_from_slice(bytes)))
    }

    /// The longest prefix of `text` that fits, cut at a character boundary: for reply texts, where losing the end is
    /// better than failing.
    #[must_use]
    pub fn truncated(text: &str) -> Self {
        let mut end = text.len().min(usize::from(u8::MAX));
        while !text.is_char_boundary(end) {
            end -= 1;
        }
        Self(Bytes::copy_from_slice(text.get(..end).unwrap_or_default().as_bytes()))
    }

    /// Returns whether the string is empty.
    #[must_use]
    pub fn is_empty(&self) -> bool {
        self.0.is_empty()
    }

    /// The length in bytes.
    #[must_use]
    pub fn len(&self) -> usize {
        self.0.len()
    }

    /// The text for log lines and terminals: characters that would control them, as line breaks, escape sequences and
    /// changes of direction, are escaped. `Display` shows the text as it is.
    #[must_use]
    pub const fn escaped(&self) -> Escaped<'_> {
        Escaped(self)
    }

    /// A copy with bytes of its own, for keeping a name that was cut out of a large buffer.
    #[must_use]
    pub fn detached(&self) -> Self {
        Self(Bytes::copy_from_slice(&self.0))
    }

    /// Slices a short string out of `source`. `part` was parsed as one, so it is short enough.
    pub(crate) fn shared(source: &Bytes, part: &[u8]) -> Self {
        Self(share(source, part))
    }
}

impl Wire for ShortStr {
    const TYPE: &'static str = "shortstr";

    fn decode<'a>(input: &'a [u8], source: &Bytes) -> Parsed<'a, Self> {
        let (rest, bytes) = short_bytes(input)?;
        Ok((rest, Self::shared(source, bytes)))
    }

    fn encode(&self, out: &mut Vec<u8>) {
        out.put_u8(u8::try_from(self.0.len()).unwrap_or(u8::MAX));
        out.extend_from_slice(&self.0);
    }
}

/// A long string: bytes with a 32-bit length (spec 4.2.5.3). Cloning shares the bytes.
#[derive(Clone, Default, PartialEq, Eq, Hash)]
pub struct LongStr(Bytes);

impl LongStr {
    /// The bytes as a shared buffer.
    #[must_use]
    pub fn into_bytes(self) -> Bytes {
        self.0
    }
}

/// A long string that carries credentials: `Debug` does not show it, and its memory is overwritten when nothing refers to it
/// any more.
///
/// ```
/// # use amqp_proto::Secret;
/// let secret = Secret::from("password");
/// assert!(!format!("{secret:?}").contains("password"));
/// assert_eq!(secret.expose(), b"password");
/// ```
#[derive(Clone, Default, PartialEq, Eq)]
pub struct Secret(Bytes);

impl Secret {
    /// The bytes; keep them out of logs.
    #[must_use]
    pub fn expose(&self) -> &[u8] {
        &self.0
    }
}

impl Drop for Secret {
    fn drop(&mut self) {
        if let Ok(mut bytes) = core::mem::take(&mut self.0).try_into_mut() {
            wipe(&mut bytes);
        }
    }
}

/// Overwrites secret bytes, as far as safe code can do that.
pub(crate) fn wipe(bytes: &mut [u8]) {
    bytes.fill(0);
    // Otherwise the compiler might remove the write, because nothing reads it.
    core::hint::black_box(bytes);
}

impl fmt::Debug for Secret {
    fn fmt(&self, f: &mut fmt::Formatter<'_>) -> fmt::Result {
        f.write_str("<redacted>")
    }
}

macro_rules! long_strings {
    ($($name:ident)*) => {$(
        impl Wire for $name {
            const TYPE: &'static str = "longstr";

            fn decode<'a>(input: &'a [u8], source: &Bytes) -> Parsed<'a, Self> {
                let (rest, bytes) = long_bytes(input)?;
                Ok((rest, Self(share(source, bytes))))
            }

            fn encode(&self, out: &mut Vec<u8>) {
                put_long_bytes(out, &self.0);
            }
        }

        impl<T: Into<Bytes>> From<T> for $name {
            fn from(bytes: T) -> Self {
                Self(bytes.into())
            }
        }
    )*};
}

long_strings! { LongStr Secret }

macro_rules! short_from {
    ($($from:ty)*) => {$(
        impl TryFrom<$from> for ShortStr {
            type Error = TooLong;

            fn try_from(value: $from) -> Result<Self, TooLong> {
                Self::named("short string", value)
            }
        }
    )*};
}

short_from! { &str &String &[u8] String Vec<u8> Bytes }

impl From<ShortStr> for Bytes {
    fn from(value: ShortStr) -> Self {
        value.0
    }
}

impl AsRef<[u8]> for ShortStr {
    fn as_ref(&self) -> &[u8] {
        &self.0
    }
}

impl Borrow<[u8]> for ShortStr {
    fn borrow(&self) -> &[u8] {
        &self.0
    }
}

impl PartialEq<str> for ShortStr {
    fn eq(&self, other: &str) -> bool {
        self.0 == other.as_bytes()
    }
}

impl PartialEq<&str> for ShortStr {
    fn eq(&self, other: &&str) -> bool {
        self.0 == other.as_bytes()
    }
}

/// The text of a [`ShortStr`] without control characters; see [`ShortStr::escaped`].
#[derive(Debug, Clone, Copy)]
pub struct Escaped<'a>(&'a ShortStr);

impl fmt::Display for Escaped<'_> {
    fn fmt(&self, f: &mut fmt::Formatter<'_>) -> fmt::Result {
        write_escaped(&String::from_utf8_lossy(&self.0.0), f)
    }
}

/// Writes a text with its control characters escaped, and those that break lines or change the direction of text.
pub(crate) fn write_escaped(text: &str, f: &mut fmt::Formatter<'_>) -> fmt::Result {
    text.chars().try_for_each(|c| match c {
        '\u{2028}'..='\u{202e}' | '\u{2066}'..='\u{2069}' => write!(f, "{}", c.escape_unicode()),
        c if c.is_control() => write!(f, "{}", c.escape_debug()),
        c => f.write_char(c),
    })
}

/// Implements the methods that short and long strings have in common.
macro_rules! text_methods {
    ($($name:ident)*) => {$(
        impl $name {
            /// Returns the bytes.
            #[must_use]
            pub fn as_bytes(&self) -> &[u8] {
                &self.0
            }

            /// Returns the text, if the bytes are UTF-8.
            ///
            /// # Errors
            /// If they are not, with the position of the first invalid byte.
            pub fn to_str(&self) -> Result<&str, Utf8Error> {
                core::str::from_utf8(&self.0)
            }
        }

        /// The text; bytes that are not UTF-8 show as replacement characters.
        impl fmt::Display for $name {
            fn fmt(&self, f: &mut fmt::Formatter<'_>) -> fmt::Result {
                f.pad(&String::from_utf8_lossy(&self.0))
            }
        }

        impl fmt::Debug for $name {
            fn fmt(&self, f: &mut fmt::Formatter<'_>) -> fmt::Result {
                fmt::Debug::fmt(&String::from_utf8_lossy(&self.0), f)
            }
        }
    )*};
}

text_methods! { ShortStr LongStr }
