//! Consumers that are paused because the application does not take their deliveries.

use std::time::Duration;

use amqp_client_core::proto::method::{
    BasicCancel, BasicConsume, BasicDeliver, BasicQos, Method, QueueDeclare, QueueDelete, TxSelect,
};
use amqp_client_core::proto::session::{OnCancel, Recovery};
use amqp_client_core::proto::{
    ChannelEvent, ChannelId, CommandError, ConsumerId, DeliveryTag, FieldTable, Misuse,
    RawProperties, ReplyCode, ShortStr,
};

use amqp_test_broker::Scope;
use bytes::Buf as _;

use crate::harness::Broker;
use crate::rig::{SessionRig, accept, durable, short, text};

/// A session with a queue of ten messages, and a consumer that holds all of them.
fn holding() -> (SessionRig<Broker>, ChannelId, ConsumerId) {
    let mut rig = SessionRig::new(Recovery::default());
    let id = rig.open();
    let queue = rig.queue(id, durable("q"));
    publish(&mut rig, 0..10);
    let consumer = rig.consume(id, &queue, "lags");
    (rig, id, consumer)
}

fn of_a_quorum_queue() -> (SessionRig<Broker>, ChannelId, ConsumerId) {
    let mut rig = SessionRig::new(Recovery::default());
    let id = rig.open();
    let arguments = FieldTable::new().with("x-queue-type", "quorum").expect("it fits");
    let queue = rig.queue(id, QueueDeclare { arguments, ..durable("q") });
    publish(&mut rig, 0..10);
    let consumer = rig.consume(id, &queue, "lags");
    (rig, id, consumer)
}

/// Another client publishes these numbers.
fn publish(rig: &mut SessionRig<Broker>, numbers: std::ops::Range<u32>) {
    rig.elsewhere(|other, id| {
        for number in numbers {
            other.publish(id, "", "q", &number.to_string());
        }
    });
    rig.run();
}

fn pause(rig: &mut SessionRig<Broker>, id: ChannelId, consumer: ConsumerId) -> bool {
    rig.session.pause_consumer(id, consumer, false)
}

/// Takes the deliveries. Returns their numbers and their tags.
fn delivered(rig: &mut SessionRig<Broker>) -> (Vec<u32>, Vec<DeliveryTag>) {
    let deliveries = rig.deliveries().into_iter().map(|(_, delivery)| delivery);
    let one = |delivery| (text(&delivery).parse::<u32>().expect("a number"), delivery);
    deliveries.map(one).map(|(number, delivery)| (number, delivery.delivery_tag())).unzip()
}

fn settle(
    rig: &mut SessionRig<Broker>,
    id: ChannelId,
    acked: &[DeliveryTag],
    requeued: &[DeliveryTag],
) {
    let mut channel = rig.channel(id);
    acked.iter().for_each(|tag| channel.ack(*tag).expect("it was delivered"));
    requeued.iter().for_each(|tag| channel.nack(*tag, true).expect("it was delivered"));
}

/// Returns the events that say that a consumer has ended.
fn ends(rig: &SessionRig<Broker>) -> Vec<&ChannelEvent> {
    let ends = rig.channel_events().filter(|event| {
        use ChannelEvent::{Cancelled, Closed, ConsumerEnded, ConsumerFailed};
        matches!(event, Cancelled { .. } | ConsumerEnded { .. } | ConsumerFailed { .. } | Closed(_))
    });
    ends.collect()
}

/// Returns how many messages wait in the queue, and how many consumers it has, as another client sees it.
fn counts(rig: &mut SessionRig<Broker>) -> (u32, u32) {
    rig.run();
    rig.elsewhere(|other, id| other.queue_count(id, "q"))
}

#[test]
fn deliveries_after_the_pause_are_requeued_and_delivered_again() {
    let (mut rig, id, consumer) = holding();
    let neighbour = rig.queue(id, durable("other"));
    let neighbour = rig.consume(id, &neighbour, "neighbour");
    let (numbers, tags) = delivered(&mut rig);
    assert!(numbers.into_iter().eq(0..10));
    // Four more are in transit when it is paused.
    rig.elsewhere(|other, id| {
        for number in 10..14 {
            other.publish(id, "", "q", &number.to_string());
        }
    });
    assert!(pause(&mut rig, id, consumer));
    assert!(!pause(&mut rig, id, consumer), "it is");
    settle(&mut rig, id, &[], &tags[4..]);
    assert_eq!(counts(&mut rig), (10, 0));
    assert!(rig.deliveries().is_empty());
    // Its neighbour continues, and the deliveries that it holds can be settled.
    rig.elsewhere(|other, id| other.publish(id, "", "other", "for the neighbour"));
    rig.run();
    assert_eq!(rig.texts(neighbour), ["for the neighbour"]);
    settle(&mut rig, id, &tags[..4], &[]);
    rig.run();
    assert!(ends(&rig).is_empty());

    rig.session.resume_consumer(id, consumer);
    rig.session.resume_consumer(id, consumer);
    rig.run();
    let came = rig.deliveries();
    // The broker has it under a tag of its own.
    assert!(
        came.iter().all(|(of, delivery)| *of == consumer && delivery.consumer_tag() == "1.lags")
    );
    let numbers: Vec<_> = came.iter().map(|(_, delivery)| text(delivery)).collect();
    assert!(numbers.into_iter().eq((4..14).map(|number| number.to_string())));
    assert_eq!(counts(&mut rig), (0, 1));
    assert!(ends(&rig).is_empty());
    assert_eq!(rig.session_events().count(), 0, "nobody hears of it");
    // And again.
    assert!(pause(&mut rig, id, consumer));
    assert_eq!(counts(&mut rig), (0, 0));
}

#[test]
fn it_is_resumed_before_the_reply_to_the_pause() {
    let (mut rig, id, consumer) = holding();
    let (_, tags) = delivered(&mut rig);
    assert!(pause(&mut rig, id, consumer));
    settle(&mut rig, id, &tags[..5], &tags[5..]);
    rig.session.resume_consumer(id, consumer);
    rig.run();
    assert!(delivered(&mut rig).0.into_iter().eq(5..10));
    assert_eq!(counts(&mut rig), (0, 1));
    assert!(ends(&rig).is_empty());
}

#[test]
fn unsettled_deliveries_do_not_silence_it_in_a_quorum_queue() {
    let (mut rig, id, consumer) = of_a_quorum_queue();
    for round in 1..=2 {
        let (_, tags) = delivered(&mut rig);
        let (held, rest) = tags.split_at(3);
        assert!(pause(&mut rig, id, consumer));
        settle(&mut rig, id, &[], rest);
        rig.run();
        rig.session.resume_consumer(id, consumer);
        rig.run();
        assert!(ends(&rig).is_empty());
        let (numbers, again) = delivered(&mut rig);
        assert_eq!(numbers.len(), rest.len(), "round {round}");
        settle(&mut rig, id, held, &again);
        rig.run();
    }
    // Both tags mean it.
    let tag = short("lags");
    let cancel = rig.send(id, BasicCancel { consumer_tag: tag, no_wait: false });
    rig.run();
    assert!(rig.answer(cancel).is_some());
    assert_eq!(ends(&rig), [&ChannelEvent::ConsumerEnded { consumer }]);
}

#[test]
fn generated_tags_are_unique() {
    let (mut rig, id, consumer) = holding();
    let other = rig.queue(id, durable("other"));
    let neighbour = rig.consume(id, &other, "1.lags");
    let (_, tags) = delivered(&mut rig);
    assert!(pause(&mut rig, id, consumer));
    settle(&mut rig, id, &tags[..5], &tags[5..]);
    rig.run();
    rig.session.resume_consumer(id, consumer);
    rig.run();
    let came = rig.deliveries();
    assert!(
        came.iter().all(|(of, delivery)| *of == consumer && delivery.consumer_tag() == "2.lags")
    );
    assert_eq!(came.len(), 5);
    for taken in ["lags", "1.lags", "2.lags"] {
        let consume =
            BasicConsume { queue: short("q"), consumer_tag: short(taken), ..<_>::default() };
        let refused = rig.channel(id).request(consume);
        assert_eq!(refused.err(), Some(CommandError::Misuse(Misuse::ConsumerTagInUse)), "{taken}");
    }
    rig.elsewhere(|other, id| other.publish(id, "", "other", "hello"));
    rig.run();
    assert_eq!(rig.texts(neighbour), ["hello"]);
}

#[test]
fn each_byte_by_itself_changes_nothing() {
    let (mut rig, id, consumer) = holding();
    let (_, tags) = delivered(&mut rig);
    rig.eager = true;
    assert!(pause(&mut rig, id, consumer));
    settle(&mut rig, id, &tags[..5], &tags[5..]);
    rig.session.resume_consumer(id, consumer);
    rig.run();
    assert!(delivered(&mut rig).0.into_iter().eq(5..10));
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
        let mut rig = SessionRig::new(Recovery::default());
        let id = rig.open();
        rig.queue(id, declare);
        if name == "stream" {
            rig.limit(id, 5);
        }
        publish(&mut rig, 0..3);
        let request = rig.send(id, consume);
        rig.run();
        rig.answer(request).expect("it has started");
        assert!(!rig.session.pause_consumer(id, request.into(), true), "{name}");
        rig.run();
        assert_eq!(rig.queue_count(id, "q").1, 1, "{name}");
    }
    let (mut rig, id, consumer) = holding();
    rig.ask(id, TxSelect {}).expect("it is selected");
    assert!(!pause(&mut rig, id, consumer), "in a transaction");
    // Of a queue that was declared elsewhere, only the application knows.
    let mut rig = SessionRig::new(Recovery::default());
    rig.elsewhere(|other, id| other.queue(id, durable("q")));
    publish(&mut rig, 0..3);
    let id = rig.open();
    let consumer = rig.consume(id, &short("q"), "lags");
    assert!(!pause(&mut rig, id, consumer));
    assert!(rig.session.pause_consumer(id, consumer, true));
}

#[test]
fn a_consumer_that_is_starting_is_not_paused() {
    let (mut rig, id, consumer) = holding();
    let consume = BasicConsume { queue: short("q"), ..<_>::default() };
    let starting = rig.send(id, consume);
    assert!(!pause(&mut rig, id, starting.into()));
    assert!(pause(&mut rig, id, consumer));
    rig.cut();
    assert!(!pause(&mut rig, id, consumer));
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
fn paused(moment: (usize, bool)) -> (SessionRig<Broker>, ChannelId, ConsumerId, Vec<DeliveryTag>) {
    let (mut rig, id, consumer) = holding();
    let (_, tags) = delivered(&mut rig);
    assert!(pause(&mut rig, id, consumer));
    settle(&mut rig, id, &[], &tags[5..]);
    if moment.1 {
        rig.run();
        rig.session.resume_consumer(id, consumer);
    }
    (0..moment.0).for_each(|_| rig.round());
    (rig, id, consumer, tags)
}

#[test]
fn a_cancel_ends_it_whenever_it_comes() {
    for moment in MOMENTS {
        let (mut rig, id, consumer, tags) = paused(moment);
        let consumer_tag = short("lags");
        let cancel = rig.send(id, BasicCancel { consumer_tag, no_wait: false });
        rig.run();
        assert!(rig.answer(cancel).is_some(), "{moment:?}");
        assert_eq!(ends(&rig), [&ChannelEvent::ConsumerEnded { consumer }], "{moment:?}");
        // It is not restored, and its tag is free.
        rig.session.resume_consumer(id, consumer);
        let (_, resent) = delivered(&mut rig);
        settle(&mut rig, id, &tags[..5], &resent);
        assert_eq!(counts(&mut rig), (5, 0), "{moment:?}");
        rig.consume(id, &short("q"), "lags");
        rig.cut();
        rig.recover();
        assert_eq!(ends(&rig).len(), 1, "{moment:?}");
    }
}

/// A consumer that is being started again: the broker has not replied yet.
fn starting() -> (SessionRig<Broker>, ChannelId, ConsumerId, Vec<DeliveryTag>) {
    let (mut rig, id, consumer, tags) = paused((0, true));
    while !rig.channel(id).starts_consumer() {
        rig.round();
    }
    (rig, id, consumer, tags)
}

/// RabbitMQ 3.10 crashes the channel when the cancel arrives before the queue has replied.
#[test]
fn a_cancel_waits_until_it_has_started() {
    let (mut rig, id, consumer, _) = starting();
    let cancel = BasicCancel { consumer_tag: short("lags"), no_wait: false };
    rig.channel(id).request(cancel).expect("it waits");
    while rig.channel(id).starts_consumer() {
        let sent = rig.session.poll_transmit(rig.now);
        let methods = sent.map_or(Vec::new(), |sent| sent.chunk().to_vec());
        assert!(!methods.windows(4).any(|method| method == [0, 60, 0, 30]));
        rig.round();
    }
    rig.run();
    assert_eq!(ends(&rig), [&ChannelEvent::ConsumerEnded { consumer }]);
    assert_eq!(counts(&mut rig).1, 0);
}

/// Nobody but the application starts it, so nothing waits for its start.
#[test]
fn a_cancel_right_behind_the_first_start_gets_its_reply() {
    let (mut rig, id, _) = holding();
    let mut channel = rig.channel(id);
    let consume = BasicConsume { queue: short("q"), consumer_tag: short("t"), ..<_>::default() };
    let started = channel.request(consume).expect("it is sent");
    let cancel = BasicCancel { consumer_tag: short("t"), no_wait: false };
    let cancelled = channel.request(cancel).expect("it is sent");
    rig.run();
    assert!(rig.answer(started).is_some());
    assert!(rig.answer(cancelled).is_some());
}

#[test]
fn one_that_is_discarded_leaves_the_next_one_with_its_tag_alone() {
    for (cancels, runs) in [(false, false), (true, false), (true, true)] {
        let (mut rig, id, consumer, tags) = starting();
        if runs {
            rig.run();
            let (_, again) = delivered(&mut rig);
            settle(&mut rig, id, &[], &again);
        }
        let cancel = BasicCancel { consumer_tag: short("lags"), no_wait: false };
        let mut channel = rig.channel(id);
        let cancel = cancels.then(|| channel.request(cancel).expect("it is sent or waits"));
        if !runs {
            channel.discard_consumer(consumer);
        }
        let consumer_tag = short("lags");
        let consume = BasicConsume { queue: short("q"), consumer_tag, ..<_>::default() };
        let next = ConsumerId::from(channel.request(consume).expect("the tag is free"));
        // The handle of the first one is dropped, whatever has become of it.
        channel.discard_consumer(consumer);
        rig.run();
        if let Some(cancel) = cancel {
            assert!(rig.answer(cancel).is_some(), "{runs}");
        }
        settle(&mut rig, id, &tags[..5], &[]);
        assert_eq!(counts(&mut rig), (0, 1), "{cancels} {runs}");
        assert!(rig.deliveries().iter().any(|(of, _)| *of == next), "{cancels} {runs}");
    }
}

#[test]
fn a_dropped_consumer_is_not_resumed() {
    for moment in MOMENTS {
        let (mut rig, id, consumer, tags) = paused(moment);
        rig.channel(id).discard_consumer(consumer);
        rig.session.resume_consumer(id, consumer);
        rig.run();
        let (_, resent) = delivered(&mut rig);
        settle(&mut rig, id, &tags[..5], &resent);
        assert_eq!(counts(&mut rig), (5, 0), "{moment:?}");
        assert!(ends(&rig).is_empty(), "{moment:?}");
    }
}

/// While a channel is restored, deliveries that nobody takes may be all that can be read.
#[test]
fn it_can_be_paused_while_its_channel_is_restored() {
    let (mut rig, id, consumer) = holding();
    let other = rig.queue(id, durable("other"));
    rig.consume(id, &other, "second");
    rig.deliveries();
    rig.cut();
    // To find out which consumer the broker refuses, the session starts one after the other.
    rig.peer.engine.refuse_next((60, 20), 1, Scope::Channel);
    assert!(rig.reconnect());
    while !pause(&mut rig, id, consumer) {
        assert!(!rig.session.is_open(), "the other consumer was to start behind it");
        rig.round();
    }
    assert!(!rig.session.is_open());
    rig.run();
    assert!(rig.session.is_open());
    let (_, tags) = delivered(&mut rig);
    settle(&mut rig, id, &[], &tags);
    assert_eq!(counts(&mut rig), (10, 0));
    rig.session.resume_consumer(id, consumer);
    rig.run();
    assert_eq!(delivered(&mut rig).0.len(), 10);
}

#[test]
fn a_loss_ends_the_pause() {
    for moment in MOMENTS {
        let (mut rig, id, consumer, _) = paused(moment);
        rig.cut();
        rig.deliveries();
        let report = rig.recover();
        assert!(report.failed.is_empty() && report.consumers == 1, "{moment:?}: {report:?}");
        let came = rig.deliveries();
        assert!(came.iter().all(|(of, _)| *of == consumer));
        assert_eq!(came.len(), 10, "{moment:?}");
        // It runs as any other.
        let tags: Vec<_> = came.iter().map(|(_, delivery)| delivery.delivery_tag()).collect();
        assert!(pause(&mut rig, id, consumer), "{moment:?}");
        settle(&mut rig, id, &[], &tags);
        assert_eq!(counts(&mut rig), (10, 0), "{moment:?}");
        assert!(ends(&rig).is_empty(), "{moment:?}");
    }
}

#[test]
fn a_channel_that_is_reopened_ends_the_pause() {
    for moment in MOMENTS {
        let (mut rig, id, consumer, _) = paused(moment);
        let recovery = Recovery::default().reopen_channels(true);
        rig.session.recover_with(recovery, 1, 0);
        rig.send(id, QueueDeclare { passive: true, ..durable("missing") });
        rig.run();
        rig.pass(Duration::from_secs(60));
        let mut numbers = delivered(&mut rig).0;
        numbers.sort_unstable();
        numbers.dedup();
        assert!(numbers.into_iter().eq(0..10), "{moment:?}");
        assert_eq!(counts(&mut rig), (0, 1), "{moment:?}");
        assert!(ends(&rig).is_empty(), "{moment:?}");
        assert!(pause(&mut rig, id, consumer), "{moment:?}");
    }
}

#[test]
fn closing_the_channel_requeues_what_it_holds() {
    for moment in MOMENTS {
        let (mut rig, id, ..) = paused(moment);
        let channel = &mut rig.channel(id);
        channel.requeue_all();
        channel.close(amqp_client_core::proto::ReplyCode::REPLY_SUCCESS, "bye");
        assert_eq!(counts(&mut rig), (10, 0), "{moment:?}");
        assert!(matches!(ends(&rig)[..], [ChannelEvent::Closed(_)]), "{moment:?}");
        assert!(rig.session.is_open());
    }
}

#[test]
fn its_tag_is_not_reused_while_it_is_paused() {
    for moment in MOMENTS {
        let (mut rig, id, ..) = paused(moment);
        let consumer_tag = short("lags");
        let consume = BasicConsume { queue: short("q"), consumer_tag, ..<_>::default() };
        let refused = rig.channel(id).request(consume);
        let expected = CommandError::Misuse(Misuse::ConsumerTagInUse);
        assert_eq!(refused.err(), Some(expected), "{moment:?}");
    }
}

/// The queue is deleted.
fn delete(rig: &mut SessionRig<Broker>) {
    rig.elsewhere(|other, id| {
        other.ask(id, QueueDelete { queue: short("q"), ..<_>::default() }).expect("it is deleted");
    });
    rig.run();
}

#[test]
fn a_queue_deleted_during_the_pause_ends_only_its_consumer() {
    let (mut rig, id, consumer, _) = paused((9, false));
    let neighbour = rig.queue(id, durable("other"));
    let neighbour = rig.consume(id, &neighbour, "neighbour");
    delete(&mut rig);
    assert!(ends(&rig).is_empty());
    rig.session.resume_consumer(id, consumer);
    rig.run();
    assert_eq!(ends(&rig), [&ChannelEvent::Cancelled { consumer }]);
    rig.elsewhere(|other, id| other.publish(id, "", "other", "hello"));
    rig.run();
    assert_eq!(rig.texts(neighbour), ["hello"]);
    rig.session.resume_consumer(id, consumer);
    rig.run();
    assert_eq!(ends(&rig).len(), 1);
}

#[test]
fn a_queue_deleted_during_the_pause_is_declared_again_by_option() {
    let (mut rig, id, consumer, _) = paused((9, false));
    let recovery = Recovery::default().on_cancel(OnCancel::Resubscribe);
    rig.session.recover_with(recovery, 1, 0);
    delete(&mut rig);
    rig.session.resume_consumer(id, consumer);
    rig.run();
    publish(&mut rig, 20..22);
    assert_eq!(rig.texts(consumer), ["20", "21"]);
    assert!(ends(&rig).is_empty());
}

#[test]
fn it_is_resumed_where_no_channel_is_free() {
    let (mut rig, id, consumer, _) = paused((9, false));
    while rig.session.open_channel().is_ok() {}
    rig.run();
    rig.session.resume_consumer(id, consumer);
    assert_eq!(counts(&mut rig), (0, 1));
    assert_eq!(rig.deliveries().len(), 5);
    assert!(ends(&rig).is_empty());
}

#[test]
fn a_session_that_does_not_recover_pauses_as_well() {
    let (mut rig, id, consumer) = {
        let mut rig = SessionRig::new(Recovery::default());
        let now = rig.now;
        rig.session.close(now, amqp_client_core::proto::ReplyCode::REPLY_SUCCESS, "bye");
        rig.run();
        rig.replace_session();
        let id = rig.open();
        let queue: ShortStr = rig.queue(id, durable("q"));
        publish(&mut rig, 0..10);
        let consumer = rig.consume(id, &queue, "lags");
        (rig, id, consumer)
    };
    let (_, tags) = delivered(&mut rig);
    assert!(pause(&mut rig, id, consumer));
    settle(&mut rig, id, &tags[..5], &tags[5..]);
    assert_eq!(counts(&mut rig), (5, 0));
    rig.session.resume_consumer(id, consumer);
    rig.run();
    assert!(delivered(&mut rig).0.into_iter().eq(5..10));
    assert!(pause(&mut rig, id, consumer));
    rig.run();
    delete(&mut rig);
    rig.session.resume_consumer(id, consumer);
    rig.run();
    assert_eq!(ends(&rig), [&ChannelEvent::Cancelled { consumer }]);
}

/// The start has no reply for the session then, and a repair that awaits it would never end. A channel that is reopened meanwhile
/// belongs to the same repair.
#[test]
fn one_that_is_dropped_while_it_starts_holds_nothing_up() {
    for cancels in [false, true] {
        let (mut rig, id, consumer, _) = starting();
        let other = rig.session.open_channel().expect("there is room");
        let recovery = Recovery::default().reopen_channels(true);
        rig.session.recover_with(recovery, 1, 0);
        let mut channel = rig.channel(id);
        if cancels {
            // The future of the cancel is dropped before the cancel is sent.
            let cancel = BasicCancel { consumer_tag: short("lags"), no_wait: false };
            let cancel = channel.request(cancel).expect("it waits");
            channel.abandon(cancel);
        } else {
            channel.discard_consumer(consumer);
        }
        rig.run();
        rig.send(other, QueueDeclare { passive: true, ..durable("missing") });
        rig.run();
        rig.pass(Duration::from_secs(60));
        assert!(rig.channel_events().any(|event| *event == ChannelEvent::Restored), "{cancels}");
        assert_eq!(counts(&mut rig).1, 0, "{cancels}");
    }
}

/// The check whether its queue exists has a channel of its own, which may be closed for any reason.
#[test]
fn it_is_resumed_if_the_check_fails_for_another_reason() {
    let mut rig = SessionRig::scripted(Recovery::default());
    rig.run();
    let id = rig.open();
    let consume = BasicConsume { queue: short("q"), consumer_tag: short("lags"), ..<_>::default() };
    let consumer = rig.send(id, consume).into();
    rig.run();
    // Only a delivery shows that the queue is no stream.
    let deliver = BasicDeliver { consumer_tag: short("lags"), delivery_tag: 1, ..<_>::default() };
    let mut channel = rig.peer.server.channel(id).expect("it is open");
    channel.send_content(deliver, &RawProperties::EMPTY, "text").expect("it is sent");
    rig.run();
    assert!(rig.session.pause_consumer(id, consumer, true));
    rig.run();
    rig.session.resume_consumer(id, consumer);
    let mut started = 0;
    rig.run_with(|server, id, method| match method {
        Method::QueueDeclare(_) => {
            let mut channel = server.channel(id).expect("it is open");
            channel.close_over(ReplyCode::INTERNAL_ERROR, "crashed", (0, 0));
        }
        method => {
            started += usize::from(matches!(method, Method::BasicConsume(_)));
            accept(server, id, method);
        }
    });
    assert_eq!(started, 1);
    assert_eq!(rig.failed_consumers(), []);
}

/// It had none when it was started.
#[test]
fn it_keeps_its_prefetch_limit() {
    let (mut rig, id, consumer) = holding();
    rig.limit(id, 3);
    let (_, tags) = delivered(&mut rig);
    assert!(pause(&mut rig, id, consumer));
    settle(&mut rig, id, &[], &tags);
    rig.run();
    rig.session.resume_consumer(id, consumer);
    rig.run();
    assert_eq!(delivered(&mut rig).0.len(), 10);
}

/// Its deliveries show that tag, so an application may cancel by it.
#[test]
fn a_cancel_by_the_tag_at_the_broker_waits_as_well_and_outlasts_a_loss() {
    let (mut rig, id, consumer, _) = starting();
    let cancel = BasicCancel { consumer_tag: short("1.lags"), no_wait: false };
    rig.channel(id).request(cancel).expect("it waits");
    let sent = rig.session.poll_transmit(rig.now);
    let methods = sent.map_or(Vec::new(), |sent| sent.chunk().to_vec());
    assert!(!methods.windows(4).any(|method| method == [0, 60, 0, 30]));
    rig.cut();
    rig.recover();
    assert_eq!(ends(&rig), [&ChannelEvent::ConsumerEnded { consumer }]);
    rig.deliveries();
    assert_eq!(counts(&mut rig).1, 0);
}

/// The reply to its first start has come, so there is nothing to discard.
#[test]
fn abandoning_its_start_behind_the_reply_changes_nothing() {
    let (mut rig, id, _) = holding();
    let consume = BasicConsume { queue: short("q"), consumer_tag: short("t"), ..<_>::default() };
    let request = rig.send(id, consume);
    rig.run();
    rig.answer(request).expect("it has started");
    publish(&mut rig, 10..14);
    rig.deliveries();
    assert!(pause(&mut rig, id, request.into()));
    rig.run();
    rig.session.resume_consumer(id, request.into());
    while !rig.channel(id).starts_consumer() {
        rig.round();
    }
    rig.channel(id).abandon(request);
    rig.run();
    assert_eq!(counts(&mut rig).1, 2);
    rig.cut();
    assert_eq!(rig.recover().consumers, 2);
}

/// Limits that are not restored after a loss are in effect until then.
#[test]
fn resuming_it_leaves_a_limit_in_effect_that_is_not_restored() {
    let (mut rig, id, consumer) = holding();
    let other = rig.queue(id, durable("other"));
    rig.elsewhere(|own, id| {
        for _ in 0..10 {
            own.publish(id, "", "other", "0");
        }
    });
    let (_, tags) = delivered(&mut rig);
    let unrestored = |rig: &mut SessionRig<Broker>, prefetch_count| {
        let limit = BasicQos { prefetch_count, ..<_>::default() };
        rig.channel(id).unrecovered().request(limit).expect("it is sent");
    };
    let count = |rig: &mut SessionRig<Broker>| rig.deliveries().len();
    assert!(pause(&mut rig, id, consumer));
    settle(&mut rig, id, &[], &tags);
    rig.limit(id, 3);
    unrestored(&mut rig, 7);
    rig.session.resume_consumer(id, consumer);
    rig.run();
    assert_eq!(count(&mut rig), 10, "it has no limit");
    let second = rig.consume(id, &other, "second");
    let (_, tags) = delivered(&mut rig);
    assert_eq!(tags.len(), 7, "the limit was set before");
    // The second one was started with that limit, and is resumed with it.
    unrestored(&mut rig, 5);
    assert!(pause(&mut rig, id, second));
    settle(&mut rig, id, &[], &tags);
    rig.run();
    rig.session.resume_consumer(id, second);
    rig.run();
    assert_eq!(count(&mut rig), 7);
    // After a loss, it has the limit that is restored.
    rig.cut();
    rig.recover();
    let restored = rig.deliveries().into_iter().filter(|(of, _)| *of == second).count();
    assert_eq!(restored, 3);
}

/// Deliveries of a dropped consumer are requeued, which takes more time than to hand out others.
#[test]
fn a_consumer_that_was_dropped_does_not_slow_down_others() {
    let (mut rig, id, consumer, _) = starting();
    rig.channel(id).discard_consumer(consumer);
    rig.run();
    assert_eq!(counts(&mut rig), (5, 0));
    let other = rig.queue(id, durable("other"));
    let other = rig.consume(id, &other, "other");
    let send = |rig: &mut SessionRig<Broker>| {
        rig.elsewhere(|own, id| own.publish(id, "", "other", "m"));
        rig.carry();
    };
    // The first delivery shows that its queue is no stream.
    send(&mut rig);
    rig.run();
    send(&mut rig);
    let fast = rig.session.poll_delivery().map(|(_, consumer, _)| consumer);
    assert_eq!(fast, Some(other));
}
