//! When reading from the transport is suspended, and when not.

mod rig;

use std::time::Duration;

use amqp_client_core::{Channel, Config, ConsumeOptions, Consumer, PublisherOptions, QueueOptions};
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
