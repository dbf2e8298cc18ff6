//! The bodies of the fuzz targets. They live with the code, so that they break when it changes, and ordinary tests run them.

#![allow(missing_docs, reason = "not for users")]
#![allow(clippy::expect_used, clippy::indexing_slicing, reason = "finding is failing")]

use std::sync::Arc;
use std::time::{Duration, Instant};

use bytes::{Buf as _, Bytes, BytesMut};

use crate::frame::Frame;
use crate::method::{
    BasicCancel, BasicConsume, BasicGet, BasicRecover, ConfirmSelect, Method, QueueDeclare,
    TxSelect,
};
use crate::uri::Uri;
use crate::{
    ChannelId, ClientConfig, Connection, DeliveryTag, Event, Properties, RawProperties, ReplyCode,
    Route, ServerConfig, ServerEvent,
};

/// Frames: what decodes, encodes to the same octets.
pub fn frames(data: &[u8]) {
    let mut input = BytesMut::from(data);
    while let Ok(Some(frame)) = Frame::decode(&mut input, 1 << 16) {
        let consumed = data.len() - input.len();
        let mut out = Vec::new();
        frame.encode(&mut out);
        assert!(data[..consumed].ends_with(&out));
    }
}

/// Methods: what decodes, encodes to something that decodes to the same.
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
    let Ok(raw) = RawProperties::checked(Bytes::copy_from_slice(data)) else { return };
    let properties = raw.decode();
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

/// URIs: what parses, prints, and parses again to the same but for the password.
pub fn uri(data: &[u8]) {
    let Ok(text) = std::str::from_utf8(data) else { return };
    let Ok(uri) = text.parse::<Uri>() else { return };
    let _config = ClientConfig::from_uri(&uri);
    let printed: Uri = uri.to_string().parse().expect("what is printed parses");
    let without = |uri: Uri| Uri { password: None, ..uri };
    assert_eq!(without(printed), without(uri));
}

/// A client that has a channel with a consumer and confirms, fed with octets in pieces.
pub fn client(data: &[u8]) {
    let mut pair = Pair::new();
    pair.act(1, 0);
    pair.act(6, 0);
    pair.act(5, 0);
    let (splits, octets) = data.split_at(data.len().min(4));
    pair.feed(octets, splits, false);
}

/// A server with an open channel, fed likewise.
pub fn server(data: &[u8]) {
    let mut pair = Pair::new();
    pair.act(1, 0);
    let (splits, octets) = data.split_at(data.len().min(4));
    pair.feed(octets, splits, true);
}

/// Anything that both applications may do, with splits and flipped bits on the way.
pub fn operations(data: &[u8]) {
    let mut pair = Pair::new();
    let mut steps = data.iter().copied();
    while let (Some(step), Some(argument)) = (steps.next(), steps.next()) {
        pair.act(step, argument);
    }
    pair.carry(0);
    pair.carry(0);
}

/// Both ends in memory, with an application that answers nothing by itself.
struct Pair {
    client: Connection,
    server: Connection,
    now: Instant,
    channel: Option<ChannelId>,
    to_client: BytesMut,
    to_server: BytesMut,
    tags: Vec<DeliveryTag>,
}

impl Pair {
    #[expect(clippy::disallowed_methods, reason = "virtual time has to start somewhere")]
    fn new() -> Self {
        let now = Instant::now();
        let mut config = ClientConfig::default();
        config.limits.body_max = 1 << 16;
        let mut pair = Self {
            client: Connection::client(Arc::new(config), now),
            server: Connection::server(Arc::new(ServerConfig::default()), now),
            now,
            channel: None,
            to_client: BytesMut::new(),
            to_server: BytesMut::new(),
            tags: Vec::new(),
        };
        while !pair.client.is_open() {
            pair.carry(0);
        }
        pair
    }

    /// Carries what each end has to say, with one bit flipped if `flip` says where.
    fn carry(&mut self, flip: u8) {
        for up in [true, false] {
            let (from, to, buffer) = match up {
                true => (&mut self.client, &mut self.server, &mut self.to_server),
                false => (&mut self.server, &mut self.client, &mut self.to_client),
            };
            while let Some(transmit) = from.poll_transmit(self.now) {
                let mut octets = BytesMut::new();
                bytes::BufMut::put(&mut octets, transmit);
                if let Some(octet) = octets.get_mut(usize::from(flip)).filter(|_| flip > 0) {
                    *octet ^= 1 << (flip % 8);
                }
                let middle = octets.len() / 2;
                for part in [&octets[..middle], &octets[middle..]] {
                    buffer.extend_from_slice(part);
                    let _over = to.handle_input(self.now, buffer);
                }
            }
            self.listen();
        }
    }

    fn listen(&mut self) {
        while let Some(event) = self.client.poll_event() {
            if let Event::Channel(_, crate::ChannelEvent::Delivery { delivery, .. }) = &event {
                assert!(delivery.body().len() <= 1 << 16);
                let _read = (delivery.properties().decode(), delivery.exchange());
                self.tags.push(delivery.delivery_tag());
            }
        }
        while let Some(event) = self.server.poll_event() {
            match event {
                Event::Server(ServerEvent::Login { .. }) => {
                    let _decided = self.server.accept_login();
                }
                Event::Server(ServerEvent::Open { .. }) => {
                    let _decided = self.server.accept_open();
                }
                _ => {}
            }
        }
    }

    fn feed(&mut self, octets: &[u8], splits: &[u8], server: bool) {
        self.carry(0);
        let end = if server { &mut self.server } else { &mut self.client };
        let mut input = BytesMut::new();
        let mut sizes = splits.iter().map(|size| usize::from(*size)).chain([usize::MAX]);
        let mut rest = octets;
        while !rest.is_empty() {
            let (part, more) =
                rest.split_at(sizes.next().unwrap_or(usize::MAX).clamp(1, rest.len()));
            input.extend_from_slice(part);
            let _over = end.handle_input(self.now, &mut input);
            while end.poll_event().is_some() {}
            rest = more;
        }
        end.handle_timeout(self.now + Duration::from_secs(600));
        end.handle_eof(self.now);
        while let Some(transmit) = end.poll_transmit(self.now) {
            transmit.advance(transmit.remaining());
        }
    }

    /// One thing that an application may do. That it is refused is as good as that it is done.
    fn act(&mut self, step: u8, argument: u8) {
        if step % 16 == 0 {
            return self.carry(argument);
        }
        if step % 16 == 1 {
            self.channel = self.client.open_channel().ok();
            return;
        }
        if step % 16 == 2 {
            self.now += Duration::from_secs(argument.into());
            self.client.handle_timeout(self.now);
            self.server.handle_timeout(self.now);
            return;
        }
        let tag = self.tags.get(usize::from(argument)).copied();
        let tag = tag.unwrap_or_else(|| DeliveryTag::new(argument.into()));
        let Some(Ok(mut channel)) = self.channel.map(|id| self.client.channel(id)) else { return };
        let name = crate::ShortStr::truncated(&(argument % 4).to_string());
        let _done = match step % 16 {
            3 => channel
                .request(QueueDeclare { queue: name, no_wait: argument > 200, ..<_>::default() })
                .map(|_| ()),
            4 => channel.request(BasicGet { queue: name, ..<_>::default() }).map(|id| {
                if argument > 128 {
                    channel.abandon(id);
                }
            }),
            5 => channel.request(ConfirmSelect { no_wait: argument % 2 == 0 }).map(|_| ()),
            6 => channel
                .request(BasicConsume { consumer_tag: name, no_wait: true, ..<_>::default() })
                .map(|_| ()),
            7 => channel
                .request(BasicCancel { consumer_tag: name, no_wait: argument > 128 })
                .map(|_| ()),
            8 => channel.ack(tag),
            9 => channel.ack_up_to(tag),
            10 => channel.reject(tag, argument % 2 == 0),
            11 => channel.nack_up_to(tag, argument % 2 == 0),
            12 => channel.request(BasicRecover { requeue: true }).map(|_| ()),
            13 => channel.request(TxSelect {}).map(|_| ()),
            14 => {
                channel.close(ReplyCode::REPLY_SUCCESS, "fuzzed");
                Ok(())
            }
            _ => {
                let route = Route::queue(&name);
                let body = vec![argument; usize::from(argument) * 37];
                let _gated = channel.publish(&route, &Properties::default(), body);
                Ok(())
            }
        };
    }
}

#[cfg(test)]
mod tests {
    use proptest::prelude::*;

    use super::*;

    proptest! {
        #[test]
        fn the_bodies_of_the_fuzz_targets_run(data in proptest::collection::vec(any::<u8>(), 0..300)) {
            for target in [frames, methods, properties, uri, client, server, operations] {
                target(&data);
            }
        }
    }
}
