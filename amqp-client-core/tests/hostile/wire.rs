//! The bytes of a hostile server.

use amqp_client_core::proto::method::{
    BasicConsumeOk, BasicDeliver, ChannelOpenOk, ConnectionOpenOk, ConnectionStart, ConnectionTune,
    Method,
};
use amqp_client_core::proto::{FieldTable, LongStr, ShortStr};

pub(crate) const METHOD: u8 = 1;
pub(crate) const HEADER: u8 = 2;
pub(crate) const BODY: u8 = 3;
pub(crate) const HEARTBEAT: u8 = 8;

/// The tag of the consumer that every scene has, on channel 1.
pub(crate) const TAG: &str = "t";

pub(crate) fn short(text: &str) -> ShortStr {
    ShortStr::try_from(text).expect("a short string")
}

pub(crate) fn frame(kind: u8, channel: u16, payload: &[u8]) -> Vec<u8> {
    let size = u32::try_from(payload.len()).expect("a frame can hold it");
    let [high, low] = channel.to_be_bytes();
    [&[kind, high, low][..], &size.to_be_bytes(), payload, &[0xce]].concat()
}

pub(crate) fn method(channel: u16, method: impl Into<Method>) -> Vec<u8> {
    let mut payload = Vec::new();
    method.into().encode(&mut payload);
    frame(METHOD, channel, &payload)
}

/// A delivery's method frame for the scene's consumer.
pub(crate) fn deliver(delivery_tag: u64) -> Vec<u8> {
    deliver_to(1, TAG, delivery_tag)
}

pub(crate) fn deliver_to(channel: u16, consumer_tag: &str, delivery_tag: u64) -> Vec<u8> {
    let consumer_tag = short(consumer_tag);
    method(channel, BasicDeliver { consumer_tag, delivery_tag, ..BasicDeliver::default() })
}

/// A content header without properties.
pub(crate) fn header(body_size: u64) -> Vec<u8> {
    header_on(1, body_size, &[0, 0])
}

/// A content header; `properties` begins with the flags.
pub(crate) fn header_on(channel: u16, body_size: u64, properties: &[u8]) -> Vec<u8> {
    let payload = [&[0, 60, 0, 0][..], &body_size.to_be_bytes(), properties].concat();
    frame(HEADER, channel, &payload)
}

pub(crate) fn body(bytes: &[u8]) -> Vec<u8> {
    frame(BODY, 1, bytes)
}

/// A whole message for the scene's consumer.
pub(crate) fn message(delivery_tag: u64, bytes: &[u8]) -> Vec<u8> {
    let body = if bytes.is_empty() { Vec::new() } else { body(bytes) };
    [deliver(delivery_tag), header(bytes.len() as u64), body].concat()
}

/// A whole message whose only property is this `headers` table, as it travels.
pub(crate) fn message_with_headers(delivery_tag: u64, headers: &[u8]) -> Vec<u8> {
    let size = u32::try_from(headers.len()).expect("a frame can hold it").to_be_bytes();
    // The flag of `headers` is the third from the left.
    let properties = [&[0x20, 0][..], &size, headers].concat();
    [deliver(delivery_tag), header_on(1, 0, &properties)].concat()
}

/// The entries of a table that nests this deep.
pub(crate) fn nested_table(depth: usize) -> Vec<u8> {
    let mut entries = Vec::new();
    for _ in 1..depth {
        let size = u32::try_from(entries.len()).expect("it fits").to_be_bytes();
        entries = [&[1, b'k', b'F'][..], &size, &entries].concat();
    }
    entries
}

pub(crate) fn start() -> Vec<u8> {
    start_offering("PLAIN CHALLENGED")
}

pub(crate) fn start_offering(mechanisms: &str) -> Vec<u8> {
    method(
        0,
        ConnectionStart {
            version_major: 0,
            version_minor: 9,
            server_properties: FieldTable::new(),
            mechanisms: LongStr::from(mechanisms.to_owned()),
            locales: LongStr::from("en_US"),
        },
    )
}

pub(crate) fn tune(channel_max: u16, frame_max: u32, heartbeat: u16) -> Vec<u8> {
    method(0, ConnectionTune { channel_max, frame_max, heartbeat })
}

pub(crate) fn open_ok() -> Vec<u8> {
    method(0, ConnectionOpenOk::default())
}

pub(crate) fn channel_open_ok(channel: u16) -> Vec<u8> {
    method(channel, ChannelOpenOk::default())
}

pub(crate) fn consume_ok(channel: u16, consumer_tag: &str) -> Vec<u8> {
    method(channel, BasicConsumeOk { consumer_tag: short(consumer_tag) })
}
