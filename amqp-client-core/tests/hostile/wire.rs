//! Octets as a server may send them.

use amqp_client_core::proto::frame::{Frame, FrameKind};
use amqp_client_core::proto::method::{BasicDeliver, Method};
use amqp_client_core::proto::{RawProperties, ShortStr};
use bytes::Bytes;

pub(crate) fn short(text: &str) -> ShortStr {
    ShortStr::truncated(text)
}

pub(crate) fn frame(kind: FrameKind, channel: u16, payload: impl Into<Bytes>) -> Vec<u8> {
    let mut out = Vec::new();
    Frame { kind, channel, payload: payload.into() }.encode(&mut out);
    out
}

pub(crate) fn method(channel: u16, method: impl Into<Method>) -> Vec<u8> {
    let mut payload = Vec::new();
    method.into().encode(&mut payload);
    frame(FrameKind::Method, channel, payload)
}

pub(crate) fn deliver(channel: u16, consumer_tag: &ShortStr, delivery_tag: u64) -> Vec<u8> {
    let consumer_tag = consumer_tag.clone();
    method(channel, BasicDeliver { consumer_tag, delivery_tag, ..BasicDeliver::default() })
}

/// A content header with encoded properties.
pub(crate) fn header(channel: u16, body_size: u64, properties: &[u8]) -> Vec<u8> {
    let payload = [&[0, 60, 0, 0], &body_size.to_be_bytes()[..], properties].concat();
    frame(FrameKind::Header, channel, payload)
}

pub(crate) fn plain_header(channel: u16, body_size: u64) -> Vec<u8> {
    header(channel, body_size, RawProperties::EMPTY.as_encoded())
}

pub(crate) fn body(channel: u16, octets: impl Into<Bytes>) -> Vec<u8> {
    frame(FrameKind::Body, channel, octets)
}

/// A table within a table, and so on, so many times, as a value's octets behind its type.
pub(crate) fn nested(depth: usize) -> Vec<u8> {
    let mut table = Vec::new();
    for _ in 0..depth {
        let len = u32::try_from(table.len()).expect("it fits");
        table = [&b"\x01tF"[..], &len.to_be_bytes(), &table].concat();
    }
    [&u32::try_from(table.len()).expect("it fits").to_be_bytes()[..], &table].concat()
}

/// Properties that are headers only, given as a table's octets.
pub(crate) fn headers(table: &[u8]) -> Vec<u8> {
    [&[0x20, 0], table].concat()
}
