//! `instructions SCENARIO COUNT`: repeats a scenario, for `tests/instructions` to count the processor's instructions.
//! `instructions SCENARIO COUNT lines|pcap` does so with a tap.
//!
//! The transport is memory. The work of the other end is done before, or left out.

#[path = "../tests/harness/mod.rs"]
mod harness;

use std::io::sink;

use amqp_client_core::proto::frame::FRAME_MIN_SIZE;
use amqp_client_core::proto::{ClientConfig, Limits, RawProperties, Route};
use amqp_client_core::tap::{Lines, Pcap};
use amqp_client_core::{Channel, Config, ConsumeOptions, Consumer, PublisherOptions, QueueOptions};
use harness::ClientRig;

/// Number of messages before it is the other side's turn.
const BATCH: usize = 100;
const BODY: [u8; 256] = [7; 256];
/// A body that takes one frame more than that, of the smallest size.
const PARTS: usize = 3;
const FRAME_MIN: usize = FRAME_MIN_SIZE as usize;

fn main() {
    let args: Vec<String> = std::env::args().collect();
    let [_, scenario, count, tap @ ..] = &args[..] else {
        // `cargo bench` runs every bench, with arguments of its own.
        return println!("usage: instructions SCENARIO COUNT");
    };
    let Ok(count) = count.parse::<usize>() else { return };
    let mut config = Config::default();
    if let "parts" | "chunks" = scenario.as_str() {
        let limits = Limits::default().frame_max(FRAME_MIN_SIZE).body_chunks(scenario == "chunks");
        config = config.protocol(ClientConfig::default().limits(limits));
    }
    match tap.first().map(String::as_str) {
        Some("lines") => config = config.tap(Lines::new(sink())),
        Some("pcap") => config = config.tap(Pcap::new(sink())),
        _ => {}
    }
    let mut rig = ClientRig::new(config);
    let channel = rig.open_channel();
    match scenario.as_str() {
        "publish" | "prepared" | "batch" => publish(&mut rig, &channel, scenario, count / BATCH),
        "confirm" => confirm(&mut rig, &channel, count / BATCH),
        "consume" => consume(&mut rig, &channel, &BODY, true, count / BATCH),
        "acknowledge" => consume(&mut rig, &channel, &BODY, false, count / BATCH),
        "parts" | "chunks" => {
            consume(&mut rig, &channel, &[7; PARTS * FRAME_MIN], true, count / BATCH)
        }
        "declare" => {
            for _ in 0..count {
                rig.run(channel.queue_declare("queue", QueueOptions::new())).expect("declared");
            }
        }
        other => panic!("no scenario is called {other}"),
    }
}

fn publish(rig: &mut ClientRig, channel: &Channel, how: &str, batches: usize) {
    let (route, none) = (Route::new("exchange", "routing.key"), RawProperties::EMPTY);
    let prepared = channel.prepare(&route, &none).expect("short");
    for _ in 0..batches {
        match how {
            "batch" => rig.run(channel.basic_publish_all(&prepared, [&BODY; BATCH])).expect("sent"),
            "prepared" => (0..BATCH).for_each(|_| {
                rig.run(channel.basic_publish_prepared(&prepared, &BODY)).expect("sent");
            }),
            _ => (0..BATCH).for_each(|_| {
                rig.run(channel.basic_publish(&route, &none, &BODY)).expect("sent");
            }),
        }
        rig.write(false);
    }
}

fn confirm(rig: &mut ClientRig, channel: &Channel, batches: usize) {
    let publisher = channel.exchange("exchange").expect("short");
    let publisher = publisher.publisher(PublisherOptions::new()).expect("it is open");
    let mut confirmations = Vec::with_capacity(BATCH);
    for _ in 0..batches {
        for _ in 0..BATCH {
            confirmations.push(rig.run(publisher.publish("key", &BODY)).expect("sent"));
        }
        rig.turn();
        for confirmation in confirmations.drain(..) {
            rig.run(confirmation).expect("confirmed");
        }
    }
}

fn consume(rig: &mut ClientRig, channel: &Channel, body: &[u8], no_ack: bool, batches: usize) {
    let consuming = channel.basic_consume("queue", ConsumeOptions::new().no_ack(no_ack));
    let mut consumer = rig.run(consuming).expect("a consumer");
    let mut deliveries = rig.deliveries(&consumer, BATCH, body);
    for _ in 0..batches {
        rig.hear(deliveries.again());
        take(&mut consumer, body.len());
        rig.write(false);
    }
}

fn take(consumer: &mut Consumer, body_len: usize) {
    let mut taken = 0;
    while let Some(delivery) = consumer.try_next() {
        taken += delivery.body().len();
        delivery.ack().expect("it waits");
    }
    assert_eq!(taken, BATCH * body_len);
}
