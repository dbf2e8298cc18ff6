//! When reading from the transport is suspended, and when not.

mod rig;

use std::time::Duration;

use amqp_client_core::{
    Channel, ChannelEvent, Config, ConnectionEvent, ConsumeOptions, Consumer, PublisherOptions,
    QueueOptions,
};
use rig::Rig;

const BUDGET: usize = 1000;

/// A channel with a consumer, of which more was delivered than it may leave lying.
fn over_budget(no_ack: bool) -> (Rig, Channel, Consumer) {
    let mut config = Config::default();
    config.protocol.heartbeat = Duration::ZERO;
    config.settings.delivery_budget = BUDGET;
    let mut rig = Rig::new(config);
    let opening = rig.connection.open_channel();
    let channel = rig.run(opening).expect("a channel");
    let consuming = channel.basic_consume("q", ConsumeOptions::new().no_ack(no_ack));
    let consumer = rig.run(consuming).expect("a consumer");
    deliver(&mut rig, &channel, &consumer);
    (rig, channel, consumer)
}

fn deliver(rig: &mut Rig, channel: &Channel, consumer: &Consumer) {
    rig.deliver(channel.id(), consumer.tag(), 2, &[0; BUDGET]);
    rig.turn();
}

#[test]
fn it_is_suspended_while_consumers_leave_too_much_lying() {
    let (mut rig, channel, mut consumer) = over_budget(false);
    assert!(!rig.reads());
    deliver(&mut rig, &channel, &consumer);
    for _ in 0..4 {
        assert!(consumer.try_next().is_some(), "what did not fit was read later");
        rig.turn();
    }
    assert!(rig.reads());
}

#[test]
fn an_event_names_the_consumer_that_all_others_wait_for() {
    let mut config = Config::default();
    config.protocol.heartbeat = Duration::ZERO;
    config.settings.delivery_budget = BUDGET;
    let mut rig = Rig::new(config);
    let opening = rig.connection.open_channel();
    let channel = rig.run(opening).expect("a channel");
    let mut events = (rig.connection.events(), channel.events());
    let mut consumers = Vec::new();
    for _ in 0..3 {
        let consuming = channel.basic_consume("q", ConsumeOptions::new());
        consumers.push(rig.run(consuming).expect("a consumer"));
    }
    for _ in 0..2 {
        rig.deliver(channel.id(), consumers[0].tag(), 1, &[0; 10]);
        rig.deliver(channel.id(), consumers[1].tag(), 4, &[0; BUDGET]);
        rig.turn();
        assert!(!rig.reads());
        let consumer_tag = consumers[1].tag().clone();
        let event = rig.run(events.1.next()).expect("the channel is open");
        let ChannelEvent::ConsumerLags { consumer_tag: named, bytes } = event else {
            panic!("{event:?}")
        };
        assert_eq!(named, consumer_tag);
        assert!(bytes >= BUDGET, "{bytes}");
        let event = rig.run(events.0.next()).expect("the connection is open");
        let expected = ConnectionEvent::ConsumerLags { channel: channel.id(), consumer_tag, bytes };
        assert_eq!(event, expected);
        // It is reported once, not with each suspension.
        assert!(rig.poll(std::pin::pin!(events.1.next())).is_none());
        while consumers[1].try_next().is_some() {}
        rig.turn();
        assert!(rig.reads());
    }
}

#[test]
fn a_consumer_without_a_handle_is_refused() {
    use amqp_client_core::CallError;
    use amqp_client_core::proto::method::BasicConsume;
    let mut rig = Rig::new(Config::default());
    let opening = rig.connection.open_channel();
    let channel = rig.run(opening).expect("a channel");
    let written = rig.written;
    let refused = rig.run(channel.call(BasicConsume::default())).map(drop);
    assert_eq!(refused, Err(CallError::NoConsumer));
    let refused = channel.call_no_wait(BasicConsume { no_wait: true, ..<_>::default() });
    assert_eq!(refused, Err(CallError::NoConsumer));
    rig.turn();
    assert_eq!(rig.written, written, "nothing was sent");
}

#[test]
fn an_answer_is_read_behind_deliveries_that_nobody_takes() {
    let (mut rig, channel, consumer) = over_budget(false);
    let declared = channel.queue_declare("another", QueueOptions::new());
    deliver(&mut rig, &channel, &consumer);
    rig.run(declared).expect("the answer");
    rig.turn();
    assert!(!rig.reads(), "nothing is owed any more");
}

#[test]
fn a_confirm_is_read_behind_deliveries_that_nobody_takes() {
    let (mut rig, channel, consumer) = over_budget(false);
    let publisher = channel.default_exchange().publisher(PublisherOptions::new());
    let publisher = publisher.expect("the channel is open");
    deliver(&mut rig, &channel, &consumer);
    rig.run(publisher.send("q", "forwarded")).expect("it is confirmed");
}

#[test]
fn a_flood_is_not_read_for_ever_for_what_is_owed() {
    let (mut rig, channel, consumer) = over_budget(false);
    rig.silence();
    let _never_answered = channel.queue_declare("another", QueueOptions::new());
    for _ in 0..100 {
        deliver(&mut rig, &channel, &consumer);
    }
    assert!(!rig.reads());
}

#[test]
fn another_connection_is_made_whatever_the_last_one_left_lying() {
    let (mut rig, channel, mut consumer) = over_budget(true);
    rig.recover();
    rig.silence();
    let _never_answered = channel.queue_declare("another", QueueOptions::new());
    for _ in 0..100 {
        deliver(&mut rig, &channel, &consumer);
    }
    assert!(!rig.reads());
    rig.lose();
    rig.turn();
    assert!(rig.connection.negotiated().is_some(), "the handshake is read");
    // What needs no acknowledgement is nobody else's any more.
    let mut taken = 0;
    while consumer.try_next().is_some() {
        taken += 1;
    }
    assert!(taken >= 8, "{taken}");
    rig.run(channel.queue_declare("another", QueueOptions::new())).expect("the answer");
}
