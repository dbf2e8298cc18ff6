use std::time::Duration;

use amqp_client_core::proto::method::{
    BasicCancel, BasicConsume, ExchangeDeclare, QueueDeclare, QueueDelete,
};
use amqp_client_core::proto::session::{Entity, Locked, OnCancel, Reconnect, Recovery};
use amqp_client_core::proto::{
    ChannelError, ChannelEvent, ConsumerId, FieldTable, ReplyCode, SessionEvent, TimerReason,
};
use amqp_test_broker::Scope;

use crate::world::{World, durable, exclusive, nameless, short};

fn code(error: &ChannelError) -> Option<ReplyCode> {
    error.reply_code()
}

/// Replaces a queue by one that is not like it.
fn spoil(world: &mut World, name: &str) {
    world.elsewhere(|other, id| {
        other.ask(id, QueueDelete { queue: short(name), ..<_>::default() });
        let other_kind = QueueDeclare { auto_delete: true, ..durable(name) };
        other.queue(id, other_kind);
    });
}

#[test]
fn a_refusal_is_reported_and_affects_nothing_else() {
    let mut world = World::new(Recovery::default());
    let id = world.open();
    for name in ["a", "b", "c", "d"] {
        let queue = world.queue(id, durable(name));
        world.bind(id, &queue, "amq.direct", name);
        world.consume(id, &queue, name);
    }
    let named = world.queue(id, nameless());
    world.bind(id, &named, "amq.direct", "nameless");
    world.exchange(id, "spoilt", "fanout");
    let both = world.queue(id, durable("both"));
    world.bind(id, &both, "spoilt", "");
    world.cut();
    spoil(&mut world, "b");
    spoil(&mut world, "d");
    world.elsewhere(|other, id| {
        let delete = amqp_client_core::proto::method::ExchangeDelete {
            exchange: short("spoilt"),
            ..<_>::default()
        };
        other.ask(id, delete);
        let declare =
            ExchangeDeclare { exchange: short("spoilt"), kind: short("direct"), ..<_>::default() };
        other.ask(id, declare).expect("it is declared");
    });
    let report = world.recover();
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
        world.channel_events().filter(|event| matches!(event, ChannelEvent::ConsumerFailed { .. }));
    assert_eq!(ended.count(), 2);
    world.publish(id, "amq.direct", "c", "usable");
    world.run();
    assert_eq!(world.deliveries().len(), 1);
}

#[test]
fn a_consumer_without_its_queue_names_the_queue() {
    let mut world = World::new(Recovery::default());
    let id = world.open();
    let queue = world.queue(id, durable("q"));
    world.consume(id, &queue, "tag");
    world.cut();
    world.elsewhere(|other, id| {
        other.ask(id, QueueDelete { queue: short("q"), ..<_>::default() });
        other.queue(id, QueueDeclare { durable: false, ..durable("q") });
    });
    let report = world.recover();
    let failed = report.failed.iter().find(|(entity, _)| matches!(entity, Entity::Consumer { .. }));
    let (_, error) = failed.expect("its queue is another now");
    assert_eq!(code(error), Some(ReplyCode::NOT_FOUND));
    // The error has the cause, not the close of the internal channel.
    let expected = "not restored after the connection was lost: its queue \"q\" could not be declared again: channel";
    let cause = "closed by the peer: 406 PRECONDITION_FAILED: inequivalent arg 'durable' for queue 'q' in vhost '/'";
    let shown = error.to_string();
    assert!(shown.starts_with(expected) && shown.contains(cause), "{shown}");
}

#[test]
fn a_refused_consumer_ends_and_the_others_of_its_channel_continue() {
    let mut world = World::new(Recovery::default());
    let (declarer, id) = (world.open(), world.open());
    let mut consumers = Vec::new();
    for name in ["a", "b", "c"] {
        let queue = short(name);
        // Not on the session's own account, so that nothing declares it again.
        let channel = world.session.channel(declarer).expect("it is open");
        channel.unrecovered().request(durable(name)).expect("it is sent");
        world.run();
        consumers.push(world.consume(id, &queue, name));
    }
    world.limit(id, 5);
    world.cut();
    world.elsewhere(|other, id| {
        other.ask(id, QueueDelete { queue: short("b"), ..<_>::default() });
    });
    let report = world.recover();
    assert_eq!(report.failed.len(), 1);
    let (entity, error) = &report.failed[0];
    assert!(matches!(entity, Entity::Consumer { consumer, .. } if *consumer == consumers[1]));
    assert_eq!(code(error), Some(ReplyCode::NOT_FOUND));
    for name in ["a", "c"] {
        world.publish(id, "", name, name);
    }
    world.run();
    let delivered: Vec<_> = world.deliveries().into_iter().map(|(consumer, _)| consumer).collect();
    assert_eq!(delivered, [consumers[0], consumers[2]]);
    assert_eq!(world.broker.take_violation(), None);
}

#[test]
fn a_queue_that_is_locked_is_tried_again_until_it_is_not() {
    let mut world = World::new(Recovery::default());
    let id = world.open();
    let mine = exclusive("mine");
    let queue = world.queue(id, mine.clone());
    world.bind(id, &queue, "amq.direct", "mine");
    let consumer = world.consume(id, &queue, "tag");
    world.cut();
    // As if the broker did not know yet that the connection is lost.
    let other = world.declare_elsewhere(mine);
    let report = world.recover();
    assert_eq!(report.locked, [Entity::Queue(queue)]);
    assert_eq!((report.queues, report.consumers, report.failed.len()), (0, 0, 0));
    // Everything else goes on.
    world.queue(id, durable("else"));
    for _ in 0..5 {
        world.pass(Duration::from_secs(1));
    }
    assert!(!world.session_events().any(|event| matches!(event, SessionEvent::Restored { .. })));
    world.broker.handle_eof(other, world.now);
    world.pass(Duration::from_secs(1));
    let restored: Vec<_> = world
        .session_events()
        .filter_map(|event| match event {
            SessionEvent::Restored { entity } => Some(entity.to_string()),
            _ => None,
        })
        .collect();
    assert_eq!(restored.len(), 3, "{restored:?}");
    world.publish(id, "amq.direct", "mine", "back");
    world.run();
    assert_eq!(world.texts(consumer), ["back"]);
}

#[test]
fn a_consumer_that_is_not_started_again_yet_ends_when_it_is_cancelled() {
    for no_wait in [true, false] {
        let mut world = World::new(Recovery::default());
        let id = world.open();
        let (consumer, _) = world.lose_queue(id, "mine", "tag");
        assert_eq!(world.recover().locked.len(), 1);
        let cancel = BasicCancel { consumer_tag: short("tag"), no_wait };
        world.send(id, cancel);
        world.run();
        let ended = ChannelEvent::ConsumerEnded { consumer };
        let times = world.channel_events().filter(|event| **event == ended).count();
        assert_eq!(times, 1, "no_wait: {no_wait}");
    }
}

#[test]
fn a_locked_queue_can_fail_at_once() {
    let mut world = World::with(|recovery| recovery.locked = Locked::Fail);
    let id = world.open();
    world.lose_queue(id, "mine", "tag");
    let report = world.recover();
    assert_eq!(report.failed.len(), 2);
    assert_eq!(code(&report.failed[0].1), Some(ReplyCode::RESOURCE_LOCKED));
}

#[test]
fn a_channel_closed_by_an_error_can_be_reopened() {
    let mut world = World::with(|recovery| recovery.reopen_channels = true);
    let id = world.open();
    let queue = world.queue(id, durable("queue"));
    world.confirm(id);
    let consumer = world.consume(id, &queue, "tag");
    world.publish(id, "", "queue", "again");
    world.run();
    let before = world.deliveries();
    world.events.clear();
    let missing = QueueDeclare { passive: true, ..durable("missing") };
    let failing = world.send(id, missing);
    world.run();
    let error = world.failure(failing).expect("it fails").clone();
    assert!(format!("{error:?}").contains("no queue 'missing'"), "{error}");
    assert!(world.channel_events().any(|event| matches!(event, ChannelEvent::Restored)));
    assert!(!world.channel_events().any(|event| matches!(event, ChannelEvent::Closed(_))));
    let after = world.deliveries();
    assert_eq!((after.len(), after[0].0), (1, consumer));
    let channel = &mut world.session.channel(id).expect("it is open");
    assert!(channel.ack(before[0].1.delivery_tag()).is_err());
    channel.ack(after[0].1.delivery_tag()).expect("it waits for it");
    assert!(world.publish(id, "", "queue", "confirmed").is_some());
    world.run();
    assert!(world.session.is_open());
    assert_eq!(world.broker.take_violation(), None);
}

#[test]
fn a_consumer_that_the_broker_cancels_ends_or_starts_again() {
    for on_cancel in [OnCancel::End, OnCancel::Resubscribe] {
        let mut world = World::with(|recovery| recovery.on_cancel = on_cancel);
        let id = world.open();
        let queue = world.queue(id, durable("queue"));
        world.bind(id, &queue, "amq.direct", "key");
        let consumer = world.consume(id, &queue, "tag");
        world.elsewhere(|other, id| {
            other.ask(id, QueueDelete { queue: short("queue"), ..<_>::default() });
        });
        world.run();
        let cancelled = world.channel_events().any(|event| {
            matches!(event, ChannelEvent::Cancelled { consumer: found } if *found == consumer)
        });
        world.publish(id, "amq.direct", "key", "again");
        world.run();
        let texts = world.texts(consumer);
        match on_cancel {
            OnCancel::Resubscribe => assert_eq!((cancelled, texts), (false, vec!["again".into()])),
            _ => assert_eq!((cancelled, texts), (true, vec![])),
        }
        // A consumer that has ended is not restored.
        world.cut();
        let consumers = usize::from(on_cancel == OnCancel::Resubscribe);
        assert_eq!(world.recover().consumers, consumers);
    }
}

/// The broker cancels the consumer with that tag.
fn cancel(world: &mut World, tag: &str) {
    let view = world.broker.consumers().find(|own| own.tag == tag).expect("it runs");
    world.broker.cancel_consumer(world.now, &view);
}

fn failed(world: &World) -> Vec<ConsumerId> {
    let failed = world.channel_events().filter_map(|event| match event {
        ChannelEvent::ConsumerFailed { consumer, .. } => Some(*consumer),
        _ => None,
    });
    failed.collect()
}

#[test]
fn a_consumer_that_starts_again_is_not_mistaken_for_the_one_that_was_cancelled() {
    let mut world = World::with(|recovery| recovery.on_cancel = OnCancel::Resubscribe);
    let id = world.open();
    let arguments = FieldTable::new().with("x-queue-type", "quorum").expect("it fits");
    let queue = world.queue(id, QueueDeclare { arguments, ..durable("queue") });
    let consumer = world.consume(id, &queue, "tag");
    world.publish(id, "", "queue", "unsettled");
    world.run();
    let before = world.deliveries();
    // A consumer timeout of RabbitMQ does this: the channel stays open, and the delivery unsettled.
    cancel(&mut world, "tag");
    world.run();
    world.publish(id, "", "queue", "after");
    world.run();
    assert_eq!(world.texts(consumer), ["after"]);
    let mut channel = world.session.channel(id).expect("it is open");
    channel.ack(before[0].1.delivery_tag()).expect("it is unsettled");
    world.run();
    assert_eq!(world.broker.take_violation(), None);
    // Both tags mean the consumer.
    let cancel = world.send(id, BasicCancel { consumer_tag: short("tag"), no_wait: false });
    world.run();
    assert!(world.answer(cancel).is_some());
    assert_eq!(world.broker.consumers().count(), 0);
}

#[test]
fn a_consumer_that_cannot_start_again_leaves_others_of_its_queue_alone() {
    let mut world = World::with(|recovery| recovery.on_cancel = OnCancel::Resubscribe);
    let id = world.open();
    let queue = world.queue(id, durable("queue"));
    let first = world.consume(id, &queue, "first");
    let second = world.consume(id, &queue, "second");
    world.broker.refuse_next((50, 10), 1, Scope::Channel);
    cancel(&mut world, "first");
    world.run();
    assert_eq!(failed(&world), [first]);
    // The broker has it still: if its deliveries went nowhere, they would stay unacknowledged.
    world.publish(id, "", "queue", "there");
    world.run();
    assert_eq!(world.texts(second), ["there"]);
}

#[test]
fn a_queue_that_could_not_be_declared_may_be_declared_a_moment_later() {
    let mut world = World::with(|recovery| recovery.on_cancel = OnCancel::Resubscribe);
    let id = world.open();
    let (queue, other) = (world.queue(id, durable("queue")), world.queue(id, durable("other")));
    let first = world.consume(id, &queue, "first");
    let second = world.consume(id, &queue, "second");
    world.consume(id, &other, "third");
    world.broker.refuse_next((50, 10), 1, Scope::Channel);
    cancel(&mut world, "first");
    cancel(&mut world, "third");
    while failed(&world).is_empty() {
        world.round();
    }
    // The third one is not back yet, so this belongs to the same repair.
    assert_eq!(world.broker.consumers().count(), 1);
    cancel(&mut world, "second");
    world.run();
    assert_eq!(failed(&world), [first]);
    world.publish(id, "", "queue", "there");
    world.run();
    assert_eq!(world.texts(second), ["there"]);
}

#[test]
fn a_consumer_of_a_deleted_queue_cannot_start_again() {
    let mut world = World::with(|recovery| recovery.on_cancel = OnCancel::Resubscribe);
    let id = world.open();
    let channel = world.session.channel(id).expect("it is open");
    channel.unrecovered().request(durable("others")).expect("it is sent");
    world.run();
    let consumer = world.consume(id, &short("others"), "tag");
    world.elsewhere(|other, id| {
        other.ask(id, QueueDelete { queue: short("others"), ..<_>::default() });
    });
    world.run();
    let failed = world.channel_events().any(|event| {
        matches!(event, ChannelEvent::ConsumerFailed { consumer: found, .. } if *found == consumer)
    });
    assert!(failed, "{:?}", world.events);
    let consume = BasicConsume { queue: short("others"), ..<_>::default() };
    assert!(world.session.channel(id).expect("it is open").request(consume).is_ok());
}

#[test]
fn with_all_channels_in_use_recovery_makes_do_with_one_of_them() {
    let mut world = World::with(|recovery| recovery.on_cancel = OnCancel::Resubscribe);
    let max = world.session.negotiated().expect("it is open").channel_max;
    let id = world.open();
    let queue = world.queue(id, durable("queue"));
    let spoilt = world.queue(id, durable("spoilt"));
    world.bind(id, &queue, "amq.direct", "key");
    let consumer = world.consume(id, &queue, "tag");
    world.consume(id, &spoilt, "other");
    for _ in 1..max {
        world.session.open_channel().expect("there is room");
    }
    world.run();
    world.cut();
    spoil(&mut world, "spoilt");
    let report = world.recover();
    assert_eq!((report.queues, report.bindings, report.consumers), (1, 1, 1));
    assert_eq!((report.channels, report.failed.len()), (max.into(), 2));
    world.publish(id, "amq.direct", "key", "back");
    world.run();
    assert_eq!(world.texts(consumer), ["back"]);

    // While the rest goes on, none of them is free for asking.
    world.elsewhere(|other, id| {
        other.ask(id, QueueDelete { queue: short("queue"), ..<_>::default() });
    });
    world.run();
    let error = world.channel_events().find_map(|event| match event {
        ChannelEvent::ConsumerFailed { consumer: found, error } if *found == consumer => {
            Some(error)
        }
        _ => None,
    });
    let error = error.expect("it has ended").to_string();
    assert!(error.ends_with("could not be declared again: all channels are in use"), "{error}");
    world.queue(id, durable("usable"));
}

/// The report has promised that it will be.
#[test]
fn locked_entities_are_retried_once_a_channel_is_free() {
    let mut world = World::new(Recovery::default());
    let max = world.session.negotiated().expect("it is open").channel_max;
    let id = world.open();
    let mine = QueueDeclare { queue: short("mine"), exclusive: true, ..<_>::default() };
    let queue = world.queue(id, mine.clone());
    let consumer = world.consume(id, &queue, "tag");
    let spare = world.open();
    for _ in 2..max {
        world.session.open_channel().expect("there is room");
    }
    world.run();
    world.cut();
    let other = world.elsewhere(|other, id| {
        other.queue(id, mine);
        other.peer.expect("it is connected")
    });
    assert_eq!(world.recover().locked, [Entity::Queue(queue)]);
    world.broker.handle_eof(other, world.now);
    for _ in 0..5 {
        world.pass(Duration::from_secs(1));
    }
    let ended = |event: &ChannelEvent| matches!(event, ChannelEvent::ConsumerFailed { .. });
    assert!(!world.channel_events().any(ended));
    assert!(world.session.poll_timeout().is_some_and(|(at, _)| at > world.now));
    let mut channel = world.session.channel(spare).expect("it is open");
    channel.close(ReplyCode::REPLY_SUCCESS, "");
    world.run();
    world.pass(Duration::from_secs(1));
    world.publish(id, "", "mine", "back");
    world.run();
    assert_eq!(world.texts(consumer), ["back"]);
}

#[test]
fn locked_entities_are_not_retried_without_a_connection() {
    let mut world = World::new(Recovery::default());
    let id = world.open();
    let mine = exclusive("mine");
    world.queue(id, mine.clone());
    world.cut();
    world.declare_elsewhere(mine);
    assert_eq!(world.recover().locked.len(), 1);
    assert!(world.session.poll_timeout().is_some_and(|(at, _)| at > world.now));
    world.reachable = false;
    world.cut();
    // There is nothing to be done at any time but to connect.
    let (next, _) = world.session.poll_timeout().expect("there is a next attempt");
    assert_eq!(world.session.poll_reconnect(world.now), Reconnect::Wait(next));
    world.pass(Duration::from_secs(5));
    assert_eq!(world.session.poll_timeout(), Some((next, TimerReason::Recovery)));
}

/// Returns how often that consumer was reported as ended by its cancel.
fn ends(world: &World, consumer: ConsumerId) -> usize {
    let ended = |event: &&ChannelEvent| **event == ChannelEvent::ConsumerEnded { consumer };
    world.channel_events().filter(ended).count()
}

#[test]
fn a_cancel_on_its_way_at_the_loss_ends_its_consumer() {
    let cancel = || BasicCancel { consumer_tag: short("tag"), no_wait: false };
    // Awaited, abandoned, without a reply; and the same while there is no connection, where it may wait for one.
    for (way, lost) in [(0, true), (1, true), (2, true), (0, false), (1, false), (2, false)] {
        let mut world = World::new(Recovery::default());
        let id = world.open();
        let queue = world.queue(id, durable("queue"));
        let consumer = world.consume(id, &queue, "tag");
        world.events.clear();
        if !lost {
            world.cut();
        }
        match way {
            2 => drop(world.send(id, BasicCancel { no_wait: true, ..cancel() })),
            _ => {
                let request = world.send(id, cancel());
                if way == 1 {
                    world.session.channel(id).expect("it is open").abandon(request);
                    world.run();
                    assert_eq!(ends(&world, consumer), 1, "given up ({lost})");
                }
            }
        }
        if lost {
            world.cut();
            assert_eq!(ends(&world, consumer), 1, "way {way} at the loss");
        }
        world.recover();
        world.run();
        assert_eq!(ends(&world, consumer), 1, "way {way} ({lost})");
        assert_eq!(world.queue_count(id, "queue").1, 0, "way {way} ({lost}): it runs");
    }
}

#[test]
fn a_consumer_that_waits_for_its_locked_queue_ends_when_it_is_cancelled() {
    for way in 0..3 {
        let mut world = World::new(Recovery::default());
        let id = world.open();
        let (consumer, other) = world.lose_queue(id, "mine", "tag");
        assert_eq!(world.recover().locked.len(), 1);
        let cancel = BasicCancel { consumer_tag: short("tag"), no_wait: way == 2 };
        let request = world.send(id, cancel);
        match way {
            0 => world.run(),
            1 => world.session.channel(id).expect("it is open").abandon(request),
            _ => {}
        }
        world.run();
        assert_eq!(ends(&world, consumer), 1, "way {way}");
        // It does not start when its queue can be used, and its tag is free.
        world.broker.handle_eof(other, world.now);
        (0..5).for_each(|_| world.pass(Duration::from_secs(1)));
        assert_eq!(world.queue_count(id, "mine").1, 0, "way {way}");
        let next = world.consume(id, &short("mine"), "tag");
        world.publish(id, "", "mine", "m");
        world.run();
        assert_eq!(world.texts(next), ["m"], "way {way}");
        assert_eq!((ends(&world, consumer), ends(&world, next)), (1, 0), "way {way}");
    }
}

#[test]
fn a_tag_is_free_again_after_a_cancel_without_reply() {
    let mut world = World::new(Recovery::default());
    let id = world.open();
    let queue = world.queue(id, durable("queue"));
    for round in 0..3 {
        let consumer = world.consume(id, &queue, "tag");
        world.send(id, BasicCancel { consumer_tag: short("tag"), no_wait: true });
        world.run();
        assert_eq!(ends(&world, consumer), 1, "round {round}");
        assert_eq!(world.queue_count(id, "queue").1, 0, "round {round}");
    }
    let consumer = world.consume(id, &queue, "tag");
    world.publish(id, "", "queue", "m");
    world.run();
    assert_eq!(world.texts(consumer), ["m"]);
}
