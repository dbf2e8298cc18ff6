use alloc::borrow::Cow;
use alloc::boxed::Box;
use alloc::string::String;
use alloc::vec::Vec;
use bytes::{Bytes, BytesMut};

/// The body of a message to publish: a string or bytes, owned or borrowed.
///
/// Small bodies are copied into the outgoing buffer. Large bodies are passed to the transport as [`Bytes`]: `Bytes`, `Vec<u8>` and
/// `String` are converted without a copy, borrowed bytes are copied.
///
/// This trait is sealed: clients call it under the lock of the connection, in the middle of a frame. There, code of other crates
/// could wait for that lock, or panic and leave half a frame. For your own body type, use [`Bytes::from_owner`]. Its owner is
/// dropped outside of the lock.
///
/// ```
/// # use amqp_proto::Body;
/// assert_eq!("work".as_bytes(), b"work");
/// assert_eq!(vec![1, 2, 3].as_bytes(), [1, 2, 3]);
/// assert_eq!((&b"work"[..]).into_bytes(), "work");
/// ```
#[diagnostic::on_unimplemented(
    message = "`{Self}` cannot be the body of a message",
    label = "neither text nor bytes",
    note = "a body is `&str`, `String`, `&String`, `Cow<str>`, `&[u8]`, `&[u8; N]`, `Vec<u8>`, `&Vec<u8>`, `Box<[u8]>`, `Cow<[u8]>`, \
            `Bytes`, `&Bytes` or `BytesMut`; convert to one of these, or encode the value with a codec such as JSON"
)]
pub trait Body: sealed::Sealed {
    /// Returns the bytes.
    fn as_bytes(&self) -> &[u8];

    /// Converts the body to owned bytes.
    fn into_bytes(self) -> Bytes;
}

#[doc(hidden)]
pub mod sealed {
    /// For this workspace only.
    pub trait Sealed {}
}

macro_rules! bodies {
    ($(($($generic:tt)*) $type:ty: |$body:ident| $slice:expr, $bytes:expr;)*) => {$(
        impl<$($generic)*> sealed::Sealed for $type {}

        impl<$($generic)*> Body for $type {
            fn as_bytes(&self) -> &[u8] {
                let $body = self;
                $slice
            }

            fn into_bytes(self) -> Bytes {
                let $body = self;
                $bytes
            }
        }
    )*};
}

bodies! {
    () Bytes: |body| body, body;
    () &Bytes: |body| body, body.clone();
    () Vec<u8>: |body| body, body.into();
    () BytesMut: |body| body, body.freeze();
    () Box<[u8]>: |body| body, body.into();
    () Cow<'_, [u8]>: |body| body, body.into_owned().into();
    () Cow<'_, str>: |body| str::as_bytes(body), body.into_owned().into();
    () &Vec<u8>: |body| body, Bytes::copy_from_slice(body);
    () &[u8]: |body| body, Bytes::copy_from_slice(body);
    (const N: usize) &[u8; N]: |body| body.as_slice(), Bytes::copy_from_slice(body);
    () String: |body| str::as_bytes(body), body.into();
    () &String: |body| str::as_bytes(body), Bytes::copy_from_slice(str::as_bytes(body));
    () &str: |body| str::as_bytes(body), Bytes::copy_from_slice(str::as_bytes(body));
}
