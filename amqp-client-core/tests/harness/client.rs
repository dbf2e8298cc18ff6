//! A client and the server's end of the protocol, joined in memory and driven by hand: no runtime, no socket.

use std::collections::BTreeMap;
use std::future::Future;
use std::pin::pin;
use std::sync::Arc;
use std::task::{Context, Poll, Waker};
use std::time::{Duration, Instant};

use amqp_client_core::adapter::Driver;
use amqp_client_core::proto::method::{
    BasicAck, BasicCancel, BasicCancelOk, BasicConsumeOk, BasicDeliver, BasicGetOk, BasicQosOk,
    ChannelFlow, ConfirmSelect, ConfirmSelectOk, Method, QueueDeclareOk,
};
use amqp_client_core::proto::{
    self, ChannelEvent, ChannelId, Event, FieldTable, Properties, ReplyCode, ServerConfig,
    ServerEvent,
};
use amqp_client_core::{Config, Connection, Recovery};
use bytes::{Buf as _, BytesMut};

/// A server with RabbitMQ's properties, as far as they matter.
fn capable() -> Arc<ServerConfig> {
    let mut config = ServerConfig::default();
    let capabilities = FieldTable::new().with("basic.nack", true).expect("it fits");
    config.server_properties =
        FieldTable::new().with("capabilities", capabilities).expect("it fits");
    Arc::new(config)
}

/// The two ends.
pub(crate) struct ClientRig {
    pub(crate) connection: Connection,
    driver: Driver,
    /// Whom the driver wakes.
    pub(crate) waker: Waker,
    server: proto::Connection,
    input: BytesMut,
    now: Instant,
    /// Bytes that the client has written.
    pub(crate) written: u64,
    /// How much more the transport takes.
    pub(crate) room: usize,
    /// The client wants to read.
    reading: bool,
    /// The server receives nothing any more.
    silent: bool,
    /// Secrets that the client has sent.
    pub(crate) secrets: Vec<proto::Secret>,
    /// What it has logged in with, on each connection.
    pub(crate) logins: Vec<proto::Secret>,
    /// The next delivery tag.
    next_delivery: u64,
    /// The methods that the client has sent on channels, except publishes, if they are [recorded](Self::record).
    pub(crate) methods: Vec<Method>,
    recording: bool,
    /// The tags of consumers that came back under another, by those that they have at the client.
    tags: BTreeMap<String, proto::ShortStr>,
    /// Publishes that came since the last confirm, and how many came on the channel that publishes.
    unconfirmed: u64,
    published: u64,
}

impl ClientRig {
    /// An open connection.
    pub(crate) fn new(config: Config) -> Self {
        let now = Instant::now();
        let (connection, driver) = Driver::new(config, now);
        let server = proto::Connection::server(capable(), now);
        let mut rig = Self {
            connection,
            driver,
            waker: Waker::noop().clone(),
            server,
            input: BytesMut::new(),
            now,
            written: 0,
            room: usize::MAX,
            reading: true,
            silent: false,
            tags: BTreeMap::new(),
            secrets: Vec::new(),
            logins: Vec::new(),
            next_delivery: 0,
            methods: Vec::new(),
            recording: false,
            unconfirmed: 0,
            published: 0,
        };
        let connection = rig.connection.clone();
        rig.run(connection.ready()).expect("the handshake succeeds");
        rig
    }

    /// From now on, the connection recovers when it is lost.
    pub(crate) fn recover(&mut self) {
        self.recover_with(Recovery::default());
    }

    /// From now on, the connection recovers when it is lost, with that configuration.
    pub(crate) fn recover_with(&mut self, recovery: Recovery) {
        self.driver.recover_with(recovery, 1, 0);
    }

    /// The transport is lost, and there is another.
    pub(crate) fn lose(&mut self) {
        self.driver.eof(self.now);
        self.driver.turn(self.now, &self.waker);
        let (_, nobodys) = Driver::new(Config::default(), self.now);
        let driver = std::mem::replace(&mut self.driver, nobodys);
        let mut reconnector = driver.into_reconnector().expect("it comes back");
        while reconnector.turn(self.now, &self.waker).connect.is_none() {
            self.now += Duration::from_millis(10);
        }
        self.driver = reconnector.connected(self.now, None);
        self.server = proto::Connection::server(capable(), self.now);
        self.input.clear();
        self.tags.clear();
        self.published = 0;
        self.reading = true;
        self.silent = false;
    }

    /// The server closes a channel because of a method. It has processed earlier methods, and replies to none of them.
    pub(crate) fn refuse(&mut self, id: ChannelId, code: ReplyCode, cause: (u16, u16)) {
        while self.server.poll_event().is_some() {}
        self.server.channel(id).expect("open").close_over(code, "refused", cause);
        self.published = 0;
    }

    /// The server asks the client to publish nothing: on one channel, or on the whole connection.
    pub(crate) fn hold(&mut self, channel: Option<ChannelId>) {
        match channel {
            Some(id) => {
                let flow = ChannelFlow { active: false };
                self.server.channel(id).expect("open").request(flow).expect("it is sent");
            }
            None => self.server.set_blocked(Some("memory")),
        }
    }

    /// From now on the server receives nothing, and so replies nothing.
    pub(crate) fn silence(&mut self) {
        self.silent = true;
    }

    /// From now on, the client's methods are kept in `methods`. Benchmarks do without: it would be counted.
    pub(crate) const fn record(&mut self) {
        self.recording = true;
    }

    /// The time.
    pub(crate) const fn now(&self) -> Instant {
        self.now
    }

    /// Returns whether the client wants to read.
    pub(crate) const fn reads(&self) -> bool {
        self.reading
    }

    /// Returns whether a handle has queued work for the driver.
    pub(crate) fn is_wanted(&self) -> bool {
        self.driver.is_wanted()
    }

    /// Lets that much time pass.
    pub(crate) fn advance(&mut self, time: Duration) {
        self.now += time;
        self.turn();
    }

    /// Runs a future, letting both ends talk whenever it waits.
    pub(crate) fn run<T>(&mut self, future: impl Future<Output = T>) -> T {
        let mut future = pin!(future);
        let mut context = Context::from_waker(Waker::noop());
        for _ in 0..1000 {
            if let Poll::Ready(value) = future.as_mut().poll(&mut context) {
                return value;
            }
            self.turn();
        }
        panic!("the future waits forever");
    }

    /// Polls a future once.
    pub(crate) fn poll<T>(&self, future: std::pin::Pin<&mut impl Future<Output = T>>) -> Option<T> {
        match future.poll(&mut Context::from_waker(Waker::noop())) {
            Poll::Ready(value) => Some(value),
            Poll::Pending => None,
        }
    }

    /// Lets the client write and the server reply, until neither has more output.
    pub(crate) fn turn(&mut self) {
        loop {
            let moved = self.write(!self.silent);
            self.serve();
            if !self.read() && !moved {
                return;
            }
        }
    }

    /// Lets the server reply, and the client read that.
    pub(crate) fn answer_all(&mut self) {
        self.serve();
        while self.read() {}
    }

    /// Takes the client's output; passes it to the server, or drops it.
    pub(crate) fn write(&mut self, serve: bool) -> bool {
        let turn = self.driver.turn(self.now, &self.waker);
        self.reading = turn.reads();
        while self.driver.output().has_remaining() {
            let chunk = self.driver.output().chunk();
            let count = chunk.len().min(64 * 1024).min(self.room);
            if count == 0 {
                return false;
            }
            self.room = self.room.saturating_sub(count);
            self.written += count as u64;
            if serve {
                self.input.reserve(64 * 1024);
                self.input.extend_from_slice(&chunk[..count]);
            }
            self.driver.written(self.now, count);
            if serve {
                let understood = self.server.handle_input(self.now, &mut self.input);
                let closed = matches!(understood, Err(proto::ConnectionError::Closed(_)));
                assert!(understood.is_ok() || closed, "{understood:?}");
            }
        }
        turn.writes()
    }

    /// Passes the server's output to the client.
    pub(crate) fn read(&mut self) -> bool {
        if !self.reading {
            return false;
        }
        let Some(transmit) = self.server.poll_transmit(self.now) else { return false };
        while transmit.has_remaining() {
            let input = self.driver.input();
            let count = transmit.chunk().len().min(64 * 1024);
            input.extend_from_slice(&transmit.chunk()[..count]);
            transmit.advance(count);
            self.driver.received(self.now);
            self.reading = self.driver.turn(self.now, &self.waker).reads();
            if !self.reading {
                break;
            }
        }
        true
    }

    /// Takes the server's output.
    pub(crate) fn said(&mut self) -> Vec<u8> {
        let mut octets = Vec::new();
        while let Some(transmit) = self.server.poll_transmit(self.now) {
            octets.extend_from_slice(transmit.chunk());
            transmit.advance(transmit.chunk().len());
        }
        octets
    }

    /// Hands bytes to the client.
    pub(crate) fn hear(&mut self, octets: &[u8]) {
        self.driver.input().extend_from_slice(octets);
        self.driver.received(self.now);
    }

    /// Replies as a broker whose queues always exist.
    fn serve(&mut self) {
        let mut channel = None;
        while let Some(event) = self.server.poll_event() {
            match event {
                Event::Server(ServerEvent::Login { response, .. }) => {
                    self.logins.push(response);
                    self.server.accept_login()
                }
                Event::Server(ServerEvent::Open { .. }) => self.server.accept_open(),
                Event::Server(ServerEvent::UpdateSecret { new_secret, .. }) => {
                    self.secrets.push(new_secret);
                    Ok(())
                }
                Event::Channel(id, ChannelEvent::Published(_)) => {
                    channel = Some(id);
                    self.unconfirmed += 1;
                    self.published += 1;
                    Ok(())
                }
                Event::Channel(id, ChannelEvent::Method(method)) => self.answer(id, method),
                _ => Ok(()),
            }
            .expect("it is waiting");
        }
        if self.unconfirmed > 0 {
            self.unconfirmed = 0;
            let ack = BasicAck { delivery_tag: self.published, multiple: true };
            let id = channel.expect("something was published there");
            // What came behind it may have closed the channel.
            if let Ok(mut channel) = self.server.channel(id) {
                channel.send(ack).expect("it is sent");
            }
        }
    }

    fn answer(&mut self, id: ChannelId, method: Method) -> Result<(), proto::CommandError> {
        if self.recording {
            self.methods.push(method.clone());
        }
        let answer: Method = match method {
            Method::QueueDeclare(declare) => {
                QueueDeclareOk { queue: declare.queue, ..QueueDeclareOk::default() }.into()
            }
            Method::ConfirmSelect(ConfirmSelect { no_wait: false }) => ConfirmSelectOk {}.into(),
            Method::BasicConsume(consume) => {
                // A consumer that was paused is started again under its tag with a number in front.
                if let Some((_, tag)) = consume.consumer_tag.to_string().split_once(".ctag") {
                    self.tags.insert(format!("ctag{tag}"), consume.consumer_tag.clone());
                }
                BasicConsumeOk { consumer_tag: consume.consumer_tag }.into()
            }
            Method::BasicQos(_) => BasicQosOk {}.into(),
            Method::BasicCancel(BasicCancel { consumer_tag, no_wait: false }) => {
                let mut channel = self.server.channel(id).expect("open");
                // What comes behind it may have closed the channel or the connection.
                let _closing = channel.send(BasicCancelOk { consumer_tag });
                return Ok(());
            }
            _ => return Ok(()),
        };
        self.server.channel(id).expect("open").send(answer)
    }

    /// Queues deliveries to a consumer.
    pub(crate) fn deliver(
        &mut self,
        id: ChannelId,
        consumer_tag: &proto::ShortStr,
        count: u64,
        body: &[u8],
    ) {
        // Benchmarks do without: looking would be counted.
        let renamed = (!self.tags.is_empty()).then(|| self.tags.get(&consumer_tag.to_string()));
        let renamed = renamed.flatten();
        let consumer_tag = renamed.unwrap_or(consumer_tag);
        for _ in 0..count {
            self.next_delivery += 1;
            let deliver = BasicDeliver {
                consumer_tag: consumer_tag.clone(),
                delivery_tag: self.next_delivery,
                ..BasicDeliver::default()
            };
            let mut channel = self.server.channel(id).expect("open");
            channel.send_content(deliver, &Properties::default(), body).expect("it is sent");
        }
    }

    /// Answers a `basic.get` with a message.
    pub(crate) fn give(&mut self, id: ChannelId, body: &[u8]) {
        self.next_delivery += 1;
        let got = BasicGetOk { delivery_tag: self.next_delivery, ..BasicGetOk::default() };
        let mut channel = self.server.channel(id).expect("open");
        channel.send_content(got, &Properties::default(), body).expect("it is sent");
    }
}
