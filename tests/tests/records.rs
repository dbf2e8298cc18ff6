//! TLS over a transport that reads and writes little at a time, and that ends at any boundary between records.
//!
//! Both ends are state machines in memory: the client with its loop, and rustls with the broker behind it. The certificate is an
//! Ed25519 one, so that records have the same lengths in each run.

use std::cell::{Cell, RefCell};
use std::error::Error;
use std::future::Future;
use std::io::{self, ErrorKind, IoSlice, Read as _, Write as _};
use std::pin::{Pin, pin};
use std::rc::Rc;
use std::sync::Arc;
use std::task::{Context, Poll, Waker};
use std::time::{Duration, Instant};

use amqp_client_core::adapter::Secured;
use amqp_client_core::adapter::{Drive, Timer, Transport};
use amqp_client_core::proto::ConnectionError;
use amqp_client_core::tls::TlsOptions;
use amqp_client_core::{
    ClientConfig, Config, Connection, ConsumeOptions, PublisherOptions, QueueOptions,
};
use amqp_test_broker::{Engine, Options, SessionId};
use bytes::{Buf as _, Bytes, BytesMut};
use rcgen::{CertificateParams, KeyPair, PKCS_ED25519};
use rustls::pki_types::{CertificateDer, PrivateKeyDer, pem::PemObject};
use rustls::{ServerConfig, ServerConnection, crypto::ring};

type Outcome<T = ()> = Result<T, Box<dyn Error>>;

/// More than one record holds.
const BODY: usize = 40_000;

/// How often nothing may move before the test counts as hanging.
const IDLE: usize = 8;

/// One direction of a transport.
#[derive(Default)]
struct Way {
    /// Bytes in transit.
    bytes: BytesMut,
    /// How many bytes were sent, and where records ended among them.
    sent: usize,
    ends: Vec<usize>,
    /// The bytes of a record's header so far, and the rest of its payload.
    header: Vec<u8>,
    left: usize,
    /// After how many bytes the transport ends.
    cut: Option<usize>,
    /// How many bytes can be read before time passes, on a slow link.
    allowed: Option<usize>,
}

impl Way {
    fn is_cut(&self) -> bool {
        self.cut == Some(self.sent)
    }

    fn send(&mut self, bytes: &[u8]) {
        let most = self.cut.map_or(usize::MAX, |cut| cut - self.sent);
        let bytes = &bytes[..bytes.len().min(most)];
        self.bytes.extend_from_slice(bytes);
        for byte in bytes {
            self.sent += 1;
            if self.left > 0 {
                self.left -= 1;
            } else {
                self.header.push(*byte);
                if let [_, _, _, high, low] = self.header[..] {
                    self.left = usize::from(u16::from_be_bytes([high, low]));
                    self.header.clear();
                }
            }
            if self.left == 0 && self.header.is_empty() {
                self.ends.push(self.sent);
            }
        }
    }
}

#[derive(Default)]
struct Wires {
    up: Way,
    down: Way,
}

impl Wires {
    fn is_cut(&self) -> bool {
        self.up.is_cut() || self.down.is_cut()
    }
}

/// The client's end, which takes and yields that many bytes at a time.
#[derive(Clone)]
struct End {
    wires: Rc<RefCell<Wires>>,
    piece: usize,
}

impl Transport for End {
    fn poll_read(&mut self, _: &mut Context<'_>, input: &mut BytesMut) -> Poll<io::Result<usize>> {
        let mut wires = self.wires.borrow_mut();
        let room = input.capacity() - input.len();
        let allowed = wires.down.allowed.unwrap_or(usize::MAX);
        let count = wires.down.bytes.len().min(room).min(self.piece).min(allowed);
        wires.down.allowed = wires.down.allowed.map(|allowed| allowed - count);
        input.extend_from_slice(&wires.down.bytes.split_to(count));
        match count {
            0 if wires.is_cut() => Poll::Ready(Ok(0)),
            0 => Poll::Pending,
            count => Poll::Ready(Ok(count)),
        }
    }

    fn poll_write(
        &mut self,
        _: &mut Context<'_>,
        pieces: &[IoSlice<'_>],
    ) -> Poll<io::Result<usize>> {
        let mut wires = self.wires.borrow_mut();
        if wires.is_cut() {
            return Poll::Ready(Err(ErrorKind::BrokenPipe.into()));
        }
        let Some(piece) = pieces.iter().find(|piece| !piece.is_empty()) else {
            return Poll::Ready(Ok(0));
        };
        let count = piece.len().min(self.piece);
        wires.up.send(&piece[..count]);
        Poll::Ready(Ok(count))
    }

    fn poll_flush(&mut self, _: &mut Context<'_>) -> Poll<io::Result<()>> {
        Poll::Ready(Ok(()))
    }

    fn poll_close(&mut self, _: &mut Context<'_>) -> Poll<io::Result<()>> {
        Poll::Ready(Ok(()))
    }
}

/// Mostly time does not pass: no deadline hides that somebody waits for ever.
struct Clock(Rc<Cell<Instant>>);

impl Timer for Clock {
    fn now(&self) -> Instant {
        self.0.get()
    }

    fn poll_until(&mut self, _: &mut Context<'_>, at: Instant) -> Poll<()> {
        if at <= self.0.get() { Poll::Ready(()) } else { Poll::Pending }
    }
}

/// The broker behind its end of TLS.
struct Server {
    session: ServerConnection,
    engine: Engine,
    id: SessionId,
    input: BytesMut,
    now: Instant,
    over: bool,
}

impl Server {
    fn new(config: &Arc<ServerConfig>, now: Instant) -> Outcome<Self> {
        let mut engine = Engine::new(Options::new(), now);
        let id = engine.connect(now);
        let session = ServerConnection::new(config.clone())?;
        Ok(Self { session, engine, id, input: BytesMut::new(), now, over: false })
    }

    /// Reads the bytes that arrived and writes pending output, `piece` bytes at a time.
    fn turn(&mut self, wires: &mut Wires, piece: usize) -> Outcome {
        if self.over {
            return Ok(());
        }
        while wires.up.bytes.has_remaining() {
            let mut rest = &wires.up.bytes[..wires.up.bytes.len().min(piece)];
            let taken = self.session.read_tls(&mut rest)?;
            wires.up.bytes.advance(taken);
            self.session.process_new_packets()?;
            let mut plain = Vec::new();
            // It fails when there is nothing more at present.
            let _nothing_more = self.session.reader().read_to_end(&mut plain);
            self.input.extend_from_slice(&plain);
            self.engine.handle_input(self.id, self.now, &mut self.input);
        }
        if wires.is_cut() {
            self.over = true;
            self.engine.handle_eof(self.id, self.now);
            return Ok(());
        }
        while let Some(transmit) = self.engine.poll_transmit(self.id, self.now) {
            if !transmit.has_remaining() {
                break;
            }
            let count = self.session.writer().write(transmit.chunk())?;
            transmit.advance(count);
            self.send(wires)?;
        }
        if self.engine.is_over(self.id) {
            self.over = true;
            self.session.send_close_notify();
        }
        self.send(wires)
    }

    fn send(&mut self, wires: &mut Wires) -> Outcome {
        while self.session.wants_write() {
            let mut records = Vec::new();
            self.session.write_tls(&mut records)?;
            wires.down.send(&records);
        }
        Ok(())
    }
}

fn config() -> Outcome<Arc<ServerConfig>> {
    let key = KeyPair::generate_for(&PKCS_ED25519)?;
    let certificate = CertificateParams::new(vec!["localhost".to_owned()])?.self_signed(&key)?;
    let certificate = CertificateDer::from_pem_slice(certificate.pem().as_bytes())?;
    let key = PrivateKeyDer::from_pem_slice(key.serialize_pem().as_bytes())?;
    let config = ServerConfig::builder_with_provider(Arc::new(ring::default_provider()))
        .with_safe_default_protocol_versions()?
        .with_no_client_auth()
        .with_single_cert(vec![certificate], key)?;
    Ok(Arc::new(config))
}

/// What a user does: publishes a message of several records, gets it back, and closes.
async fn work(connection: Connection) -> Outcome {
    connection.ready().await?;
    let channel = connection.open_channel().await?;
    channel.queue_declare("queue", QueueOptions::new()).await?;
    let publisher = channel.default_exchange().publisher(PublisherOptions::new())?;
    let body = Bytes::from(vec![7; BODY]);
    publisher.publish("queue", body.clone()).await?.await?;
    let mut consumer = channel.basic_consume("queue", ConsumeOptions::new()).await?;
    let delivery = consumer.next().await.ok_or("the consumer ended")??;
    assert_eq!(*delivery.body(), body);
    delivery.ack()?;
    connection.close().await?;
    Ok(())
}

/// What came of a run: of the work, why the connection ended, and where records did.
struct Ran {
    worked: Outcome,
    reason: ConnectionError,
    ends: [Vec<usize>; 2],
}

/// Runs both ends until the connection is closed. `cut` is the direction and the number of bytes.
fn run(config: &Arc<ServerConfig>, piece: usize, cut: Option<(usize, usize)>) -> Outcome<Ran> {
    let wires = Rc::new(RefCell::new(Wires::default()));
    match cut {
        Some((0, after)) => wires.borrow_mut().up.cut = Some(after),
        Some((_, after)) => wires.borrow_mut().down.cut = Some(after),
        None => {}
    }
    let now = Instant::now();
    let end = End { wires: wires.clone(), piece };
    let secured = Secured::new(end, &TlsOptions::new().verify(false), "localhost")?;
    let (connection, drive) =
        Drive::new(secured, Clock(Rc::new(Cell::new(now))), Config::default());
    let mut drive = pin!(drive);
    let mut driven = false;
    let mut server = Server::new(config, now)?;
    let mut working: Pin<Box<dyn Future<Output = Outcome>>> = Box::pin(work(connection.clone()));
    let (mut worked, mut reason) = (None, None);
    let mut closed = pin!(connection.closed());
    let (mut idle, mut cx) = (0, Context::from_waker(Waker::noop()));
    loop {
        let before = moved(&wires.borrow());
        if worked.is_none() {
            if let Poll::Ready(outcome) = working.as_mut().poll(&mut cx) {
                worked = Some(outcome);
            }
        }
        driven = driven || drive.as_mut().poll(&mut cx).is_ready();
        server.turn(&mut wires.borrow_mut(), piece)?;
        if reason.is_none() {
            if let Poll::Ready(why) = closed.as_mut().poll(&mut cx) {
                reason = Some(why);
            }
        }
        if worked.is_some() && reason.is_some() {
            let wires = wires.borrow();
            let ends = [wires.up.ends.clone(), wires.down.ends.clone()];
            let (worked, reason) = (worked.ok_or("worked")?, reason.ok_or("closed")?);
            return Ok(Ran { worked, reason, ends });
        }
        idle = if moved(&wires.borrow()) == before { idle + 1 } else { 0 };
        if idle > IDLE {
            return Err(
                format!("pieces of {piece} bytes, cut at {cut:?}: it waits for ever").into()
            );
        }
    }
}

/// How far both directions have come.
fn moved(wires: &Wires) -> [usize; 4] {
    [wires.up.sent, wires.up.bytes.len(), wires.down.sent, wires.down.bytes.len()]
}

#[test]
fn records_may_arrive_and_leave_in_pieces_of_any_size() -> Outcome {
    let config = config()?;
    for piece in [1, 2, 5, 6, 100, 16_384, 16_389, usize::MAX] {
        let ran = run(&config, piece, None)?;
        ran.worked?;
        assert!(ran.reason.is_local_close(), "{}", ran.reason);
    }
    Ok(())
}

/// A transport that ends between two records, or within one, ends everything that waits, with an error of the transport: the
/// unfinished record is no violation of the protocol.
#[test]
fn a_transport_may_end_at_any_record() -> Outcome {
    let config = config()?;
    let whole = run(&config, usize::MAX, None)?;
    let mut cuts = 0;
    for (way, ends) in whole.ends.iter().enumerate() {
        // Behind the last record of a direction there is nothing to miss.
        for end in &ends[..ends.len() - 1] {
            for after in [end - 1, *end, end + 3, end + 6] {
                let ran = run(&config, usize::MAX, Some((way, after)))?;
                cuts += 1;
                let lost = matches!(
                    ran.reason,
                    ConnectionError::Eof
                        | ConnectionError::Transport { .. }
                        | ConnectionError::Login(_)
                );
                let closed = ran.reason.is_local_close() && ran.worked.is_ok();
                assert!(lost && ran.worked.is_err() || closed, "{way} {after}: {}", ran.reason);
            }
        }
    }
    assert!(cuts > 40, "only {cuts} cuts");
    Ok(())
}

/// What a slow link brings in a tenth of a second: it needs eight times the heartbeat's interval for a large record.
const SLOW: usize = 200;

/// Records are understood as a whole. While a part of one comes, the peer is not silent.
#[test]
fn a_record_may_take_longer_than_the_peer_may_be_silent() -> Outcome {
    let wires = Rc::new(RefCell::new(Wires::default()));
    let clock = Rc::new(Cell::new(Instant::now()));
    let end = End { wires: wires.clone(), piece: usize::MAX };
    let secured = Secured::new(end, &TlsOptions::new().verify(false), "localhost")?;
    let protocol = ClientConfig::default().heartbeat(Duration::from_secs(1));
    let own = Config::default().protocol(protocol);
    let (connection, mut drive) = Drive::new(secured, Clock(clock.clone()), own);
    let mut server = Server::new(&config()?, clock.get())?;
    let mut working = pin!(work(connection));
    let mut cx = Context::from_waker(Waker::noop());
    for _ in 0..1_000 {
        clock.set(clock.get() + Duration::from_millis(100));
        server.now = clock.get();
        wires.borrow_mut().down.allowed = Some(SLOW);
        let _over = Pin::new(&mut drive).poll(&mut cx);
        if let Poll::Ready(worked) = working.as_mut().poll(&mut cx) {
            return worked;
        }
        server.engine.handle_timeout(clock.get());
        server.turn(&mut wires.borrow_mut(), usize::MAX)?;
    }
    Err("it waits for ever".into())
}
