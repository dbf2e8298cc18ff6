//! The codecs for types of serde.

#[cfg(any(feature = "json", feature = "messagepack", feature = "cbor"))]
macro_rules! formats {
    ($(
        $feature:literal, $name:ident, $title:literal, [$content_type:literal $(, $other:literal)*],
        $encode:expr, $decode:expr;
    )*) => {$(
        #[doc = concat!("Values in ", $title, ": a codec, and an [extractor](crate::handler) of handlers.")]
        ///
        #[doc = concat!("As a codec, it is written without a parameter: `publisher.of::<Order, ", stringify!($name), ">()`.")]
        #[doc = concat!("It publishes messages as `", $content_type, "`, and decodes messages of the content types")]
        #[doc = concat!("`", $content_type, "`" $(, ", `", $other, "`")*, " and messages without a content type.")]
        #[cfg(feature = $feature)]
        #[derive(Debug, Clone, Copy, PartialEq, Eq, PartialOrd, Ord, Hash, Default)]
        #[expect(clippy::exhaustive_structs, reason = "handlers take its value out")]
        pub struct $name<T = ()>(pub T);

        #[cfg(feature = $feature)]
        impl $name {
            /// The content types that the codec decodes. An entry such as `+json` stands for all that end with it.
            pub const CONTENT_TYPES: &'static [&'static str] = &[$content_type $(, $other)*];
        }

        #[cfg(feature = $feature)]
        impl<T: serde::Serialize + ?Sized> super::Encode<T> for $name {
            const CONTENT_TYPE: &'static str = $content_type;

            fn encode(value: &T) -> Result<Vec<u8>, super::EncodeBodyError> {
                $encode(value).map_err(|error| super::EncodeBodyError::value($title, error))
            }
        }

        #[cfg(feature = $feature)]
        impl<T: serde::de::DeserializeOwned> super::Decode<T> for $name {
            fn decode(content: super::Content<'_>) -> Result<T, super::DecodeBodyError> {
                content.expect($title, Self::CONTENT_TYPES)?;
                $decode(content.body).map_err(|error| super::DecodeBodyError::body($title, error))
            }
        }
    )*};
}

#[cfg(any(feature = "json", feature = "messagepack", feature = "cbor"))]
formats! {
    "json", Json, "JSON", ["application/json", "+json"],
    serde_json::to_vec, serde_json::from_slice;

    "messagepack", MessagePack, "MessagePack",
    ["application/msgpack", "application/x-msgpack", "application/vnd.msgpack", "+msgpack"],
    rmp_serde::to_vec_named, messagepack::from_slice;

    "cbor", Cbor, "CBOR", ["application/cbor", "+cbor"],
    cbor::to_vec, cbor::from_slice;
}

/// The maximum nesting depth of the values of a body: that of `serde_json`. Hostile bodies must not exhaust the stack.
#[cfg(any(feature = "messagepack", feature = "cbor"))]
const DEPTH_MAX: usize = 128;

#[cfg(feature = "messagepack")]
mod messagepack {
    use serde::de::DeserializeOwned;

    use crate::codec::BoxError;

    pub(super) fn from_slice<T: DeserializeOwned>(body: &[u8]) -> Result<T, BoxError> {
        let mut rest = body;
        let mut decoder = rmp_serde::Deserializer::new(&mut rest);
        decoder.set_max_depth(super::DEPTH_MAX);
        let value = T::deserialize(&mut decoder)?;
        super::nothing_left(rest).map(|()| value)
    }
}

#[cfg(feature = "cbor")]
mod cbor {
    use serde::Serialize;
    use serde::de::DeserializeOwned;

    use crate::codec::BoxError;

    pub(super) fn to_vec<T: Serialize + ?Sized>(value: &T) -> Result<Vec<u8>, BoxError> {
        let mut body = Vec::new();
        ciborium::into_writer(value, &mut body)?;
        Ok(body)
    }

    pub(super) fn from_slice<T: DeserializeOwned>(body: &[u8]) -> Result<T, BoxError> {
        let mut rest = body;
        let value = ciborium::de::from_reader_with_recursion_limit(&mut rest, super::DEPTH_MAX)?;
        super::nothing_left(rest).map(|()| value)
    }
}

#[cfg(any(feature = "messagepack", feature = "cbor"))]
fn nothing_left(rest: &[u8]) -> Result<(), super::BoxError> {
    match rest.len() {
        0 => Ok(()),
        left => Err(format!("{left} bytes follow the value").into()),
    }
}
