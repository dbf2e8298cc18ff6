use alloc::string::String;
use alloc::vec::Vec;
use bytes::Bytes;

/// The body of a message to publish.
///
/// Small bodies are copied into the outgoing buffer. Large ones are handed to the transport as they are, which takes a
/// [`Bytes`]: `Bytes`, `Vec<u8>` and `String` become one for free, borrowed octets by a copy.
///
/// Clients call the methods of an implementation while they hold the lock of the connection: a method must not use a handle of
/// that connection, nor block. Dropping a body happens outside of the lock.
pub trait Body {
    /// The octets.
    fn as_octets(&self) -> &[u8];

    /// The octets, owned.
    fn into_bytes(self) -> Bytes;
}

macro_rules! bodies {
    ($(($($generic:tt)*) $type:ty: |$body:ident| $octets:expr, $bytes:expr;)*) => {$(
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
    () &Vec<u8>: |body| body, Bytes::copy_from_slice(body);
    () &[u8]: |body| body, Bytes::copy_from_slice(body);
    (const N: usize) &[u8; N]: |body| body.as_slice(), Bytes::copy_from_slice(body);
    () String: |body| body.as_bytes(), body.into();
    () &String: |body| body.as_bytes(), Bytes::copy_from_slice(body.as_bytes());
    () &str: |body| body.as_bytes(), Bytes::copy_from_slice(body.as_bytes());
}
