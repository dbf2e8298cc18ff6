//! When reading from the transport is suspended, and when not.

mod harness;

use std::time::Duration;

use amqp_client_core::proto::ReplyCode;
use amqp_client_core::proto::method::Method;
use amqp_client_core::{
    Channel, ChannelEvent, ClientConfig, Config, ConnectionEvent, ConsumeOptions, Consumer,
    PublisherOptions, QueueOptions, Settings,
};
use harness::ClientRig;

const BUDGET: usize = 1000;

/// A small delivery budget, and no heartbeats.
fn small_budget() -> Config {
    let protocol = ClientConfig::default().heartbeat(Duration::ZERO);
    Config::default().protocol(protocol).settings(Settings::default().delivery_budget(BUDGET))
}

/// A channel with a consumer, of which more was delivered than it may leave lying.
fn over_budget(no_ack: bool) -> (ClientRig, Channel, Consumer) {
    let mut rig = ClientRig::new(small_budget());
    let channel = rig.open_channel();
    let consuming = channel.basic_consume("q", ConsumeOptions::new().no_ack(no_ack));
    let consumer = rig.run(consuming).expect("a consumer");
    deliver(&mut rig, &channel, &consumer);
    (rig, channel, consumer)
}

fn deliver(rig: &mut ClientRig, channel: &Channel, consumer: &Consumer) {
    rig.peer.deliver(channel.id(), consumer.tag(), 2, &[0; BUDGET]);
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

/// With all that they hold taken at the first delivery, many slow consumers would hold a budget each.
#[test]
fn a_consumer_that_takes_one_delivery_does_not_free_the_whole_budget() {
    const MIB: usize = 1024 * 1024;
    let protocol = ClientConfig::default().heartbeat(Duration::ZERO);
    let mut rig = ClientRig::new(Config::default().protocol(protocol));
    let channel = rig.open_channel();
    let mut consumer = rig.consume(&channel);
    for _ in 0..80 {
        rig.peer.deliver(channel.id(), consumer.tag(), 1, &vec![0; MIB / 4]);
        rig.advance(Duration::from_millis(2));
    }
    assert!(rig.connection.health().delivered_bytes >= 16 * MIB && !rig.reads());
    assert!(consumer.try_next().is_some());
    assert!(rig.connection.health().delivered_bytes >= 15 * MIB);
    for _ in 1..80 {
        rig.advance(Duration::from_millis(2));
        assert!(consumer.try_next().is_some(), "it gets all of them");
    }
    assert_eq!(rig.connection.health().delivered_bytes, 0);
}

#[test]
fn an_event_names_the_consumer_that_all_others_wait_for() {
    let mut rig = ClientRig::new(small_budget());
    let channel = rig.open_channel();
    let mut events = (rig.connection.events(), channel.events());
    let mut consumers = Vec::new();
    for _ in 0..3 {
        consumers.push(rig.consume(&channel));
    }
    for _ in 0..2 {
        rig.peer.deliver(channel.id(), consumers[0].tag(), 1, &[0; 10]);
        rig.peer.deliver(channel.id(), consumers[1].tag(), 4, &[0; BUDGET]);
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

/// The time for which a consumer may take nothing while others wait.
const PATIENCE: Duration = Duration::from_secs(1);

/// Some consumers of a queue that was declared here.
fn consumers<const COUNT: usize>(
    options: ConsumeOptions,
) -> (ClientRig, Channel, [Consumer; COUNT]) {
    let mut rig = ClientRig::new(small_budget());
    rig.peer.record();
    let channel = rig.open_channel();
    rig.run(channel.queue_declare("q", QueueOptions::new())).expect("a queue");
    let start = |_| rig.run(channel.basic_consume("q", options.clone())).expect("a consumer");
    let consumers = std::array::from_fn(start);
    rig.peer.methods.clear();
    (rig, channel, consumers)
}

/// Returns what the client has sent since: cancels, requeued deliveries, and started consumers, by their tags.
fn said(rig: &mut ClientRig) -> (Vec<String>, Vec<u64>, Vec<String>) {
    let (mut cancelled, mut requeued, mut started) = (Vec::new(), Vec::new(), Vec::new());
    for method in rig.peer.methods.drain(..) {
        match method {
            Method::BasicCancel(cancel) => cancelled.push(cancel.consumer_tag.to_string()),
            Method::BasicNack(nack) => {
                assert!(nack.requeue && !nack.multiple);
                requeued.push(nack.delivery_tag);
            }
            Method::BasicConsume(consume) => started.push(consume.consumer_tag.to_string()),
            Method::QueueDeclare(declare) => assert!(declare.passive),
            other => panic!("{other:?}"),
        }
    }
    (cancelled, requeued, started)
}

/// Returns the channel events of paused and resumed consumers.
fn pauses(
    rig: &mut ClientRig,
    events: &mut amqp_client_core::ChannelEvents,
) -> Vec<(bool, String)> {
    let mut pauses = Vec::new();
    while let Some(event) = rig.poll(std::pin::pin!(events.next())) {
        match event.expect("the channel is open") {
            ChannelEvent::ConsumerPaused { consumer_tag } => {
                pauses.push((true, consumer_tag.to_string()));
            }
            ChannelEvent::ConsumerResumed { consumer_tag } => {
                pauses.push((false, consumer_tag.to_string()));
            }
            ChannelEvent::ConsumerLags { .. } => {}
            other => panic!("{other:?}"),
        }
    }
    pauses
}

#[test]
fn a_consumer_that_takes_nothing_is_paused_so_that_others_go_on() {
    let (mut rig, channel, [mut lags, mut works]) = consumers(ConsumeOptions::new());
    let mut events = channel.events();
    rig.peer.deliver(channel.id(), lags.tag(), 12, &[0; BUDGET / 10]);
    rig.turn();
    rig.peer.deliver(channel.id(), lags.tag(), 3, &[0; BUDGET / 10]);
    rig.peer.deliver(channel.id(), works.tag(), 1, b"work");
    rig.advance(PATIENCE - Duration::from_millis(1));
    assert!(!rig.reads() && works.try_next().is_none());
    assert_eq!(said(&mut rig), Default::default(), "it may only be slow");

    rig.advance(Duration::from_millis(1));
    let tag = lags.tag().to_string();
    assert!(rig.reads());
    let work = works.try_next().expect("it is delivered").into_message();
    assert_eq!(work.body(), b"work");
    // It keeps a quarter of the budget: the oldest one, with its headers. What came behind the cancel is requeued as well.
    let (cancelled, requeued, started) = said(&mut rig);
    assert_eq!(cancelled, std::slice::from_ref(&tag));
    assert!(requeued.into_iter().eq((2..=12).rev().chain(13..=15)) && started.is_empty());
    assert_eq!(pauses(&mut rig, &mut events), [(true, tag.clone())]);

    // No further event, whatever arrives for other consumers, and however long it takes.
    for _ in 0..10 {
        rig.peer.deliver(channel.id(), works.tag(), 5, &[0; BUDGET / 10]);
        rig.turn();
        while let Some(delivery) = works.try_next() {
            let _message = delivery.into_message();
        }
        rig.advance(PATIENCE);
    }
    assert_eq!(said(&mut rig), Default::default());

    // It takes its deliveries, and is started again, under another tag.
    let kept: Vec<_> = std::iter::from_fn(|| lags.try_next()).collect();
    assert!(kept.iter().map(|delivery| delivery.delivery_tag().get()).eq([1]));
    kept.into_iter().for_each(|delivery| drop(delivery.into_message()));
    rig.turn();
    assert_eq!(said(&mut rig), (vec![], vec![], vec![format!("1.{tag}")]));
    assert_eq!(pauses(&mut rig, &mut events), [(false, tag)]);
    rig.peer.deliver(channel.id(), lags.tag(), 1, b"again");
    let delivery = rig.run(lags.next()).expect("it goes on").expect("it is delivered");
    assert_eq!(delivery.body(), b"again");
    let _message = delivery.into_message();
}

#[test]
fn no_consumer_is_paused_while_no_other_waits() {
    let (mut rig, channel, [lags]) = consumers(ConsumeOptions::new());
    deliver(&mut rig, &channel, &lags);
    (0..5).for_each(|_| rig.advance(PATIENCE));
    assert_eq!(said(&mut rig), Default::default(), "there is nobody else");
    assert!(!rig.reads());
}

#[test]
fn a_consumer_that_is_slow_is_not_paused() {
    let (mut rig, channel, [mut slow, _other]) = consumers(ConsumeOptions::new());
    for _ in 0..20 {
        deliver(&mut rig, &channel, &slow);
        assert!(!rig.reads());
        rig.advance(PATIENCE - Duration::from_millis(1));
        while let Some(delivery) = slow.try_next() {
            let _message = delivery.into_message();
        }
        rig.turn();
        assert!(rig.reads());
    }
    assert_eq!(said(&mut rig), Default::default());
}

#[test]
fn consumers_are_paused_until_the_others_go_on() {
    // Three hold the same amount, and a fourth takes its deliveries.
    let (mut rig, channel, [a, b, c, mut works]) = consumers(ConsumeOptions::new());
    for consumer in [&a, &b, &c] {
        rig.peer.deliver(channel.id(), consumer.tag(), 4, &[0; BUDGET / 10]);
    }
    rig.turn();
    rig.peer.deliver(channel.id(), works.tag(), 1, b"work");
    (0..3).for_each(|_| rig.advance(PATIENCE));
    assert!(works.try_next().is_some());
    let (cancelled, requeued, _) = said(&mut rig);
    assert!((1..=3).contains(&cancelled.len()) && requeued.len() >= 3 * cancelled.len());
    let held = rig.connection.health().delivered_bytes;
    assert!(held < BUDGET, "{held}");
}

#[test]
fn a_consumer_that_cannot_be_paused_blocks_its_neighbours() {
    let cases = [
        ConsumeOptions::new().no_ack(true),
        ConsumeOptions::new().exclusive(true),
        ConsumeOptions::new().pausable(false),
    ];
    for options in cases {
        let (mut rig, channel, [lags, small, _works]) = consumers(options);
        rig.peer.deliver(channel.id(), small.tag(), 1, b"small");
        deliver(&mut rig, &channel, &lags);
        (0..5).for_each(|_| rig.advance(PATIENCE));
        assert_eq!(said(&mut rig), Default::default());
        assert!(!rig.reads());
    }
}

#[test]
fn of_a_queue_that_was_declared_elsewhere_the_application_has_to_know() {
    for pausable in [false, true] {
        let (mut rig, channel, [_works]) = consumers(ConsumeOptions::new());
        let mut options = ConsumeOptions::new();
        if pausable {
            options = options.pausable(true);
        }
        let lags = rig.run(channel.basic_consume("theirs", options)).expect("a consumer");
        rig.peer.methods.clear();
        deliver(&mut rig, &channel, &lags);
        (0..3).for_each(|_| rig.advance(PATIENCE));
        assert_eq!(rig.reads(), pausable);
        assert_eq!(said(&mut rig).0.len(), usize::from(pausable));
    }
}

#[test]
fn a_body_above_the_share_is_kept_for_a_slow_consumer() {
    let (mut rig, channel, [mut lags, _works]) = consumers(ConsumeOptions::new());
    // The application looks once in a while, and not in the second after a delivery has come.
    for round in 0..3 {
        deliver(&mut rig, &channel, &lags);
        rig.advance(PATIENCE);
        let (cancelled, requeued, _) = said(&mut rig);
        let newer = 2 * round + 2;
        assert_eq!((cancelled.len(), requeued), (1, vec![newer]), "the oldest is kept");
        assert_eq!(rig.connection.health().delivered_bytes, 0, "it stops nobody");
        let delivery = lags.try_next().expect("it is there");
        let _message = delivery.into_message();
        rig.turn();
        assert_eq!(said(&mut rig).2.len(), 1, "it is started again");
    }
    // Kept deliveries can be lost like all others.
    deliver(&mut rig, &channel, &lags);
    rig.advance(PATIENCE);
    drop(lags);
    rig.turn();
    assert_eq!(rig.connection.health().delivered_bytes, 0);
}

#[test]
fn a_consumer_that_is_paused_ends_as_any_other() {
    for way in 0..3 {
        let (mut rig, channel, [mut lags, _works]) = consumers(ConsumeOptions::new());
        rig.peer.deliver(channel.id(), lags.tag(), 12, &[0; BUDGET / 10]);
        rig.turn();
        rig.advance(PATIENCE);
        assert_eq!(said(&mut rig).0.len(), 1);
        match way {
            0 => rig.run(lags.cancel()).expect("it is cancelled"),
            1 => {
                drop(lags);
                rig.turn();
                let (_, requeued, started) = said(&mut rig);
                assert!(requeued == [1] && started.is_empty());
                continue;
            }
            _ => drop(lags.cancel()),
        }
        rig.turn();
        let kept = std::iter::from_fn(|| lags.try_next()).map(|own| drop(own.into_message()));
        assert_eq!(kept.count(), 1);
        let end = rig.run(lags.next());
        assert!(end.is_none(), "{end:?}");
        assert!(said(&mut rig).2.is_empty(), "it is not started again");
    }
}

/// A consumer that has ended cannot be paused, so its deliveries have to be requeued instead.
#[test]
fn a_consumer_that_has_ended_blocks_no_other() {
    type End = fn(&mut ClientRig, &Channel, &Consumer);
    let ends: [(&str, End); 3] = [
        ("cancelled", |rig, _, own| rig.run(own.cancel()).expect("it is cancelled")),
        ("cancelled without waiting", |_, _, own| drop(own.cancel())),
        ("its channel is closed", |rig, channel, _| {
            rig.peer.refuse(channel.id(), ReplyCode::NOT_FOUND, (60, 40));
        }),
    ];
    for (name, end) in ends {
        let (mut rig, _, [mut works]) = consumers(ConsumeOptions::new());
        let channel = rig.open_channel();
        let mut lags = rig.consume(&channel);
        let mut events = rig.connection.events();
        rig.peer.deliver(channel.id(), lags.tag(), 12, &[0; BUDGET / 10]);
        rig.turn();
        end(&mut rig, &channel, &lags);
        rig.turn();
        rig.peer.deliver(works.channel().id(), works.tag(), 1, b"work");
        rig.peer.methods.clear();
        rig.advance(PATIENCE - Duration::from_millis(1));
        assert!(!rig.reads() && works.try_next().is_none(), "{name}");
        rig.advance(Duration::from_millis(1));
        assert!(rig.reads(), "{name}");
        let work = works.try_next().expect(name).into_message();
        assert_eq!(work.body(), b"work", "{name}");
        // The broker requeues by itself the deliveries of a channel that it closes.
        let (cancelled, requeued, started) = said(&mut rig);
        assert!(cancelled.is_empty() && started.is_empty(), "{name}");
        let expected: Vec<_> = if channel.is_open() { (2..=12).rev().collect() } else { vec![] };
        assert_eq!(requeued, expected, "{name}");
        let named = rig.poll(std::pin::pin!(events.next())).flatten();
        let Some(ConnectionEvent::ConsumerLags { consumer_tag, .. }) = named else {
            panic!("{name}: {named:?}")
        };
        assert_eq!(consumer_tag, *lags.tag(), "{name}");
        // It keeps its oldest delivery, and then it ends.
        let kept = lags.try_next().map(|own| drop(own.into_message()));
        assert!(kept.is_some() && lags.try_next().is_none(), "{name}");
        assert_eq!(rig.run(lags.next()).is_some(), !channel.is_open(), "{name}");
        assert_eq!(rig.connection.health().delivered_bytes, 0, "{name}");
    }
}

/// Nobody delivers it again.
#[test]
fn deliveries_without_acks_stay_with_a_consumer_that_has_ended() {
    let (mut rig, channel, [mut lags, _works]) = consumers(ConsumeOptions::new().no_ack(true));
    rig.peer.deliver(channel.id(), lags.tag(), 12, &[0; BUDGET / 10]);
    rig.run(lags.cancel()).expect("it is cancelled");
    rig.peer.methods.clear();
    (0..5).for_each(|_| rig.advance(PATIENCE));
    assert!(!rig.reads() && said(&mut rig) == Default::default());
    assert_eq!(std::iter::from_fn(|| lags.try_next()).count(), 12);
}

#[test]
fn a_consumer_without_a_handle_is_refused() {
    use amqp_client_core::CallError;
    use amqp_client_core::proto::method::BasicConsume;
    let mut rig = ClientRig::new(Config::default());
    let channel = rig.open_channel();
    let written = rig.written;
    let refused = rig.run(channel.call(BasicConsume::default())).map(drop);
    assert_eq!(refused, Err(CallError::NoConsumer));
    let refused = channel.call_no_wait(BasicConsume { no_wait: true, ..<_>::default() });
    assert_eq!(refused, Err(CallError::NoConsumer));
    rig.turn();
    assert_eq!(rig.written, written, "nothing was sent");
}

#[test]
fn a_reply_is_read_behind_untaken_deliveries() {
    let (mut rig, channel, consumer) = over_budget(false);
    let declared = channel.queue_declare("another", QueueOptions::new());
    deliver(&mut rig, &channel, &consumer);
    rig.run(declared).expect("the reply");
    rig.turn();
    assert!(!rig.reads(), "nothing is owed any more");
}

#[test]
fn a_confirm_is_read_behind_untaken_deliveries() {
    let (mut rig, channel, consumer) = over_budget(false);
    let publisher = channel.default_exchange().publisher(PublisherOptions::new());
    let publisher = publisher.expect("the channel is open");
    deliver(&mut rig, &channel, &consumer);
    rig.run(publisher.send("q", "forwarded")).expect("it is confirmed");
}

#[test]
fn a_flood_is_read_only_up_to_a_limit_for_an_outstanding_reply() {
    let (mut rig, channel, consumer) = over_budget(false);
    rig.silence();
    let _never_answered = channel.queue_declare("another", QueueOptions::new());
    for _ in 0..100 {
        deliver(&mut rig, &channel, &consumer);
    }
    assert!(!rig.reads());
}

#[test]
fn a_loss_frees_requeued_deliveries_and_keeps_those_without_acks() {
    let (mut rig, channel, mut acking) = over_budget(false);
    let consuming = channel.basic_consume("q", ConsumeOptions::new().no_ack(true));
    let mut taking = rig.run(consuming).expect("a consumer");
    rig.peer.deliver(channel.id(), taking.tag(), 1, &[0; 10]);
    assert!(acking.try_next().is_some());
    rig.turn();
    deliver(&mut rig, &channel, &acking);
    assert!(!rig.reads());
    rig.recover();
    rig.lose();
    rig.turn();
    assert!(rig.reads());
    assert!(acking.try_next().is_none(), "the broker delivers it again");
    // A delivery that fits is counted from zero, in addition to what stays.
    rig.peer.deliver(channel.id(), acking.tag(), 1, &[0; BUDGET / 2]);
    rig.turn();
    assert!(rig.reads());
    assert!(acking.try_next().is_some());
    assert!(taking.try_next().is_some(), "nobody delivers it again");
    deliver(&mut rig, &channel, &acking);
    assert!(!rig.reads());
}

#[test]
fn reconnecting_does_not_depend_on_untaken_deliveries() {
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
    // Deliveries without acknowledgement are not requeued.
    let mut taken = 0;
    while consumer.try_next().is_some() {
        taken += 1;
    }
    assert!(taken >= 8, "{taken}");
    rig.run(channel.queue_declare("another", QueueOptions::new())).expect("the reply");
}
