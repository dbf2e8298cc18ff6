//! A client and the broker in memory, joined in virtual time.

#![allow(dead_code, reason = "each user needs a part of it")]

use std::future::Future;
use std::pin::pin;
use std::task::{Context, Poll, Waker};
use std::time::{Duration, Instant};

use amqp_client_core::adapter::Driver;
use amqp_client_core::{Config, Connection, Recovery};
use amqp_test_broker::{Engine, Options, SessionId};
use bytes::{Buf as _, BytesMut};

/// A client and a broker in virtual time.
pub(crate) struct World {
    /// So many bytes pass at once.
    pub(crate) piece: usize,
    driver: Driver,
    pub(crate) broker: Engine,
    pub(crate) session: SessionId,
    now: Instant,
    up: BytesMut,
    down: BytesMut,
}

impl World {
    pub(crate) fn new() -> (Self, Connection) {
        let now = Instant::now();
        let (connection, driver) = Driver::new(Config::default(), now);
        let mut broker = Engine::new(Options::new(), now);
        let session = broker.connect(now);
        let (up, down) = (BytesMut::new(), BytesMut::new());
        (Self { piece: usize::MAX, driver, broker, session, now, up, down }, connection)
    }

    /// The transport ends, for both, and nothing comes after it.
    pub(crate) fn cut(&mut self) {
        self.driver.eof(self.now);
        self.broker.handle_eof(self.session, self.now);
        self.up.clear();
        self.down.clear();
    }

    /// The transport is lost, and there is another. What was there is not restored yet.
    pub(crate) fn lose(&mut self) {
        self.driver.recover_with(Recovery::default(), 1, 0);
        self.cut();
        self.driver.turn(self.now, Waker::noop());
        let (_, nobodys) = Driver::new(Config::default(), self.now);
        let lost = std::mem::replace(&mut self.driver, nobodys);
        let mut reconnector = lost.into_reconnector().expect("it comes back");
        while reconnector.turn(self.now, Waker::noop()).connect.is_none() {
            self.now += Duration::from_millis(10);
        }
        self.driver = reconnector.connected(self.now, None);
        self.session = self.broker.connect(self.now);
    }

    /// Lets a piece pass in each direction. Returns whether there was anything.
    pub(crate) fn step(&mut self) -> bool {
        let turn = self.driver.turn(self.now, Waker::noop());
        let chunk = self.driver.output().chunk();
        let count = chunk.len().min(self.piece);
        self.up.extend_from_slice(&chunk[..count]);
        self.driver.written(self.now, count);
        self.broker.handle_input(self.session, self.now, &mut self.up);
        self.broker.handle_timeout(self.now);
        if let Some(transmit) = self.broker.poll_transmit(self.session, self.now) {
            self.down.extend_from_slice(transmit.chunk());
            transmit.advance(transmit.chunk().len());
        }
        let come = self.down.len().min(self.piece);
        if come > 0 && turn.reads() {
            let piece = self.down.split_to(come);
            self.driver.input().extend_from_slice(&piece);
            self.driver.received(self.now);
        }
        turn.writes() || come > 0
    }

    pub(crate) fn settle(&mut self) {
        while self.step() {}
    }

    /// Runs a future to its end.
    pub(crate) fn run<T>(&mut self, future: impl Future<Output = T>) -> T {
        let mut future = pin!(future);
        let mut context = Context::from_waker(Waker::noop());
        for _ in 0..10_000 {
            if let Poll::Ready(value) = future.as_mut().poll(&mut context) {
                return value;
            }
            if !self.step() {
                self.now += Duration::from_millis(100);
            }
        }
        panic!("it waits forever");
    }
}
