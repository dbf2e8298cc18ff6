#![cfg(any(feature = "json", feature = "messagepack", feature = "cbor"))]

use serde::de::DeserializeOwned;

use super::{Content, Decode, DecodeBodyError};

/// Decodes each message by its content type, with the codecs whose features are on. It is a codec, and an
/// [extractor](crate::handler) of handlers.
///
/// A message without a content type is an error. Use one codec for publishers that set none.
#[derive(Debug, Clone, Copy, PartialEq, Eq, PartialOrd, Ord, Hash, Default)]
#[expect(clippy::exhaustive_structs, reason = "handlers take its value out")]
pub struct ByContentType<T = ()>(pub T);

macro_rules! by_content_type {
    ($($feature:literal $codec:ident)*) => {
        impl<T: DeserializeOwned> Decode<T> for ByContentType {
            fn decode(content: Content<'_>) -> Result<T, DecodeBodyError> {
                $(#[cfg(feature = $feature)]
                if content.is_one_of(super::$codec::CONTENT_TYPES) {
                    return super::$codec::decode(content);
                })*
                let Some(found) = content.content_type else {
                    return Err(DecodeBodyError::NoContentType);
                };
                Err(DecodeBodyError::ContentType { format: FORMATS, found: found.to_owned() })
            }
        }
    };
}

by_content_type! { "json" Json "messagepack" MessagePack "cbor" Cbor }

/// The formats that can be decoded, for error texts.
const FORMATS: &str =
    match (cfg!(feature = "json"), cfg!(feature = "messagepack"), cfg!(feature = "cbor")) {
        (true, true, true) => "JSON, MessagePack or CBOR",
        (true, true, false) => "JSON or MessagePack",
        (true, false, true) => "JSON or CBOR",
        (false, true, true) => "MessagePack or CBOR",
        (true, false, false) => "JSON",
        (false, true, false) => "MessagePack",
        (false, false, _) => "CBOR",
    };
