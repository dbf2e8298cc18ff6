//! Consumers that are paused because the application does not take their deliveries.

use std::time::Duration;

use amqp_client_core::proto::method::{
    BasicCancel, BasicConsume, QueueDeclare, QueueDelete, TxSelect,
};
use amqp_client_core::proto::session::{OnCancel, Recovery};
use amqp_client_core::proto::{
    ChannelEvent, ChannelId, CommandError, ConsumerId, DeliveryTag, FieldTable, Misuse, ShortStr,
};

use amqp_test_broker::Scope;
use bytes::Buf as _;

use crate::world::{World, durable, short, text};

/// A session with a queue of ten messages, and a consumer that holds all of them.
fn holding() -> (World, ChannelId, ConsumerId) {
    let mut world = World::new(Recovery::default());
    let id = world.open();
    let queue = world.queue(id, durable("q"));
    publish(&mut world, 0..10);
    let consumer = world.consume(id, &queue, "lags");
    (world, id, consumer)
}

fn of_a_quorum_queue() -> (World, ChannelId, ConsumerId) {
    let mut world = World::new(Recovery::default());
    let id = world.open();
    let arguments = FieldTable::new().with("x-queue-type", "quorum").expect("it fits");
    let queue = world.queue(id, QueueDeclare { arguments, ..durable("q") });
    publish(&mut world, 0..10);
    let consumer = world.consume(id, &queue, "lags");
    (world, id, consumer)
}

/// Another client publishes these numbers.
fn publish(world: &mut World, numbers: std::ops::Range<u32>) {
    world.elsewhere(|other, id| {
        for number in numbers {
            other.publish(id, "", "q", &number.to_string());
        }
    });
    world.run();
}

fn pause(world: &mut World, id: ChannelId, consumer: ConsumerId) -> bool {
    world.session.pause_consumer(id, consumer, false)
}

/// Takes the deliveries. Returns their numbers and their tags.
fn delivered(world: &mut World) -> (Vec<u32>, Vec<DeliveryTag>) {
    let deliveries = world.deliveries().into_iter().map(|(_, delivery)| delivery);
    let one = |delivery| (text(&delivery).parse::<u32>().expect("a number"), delivery);
    deliveries.map(one).map(|(number, delivery)| (number, delivery.delivery_tag())).unzip()
}

fn settle(world: &mut World, id: ChannelId, acked: &[DeliveryTag], requeued: &[DeliveryTag]) {
    let mut channel = world.session.channel(id).expect("it is open");
    acked.iter().for_each(|tag| channel.ack(*tag).expect("it was delivered"));
    requeued.iter().for_each(|tag| channel.nack(*tag, true).expect("it was delivered"));
}

/// Returns the events that say that a consumer has ended.
fn ends(world: &World) -> Vec<&ChannelEvent> {
    let ends = world.channel_events().filter(|event| {
        use ChannelEvent::{Cancelled, Closed, ConsumerEnded, ConsumerFailed};
        matches!(event, Cancelled { .. } | ConsumerEnded { .. } | ConsumerFailed { .. } | Closed(_))
    });
    ends.collect()
}

/// Returns how many messages wait in the queue, and how many consumers it has, as another client sees it.
fn counts(world: &mut World) -> (u32, u32) {
    world.run();
    world.elsewhere(|other, id| other.queue_count(id, "q"))
}

#[test]
fn deliveries_after_the_pause_are_requeued_and_delivered_again() {
    let (mut world, id, consumer) = holding();
    let neighbour = world.queue(id, durable("other"));
    let neighbour = world.consume(id, &neighbour, "neighbour");
    let (numbers, tags) = delivered(&mut world);
    assert!(numbers.into_iter().eq(0..10));
    // Four more are in transit when it is paused.
    world.elsewhere(|other, id| {
        for number in 10..14 {
            other.publish(id, "", "q", &number.to_string());
        }
    });
    assert!(pause(&mut world, id, consumer));
    assert!(!pause(&mut world, id, consumer), "it is");
    settle(&mut world, id, &[], &tags[4..]);
    assert_eq!(counts(&mut world), (10, 0));
    assert!(world.deliveries().is_empty());
    // Its neighbour continues, and the deliveries that it holds can be settled.
    world.elsewhere(|other, id| other.publish(id, "", "other", "for the neighbour"));
    world.run();
    assert_eq!(world.texts(neighbour), ["for the neighbour"]);
    settle(&mut world, id, &tags[..4], &[]);
    world.run();
    assert!(ends(&world).is_empty());

    world.session.resume_consumer(id, consumer);
    world.session.resume_consumer(id, consumer);
    world.run();
    let came = world.deliveries();
    // The broker has it under a tag of its own.
    assert!(
        came.iter().all(|(of, delivery)| *of == consumer && delivery.consumer_tag() == "1.lags")
    );
    let numbers: Vec<_> = came.iter().map(|(_, delivery)| text(delivery)).collect();
    assert!(numbers.into_iter().eq((4..14).map(|number| number.to_string())));
    assert_eq!(counts(&mut world), (0, 1));
    assert!(ends(&world).is_empty());
    assert_eq!(world.session_events().count(), 0, "nobody hears of it");
    // And again.
    assert!(pause(&mut world, id, consumer));
    assert_eq!(counts(&mut world), (0, 0));
}

#[test]
fn it_is_resumed_before_the_reply_to_the_pause() {
    let (mut world, id, consumer) = holding();
    let (_, tags) = delivered(&mut world);
    assert!(pause(&mut world, id, consumer));
    settle(&mut world, id, &tags[..5], &tags[5..]);
    world.session.resume_consumer(id, consumer);
    world.run();
    assert!(delivered(&mut world).0.into_iter().eq(5..10));
    assert_eq!(counts(&mut world), (0, 1));
    assert!(ends(&world).is_empty());
}

#[test]
fn unsettled_deliveries_do_not_silence_it_in_a_quorum_queue() {
    let (mut world, id, consumer) = of_a_quorum_queue();
    for round in 1..=2 {
        let (_, tags) = delivered(&mut world);
        let (held, rest) = tags.split_at(3);
        assert!(pause(&mut world, id, consumer));
        settle(&mut world, id, &[], rest);
        world.run();
        world.session.resume_consumer(id, consumer);
        world.run();
        assert!(ends(&world).is_empty());
        let (numbers, again) = delivered(&mut world);
        assert_eq!(numbers.len(), rest.len(), "round {round}");
        settle(&mut world, id, held, &again);
        world.run();
    }
    // Both tags mean it.
    let tag = short("lags");
    let cancel = world.send(id, BasicCancel { consumer_tag: tag, no_wait: false });
    world.run();
    assert!(world.answer(cancel).is_some());
    assert_eq!(ends(&world), [&ChannelEvent::ConsumerEnded { consumer }]);
}

#[test]
fn generated_tags_are_unique() {
    let (mut world, id, consumer) = holding();
    let other = world.queue(id, durable("other"));
    let neighbour = world.consume(id, &other, "1.lags");
    let (_, tags) = delivered(&mut world);
    assert!(pause(&mut world, id, consumer));
    settle(&mut world, id, &tags[..5], &tags[5..]);
    world.run();
    world.session.resume_consumer(id, consumer);
    world.run();
    let came = world.deliveries();
    assert!(
        came.iter().all(|(of, delivery)| *of == consumer && delivery.consumer_tag() == "2.lags")
    );
    assert_eq!(came.len(), 5);
    for taken in ["lags", "1.lags", "2.lags"] {
        let consume =
            BasicConsume { queue: short("q"), consumer_tag: short(taken), ..<_>::default() };
        let refused = world.session.channel(id).expect("it is open").request(consume);
        assert_eq!(refused.err(), Some(CommandError::Misuse(Misuse::ConsumerTagInUse)), "{taken}");
    }
    world.elsewhere(|other, id| other.publish(id, "", "other", "hello"));
    world.run();
    assert_eq!(world.texts(neighbour), ["hello"]);
}

#[test]
fn each_byte_by_itself_changes_nothing() {
    let (mut world, id, consumer) = holding();
    let (_, tags) = delivered(&mut world);
    world.eager = true;
    assert!(pause(&mut world, id, consumer));
    settle(&mut world, id, &tags[..5], &tags[5..]);
    world.session.resume_consumer(id, consumer);
    world.run();
    assert!(delivered(&mut world).0.into_iter().eq(5..10));
}

#[test]
fn only_consumers_that_lose_nothing_are_paused() {
    let stream = FieldTable::new().with("x-queue-type", "stream").expect("it fits");
    let single = FieldTable::new().with("x-single-active-consumer", true).expect("it fits");
    let expires = FieldTable::new().with("x-expires", 60_000).expect("it fits");
    let declares = [
        (QueueDeclare { auto_delete: true, ..durable("q") }, "auto-delete"),
        (QueueDeclare { arguments: stream, ..durable("q") }, "stream"),
        (QueueDeclare { arguments: single, ..durable("q") }, "single active consumer"),
        (QueueDeclare { arguments: expires, ..durable("q") }, "expires"),
    ];
    let consume = || BasicConsume { queue: short("q"), ..<_>::default() };
    let cases = [
        (BasicConsume { no_ack: true, ..consume() }, "no_ack"),
        (BasicConsume { exclusive: true, ..consume() }, "exclusive"),
    ];
    let declares = declares.into_iter().map(|(declare, name)| (declare, consume(), name));
    let consumers = cases.into_iter().map(|(consume, name)| (durable("q"), consume, name));
    for (declare, consume, name) in declares.chain(consumers) {
        let mut world = World::new(Recovery::default());
        let id = world.open();
        world.queue(id, declare);
        if name == "stream" {
            world.limit(id, 5);
        }
        publish(&mut world, 0..3);
        let request = world.send(id, consume);
        world.run();
        world.answer(request).expect("it has started");
        assert!(!world.session.pause_consumer(id, request.into(), true), "{name}");
        world.run();
        assert_eq!(world.queue_count(id, "q").1, 1, "{name}");
    }
    let (mut world, id, consumer) = holding();
    world.ask(id, TxSelect {}).expect("it is selected");
    assert!(!pause(&mut world, id, consumer), "in a transaction");
    // Of a queue that was declared elsewhere, only the application knows.
    let mut world = World::new(Recovery::default());
    world.elsewhere(|other, id| other.queue(id, durable("q")));
    publish(&mut world, 0..3);
    let id = world.open();
    let consumer = world.consume(id, &short("q"), "lags");
    assert!(!pause(&mut world, id, consumer));
    assert!(world.session.pause_consumer(id, consumer, true));
}

#[test]
fn a_consumer_that_is_starting_is_not_paused() {
    let (mut world, id, consumer) = holding();
    let consume = BasicConsume { queue: short("q"), ..<_>::default() };
    let starting = world.send(id, consume);
    assert!(!pause(&mut world, id, starting.into()));
    assert!(pause(&mut world, id, consumer));
    world.cut();
    assert!(!pause(&mut world, id, consumer));
}

/// The points of a pause at which something happens: the rounds that pass before, and whether it is being resumed.
const MOMENTS: [(usize, bool); 10] = [
    (0, false),
    (1, false),
    (3, false),
    (0, true),
    (1, true),
    (2, true),
    (3, true),
    (4, true),
    (5, true),
    (6, true),
];

/// A consumer that is paused, or being resumed, at that point.
fn paused(moment: (usize, bool)) -> (World, ChannelId, ConsumerId, Vec<DeliveryTag>) {
    let (mut world, id, consumer) = holding();
    let (_, tags) = delivered(&mut world);
    assert!(pause(&mut world, id, consumer));
    settle(&mut world, id, &[], &tags[5..]);
    if moment.1 {
        world.run();
        world.session.resume_consumer(id, consumer);
    }
    (0..moment.0).for_each(|_| world.round());
    (world, id, consumer, tags)
}

#[test]
fn a_cancel_ends_it_whenever_it_comes() {
    for moment in MOMENTS {
        let (mut world, id, consumer, tags) = paused(moment);
        let consumer_tag = short("lags");
        let cancel = world.send(id, BasicCancel { consumer_tag, no_wait: false });
        world.run();
        assert!(world.answer(cancel).is_some(), "{moment:?}");
        assert_eq!(ends(&world), [&ChannelEvent::ConsumerEnded { consumer }], "{moment:?}");
        // It is not restored, and its tag is free.
        world.session.resume_consumer(id, consumer);
        let (_, resent) = delivered(&mut world);
        settle(&mut world, id, &tags[..5], &resent);
        assert_eq!(counts(&mut world), (5, 0), "{moment:?}");
        world.consume(id, &short("q"), "lags");
        world.cut();
        world.recover();
        assert_eq!(ends(&world).len(), 1, "{moment:?}");
    }
}

/// A consumer that is being started again: the broker has not replied yet.
fn starting() -> (World, ChannelId, ConsumerId, Vec<DeliveryTag>) {
    let (mut world, id, consumer, tags) = paused((0, true));
    while !world.session.channel(id).expect("it is open").starts_consumer() {
        world.round();
    }
    (world, id, consumer, tags)
}

/// RabbitMQ 3.10 crashes the channel when the cancel arrives before the queue has replied.
#[test]
fn a_cancel_waits_until_it_has_started() {
    let (mut world, id, consumer, _) = starting();
    let cancel = BasicCancel { consumer_tag: short("lags"), no_wait: false };
    world.session.channel(id).expect("it is open").request(cancel).expect("it waits");
    while world.session.channel(id).expect("it is open").starts_consumer() {
        let sent = world.session.poll_transmit(world.now);
        let methods = sent.map_or(Vec::new(), |sent| sent.chunk().to_vec());
        assert!(!methods.windows(4).any(|method| method == [0, 60, 0, 30]));
        world.round();
    }
    world.run();
    assert_eq!(ends(&world), [&ChannelEvent::ConsumerEnded { consumer }]);
    assert_eq!(counts(&mut world).1, 0);
}

/// Nobody but the application starts it, so nothing waits for its start.
#[test]
fn a_cancel_right_behind_the_first_start_gets_its_reply() {
    let (mut world, id, _) = holding();
    let mut channel = world.session.channel(id).expect("it is open");
    let consume = BasicConsume { queue: short("q"), consumer_tag: short("t"), ..<_>::default() };
    let started = channel.request(consume).expect("it is sent");
    let cancel = BasicCancel { consumer_tag: short("t"), no_wait: false };
    let cancelled = channel.request(cancel).expect("it is sent");
    world.run();
    assert!(world.answer(started).is_some());
    assert!(world.answer(cancelled).is_some());
}

#[test]
fn one_that_is_discarded_leaves_the_next_one_with_its_tag_alone() {
    for (cancels, runs) in [(false, false), (true, false), (true, true)] {
        let (mut world, id, consumer, tags) = starting();
        if runs {
            world.run();
            let (_, again) = delivered(&mut world);
            settle(&mut world, id, &[], &again);
        }
        let cancel = BasicCancel { consumer_tag: short("lags"), no_wait: false };
        let mut channel = world.session.channel(id).expect("it is open");
        let cancel = cancels.then(|| channel.request(cancel).expect("it is sent or waits"));
        if !runs {
            channel.discard_consumer(consumer);
        }
        let consumer_tag = short("lags");
        let consume = BasicConsume { queue: short("q"), consumer_tag, ..<_>::default() };
        let next = ConsumerId::from(channel.request(consume).expect("the tag is free"));
        // The handle of the first one is dropped, whatever has become of it.
        channel.discard_consumer(consumer);
        world.run();
        if let Some(cancel) = cancel {
            assert!(world.answer(cancel).is_some(), "{runs}");
        }
        settle(&mut world, id, &tags[..5], &[]);
        assert_eq!(counts(&mut world), (0, 1), "{cancels} {runs}");
        assert!(world.deliveries().iter().any(|(of, _)| *of == next), "{cancels} {runs}");
    }
}

#[test]
fn a_dropped_consumer_is_not_resumed() {
    for moment in MOMENTS {
        let (mut world, id, consumer, tags) = paused(moment);
        world.session.channel(id).expect("it is open").discard_consumer(consumer);
        world.session.resume_consumer(id, consumer);
        world.run();
        let (_, resent) = delivered(&mut world);
        settle(&mut world, id, &tags[..5], &resent);
        assert_eq!(counts(&mut world), (5, 0), "{moment:?}");
        assert!(ends(&world).is_empty(), "{moment:?}");
    }
}

/// While a channel is restored, deliveries that nobody takes may be all that can be read.
#[test]
fn it_can_be_paused_while_its_channel_is_restored() {
    let (mut world, id, consumer) = holding();
    let other = world.queue(id, durable("other"));
    world.consume(id, &other, "second");
    world.deliveries();
    world.cut();
    // To find out which consumer the broker refuses, the session starts one after the other.
    world.broker.refuse_next((60, 20), 1, Scope::Channel);
    assert!(world.reconnect());
    while !pause(&mut world, id, consumer) {
        assert!(!world.session.is_open(), "the other consumer was to start behind it");
        world.round();
    }
    assert!(!world.session.is_open());
    world.run();
    assert!(world.session.is_open());
    let (_, tags) = delivered(&mut world);
    settle(&mut world, id, &[], &tags);
    assert_eq!(counts(&mut world), (10, 0));
    world.session.resume_consumer(id, consumer);
    world.run();
    assert_eq!(delivered(&mut world).0.len(), 10);
}

#[test]
fn a_loss_ends_the_pause() {
    for moment in MOMENTS {
        let (mut world, id, consumer, _) = paused(moment);
        world.cut();
        world.deliveries();
        let report = world.recover();
        assert!(report.failed.is_empty() && report.consumers == 1, "{moment:?}: {report:?}");
        let came = world.deliveries();
        assert!(came.iter().all(|(of, _)| *of == consumer));
        assert_eq!(came.len(), 10, "{moment:?}");
        // It runs as any other.
        let tags: Vec<_> = came.iter().map(|(_, delivery)| delivery.delivery_tag()).collect();
        assert!(pause(&mut world, id, consumer), "{moment:?}");
        settle(&mut world, id, &[], &tags);
        assert_eq!(counts(&mut world), (10, 0), "{moment:?}");
        assert!(ends(&world).is_empty(), "{moment:?}");
    }
}

#[test]
fn a_channel_that_is_reopened_ends_the_pause() {
    for moment in MOMENTS {
        let (mut world, id, consumer, _) = paused(moment);
        let mut recovery = Recovery::default();
        recovery.reopen_channels = true;
        world.session.recover_with(recovery, 1, 0);
        world.send(id, QueueDeclare { passive: true, ..durable("missing") });
        world.run();
        world.pass(Duration::from_secs(60));
        let mut numbers = delivered(&mut world).0;
        numbers.sort_unstable();
        numbers.dedup();
        assert!(numbers.into_iter().eq(0..10), "{moment:?}");
        assert_eq!(counts(&mut world), (0, 1), "{moment:?}");
        assert!(ends(&world).is_empty(), "{moment:?}");
        assert!(pause(&mut world, id, consumer), "{moment:?}");
    }
}

#[test]
fn closing_the_channel_requeues_what_it_holds() {
    for moment in MOMENTS {
        let (mut world, id, ..) = paused(moment);
        let channel = &mut world.session.channel(id).expect("it is open");
        channel.requeue_all();
        channel.close(amqp_client_core::proto::ReplyCode::REPLY_SUCCESS, "bye");
        assert_eq!(counts(&mut world), (10, 0), "{moment:?}");
        assert!(matches!(ends(&world)[..], [ChannelEvent::Closed(_)]), "{moment:?}");
        assert!(world.session.is_open());
    }
}

#[test]
fn its_tag_is_not_reused_while_it_is_paused() {
    for moment in MOMENTS {
        let (mut world, id, ..) = paused(moment);
        let consumer_tag = short("lags");
        let consume = BasicConsume { queue: short("q"), consumer_tag, ..<_>::default() };
        let refused = world.session.channel(id).expect("it is open").request(consume);
        let expected = CommandError::Misuse(Misuse::ConsumerTagInUse);
        assert_eq!(refused.err(), Some(expected), "{moment:?}");
    }
}

/// The queue is deleted.
fn delete(world: &mut World) {
    world.elsewhere(|other, id| {
        other.ask(id, QueueDelete { queue: short("q"), ..<_>::default() }).expect("it is deleted");
    });
    world.run();
}

#[test]
fn a_queue_deleted_during_the_pause_ends_only_its_consumer() {
    let (mut world, id, consumer, _) = paused((9, false));
    let neighbour = world.queue(id, durable("other"));
    let neighbour = world.consume(id, &neighbour, "neighbour");
    delete(&mut world);
    assert!(ends(&world).is_empty());
    world.session.resume_consumer(id, consumer);
    world.run();
    assert_eq!(ends(&world), [&ChannelEvent::Cancelled { consumer }]);
    world.elsewhere(|other, id| other.publish(id, "", "other", "hello"));
    world.run();
    assert_eq!(world.texts(neighbour), ["hello"]);
    world.session.resume_consumer(id, consumer);
    world.run();
    assert_eq!(ends(&world).len(), 1);
}

#[test]
fn a_queue_deleted_during_the_pause_is_declared_again_by_option() {
    let (mut world, id, consumer, _) = paused((9, false));
    let mut recovery = Recovery::default();
    recovery.on_cancel = OnCancel::Resubscribe;
    world.session.recover_with(recovery, 1, 0);
    delete(&mut world);
    world.session.resume_consumer(id, consumer);
    world.run();
    publish(&mut world, 20..22);
    assert_eq!(world.texts(consumer), ["20", "21"]);
    assert!(ends(&world).is_empty());
}

#[test]
fn it_is_resumed_where_no_channel_is_free() {
    let (mut world, id, consumer, _) = paused((9, false));
    while world.session.open_channel().is_ok() {}
    world.run();
    world.session.resume_consumer(id, consumer);
    assert_eq!(counts(&mut world), (0, 1));
    assert_eq!(world.deliveries().len(), 5);
    assert!(ends(&world).is_empty());
}

#[test]
fn a_session_that_does_not_recover_pauses_as_well() {
    let (mut world, id, consumer) = {
        let mut world = World::new(Recovery::default());
        let now = world.now;
        world.session.close(now, amqp_client_core::proto::ReplyCode::REPLY_SUCCESS, "bye");
        world.run();
        world.alone();
        let id = world.open();
        let queue: ShortStr = world.queue(id, durable("q"));
        publish(&mut world, 0..10);
        let consumer = world.consume(id, &queue, "lags");
        (world, id, consumer)
    };
    let (_, tags) = delivered(&mut world);
    assert!(pause(&mut world, id, consumer));
    settle(&mut world, id, &tags[..5], &tags[5..]);
    assert_eq!(counts(&mut world), (5, 0));
    world.session.resume_consumer(id, consumer);
    world.run();
    assert!(delivered(&mut world).0.into_iter().eq(5..10));
    assert!(pause(&mut world, id, consumer));
    world.run();
    delete(&mut world);
    world.session.resume_consumer(id, consumer);
    world.run();
    assert_eq!(ends(&world), [&ChannelEvent::Cancelled { consumer }]);
}
