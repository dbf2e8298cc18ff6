//! Lines about messages: each kind may come with each message, so all are limited.

use amqp_client_core::proto::method::{BasicAck, BasicNack};
use amqp_client_core::proto::{Limits, ReplyCode};
use amqp_client_core::{Config, OnLoss, OnPanic, PublisherOptions};

use crate::harness::poll_once;
use crate::scene::{Scene, protocol, recovery};

#[test]
pub(crate) fn a_returned_message_is_reported() {
    let mut scene = Scene::new("returned");
    let channel = scene.open_channel();
    for _ in 0..5 {
        scene.peer.give_back(channel.id(), "nowhere", b"body");
        scene.turn();
    }
    let line = "WARN, channel 1: message to exchange '' by 'nowhere' returned: 312 NO_ROUTE; no queue is bound for it, or the \
                queue was deleted";
    let limited = format!("{line} (1 more such line was left out before this one)");
    scene.expect(&[line, line, &limited]);
    scene.run(channel.close()).expect("it is closed");
    scene.expect(&[
        "WARN, channel 1: 1 more line about returned messages was left out",
        "DEBUG, channel 1: channel closed by the application",
    ]);
}

#[test]
pub(crate) fn a_returned_message_with_confirms_is_reported_too() {
    let mut scene = Scene::new("returned");
    let channel = scene.open_channel();
    let publisher = channel.default_exchange().publisher(PublisherOptions::new()).expect("open");
    scene.peer.ignores_publishes = true;
    let confirm = scene.run(publisher.publish("nowhere", b"body")).expect("queued");
    scene.turn();
    scene.peer.give_back(channel.id(), "nowhere", b"body");
    scene.peer.send(channel.id(), BasicAck { delivery_tag: 1, multiple: false });
    scene.run(confirm).expect_err("it was returned");
    scene.expect(&[
        "WARN, channel 1: message to exchange '' by 'nowhere' returned: 312 NO_ROUTE; no queue is bound for it, or the queue \
         was deleted",
    ]);
}

#[test]
pub(crate) fn a_refused_message_is_reported() {
    let mut scene = Scene::new("refused");
    let channel = scene.open_channel();
    let publisher = channel.default_exchange().publisher(PublisherOptions::new()).expect("open");
    scene.peer.ignores_publishes = true;
    let first = scene.run(publisher.publish("full", b"body")).expect("queued");
    let second = scene.run(publisher.publish("full", b"body")).expect("queued");
    scene.turn();
    let nack = BasicNack { delivery_tag: 2, multiple: true, requeue: false };
    scene.peer.send(channel.id(), nack);
    scene.run(first).expect_err("it is refused");
    scene.run(second).expect_err("it is refused");
    scene.expect(&[
        "WARN, channel 1: the broker refused 2 messages (basic.nack): a queue is full and rejects messages (x-overflow), or has \
         failed",
    ]);
}

#[test]
pub(crate) fn a_message_that_is_too_large_is_reported() {
    let protocol = protocol().limits(Limits::default().body_max(3));
    let mut scene = Scene::with("unusable", Config::default().protocol(protocol));
    let channel = scene.open_channel();
    let consumer = scene.consume(&channel);
    scene.lines();
    scene.peer.deliver(channel.id(), consumer.tag(), 1, b"body");
    scene.turn();
    scene.expect(&[
        "WARN, channel 1: message for consumer 'ctag-1.1' not accepted: message body of 4 bytes exceeds the limit of 3; raise \
         Limits::body_max",
    ]);
}

#[test]
pub(crate) fn a_handler_that_panics_is_an_error() {
    let mut scene = Scene::new("panicked");
    let channel = scene.open_channel();
    let consumer = scene.consume(&channel);
    scene.lines();
    scene.peer.deliver(channel.id(), consumer.tag(), 1, b"body");
    scene.turn();
    let consumer = consumer.on_panic(OnPanic::Reject);
    let handling = consumer.for_each_concurrent(1, |delivery| async move {
        assert!(delivery.redelivered(), "one\ntwo");
    });
    let mut handling = std::pin::pin!(handling);
    assert!(scene.poll(handling.as_mut()).is_none());
    let lines = scene.lines();
    assert_eq!(lines.len(), 1, "{lines:?}");
    let start = "ERROR, channel 1: handler of consumer 'ctag-1.1' panicked: one\\ntwo";
    assert!(lines[0].starts_with(start), "{lines:?}");
}

#[test]
pub(crate) fn a_late_acknowledgement_is_reported() {
    let mut scene = Scene::recovering("stale", recovery());
    let channel = scene.open_channel();
    let mut consumer = scene.consume(&channel);
    scene.peer.deliver(channel.id(), consumer.tag(), 1, b"body");
    scene.turn();
    let delivery = consumer.try_next().expect("it has arrived");
    scene.lose();
    scene.turn();
    scene.lines();
    delivery.ack().expect("it does nothing");
    scene.expect(&[
        "DEBUG, channel 1: delivery 1 was settled too late: the connection or channel was interrupted, and the broker delivers the \
         message again",
    ]);
}

#[test]
pub(crate) fn kept_messages_at_their_limit_are_reported() {
    let mut scene = Scene::recovering("kept", recovery().keep_max(1));
    let channel = scene.open_channel();
    scene.peer.ignores_publishes = true;
    let options = PublisherOptions::new().on_loss(OnLoss::Keep);
    let publisher = channel.default_exchange().publisher(options).expect("open");
    let _first = scene.run(publisher.publish("q", b"body")).expect("it is kept");
    let mut second = std::pin::pin!(publisher.publish("q", b"body"));
    assert!(poll_once(second.as_mut()).is_none());
    scene.expect(&[
        "WARN 176 bytes of messages kept to be published again after a loss, which is the limit: publishing waits for confirms; see \
         `Recovery::keep_max`",
    ]);
}

#[test]
pub(crate) fn a_kept_message_that_the_broker_refuses_is_reported() {
    let mut scene = Scene::recovering("not-resent", recovery().reopen_channels(true));
    let channel = scene.open_channel();
    scene.peer.ignores_publishes = true;
    let options = PublisherOptions::new().on_loss(OnLoss::Keep);
    let publisher = channel.exchange("gone").expect("short").publisher(options).expect("open");
    let confirm = scene.run(publisher.publish("q", b"body")).expect("it is kept");
    scene.turn();
    scene.peer.refuse(channel.id(), ReplyCode::NOT_FOUND, (60, 40));
    scene.peer.ignores_publishes = false;
    scene.run(confirm).expect_err("it is refused");
    scene.expect(&[
        "WARN, channel 1: closed by the broker: 404 NOT_FOUND: refused (caused by basic.publish); the client opens the channel \
         again",
        "WARN, channel 1: a kept message is not published again: channel 1 closed by the peer: 404 NOT_FOUND: refused (caused by \
         basic.publish)",
        "INFO, channel 1: channel opened again and restored",
    ]);
}
