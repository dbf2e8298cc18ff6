//! The cost of a message through the handles, with memory as the transport.

#![allow(missing_docs, reason = "criterion's macros make functions")]

#[path = "../tests/harness/mod.rs"]
mod harness;

use amqp_client_core::proto::{RawProperties, Route};
use amqp_client_core::{Config, PublisherOptions};
use criterion::{Criterion, Throughput, criterion_group, criterion_main};
use harness::ClientRig;

const BATCH: u64 = 100;
const BODY: [u8; 256] = [7; 256];

fn publish(criterion: &mut Criterion) {
    let mut rig = ClientRig::new(Config::default());
    let channel = rig.open_channel();
    let route = Route::new("exchange", "routing.key");
    let none = RawProperties::EMPTY;
    let mut group = criterion.benchmark_group("handles");
    group.throughput(Throughput::Elements(BATCH));
    group.bench_function("publish 256 B into a sink", |bencher| {
        bencher.iter(|| {
            for _ in 0..BATCH {
                rig.run(channel.basic_publish(&route, &none, &BODY)).expect("it is sent");
            }
            rig.write(false)
        });
    });
    group.finish();
}

fn confirmed(criterion: &mut Criterion) {
    let mut rig = ClientRig::new(Config::default());
    let channel = rig.open_channel();
    let options = PublisherOptions::new().window(10_000, usize::MAX);
    let exchange = channel.exchange("exchange").expect("short");
    let publisher = exchange.publisher(options).expect("it is open");
    let mut confirmations = Vec::with_capacity(100);
    let mut group = criterion.benchmark_group("handles");
    group.throughput(Throughput::Elements(BATCH));
    group.bench_function("publish 256 B and await the confirm, server included", |bencher| {
        bencher.iter(|| {
            for _ in 0..BATCH {
                confirmations.push(rig.run(publisher.publish("key", &BODY)).expect("it is sent"));
            }
            rig.turn();
            for confirmation in confirmations.drain(..) {
                rig.run(confirmation).expect("it is confirmed");
            }
        });
    });
    group.finish();
}

fn consume(criterion: &mut Criterion) {
    let mut rig = ClientRig::new(Config::default());
    let channel = rig.open_channel();
    let mut consumer = rig.consume(&channel);
    let tag = consumer.tag().clone();
    let mut group = criterion.benchmark_group("handles");
    group.throughput(Throughput::Elements(BATCH));
    group.bench_function("take and acknowledge 256 B, server's encoding included", |bencher| {
        bencher.iter(|| {
            rig.peer.deliver(channel.id(), &tag, BATCH, &BODY);
            rig.read();
            while let Some(delivery) = consumer.try_next() {
                delivery.ack().expect("it waits");
            }
            rig.write(false)
        });
    });
    group.finish();
}

criterion_group!(benches, publish, confirmed, consume);
criterion_main!(benches);
