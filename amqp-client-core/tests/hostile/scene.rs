//! A client that is fed by hand, and everything an application may wait for on it.

use std::future::Future;
use std::pin::Pin;
use std::sync::Arc;
use std::sync::atomic::{AtomicBool, Ordering};
use std::task::{Context, Poll, Wake, Waker};
use std::time::{Duration, Instant};

use amqp_client_core::adapter::{Driver, Turn};
use amqp_client_core::proto::frame::Frame;
use amqp_client_core::proto::method::Method;
use amqp_client_core::proto::{ChannelError, ConnectionError};
use amqp_client_core::{
    CallError, Channel, Config, ConfirmError, Connection, ConnectionEvent, ConsumeOptions,
    Consumer, ConsumerEnd, PublishError, Publisher, PublisherOptions,
};
use bytes::{Buf as _, BytesMut};

use crate::harness::poll_once;
use crate::wire::{HEARTBEAT, TAG, channel_open_ok, consume_ok, frame, open_ok, start, tune};

/// Number of bytes that the client receives at a time.
const READ: usize = 64 * 1024;

/// A client and the time it lives in. The test is its server.
pub(crate) struct Scene {
    pub(crate) connection: Connection,
    pub(crate) now: Instant,
    /// True if the server reads what the client writes.
    pub(crate) server_reads: bool,
    /// True if its heartbeats lie in the socket while the client does not read.
    pub(crate) heartbeats: bool,
    /// Bytes that the server has taken and the test has not inspected yet.
    pub(crate) written: BytesMut,
    driver: Driver,
}

impl Scene {
    /// Nothing has come from the server yet.
    pub(crate) fn connecting(config: Config) -> Self {
        let now = Instant::now();
        let (connection, driver) = Driver::new(config, now);
        let mut scene = Self {
            connection,
            now,
            server_reads: true,
            heartbeats: false,
            written: BytesMut::new(),
            driver,
        };
        scene.turn();
        scene
    }

    /// The handshake has completed.
    pub(crate) fn open(config: Config) -> Self {
        let mut scene = Self::connecting(config);
        scene.feed(&[start(), tune(2047, 131_072, 60), open_ok()].concat());
        assert!(scene.connection.is_open(), "{:?}", scene.connection);
        scene
    }

    /// The driver's loop without reading, until it has nothing to write, or the server takes nothing.
    pub(crate) fn turn(&mut self) -> Turn {
        loop {
            let turn = self.driver.turn(self.now, Waker::noop());
            if turn.checks_peer() {
                // The client reads the server's output at once, except while reading is stopped.
                if self.heartbeats {
                    self.driver.input().extend_from_slice(&frame(HEARTBEAT, 0, b""));
                    self.driver.received(self.now);
                } else {
                    self.driver.no_input(self.now);
                }
                continue;
            }
            if !turn.writes() || !self.server_reads {
                return turn;
            }
            while self.driver.output().has_remaining() {
                let chunk = self.driver.output().chunk();
                let count = chunk.len();
                // The server's memory is not the client's.
                uncounted(|| self.written.extend_from_slice(chunk));
                self.driver.written(self.now, count);
            }
        }
    }

    /// Sends bytes to the client, as long as it reads; returns how many it took.
    pub(crate) fn feed(&mut self, bytes: &[u8]) -> usize {
        self.feed_by(READ, bytes)
    }

    /// Feeds bytes in reads of this size.
    pub(crate) fn feed_by(&mut self, size: usize, bytes: &[u8]) -> usize {
        let mut taken = 0;
        for part in bytes.chunks(size) {
            if !self.turn().reads() {
                break;
            }
            let mut part = part;
            while !part.is_empty() {
                let input = self.driver.input();
                let room = (input.capacity() - input.len()).min(part.len());
                input.extend_from_slice(&part[..room]);
                part = &part[room..];
                self.driver.received(self.now);
            }
            taken += size.min(bytes.len() - taken);
        }
        self.turn();
        taken
    }

    /// Lets that much time pass, with a turn whenever the driver asks for one, or until it is done.
    pub(crate) fn advance(&mut self, time: Duration) -> Turn {
        let until = self.now + time;
        loop {
            let turn = self.turn();
            if turn.is_done() {
                return turn;
            }
            match turn.wake_at.filter(|at| *at <= until) {
                Some(at) => {
                    assert!(at > self.now, "a timer that has passed is asked for again");
                    self.now = at;
                }
                None if self.now == until => return turn,
                None => self.now = until,
            }
        }
    }

    pub(crate) fn eof(&mut self) {
        self.driver.eof(self.now);
    }

    pub(crate) fn transport_error(&mut self, error: &std::io::Error) {
        self.driver.transport_error(self.now, error);
    }

    /// Bytes that the server has not taken.
    pub(crate) fn unwritten(&mut self) -> usize {
        self.driver.output().remaining()
    }

    /// The methods that the client has written since this was last asked.
    pub(crate) fn methods(&mut self) -> Vec<Method> {
        let mut methods = Vec::new();
        if self.written.starts_with(b"AMQP") {
            self.written.advance(8);
        }
        while let Some(frame) = Frame::decode(&mut self.written, 1 << 24).expect("it is a frame") {
            methods.extend(Method::decode(&frame.payload).ok());
        }
        methods
    }

    /// A channel with this number: the next that is free.
    pub(crate) fn channel(&mut self, number: u16) -> Channel {
        let opening = self.connection.open_channel();
        self.turn();
        self.feed(&channel_open_ok(number));
        now(opening).expect("it is open")
    }

    /// A consumer on that channel.
    pub(crate) fn consumer(&mut self, channel: &Channel, tag: &str) -> Consumer {
        let consuming = channel.basic_consume("q", ConsumeOptions::new().consumer_tag(tag));
        self.turn();
        self.feed(&consume_ok(channel.id().get(), tag));
        now(consuming).expect("it consumes")
    }

    /// Channel 1, consumer [`TAG`], one publish that is not confirmed, and one of each that waits.
    pub(crate) fn application(&mut self) -> Application {
        let channel = self.channel(1);
        let mut consumer = self.consumer(&channel, TAG);
        let options = PublisherOptions::new().window(1, usize::MAX);
        let publisher =
            channel.exchange("x").expect("short").publisher(options).expect("it is open");
        let confirmation = now(publisher.publish("k", "m")).expect("it is sent");
        let (waiting, request) = (publisher.clone(), channel.queue_purge("q"));
        let opening = self.connection.open_channel();
        let (connection, own) = (self.connection.clone(), channel.clone());
        let mut events = self.connection.events();
        let waits = vec![
            Wait::new("queue.purge", async { request.await.map_or_else(End::from, End::other) }),
            Wait::new("channel.open", async { opening.await.map_or_else(End::from, End::other) }),
            Wait::new("confirm", async { confirmation.await.map_or_else(End::from, End::other) }),
            Wait::new("publish", async move {
                waiting.publish("k", "m").await.map_or_else(End::from, End::other)
            }),
            Wait::new("consumer", async move {
                loop {
                    match consumer.next().await {
                        Some(Ok(delivery)) => drop(delivery),
                        Some(Err(end)) => return end.into(),
                        None => return End::other("nothing more"),
                    }
                }
            }),
            Wait::new("channel.closed", async move { End::Over(own.closed().await) }),
            Wait::new("connection.closed", async move { connection.closed().await.into() }),
            Wait::new("events", async move {
                loop {
                    match events.next().await {
                        Some(ConnectionEvent::Closed(error)) => return error.into(),
                        Some(_) => {}
                        None => return End::other("no closed event"),
                    }
                }
            }),
        ];
        self.turn();
        self.written.clear();
        let mut application = Application { channel, publisher, waits };
        application.assert_waits();
        application
    }
}

/// The handles of an application.
pub(crate) struct Application {
    pub(crate) channel: Channel,
    pub(crate) publisher: Publisher,
    waits: Vec<Wait>,
}

impl Application {
    /// Nothing has ended.
    pub(crate) fn assert_waits(&mut self) {
        for wait in &mut self.waits {
            assert_eq!(wait.poll(), Poll::Pending, "{}", wait.name);
        }
    }

    /// Everything was woken, and returns that the connection is closed, and why.
    pub(crate) fn assert_over(mut self, expected: &ConnectionError) {
        self.assert_rest_is_over(expected);
        let published = now(self.publisher.publish("k", "m")).map_or_else(End::from, End::other);
        assert_eq!(published, expected.clone().into());
    }

    /// Asserts the same of everything that has not ended before.
    pub(crate) fn assert_rest_is_over(&mut self, expected: &ConnectionError) {
        for wait in &mut self.waits {
            assert_eq!(wait.end(), Some(expected.clone().into()), "{}", wait.name);
        }
        let opening = now(self.channel.connection().open_channel());
        assert!(opening.is_err(), "{opening:?}");
    }

    /// Returns the ends of these; the others still wait.
    pub(crate) fn ends(&mut self, names: &[&str]) -> Vec<End> {
        let mut ends = Vec::new();
        for wait in &mut self.waits {
            match wait.end() {
                Some(end) if names.contains(&wait.name) => ends.push(end),
                None if !names.contains(&wait.name) => {}
                other => panic!("{}: {other:?}", wait.name),
            }
        }
        self.waits.retain(|wait| !names.contains(&wait.name));
        ends
    }
}

/// The outcome of a wait.
#[derive(Debug, PartialEq)]
pub(crate) enum End {
    /// The channel or the connection has ended.
    Over(ChannelError),
    /// Otherwise.
    Other(String),
}

impl End {
    fn other(value: impl std::fmt::Debug) -> Self {
        Self::Other(format!("{value:?}"))
    }
}

impl From<ConnectionError> for End {
    fn from(error: ConnectionError) -> Self {
        Self::Over(error.into())
    }
}

macro_rules! ends {
    ($($error:ident::$over:ident)*) => {$(
        impl From<$error> for End {
            fn from(error: $error) -> Self {
                match error {
                    $error::$over(reason) => Self::Over(reason),
                    other => Self::other(other),
                }
            }
        }
    )*};
}

ends! { CallError::Ended ConfirmError::Unconfirmed PublishError::Ended ConsumerEnd::Ended }

/// Something that waits in a task of its own.
struct Wait {
    name: &'static str,
    future: Pin<Box<dyn Future<Output = End>>>,
    woken: Arc<Woken>,
}

#[derive(Default)]
struct Woken(AtomicBool);

impl Wake for Woken {
    fn wake(self: Arc<Self>) {
        self.0.store(true, Ordering::SeqCst);
    }
}

impl Wait {
    fn new(name: &'static str, future: impl Future<Output = End> + 'static) -> Self {
        Self { name, future: Box::pin(future), woken: Arc::default() }
    }

    fn poll(&mut self) -> Poll<End> {
        self.woken.0.store(false, Ordering::SeqCst);
        let waker = Waker::from(self.woken.clone());
        self.future.as_mut().poll(&mut Context::from_waker(&waker))
    }

    /// Returns the result, if the task was woken. A task that nobody wakes waits forever, even if its result is there.
    fn end(&mut self) -> Option<End> {
        if !self.woken.0.load(Ordering::SeqCst) {
            return None;
        }
        match self.poll() {
            Poll::Ready(end) => Some(end),
            Poll::Pending => None,
        }
    }
}

/// The result of a future that has no reason to wait.
pub(crate) fn now<T>(future: impl Future<Output = T>) -> T {
    poll_once(future).expect("it does not wait")
}

/// The most bytes that were live at a time while `work` ran, beyond those before.
pub(crate) fn peak(work: impl FnOnce()) -> u64 {
    allocation_counter::measure(work).bytes_max
}

/// Runs the server's side of a test, whose allocations do not count.
pub(crate) fn uncounted<T>(work: impl FnOnce() -> T) -> T {
    let mut value = None;
    allocation_counter::opt_out(|| value = Some(work()));
    value.expect("it has run")
}
