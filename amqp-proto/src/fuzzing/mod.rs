//! The bodies of the fuzz targets. They live with the code, so that they break when it changes, and ordinary tests run them.

#![allow(missing_docs, reason = "not for users")]
#![allow(clippy::expect_used, clippy::indexing_slicing, reason = "finding is failing")]

mod contents;
mod operations;
mod pair;
mod session;

use bytes::{Bytes, BytesMut};

pub use contents::contents;
pub use operations::operations;
pub use session::session;

use self::pair::Pair;
use crate::frame::Frame;
use crate::method::{BasicConsume, ConfirmSelect, Method, QueueDeclare};
use crate::uri::Uri;
use crate::{ClientConfig, Properties, RawProperties, Route, ShortStr};

/// Frames: bytes that decode, encode to the same bytes.
pub fn frames(data: &[u8]) {
    let mut input = BytesMut::from(data);
    while let Ok(Some(frame)) = Frame::decode(&mut input, 1 << 16) {
        let consumed = data.len() - input.len();
        let mut out = Vec::new();
        frame.encode(&mut out);
        assert!(data[..consumed].ends_with(&out));
    }
}

/// Methods: bytes that decode, encode to bytes that decode to the same.
pub fn methods(data: &[u8]) {
    let Ok(method) = Method::decode(&Bytes::copy_from_slice(data)) else { return };
    let _shown = format!("{method:?}");
    let mut out = Vec::new();
    method.encode(&mut out);
    let again = Method::decode(&Bytes::from(out.clone())).expect("what was encoded decodes");
    let mut twice = Vec::new();
    again.encode(&mut twice);
    assert_eq!(out, twice);
}

/// Properties, and the tables in them: both ways of reading agree.
pub fn properties(data: &[u8]) {
    let raw = RawProperties::unchecked(Bytes::copy_from_slice(data));
    let _shown = format!("{raw:?}");
    let headers = raw.headers();
    let checked = RawProperties::checked(Bytes::copy_from_slice(data));
    let Ok(properties) = raw.decode() else { return assert!(checked.is_err()) };
    assert_eq!((checked, headers.as_ref()), (Ok(raw), Ok(&properties.headers)));
    let again = RawProperties::from(&properties);
    assert_eq!(
        Properties::decode(&Bytes::copy_from_slice(again.as_encoded()))
            .map(|p| RawProperties::from(&p)),
        Ok(again)
    );
    if let Some(headers) = &properties.headers {
        let entries = headers.iter().count();
        assert_eq!(entries, headers.len());
        for (name, _) in headers {
            assert!(headers.get(&name).is_some());
        }
    }
}

/// URIs: a URI that parses, prints, and parses again to the same, except for the password.
pub fn uri(data: &[u8]) {
    let Ok(text) = std::str::from_utf8(data) else { return };
    let Ok(uri) = text.parse::<Uri>() else { return };
    let _config = ClientConfig::from_uri(&uri);
    let printed: Uri = uri.to_string().parse().expect("what is printed parses");
    let without = |uri: Uri| Uri { password: None, ..uri };
    assert_eq!(without(printed), without(uri));
}

/// A client that has a channel with a consumer and confirms, fed with bytes in pieces.
pub fn client(data: &[u8]) {
    let mut pair = Pair::new();
    if let Ok(id) = pair.client.open_channel() {
        if let Ok(mut channel) = pair.client.channel(id) {
            let consumer_tag = ShortStr::truncated("c");
            let consume = BasicConsume { consumer_tag, no_wait: true, ..<_>::default() };
            let _asked = channel.request(consume);
            let _asked = channel.request(ConfirmSelect { no_wait: true });
            let _published = channel.publish(&Route::queue("q"), &Properties::default(), "body");
            let _asked = channel.request(QueueDeclare::default());
        }
    }
    let (splits, bytes) = data.split_at(data.len().min(4));
    pair.feed(bytes, splits, false);
}

/// A server, fed likewise.
pub fn server(data: &[u8]) {
    let mut pair = Pair::new();
    let (splits, bytes) = data.split_at(data.len().min(4));
    pair.feed(bytes, splits, true);
}

#[cfg(test)]
mod tests {
    use proptest::prelude::*;

    use super::*;

    type Target = fn(&[u8]);

    const TARGETS: [Target; 9] =
        [frames, contents, methods, properties, uri, client, server, operations, session];

    proptest! {
        #[test]
        fn the_bodies_of_the_fuzz_targets_run(data in proptest::collection::vec(any::<u8>(), 0..600)) {
            TARGETS.iter().for_each(|target| target(&data));
        }
    }
}
