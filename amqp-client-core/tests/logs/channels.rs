//! Lines about channels: closed by the broker or the application, opened again, paused.

use amqp_client_core::proto::ReplyCode;
use amqp_client_core::proto::method::Method;
use amqp_client_core::{Message, PublisherOptions, QueueOptions};

use crate::scene::{Scene, recovery};

/// The broker refuses a queue that exists with other arguments.
fn inequivalent(method: &Method) -> Option<(ReplyCode, &'static str)> {
    let text = "PRECONDITION_FAILED - inequivalent arg 'durable' for queue 'orders' in vhost '/': received 'false' but current is \
                'true'";
    let matches = matches!(method, Method::QueueDeclare(declare) if declare.queue == "orders");
    matches.then_some((ReplyCode::PRECONDITION_FAILED, text))
}

#[test]
pub(crate) fn a_channel_closed_by_the_broker_has_the_method_and_a_hint() {
    let mut scene = Scene::new("precondition");
    let channel = scene.open_channel();
    let _consumer = scene.consume(&channel);
    scene.peer.refusals = Some(inequivalent);
    let options = QueueOptions::new().durable(false);
    scene.run(channel.queue_declare("orders", options)).expect_err("it is refused");
    scene.expect(&[
        "DEBUG, channel 1: consumer 'ctag-1.1' of queue 'q' starts, no prefetch limit",
        "WARN, channel 1: closed by the broker: 406 PRECONDITION_FAILED: inequivalent arg 'durable' for queue 'orders' in \
         vhost '/': received 'false' but current is 'true' (caused by queue.declare); declare it with the same values, or delete it \
         first, with all messages in it; interrupted: 1 pending request; the channel stays closed, which ends consumer 'ctag-1.1' of queue 'q'; the application has to open another",
    ]);
}

#[test]
pub(crate) fn a_channel_that_is_opened_again_says_so() {
    let mut scene = Scene::recovering("reopened", recovery().reopen_channels(true));
    let channel = scene.open_channel();
    let consumer = scene.consume(&channel);
    scene.peer.deliver(channel.id(), consumer.tag(), 2, b"body");
    scene.peer.ignores_publishes = true;
    let publisher = channel.default_exchange().publisher(PublisherOptions::new()).expect("open");
    let _confirm = scene.run(publisher.publish("q", b"body")).expect("queued");
    scene.turn();
    scene.lines();
    scene.peer.refusals = Some(inequivalent);
    scene.run(channel.queue_declare("orders", QueueOptions::new())).expect_err("it is refused");
    scene.turn();
    scene.expect(&[
        "WARN, channel 1: closed by the broker: 406 PRECONDITION_FAILED: inequivalent arg 'durable' for queue 'orders' in \
         vhost '/': received 'false' but current is 'true' (caused by queue.declare); declare it with the same values, or delete it \
         first, with all messages in it; interrupted: 1 pending request, 1 unconfirmed message (the broker may have it or not, and the client does not publish it again: the confirm fails); the broker delivers 2 unsettled messages again; the \
         client opens the channel again",
        "INFO restored consumer 'ctag-1.1' of channel 1",
        "INFO, channel 1: channel opened again and restored",
    ]);
    // A later loss does not count that request and those messages again.
    scene.lose();
    let lost = scene.lines().swap_remove(0);
    assert!(lost.ends_with("; interrupted: 1 channel"), "{lost}");
}

#[test]
pub(crate) fn a_channel_closed_by_the_application_is_no_warning() {
    let mut scene = Scene::new("done");
    let channel = scene.open_channel();
    scene.run(channel.close()).expect("it is closed");
    scene.expect(&["DEBUG, channel 1: channel closed by the application"]);
}

#[test]
pub(crate) fn a_pause_of_one_channel_is_reported() {
    let mut scene = Scene::new("flow");
    let _other = scene.open_channel();
    let channel = scene.open_channel();
    scene.peer.hold(Some(channel.id()));
    scene.turn();
    scene.peer.release(Some(channel.id()));
    scene.turn();
    scene.expect(&[
        "WARN, channel 2: the broker pauses publishing on this channel (channel.flow)",
        "INFO, channel 2: the broker resumes publishing on this channel (channel.flow)",
    ]);
}

#[test]
pub(crate) fn requests_without_reply_are_counted_when_the_application_ends() {
    let mut scene = Scene::new("unanswered");
    let channel = scene.open_channel();
    let message = Message::new("body");
    scene.run(channel.default_exchange().publish("q", &message)).expect("queued");
    scene.cut();
    scene.turn();
    scene.expect(&[
        "ERROR connection lost: the peer disconnected without closing the connection; the broker was killed or has crashed, or a proxy or firewall ended the TCP connection (RabbitMQ would have announced an orderly stop); interrupted: 1 channel; the client does not reconnect",
    ]);
}
