//! Opening and closing leaves nothing behind, however often.

mod harness;

use std::future::Future;
use std::pin::pin;
use std::sync::Arc;
use std::task::{Context, Wake, Waker};

use amqp_client_core::{Connection, ConsumeOptions, Message, PublisherOptions, QueueOptions};
use amqp_testkit::alloc::allocations;
use harness::{Broker, ClientRig};

/// Number of cycles, unless `LEAK_CYCLES` is set.
const CYCLES: usize = 100_000;

/// The memory that may be kept, whatever the number of cycles, such as read buffers.
const KEPT: i64 = 128 * 1024;

fn cycles() -> usize {
    std::env::var("LEAK_CYCLES").ok().and_then(|cycles| cycles.parse().ok()).unwrap_or(CYCLES)
}

/// Runs a cycle a thousand times, and then so often that a leak would show.
fn leaves_nothing(count: usize, mut cycle: impl FnMut()) {
    (0..1000).for_each(|_| cycle());
    let ((), counted) = allocations(|| (0..count).for_each(|_| cycle()));
    assert!(counted.kept_bytes < KEPT, "{} bytes are kept", counted.kept_bytes);
}

#[test]
fn channels() {
    let (mut rig, connection) = ClientRig::joined();
    rig.run_by_steps(connection.ready()).expect("a connection");
    leaves_nothing(cycles(), || {
        let channel = rig.run_by_steps(connection.open_channel()).expect("a channel");
        match channel.id().get() % 2 {
            0 => drop(channel),
            _ => rig.run_by_steps(channel.close()).expect("it closes"),
        }
    });
    rig.settle();
    assert_eq!(connection.health().channels, 0);
}

#[test]
fn consumers() {
    let (mut rig, connection) = ClientRig::joined();
    rig.run_by_steps(connection.ready()).expect("a connection");
    let channel = rig.run_by_steps(connection.open_channel()).expect("a channel");
    let queue = rig.run_by_steps(channel.queue_declare("q", QueueOptions::new())).expect("a queue");
    let message = Message::new("m");
    let mut count = 0;
    leaves_nothing(cycles(), || {
        rig.run_by_steps(queue.publish(&message)).expect("it is sent");
        let mut consumer =
            rig.run_by_steps(queue.consume(ConsumeOptions::new())).expect("a consumer");
        let delivery =
            rig.run_by_steps(consumer.next()).expect("not cancelled").expect("a delivery");
        delivery.ack().expect("it waits for it");
        count += 1;
        if count % 2 == 0 {
            rig.run_by_steps(consumer.cancel()).expect("it is cancelled");
        }
    });
}

#[test]
fn connections() {
    leaves_nothing(cycles() / 100, || {
        let (mut rig, connection) = ClientRig::joined();
        rig.run_by_steps(connection.ready()).expect("a connection");
        let channel = rig.run_by_steps(connection.open_channel()).expect("a channel");
        rig.run_by_steps(channel.queue_declare("q", QueueOptions::new())).expect("a queue");
        drop(channel);
        close(&mut rig, &connection);
    });
}

/// A task of its own for each future, as those of a runtime have: it keeps some memory as long as somebody keeps its waker.
struct Task([u8; 256]);

impl Wake for Task {
    fn wake(self: Arc<Self>) {
        assert_eq!(self.0, [7; 256]);
    }
}

/// Polls a future once, which has to wait, and drops it.
fn poll_and_drop<T>(future: impl Future<Output = T>) {
    let waker = Waker::from(Arc::new(Task([7; 256])));
    let polled = pin!(future).poll(&mut Context::from_waker(&waker));
    assert!(polled.is_pending());
}

/// As `select!` does in a loop, with something else that is ready.
#[test]
fn futures_that_are_dropped_while_they_wait() {
    let (mut rig, connection) = ClientRig::joined();
    rig.run_by_steps(connection.ready()).expect("a connection");
    let channel = rig.run_by_steps(connection.open_channel()).expect("a channel");
    let queue = rig.run_by_steps(channel.queue_declare("q", QueueOptions::new())).expect("a queue");
    let default = channel.exchange("").expect("it is short");
    let publisher = default.publisher(PublisherOptions::new()).expect("it is open");
    let window = PublisherOptions::new().window(1, usize::MAX);
    let narrow = default.publisher(window).expect("it is open");
    let message = Message::new("m");
    let mut events = (connection.events(), channel.events());
    rig.settle();
    // This one stays all the time.
    let mut closed = pin!(connection.closed());
    assert!(closed.as_mut().poll(&mut Context::from_waker(Waker::noop())).is_pending());
    let first = rig.run_by_steps(narrow.publish("q", "first")).expect("it is sent");
    // From here on nothing passes, though the driver has its turns.
    let piece = std::mem::replace(&mut rig.piece, 0);
    leaves_nothing(cycles() / 10, || {
        poll_and_drop(connection.closed());
        poll_and_drop(channel.closed());
        poll_and_drop(narrow.publish("q", "another"));
        poll_and_drop(publisher.wait_for_confirms());
        poll_and_drop(events.0.next());
        poll_and_drop(events.1.next());
        rig.step();
    });
    rig.piece = piece;
    rig.run_by_steps(first).expect("it is confirmed");
    rig.peer.engine.set_alarm(std::time::Instant::now(), Some("memory"));
    rig.settle();
    assert!(connection.is_blocked());
    leaves_nothing(cycles() / 10, || {
        poll_and_drop(publisher.publish("q", "m"));
        poll_and_drop(queue.publish(&message));
        rig.settle();
    });
    assert!(closed.as_mut().poll(&mut Context::from_waker(Waker::noop())).is_pending());
}

fn close(rig: &mut ClientRig<Broker>, connection: &Connection) {
    rig.run_by_steps(connection.close()).expect("it closes");
}
