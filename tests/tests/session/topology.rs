use amqp_client_core::proto::method::{
    BasicCancel, BasicQos, ExchangeBind, ExchangeDelete, QueueDeclare, QueueDelete, QueuePurge,
    QueueUnbind,
};
use amqp_client_core::proto::session::Recovery;
use amqp_client_core::proto::{ChannelEvent, Event, FieldTable, SessionEvent, ShortStr};

use crate::world::{World, durable, exclusive, nameless, short, text};

#[test]
fn everything_is_declared_again_on_an_empty_broker() {
    let mut world = World::new(Recovery::default());
    let id = world.open();
    world.exchange(id, "first", "direct");
    world.exchange(id, "second", "fanout");
    let bind = ExchangeBind {
        destination: short("second"),
        source: short("first"),
        routing_key: short("key"),
        ..<_>::default()
    };
    world.ask(id, bind).expect("it is bound");
    let queue = world.queue(id, durable("queue"));
    world.bind(id, &queue, "second", "");
    world.confirm(id);
    world.limit(id, 1);
    let consumer = world.consume(id, &queue, "tag");

    world.cut();
    world.elsewhere(|other, id| {
        for exchange in ["first", "second"] {
            let delete = ExchangeDelete { exchange: short(exchange), ..<_>::default() };
            other.ask(id, delete).expect("it is gone");
        }
        let delete = QueueDelete { queue: short("queue"), ..<_>::default() };
        other.ask(id, delete).expect("it is gone");
    });
    let report = world.recover();
    assert_eq!((report.exchanges, report.queues, report.bindings), (2, 1, 2));
    assert_eq!((report.channels, report.consumers, report.attempts), (1, 1, 1));
    assert!(report.failed.is_empty() && report.renamed.is_empty() && report.locked.is_empty());

    // The prefetch limit is restored, and so is confirm mode.
    assert_eq!(world.publish(id, "first", "key", "one").expect("it is numbered").get(), 1);
    world.publish(id, "first", "key", "two");
    world.run();
    let confirmed = world
        .channel_events()
        .filter(|event| matches!(event, ChannelEvent::Confirmed { ack: true, .. }));
    assert!(confirmed.count() > 0);
    let delivered = world.deliveries();
    assert_eq!(delivered.len(), 1);
    assert_eq!((delivered[0].0, text(&delivered[0].1).as_str()), (consumer, "one"));
}

#[test]
fn a_thousand_entities_take_as_many_round_trips_as_one() {
    let mut rounds = [0; 2];
    for (count, rounds) in [1, 1000].into_iter().zip(&mut rounds) {
        let mut world = World::new(Recovery::default());
        let id = world.open();
        for number in 0..count {
            let queue = world.queue(id, durable(&format!("queue {number}")));
            world.bind(id, &queue, "amq.topic", "key");
            world.consume(id, &queue, &format!("tag {number}"));
        }
        world.cut();
        world.rounds = 0;
        let report = world.recover();
        let restored = (report.queues, report.bindings, report.consumers);
        assert_eq!(restored, (count, count, count));
        *rounds = world.rounds;
    }
    assert_eq!(rounds[0], rounds[1]);
}

#[test]
fn a_queue_named_by_the_broker_is_renamed_with_its_bindings_and_consumers() {
    let mut world = World::new(Recovery::default());
    let id = world.open();
    let old = world.queue(id, nameless());
    let other = world.queue(id, nameless());
    world.bind(id, &old, "amq.direct", "key");
    world.bind(id, &other, "amq.direct", "other");
    let consumer = world.consume(id, &old, "tag");
    world.cut();
    let report = world.recover();
    assert_eq!(report.renamed.len(), 2);
    let (_, new) = report.renamed.iter().find(|(name, _)| *name == old).expect("it is renamed");
    assert_ne!(*new, old);
    assert_eq!(world.session.current_name(&old), new);
    world.publish(id, "amq.direct", "key", "follows");
    world.run();
    assert_eq!(world.texts(consumer), ["follows"]);

    // Who has the old name can go on with it, over another loss as well.
    world.cut();
    world.recover();
    world.bind(id, &old, "amq.direct", "more");
    world.publish(id, "amq.direct", "more", "still");
    world.run();
    assert_eq!(world.texts(consumer), ["still"]);
    world.ask(id, QueuePurge { queue: old, ..<_>::default() }).expect("it is there");
}

#[test]
fn deleted_unbound_and_cancelled_entities_are_not_restored() {
    let mut world = World::new(Recovery::default());
    let id = world.open();
    world.exchange(id, "gone", "fanout");
    world.exchange(id, "here", "fanout");
    let queue = world.queue(id, durable("here"));
    world.queue(id, durable("gone"));
    world.bind(id, &queue, "gone", "");
    world.bind(id, &queue, "here", "");
    world.bind(id, &queue, "here", "unbound");
    world.consume(id, &queue, "cancelled");
    world.ask(id, BasicCancel { consumer_tag: short("cancelled"), ..<_>::default() });
    world.ask(id, ExchangeDelete { exchange: short("gone"), ..<_>::default() });
    world.ask(id, QueueDelete { queue: short("gone"), ..<_>::default() });
    let unbind = QueueUnbind {
        queue,
        exchange: short("here"),
        routing_key: short("unbound"),
        ..<_>::default()
    };
    world.ask(id, unbind).expect("it is unbound");
    world.cut();
    let report = world.recover();
    assert_eq!((report.exchanges, report.queues, report.bindings), (1, 1, 1));
    assert_eq!(report.consumers, 0);
}

#[test]
fn entities_that_the_broker_deletes_are_not_restored() {
    let mut world = World::new(Recovery::default());
    let id = world.open();
    let declare = amqp_client_core::proto::method::ExchangeDeclare {
        exchange: short("auto"),
        kind: short("fanout"),
        auto_delete: true,
        ..<_>::default()
    };
    world.ask(id, declare).expect("it is declared");
    let auto = QueueDeclare { queue: short("auto"), auto_delete: true, ..<_>::default() };
    let queue = world.queue(id, auto);
    world.bind(id, &queue, "auto", "");
    world.consume(id, &queue, "tag");
    // The last consumer takes the queue with it, and that the exchange.
    world.ask(id, BasicCancel { consumer_tag: short("tag"), ..<_>::default() });
    world.cut();
    let report = world.recover();
    assert_eq!((report.exchanges, report.queues, report.bindings), (0, 0, 0));
}

#[test]
fn unrecovered_entities_are_not_restored() {
    let mut world = World::new(Recovery::default());
    let id = world.open();
    let lasting = world.queue(id, durable("lasting"));
    let passing = exclusive("passing");
    let channel = world.session.channel(id).expect("it is open");
    channel.unrecovered().request(passing).expect("it is sent");
    let consume = amqp_client_core::proto::method::BasicConsume {
        queue: lasting.clone(),
        consumer_tag: short("passing"),
        ..<_>::default()
    };
    let channel = world.session.channel(id).expect("it is open");
    let passing = channel.unrecovered().request(consume).expect("it is sent").into();
    world.run();
    // Checking that a queue is there makes it nobody's own.
    world.queue(id, QueueDeclare { queue: lasting, passive: true, ..<_>::default() });
    world.cut();
    let failed = world.channel_events().any(|event| {
        matches!(event, ChannelEvent::ConsumerFailed { consumer, .. } if *consumer == passing)
    });
    assert!(failed);
    let report = world.recover();
    assert_eq!((report.queues, report.consumers), (1, 0));
}

#[test]
fn each_consumer_keeps_the_prefetch_limit_of_its_start() {
    let mut world = World::new(Recovery::default());
    let id = world.open();
    let mut consumers = Vec::new();
    for limit in [1, 3, 2] {
        let queue = world.queue(id, durable(&format!("queue {limit}")));
        world.limit(id, limit);
        consumers.push((world.consume(id, &queue, &format!("tag {limit}")), usize::from(limit)));
    }
    world.ask(id, BasicQos { prefetch_count: 4, global: true, ..<_>::default() });
    world.cut();
    world.recover();
    for limit in [1, 3, 2] {
        for number in 0..5 {
            world.publish(id, "", &format!("queue {limit}"), &number.to_string());
        }
    }
    world.run();
    let delivered = world.deliveries();
    for (consumer, limit) in consumers {
        let count = delivered.iter().filter(|(found, _)| *found == consumer).count();
        assert!(count <= limit, "{count} for {limit}");
    }
    assert_eq!(delivered.len(), 4, "all together");
}

#[test]
fn a_channel_keeps_its_number_and_flow_and_new_ones_open_while_there_is_no_connection() {
    let mut world = World::new(Recovery::default());
    let (first, second) = (world.open(), world.open());
    world
        .session
        .channel(first)
        .expect("it is open")
        .close(amqp_client_core::proto::ReplyCode::REPLY_SUCCESS, "done");
    world.run();
    world.cut();
    assert!(world.session.channel(first).is_err());
    let third = world.session.open_channel().expect("there is room");
    assert_eq!(third, first, "the number is free");
    assert!(world.session.open_channel_numbered(second.get()).is_err());
    let declare = world.send(third, durable("later"));
    let opened = |world: &World| {
        let opened = Event::Channel(third, ChannelEvent::Opened);
        world.events.iter().filter(|event| **event == opened).count()
    };
    world.events.clear();
    let report = world.recover();
    assert_eq!(report.channels, 2);
    world.run();
    assert_eq!(opened(&world), 1);
    assert!(world.answer(declare).is_some());
    world.queue(second, durable("usable"));
    assert!(!world.session_events().any(|event| matches!(event, SessionEvent::Lost { .. })));
}

#[test]
fn arguments_are_part_of_a_binding() {
    let mut world = World::new(Recovery::default());
    let id = world.open();
    let queue = world.queue(id, durable("queue"));
    for value in ["a", "b"] {
        let arguments = FieldTable::new().with("x", value).expect("it is short");
        let bind = amqp_client_core::proto::method::QueueBind {
            queue: queue.clone(),
            exchange: short("amq.headers"),
            arguments,
            ..<_>::default()
        };
        world.ask(id, bind).expect("it is bound");
    }
    world.cut();
    assert_eq!(world.recover().bindings, 2);
}

/// RabbitMQ: an empty key with an empty queue stands for the name of the queue. An empty key with a name is empty.
#[test]
fn bindings_to_the_queue_declared_last_keep_their_keys() {
    for (by_broker, explicit) in [(false, false), (false, true), (true, false), (true, true)] {
        let mut world = World::new(Recovery::default());
        let id = world.open();
        world.exchange(id, "x", "direct");
        let declare = if by_broker { nameless() } else { durable("q") };
        let queue = world.queue(id, declare);
        let named = if explicit { queue.clone() } else { ShortStr::EMPTY };
        world.bind(id, &named, "x", "");
        let consumer = world.consume(id, &queue, "c");
        // Others come between the queue and its bindings when all is declared again.
        let others: Vec<_> = (0..3).map(|_| world.queue(id, nameless())).collect();
        others.iter().for_each(|other| world.bind(id, other, "x", "other"));
        for losses in 0..3 {
            let now = world.session.current_name(&queue).to_string();
            world.publish(id, "x", &now, "by name");
            world.publish(id, "x", "", "by nothing");
            world.run();
            let expected = if explicit { "by nothing" } else { "by name" };
            assert_eq!(world.texts(consumer), [expected], "{by_broker} {losses}");
            world.elsewhere(|other, id| {
                let queue = QueueDelete { queue: short("q"), ..<_>::default() };
                other.ask(id, queue);
            });
            world.cut();
            let report = world.recover();
            assert!(report.failed.is_empty(), "{:?}", report.failed);
        }
        // It goes by the key that it has, too.
        let unbind = |queue: &ShortStr, key: &ShortStr| QueueUnbind {
            queue: queue.clone(),
            exchange: short("x"),
            routing_key: key.clone(),
            ..<_>::default()
        };
        let now = world.session.current_name(&queue).clone();
        let key = if explicit { ShortStr::EMPTY } else { now.clone() };
        world.ask(id, unbind(&now, &key)).expect("it is unbound");
        world.cut();
        assert_eq!(world.recover().bindings, 3);
    }
}
