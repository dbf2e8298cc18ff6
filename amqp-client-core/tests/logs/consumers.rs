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
        "DEBUG, channel 1: consumer 'ctag-1.1' of queue 'q' starts",
        "DEBUG, channel 1: consumer 'ctag-1.2' of queue 'q' starts",
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
        "WARN, channel 1: consumer 'ctag-1.1' does not take its deliveries (1126 bytes): the client stops reading, and all \
         consumers of the connection wait; set a prefetch limit, or take deliveries faster",
    ]);
    scene.pass(Duration::from_secs(3));
    assert!(consumer.try_next().is_some());
    scene.turn();
    scene.expect(&["INFO the client reads again, after 3.0 s: deliveries were taken or requeued"]);
}

/// A consumer that is slow for ever lags with each message.
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
        "WARN, channel 1: consumer 'ctag-1.1' does not take its deliveries (2712 bytes): the client stops reading, and all \
         consumers of the connection wait; set a prefetch limit, or take deliveries faster",
        "WARN, channel 1: consumer 'ctag-1.1' of queue 'q' was paused: it took none of its deliveries while others waited; most of \
         them are requeued",
        "INFO the client reads again, after 1.0 s: deliveries were taken or requeued",
    ]);
    while slow.try_next().is_some() {
        scene.turn();
    }
    scene.expect(&[
        "INFO, channel 1: consumer 'ctag-1.1' of queue 'q' has taken its deliveries, and starts again",
    ]);
}
