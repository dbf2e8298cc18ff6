//! What connections and channels count, and how long they measure, in virtual time.

mod harness;

use std::time::Duration;

use amqp_client_core::proto::ReplyCode;
use amqp_client_core::proto::method::{Arguments as _, QueueDeclare};
use amqp_client_core::proto::{RawProperties, Route};
use amqp_client_core::{
    Channel, Config, ConsumeOptions, Counters, OnLoss, PublisherOptions, QueueOptions, Settings,
};
use harness::ClientRig;

const SECOND: Duration = Duration::from_secs(1);

/// Returns what the counters are for the table: those that changed, without those of the transport.
fn changed(before: &Counters, after: &Counters) -> Vec<(&'static str, u64)> {
    let both = before.iter().zip(after.iter());
    let changes = both.map(|((name, before), (_, after))| (name, after - before));
    let transport = ["bytes_read", "bytes_written", "reads", "writes"];
    changes.filter(|(name, count)| *count > 0 && !transport.contains(name)).collect()
}

/// Runs `act` on a channel that is open. Returns which of the channel's counters and of the connection's it changed. Each
/// channel-wide change must be the same in both.
fn counts(act: impl FnOnce(&mut ClientRig, &Channel)) -> Vec<(&'static str, u64)> {
    let mut rig = ClientRig::new(Config::default());
    rig.recover();
    let channel = rig.open_channel();
    let before = (rig.connection.counters(), channel.counters());
    act(&mut rig, &channel);
    rig.turn();
    let after = (rig.connection.counters(), channel.counters());
    let (all, own) = (changed(&before.0, &after.0), changed(&before.1, &after.1));
    let of_the_connection = ["channels", "losses", "recoveries", "blocked"];
    let mut shared = all.clone();
    shared.retain(|(name, _)| !of_the_connection.iter().any(|other| name.starts_with(other)));
    assert_eq!(shared, own, "the connection has what its channel has");
    // They stay when the channel and its handles are gone.
    drop(channel);
    rig.turn();
    let gone = changed(&before.0, &rig.connection.counters());
    let lost: Vec<_> = all.iter().filter(|count| !gone.contains(count)).collect();
    // What the application still held was requeued.
    assert!(lost.iter().all(|(name, _)| *name == "requeued"), "{lost:?}");
    all
}

fn publish(rig: &mut ClientRig, channel: &Channel, count: usize) {
    let publisher = channel.exchange("e").expect("short").publisher(PublisherOptions::new());
    let publisher = publisher.expect("it is open");
    for _ in 0..count {
        rig.run(publisher.send("key", "body")).expect("confirmed");
    }
}

fn consume(rig: &mut ClientRig, channel: &Channel, count: u64) -> amqp_client_core::Consumer {
    let consumer = rig.consume(channel);
    rig.peer.deliver(channel.id(), consumer.tag(), count, b"body");
    rig.answer_all();
    consumer
}

#[test]
fn each_action_is_counted_once() {
    let table: Vec<(&str, Vec<(&str, u64)>)> = vec![
        (
            "publishes with confirms; the selection is a request",
            counts(|rig, channel| publish(rig, channel, 3)),
        ),
        (
            "publishes without confirms",
            counts(|rig, channel| {
                let (route, none) = (Route::new("e", "key"), RawProperties::EMPTY);
                rig.run(channel.basic_publish(&route, &none, "body")).expect("sent");
                let prepared = channel.prepare(&route, &none).expect("short");
                rig.run(channel.basic_publish_all(&prepared, ["1", "23"])).expect("sent");
                // The server would confirm them.
                rig.write(false);
            }),
        ),
        (
            "acknowledgements in any order",
            counts(|rig, channel| {
                let mut consumer = consume(rig, channel, 6);
                let mut taken: Vec<_> = std::iter::from_fn(|| consumer.try_next()).collect();
                taken.remove(1).ack().expect("it waits");
                taken.remove(3).ack_up_to().expect("they wait");
                rig.turn();
                taken.pop().expect("the last").ack().expect("it waits");
                std::mem::forget(taken);
            }),
        ),
        (
            "returned deliveries, and those that were not taken",
            counts(|rig, channel| {
                let mut consumer = consume(rig, channel, 9);
                let mut next = || consumer.try_next().expect("it was delivered");
                next().nack(true).expect("it waits");
                next().nack(false).expect("it waits");
                next().reject(true).expect("it waits");
                next().reject(false).expect("it waits");
                drop(next());
                let kept = next().into_message();
                next().nack_up_to(false).expect("they wait");
                assert!(channel.basic_ack(kept.delivery_tag()).is_err(), "it is settled");
                drop(consumer);
            }),
        ),
        (
            "deliveries that need no acknowledgement",
            counts(|rig, channel| {
                let options = ConsumeOptions::new().no_ack(true);
                let mut consumer = rig.run(channel.basic_consume("q", options)).expect("started");
                rig.peer.deliver(channel.id(), consumer.tag(), 2, b"body");
                rig.answer_all();
                consumer.try_next().expect("it was delivered").ack().expect("nothing to do");
            }),
        ),
        (
            "a delivery for a consumer that was dropped",
            counts(|rig, channel| {
                let consumer = rig.consume(channel);
                let tag = consumer.tag().clone();
                drop(consumer);
                rig.peer.deliver(channel.id(), &tag, 1, b"body");
                rig.answer_all();
            }),
        ),
        (
            "a message that is fetched",
            counts(|rig, channel| {
                let getting = channel.basic_get("q");
                rig.write(true);
                rig.peer.give(channel.id(), b"body");
                rig.answer_all();
                let got = rig.run(getting).expect("it replies").expect("there is one");
                got.delivery.ack().expect("it waits");
            }),
        ),
        (
            "stale deliveries; what the broker requeued is in no counter",
            counts(|rig, channel| {
                let mut consumer = consume(rig, channel, 3);
                let old = consumer.try_next().expect("it was delivered");
                rig.lose();
                rig.turn();
                old.ack().expect("the broker has requeued it");
                std::mem::forget(consumer);
            }),
        ),
        (
            "kept messages are sent again, and unconfirmed ones end",
            counts(|rig, channel| {
                let exchange = channel.exchange("e").expect("short");
                let options = PublisherOptions::new().on_loss(OnLoss::Keep);
                let keeps = exchange.publisher(options).expect("it is open");
                let loses = exchange.publisher(PublisherOptions::new()).expect("it is open");
                rig.turn();
                rig.silence();
                let kept = rig.run(keeps.publish("key", "kept")).expect("sent");
                let lost = rig.run(loses.publish("key", "lost")).expect("sent");
                rig.turn();
                rig.lose();
                rig.turn();
                rig.run(kept).expect("it is sent again");
                rig.run(lost).expect_err("it is not");
            }),
        ),
        (
            "a publish that may not wait fails, and one that has to wait is not counted",
            counts(|rig, channel| {
                let exchange = channel.exchange("e").expect("short");
                let fails = PublisherOptions::new().on_loss(OnLoss::Fail);
                let fails = exchange.publisher(fails).expect("it is open");
                let waits = exchange.publisher(PublisherOptions::new()).expect("it is open");
                rig.turn();
                rig.lose();
                rig.run(fails.publish("key", "body")).expect_err("there is no connection");
                waits.try_publish("key", "body").expect_err("it has to wait");
            }),
        ),
        (
            "a refused request fails, with those behind it, and closes the channel",
            counts(|rig, channel| {
                let refused = channel.queue_declare("q", QueueOptions::new());
                let behind = channel.basic_qos(1);
                rig.write(true);
                rig.peer.refuse(
                    channel.id(),
                    ReplyCode::PRECONDITION_FAILED,
                    QueueDeclare::FACTS.id,
                );
                rig.turn();
                rig.run(refused).expect_err("it is refused");
                rig.run(behind).expect_err("the channel is closed");
                drop(channel.basic_qos(2));
            }),
        ),
    ];
    let expected: Vec<Vec<(&str, u64)>> = vec![
        vec![("published", 3), ("published_bytes", 12), ("confirmed", 3), ("requests", 1)],
        vec![("published", 3), ("published_bytes", 7)],
        vec![("delivered", 6), ("delivered_bytes", 24), ("acked", 6), ("requests", 1)],
        vec![
            ("delivered", 9),
            ("delivered_bytes", 36),
            ("rejected", 4),
            ("requeued", 5),
            ("requests", 1),
        ],
        vec![("delivered", 2), ("delivered_bytes", 8), ("requests", 1)],
        vec![("requests", 1)],
        vec![("got", 1), ("acked", 1), ("requests", 1)],
        vec![
            ("delivered", 3),
            ("delivered_bytes", 12),
            ("stale", 1),
            ("requests", 1),
            ("losses", 1),
            ("recoveries", 1),
        ],
        vec![
            ("published", 2),
            ("published_bytes", 8),
            ("confirmed", 1),
            ("unconfirmed", 1),
            ("republished", 1),
            ("requests", 2),
            ("losses", 1),
            ("recoveries", 1),
        ],
        vec![("publish_failed", 1), ("requests", 2), ("losses", 1), ("recoveries", 1)],
        vec![("requests", 3), ("requests_failed", 3), ("channels_closed", 1)],
    ];
    for ((what, counted), expected) in table.into_iter().zip(expected) {
        assert_eq!(counted, expected, "{what}");
    }
}

#[test]
fn each_published_message_has_one_outcome_although_its_return_is_not_recognized() {
    let mut rig = ClientRig::new(Config::default());
    let channel = rig.open_channel();
    let publisher = channel.default_exchange().publisher(PublisherOptions::new());
    let publisher = publisher.expect("it is open");
    rig.turn();
    let before = channel.counters();
    let confirmation = rig.run(publisher.publish("key", "body")).expect("sent");
    // Something on the way has changed the message.
    rig.peer.give_back(channel.id(), "key", b"other");
    rig.answer_all();
    rig.run(confirmation).expect("confirmed");
    let expected = [("published", 1), ("published_bytes", 4), ("confirmed", 1)];
    assert_eq!(changed(&before, &channel.counters()), expected);

    // Without confirms, the return is the only outcome.
    let channel = rig.open_channel();
    let before = channel.counters();
    rig.peer.give_back(channel.id(), "key", b"body");
    rig.answer_all();
    assert_eq!(changed(&before, &channel.counters()), [("returned", 1)]);
}

#[test]
fn channels_and_bytes_are_counted_for_the_connection() {
    let mut rig = ClientRig::new(Config::default());
    let channels = [rig.open_channel(), rig.open_channel()];
    rig.run(channels[0].close()).expect("closed");
    let counters = rig.connection.counters();
    assert_eq!((counters.channels_opened, counters.channels_closed), (2, 1));
    assert_eq!(counters.bytes_written, rig.written);
    assert!(counters.bytes_read > 0 && counters.reads > 0 && counters.writes > 0, "{counters:?}");
    let own = channels[1].counters();
    assert_eq!((own.channels_opened, own.bytes_read, own.writes), (0, 0, 0));
    let connection = rig.connection.clone();
    rig.run(connection.close()).expect("closed");
    assert_eq!(rig.connection.counters().channels_closed, 2);
}

#[test]
fn times_are_those_of_the_drivers_turns() {
    let mut rig = ClientRig::new(Config::default());
    let channel = rig.open_channel();
    let publisher = channel.exchange("e").expect("short").publisher(PublisherOptions::new());
    let publisher = publisher.expect("it is open");
    rig.turn();
    // Queued a second before it is written, and the reply is read two seconds later.
    let confirmation = rig.run(publisher.publish("key", "body")).expect("sent");
    let request = channel.basic_qos(7);
    rig.pass(SECOND);
    rig.write(true);
    rig.pass(2 * SECOND);
    rig.answer_all();
    rig.run(confirmation).expect("confirmed");
    rig.run(request).expect("done");
    let counters = channel.counters();
    let times = [counters.confirm_times, counters.request_times];
    assert_eq!(times.map(|times| (times.count(), times.max())), [(1, 2 * SECOND); 2]);

    // Two deliveries are taken at once, and settled one by one, each a second later.
    let mut consumer = consume(&mut rig, &channel, 2);
    for _ in 0..2 {
        let delivery = consumer.try_next().expect("it was delivered");
        rig.pass(SECOND);
        delivery.ack().expect("it waits");
        rig.turn();
    }
    let times = channel.counters().process_times;
    assert_eq!((times.count(), times.max(), times.sum()), (2, 2 * SECOND, 3 * SECOND));
    assert_eq!(rig.connection.counters().process_times, times);
}

#[test]
fn health_says_since_when_and_why_the_broker_blocks() {
    let mut rig = ClientRig::new(Config::default());
    rig.recover();
    rig.peer.hold(None);
    rig.turn();
    let since = rig.now();
    rig.advance(3 * SECOND);
    let health = rig.connection.health();
    assert_eq!((health.blocked, health.blocked_since), (true, Some(since)));
    assert_eq!(health.blocked_reason, Some("memory".try_into().expect("short")));
    let counters = rig.connection.counters();
    assert_eq!((counters.blocked, counters.blocked_time), (1, 3 * SECOND));
    // It is short of something else, too. That is one more report of the same block.
    rig.peer.hold(None);
    rig.turn();
    rig.advance(3 * SECOND);
    assert_eq!(rig.connection.health().blocked_since, Some(since));
    let counters = rig.connection.counters();
    assert_eq!((counters.blocked, counters.blocked_time), (2, 6 * SECOND));
    // A loss ends it: the next connection is not blocked.
    rig.lose();
    rig.turn();
    rig.advance(SECOND);
    let health = rig.connection.health();
    assert_eq!((health.blocked, health.blocked_since, health.blocked_reason), (false, None, None));
    assert_eq!(rig.connection.counters().blocked_time, 6 * SECOND);
}

#[test]
fn health_names_the_consumer_for_which_reading_is_paused() {
    let config = Config::default().settings(Settings::default().delivery_budget(1000));
    let mut rig = ClientRig::new(config);
    let channel = rig.open_channel();
    let mut consumer = rig.consume(&channel);
    assert_eq!(rig.connection.health().reading_paused, None);
    rig.peer.deliver(channel.id(), &consumer.tag().clone(), 1, &[7; 2000]);
    rig.turn();
    let since = rig.now();
    rig.advance(SECOND / 2);
    let paused = rig.connection.health().reading_paused.expect("it does not read");
    assert_eq!((paused.since, paused.channel), (since, channel.id()));
    assert_eq!(&paused.consumer_tag, consumer.tag());
    assert!(paused.bytes > 2000, "{paused:?}");
    consumer.try_next().expect("it was delivered").ack().expect("it waits");
    rig.turn();
    assert_eq!(rig.connection.health().reading_paused, None);
}
