//! The cost of one message in the state machine: publishing, confirms, deliveries, acknowledgements.
//!
//! Both ends run in memory. Only one of them is timed; the output of the other is prepared
//! beforehand.
#![expect(missing_docs, reason = "criterion's macros write no documentation")]

#[path = "../tests/harness/mod.rs"]
mod harness;

use std::hint::black_box;
use std::time::Instant;

use amqp_proto::method::{BasicAck, BasicDeliver, ConfirmSelect, ConfirmSelectOk, Method};
use amqp_proto::{
    ChannelEvent, ChannelId, Connection, DeliveryTag, Event, Properties, RawProperties, Route,
};
use bytes::{Buf as _, Bytes, BytesMut};
use criterion::{BatchSize, Criterion, Throughput, criterion_group, criterion_main};
use harness::{Pair, short};

/// Messages published between two drains.
const BURST: u64 = 100;

/// Number of bytes that a loop reads at once.
const READ: usize = 64 * 1024;

const SMALL: [u8; 256] = [b'x'; 256];

/// As long as the tags that RabbitMQ makes up.
const CONSUMER: &str = "amq.ctag-0123456789abcdef012345";

fn publish(criterion: &mut Criterion) {
    let mut group = criterion.benchmark_group("publish");
    let (mut pair, id) = Pair::with_channel();
    let route = Route::new("exchange", "routing.key");
    let properties = properties();

    group.throughput(Throughput::Elements(BURST));
    group.bench_function("256 B", |bencher| {
        bencher.iter(|| {
            let mut channel = pair.on_client(id);
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
            let mut channel = pair.on_client(id);
            channel.publish(&route, &properties, black_box(&body)).unwrap();
            discard(&mut pair.client, pair.now);
        });
    });

    // Together just below the default of `transmit_high_water`.
    let medium = [b'x'; 1024];
    group.throughput(Throughput::Elements(200));
    group.bench_function("1 KiB in bursts of 200 KiB", |bencher| {
        bencher.iter(|| {
            let mut channel = pair.on_client(id);
            for _ in 0..200 {
                channel.publish(&route, &properties, black_box(&medium)).unwrap();
            }
            discard(&mut pair.client, pair.now);
        });
    });

    pair.call(id, ConfirmSelect::default(), ConfirmSelectOk {});
    group.throughput(Throughput::Elements(BURST));
    for (name, route) in
        [("256 B with confirms", route), ("256 B mandatory with confirms", route.mandatory())]
    {
        group.bench_function(name, |bencher| {
            bencher.iter(|| {
                let mut channel = pair.on_client(id);
                let mut last = None;
                for _ in 0..BURST {
                    last = channel.publish(&route, &properties, black_box(&SMALL)).unwrap();
                }
                discard(&mut pair.client, pair.now);
                let delivery_tag = last.unwrap().get();
                server_sends(&mut pair, id, BasicAck { delivery_tag, multiple: true });
            });
        });
    }
    group.finish();
}

fn consume(criterion: &mut Criterion) {
    let mut group = criterion.benchmark_group("consume");
    for (name, no_ack) in [("256 B without acknowledgement", true), ("256 B and ack", false)] {
        let mut pair = Pair::open();
        let id = pair.open_consumer(CONSUMER, no_ack);
        let mut reads = Reads::of(&mut pair, id);
        let Pair { mut client, now, .. } = pair;
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

/// The server sends a method, and the client has one event of it.
fn server_sends(pair: &mut Pair, id: ChannelId, method: impl Into<Method>) {
    pair.on_server(id).send(method).unwrap();
    pair.carry_down();
    assert!(pair.client.poll_event().is_some() && pair.client.poll_event().is_none());
}

/// Reads full of small deliveries, all into the same memory.
struct Reads {
    bytes: Vec<u8>,
    /// The positions of the delivery tags in them.
    tags_at: Vec<usize>,
    next_tag: u64,
    buffer: BytesMut,
}

impl Reads {
    fn of(pair: &mut Pair, id: ChannelId) -> Self {
        let deliver = BasicDeliver {
            consumer_tag: short(CONSUMER),
            exchange: short("exchange"),
            routing_key: short("routing.key"),
            ..BasicDeliver::default()
        };
        pair.on_server(id).send_content(deliver, &properties(), &SMALL).unwrap();
        let message = pair.server_output();
        // Behind the head of the frame, the ids and the consumer tag.
        let tag_at = 7 + 4 + 1 + CONSUMER.len();
        let count = READ / message.len();
        Self {
            bytes: message.repeat(count),
            tags_at: (0..count).map(|nth| nth * message.len() + tag_at).collect(),
            next_tag: 1,
            buffer: BytesMut::new(),
        }
    }

    fn next(&mut self) -> BytesMut {
        for at in &self.tags_at {
            self.bytes[*at..*at + 8].copy_from_slice(&self.next_tag.to_be_bytes());
            self.next_tag += 1;
        }
        self.buffer.extend_from_slice(&self.bytes);
        self.buffer.split()
    }
}

/// Treats all pending output as written.
fn discard(connection: &mut Connection, now: Instant) {
    while let Some(transmit) = connection.poll_transmit(now) {
        transmit.advance(black_box(transmit.chunk()).len());
    }
}

/// Returns the properties that most messages have.
fn properties() -> RawProperties {
    RawProperties::from(&Properties {
        content_type: Some(short("application/json")),
        delivery_mode: Some(2),
        ..Properties::default()
    })
}

criterion_group!(benches, publish, consume);
criterion_main!(benches);
