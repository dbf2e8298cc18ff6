//! What one message costs in the state machine: publishing, confirms, deliveries, acknowledgements.
//!
//! Both ends run in memory. Only one of them is timed; the output of the other is prepared
//! beforehand.
#![expect(clippy::disallowed_methods, reason = "a bench has a clock")]
#![expect(missing_docs, reason = "criterion's macros write no documentation")]

use std::hint::black_box;
use std::sync::Arc;
use std::time::Instant;

use amqp_proto::method::{
    BasicAck, BasicConsume, BasicConsumeOk, BasicDeliver, ConfirmSelect, ConfirmSelectOk, Method,
    Request,
};
use amqp_proto::{
    ChannelEvent, ChannelId, Connection, DeliveryTag, Event, Properties, RawProperties, Route,
    ServerEvent, ShortStr,
};
use bytes::{Buf as _, BufMut as _, Bytes, BytesMut};
use criterion::{BatchSize, Criterion, Throughput, criterion_group, criterion_main};

/// Messages published between two drains.
const BURST: u64 = 100;

/// What a loop reads at once.
const READ: usize = 64 * 1024;

const SMALL: [u8; 256] = [b'x'; 256];

/// As long as the tags that RabbitMQ makes up.
const CONSUMER: &str = "amq.ctag-0123456789abcdef012345";

fn publish(criterion: &mut Criterion) {
    let mut group = criterion.benchmark_group("publish");
    let mut pair = Pair::open();
    let route = Route::new("exchange", "routing.key");
    let properties = properties();

    group.throughput(Throughput::Elements(BURST));
    group.bench_function("256 B", |bencher| {
        bencher.iter(|| {
            let mut channel = pair.client.channel(pair.id).unwrap();
            for _ in 0..BURST {
                channel.publish(&route, &properties, black_box(&SMALL)).unwrap();
            }
            discard(&mut pair.client, pair.now);
        });
    });

    group.throughput(Throughput::Elements(1));
    let body = Bytes::from(vec![b'x'; 64 * 1024]);
    group.bench_function("64 KiB", |bencher| {
        bencher.iter(|| {
            let mut channel = pair.client.channel(pair.id).unwrap();
            channel.publish(&route, &properties, black_box(&body)).unwrap();
            discard(&mut pair.client, pair.now);
        });
    });

    // Together just below the default of `transmit_high_water`.
    let medium = [b'x'; 1024];
    group.throughput(Throughput::Elements(200));
    group.bench_function("1 KiB in bursts of 200 KiB", |bencher| {
        bencher.iter(|| {
            let mut channel = pair.client.channel(pair.id).unwrap();
            for _ in 0..200 {
                channel.publish(&route, &properties, black_box(&medium)).unwrap();
            }
            discard(&mut pair.client, pair.now);
        });
    });

    pair.request(ConfirmSelect::default(), ConfirmSelectOk {});
    group.throughput(Throughput::Elements(BURST));
    for (name, route) in
        [("256 B with confirms", route), ("256 B mandatory with confirms", route.mandatory())]
    {
        group.bench_function(name, |bencher| {
            bencher.iter(|| {
                let mut channel = pair.client.channel(pair.id).unwrap();
                let mut last = None;
                for _ in 0..BURST {
                    last = channel.publish(&route, &properties, black_box(&SMALL)).unwrap();
                }
                discard(&mut pair.client, pair.now);
                let delivery_tag = last.unwrap().get();
                pair.server_sends(BasicAck { delivery_tag, multiple: true });
                assert_eq!(pair.drop_events(), 1);
            });
        });
    }
    group.finish();
}

fn consume(criterion: &mut Criterion) {
    let mut group = criterion.benchmark_group("consume");
    for (name, no_ack) in [("256 B without acknowledgement", true), ("256 B and ack", false)] {
        let mut pair = Pair::open();
        pair.consume(no_ack);
        let mut reads = Reads::of(&mut pair);
        let Pair { mut client, id, now, .. } = pair;
        group.throughput(Throughput::Elements(reads.tags_at.len() as u64));
        group.bench_function(name, |bencher| {
            bencher.iter_batched(
                || reads.next(),
                |mut read| {
                    client.handle_input(now, &mut read).unwrap();
                    while let Some(event) = client.poll_event() {
                        let delivery = delivery(&event);
                        if !no_ack {
                            client.channel(id).unwrap().ack(delivery).unwrap();
                        }
                    }
                    discard(&mut client, now);
                },
                BatchSize::PerIteration,
            );
        });
    }
    group.finish();
}

fn delivery(event: &Event) -> DeliveryTag {
    match event {
        Event::Channel(_, ChannelEvent::Delivery { delivery, .. }) => delivery.delivery_tag(),
        other => panic!("{other:?}"),
    }
}

/// Two ends with an open channel between them.
struct Pair {
    client: Connection,
    server: Connection,
    id: ChannelId,
    now: Instant,
}

impl Pair {
    fn open() -> Self {
        let now = Instant::now();
        let mut client = Connection::client(Arc::default(), now);
        let mut server = Connection::server(Arc::default(), now);
        while !client.is_open() {
            carry(&mut client, &mut server, now);
            while let Some(event) = server.poll_event() {
                match event {
                    Event::Server(ServerEvent::Login { .. }) => server.accept_login().unwrap(),
                    Event::Server(ServerEvent::Open { .. }) => server.accept_open().unwrap(),
                    _ => {}
                }
            }
            carry(&mut server, &mut client, now);
        }
        let id = client.open_channel().unwrap();
        let mut pair = Self { client, server, id, now };
        carry(&mut pair.client, &mut pair.server, now);
        carry(&mut pair.server, &mut pair.client, now);
        pair.drop_events();
        pair
    }

    /// Sends a request and its reply.
    fn request<R: Request>(&mut self, request: R, answer: impl Into<Method>) {
        self.client.channel(self.id).unwrap().request(request).unwrap();
        carry(&mut self.client, &mut self.server, self.now);
        self.server_sends(answer);
        assert_eq!(self.drop_events(), 1);
    }

    fn server_sends(&mut self, method: impl Into<Method>) {
        self.server.channel(self.id).unwrap().send(method).unwrap();
        carry(&mut self.server, &mut self.client, self.now);
    }

    /// Starts a consumer.
    fn consume(&mut self, no_ack: bool) {
        let consumer_tag = ShortStr::try_from(CONSUMER).unwrap();
        let consume =
            BasicConsume { consumer_tag: consumer_tag.clone(), no_ack, ..Default::default() };
        self.request(consume, BasicConsumeOk { consumer_tag });
    }

    /// Drops the client's events and returns how many there were.
    fn drop_events(&mut self) -> usize {
        std::iter::from_fn(|| self.client.poll_event()).count()
    }
}

/// Reads full of small deliveries, all into the same memory.
struct Reads {
    octets: Vec<u8>,
    /// Where in them the delivery tags are.
    tags_at: Vec<usize>,
    next_tag: u64,
    buffer: BytesMut,
}

impl Reads {
    fn of(pair: &mut Pair) -> Self {
        let deliver = BasicDeliver {
            consumer_tag: ShortStr::try_from(CONSUMER).unwrap(),
            exchange: ShortStr::try_from("exchange").unwrap(),
            routing_key: ShortStr::try_from("routing.key").unwrap(),
            ..BasicDeliver::default()
        };
        let mut server = pair.server.channel(pair.id).unwrap();
        server.send_content(deliver, &properties(), &SMALL).unwrap();
        let message = pair.server.poll_transmit(pair.now).unwrap();
        let message = message.copy_to_bytes(message.remaining());
        // Behind the head of the frame, the ids and the consumer tag.
        let tag_at = 7 + 4 + 1 + CONSUMER.len();
        let count = READ / message.len();
        Self {
            octets: message.repeat(count),
            tags_at: (0..count).map(|nth| nth * message.len() + tag_at).collect(),
            next_tag: 1,
            buffer: BytesMut::new(),
        }
    }

    fn next(&mut self) -> BytesMut {
        for at in &self.tags_at {
            self.octets[*at..*at + 8].copy_from_slice(&self.next_tag.to_be_bytes());
            self.next_tag += 1;
        }
        self.buffer.extend_from_slice(&self.octets);
        self.buffer.split()
    }
}

/// Treats all pending output as written.
fn discard(connection: &mut Connection, now: Instant) {
    while let Some(transmit) = connection.poll_transmit(now) {
        transmit.advance(black_box(transmit.chunk()).len());
    }
}

fn carry(from: &mut Connection, to: &mut Connection, now: Instant) {
    let mut wire = BytesMut::new();
    while let Some(transmit) = from.poll_transmit(now) {
        wire.put(transmit);
    }
    to.handle_input(now, &mut wire).unwrap();
}

/// Returns the properties that most messages have.
fn properties() -> RawProperties {
    RawProperties::from(&Properties {
        content_type: ShortStr::try_from("application/json").ok(),
        delivery_mode: Some(2),
        ..Properties::default()
    })
}

criterion_group!(benches, publish, consume);
criterion_main!(benches);
