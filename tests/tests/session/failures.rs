use std::time::Duration;

use amqp_client_core::proto::method::{
    BasicCancel, BasicConsume, ExchangeDeclare, QueueDeclare, QueueDelete,
};
use amqp_client_core::proto::session::{Entity, Locked, OnCancel, Reconnect, Recovery};
use amqp_client_core::proto::{
    ChannelError, ChannelEvent, ConsumerId, FieldTable, ReplyCode, SessionEvent, TimerReason,
};
use amqp_test_broker::Scope;

use crate::harness::Broker;
use crate::rig::{SessionRig, durable, exclusive, nameless, short};

fn code(error: &ChannelError) -> Option<ReplyCode> {
    error.reply_code()
}

/// Replaces a queue by one that is not like it.
fn spoil(rig: &mut SessionRig<Broker>, name: &str) {
    rig.elsewhere(|other, id| {
        other.ask(id, QueueDelete { queue: short(name), ..<_>::default() });
        let other_kind = QueueDeclare { auto_delete: true, ..durable(name) };
        other.queue(id, other_kind);
    });
}

#[test]
fn a_refusal_is_reported_and_affects_nothing_else() {
    let mut rig = SessionRig::new(Recovery::default());
    let id = rig.open();
    for name in ["a", "b", "c", "d"] {
        let queue = rig.queue(id, durable(name));
        rig.bind(id, &queue, "amq.direct", name);
        rig.consume(id, &queue, name);
    }
    let named = rig.queue(id, nameless());
    rig.bind(id, &named, "amq.direct", "nameless");
    rig.exchange(id, "spoilt", "fanout");
    let both = rig.queue(id, durable("both"));
    rig.bind(id, &both, "spoilt", "");
    rig.cut();
    spoil(&mut rig, "b");
    spoil(&mut rig, "d");
    rig.elsewhere(|other, id| {
        let delete = amqp_client_core::proto::method::ExchangeDelete {
            exchange: short("spoilt"),
            ..<_>::default()
        };
        other.ask(id, delete);
        let declare =
            ExchangeDeclare { exchange: short("spoilt"), kind: short("direct"), ..<_>::default() };
        other.ask(id, declare).expect("it is declared");
    });
    let report = rig.recover();
    let failed: Vec<_> =
        report.failed.iter().map(|(entity, error)| (entity.to_string(), code(error))).collect();
    let refused = Some(ReplyCode::PRECONDITION_FAILED);
    let entities = ["exchange 'spoilt'", "queue 'b'", "queue 'd'"];
    for entity in entities {
        assert!(failed.contains(&(entity.to_owned(), refused)), "{failed:?}");
    }
    let consumers = failed.iter().filter(|(entity, _)| entity.starts_with("consumer")).count();
    assert_eq!((consumers, failed.len()), (2, 5), "{failed:?}");
    assert_eq!((report.queues, report.consumers, report.exchanges), (4, 2, 0));
    // The binding to the exchange that is another now was made all the same, as it is there.
    assert_eq!((report.bindings, report.renamed.len()), (4, 1));
    let ended =
        rig.channel_events().filter(|event| matches!(event, ChannelEvent::ConsumerFailed { .. }));
    assert_eq!(ended.count(), 2);
    rig.publish(id, "amq.direct", "c", "usable");
    rig.run();
    assert_eq!(rig.deliveries().len(), 1);
}

#[test]
fn a_consumer_without_its_queue_names_the_queue() {
    let mut rig = SessionRig::new(Recovery::default());
    let id = rig.open();
    let queue = rig.queue(id, durable("q"));
    rig.consume(id, &queue, "tag");
    rig.cut();
    rig.elsewhere(|other, id| {
        other.ask(id, QueueDelete { queue: short("q"), ..<_>::default() });
        other.queue(id, QueueDeclare { durable: false, ..durable("q") });
    });
    let report = rig.recover();
    let failed = report.failed.iter().find(|(entity, _)| matches!(entity, Entity::Consumer { .. }));
    let (_, error) = failed.expect("its queue is another now");
    assert_eq!(code(error), Some(ReplyCode::NOT_FOUND));
    // The error has the cause, not the close of the internal channel.
    let expected = "not restored after the connection was lost: its queue \"q\" could not be declared again: 406";
    let cause = "406 PRECONDITION_FAILED: inequivalent arg 'durable' for queue 'q' in vhost '/'";
    let shown = error.to_string();
    assert!(shown.starts_with(expected) && shown.contains(cause), "{shown}");
}

#[test]
fn a_refused_consumer_ends_and_the_others_of_its_channel_continue() {
    let mut rig = SessionRig::new(Recovery::default());
    let (declarer, id) = (rig.open(), rig.open());
    let mut consumers = Vec::new();
    for name in ["a", "b", "c"] {
        let queue = short(name);
        // Not on the session's own account, so that nothing declares it again.
        let channel = rig.channel(declarer);
        channel.unrecovered().request(durable(name)).expect("it is sent");
        rig.run();
        consumers.push(rig.consume(id, &queue, name));
    }
    rig.limit(id, 5);
    rig.cut();
    rig.elsewhere(|other, id| {
        other.ask(id, QueueDelete { queue: short("b"), ..<_>::default() });
    });
    let report = rig.recover();
    assert_eq!(report.failed.len(), 1);
    let (entity, error) = &report.failed[0];
    assert!(matches!(entity, Entity::Consumer { consumer, .. } if *consumer == consumers[1]));
    assert_eq!(code(error), Some(ReplyCode::NOT_FOUND));
    for name in ["a", "c"] {
        rig.publish(id, "", name, name);
    }
    rig.run();
    let delivered: Vec<_> = rig.deliveries().into_iter().map(|(consumer, _)| consumer).collect();
    assert_eq!(delivered, [consumers[0], consumers[2]]);
    assert_eq!(rig.peer.engine.take_violation(), None);
}

#[test]
fn a_queue_that_is_locked_is_tried_again_until_it_is_not() {
    let mut rig = SessionRig::new(Recovery::default());
    let id = rig.open();
    let mine = exclusive("mine");
    let queue = rig.queue(id, mine.clone());
    rig.bind(id, &queue, "amq.direct", "mine");
    let consumer = rig.consume(id, &queue, "tag");
    rig.cut();
    // As if the broker did not know yet that the connection is lost.
    let other = rig.declare_elsewhere(mine);
    let report = rig.recover();
    assert_eq!(report.locked, [Entity::Queue(queue)]);
    assert_eq!((report.queues, report.consumers, report.failed.len()), (0, 0, 0));
    // Everything else goes on.
    rig.queue(id, durable("else"));
    for _ in 0..5 {
        rig.pass(Duration::from_secs(1));
    }
    assert!(!rig.session_events().any(|event| matches!(event, SessionEvent::Restored { .. })));
    rig.peer.engine.handle_eof(other, rig.now);
    rig.pass(Duration::from_secs(1));
    let restored: Vec<_> = rig
        .session_events()
        .filter_map(|event| match event {
            SessionEvent::Restored { entity } => Some(entity.to_string()),
            _ => None,
        })
        .collect();
    assert_eq!(restored.len(), 3, "{restored:?}");
    rig.publish(id, "amq.direct", "mine", "back");
    rig.run();
    assert_eq!(rig.texts(consumer), ["back"]);
}

#[test]
fn a_consumer_that_is_not_started_again_yet_ends_when_it_is_cancelled() {
    for no_wait in [true, false] {
        let mut rig = SessionRig::new(Recovery::default());
        let id = rig.open();
        let (consumer, _) = rig.lose_queue(id, "mine", "tag");
        assert_eq!(rig.recover().locked.len(), 1);
        let cancel = BasicCancel { consumer_tag: short("tag"), no_wait };
        rig.send(id, cancel);
        rig.run();
        let ended = ChannelEvent::ConsumerEnded { consumer };
        let times = rig.channel_events().filter(|event| **event == ended).count();
        assert_eq!(times, 1, "no_wait: {no_wait}");
    }
}

#[test]
fn a_locked_queue_can_fail_at_once() {
    let mut rig = SessionRig::with(|recovery| recovery.locked(Locked::Fail));
    let id = rig.open();
    rig.lose_queue(id, "mine", "tag");
    let report = rig.recover();
    assert_eq!(report.failed.len(), 2);
    assert_eq!(code(&report.failed[0].1), Some(ReplyCode::RESOURCE_LOCKED));
}

#[test]
fn a_channel_closed_by_an_error_can_be_reopened() {
    let mut rig = SessionRig::with(|recovery| recovery.reopen_channels(true));
    let id = rig.open();
    let queue = rig.queue(id, durable("queue"));
    rig.confirm(id);
    let consumer = rig.consume(id, &queue, "tag");
    rig.publish(id, "", "queue", "again");
    rig.run();
    let before = rig.deliveries();
    rig.events.clear();
    let missing = QueueDeclare { passive: true, ..durable("missing") };
    let failing = rig.send(id, missing);
    rig.run();
    let error = rig.failure(failing).expect("it fails").clone();
    assert!(format!("{error:?}").contains("no queue 'missing'"), "{error}");
    assert!(rig.channel_events().any(|event| matches!(event, ChannelEvent::Restored)));
    assert!(!rig.channel_events().any(|event| matches!(event, ChannelEvent::Closed(_))));
    let after = rig.deliveries();
    assert_eq!((after.len(), after[0].0), (1, consumer));
    let channel = &mut rig.channel(id);
    assert!(channel.ack(before[0].1.delivery_tag()).is_err());
    channel.ack(after[0].1.delivery_tag()).expect("it waits for it");
    assert!(rig.publish(id, "", "queue", "confirmed").is_some());
    rig.run();
    assert!(rig.session.is_open());
    assert_eq!(rig.peer.engine.take_violation(), None);
}

#[test]
fn a_consumer_that_the_broker_cancels_ends_or_starts_again() {
    for on_cancel in [OnCancel::End, OnCancel::Resubscribe] {
        let mut rig = SessionRig::with(|recovery| recovery.on_cancel(on_cancel));
        let id = rig.open();
        let queue = rig.queue(id, durable("queue"));
        rig.bind(id, &queue, "amq.direct", "key");
        let consumer = rig.consume(id, &queue, "tag");
        rig.elsewhere(|other, id| {
            other.ask(id, QueueDelete { queue: short("queue"), ..<_>::default() });
        });
        rig.run();
        let cancelled = rig.channel_events().any(|event| {
            matches!(event, ChannelEvent::Cancelled { consumer: found } if *found == consumer)
        });
        rig.publish(id, "amq.direct", "key", "again");
        rig.run();
        let texts = rig.texts(consumer);
        match on_cancel {
            OnCancel::Resubscribe => assert_eq!((cancelled, texts), (false, vec!["again".into()])),
            _ => assert_eq!((cancelled, texts), (true, vec![])),
        }
        // A consumer that has ended is not restored.
        rig.cut();
        let consumers = usize::from(on_cancel == OnCancel::Resubscribe);
        assert_eq!(rig.recover().consumers, consumers);
    }
}

/// The broker cancels the consumer with that tag.
fn cancel(rig: &mut SessionRig<Broker>, tag: &str) {
    let view = rig.peer.engine.consumers().find(|own| own.tag == tag).expect("it runs");
    rig.peer.engine.cancel_consumer(rig.now, &view);
}

#[test]
fn a_consumer_that_starts_again_is_not_mistaken_for_the_one_that_was_cancelled() {
    let mut rig = SessionRig::with(|recovery| recovery.on_cancel(OnCancel::Resubscribe));
    let id = rig.open();
    let arguments = FieldTable::new().with("x-queue-type", "quorum").expect("it fits");
    let queue = rig.queue(id, QueueDeclare { arguments, ..durable("queue") });
    let consumer = rig.consume(id, &queue, "tag");
    rig.publish(id, "", "queue", "unsettled");
    rig.run();
    let before = rig.deliveries();
    // A consumer timeout of RabbitMQ does this: the channel stays open, and the delivery unsettled.
    cancel(&mut rig, "tag");
    rig.run();
    rig.publish(id, "", "queue", "after");
    rig.run();
    assert_eq!(rig.texts(consumer), ["after"]);
    let mut channel = rig.channel(id);
    channel.ack(before[0].1.delivery_tag()).expect("it is unsettled");
    rig.run();
    assert_eq!(rig.peer.engine.take_violation(), None);
    // Both tags mean the consumer.
    let cancel = rig.send(id, BasicCancel { consumer_tag: short("tag"), no_wait: false });
    rig.run();
    assert!(rig.answer(cancel).is_some());
    assert_eq!(rig.peer.engine.consumers().count(), 0);
}

#[test]
fn a_consumer_that_cannot_start_again_leaves_others_of_its_queue_alone() {
    let mut rig = SessionRig::with(|recovery| recovery.on_cancel(OnCancel::Resubscribe));
    let id = rig.open();
    let queue = rig.queue(id, durable("queue"));
    let first = rig.consume(id, &queue, "first");
    let second = rig.consume(id, &queue, "second");
    rig.peer.engine.refuse_next((50, 10), 1, Scope::Channel);
    cancel(&mut rig, "first");
    rig.run();
    assert_eq!(rig.failed_consumers(), [first]);
    // The broker has it still: if its deliveries went nowhere, they would stay unacknowledged.
    rig.publish(id, "", "queue", "there");
    rig.run();
    assert_eq!(rig.texts(second), ["there"]);
}

#[test]
fn a_queue_that_could_not_be_declared_may_be_declared_a_moment_later() {
    let mut rig = SessionRig::with(|recovery| recovery.on_cancel(OnCancel::Resubscribe));
    let id = rig.open();
    let (queue, other) = (rig.queue(id, durable("queue")), rig.queue(id, durable("other")));
    let first = rig.consume(id, &queue, "first");
    let second = rig.consume(id, &queue, "second");
    rig.consume(id, &other, "third");
    rig.peer.engine.refuse_next((50, 10), 1, Scope::Channel);
    cancel(&mut rig, "first");
    cancel(&mut rig, "third");
    while rig.failed_consumers().is_empty() {
        rig.round();
    }
    // The third one is not back yet, so this belongs to the same repair.
    assert_eq!(rig.peer.engine.consumers().count(), 1);
    cancel(&mut rig, "second");
    rig.run();
    assert_eq!(rig.failed_consumers(), [first]);
    rig.publish(id, "", "queue", "there");
    rig.run();
    assert_eq!(rig.texts(second), ["there"]);
}

#[test]
fn a_consumer_of_a_deleted_queue_cannot_start_again() {
    let mut rig = SessionRig::with(|recovery| recovery.on_cancel(OnCancel::Resubscribe));
    let id = rig.open();
    let channel = rig.channel(id);
    channel.unrecovered().request(durable("others")).expect("it is sent");
    rig.run();
    let consumer = rig.consume(id, &short("others"), "tag");
    rig.elsewhere(|other, id| {
        other.ask(id, QueueDelete { queue: short("others"), ..<_>::default() });
    });
    rig.run();
    let failed = rig.channel_events().any(|event| {
        matches!(event, ChannelEvent::ConsumerFailed { consumer: found, .. } if *found == consumer)
    });
    assert!(failed, "{:?}", rig.events);
    let consume = BasicConsume { queue: short("others"), ..<_>::default() };
    assert!(rig.channel(id).request(consume).is_ok());
}

#[test]
fn with_all_channels_in_use_recovery_makes_do_with_one_of_them() {
    let mut rig = SessionRig::with(|recovery| recovery.on_cancel(OnCancel::Resubscribe));
    let max = rig.session.negotiated().expect("it is open").channel_max;
    let id = rig.open();
    let queue = rig.queue(id, durable("queue"));
    let spoilt = rig.queue(id, durable("spoilt"));
    rig.bind(id, &queue, "amq.direct", "key");
    let consumer = rig.consume(id, &queue, "tag");
    rig.consume(id, &spoilt, "other");
    for _ in 1..max {
        rig.session.open_channel().expect("there is room");
    }
    rig.run();
    rig.cut();
    spoil(&mut rig, "spoilt");
    let report = rig.recover();
    assert_eq!((report.queues, report.bindings, report.consumers), (1, 1, 1));
    assert_eq!((report.channels, report.failed.len()), (max.into(), 2));
    rig.publish(id, "amq.direct", "key", "back");
    rig.run();
    assert_eq!(rig.texts(consumer), ["back"]);

    // While the rest goes on, none of them is free for asking.
    rig.elsewhere(|other, id| {
        other.ask(id, QueueDelete { queue: short("queue"), ..<_>::default() });
    });
    rig.run();
    let error = rig.channel_events().find_map(|event| match event {
        ChannelEvent::ConsumerFailed { consumer: found, error } if *found == consumer => {
            Some(error)
        }
        _ => None,
    });
    let error = error.expect("it has ended").to_string();
    assert!(error.ends_with("could not be declared again: all channels are in use"), "{error}");
    rig.queue(id, durable("usable"));
}

/// The report has promised that it will be.
#[test]
fn locked_entities_are_retried_once_a_channel_is_free() {
    let mut rig = SessionRig::new(Recovery::default());
    let max = rig.session.negotiated().expect("it is open").channel_max;
    let id = rig.open();
    let mine = QueueDeclare { queue: short("mine"), exclusive: true, ..<_>::default() };
    let queue = rig.queue(id, mine.clone());
    let consumer = rig.consume(id, &queue, "tag");
    let spare = rig.open();
    for _ in 2..max {
        rig.session.open_channel().expect("there is room");
    }
    rig.run();
    rig.cut();
    let other = rig.elsewhere(|other, id| {
        other.queue(id, mine);
        other.peer.client.expect("it is connected")
    });
    assert_eq!(rig.recover().locked, [Entity::Queue(queue)]);
    rig.peer.engine.handle_eof(other, rig.now);
    for _ in 0..5 {
        rig.pass(Duration::from_secs(1));
    }
    let ended = |event: &ChannelEvent| matches!(event, ChannelEvent::ConsumerFailed { .. });
    assert!(!rig.channel_events().any(ended));
    assert!(rig.session.poll_timeout().is_some_and(|(at, _)| at > rig.now));
    let mut channel = rig.channel(spare);
    channel.close(ReplyCode::REPLY_SUCCESS, "");
    rig.run();
    rig.pass(Duration::from_secs(1));
    rig.publish(id, "", "mine", "back");
    rig.run();
    assert_eq!(rig.texts(consumer), ["back"]);
}

#[test]
fn locked_entities_are_not_retried_without_a_connection() {
    let mut rig = SessionRig::new(Recovery::default());
    let id = rig.open();
    let mine = exclusive("mine");
    rig.queue(id, mine.clone());
    rig.cut();
    rig.declare_elsewhere(mine);
    assert_eq!(rig.recover().locked.len(), 1);
    assert!(rig.session.poll_timeout().is_some_and(|(at, _)| at > rig.now));
    rig.reachable = false;
    rig.cut();
    // There is nothing to be done at any time but to connect.
    let (next, _) = rig.session.poll_timeout().expect("there is a next attempt");
    assert_eq!(rig.session.poll_reconnect(rig.now), Reconnect::Wait(next));
    rig.pass(Duration::from_secs(5));
    assert_eq!(rig.session.poll_timeout(), Some((next, TimerReason::Recovery)));
}

/// Returns how often that consumer was reported as ended by its cancel.
fn ends(rig: &SessionRig<Broker>, consumer: ConsumerId) -> usize {
    let ended = |event: &&ChannelEvent| **event == ChannelEvent::ConsumerEnded { consumer };
    rig.channel_events().filter(ended).count()
}

#[test]
fn a_cancel_on_its_way_at_the_loss_ends_its_consumer() {
    let cancel = || BasicCancel { consumer_tag: short("tag"), no_wait: false };
    // Awaited, abandoned, without a reply; and the same while there is no connection, where it may wait for one.
    for (way, lost) in [(0, true), (1, true), (2, true), (0, false), (1, false), (2, false)] {
        let mut rig = SessionRig::new(Recovery::default());
        let id = rig.open();
        let queue = rig.queue(id, durable("queue"));
        let consumer = rig.consume(id, &queue, "tag");
        rig.events.clear();
        if !lost {
            rig.cut();
        }
        match way {
            2 => drop(rig.send(id, BasicCancel { no_wait: true, ..cancel() })),
            _ => {
                let request = rig.send(id, cancel());
                if way == 1 {
                    rig.channel(id).abandon(request);
                    rig.run();
                    assert_eq!(ends(&rig, consumer), 1, "given up ({lost})");
                }
            }
        }
        if lost {
            rig.cut();
            assert_eq!(ends(&rig, consumer), 1, "way {way} at the loss");
        }
        rig.recover();
        rig.run();
        assert_eq!(ends(&rig, consumer), 1, "way {way} ({lost})");
        assert_eq!(rig.queue_count(id, "queue").1, 0, "way {way} ({lost}): it runs");
    }
}

#[test]
fn a_consumer_that_waits_for_its_locked_queue_ends_when_it_is_cancelled() {
    for way in 0..3 {
        let mut rig = SessionRig::new(Recovery::default());
        let id = rig.open();
        let (consumer, other) = rig.lose_queue(id, "mine", "tag");
        assert_eq!(rig.recover().locked.len(), 1);
        let cancel = BasicCancel { consumer_tag: short("tag"), no_wait: way == 2 };
        let request = rig.send(id, cancel);
        match way {
            0 => rig.run(),
            1 => rig.channel(id).abandon(request),
            _ => {}
        }
        rig.run();
        assert_eq!(ends(&rig, consumer), 1, "way {way}");
        // It does not start when its queue can be used, and its tag is free.
        rig.peer.engine.handle_eof(other, rig.now);
        (0..5).for_each(|_| rig.pass(Duration::from_secs(1)));
        assert_eq!(rig.queue_count(id, "mine").1, 0, "way {way}");
        let next = rig.consume(id, &short("mine"), "tag");
        rig.publish(id, "", "mine", "m");
        rig.run();
        assert_eq!(rig.texts(next), ["m"], "way {way}");
        assert_eq!((ends(&rig, consumer), ends(&rig, next)), (1, 0), "way {way}");
    }
}

#[test]
fn a_tag_is_free_again_after_a_cancel_without_reply() {
    let mut rig = SessionRig::new(Recovery::default());
    let id = rig.open();
    let queue = rig.queue(id, durable("queue"));
    for round in 0..3 {
        let consumer = rig.consume(id, &queue, "tag");
        rig.send(id, BasicCancel { consumer_tag: short("tag"), no_wait: true });
        rig.run();
        assert_eq!(ends(&rig, consumer), 1, "round {round}");
        assert_eq!(rig.queue_count(id, "queue").1, 0, "round {round}");
    }
    let consumer = rig.consume(id, &queue, "tag");
    rig.publish(id, "", "queue", "m");
    rig.run();
    assert_eq!(rig.texts(consumer), ["m"]);
}

#[test]
fn the_end_of_a_consumer_that_waits_is_reported_once() {
    let mut rig = SessionRig::new(Recovery::default());
    let id = rig.open();
    let (consumer, _other) = rig.lose_queue(id, "mine", "c");
    rig.send(id, BasicCancel { consumer_tag: short("c"), no_wait: false });
    assert_eq!(rig.recover().locked.len(), 1);
    rig.run();
    rig.cut();
    rig.recover();
    let ended = ChannelEvent::ConsumerEnded { consumer };
    assert_eq!(rig.channel_events().filter(|event| **event == ended).count(), 1);
}
