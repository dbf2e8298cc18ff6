use alloc::borrow::Cow;
use alloc::boxed::Box;
use alloc::string::String;
use alloc::vec::Vec;
use bytes::{Bytes, BytesMut};

/// The body of a message to publish: a string or bytes, owned or borrowed.
///
/// Small bodies are copied into the outgoing buffer. Large ones are handed to the transport as they are, which takes a
/// [`Bytes`]: `Bytes`, `Vec<u8>` and `String` become one for free, borrowed bytes by a copy.
///
/// This trait is sealed: clients call it under the lock of the connection, in the middle of a frame, where code of others could
/// wait for that lock, or panic and leave half a frame. For a body type of your own use [`Bytes::from_owner`], whose owner is
/// dropped outside of the lock.
///
/// ```
/// # use amqp_proto::Body;
/// assert_eq!("work".as_octets(), b"work");
/// assert_eq!(vec![1, 2, 3].as_octets(), [1, 2, 3]);
/// assert_eq!((&b"work"[..]).into_bytes(), "work");
/// ```
pub trait Body: sealed::Sealed {
    /// The bytes.
    fn as_octets(&self) -> &[u8];

    /// The bytes, owned.
    fn into_bytes(self) -> Bytes;
}

#[doc(hidden)]
pub mod sealed {
    /// For this workspace only.
    pub trait Sealed {}
}

macro_rules! bodies {
    ($(($($generic:tt)*) $type:ty: |$body:ident| $octets:expr, $bytes:expr;)*) => {$(
        impl<$($generic)*> sealed::Sealed for $type {}

        impl<$($generic)*> Body for $type {
            fn as_octets(&self) -> &[u8] {
                let $body = self;
                $octets
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
    () Cow<'_, str>: |body| body.as_bytes(), body.into_owned().into();
    () &Vec<u8>: |body| body, Bytes::copy_from_slice(body);
    () &[u8]: |body| body, Bytes::copy_from_slice(body);
    (const N: usize) &[u8; N]: |body| body.as_slice(), Bytes::copy_from_slice(body);
    () String: |body| body.as_bytes(), body.into();
    () &String: |body| body.as_bytes(), Bytes::copy_from_slice(body.as_bytes());
    () &str: |body| body.as_bytes(), Bytes::copy_from_slice(body.as_bytes());
}
