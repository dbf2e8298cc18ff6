//! Handles and their driver, with a peer that replies at once.

use std::future::Future;
use std::pin::{Pin, pin};
use std::task::Waker;
use std::time::{Duration, Instant};

use amqp_client_core::adapter::Driver;
use amqp_client_core::{Channel, Config, Connection, ConsumeOptions, Consumer, Recovery};
use bytes::{Buf as _, BytesMut};

use super::{Peer, Server, poll_once};

/// Maximum number of bytes that pass at a time.
const CHUNK: usize = 64 * 1024;

/// The handles and the driver of a client, and its peer.
///
/// [`turn`](Self::turn) lets all bytes pass, [`step`](Self::step) one piece in each direction. Time passes when the test says so.
pub(crate) struct ClientRig<P = Server> {
    pub(crate) connection: Connection,
    driver: Driver,
    /// The task that the driver wakes.
    pub(crate) waker: Waker,
    pub(crate) peer: P,
    /// Bytes that have left one end and not been processed by the other.
    up: BytesMut,
    down: BytesMut,
    now: Instant,
    /// Bytes that the client has written.
    pub(crate) written: u64,
    /// Number of bytes that the transport still accepts.
    pub(crate) room: usize,
    /// Number of bytes that pass in each direction per step.
    pub(crate) piece: usize,
    /// The client wants to read.
    reading: bool,
    /// The peer receives nothing any more.
    silent: bool,
}

impl ClientRig {
    /// An open connection to a server that accepts everything.
    pub(crate) fn new(config: Config) -> Self {
        let now = Instant::now();
        let mut rig = Self::connecting(config, Server::new(now), now);
        let connection = rig.connection.clone();
        rig.run(connection.ready()).expect("the handshake succeeds");
        rig
    }

    /// Lets the server reply, and the client read that.
    pub(crate) fn answer_all(&mut self) {
        self.peer.reply(self.now);
        while self.read() {}
    }

    /// Has the peer write deliveries to a consumer, for [`again`](Deliveries::again).
    pub(crate) fn deliveries(
        &mut self,
        consumer: &Consumer,
        count: usize,
        body: &[u8],
    ) -> Deliveries {
        self.peer.deliver(consumer.channel().id(), consumer.tag(), count as u64, body);
        let bytes = self.said();
        // Frame header, class, method and consumer tag come before the delivery tag.
        let (size, tag_at) = (bytes.len() / count, 7 + 4 + 1 + consumer.tag().len());
        Deliveries { bytes, size, tag_at, last: 0 }
    }
}

impl<P: Peer> ClientRig<P> {
    /// A connection that is not open yet, over a connected transport.
    pub(crate) fn connecting(config: Config, peer: P, now: Instant) -> Self {
        let (connection, driver) = Driver::new(config, now);
        Self::driven(connection, driver, peer, now)
    }

    /// A connection whose driver has a transport.
    pub(crate) fn driven(connection: Connection, driver: Driver, peer: P, now: Instant) -> Self {
        Self {
            connection,
            driver,
            waker: Waker::noop().clone(),
            peer,
            up: BytesMut::new(),
            down: BytesMut::new(),
            now,
            written: 0,
            room: usize::MAX,
            piece: usize::MAX,
            reading: true,
            silent: false,
        }
    }

    /// From now on, the connection recovers when it is lost.
    pub(crate) fn recover(&mut self) {
        self.recover_with(Recovery::default());
    }

    /// From now on, the connection recovers when it is lost, with that configuration.
    pub(crate) fn recover_with(&mut self, recovery: Recovery) {
        self.driver.recover_with(recovery, 1, 0);
    }

    /// The transport ends, for both, and nothing comes after it.
    pub(crate) fn cut(&mut self) {
        self.driver.eof(self.now);
        self.peer.handle_eof(self.now);
        self.up.clear();
        self.down.clear();
    }

    /// The transport fails.
    pub(crate) fn fail(&mut self, error: &std::io::Error) {
        self.driver.transport_error(self.now, error);
        self.peer.handle_eof(self.now);
        self.up.clear();
        self.down.clear();
    }

    /// The driver is dropped, as if its task were aborted.
    pub(crate) fn drop_driver(&mut self) {
        let (_, nobodys) = Driver::new(Config::default(), self.now);
        self.driver = nobodys;
    }

    /// The transport is lost, and there is another. The session is not restored yet.
    pub(crate) fn lose(&mut self) {
        self.cut();
        self.driver.turn(self.now, &self.waker);
        let (_, nobodys) = Driver::new(Config::default(), self.now);
        let driver = std::mem::replace(&mut self.driver, nobodys);
        let mut reconnector = driver.into_reconnector().expect("it comes back");
        while reconnector.turn(self.now, &self.waker).connect.is_none() {
            self.now += Duration::from_millis(10);
        }
        self.driver = reconnector.connected(self.now, None);
        self.peer.connect(self.now);
        self.reading = true;
        self.silent = false;
    }

    /// From now on the peer receives nothing, and so replies nothing.
    pub(crate) fn silence(&mut self) {
        self.silent = true;
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

    /// When the driver wants its next turn at the latest.
    pub(crate) fn wake_at(&mut self) -> Option<Instant> {
        self.driver.turn(self.now, &self.waker).wake_at
    }

    /// Lets that much time pass, without a turn of the driver.
    pub(crate) fn pass(&mut self, time: Duration) {
        self.now += time;
    }

    /// Lets that much time pass.
    pub(crate) fn advance(&mut self, time: Duration) {
        self.now += time;
        self.turn();
    }

    /// Runs a future, letting both ends talk whenever it waits.
    pub(crate) fn run<T>(&mut self, future: impl Future<Output = T>) -> T {
        let mut future = pin!(future);
        for _ in 0..1000 {
            if let Some(value) = poll_once(future.as_mut()) {
                return value;
            }
            self.turn();
        }
        panic!("the future waits forever");
    }

    /// Runs a future step by step. Time passes whenever nothing moves.
    pub(crate) fn run_by_steps<T>(&mut self, future: impl Future<Output = T>) -> T {
        let mut future = pin!(future);
        for _ in 0..10_000 {
            if let Some(value) = poll_once(future.as_mut()) {
                return value;
            }
            if !self.step() {
                self.now += Duration::from_millis(100);
            }
        }
        panic!("the future waits forever");
    }

    /// Opens a channel.
    pub(crate) fn open_channel(&mut self) -> Channel {
        let opening = self.connection.open_channel();
        self.run(opening).expect("it is opened")
    }

    /// Starts a consumer.
    pub(crate) fn consume(&mut self, channel: &Channel) -> Consumer {
        self.run(channel.basic_consume("q", ConsumeOptions::new())).expect("it is started")
    }

    /// Polls a future once.
    pub(crate) fn poll<T>(&self, future: Pin<&mut impl Future<Output = T>>) -> Option<T> {
        poll_once(future)
    }

    /// Lets the client write and the peer reply, until neither has more output.
    pub(crate) fn turn(&mut self) {
        loop {
            let moved = self.write(!self.silent);
            self.peer.reply(self.now);
            if !self.read() && !moved {
                return;
            }
        }
    }

    /// Lets at most one piece pass in each direction. Returns whether there was anything.
    pub(crate) fn step(&mut self) -> bool {
        let turn = self.driver.turn(self.now, &self.waker);
        let chunk = self.driver.output().chunk();
        let count = chunk.len().min(self.piece);
        self.up.extend_from_slice(&chunk[..count]);
        self.driver.written(self.now, count);
        self.peer.handle_input(self.now, &mut self.up);
        self.peer.reply(self.now);
        if let Some(transmit) = self.peer.poll_transmit(self.now) {
            self.down.extend_from_slice(transmit.chunk());
            transmit.advance(transmit.chunk().len());
        }
        let count = self.down.len().min(self.piece);
        if count > 0 && turn.reads() {
            let piece = self.down.split_to(count);
            self.hear(&piece);
        }
        turn.writes() || count > 0
    }

    /// Lets both ends talk step by step, until neither has more output.
    pub(crate) fn settle(&mut self) {
        while self.step() {}
    }

    /// Takes the client's output; passes it to the peer, or drops it.
    pub(crate) fn write(&mut self, serve: bool) -> bool {
        let turn = self.driver.turn(self.now, &self.waker);
        self.reading = turn.reads();
        while self.driver.output().has_remaining() {
            let chunk = self.driver.output().chunk();
            let count = chunk.len().min(CHUNK).min(self.room);
            if count == 0 {
                return false;
            }
            self.room = self.room.saturating_sub(count);
            self.written += count as u64;
            if serve {
                self.up.reserve(CHUNK);
                self.up.extend_from_slice(&chunk[..count]);
            }
            self.driver.written(self.now, count);
            if serve {
                self.peer.handle_input(self.now, &mut self.up);
            }
        }
        turn.writes()
    }

    /// Passes the peer's output to the client.
    pub(crate) fn read(&mut self) -> bool {
        if !self.reading {
            return false;
        }
        let Some(transmit) = self.peer.poll_transmit(self.now) else { return false };
        while transmit.has_remaining() {
            let input = self.driver.input();
            let count = transmit.chunk().len().min(CHUNK);
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

    /// Takes the peer's output.
    pub(crate) fn said(&mut self) -> Vec<u8> {
        let mut bytes = Vec::new();
        while let Some(transmit) = self.peer.poll_transmit(self.now) {
            bytes.extend_from_slice(transmit.chunk());
            transmit.advance(transmit.chunk().len());
        }
        bytes
    }

    /// Hands bytes to the client.
    pub(crate) fn hear(&mut self, bytes: &[u8]) {
        self.driver.input().extend_from_slice(bytes);
        self.driver.received(self.now);
    }
}

/// Deliveries of the same size. A benchmark hands them to the client again and again, so that only the client is measured.
pub(crate) struct Deliveries {
    bytes: Vec<u8>,
    /// Bytes of one delivery.
    size: usize,
    tag_at: usize,
    last: u64,
}

impl Deliveries {
    /// Returns the bytes, with the delivery tags that come next.
    pub(crate) fn again(&mut self) -> &[u8] {
        for delivery in self.bytes.chunks_exact_mut(self.size) {
            self.last += 1;
            delivery[self.tag_at..self.tag_at + 8].copy_from_slice(&self.last.to_be_bytes());
        }
        &self.bytes
    }
}
