//! Lines about consumers: started, ended by whom, lagging.

use std::time::Duration;

use amqp_client_core::proto::method::BasicCancel;
use amqp_client_core::{Config, QueueOptions, Settings};

use crate::scene::{Scene, protocol};

#[test]
pub(crate) fn a_consumer_that_the_broker_cancels_has_its_queue() {
    let mut scene = Scene::new("cancelled");
    let channel = scene.open_channel();
    let consumer = scene.consume(&channel);
    scene.lines();
    let cancel = BasicCancel { consumer_tag: consumer.tag().clone(), no_wait: true };
    scene.peer.send(channel.id(), cancel);
    scene.turn();
    scene.expect(&[
        "WARN, channel 1: consumer 'ctag-1.1' of queue 'q' was cancelled by the broker: the queue was deleted, or the node that \
         holds it is down; the consumer has ended",
    ]);
    drop(consumer);
    scene.turn();
    scene.expect(&[]);
}

#[test]
pub(crate) fn the_application_cancels_and_drops_consumers() {
    let mut scene = Scene::new("stopped");
    let channel = scene.open_channel();
    let (first, second) = (scene.consume(&channel), scene.consume(&channel));
    scene.run(first.cancel()).expect("it is cancelled");
    drop(second);
    scene.turn();
    scene.expect(&[
        "DEBUG, channel 1: consumer 'ctag-1.1' of queue 'q' starts, no prefetch limit",
        "DEBUG, channel 1: consumer 'ctag-1.2' of queue 'q' starts, no prefetch limit",
        "DEBUG, channel 1: consumer 'ctag-1.1' of queue 'q' was cancelled by the application",
        "DEBUG, channel 1: consumer 'ctag-1.2' of queue 'q' was dropped by the application",
    ]);
    drop(first);
    scene.turn();
    scene.expect(&[]);
}

const BUDGET: usize = 1000;

/// Connections of which little may be left lying.
fn small(name: &str) -> Scene {
    let protocol = protocol().heartbeat(Duration::ZERO);
    let settings = Settings::default().delivery_budget(BUDGET);
    Scene::with(name, Config::default().protocol(protocol).settings(settings))
}

#[test]
pub(crate) fn who_holds_reading_back_is_named() {
    let mut scene = small("lag");
    let channel = scene.open_channel();
    let mut consumer = scene.consume(&channel);
    scene.lines();
    scene.peer.deliver(channel.id(), consumer.tag(), 1, &[0; BUDGET]);
    scene.turn();
    assert!(!scene.reads());
    scene.expect(&[
        "WARN, channel 1: consumer 'ctag-1.1' does not take its deliveries (1126 bytes, no prefetch limit): with more than 1000 untaken bytes, the client stops reading, and all consumers of the connection wait; set a lower prefetch limit, or take deliveries faster",
    ]);
    scene.pass(Duration::from_secs(3));
    assert!(consumer.try_next().is_some());
    scene.turn();
    scene.expect(&["INFO the client reads again, after 3.0 s: deliveries were taken"]);
}

/// While a reply is due, the client reads on for a while.
#[test]
pub(crate) fn reading_for_a_reply_does_not_end_the_pause() {
    let mut scene = small("awaiting");
    let channel = scene.open_channel();
    let mut consumer = scene.consume(&channel);
    scene.lines();
    scene.peer.deliver(channel.id(), consumer.tag(), 1, &[0; BUDGET]);
    scene.turn();
    assert_eq!(scene.lines().len(), 1);
    scene.run(channel.queue_purge("q")).expect("it is purged");
    scene.turn();
    scene.expect(&[]);
    scene.pass(Duration::from_secs(4));
    assert!(consumer.try_next().is_some());
    scene.turn();
    scene.expect(&["INFO the client reads again, after 4.0 s: deliveries were taken"]);
}

/// A consumer that stays slow lags with each message.
#[test]
pub(crate) fn a_consumer_that_always_lags_does_not_fill_the_log() {
    let mut scene = small("lags");
    let channel = scene.open_channel();
    let mut consumer = scene.consume(&channel);
    scene.lines();
    for _ in 0..100 {
        scene.peer.deliver(channel.id(), consumer.tag(), 1, &[0; BUDGET]);
        scene.turn();
        assert!(consumer.try_next().is_some());
        scene.turn();
    }
    let lines = scene.lines();
    assert_eq!(lines.len(), 2 * 7, "{lines:?}");
    assert!(lines[6].ends_with(" (3 more such lines were left out before this one)"), "{lines:?}");
}

#[test]
pub(crate) fn a_consumer_that_is_paused_is_named() {
    let mut scene = small("paused");
    let channel = scene.open_channel();
    // A queue that outlasts its consumers.
    scene.run(channel.queue_declare("q", QueueOptions::new())).expect("it is declared");
    let mut slow = scene.consume(&channel);
    let mut other = scene.consume(&channel);
    scene.lines();
    scene.peer.deliver(channel.id(), slow.tag(), 12, &[0; BUDGET / 10]);
    scene.turn();
    scene.peer.deliver(channel.id(), other.tag(), 1, b"body");
    scene.advance(Duration::from_secs(1));
    assert!(other.try_next().is_some());
    scene.expect(&[
        "WARN, channel 1: consumer 'ctag-1.1' does not take its deliveries (2712 bytes, no prefetch limit): with more than 1000 untaken bytes, the client stops reading, and all consumers of the connection wait; set a lower prefetch limit, or take deliveries faster",
        "WARN, channel 1: consumer 'ctag-1.1' of queue 'q' is paused, so that others can go on: it took none of its deliveries for a while, and the limit of 1000 untaken bytes was exceeded (no prefetch limit); it keeps 1 delivery (226 bytes), and 11 were requeued; the client starts it again once the application has taken those that it keeps: check whether its handlers hang",
        "INFO the client reads again, after 1.0 s: 11 deliveries were requeued",
    ]);
    while slow.try_next().is_some() {
        scene.turn();
    }
    scene.expect(&[
        "INFO, channel 1: consumer 'ctag-1.1' of queue 'q' has taken its deliveries, and starts again",
    ]);
}

/// Lets that many seconds pass, with a heartbeat in each.
fn seconds(scene: &mut Scene, count: u32) {
    for _ in 0..count {
        scene.peer.send_heartbeat();
        scene.advance(Duration::from_secs(1));
    }
}

#[test]
pub(crate) fn a_handler_that_hangs_is_reported() {
    let mut scene = Scene::new("stuck");
    let channel = scene.open_channel();
    let mut consumer = scene.consume(&channel);
    scene.lines();
    scene.peer.deliver(channel.id(), consumer.tag(), 3, b"body");
    seconds(&mut scene, 60);
    scene.expect(&[]);
    seconds(&mut scene, 100);
    scene.expect(&[
        "INFO, channel 1: the application has settled none of 3 delivered messages for 60 s: handlers take long or hang, \
         or acknowledgements are missing; at the prefetch limit, the broker delivers no more",
    ]);
    consumer.try_next().expect("it has arrived").ack().expect("the channel is open");
    seconds(&mut scene, 50);
    scene.expect(&["INFO, channel 1: the application settles deliveries again"]);
}

#[test]
pub(crate) fn messages_that_are_requeued_again_and_again_are_reported() {
    let mut scene = Scene::new("circles");
    let channel = scene.open_channel();
    let mut consumer = scene.consume(&channel);
    scene.lines();
    let mut requeue = |scene: &mut Scene, count| {
        for _ in 0..count {
            scene.peer.redeliver(channel.id(), consumer.tag(), b"poison");
            scene.turn();
            let delivery = consumer.try_next().expect("it has arrived");
            delivery.nack(true).expect("the channel is open");
            scene.advance(Duration::from_millis(100));
        }
    };
    requeue(&mut scene, 400);
    let start = "WARN, channel 1: the same messages of consumer 'ctag-1.1' of queue 'q' are requeued again and again: of 100 delivered \
                 messages in 10s, 100 had been delivered before, and the application requeued 100; reject a message that cannot be \
                 handled, without requeue";
    let limited = format!("{start} (1 more such line was left out before this one)");
    scene.expect(&[start, start, &limited]);
    let over = "INFO, channel 1: the same messages are no longer requeued again and again";
    seconds(&mut scene, 20);
    scene.expect(&[over]);
    requeue(&mut scene, 110);
    seconds(&mut scene, 20);
    scene.expect(&[over]);
    scene.run(channel.close()).expect("it is closed");
    let left = "WARN, channel 1: 2 more lines about messages that are requeued again and again were left out";
    let lines = scene.lines();
    assert!(lines.iter().any(|line| line.contains(left)), "{lines:?}");
}
