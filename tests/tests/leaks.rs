//! What is opened and closed leaves nothing behind, however often.

mod joined;

use amqp_client_core::{Connection, ConsumeOptions, Message, QueueOptions};
use amqp_testkit::alloc::allocations;
use joined::World;

/// How often, if `LEAK_CYCLES` does not say otherwise.
const CYCLES: usize = 100_000;

/// What may be kept for later, whatever the number of cycles: memory to read into, for one.
const KEPT: i64 = 128 * 1024;

fn cycles() -> usize {
    std::env::var("LEAK_CYCLES").ok().and_then(|cycles| cycles.parse().ok()).unwrap_or(CYCLES)
}

/// Runs a cycle a thousand times, and then so often that what it leaves behind would show.
fn leaves_nothing(count: usize, mut cycle: impl FnMut()) {
    (0..1000).for_each(|_| cycle());
    let ((), counted) = allocations(|| (0..count).for_each(|_| cycle()));
    assert!(counted.kept_bytes < KEPT, "{} octets are kept", counted.kept_bytes);
}

#[test]
fn channels() {
    let (mut world, connection) = World::new();
    world.run(connection.ready()).expect("a connection");
    leaves_nothing(cycles(), || {
        let channel = world.run(connection.open_channel()).expect("a channel");
        match channel.id().get() % 2 {
            0 => drop(channel),
            _ => world.run(channel.close()).expect("it closes"),
        }
    });
    world.settle();
    assert_eq!(connection.health().channels, 0);
}

#[test]
fn consumers() {
    let (mut world, connection) = World::new();
    world.run(connection.ready()).expect("a connection");
    let channel = world.run(connection.open_channel()).expect("a channel");
    let queue = world.run(channel.queue_declare("q", QueueOptions::new())).expect("a queue");
    let message = Message::new("m");
    let mut count = 0;
    leaves_nothing(cycles(), || {
        world.run(queue.publish(&message)).expect("it is sent");
        let mut consumer = world.run(queue.consume(ConsumeOptions::new())).expect("a consumer");
        let delivery = world.run(consumer.next()).expect("not cancelled").expect("a delivery");
        delivery.ack().expect("it waits for it");
        count += 1;
        if count % 2 == 0 {
            world.run(consumer.cancel()).expect("it is cancelled");
        }
    });
}

#[test]
fn connections() {
    leaves_nothing(cycles() / 100, || {
        let (mut world, connection) = World::new();
        world.run(connection.ready()).expect("a connection");
        let channel = world.run(connection.open_channel()).expect("a channel");
        world.run(channel.queue_declare("q", QueueOptions::new())).expect("a queue");
        drop(channel);
        close(&mut world, &connection);
    });
}

fn close(world: &mut World, connection: &Connection) {
    world.run(connection.close()).expect("it closes");
}
