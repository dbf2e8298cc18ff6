//! Taps: which frames they see, and what they never see.

mod harness;

use std::fmt;
use std::future::Future;
use std::io::{self, Write};
use std::pin::pin;
use std::sync::atomic::{AtomicBool, Ordering};
use std::sync::{Arc, Mutex, OnceLock};
use std::time::Instant;

use amqp_client_core::adapter::Driver;
use amqp_client_core::proto::frame::{Frame as WireFrame, FrameKind, PROTOCOL_HEADER};
use amqp_client_core::proto::method::Method;
use amqp_client_core::proto::sasl::{AmqPlain, External, Mechanism, Plain};
use amqp_client_core::proto::{
    Connection as Server, Event, LongStr, SaslExchange, Secret, ServerConfig, ServerEvent, Transmit,
};
use amqp_client_core::tap::{Direction, Frame, Kind, Lines, Pcap, Tap, Transport};
use amqp_client_core::{
    Channel, ClientConfig, Config, ConnectionError, PublisherOptions, QueueOptions,
};
use bytes::{Buf as _, BytesMut};
use harness::{ClientRig, Peer, poll_once};

/// What a tap has seen.
#[derive(Debug, Clone, PartialEq, Eq)]
enum Seen {
    Connected(u64),
    Frame(u64, Direction, Kind, Vec<u8>),
    Disconnected(u64, Option<String>),
}

#[derive(Default)]
struct Record(Mutex<Vec<Seen>>);

impl Record {
    fn add(&self, seen: Seen) {
        self.0.lock().expect("no panic").push(seen);
    }

    fn take(&self) -> Vec<Seen> {
        std::mem::take(&mut self.0.lock().expect("no panic"))
    }

    /// The bytes of one direction.
    fn bytes(seen: &[Seen], wanted: Direction) -> Vec<u8> {
        let mut all = Vec::new();
        for seen in seen {
            match seen {
                Seen::Frame(_, direction, _, bytes) if *direction == wanted => {
                    all.extend_from_slice(bytes);
                }
                _ => {}
            }
        }
        all
    }
}

impl Tap for Record {
    fn connected(&self, transport: &Transport) {
        self.add(Seen::Connected(transport.number));
    }

    fn frame(&self, frame: &Frame<'_>) {
        let (number, bytes) = (frame.transport.number, frame.bytes.to_vec());
        self.add(Seen::Frame(number, frame.direction, frame.kind, bytes));
    }

    fn disconnected(&self, transport: &Transport, _: Instant, reason: Option<&ConnectionError>) {
        self.add(Seen::Disconnected(transport.number, reason.map(ToString::to_string)));
    }
}

/// A writer into memory that the test can read.
#[derive(Clone, Default)]
struct Shared(Arc<Mutex<Vec<u8>>>);

impl Write for Shared {
    fn write(&mut self, bytes: &[u8]) -> io::Result<usize> {
        self.0.lock().expect("no panic").extend_from_slice(bytes);
        Ok(bytes.len())
    }

    fn flush(&mut self) -> io::Result<()> {
        Ok(())
    }
}

impl fmt::Display for Shared {
    fn fmt(&self, f: &mut fmt::Formatter<'_>) -> fmt::Result {
        f.write_str(&String::from_utf8_lossy(&self.0.lock().expect("no panic")))
    }
}

/// Runs a future, however many steps that takes.
fn run<T>(rig: &mut ClientRig, future: impl Future<Output = T>) -> T {
    let mut future = pin!(future);
    loop {
        if let Some(value) = poll_once(future.as_mut()) {
            return value;
        }
        assert!(rig.step(), "nothing moves");
    }
}

/// A session with messages of several sizes, over a transport that takes and returns pieces of that size.
fn session(piece: usize) -> Vec<Seen> {
    let record = Arc::new(Record::default());
    let mut rig = ClientRig::new(Config::default().tap(record.clone()));
    rig.piece = piece;
    let opening = rig.connection.open_channel();
    let channel = run(&mut rig, opening).expect("it is opened");
    let publisher = channel.default_exchange().publisher(PublisherOptions::new()).expect("open");
    for size in [0, 1, 5000, 140_000] {
        run(&mut rig, publisher.send("q", vec![7; size])).expect("it is confirmed");
    }
    let tag = run(&mut rig, channel.basic_consume("q", Default::default())).expect("it starts");
    let name = tag.tag().clone();
    for size in [0, 1, 5000, 140_000] {
        rig.peer.deliver(channel.id(), &name, 1, &vec![9; size]);
    }
    rig.settle();
    record.take()
}

#[test]
fn frames_are_the_same_in_pieces_of_any_size() {
    let whole = session(usize::MAX);
    let frames = whole.iter().filter(|seen| matches!(seen, Seen::Frame(..))).count();
    assert!(frames >= 40, "{frames}");
    for direction in [Direction::Sent, Direction::Received] {
        let mut rest = BytesMut::from(&Record::bytes(&whole, direction)[..]);
        if direction == Direction::Sent {
            assert_eq!(rest.split_to(8), PROTOCOL_HEADER[..]);
        }
        while let Some(frame) = WireFrame::decode(&mut rest, u32::MAX).expect("it is a frame") {
            if frame.kind == FrameKind::Method {
                Method::decode(&frame.payload).expect("it is a method");
            }
        }
        assert!(rest.is_empty());
    }
    let is_whole = |seen: &Seen| match seen {
        Seen::Frame(_, _, kind, bytes) => match kind {
            Kind::ProtocolHeader => bytes[..] == PROTOCOL_HEADER,
            Kind::Frame(_) => {
                WireFrame::whole_len(bytes, u32::MAX).is_ok_and(|len| len == Some(bytes.len()))
            }
            _ => false,
        },
        Seen::Connected(number) => *number == 1,
        Seen::Disconnected(..) => false,
    };
    for piece in [1000, 7, 1] {
        let pieces = session(piece);
        assert!(pieces.iter().all(is_whole), "{piece}");
        for direction in [Direction::Sent, Direction::Received] {
            let (bytes, expected) =
                (Record::bytes(&pieces, direction), Record::bytes(&whole, direction));
            // The client's own properties and the steps are the same, so the frames are, too.
            assert!(bytes == expected, "{direction:?} {piece}: {} {}", bytes.len(), expected.len());
        }
    }
}

#[test]
fn each_transport_has_its_number_and_the_reason_of_its_end() {
    let record = Arc::new(Record::default());
    let mut rig = ClientRig::new(Config::default().tap(record.clone()));
    rig.recover();
    let _channel = rig.open_channel();
    rig.lose();
    rig.turn();
    let closing = rig.connection.clone();
    rig.run(closing.close()).expect("it is closed");
    rig.turn();
    let seen = record.take();
    let ends: Vec<_> = seen.iter().filter(|seen| !matches!(seen, Seen::Frame(..))).collect();
    let [
        Seen::Connected(1),
        Seen::Disconnected(1, Some(lost)),
        Seen::Connected(2),
        Seen::Disconnected(2, Some(closed)),
    ] = &ends[..]
    else {
        panic!("{ends:?}")
    };
    assert!(lost.contains("disconnected"), "{lost}");
    assert!(closed.contains("closed"), "{closed}");
    // Both transports begin with the header, and the second one declares everything again.
    for number in [1, 2] {
        let mut frames = seen.iter().filter_map(|seen| match seen {
            Seen::Frame(own, _, kind, _) if *own == number => Some(*kind),
            _ => None,
        });
        assert_eq!(frames.next(), Some(Kind::ProtocolHeader));
        assert!(frames.count() > 6);
    }
    drop(rig);
    assert_eq!(record.take(), []);
}

#[test]
fn a_transport_that_is_dropped_has_ended_for_no_reason() {
    let record = Arc::new(Record::default());
    let rig = ClientRig::new(Config::default().tap(record.clone()));
    record.take();
    drop(rig);
    assert_eq!(record.take(), [Seen::Disconnected(1, None)]);
}

/// A connection that has received these bytes.
fn hear(pieces: &[&[u8]]) -> (Vec<Seen>, String) {
    let (record, lines) = (Arc::new(Record::default()), Shared::default());
    let config = Config::default().tap(record.clone()).tap(Lines::new(lines.clone()));
    let (_connection, mut driver) = Driver::new(config, Instant::now());
    for piece in pieces {
        driver.input().extend_from_slice(piece);
        driver.received(Instant::now());
    }
    drop(driver);
    (record.take(), lines.to_string())
}

fn received(kind: Kind, bytes: &[u8]) -> Seen {
    Seen::Frame(1, Direction::Received, kind, bytes.to_vec())
}

#[test]
fn what_is_no_frame_is_shown_as_such() {
    let (begin, end) = (Seen::Connected(1), Seen::Disconnected(1, None));
    let http = b"HTTP/1.1 400 Bad Request\r\n\r\n";
    let (seen, lines) = hear(&[http, b"<html>"]);
    let both = [received(Kind::Unreadable, http), received(Kind::Unreadable, b"<html>")];
    assert_eq!(seen, [&[begin.clone()][..], &both, std::slice::from_ref(&end)].concat());
    assert!(
        lines.contains(
            r#" <- 28 bytes that are not AMQP 0-9-1: "HTTP/1.1 400 Bad Request\r\n\r\n""#
        ),
        "{lines}"
    );
    assert_eq!(lines.lines().count(), 4, "{lines}");

    for (pieces, kind) in [
        (vec![&b"AMQP\x00\x01\x00\x00"[..]], Kind::ProtocolHeader),
        (vec![b"AM", b"QP\x03\x01", b"\x00\x00"], Kind::ProtocolHeader),
        (vec![b"AMQ"], Kind::Cut),
        (vec![b"AMX"], Kind::Unreadable),
        // An unknown type, a size that no frame has, no end where it should be.
        (vec![b"\x07\x00\x00\x00\x00\x00\x00\xce"], Kind::Unreadable),
        (vec![b"\x01\x00\x00\xff\xff\xff\xff"], Kind::Unreadable),
        (vec![b"\x08\x00\x00\x00\x00\x00\x00\xcf"], Kind::Unreadable),
        (vec![b"\x08\x00\x00", b"\x00\x00\x00\x00", b"\xce"], Kind::Frame(FrameKind::Heartbeat)),
        (vec![b"\x01\x00\x00\x00\x00\x01\x00abc"], Kind::Cut),
    ] {
        let bytes = pieces.concat();
        let expected = [begin.clone(), received(kind, &bytes), end.clone()];
        assert_eq!(hear(&pieces).0, expected, "{}", bytes.escape_ascii());
    }
}

/// A server that asks for a second response, and accepts everything.
struct Challenger(Server);

impl Challenger {
    fn new(now: Instant) -> Self {
        let all = "PLAIN AMQPLAIN EXTERNAL DEMO CRAM-MD5";
        Self(Server::server(Arc::new(ServerConfig::default().mechanisms(all)), now))
    }
}

impl Peer for Challenger {
    fn connect(&mut self, now: Instant) {
        *self = Self::new(now);
    }

    fn handle_input(&mut self, now: Instant, input: &mut BytesMut) {
        self.0.handle_input(now, input).expect("the client follows the protocol");
    }

    fn reply(&mut self, _: Instant) {
        while let Some(event) = self.0.poll_event() {
            match event {
                Event::Server(ServerEvent::Login { mechanism, .. })
                    if matches!(&mechanism.to_string()[..], "DEMO" | "CRAM-MD5") =>
                {
                    self.0.challenge(LongStr::from("and then?".to_owned())).expect("in time");
                }
                Event::Server(ServerEvent::Login { .. } | ServerEvent::LoginResponse { .. }) => {
                    self.0.accept_login().expect("in time");
                }
                Event::Server(ServerEvent::Open { .. }) => self.0.accept_open().expect("in time"),
                _ => {}
            }
        }
    }

    fn poll_transmit(&mut self, now: Instant) -> Option<&mut Transmit> {
        self.0.poll_transmit(now)
    }

    fn handle_eof(&mut self, _: Instant) {}
}

/// A mechanism with two responses.
#[derive(Debug)]
struct Demo;

impl Mechanism for Demo {
    fn name(&self) -> &str {
        "DEMO"
    }

    fn begin(&self) -> Box<dyn SaslExchange> {
        Box::new(|_: Option<&[u8]>| Ok(Secret::from("hunter2")))
    }
}

fn mechanisms() -> Vec<Arc<dyn Mechanism>> {
    vec![
        Arc::new(Plain::new("user", "hunter2")),
        Arc::new(AmqPlain::new("user", "hunter2")),
        Arc::new(External::default()),
        Arc::new(Demo),
        #[cfg(feature = "cram-md5")]
        Arc::new(amqp_client_core::login::CramMd5::new("user", "hunter2")),
    ]
}

#[test]
fn no_tap_sees_a_secret() {
    for mechanism in mechanisms() {
        for piece in [1, 2, 3, 11, 100, usize::MAX] {
            let name = mechanism.name().to_owned();
            let (lines, pcap, all) = (Shared::default(), Shared::default(), Shared::default());
            let protocol = ClientConfig::default().mechanisms(vec![mechanism.clone()]);
            let config = Config::default()
                .protocol(protocol)
                .tap(Lines::new(lines.clone()).body_bytes(1000))
                .tap(Pcap::new(pcap.clone()))
                .tap(Everything(all.clone()));
            let now = Instant::now();
            let mut rig = ClientRig::connecting(config, Challenger::new(now), now);
            rig.piece = piece;
            let connection = rig.connection.clone();
            rig.run_by_steps(connection.ready()).expect("it logs in");
            let mut updating =
                pin!(connection.update_secret(Secret::from("hunter2, renewed"), "renewed"));
            assert!(
                poll_once(updating.as_mut()).is_none(),
                "the server replies to no such request"
            );
            rig.settle();
            drop(rig);
            for (what, output) in [("lines", &lines), ("pcap", &pcap), ("frames", &all)] {
                let output = output.to_string();
                // A proof of the password is a secret, too: it is 32 digits behind the name.
                let hidden = ["hunter2", "unter2", "user ", "LOGIN"];
                assert!(
                    !hidden.iter().any(|secret| output.contains(secret)),
                    "{what} {name} {piece}: {output}"
                );
                assert!(output.contains("********") || what == "lines", "{what} {name} {piece}");
            }
            let lines = lines.to_string();
            assert!(lines.contains(&format!("mechanism=\"{name}\"")), "{lines}");
            assert!(lines.contains("connection.update-secret new_secret="), "{lines}");
        }
    }
}

/// Writes all that a tap can get of a frame.
struct Everything(Shared);

impl Tap for Everything {
    fn frame(&self, frame: &Frame<'_>) {
        let mut out = self.0.clone();
        let _fits = out.write_all(frame.bytes);
        let (method, header) = (frame.method(), frame.content_header());
        let _fits =
            write!(out, "{frame:?} {method:?} {header:?} {}", frame.payload().escape_ascii());
    }
}

#[test]
fn a_secret_that_was_cut_is_hidden() {
    let start_ok = {
        let record = Arc::new(Record::default());
        let protocol = ClientConfig::default().login("user", "hunter2");
        let (_, mut driver) = Driver::new(Config::default().protocol(protocol), Instant::now());
        let mut server = Challenger::new(Instant::now());
        let now = Instant::now();
        driver.turn(now, std::task::Waker::noop());
        let mut input = BytesMut::from(driver.output().chunk());
        driver.written(now, input.len());
        server.handle_input(now, &mut input);
        let start = server.poll_transmit(now).expect("connection.start").chunk().to_vec();
        drop(record);
        start
    };
    // After connection.start, the transport takes the response only in part, and ends.
    for part in 1.. {
        let all = Shared::default();
        let protocol = ClientConfig::default().login("user", "hunter2");
        let config = Config::default().protocol(protocol).tap(Everything(all.clone()));
        let (_connection, mut driver) = Driver::new(config, Instant::now());
        let now = Instant::now();
        driver.turn(now, std::task::Waker::noop());
        driver.written(now, driver.output().remaining());
        driver.input().extend_from_slice(&start_ok);
        driver.received(now);
        driver.turn(now, std::task::Waker::noop());
        if part > driver.output().remaining() {
            assert!(part > 100);
            return;
        }
        driver.written(now, part);
        driver.eof(now);
        driver.turn(now, std::task::Waker::noop());
        let text = all.to_string();
        assert!(!text.contains("hu") && !text.contains("user"), "{part}: {text}");
    }
}

#[test]
fn a_tap_that_panics_harms_nothing() {
    struct Broken;
    impl Tap for Broken {
        fn connected(&self, _: &Transport) {
            panic!("this tap is broken");
        }
        fn frame(&self, _: &Frame<'_>) {
            panic!("this tap is broken");
        }
        fn flush(&self) {
            panic!("this tap is broken");
        }
        fn disconnected(&self, _: &Transport, _: Instant, _: Option<&ConnectionError>) {
            panic!("this tap is broken");
        }
    }
    let record = Arc::new(Record::default());
    let mut rig = ClientRig::new(Config::default().tap(Broken).tap(record.clone()).tap(Broken));
    rig.recover();
    let channel = rig.open_channel();
    rig.lose();
    rig.run(channel.queue_declare("q", QueueOptions::new())).expect("it is declared");
    assert!(record.take().len() > 20, "the other tap sees everything");
}

#[test]
fn a_tap_may_use_handles() {
    #[derive(Default)]
    struct Curious {
        channel: OnceLock<Channel>,
        used: AtomicBool,
    }
    impl Tap for Curious {
        fn frame(&self, _: &Frame<'_>) {
            let Some(channel) = self.channel.get() else { return };
            if !self.used.swap(true, Ordering::SeqCst) {
                drop(channel.queue_declare("log", QueueOptions::new()));
                assert!(channel.connection().health().losses == 0);
            }
        }
    }
    let (done, is_done) = std::sync::mpsc::channel();
    let thread = std::thread::spawn(move || {
        let tap = Arc::new(Curious::default());
        let mut rig = ClientRig::new(Config::default().tap(tap.clone()));
        let channel = rig.open_channel();
        assert!(tap.channel.set(channel.clone()).is_ok());
        rig.run(channel.queue_declare("q", QueueOptions::new())).expect("it is declared");
        assert!(tap.used.load(Ordering::SeqCst));
        let _gone = done.send(());
    });
    let waited = is_done.recv_timeout(std::time::Duration::from_secs(20));
    assert_ne!(waited, Err(std::sync::mpsc::RecvTimeoutError::Timeout), "it ran under the lock");
    thread.join().expect("it succeeds");
}

/// A writer that fails or panics after a number of bytes.
struct Failing {
    left: usize,
    panics: bool,
}

impl Write for Failing {
    fn write(&mut self, bytes: &[u8]) -> io::Result<usize> {
        assert!(self.left > 0 || !self.panics, "this writer is broken");
        if self.left == 0 {
            return Err(io::Error::from(io::ErrorKind::StorageFull));
        }
        let written = bytes.len().min(self.left);
        self.left -= written;
        Ok(written)
    }

    fn flush(&mut self) -> io::Result<()> {
        Ok(())
    }
}

#[test]
fn a_writer_that_fails_is_given_up() {
    for (left, panics) in [(0, false), (300, false), (2000, false), (0, true), (2000, true)] {
        let record = Arc::new(Record::default());
        let lines = Arc::new(Lines::new(Failing { left, panics }));
        let pcap = Arc::new(Pcap::new(Failing { left, panics }));
        let config = Config::default().tap(lines.clone()).tap(pcap.clone()).tap(record.clone());
        let mut rig = ClientRig::new(config);
        let channel = rig.open_channel();
        for _ in 0..20 {
            rig.run(channel.queue_declare("q", QueueOptions::new())).expect("it is declared");
        }
        let is_frame = |seen: &&Seen| matches!(seen, Seen::Frame(..));
        let frames = record.take().iter().filter(is_frame).count() as u64;
        for (dropped, error) in [(lines.dropped(), lines.error()), (pcap.dropped(), pcap.error())] {
            assert!(dropped > 0 && dropped <= frames, "{dropped} of {frames}");
            assert_eq!(dropped == frames, left == 0 || left == 300 && dropped == frames);
            let kind = error.map(|error| error.kind());
            assert_eq!(kind, (!panics).then_some(io::ErrorKind::StorageFull));
        }
    }
}
