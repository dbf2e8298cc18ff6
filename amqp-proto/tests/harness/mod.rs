//! The protocol pair: the client's and the server's end of a connection, in memory and in virtual time, over a stream that can be
//! split anywhere.

#![allow(dead_code, reason = "each user needs a part of it")]

use std::sync::Arc;
use std::time::{Duration, Instant};

use amqp_proto::method::{BasicConsume, BasicConsumeOk, Method, Request};
use amqp_proto::{
    Channel, ChannelEvent, ChannelId, ClientConfig, Connection, ConnectionError, Event, RequestId,
    ServerConfig, ServerEvent,
};
use bytes::{Buf as _, Bytes, BytesMut};

/// The way in which the bytes of one direction arrive.
#[derive(Debug, Clone)]
pub(crate) enum Split {
    /// As they were written.
    Whole,
    /// One by one.
    Single,
    /// In two parts, cut at this offset of the whole stream.
    At(usize),
    /// In parts of these sizes, over and over.
    Sizes(Vec<usize>),
}

/// One direction of a transport.
#[derive(Debug)]
struct Pipe {
    split: Split,
    /// Bytes that have passed.
    passed: usize,
    part: usize,
    buffer: BytesMut,
}

impl Pipe {
    fn new(split: Split) -> Self {
        Self { split, passed: 0, part: 0, buffer: BytesMut::new() }
    }

    /// Takes the bytes that one end has to write and hands them to the other, part by part.
    fn carry(&mut self, now: Instant, from: &mut Connection, to: &mut Connection) -> bool {
        let Some(transmit) = from.poll_transmit(now) else { return false };
        let mut bytes = transmit.copy_to_bytes(transmit.remaining());
        while bytes.has_remaining() {
            let size = match &self.split {
                Split::Whole => bytes.len(),
                Split::Single => 1,
                Split::At(offset) if self.passed < *offset => offset - self.passed,
                Split::At(_) => bytes.len(),
                Split::Sizes(sizes) => sizes[self.part % sizes.len()].max(1),
            };
            let part = bytes.split_to(size.min(bytes.len()));
            self.part += 1;
            self.passed += part.len();
            self.buffer.extend_from_slice(&part);
            let _over = to.handle_input(now, &mut self.buffer);
        }
        true
    }
}

/// Both ends of a connection and the virtual time they live in.
pub(crate) struct Pair {
    pub(crate) client: Connection,
    pub(crate) server: Connection,
    pub(crate) now: Instant,
    up: Pipe,
    down: Pipe,
    /// The events of each side that were not inspected yet.
    pub(crate) client_events: Vec<Event>,
    pub(crate) server_events: Vec<Event>,
    /// Accept logins and virtual hosts as they come.
    pub(crate) welcoming: bool,
}

#[expect(clippy::disallowed_methods, reason = "virtual time has to start somewhere")]
pub(crate) fn start() -> Instant {
    Instant::now()
}

impl Pair {
    pub(crate) fn new(client: ClientConfig, server: ServerConfig) -> Self {
        Self::split(client, server, Split::Whole, Split::Whole)
    }

    pub(crate) fn split(
        client: ClientConfig,
        server: ServerConfig,
        up: Split,
        down: Split,
    ) -> Self {
        let now = start();
        Self {
            client: Connection::client(Arc::new(client), now),
            server: Connection::server(Arc::new(server), now),
            now,
            up: Pipe::new(up),
            down: Pipe::new(down),
            client_events: Vec::new(),
            server_events: Vec::new(),
            welcoming: true,
        }
    }

    /// A pair with an open connection and nothing else.
    pub(crate) fn open() -> Self {
        Self::opened(ClientConfig::default(), ServerConfig::default())
    }

    pub(crate) fn opened(client: ClientConfig, server: ServerConfig) -> Self {
        let mut pair = Self::new(client, server);
        pair.drive();
        assert!(pair.client.is_open() && pair.server.is_open(), "{:?}", pair.client.check());
        pair.client_events.clear();
        pair.server_events.clear();
        pair
    }

    /// A pair with an open channel.
    pub(crate) fn with_channel() -> (Self, ChannelId) {
        let mut pair = Self::open();
        let id = pair.open_channel();
        (pair, id)
    }

    pub(crate) fn open_channel(&mut self) -> ChannelId {
        let id = self.client.open_channel().expect("there is room");
        self.drive();
        assert!(self.take_client().contains(&Event::Channel(id, ChannelEvent::Opened)));
        self.server_events.clear();
        id
    }

    /// Opens a channel with a consumer.
    pub(crate) fn open_consumer(&mut self, tag: &str, no_ack: bool) -> ChannelId {
        let id = self.open_channel();
        let consumer_tag = short(tag);
        let consume =
            BasicConsume { consumer_tag: consumer_tag.clone(), no_ack, ..BasicConsume::default() };
        self.call(id, consume, BasicConsumeOk { consumer_tag });
        self.take_client();
        self.take_server();
        id
    }

    /// Lets both ends talk until they have nothing to say.
    pub(crate) fn drive(&mut self) {
        loop {
            let (up, down) = (self.carry_up(), self.carry_down());
            while let Some(event) = self.client.poll_event() {
                self.client_events.push(event);
            }
            let mut decided = false;
            while let Some(event) = self.server.poll_event() {
                decided |= self.welcome(&event);
                self.server_events.push(event);
            }
            if !up && !down && !decided {
                return;
            }
        }
    }

    /// Carries what the client has to say. Returns whether there was anything.
    pub(crate) fn carry_up(&mut self) -> bool {
        self.up.carry(self.now, &mut self.client, &mut self.server)
    }

    /// Carries what the server has to say. Returns whether there was anything.
    pub(crate) fn carry_down(&mut self) -> bool {
        self.down.carry(self.now, &mut self.server, &mut self.client)
    }

    /// Discards what the client has to say.
    pub(crate) fn discard_output(&mut self) {
        while let Some(transmit) = self.client.poll_transmit(self.now) {
            transmit.advance(transmit.remaining());
        }
    }

    /// Takes what the server has to say.
    pub(crate) fn server_output(&mut self) -> Bytes {
        let transmit = self.server.poll_transmit(self.now).expect("it has something to say");
        transmit.copy_to_bytes(transmit.remaining())
    }

    fn welcome(&mut self, event: &Event) -> bool {
        match event {
            Event::Server(ServerEvent::Login { .. }) if self.welcoming => {
                self.server.accept_login().is_ok()
            }
            Event::Server(ServerEvent::Open { .. }) if self.welcoming => {
                self.server.accept_open().is_ok()
            }
            _ => false,
        }
    }

    /// Lets that much time pass, firing timers when they are due.
    pub(crate) fn advance(&mut self, time: Duration) {
        let end = self.now + time;
        loop {
            let due = [self.client.poll_timeout(), self.server.poll_timeout()];
            let next = due.into_iter().flatten().map(|(at, _)| at).min();
            let Some(next) = next.filter(|at| *at <= end) else { break };
            self.now = self.now.max(next);
            self.client.handle_timeout(self.now);
            self.server.handle_timeout(self.now);
            self.drive();
        }
        self.now = end;
    }

    pub(crate) fn take_client(&mut self) -> Vec<Event> {
        std::mem::take(&mut self.client_events)
    }

    pub(crate) fn take_server(&mut self) -> Vec<Event> {
        std::mem::take(&mut self.server_events)
    }

    /// Returns the events of the client's channel.
    pub(crate) fn client_channel(&mut self, id: ChannelId) -> Vec<ChannelEvent> {
        on_channel(self.take_client(), id)
    }

    /// Returns the events of the server's channel.
    pub(crate) fn server_channel(&mut self, id: ChannelId) -> Vec<ChannelEvent> {
        on_channel(self.take_server(), id)
    }

    /// The methods that came to the server's channel.
    pub(crate) fn methods(&mut self, id: ChannelId) -> Vec<Method> {
        self.server_channel(id)
            .into_iter()
            .filter_map(|event| match event {
                ChannelEvent::Method(method) => Some(method),
                _ => None,
            })
            .collect()
    }

    pub(crate) fn on_client(&mut self, id: ChannelId) -> Channel<'_> {
        self.client.channel(id).expect("the channel is there")
    }

    pub(crate) fn on_server(&mut self, id: ChannelId) -> Channel<'_> {
        self.server.channel(id).expect("the channel is there")
    }

    /// The client sends a request, the server replies.
    pub(crate) fn call<R: Request>(
        &mut self,
        id: ChannelId,
        request: R,
        answer: impl Into<Method>,
    ) -> RequestId {
        let request = self.on_client(id).request(request).expect("it is sent");
        self.drive();
        self.answer(id, answer);
        request
    }

    /// The server sends a method.
    pub(crate) fn answer(&mut self, id: ChannelId, answer: impl Into<Method>) {
        self.on_server(id).send(answer).expect("it is sent");
        self.drive();
    }

    /// Returns the reason why the client's connection has ended.
    pub(crate) fn client_error(&self) -> ConnectionError {
        self.client.check().expect_err("the connection should be over")
    }

    pub(crate) fn server_error(&self) -> ConnectionError {
        self.server.check().expect_err("the connection should be over")
    }
}

fn on_channel(events: Vec<Event>, id: ChannelId) -> Vec<ChannelEvent> {
    events
        .into_iter()
        .filter_map(|event| match event {
            Event::Channel(channel, event) if channel == id => Some(event),
            _ => None,
        })
        .collect()
}

/// A short string for arguments.
pub(crate) fn short(text: &str) -> amqp_proto::ShortStr {
    text.try_into().expect("short")
}
