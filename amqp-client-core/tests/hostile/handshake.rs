//! The handshake: absurd limits, wrong protocols, servers that stop or stall at any step.

use std::io;
use std::sync::Arc;
use std::time::Duration;

use amqp_client_core::Config;
use amqp_client_core::proto::method::{
    ConnectionClose, ConnectionSecure, ConnectionStart, QueueDeclareOk,
};
use amqp_client_core::proto::{
    ConnectionError, DecodeErrorKind, LoginError, LongStr, Mechanism, OpenChannelError, SaslError,
    SaslExchange, Secret, Violation, WrongProtocol,
};
use amqp_client_core::{CallError, ClientConfig};

use crate::harness::poll_once;
use crate::scene::{Scene, now, peak};
use crate::wire::{
    HEARTBEAT, METHOD, channel_open_ok, deliver, frame, method, nested_table, open_ok, short,
    start, start_offering, tune,
};

/// One buffer to read into, and change.
const BOUND: u64 = 80 * 1024;

/// Returns how far the server goes before it stops, and what the client then waits for.
fn steps() -> [(&'static str, Vec<u8>, &'static str); 3] {
    let start = start_offering("PLAIN");
    let tuned = [start.clone(), tune(2047, 131_072, 60)].concat();
    [
        ("nothing", Vec::new(), "connection.start"),
        ("start", start, "connection.tune"),
        ("tune", tuned, "connection.open-ok"),
    ]
}

fn error_of(scene: &Scene) -> ConnectionError {
    let error = now(scene.connection.closed());
    assert_eq!(now(scene.connection.ready()), Err(error.clone()));
    let opening = now(scene.connection.open_channel()).expect_err("it is over");
    assert_eq!(opening, CallError::Ended(error.clone().into()));
    error
}

#[test]
fn illegal_methods_of_a_server_in_the_handshake() {
    let misplaced = |method| ConnectionError::from(Violation::UnexpectedMethod { method });
    let version = |bytes: [u8; 4]| {
        let [id, major, minor, revision] = bytes;
        ConnectionError::from(WrongProtocol::Version { id, major, minor, revision })
    };
    let unknown = |first: &[u8; 8]| ConnectionError::from(WrongProtocol::Unknown(*first));
    let bad_tune = |value| Violation::BadTune { what: "frame_max", value, bound: 4096 };
    let bad_tune = |value| ConnectionError::from(bad_tune(value));
    let other_version = ConnectionStart { version_major: 8, ..ConnectionStart::default() };
    let no_mechanism = LoginError::NoCommonMechanism {
        offered: "GSSAPI".to_owned(),
        configured: "PLAIN".to_owned(),
    };
    let unchallenged = LoginError::Mechanism {
        mechanism: "PLAIN".to_owned(),
        error: SaslError::UnexpectedChallenge,
    };
    let challenge = method(0, ConnectionSecure::default());
    let declared = method(0, QueueDeclareOk::default());
    let early = Violation::ChannelNotOpen { channel: 1 };
    let [_, (_, started, _), (_, tuned, _)] = steps();
    let rows: Vec<(&str, Vec<Vec<u8>>, ConnectionError)> = vec![
        ("the header of AMQP 1.0", vec![b"AMQP\0\x01\0\0".to_vec()], version([0, 1, 0, 0])),
        ("the header of 1.0 with SASL", vec![b"AMQP\x03\x01\0\0".to_vec()], version([3, 1, 0, 0])),
        ("its own header, echoed", vec![b"AMQP\0\0\x09\x01".to_vec()], version([0, 0, 9, 1])),
        ("HTTP", vec![b"HTTP/1.1 400 Bad Request".to_vec()], WrongProtocol::Http.into()),
        ("a TLS alert", vec![b"\x15\x03\x01\0\x02\x02\x46".to_vec()], WrongProtocol::Tls.into()),
        ("SMTP", vec![b"220 mail".to_vec()], unknown(b"220 mail")),
        ("a method on channel 1", vec![channel_open_ok(1)], unknown(b"\x01\0\x01\0\0\0\x08\0")),
        ("a heartbeat", vec![frame(HEARTBEAT, 0, b"")], unknown(b"\x08\0\0\0\0\0\0\xce")),
        ("a start of AMQP 8-0", vec![method(0, other_version)], version([0, 8, 0, 0])),
        ("tune instead of start", vec![tune(0, 0, 0)], misplaced("connection.tune")),
        ("open-ok instead of start", vec![open_ok()], misplaced("connection.open-ok")),
        ("no mechanism in common", vec![start_offering("GSSAPI")], no_mechanism.into()),
        ("a challenge for PLAIN", vec![started.clone(), challenge], unchallenged.into()),
        ("a second start", vec![started.clone(), start()], misplaced("connection.start")),
        (
            "open-ok instead of tune",
            vec![started.clone(), open_ok()],
            misplaced("connection.open-ok"),
        ),
        ("frame_max 1", vec![started.clone(), tune(0, 1, 0)], bad_tune(1)),
        ("frame_max 4095", vec![started.clone(), tune(0, 4095, 0)], bad_tune(4095)),
        ("a second tune", vec![tuned.clone(), tune(0, 4096, 0)], misplaced("connection.tune")),
        ("a channel's method", vec![started.clone(), declared], misplaced("queue.declare-ok")),
        ("a delivery before open-ok", vec![tuned.clone(), deliver(1)], early.into()),
    ];
    let mut most = 0;
    for (name, sends, says) in rows {
        let mut scene = Scene::connecting(Config::default());
        let sends = sends.concat();
        most = most.max(peak(|| {
            scene.feed(&sends);
        }));
        assert_eq!(error_of(&scene), says, "{name}");
        assert!(scene.turn().is_done(), "{name}");
    }
    assert!(most < BOUND, "{most}");
}

/// The only method with a table that a client ever gets.
#[test]
fn a_start_whose_tables_do_not_hold_up() {
    // Version 0-9, and the properties' length and bytes, with nothing behind them.
    let start = |length: u32, properties: &[u8]| {
        let head = [&[0, 10, 0, 10, 0, 9][..], &length.to_be_bytes()].concat();
        frame(METHOD, 0, &[&head, properties].concat())
    };
    let table = |bytes: &[u8]| start(u32::try_from(bytes.len()).expect("short"), bytes);
    for (name, sends, says) in [
        ("a table past the frame", start(100, b"\x01kt\x01"), DecodeErrorKind::Truncated),
        ("a table of 4 GiB", start(u32::MAX, b"\x01kt\x01"), DecodeErrorKind::Truncated),
        ("a name past the table", table(b"\xffk"), DecodeErrorKind::Truncated),
        ("a name and nothing", table(b"\x01k"), DecodeErrorKind::Truncated),
        ("a string past the table", table(b"\x01kS\0\0\0\x09x"), DecodeErrorKind::Truncated),
        ("a string of 4 GiB", table(b"\x01kS\xff\xff\xff\xff"), DecodeErrorKind::Truncated),
        ("an array past the table", table(b"\x01kA\0\0\0\x09t\x01"), DecodeErrorKind::Truncated),
        ("a table past the table", table(b"\x01kF\0\0\0\x09"), DecodeErrorKind::Truncated),
        ("half a number", table(b"\x01kl\0\0"), DecodeErrorKind::Truncated),
        ("an unknown type", table(b"\x01k?\0"), DecodeErrorKind::UnknownFieldType(b'?')),
        ("10,000 levels of tables", table(&nested_table(10_000)), DecodeErrorKind::TooDeep),
    ] {
        let mut scene = Scene::connecting(Config::default());
        let most = peak(|| {
            scene.feed(&sends);
        });
        match error_of(&scene) {
            ConnectionError::Decode(error) => assert_eq!(error.kind(), says, "{name}"),
            other => panic!("{name}: {other:?}"),
        }
        // The frame with 10,000 levels takes more than one buffer.
        assert!(most < 3 * BOUND, "{name}: {most}");
    }
}

#[test]
fn absurd_limits_are_lowered_to_those_of_the_client() {
    for (channel_max, frame_max, heartbeat, agreed) in [
        (0, 0, 0, (2047, 131_072, 60)),
        (u16::MAX, u32::MAX, u16::MAX, (2047, 131_072, 60)),
        (1, 4096, 1, (1, 4096, 1)),
    ] {
        let mut scene = Scene::connecting(Config::default());
        let sends = [start(), tune(channel_max, frame_max, heartbeat), open_ok()].concat();
        let most = peak(|| {
            scene.feed(&sends);
        });
        assert!(most < BOUND, "{most}");
        let negotiated = scene.connection.negotiated().expect("it is open");
        let heartbeat = negotiated.heartbeat.as_secs();
        assert_eq!((negotiated.channel_max, negotiated.frame_max, heartbeat), agreed);
    }
}

#[test]
fn the_server_can_limit_a_connection_to_one_channel() {
    let mut scene = Scene::connecting(Config::default());
    scene.feed(&[start(), tune(1, 4096, 1), open_ok()].concat());
    let _channel = scene.channel(1);
    let refused = now(scene.connection.open_channel()).expect_err("there is no other");
    assert_eq!(refused, CallError::NoChannel(OpenChannelError::Exhausted { channel_max: 1 }));
}

/// A mechanism that responds to any number of challenges.
#[derive(Debug)]
struct Challenged;

impl Mechanism for Challenged {
    fn name(&self) -> &'static str {
        "CHALLENGED"
    }

    fn begin(&self) -> Box<dyn SaslExchange> {
        Box::new(|challenge: Option<&[u8]>| {
            Ok(Secret::from(challenge.unwrap_or_default().to_vec()))
        })
    }
}

fn challenged() -> Scene {
    let protocol = ClientConfig::default().mechanisms(vec![Arc::new(Challenged)]);
    let mut scene = Scene::connecting(Config::default().protocol(protocol));
    scene.feed(&start());
    scene
}

#[test]
fn challenges_are_limited_by_number_and_by_time() {
    let challenge = method(0, ConnectionSecure { challenge: LongStr::from(vec![b'?'; 100_000]) });
    let mut scene = challenged();
    for _ in 0..100 {
        scene.feed(&challenge);
    }
    let expected = Violation::TooManyChallenges { limit: 16 };
    assert_eq!(error_of(&scene), expected.into());
    let mut scene = challenged();
    while poll_once(scene.connection.ready()).is_none() {
        scene.feed(&challenge);
        scene.advance(Duration::from_secs(5));
    }
    let limit = Duration::from_secs(20);
    let expected = ConnectionError::HandshakeTimeout { waiting_for: "connection.tune", limit };
    assert_eq!(error_of(&scene), expected);
}

#[test]
fn silence_at_any_step_ends_in_time() {
    for (name, sends, waiting_for) in steps() {
        let mut scene = Scene::connecting(Config::default());
        scene.feed(&sends);
        let limit = Duration::from_secs(20);
        scene.advance(limit - Duration::from_millis(1));
        assert!(poll_once(scene.connection.ready()).is_none(), "{name}");
        let turn = scene.advance(Duration::from_millis(1));
        let expected = ConnectionError::HandshakeTimeout { waiting_for, limit };
        assert_eq!(error_of(&scene), expected, "{name}");
        assert!(turn.is_done(), "{name}");
    }
}

#[test]
fn one_octet_a_second_does_not_stretch_the_handshake() {
    for (name, sends, waiting_for) in steps() {
        let mut scene = Scene::connecting(Config::default());
        scene.feed(&sends);
        // The head of a method that never ends, or else one heartbeat after the other.
        let slow = if sends.is_empty() {
            [&start()[..], &[0; 100]].concat()
        } else {
            frame(HEARTBEAT, 0, b"").repeat(10)
        };
        for byte in slow.chunks(1).take(20) {
            assert!(poll_once(scene.connection.ready()).is_none(), "{name}");
            scene.feed(byte);
            scene.advance(Duration::from_secs(1));
        }
        let limit = Duration::from_secs(20);
        let expected = ConnectionError::HandshakeTimeout { waiting_for, limit };
        assert_eq!(error_of(&scene), expected, "{name}");
    }
}

#[test]
fn the_end_of_the_transport_at_any_step() {
    let says = |name| match name {
        // Some brokers refuse credentials by hanging up.
        "start" => ConnectionError::Login(LoginError::HungUp),
        _ => ConnectionError::Eof,
    };
    for (name, sends, _) in steps() {
        for half_a_frame in [false, true] {
            for kind in [None, Some(io::ErrorKind::ConnectionReset), Some(io::ErrorKind::TimedOut)]
            {
                let mut scene = Scene::connecting(Config::default());
                scene.feed(&sends);
                if half_a_frame {
                    scene.feed(&start()[..20]);
                }
                let expected = match kind.map(io::Error::from) {
                    None => {
                        scene.eof();
                        says(name)
                    }
                    Some(error) => {
                        scene.transport_error(&error);
                        match error.kind() {
                            io::ErrorKind::ConnectionReset => says(name),
                            _ => ConnectionError::transport(&error),
                        }
                    }
                };
                assert_eq!(error_of(&scene), expected, "{name}, {kind:?}");
                assert!(scene.turn().is_done(), "{name}, {kind:?}");
            }
        }
    }
}

#[test]
fn a_close_at_any_step_is_reported_with_its_reason() {
    let close = ConnectionClose {
        reply_code: 530,
        reply_text: short("NOT_ALLOWED - no"),
        ..ConnectionClose::default()
    };
    for (name, sends, _) in steps() {
        let mut scene = Scene::connecting(Config::default());
        scene.feed(&[sends, method(0, close.clone())].concat());
        let error = error_of(&scene);
        let close = error.as_close().unwrap_or_else(|| panic!("{name}: {error:?}"));
        assert_eq!(
            (close.reply_code.0, close.reply_text.as_bytes()),
            (530, &b"NOT_ALLOWED - no"[..])
        );
        assert!(scene.turn().is_done(), "{name}");
    }
}
