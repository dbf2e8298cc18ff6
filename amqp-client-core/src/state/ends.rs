//! Both ends of a connection, for tests: only connections number publishes and requests, and create received values.

use std::sync::Arc;
use std::time::Instant;

use amqp_proto::method::{ConfirmSelect, QueueDeclare};
use amqp_proto::{
    self as proto, ChannelId, Connection, Event, PublishSeq, RawProperties, RequestId, Route,
    ServerEvent,
};
use bytes::{Buf as _, BufMut as _, BytesMut};

/// A client with a channel in confirm mode, and its server.
pub(super) struct Ends {
    client: Connection,
    server: Connection,
    id: ChannelId,
    now: Instant,
}

impl Ends {
    pub(super) fn new() -> Self {
        let now = Instant::now();
        let mut client = Connection::client(Arc::default(), now);
        let mut server = Connection::server(Arc::default(), now);
        while !client.is_open() {
            carry(&mut client, &mut server, now);
        }
        let id = client.open_channel().expect("there is room");
        let mut channel = client.channel(id).expect("open");
        channel.request(ConfirmSelect { no_wait: true }).expect("it is sent");
        Self { client, server, id, now }
    }

    pub(super) fn publish(&mut self, count: usize) -> Vec<PublishSeq> {
        let mut seqs = Vec::new();
        while seqs.len() < count {
            let mut channel = self.client.channel(self.id).expect("open");
            match channel.publish(&Route::queue("q"), &RawProperties::EMPTY, "") {
                Ok(seq) => seqs.extend(seq),
                Err(_) => {
                    let transmit = self.client.poll_transmit(self.now).expect("the buffer is full");
                    transmit.advance(transmit.remaining());
                }
            }
        }
        seqs
    }

    /// Makes `count` requests.
    pub(super) fn request(&mut self, count: usize) -> Vec<RequestId> {
        let mut channel = self.client.channel(self.id).expect("open");
        let one = |_| channel.request(QueueDeclare::default()).expect("it is sent");
        (0..count).map(one).collect()
    }

    /// Returns the event that a client gets when the server acts on its channel.
    pub(super) fn heard(say: impl FnOnce(&mut proto::Channel<'_>)) -> proto::ChannelEvent {
        let Self { mut client, mut server, id, now } = Self::new();
        carry(&mut client, &mut server, now);
        while client.poll_event().is_some() {}
        say(&mut server.channel(id).expect("open"));
        carry(&mut client, &mut server, now);
        match client.poll_event() {
            Some(Event::Channel(_, event)) => event,
            event => panic!("{event:?}"),
        }
    }
}

/// Carries the output of each end to the other.
fn carry(client: &mut Connection, server: &mut Connection, now: Instant) {
    for up in [true, false] {
        let (from, to) =
            if up { (&mut *client, &mut *server) } else { (&mut *server, &mut *client) };
        let mut bytes = BytesMut::new();
        while let Some(transmit) = from.poll_transmit(now) {
            bytes.put(transmit);
        }
        to.handle_input(now, &mut bytes).expect("it is understood");
        while let Some(event) = server.poll_event() {
            match event {
                Event::Server(ServerEvent::Login { .. }) => server.accept_login(),
                Event::Server(ServerEvent::Open { .. }) => server.accept_open(),
                _ => Ok(()),
            }
            .expect("it is waiting");
        }
    }
}
