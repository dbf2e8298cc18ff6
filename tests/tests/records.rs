//! TLS over a transport that reads and writes little at a time, and that ends at any boundary between records.
//!
//! Both ends are state machines in memory: the client with its task, and rustls with the broker behind it.

mod harness;

use std::error::Error;
use std::future::Future;
use std::pin::{Pin, pin};
use std::sync::Arc;
use std::task::{Context, Poll, Waker};
use std::time::{Duration, Instant};

use amqp_client_core::adapter::{Drive, Secured, Timer as _};
use amqp_client_core::proto::ConnectionError;
use amqp_client_core::tls::TlsOptions;
use amqp_client_core::{
    ClientConfig, Config, Connection, ConsumeOptions, PublisherOptions, QueueOptions,
};
use bytes::{Buf as _, Bytes, BytesMut};
use harness::{Broker, Clock, Peer as _, TlsEnd, Wire, Wires, localhost};
use rustls::ServerConfig;

type Outcome<T = ()> = Result<T, Box<dyn Error>>;

/// More than one record holds.
const BODY: usize = 40_000;

/// Number of turns without progress after which the test counts as hanging.
const IDLE: usize = 8;

/// The ends of records in the bytes that were sent.
fn record_ends(mut bytes: &[u8]) -> Vec<usize> {
    let (mut ends, mut at) = (Vec::new(), 0);
    while let [_, _, _, high, low, rest @ ..] = bytes {
        let length = usize::from(u16::from_be_bytes([*high, *low]));
        let Some(more) = rest.get(length..) else { break };
        at += 5 + length;
        ends.push(at);
        bytes = more;
    }
    ends
}

/// The broker behind its end of TLS.
struct Server {
    session: TlsEnd,
    broker: Broker,
    input: BytesMut,
    over: bool,
}

impl Server {
    fn new(config: &Arc<ServerConfig>, now: Instant) -> Outcome<Self> {
        let session = TlsEnd::new(config.clone())?;
        Ok(Self { session, broker: Broker::new(now), input: BytesMut::new(), over: false })
    }

    /// Reads the bytes that arrived, piece by piece, and writes pending output.
    fn turn(&mut self, wires: &mut Wires, now: Instant) -> Outcome {
        if self.over {
            return Ok(());
        }
        while let Some(plain) = self.session.receive(wires)? {
            self.input.extend_from_slice(&plain);
            self.broker.handle_input(now, &mut self.input);
        }
        if wires.is_over() {
            self.over = true;
            self.broker.handle_eof(now);
            return Ok(());
        }
        while let Some(transmit) = self.broker.poll_transmit(now) {
            if !transmit.has_remaining() {
                break;
            }
            let count = self.session.send(wires, transmit.chunk())?;
            transmit.advance(count);
        }
        if self.broker.is_over() {
            self.over = true;
            self.session.end(wires)?;
        }
        Ok(self.session.flush(wires)?)
    }
}

/// The user publishes a message of several records, gets it delivered, and closes.
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

/// The results of a run: the result of the work, why the connection ended, and where TLS records ended.
struct Ran {
    worked: Outcome,
    reason: ConnectionError,
    ends: [Vec<usize>; 2],
}

/// Runs both ends until the connection is closed. `cut` is the direction and the number of bytes.
fn run(config: &Arc<ServerConfig>, piece: usize, cut: Option<(usize, usize)>) -> Outcome<Ran> {
    let wire = Wire::default();
    wire.borrow_mut().piece = piece;
    match cut {
        Some((0, after)) => wire.borrow_mut().up.cut = Some(after),
        Some((_, after)) => wire.borrow_mut().down.cut = Some(after),
        None => {}
    }
    // Time does not pass: no deadline hides a wait that never ends.
    let now = Instant::now();
    let secured = Secured::new(wire.clone(), &TlsOptions::new().verify(false), "localhost")?;
    let (connection, drive) = Drive::new(secured, Clock::at(now), Config::default());
    let mut drive = pin!(drive);
    let mut driven = false;
    let mut server = Server::new(config, now)?;
    let mut working: Pin<Box<dyn Future<Output = Outcome>>> = Box::pin(work(connection.clone()));
    let (mut worked, mut reason) = (None, None);
    let mut closed = pin!(connection.closed());
    let (mut idle, mut cx) = (0, Context::from_waker(Waker::noop()));
    loop {
        let before = moved(&wire.borrow_mut());
        if worked.is_none() {
            if let Poll::Ready(outcome) = working.as_mut().poll(&mut cx) {
                worked = Some(outcome);
            }
        }
        driven = driven || drive.as_mut().poll(&mut cx).is_ready();
        server.turn(&mut wire.borrow_mut(), now)?;
        if reason.is_none() {
            if let Poll::Ready(why) = closed.as_mut().poll(&mut cx) {
                reason = Some(why);
            }
        }
        if worked.is_some() && reason.is_some() {
            let wires = wire.borrow_mut();
            let ends = [record_ends(&wires.up.sent), record_ends(&wires.down.sent)];
            let (worked, reason) = (worked.ok_or("worked")?, reason.ok_or("closed")?);
            return Ok(Ran { worked, reason, ends });
        }
        idle = if moved(&wire.borrow_mut()) == before { idle + 1 } else { 0 };
        if idle > IDLE {
            return Err(
                format!("pieces of {piece} bytes, cut at {cut:?}: it waits for ever").into()
            );
        }
    }
}

/// The progress of both directions.
fn moved(wires: &Wires) -> [(usize, usize); 2] {
    [&wires.up, &wires.down].map(|way| (way.sent.len(), way.bytes.len()))
}

#[test]
fn records_may_arrive_and_leave_in_pieces_of_any_size() -> Outcome {
    let config = localhost()?;
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
    let config = localhost()?;
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

/// Bytes that a slow link carries in a tenth of a second. A large record takes eight heartbeat intervals.
const SLOW: usize = 200;

/// Records are understood as a whole. While a part of one comes, the peer is not silent.
#[test]
fn a_record_may_take_longer_than_the_peer_may_be_silent() -> Outcome {
    let (wire, clock) = (Wire::default(), Clock::at(Instant::now()));
    let secured = Secured::new(wire.clone(), &TlsOptions::new().verify(false), "localhost")?;
    let protocol = ClientConfig::default().heartbeat(Duration::from_secs(1));
    let own = Config::default().protocol(protocol);
    let (connection, mut drive) = Drive::new(secured, clock.clone(), own);
    let mut server = Server::new(&localhost()?, clock.now())?;
    let mut working = pin!(work(connection));
    let mut cx = Context::from_waker(Waker::noop());
    for _ in 0..1_000 {
        clock.advance(Duration::from_millis(100));
        wire.borrow_mut().allowed = SLOW;
        let _over = Pin::new(&mut drive).poll(&mut cx);
        if let Poll::Ready(worked) = working.as_mut().poll(&mut cx) {
            return worked;
        }
        server.broker.reply(clock.now());
        server.turn(&mut wire.borrow_mut(), clock.now())?;
    }
    Err("it waits for ever".into())
}
