//! What comes instead of a handshake.

use std::io;
use std::task::Waker;
use std::time::{Duration, Instant};

use amqp_client_core::driver::Driver;
use amqp_client_core::proto::method::{
    ConnectionOpenOk, ConnectionSecure, ConnectionStart, ConnectionTune,
};
use amqp_client_core::proto::{ConnectionError, FieldTable, Violation};
use amqp_client_core::{Config, Connection};
use bytes::Buf as _;

use crate::wire::{frame, method, nested};
use crate::{Blame, blame, now, peak};

/// A client that connects.
struct Connecting {
    connection: Connection,
    driver: Driver,
    now: Instant,
}

impl Connecting {
    fn new() -> Self {
        let now = Instant::now();
        let (connection, driver) = Driver::new(Config::default(), now);
        let mut connecting = Self { connection, driver, now };
        connecting.turn();
        connecting
    }

    /// One that has been told so much of the handshake.
    fn after(steps: &[Vec<u8>]) -> Self {
        let mut connecting = Self::new();
        steps.iter().for_each(|step| connecting.hear(step));
        connecting
    }

    fn turn(&mut self) {
        let _turn = self.driver.turn(self.now, Waker::noop());
        let output = self.driver.output();
        output.advance(output.remaining());
    }

    fn hear(&mut self, octets: &[u8]) {
        self.driver.input().extend_from_slice(octets);
        self.driver.received(self.now);
        self.turn();
    }

    fn idle(&mut self, time: Duration) {
        self.now += time;
        self.turn();
    }

    #[track_caller]
    fn failed(&self) -> ConnectionError {
        now(self.connection.ready()).expect("it has ended").expect_err("it has failed")
    }
}

fn start() -> Vec<u8> {
    let start = ConnectionStart {
        version_major: 0,
        version_minor: 9,
        server_properties: FieldTable::new(),
        mechanisms: "PLAIN".into(),
        locales: "en_US".into(),
    };
    method(0, start)
}

fn tune(channel_max: u16, frame_max: u32, heartbeat: u16) -> Vec<u8> {
    method(0, ConnectionTune { channel_max, frame_max, heartbeat })
}

fn open_ok() -> Vec<u8> {
    method(0, ConnectionOpenOk::default())
}

/// An honest handshake.
fn steps() -> [Vec<u8>; 3] {
    [start(), tune(2047, 131_072, 60), open_ok()]
}

#[test]
fn other_protocols_are_named() {
    for (octets, text) in [
        (&b"AMQP\0\x01\0\0"[..], "1-0-0"),
        (b"AMQP\x03\x01\0\0", "1-0-0"),
        (b"HTTP/1.1 400 Bad Request\r\n\r\n", "HTTP"),
        (b"\x15\x03\x01\0\x02\x02\x28", "TLS"),
        (b"220 mail ESMTP", "does not speak AMQP"),
    ] {
        let connecting = Connecting::after(&[octets.to_vec()]);
        let error = connecting.failed();
        assert_eq!(blame(&error), Blame::Peer, "{error}");
        assert!(error.to_string().contains(text), "{error}");
    }
}

#[test]
fn every_step_may_be_the_last() {
    for count in 0..3 {
        let steps = &steps()[..count];
        let mut ended = Connecting::after(steps);
        ended.driver.eof(ended.now);
        assert!(matches!(blame(&ended.failed()), Blame::Transport | Blame::Nobody));
        let mut reset = Connecting::after(steps);
        reset.driver.transport_error(reset.now, &io::ErrorKind::ConnectionReset.into());
        assert!(matches!(blame(&reset.failed()), Blame::Transport | Blame::Nobody));
        let mut silent = Connecting::after(steps);
        silent.idle(Duration::from_secs(19));
        assert!(now(silent.connection.ready()).is_none());
        silent.idle(Duration::from_secs(1));
        assert!(matches!(silent.failed(), ConnectionError::HandshakeTimeout { .. }));
    }
}

#[test]
fn one_octet_a_second_is_too_slow() {
    let mut slow = Connecting::new();
    for octet in start().iter().take(20) {
        assert!(now(slow.connection.ready()).is_none());
        slow.hear(&[*octet]);
        slow.idle(Duration::from_secs(1));
    }
    assert!(matches!(slow.failed(), ConnectionError::HandshakeTimeout { .. }));
}

#[test]
fn steps_out_of_order_are_a_violation() {
    for octets in [
        vec![tune(0, 0, 0)],
        vec![open_ok()],
        vec![start(), start()],
        vec![start(), open_ok()],
        vec![start(), tune(0, 0, 0), tune(0, 0, 0)],
    ] {
        let error = Connecting::after(&octets).failed();
        assert_eq!(blame(&error), Blame::Peer, "{error}");
    }
}

#[test]
fn limits_are_agreed_on_or_refused() {
    for (channel_max, frame_max, heartbeat, good) in [
        (0, 0, 0, true),
        (1, 4096, 1, true),
        (u16::MAX, u32::MAX, u16::MAX, true),
        (2047, 1, 60, false),
        (2047, 4095, 60, false),
    ] {
        let steps = [start(), tune(channel_max, frame_max, heartbeat), open_ok()];
        let connecting = Connecting::after(&steps);
        let case = (channel_max, frame_max, heartbeat);
        if good {
            assert_eq!(now(connecting.connection.ready()), Some(Ok(())), "{case:?}");
            let agreed = connecting.connection.negotiated().expect("it is open");
            assert!(agreed.frame_max >= 4096 && agreed.channel_max >= 1, "{case:?}: {agreed:?}");
            assert!(
                agreed.frame_max <= 131_072 && agreed.channel_max <= 2047,
                "{case:?}: {agreed:?}"
            );
        } else {
            let error = connecting.failed();
            let expected = matches!(error, ConnectionError::Violation(Violation::BadTune { .. }));
            assert!(expected, "{case:?}: {error}");
        }
    }
}

#[test]
fn challenges_do_not_go_on_for_ever() {
    let mut connecting = Connecting::after(&[start()]);
    for _ in 0..1000 {
        connecting.hear(&method(0, ConnectionSecure { challenge: "riddle".into() }));
    }
    let error = connecting.failed();
    // PLAIN has nothing to say to a challenge; what goes on answering is bounded by its own test.
    assert!(matches!(error, ConnectionError::Login(_) | ConnectionError::Violation(_)), "{error}");
}

#[test]
fn a_table_that_is_too_deep_is_not_entered() {
    let payload = [&[0, 10, 0, 10, 0, 9], &nested(10_000)[..]].concat();
    let octets = frame(amqp_client_core::proto::frame::FrameKind::Method, 0, payload);
    let mut connecting = Connecting::new();
    let cost = peak(|| connecting.hear(&octets));
    let error = connecting.failed();
    assert_eq!(blame(&error), Blame::Octets, "{error}");
    assert!(cost < 512 * 1024, "{cost} octets");
}
