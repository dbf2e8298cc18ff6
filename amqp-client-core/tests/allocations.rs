//! Allocations of the handles once they are warm.

mod harness;

use std::pin::pin;

use amqp_client_core::proto::{RawProperties, Route};
use amqp_client_core::{Config, PublisherOptions};
use harness::ClientRig;

const BODY: [u8; 256] = [7; 256];

fn allocations(work: impl FnOnce()) -> u64 {
    allocation_counter::measure(work).count_total
}

#[test]
fn publishing_allocates_nothing() {
    let mut rig = ClientRig::new(Config::default());
    let channel = rig.open_channel();
    let route = Route::new("exchange", "routing.key");
    let none = RawProperties::EMPTY;
    let mut round = || {
        for _ in 0..100 {
            rig.run(channel.basic_publish(&route, &none, &BODY)).expect("it is sent");
        }
        rig.write(false);
    };
    round();
    round();
    assert_eq!(allocations(|| (0..100).for_each(|_| round())), 0);
}

/// The server's end allocates for each message that it receives, so the two are counted separately: the client's share is what is
/// allocated between the server's turns.
#[test]
fn a_confirmed_publish_allocates_nothing() {
    let mut rig = ClientRig::new(Config::default());
    let channel = rig.open_channel();
    let options = PublisherOptions::new().window(10_000, usize::MAX);
    let publisher =
        channel.exchange("exchange").expect("short").publisher(options).expect("it is open");
    let mut confirmations = Vec::with_capacity(100);
    let mut client = 0;
    for warm in [false, true] {
        for _ in 0..100 {
            let count = allocations(|| {
                for _ in 0..100 {
                    confirmations.push(rig.run(publisher.publish("key", &BODY)).expect("sent"));
                }
            });
            rig.turn();
            let awaiting = allocations(|| {
                for confirmation in confirmations.drain(..) {
                    rig.run(confirmation).expect("it is confirmed");
                }
            });
            client += if warm { count + awaiting } else { 0 };
        }
    }
    assert_eq!(client, 0);
}

#[test]
fn taking_and_acknowledging_deliveries_allocates_next_to_nothing() {
    let mut rig = ClientRig::new(Config::default());
    let channel = rig.open_channel();
    let mut consumer = rig.consume(&channel);
    let tag = consumer.tag().clone();
    let mut counted = 0;
    for round in 0..200 {
        rig.peer.deliver(channel.id(), &tag, 100, &BODY);
        let count = allocations(|| {
            rig.read();
            while let Some(delivery) = consumer.try_next() {
                assert_eq!(delivery.body(), BODY);
                delivery.ack().expect("it waits");
            }
            rig.write(false);
        });
        counted += if round < 10 { 0 } else { count };
    }
    // 19,000 messages.
    assert_eq!(counted, 0);
}

/// Returns the bytes that stay allocated.
fn kept_bytes(work: impl FnOnce()) -> i64 {
    allocation_counter::measure(work).bytes_current
}

/// A server with 10,000 channels has most of them for later. What only some channels need is made at its first use.
#[test]
fn an_idle_channel_takes_little_memory() {
    const COUNT: u8 = 200;
    let mut rig = ClientRig::new(Config::default());
    let mut channels = Vec::with_capacity(usize::from(COUNT));
    let bytes = kept_bytes(|| {
        for number in 1..=COUNT {
            let mut opening = pin!(rig.connection.open_channel());
            assert!(rig.poll(opening.as_mut()).is_none());
            // The peer is a part of this process, and would count. So the test itself writes the reply, `channel.open-ok`.
            rig.write(false);
            rig.hear(&[1, 0, number, 0, 0, 0, 8, 0, 20, 0, 11, 0, 0, 0, 0, 0xce]);
            rig.write(false);
            channels.push(rig.poll(opening).expect("it is open").expect("it is open"));
        }
    });
    let bytes = bytes / i64::from(COUNT);
    assert!(bytes <= 1400, "{bytes} bytes");
}
