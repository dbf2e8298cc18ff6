//! A peer is silent if a read finds nothing, and not because nobody has read.

use std::cell::{Cell, RefCell};
use std::future::Future;
use std::io::{self, IoSlice};
use std::pin::Pin;
use std::rc::Rc;
use std::sync::Arc;
use std::task::{Context, Poll, Waker};
use std::time::{Duration, Instant};

use amqp_client_core::adapter::{Drive, Timer, Transport};
use amqp_client_core::proto::method::{BasicConsumeOk, BasicDeliver, Method};
use amqp_client_core::proto::{
    self, ChannelEvent, ConnectionError, Event, Properties, ServerConfig, ServerEvent,
};
use amqp_client_core::{ClientConfig, Config, Connection, ConsumeOptions, Settings, Status};
use bytes::{Buf as _, BytesMut};

const HEARTBEAT: Duration = Duration::from_secs(10);
const SECOND: Duration = Duration::from_secs(1);
const BUDGET: usize = 1000;

/// What client and server share.
struct World {
    now: Cell<Instant>,
    server: RefCell<proto::Connection>,
    up: RefCell<BytesMut>,
    down: RefCell<BytesMut>,
    /// What the runtime knows: that there is something to read.
    readable: Cell<bool>,
}

struct Wire(Rc<World>);

impl Transport for Wire {
    fn poll_read(&mut self, _: &mut Context<'_>, input: &mut BytesMut) -> Poll<io::Result<usize>> {
        let mut down = self.0.down.borrow_mut();
        if !self.0.readable.get() || down.is_empty() {
            self.0.readable.set(false);
            return Poll::Pending;
        }
        let count = down.len().min(input.capacity() - input.len());
        input.extend_from_slice(&down.split_to(count));
        Poll::Ready(Ok(count))
    }

    fn poll_write(
        &mut self,
        _: &mut Context<'_>,
        pieces: &[IoSlice<'_>],
    ) -> Poll<io::Result<usize>> {
        pieces.iter().for_each(|piece| self.0.up.borrow_mut().extend_from_slice(piece));
        Poll::Ready(Ok(pieces.iter().map(|piece| piece.len()).sum()))
    }

    fn poll_flush(&mut self, _: &mut Context<'_>) -> Poll<io::Result<()>> {
        Poll::Ready(Ok(()))
    }

    fn poll_close(&mut self, _: &mut Context<'_>) -> Poll<io::Result<()>> {
        Poll::Ready(Ok(()))
    }
}

/// As of threads: it looks at the clock when it is asked.
struct Clock(Rc<World>);

impl Timer for Clock {
    fn now(&self) -> Instant {
        self.0.now.get()
    }

    fn poll_until(&mut self, _: &mut Context<'_>, at: Instant) -> Poll<()> {
        if at <= self.0.now.get() { Poll::Ready(()) } else { Poll::Pending }
    }
}

struct Scene {
    world: Rc<World>,
    connection: Connection,
    drive: Drive<Wire, Clock>,
    channel: Option<proto::ChannelId>,
}

impl Scene {
    fn set() -> Self {
        let now = Instant::now();
        let world = Rc::new(World {
            now: Cell::new(now),
            server: RefCell::new(proto::Connection::server(Arc::<ServerConfig>::default(), now)),
            up: RefCell::default(),
            down: RefCell::default(),
            readable: Cell::new(true),
        });
        let config = Config::default()
            .protocol(ClientConfig::default().heartbeat(HEARTBEAT))
            .settings(Settings::default().delivery_budget(BUDGET));
        let (connection, drive) = Drive::new(Wire(world.clone()), Clock(world.clone()), config);
        let mut scene = Self { world, connection, drive, channel: None };
        scene.talk();
        assert!(scene.connection.is_open());
        scene
    }

    fn poll(&mut self) {
        let _over = Pin::new(&mut self.drive).poll(&mut Context::from_waker(Waker::noop()));
    }

    /// The server sends its output, and a heartbeat if it is alive.
    fn serve(&mut self, lives: bool) {
        let (mut server, now) = (self.world.server.borrow_mut(), self.world.now.get());
        let _over = server.handle_input(now, &mut self.world.up.borrow_mut());
        while let Some(event) = server.poll_event() {
            match event {
                Event::Server(ServerEvent::Login { .. }) => server.accept_login().expect("asked"),
                Event::Server(ServerEvent::Open { .. }) => server.accept_open().expect("asked"),
                Event::Channel(id, ChannelEvent::Method(Method::BasicConsume(consume))) => {
                    self.channel = Some(id);
                    let started = BasicConsumeOk { consumer_tag: consume.consumer_tag };
                    server.channel(id).expect("open").send(started).expect("it fits");
                }
                _ => {}
            }
        }
        if lives {
            server.send_heartbeat();
        }
        while let Some(transmit) = server.poll_transmit(now) {
            self.world.down.borrow_mut().extend_from_slice(transmit.chunk());
            transmit.advance(transmit.chunk().len());
        }
    }

    /// Both ends talk, and the runtime looks at the socket each time.
    fn talk(&mut self) {
        for _ in 0..20 {
            self.poll();
            self.serve(false);
            self.world.readable.set(true);
        }
        self.poll();
    }

    /// Time passes, in which the loop runs now and then, and the runtime looks at the socket.
    fn pass(&mut self, time: Duration, lives: bool) {
        let end = self.world.now.get() + time;
        while self.world.now.get() < end {
            self.world.now.set(self.world.now.get() + SECOND / 4);
            self.serve(lives);
            self.world.readable.set(true);
            self.poll();
        }
    }

    fn is_lost(&self) -> bool {
        let is_over = !self.connection.is_open();
        if is_over {
            let silent = ConnectionError::PeerSilent(2 * HEARTBEAT);
            assert_eq!(self.connection.health().status, Status::Closed(silent));
        }
        is_over
    }

    /// A consumer that takes nothing of more than it may leave lying.
    fn suspend(&mut self) -> amqp_client_core::Consumer {
        let channel = {
            let mut opening = Box::pin(self.connection.open_channel());
            self.until(&mut opening).expect("a channel")
        };
        let mut consuming = channel.basic_consume("q", ConsumeOptions::new());
        let consumer = self.until(&mut consuming).expect("a consumer");
        let id = self.channel.expect("it was opened");
        for delivery_tag in 1..=2 {
            let consumer_tag = consumer.tag().clone();
            let deliver = BasicDeliver { consumer_tag, delivery_tag, ..<_>::default() };
            let mut server = self.world.server.borrow_mut();
            let mut channel = server.channel(id).expect("open");
            channel
                .send_content(deliver, &Properties::default(), &[0; BUDGET])
                .expect("it is sent");
        }
        self.talk();
        assert!(self.connection.health().delivered_bytes >= BUDGET);
        consumer
    }

    fn until<F: Future + Unpin>(&mut self, future: &mut F) -> F::Output {
        for _ in 0..20 {
            let mut context = Context::from_waker(Waker::noop());
            if let Poll::Ready(value) = Pin::new(&mut *future).poll(&mut context) {
                return value;
            }
            self.talk();
        }
        panic!("it waits forever")
    }
}

#[test]
fn a_client_that_was_held_up_hears_the_heartbeats_that_came_meanwhile() {
    for held_up in [21, 100, 100_000] {
        let mut scene = Scene::set();
        scene.world.now.set(scene.world.now.get() + held_up * SECOND);
        scene.serve(true);
        // The runtime has not looked at the socket yet; a handle wakes the driver, again and again.
        scene.poll();
        drop(scene.connection.open_channel());
        scene.poll();
        scene.poll();
        assert!(!scene.is_lost(), "{held_up} s");
        // It is held up once more before the runtime looks.
        scene.world.now.set(scene.world.now.get() + held_up * SECOND);
        scene.poll();
        assert!(!scene.is_lost(), "{held_up} s");
        scene.pass(100 * SECOND, true);
        assert!(!scene.is_lost());
    }
}

#[test]
fn a_peer_that_is_silent_is_noticed_soon() {
    let mut scene = Scene::set();
    scene.pass(2 * HEARTBEAT - SECOND, false);
    assert!(!scene.is_lost());
    scene.pass(2 * SECOND, false);
    assert!(scene.is_lost());
}

#[test]
fn a_silent_peer_is_detected_behind_untaken_deliveries() {
    let mut scene = Scene::set();
    let _consumer = scene.suspend();
    scene.pass(10 * HEARTBEAT, true);
    assert!(!scene.is_lost(), "its heartbeats are read");
    scene.pass(4 * HEARTBEAT + SECOND, false);
    assert!(scene.is_lost());
}
