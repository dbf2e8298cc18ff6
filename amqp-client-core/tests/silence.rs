//! A peer is silent if a read finds nothing, and not because nobody has read.

mod harness;

use std::future::Future;
use std::io::ErrorKind;
use std::pin::{Pin, pin};
use std::task::{Context, Waker};
use std::time::{Duration, Instant};

use amqp_client_core::adapter::{Drive, Timer as _};
use amqp_client_core::proto::ConnectionError;
use amqp_client_core::{
    ClientConfig, Config, Connection, ConsumeOptions, Consumer, Settings, Status,
};
use bytes::Buf as _;
use harness::{Clock, Peer as _, Server, Wire, poll_once};

const HEARTBEAT: Duration = Duration::from_secs(10);
const SECOND: Duration = Duration::from_secs(1);
const BUDGET: usize = 1000;

struct Scene {
    clock: Clock,
    wire: Wire,
    server: Server,
    connection: Connection,
    drive: Drive<Wire, Clock>,
}

impl Scene {
    fn set() -> Self {
        let (clock, wire) = (Clock::at(Instant::now()), Wire::default());
        let config = Config::default()
            .protocol(ClientConfig::default().heartbeat(HEARTBEAT))
            .settings(Settings::default().delivery_budget(BUDGET));
        let (connection, drive) = Drive::new(wire.clone(), clock.clone(), config);
        let server = Server::new(clock.now());
        let mut scene = Self { clock, wire, server, connection, drive };
        scene.talk();
        assert!(scene.connection.is_open());
        scene
    }

    fn poll(&mut self) {
        let _over = Pin::new(&mut self.drive).poll(&mut Context::from_waker(Waker::noop()));
    }

    /// The server sends its output, and a heartbeat if it is alive.
    fn serve(&mut self, lives: bool) {
        let (mut wires, now) = (self.wire.borrow_mut(), self.clock.now());
        self.server.handle_input(now, &mut wires.up.bytes);
        self.server.reply(now);
        if lives {
            self.server.send_heartbeat();
        }
        while let Some(transmit) = self.server.poll_transmit(now) {
            wires.send_down(transmit.chunk());
            transmit.advance(transmit.chunk().len());
        }
    }

    /// The runtime looks at the socket.
    fn look(&self) {
        self.wire.borrow_mut().readable = Some(true);
    }

    /// Both ends talk, and the runtime looks at the socket each time.
    fn talk(&mut self) {
        for _ in 0..20 {
            self.poll();
            self.serve(false);
            self.look();
        }
        self.poll();
    }

    /// Time passes, in which the loop runs now and then, and the runtime looks at the socket.
    fn pass(&mut self, time: Duration, lives: bool) {
        let end = self.clock.now() + time;
        while self.clock.now() < end {
            self.clock.advance(SECOND / 4);
            self.serve(lives);
            self.look();
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
    fn suspend(&mut self) -> Consumer {
        let opening = self.connection.open_channel();
        let channel = self.until(opening).expect("a channel");
        let consuming = channel.basic_consume("q", ConsumeOptions::new());
        let consumer = self.until(consuming).expect("a consumer");
        self.server.deliver(channel.id(), consumer.tag(), 2, &[0; BUDGET]);
        self.talk();
        assert!(self.connection.health().delivered_bytes >= BUDGET);
        consumer
    }

    fn until<T>(&mut self, future: impl Future<Output = T>) -> T {
        let mut future = pin!(future);
        for _ in 0..20 {
            if let Some(value) = poll_once(future.as_mut()) {
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
        scene.clock.advance(held_up * SECOND);
        scene.serve(true);
        // The runtime has not looked at the socket yet; a handle wakes the driver, again and again.
        scene.poll();
        drop(scene.connection.open_channel());
        scene.poll();
        scene.poll();
        assert!(!scene.is_lost(), "{held_up} s");
        // It is held up once more before the runtime looks.
        scene.clock.advance(held_up * SECOND);
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

/// Reading is suspended when writing fails. The peer had sent its reason before.
#[test]
fn the_reason_of_a_peer_is_read_behind_untaken_deliveries() {
    let mut scene = Scene::set();
    let _consumer = scene.suspend();
    scene.server.close(scene.clock.now(), "maintenance");
    scene.serve(false);
    {
        let mut wires = scene.wire.borrow_mut();
        (wires.write_error, wires.read_end) = (Some(ErrorKind::ConnectionReset), Some(Ok(())));
    }
    scene.connection.send_heartbeat();
    scene.poll();
    match scene.connection.health().status {
        Status::Closed(ConnectionError::Closed(close)) => {
            assert_eq!(close.reply_text, "maintenance")
        }
        status => panic!("{status:?}"),
    }
}

#[test]
fn health_says_when_the_peer_was_last_heard() {
    let mut scene = Scene::set();
    let heard = |scene: &Scene| scene.connection.health().last_heard.expect("it has replied");
    let begun = scene.clock.now();
    assert_eq!(heard(&scene), begun);
    scene.pass(HEARTBEAT / 2, false);
    assert_eq!(heard(&scene), begun);
    scene.pass(HEARTBEAT, true);
    // The last bytes have been read, or are about to be.
    assert!(scene.clock.now() - heard(&scene) <= SECOND / 4);
    let last = heard(&scene);
    scene.pass(HEARTBEAT, false);
    assert_eq!(heard(&scene), last);
    // While nothing is read, nothing is noticed, and afterwards it is.
    let consumer = scene.suspend();
    let suspended = heard(&scene);
    scene.pass(HEARTBEAT, true);
    assert_eq!(heard(&scene), suspended);
    drop(consumer);
    scene.pass(SECOND, true);
    assert!(heard(&scene) > suspended);
    // The time of the end stays.
    while !scene.is_lost() {
        scene.pass(SECOND, false);
    }
    assert!(scene.clock.now() - heard(&scene) >= 2 * HEARTBEAT);
}

#[test]
fn a_peer_that_has_said_nothing_was_not_heard() {
    let clock = Clock::at(Instant::now());
    let (connection, mut drive) = Drive::new(Wire::default(), clock, Config::default());
    assert!(poll_once(Pin::new(&mut drive)).is_none());
    assert_eq!(connection.health().last_heard, None);
    assert_eq!(connection.peer_addr(), None);
}
