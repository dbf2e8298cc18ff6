//! The broker as a program on a network port, and hostile clients: what they send, how it reacts, and what that costs. Whatever
//! happens, the program serves others, and reports no error of its own.

#![cfg(target_os = "linux")]

mod commands;
mod program;
#[path = "../../../tests/script/mod.rs"]
mod script;

use std::io::{self, BufRead as _, BufReader, Read as _};
use std::net::SocketAddr;
use std::process::Command;
use std::time::{Duration, Instant};

use amqp_client_core::proto::Secret;
use amqp_client_core::proto::method::{
    BasicAck, BasicConsume, BasicDeliver, BasicPublish, BasicQos, ChannelClose, ChannelCloseOk,
    ChannelOpen, ChannelOpenOk, ConnectionBlocked, ConnectionClose, ConnectionCloseOk,
    ConnectionOpen, ConnectionStart, ConnectionStartOk, ConnectionTune, ConnectionTuneOk, Method,
    QueueDeclare, QueueDeclareOk,
};
use amqp_testkit::PeerConnection;
use amqp_testkit::peer::frame_bytes;
use program::Program;
use script::client::{HEADER as PROTOCOL_HEADER, greeted, logged_in, opened, short};
use script::{METHOD, encoded, receive, send};

type Outcome = Result<(), Box<dyn std::error::Error>>;

const HEADER: u8 = 2;
const BODY: u8 = 3;
const HEARTBEAT: u8 = 8;

/// Far longer than it takes on a busy machine.
const LIMIT: Duration = Duration::from_secs(60);

fn method(channel: u16, method: impl Into<Method>) -> Vec<u8> {
    frame_bytes(METHOD, channel, &encoded(method))
}

/// The method of a publish to a queue.
fn publish() -> Vec<u8> {
    method(1, BasicPublish { routing_key: short("q"), ..BasicPublish::default() })
}

/// A content header; `properties` begins with the flags.
fn header_with(body_size: u64, properties: &[u8]) -> Vec<u8> {
    let payload = [&[0, 60, 0, 0][..], &body_size.to_be_bytes(), properties].concat();
    frame_bytes(HEADER, 1, &payload)
}

fn header(body_size: u64) -> Vec<u8> {
    header_with(body_size, &[0, 0])
}

fn body(bytes: &[u8]) -> Vec<u8> {
    frame_bytes(BODY, 1, bytes)
}

/// A whole message with that property list.
fn message_with(properties: &[u8]) -> Vec<u8> {
    [publish(), header_with(0, properties)].concat()
}

/// A connection with channel 1, and a queue that is its own.
fn client(addr: SocketAddr) -> PeerConnection {
    let mut peer = opened(addr, 2047);
    script::client::open_channel(&mut peer, 1);
    declare_own(&mut peer, QueueDeclare { queue: short("q"), ..<_>::default() });
    peer
}

/// Declares a queue of the peer's own on channel 1. If its previous owner has just disconnected, waits until the broker has
/// noticed.
fn declare_own(peer: &mut PeerConnection, declare: QueueDeclare) -> QueueDeclareOk {
    let until = Instant::now() + LIMIT;
    let declare = QueueDeclare { exclusive: true, ..declare };
    loop {
        send(peer, 1, declare.clone());
        match receive(peer) {
            Method::QueueDeclareOk(declared) => return declared,
            Method::ChannelClose(ChannelClose { reply_code: 405, .. }) => {
                send(peer, 1, ChannelCloseOk {});
                script::client::open_channel(peer, 1);
            }
            other => panic!("{other:?}"),
        }
        assert!(Instant::now() < until, "{} stays", declare.queue);
    }
}

/// The code that the broker closes the connection with, before the end of the stream.
fn closing(mut peer: PeerConnection, name: &str) -> u16 {
    loop {
        let frame = peer.read_frame().unwrap_or_else(|error| panic!("{name}: {error}"));
        if frame.kind == METHOD {
            let method = Method::decode(&frame.payload.into()).expect("a method");
            if let Method::ConnectionClose(close) = method {
                let rest = peer.read_to_close().unwrap_or_else(|error| panic!("{name}: {error}"));
                assert!(rest.is_empty(), "{name}: {rest:?}");
                return close.reply_code;
            }
        }
    }
}

/// Violations of the protocol, and the reply codes to them.
fn violations() -> Vec<(&'static str, Vec<u8>, u16)> {
    let payload = |bytes: &[u8]| frame_bytes(METHOD, 1, bytes);
    let wrong_end = [&body(b"x")[..8], b"\0"].concat();
    let declared = |channel| method(channel, QueueDeclareOk::default());
    vec![
        ("wrong frame end", wrong_end, 501),
        ("frame type 7", frame_bytes(7, 0, b""), 501),
        ("frame_max and one byte", b"\x03\0\x01\0\x01\xff\xf9".to_vec(), 501),
        ("a frame of 4 GiB", b"\x03\0\x01\xff\xff\xff\xff".to_vec(), 501),
        ("unknown method", payload(b"\0\x3c\0\x63"), 503),
        ("unknown class", payload(b"\0\x63\0\x0a"), 503),
        ("class 0", frame_bytes(METHOD, 0, &[0; 4]), 503),
        ("no ids", payload(b""), 502),
        ("half of the ids", payload(b"\0\x3c\0"), 502),
        ("a string past the frame", payload(b"\0\x32\0\x0a\0\0\xffq"), 502),
        ("a table of 4 GiB", payload(b"\0\x32\0\x0a\0\0\x01q\0\xff\xff\xff\xff"), 502),
        ("bytes behind the last field", payload(b"\0\x14\0\x29??"), 502),
        ("half a content header", [publish(), payload_of_header(b"\0\x3c\0\0\0")].concat(), 502),
        (
            "a content header of another class",
            [publish(), payload_of_header(&[0, 50, 0, 0, 0, 0, 0, 0, 0, 0, 0, 1, 0, 0])].concat(),
            502,
        ),
        ("a body longer than announced", [publish(), header(3), body(b"four")].concat(), 501),
        ("a body behind an empty one", [publish(), header(0), body(b"x")].concat(), 505),
        ("a publish amid a body", [publish(), header(9), body(b"short"), publish()].concat(), 505),
        ("a second header", [publish(), header(9), header(9)].concat(), 505),
        ("a content header without method", header(5), 505),
        ("a body without anything", body(b"x"), 505),
        ("a body without header", [publish(), body(b"x")].concat(), 505),
        ("a method instead of a header", [publish(), publish()].concat(), 505),
        ("a body on channel 0", frame_bytes(BODY, 0, b"x"), 505),
        ("a method on a channel that is not open", method(3, QueueDeclare::default()), 504),
        ("a publish on the highest channel", method(u16::MAX, BasicPublish::default()), 504),
        ("a content header on such a channel", frame_bytes(HEADER, 9, &[0; 14]), 504),
        ("a body on such a channel", frame_bytes(BODY, 9, b"x"), 504),
        ("a channel that is open", method(1, ChannelOpen::default()), 504),
        ("queue.declare on channel 0", method(0, QueueDeclare::default()), 503),
        ("connection.close on channel 1", method(1, ConnectionClose::default()), 503),
        ("queue.declare-ok", declared(1), 503),
        ("basic.deliver", method(1, BasicDeliver::default()), 503),
        ("channel.open-ok", method(1, ChannelOpenOk::default()), 503),
        ("channel.close-ok", method(1, ChannelCloseOk {}), 503),
        ("connection.start", method(0, ConnectionStart::default()), 503),
        ("connection.tune", method(0, ConnectionTune::default()), 503),
        ("connection.blocked", method(0, ConnectionBlocked::default()), 503),
        ("a second start-ok", method(0, ConnectionStartOk::default()), 503),
        ("a second tune-ok", method(0, ConnectionTuneOk::default()), 503),
        ("a second open", method(0, ConnectionOpen::default()), 503),
        ("close-ok without close", method(0, ConnectionCloseOk {}), 503),
    ]
}

fn payload_of_header(bytes: &[u8]) -> Vec<u8> {
    frame_bytes(HEADER, 1, bytes)
}

#[test]
fn a_violation_ends_its_connection_for_a_reason_and_no_other() -> Outcome {
    let program = Program::start()?;
    for (name, sends, code) in violations() {
        // However its bytes are cut, it is the same; and more may follow that nobody reads.
        for (size, more) in [(1, 0), (usize::MAX, 20_000)] {
            let mut peer = client(program.addr());
            let sends = [sends.clone(), frame_bytes(HEARTBEAT, 0, b"").repeat(more)].concat();
            for part in sends.chunks(size.min(sends.len())) {
                peer.write(part)?;
            }
            assert_eq!(closing(peer, name), code, "{name}");
        }
    }
    program.finish()
}

/// Returns the bytes that the broker sends before it disconnects, which has to be soon.
fn last_words(mut peer: PeerConnection, name: &str) -> Vec<u8> {
    peer.read_to_close().unwrap_or_else(|error| panic!("{name}: {error}"))
}

#[test]
fn clients_of_another_protocol_get_the_header() -> Outcome {
    let program = Program::start()?;
    for (name, sends) in [
        ("AMQP 1.0", &b"AMQP\0\x01\0\0"[..]),
        ("AMQP 1.0 with SASL", b"AMQP\x03\x01\0\0"),
        ("AMQP 0-8", b"AMQP\x01\x01\x08\0"),
        ("HTTP", b"GET / HTTP/1.1\r\n\r\n"),
        ("a method", b"\x01\0\0\0\0\0\x04\0\x0a\0\x0b\xce"),
        ("zeros", &[0; 100_000]),
    ] {
        let mut peer = PeerConnection::connect(program.addr())?;
        // The broker may have disconnected before it is written.
        let _gone = peer.write(sends);
        assert_eq!(last_words(peer, name), PROTOCOL_HEADER, "{name}");
    }
    let mut peer = PeerConnection::connect(program.addr())?;
    peer.write(b"\x16\x03\x01\0\xf4\x01\0")?;
    assert_eq!(last_words(peer, "TLS"), b"");
    program.finish()
}

fn start_ok(mechanism: &str, response: &[u8]) -> Vec<u8> {
    let (mechanism, response) = (short(mechanism), Secret::from(response.to_vec()));
    method(0, ConnectionStartOk { mechanism, response, ..ConnectionStartOk::default() })
}

/// The entries of a table that nests this deep.
fn nested_table(depth: usize) -> Vec<u8> {
    let mut entries = Vec::new();
    for _ in 1..depth {
        let size = u32::try_from(entries.len()).expect("it fits").to_be_bytes();
        entries = [&[1, b'k', b'F'][..], &size, &entries].concat();
    }
    entries
}

/// A start-ok with these bytes for a table of properties.
fn start_ok_with(size: u32, table: &[u8]) -> Vec<u8> {
    frame_bytes(METHOD, 0, &[&[0, 10, 0, 11][..], &size.to_be_bytes(), table].concat())
}

#[test]
fn illegal_methods_of_a_client_in_the_handshake() -> Outcome {
    let program = Program::start()?;
    let table = |bytes: &[u8]| start_ok_with(u32::try_from(bytes.len()).expect("short"), bytes);
    let tune_ok = |channel_max, frame_max| {
        method(0, ConnectionTuneOk { channel_max, frame_max, heartbeat: 0 })
    };
    let open = |name: &str| {
        method(0, ConnectionOpen { virtual_host: short(name), ..ConnectionOpen::default() })
    };
    let rows: Vec<(&str, Step, Vec<u8>)> = vec![
        ("the header twice", greeted, PROTOCOL_HEADER.to_vec()),
        ("tune-ok instead of start-ok", greeted, tune_ok(0, 0)),
        ("open instead of start-ok", greeted, open("/")),
        ("a channel before start-ok", greeted, method(1, ChannelOpen::default())),
        ("a start", greeted, method(0, ConnectionStart::default())),
        ("an unknown mechanism", greeted, start_ok("GSSAPI", b"")),
        ("no credentials", greeted, start_ok("PLAIN", b"")),
        ("too many credentials", greeted, start_ok("PLAIN", &[0; 100_000])),
        ("wrong credentials", greeted, start_ok("PLAIN", b"\0guest\0wrong")),
        ("no table of credentials", greeted, start_ok("AMQPLAIN", b"\x05LOGIN")),
        ("a table past the frame", greeted, start_ok_with(100, b"\x01kt\x01")),
        ("a table of 4 GiB", greeted, start_ok_with(u32::MAX, b"\x01kt\x01")),
        ("a name past the table", greeted, table(b"\xffk")),
        ("a string of 4 GiB", greeted, table(b"\x01kS\xff\xff\xff\xff")),
        ("an array past the table", greeted, table(b"\x01kA\0\0\0\x09t\x01")),
        ("an unknown type", greeted, table(b"\x01k?\0")),
        ("10,000 levels of tables", greeted, table(&nested_table(10_000))),
        ("more channels than offered", logged_in, tune_ok(u16::MAX, 131_072)),
        ("no limit of channels", logged_in, tune_ok(0, 131_072)),
        ("larger frames than offered", logged_in, tune_ok(1, u32::MAX)),
        ("frame_max 1", logged_in, tune_ok(1, 1)),
        ("a channel before open", logged_in, method(1, ChannelOpen::default())),
        ("a virtual host that is not there", logged_in, [tune_ok(1, 4096), open("?")].concat()),
        ("open twice", logged_in, [tune_ok(1, 4096), open("/"), open("/")].concat()),
    ];
    // All at once: the broker waits for close-ok, which does not come.
    let mut peers = Vec::new();
    for (name, step, sends) in rows {
        let mut peer = step(program.addr());
        peer.write(&sends)?;
        peer.set_deadline(LIMIT);
        peers.push((name, peer));
    }
    for (name, peer) in peers {
        let said = last_words(peer, name);
        assert!(said.len() < 1_000, "{name}: {said:?}");
    }
    program.finish()
}

/// The first bytes of a client.
type Step = fn(SocketAddr) -> PeerConnection;

/// Returns how far a client goes before it disconnects.
fn steps() -> Vec<(&'static str, Step)> {
    fn connected(addr: SocketAddr) -> PeerConnection {
        PeerConnection::connect(addr).expect("it listens")
    }
    fn half_a_header(addr: SocketAddr) -> PeerConnection {
        let mut peer = connected(addr);
        peer.write(&PROTOCOL_HEADER[..5]).expect("the broker reads");
        peer
    }
    fn half_a_method(addr: SocketAddr) -> PeerConnection {
        let mut peer = greeted(addr);
        peer.write(&start_ok("PLAIN", b"\0guest\0guest")[..20]).expect("the broker reads");
        peer
    }
    fn amid_a_body(addr: SocketAddr) -> PeerConnection {
        let mut peer = client(addr);
        let sends = [publish(), header(100), body(b"some of it")].concat();
        peer.write(&sends).expect("the broker reads");
        peer
    }
    fn with_deliveries(addr: SocketAddr) -> PeerConnection {
        let mut peer = client(addr);
        let consume = BasicConsume { queue: short("q"), ..BasicConsume::default() };
        let message = [publish(), header(1), body(b"m")].concat();
        peer.write(&[method(1, consume), message.repeat(1_000)].concat()).expect("it reads");
        // The first of them has come.
        while peer.read_frame().expect("it says more").kind != BODY {}
        peer
    }
    vec![
        ("accept", connected),
        ("half a protocol header", half_a_header),
        ("the protocol header", greeted),
        ("half a method", half_a_method),
        ("the login", logged_in),
        ("a queue of its own", client),
        ("half a message", amid_a_body),
        ("deliveries", with_deliveries),
    ]
}

#[test]
fn clients_hang_up_at_any_step_in_order_or_not() -> Outcome {
    let program = Program::start()?;
    for (name, step) in steps() {
        for reset in [false, true] {
            let peer = step(program.addr());
            if reset {
                peer.reset()?
            } else {
                drop(peer)
            }
            program.assert_serves(name);
            // The entities of the closed connection were deleted.
            let mut peer = opened(program.addr(), 2047);
            script::client::open_channel(&mut peer, 1);
            let declare = QueueDeclare { queue: short("q"), ..<_>::default() };
            assert_eq!(declare_own(&mut peer, declare).message_count, 0, "{name}");
        }
    }
    program.finish()
}

/// The time that a handshake may take, at any of its steps.
#[test]
fn clients_that_stall_in_the_handshake_are_disconnected() -> Outcome {
    let program = Program::start()?;
    let waiting: Vec<_> = steps().into_iter().take(5).collect();
    let mut peers: Vec<_> =
        waiting.into_iter().map(|(name, step)| (name, step(program.addr()))).collect();
    for (name, peer) in &mut peers {
        peer.set_deadline(LIMIT);
        peer.read_to_close().map_err(|error| format!("{name}: {error}"))?;
    }
    program.finish()
}

#[test]
fn messages_are_passed_on_with_any_properties() -> Outcome {
    let program = Program::start()?;
    let headers = |entries: &[u8]| {
        let size = u32::try_from(entries.len()).expect("it fits").to_be_bytes();
        // The flag of `headers` is the third from the left.
        [&[0x20, 0][..], &size, entries].concat()
    };
    let rows: Vec<(&str, Vec<u8>)> = vec![
        ("10,000 levels of tables", headers(&nested_table(10_000))),
        ("a string past the headers", headers(b"\x01kS\0\0\0\x09x")),
        ("a table past the headers", headers(b"\x01kF\xff\xff\xff\xff")),
        ("an array past the headers", headers(b"\x01kA\0\0\x10\0t")),
        ("a name past the headers", headers(b"\xffk")),
        ("half a decimal", headers(b"\x01kD\xff\0")),
        ("headers past the frame", b"\x20\0\xff\xff\xff\xff".to_vec()),
        ("a content type past the frame", b"\x80\0\xfftext".to_vec()),
        ("a timestamp past the frame", b"\0\x40\0\0\0".to_vec()),
        ("no flags", Vec::new()),
        ("flags without end", [0, 1].repeat(1_000)),
        ("an unknown property", b"\0\x02".to_vec()),
        ("bytes behind the properties", b"\0\0?".to_vec()),
        ("deaths that are no deaths", headers(b"\x07x-deathA\0\0\0\x02t\x01")),
        ("deaths that are a number", headers(b"\x07x-deathb\x01")),
    ];
    for (name, properties) in rows {
        let mut peer = client(program.addr());
        // It dies where it is delivered, is read by an exchange of headers, and goes round.
        let declare = QueueDeclare {
            queue: short("dying"),
            arguments: amqp_client_core::proto::FieldTable::new()
                .with("x-max-length", 0)?
                .with("x-dead-letter-exchange", "amq.headers")?,
            ..QueueDeclare::default()
        };
        declare_own(&mut peer, declare);
        for queue in ["q", "dying"] {
            let bind = amqp_client_core::proto::method::QueueBind {
                queue: short(queue),
                exchange: short("amq.headers"),
                ..<_>::default()
            };
            send(&mut peer, 1, bind);
            assert!(matches!(receive(&mut peer), Method::QueueBindOk(_)), "{name}");
        }
        let to_dying = BasicPublish { routing_key: short("dying"), ..BasicPublish::default() };
        let consume = BasicConsume { queue: short("q"), no_ack: true, ..BasicConsume::default() };
        let dies = [method(1, to_dying), header_with(0, &properties)].concat();
        peer.write(&[message_with(&properties), dies, method(1, consume)].concat())?;
        assert!(matches!(receive(&mut peer), Method::BasicConsumeOk(_)), "{name}");
        assert!(matches!(receive(&mut peer), Method::BasicDeliver(_)), "{name}");
        let frame = peer.read_frame()?;
        assert_eq!((frame.kind, &frame.payload[12..]), (HEADER, &properties[..]), "{name}");
        assert!(matches!(receive(&mut peer), Method::BasicDeliver(_)), "{name}");
    }
    program.finish()
}

const MIB: u64 = 1024 * 1024;

/// Everything gets a reply, and no reply is read.
#[test]
fn clients_that_never_read_replies_cost_bounded_memory() -> Outcome {
    let program = Program::start()?;
    let qos = method(1, BasicQos::default());
    let declare = method(1, QueueDeclare { queue: short("q"), exclusive: true, ..<_>::default() });
    let mandatory = BasicPublish { mandatory: true, ..BasicPublish::default() };
    let returned = [method(1, mandatory), header(10_000), body(&[7; 10_000])].concat();
    let channels = [method(2, ChannelOpen::default()), method(2, ChannelClose::default())].concat();
    let before = program.memory()?;
    let kinds = [qos, declare, returned, channels];
    let floods = kinds.map(|part| {
        let mut peer = opened(program.addr(), 2047);
        script::client::open_channel(&mut peer, 1);
        let part = part.repeat(1 + 1_000_000 / part.len());
        std::thread::spawn(move || {
            let mut sent = 0;
            // Up to when the broker reads no more, or disconnects.
            while sent < 256 * MIB && peer.write(&part).is_ok() {
                sent += part.len() as u64;
            }
            (sent, peer)
        })
    });
    let floods = floods.map(|flood| flood.join().expect("it only writes"));
    let after = program.memory()?;
    for (sent, _) in &floods {
        assert!(*sent < 256 * MIB, "it reads on: {sent}");
    }
    assert!(after.saturating_sub(before) < 64 * MIB, "{before}, {after}");
    program.finish()
}

#[test]
fn bodies_that_are_only_announced_take_no_memory() -> Outcome {
    let program = Program::start()?;
    let mut peer = opened(program.addr(), 2047);
    let before = program.memory()?;
    for number in 1..=2047 {
        let open = method(number, ChannelOpen::default());
        let begin = method(number, BasicPublish { routing_key: short("q"), ..<_>::default() });
        let announced = [&[0, 60, 0, 0][..], &(128 * MIB).to_be_bytes(), &[0, 0]].concat();
        let parts = [frame_bytes(HEADER, number, &announced), frame_bytes(BODY, number, b"?")];
        peer.write(&[open, begin, parts.concat()].concat())?;
    }
    for _ in 1..=2047 {
        assert!(matches!(receive(&mut peer), Method::ChannelOpenOk(_)));
    }
    // All of it has been read.
    send(&mut peer, 0, ConnectionClose::default());
    assert!(matches!(receive(&mut peer), Method::ConnectionCloseOk(_)));
    let after = program.memory()?;
    assert!(after.saturating_sub(before) < 32 * MIB, "{before}, {after}");
    program.finish()
}

/// Mistakes that close a channel, and nothing else.
#[test]
fn mistakes_close_the_channel_and_the_connection_goes_on() -> Outcome {
    let program = Program::start()?;
    let mut peer = client(program.addr());
    let ack = |delivery_tag, multiple| method(1, BasicAck { delivery_tag, multiple });
    let nowhere = BasicPublish { exchange: short("nowhere"), ..BasicPublish::default() };
    let expiring = [publish(), header_with(0, b"\x01\0\x04soon")].concat();
    for (name, sends, code) in [
        ("ack of what was not delivered", ack(1, false), 406),
        ("ack of everything up to the last number", ack(u64::MAX, true), 406),
        ("a publish to nowhere", [method(1, nowhere), header(1), body(b"x")].concat(), 404),
        ("an expiration that is no number", expiring, 406),
        ("a body that is too large", [publish(), header(u64::MAX), body(b"x")].concat(), 0),
    ] {
        if code == 0 {
            // It is waited for, without being kept.
            peer.write(&[sends, body(&[7; 100_000]).repeat(100)].concat())?;
            continue;
        }
        peer.write(&sends)?;
        match receive(&mut peer) {
            Method::ChannelClose(close) => assert_eq!(close.reply_code, code, "{name}"),
            other => panic!("{name}: {other:?}"),
        }
        // Methods sent before the close was read are ignored.
        peer.write(&[ack(1, false), method(1, ChannelCloseOk {})].concat())?;
        script::client::open_channel(&mut peer, 1);
    }
    peer.write(&frame_bytes(HEARTBEAT, 0, b""))?;
    send(&mut peer, 7, ChannelOpen::default());
    assert!(matches!(receive(&mut peer), Method::ChannelOpenOk(_)));
    program.finish()
}

/// More clients than the system has sockets for: those that are there are served, and the others later.
#[test]
fn more_connections_than_the_system_has_descriptors() -> Outcome {
    let mut shell = Command::new("sh");
    let line = r#"ulimit -n 64 && exec "$0" "$@""#;
    shell.args(["-c", line, env!("CARGO_BIN_EXE_amqp-test-broker")]);
    let mut program = Program::start_by(&mut shell)?;
    let served = logged_in(program.addr());
    let clients: Vec<_> =
        (0..100).map(|_| PeerConnection::connect(program.addr())).collect::<io::Result<_>>()?;
    let errors = program.child.stderr.take().ok_or("it was taken")?;
    let (mut errors, mut complaints) = (BufReader::new(errors), String::new());
    // The program may accept later than the clients connect: they stay until it has run out of descriptors.
    errors.read_line(&mut complaints)?;
    drop((served, clients));
    program.assert_serves("the crowd");
    program.child.kill()?;
    errors.read_to_string(&mut complaints)?;
    let lines = complaints.lines().count();
    assert!((1..100).contains(&lines), "{lines} lines: {:.500}", complaints);
    Ok(())
}
