use std::time::Duration;

use amqp_client_core::proto::method::{
    BasicCancel, BasicConsume, BasicGet, BasicQos, ExchangeBind, ExchangeDelete, ExchangeUnbind,
    FromReply as _, QueueBind, QueueDeclare, QueueDeclareOk, QueueDelete, QueuePurge, QueueUnbind,
};
use amqp_client_core::proto::session::Recovery;
use amqp_client_core::proto::{
    ChannelEvent, ConsumerId, Event, FieldTable, ReplyCode, SessionEvent, ShortStr,
};

use amqp_test_broker::Note;

use crate::harness::Broker;
use crate::rig::{SessionRig, durable, exclusive, nameless, short, text};

#[test]
fn everything_is_declared_again_on_an_empty_broker() {
    let mut rig = SessionRig::new(Recovery::default());
    let id = rig.open();
    rig.exchange(id, "first", "direct");
    rig.exchange(id, "second", "fanout");
    let bind = ExchangeBind {
        destination: short("second"),
        source: short("first"),
        routing_key: short("key"),
        ..<_>::default()
    };
    rig.ask(id, bind).expect("it is bound");
    let queue = rig.queue(id, durable("queue"));
    rig.bind(id, &queue, "second", "");
    rig.confirm(id);
    rig.limit(id, 1);
    let consumer = rig.consume(id, &queue, "tag");

    rig.cut();
    rig.elsewhere(|other, id| {
        for exchange in ["first", "second"] {
            let delete = ExchangeDelete { exchange: short(exchange), ..<_>::default() };
            other.ask(id, delete).expect("it is gone");
        }
        let delete = QueueDelete { queue: short("queue"), ..<_>::default() };
        other.ask(id, delete).expect("it is gone");
    });
    let report = rig.recover();
    assert_eq!((report.exchanges, report.queues, report.bindings), (2, 1, 2));
    assert_eq!((report.channels, report.consumers, report.attempts), (1, 1, 1));
    assert!(report.failed.is_empty() && report.renamed.is_empty() && report.locked.is_empty());

    // The prefetch limit is restored, and so is confirm mode.
    assert_eq!(rig.publish(id, "first", "key", "one").expect("it is numbered").get(), 1);
    rig.publish(id, "first", "key", "two");
    rig.run();
    let confirmed = rig
        .channel_events()
        .filter(|event| matches!(event, ChannelEvent::Confirmed { ack: true, .. }));
    assert!(confirmed.count() > 0);
    let delivered = rig.deliveries();
    assert_eq!(delivered.len(), 1);
    assert_eq!((delivered[0].0, text(&delivered[0].1).as_str()), (consumer, "one"));
}

#[test]
fn a_thousand_entities_take_as_many_round_trips_as_one() {
    let mut rounds = [0; 2];
    for (count, rounds) in [1, 1000].into_iter().zip(&mut rounds) {
        let mut rig = SessionRig::new(Recovery::default());
        let id = rig.open();
        for number in 0..count {
            let queue = rig.queue(id, durable(&format!("queue {number}")));
            rig.bind(id, &queue, "amq.topic", "key");
            rig.consume(id, &queue, &format!("tag {number}"));
        }
        rig.cut();
        rig.rounds = 0;
        let report = rig.recover();
        let restored = (report.queues, report.bindings, report.consumers);
        assert_eq!(restored, (count, count, count));
        *rounds = rig.rounds;
    }
    assert_eq!(rounds[0], rounds[1]);
}

#[test]
fn a_queue_named_by_the_broker_is_renamed_with_its_bindings_and_consumers() {
    let mut rig = SessionRig::new(Recovery::default());
    let id = rig.open();
    let old = rig.queue(id, nameless());
    let other = rig.queue(id, nameless());
    rig.bind(id, &old, "amq.direct", "key");
    rig.bind(id, &other, "amq.direct", "other");
    let consumer = rig.consume(id, &old, "tag");
    rig.cut();
    let report = rig.recover();
    assert_eq!(report.renamed.len(), 2);
    let (_, new) = report.renamed.iter().find(|(name, _)| *name == old).expect("it is renamed");
    assert_ne!(*new, old);
    assert_eq!(rig.session.current_name(&old), new);
    rig.publish(id, "amq.direct", "key", "follows");
    rig.run();
    assert_eq!(rig.texts(consumer), ["follows"]);

    // The old name can still be used, after another loss as well.
    rig.cut();
    rig.recover();
    rig.bind(id, &old, "amq.direct", "more");
    rig.publish(id, "amq.direct", "more", "still");
    rig.run();
    assert_eq!(rig.texts(consumer), ["still"]);
    rig.ask(id, QueuePurge { queue: old, ..<_>::default() }).expect("it is there");
}

#[test]
fn deleted_unbound_and_cancelled_entities_are_not_restored() {
    let mut rig = SessionRig::new(Recovery::default());
    let id = rig.open();
    rig.exchange(id, "gone", "fanout");
    rig.exchange(id, "here", "fanout");
    let queue = rig.queue(id, durable("here"));
    rig.queue(id, durable("gone"));
    rig.bind(id, &queue, "gone", "");
    rig.bind(id, &queue, "here", "");
    rig.bind(id, &queue, "here", "unbound");
    rig.consume(id, &queue, "cancelled");
    rig.ask(id, BasicCancel { consumer_tag: short("cancelled"), ..<_>::default() });
    rig.ask(id, ExchangeDelete { exchange: short("gone"), ..<_>::default() });
    rig.ask(id, QueueDelete { queue: short("gone"), ..<_>::default() });
    let unbind = QueueUnbind {
        queue,
        exchange: short("here"),
        routing_key: short("unbound"),
        ..<_>::default()
    };
    rig.ask(id, unbind).expect("it is unbound");
    for routing_key in ["kept", "unbound"] {
        let (source, destination) = (short("amq.direct"), short("here"));
        let routing_key = short(routing_key);
        let bind = ExchangeBind { source, destination, routing_key, ..<_>::default() };
        rig.ask(id, bind).expect("it is bound");
    }
    let unbind = ExchangeUnbind {
        source: short("amq.direct"),
        destination: short("here"),
        routing_key: short("unbound"),
        ..<_>::default()
    };
    rig.ask(id, unbind).expect("it is unbound");
    rig.cut();
    let report = rig.recover();
    assert_eq!((report.exchanges, report.queues, report.bindings), (1, 1, 2));
    assert_eq!(report.consumers, 0);
}

#[test]
fn entities_that_the_broker_deletes_are_not_restored() {
    let mut rig = SessionRig::new(Recovery::default());
    let id = rig.open();
    let declare = amqp_client_core::proto::method::ExchangeDeclare {
        exchange: short("auto"),
        kind: short("fanout"),
        auto_delete: true,
        ..<_>::default()
    };
    rig.ask(id, declare).expect("it is declared");
    let auto = QueueDeclare { queue: short("auto"), auto_delete: true, ..<_>::default() };
    let queue = rig.queue(id, auto);
    rig.bind(id, &queue, "auto", "");
    rig.consume(id, &queue, "tag");
    // The last consumer takes the queue with it, and that the exchange.
    rig.ask(id, BasicCancel { consumer_tag: short("tag"), ..<_>::default() });
    rig.cut();
    let report = rig.recover();
    assert_eq!((report.exchanges, report.queues, report.bindings), (0, 0, 0));
}

#[test]
fn unrecovered_entities_are_not_restored() {
    let mut rig = SessionRig::new(Recovery::default());
    let id = rig.open();
    let lasting = rig.queue(id, durable("lasting"));
    let passing = exclusive("passing");
    let channel = rig.channel(id);
    channel.unrecovered().request(passing).expect("it is sent");
    let consume = amqp_client_core::proto::method::BasicConsume {
        queue: lasting.clone(),
        consumer_tag: short("passing"),
        ..<_>::default()
    };
    let channel = rig.channel(id);
    let passing = channel.unrecovered().request(consume).expect("it is sent").into();
    rig.run();
    // Checking that a queue is there makes it nobody's own.
    rig.queue(id, QueueDeclare { queue: lasting, passive: true, ..<_>::default() });
    rig.cut();
    let failed = rig.channel_events().any(|event| {
        matches!(event, ChannelEvent::ConsumerFailed { consumer, .. } if *consumer == passing)
    });
    assert!(failed);
    let report = rig.recover();
    assert_eq!((report.queues, report.consumers), (1, 0));
}

#[test]
fn each_consumer_keeps_the_prefetch_limit_of_its_start() {
    let mut rig = SessionRig::new(Recovery::default());
    let id = rig.open();
    let mut consumers = Vec::new();
    for limit in [1, 3, 2] {
        let queue = rig.queue(id, durable(&format!("queue {limit}")));
        rig.limit(id, limit);
        consumers.push((rig.consume(id, &queue, &format!("tag {limit}")), usize::from(limit)));
    }
    rig.ask(id, BasicQos { prefetch_count: 4, global: true, ..<_>::default() });
    rig.cut();
    rig.recover();
    for limit in [1, 3, 2] {
        for number in 0..5 {
            rig.publish(id, "", &format!("queue {limit}"), &number.to_string());
        }
    }
    rig.run();
    let delivered = rig.deliveries();
    for (consumer, limit) in consumers {
        let count = delivered.iter().filter(|(found, _)| *found == consumer).count();
        assert!(count <= limit, "{count} for {limit}");
    }
    assert_eq!(delivered.len(), 4, "all together");
}

#[test]
fn a_channel_keeps_its_number_and_flow_and_new_ones_open_while_there_is_no_connection() {
    let mut rig = SessionRig::new(Recovery::default());
    let (first, second) = (rig.open(), rig.open());
    rig.channel(first).close(amqp_client_core::proto::ReplyCode::REPLY_SUCCESS, "done");
    rig.run();
    rig.cut();
    assert!(rig.session.channel(first).is_err());
    let third = rig.session.open_channel().expect("there is room");
    assert_eq!(third, first, "the number is free");
    assert!(rig.session.open_channel_numbered(second.get()).is_err());
    let declare = rig.send(third, durable("later"));
    let opened = |rig: &SessionRig<Broker>| {
        let opened = Event::Channel(third, ChannelEvent::Opened);
        rig.events.iter().filter(|event| **event == opened).count()
    };
    rig.events.clear();
    let report = rig.recover();
    assert_eq!(report.channels, 2);
    rig.run();
    assert_eq!(opened(&rig), 1);
    assert!(rig.answer(declare).is_some());
    rig.queue(second, durable("usable"));
    assert!(!rig.session_events().any(|event| matches!(event, SessionEvent::Lost { .. })));
}

#[test]
fn arguments_are_part_of_a_binding() {
    let mut rig = SessionRig::new(Recovery::default());
    let id = rig.open();
    let queue = rig.queue(id, durable("queue"));
    for value in ["a", "b"] {
        let arguments = FieldTable::new().with("x", value).expect("it is short");
        let bind = amqp_client_core::proto::method::QueueBind {
            queue: queue.clone(),
            exchange: short("amq.headers"),
            arguments,
            ..<_>::default()
        };
        rig.ask(id, bind).expect("it is bound");
    }
    rig.cut();
    assert_eq!(rig.recover().bindings, 2);
}

/// RabbitMQ: an empty key with an empty queue stands for the name of the queue. An empty key with a name is empty.
#[test]
fn bindings_to_the_queue_declared_last_keep_their_keys() {
    for (by_broker, explicit) in [(false, false), (false, true), (true, false), (true, true)] {
        let mut rig = SessionRig::new(Recovery::default());
        let id = rig.open();
        rig.exchange(id, "x", "direct");
        let declare = if by_broker { nameless() } else { durable("q") };
        let queue = rig.queue(id, declare);
        let named = if explicit { queue.clone() } else { ShortStr::EMPTY };
        rig.bind(id, &named, "x", "");
        let consumer = rig.consume(id, &queue, "c");
        // Others come between the queue and its bindings when all is declared again.
        let others: Vec<_> = (0..3).map(|_| rig.queue(id, nameless())).collect();
        others.iter().for_each(|other| rig.bind(id, other, "x", "other"));
        for losses in 0..3 {
            let now = rig.session.current_name(&queue).to_string();
            rig.publish(id, "x", &now, "by name");
            rig.publish(id, "x", "", "by nothing");
            rig.run();
            let expected = if explicit { "by nothing" } else { "by name" };
            assert_eq!(rig.texts(consumer), [expected], "{by_broker} {losses}");
            rig.elsewhere(|other, id| {
                let queue = QueueDelete { queue: short("q"), ..<_>::default() };
                other.ask(id, queue);
            });
            rig.cut();
            let report = rig.recover();
            assert!(report.failed.is_empty(), "{:?}", report.failed);
        }
        // It goes by the key that it has, too.
        let unbind = |queue: &ShortStr, key: &ShortStr| QueueUnbind {
            queue: queue.clone(),
            exchange: short("x"),
            routing_key: key.clone(),
            ..<_>::default()
        };
        let now = rig.session.current_name(&queue).clone();
        let key = if explicit { ShortStr::EMPTY } else { now.clone() };
        rig.ask(id, unbind(&now, &key)).expect("it is unbound");
        rig.cut();
        assert_eq!(rig.recover().bindings, 3);
    }
}

/// An auto-delete queue goes with its last consumer, and a consumer that has not started is none.
#[test]
fn a_consumer_that_has_not_started_does_not_end_the_queue_of_another() {
    for way in 0..4 {
        let mut rig = SessionRig::new(Recovery::default());
        let (id, other) = (rig.open(), rig.open());
        let declare = QueueDeclare { queue: short("auto"), auto_delete: true, ..<_>::default() };
        let queue = rig.queue(id, declare);
        let consumer = rig.consume(id, &queue, "runs");
        let consume = BasicConsume { queue, consumer_tag: short("starts"), ..<_>::default() };
        let starts = rig.send(other, consume);
        let mut channel = rig.channel(other);
        match way {
            0 => {
                let consumer_tag = short("starts");
                let cancel = BasicCancel { consumer_tag, no_wait: false };
                channel.request(cancel).expect("it is sent");
            }
            1 => channel.discard_consumer(starts.into()),
            2 => channel.close(ReplyCode::REPLY_SUCCESS, "bye"),
            _ => channel.abandon(starts),
        }
        rig.run();
        rig.cut();
        let report = rig.recover();
        assert_eq!((report.queues, report.consumers), (1, 1), "{way}: {report:?}");
        rig.publish(id, "", "auto", "there");
        rig.run();
        assert_eq!(rig.texts(consumer), ["there"], "{way}");
    }
}

#[test]
fn a_consumer_cancelled_while_it_starts_ends_its_queue() {
    let mut rig = SessionRig::new(Recovery::default());
    let id = rig.open();
    let declare = QueueDeclare { queue: short("auto"), auto_delete: true, ..<_>::default() };
    let queue = rig.queue(id, declare);
    rig.send(id, BasicConsume { queue, consumer_tag: short("brief"), ..<_>::default() });
    rig.send(id, BasicCancel { consumer_tag: short("brief"), no_wait: false });
    rig.run();
    rig.cut();
    assert_eq!(rig.recover().queues, 0);
}

#[test]
fn an_unnamed_queue_declared_without_a_reply_does_not_take_the_empty_name() {
    let mut rig = SessionRig::new(Recovery::default());
    let id = rig.open();
    rig.send(id, QueueDeclare { no_wait: true, ..nameless() });
    rig.run();
    rig.cut();
    rig.recover();
    let declared = [rig.queue(id, nameless()), rig.queue(id, nameless())];
    assert_ne!(declared[0], declared[1]);
}

/// Loses the connection, recovers, and returns the number of messages that reach each of these queues.
fn restored_routes(rig: &mut SessionRig<Broker>, queues: &[&ShortStr]) -> Vec<u32> {
    rig.run();
    rig.cut();
    assert!(rig.recover().failed.is_empty());
    let id = rig.open();
    rig.publish(id, "amq.direct", "key", "routed");
    rig.run();
    let names = queues.iter().map(|queue| rig.session.current_name(queue).to_string());
    let names: Vec<_> = names.collect();
    names.iter().map(|name| rig.queue_count(id, name).0).collect()
}

fn bind_last(no_wait: bool) -> QueueBind {
    let (exchange, routing_key) = (short("amq.direct"), short("key"));
    QueueBind { exchange, routing_key, no_wait, ..<_>::default() }
}

/// The broker refuses it and closes the channel, once.
#[test]
fn a_consumer_of_no_queue_is_not_started_again() {
    let mut rig = SessionRig::new(Recovery::default().reopen_channels(true));
    let id = rig.open();
    rig.peer.engine.observe();
    let consumer_tag = short("c");
    let consumer = rig.send(id, BasicConsume { consumer_tag, no_wait: true, ..<_>::default() });
    rig.run();
    rig.pass(Duration::from_secs(60));
    let notes = rig.peer.engine.take_notes();
    let refused = notes.iter().filter(|note| matches!(note, Note::Refused { .. }));
    assert_eq!(refused.count(), 1);
    let failed = |event: &&ChannelEvent| match event {
        ChannelEvent::ConsumerFailed { consumer: failed, .. } => *failed == consumer.into(),
        _ => false,
    };
    assert_eq!(rig.channel_events().filter(failed).count(), 1);
}

/// The broker refuses it. After a loss, it would be made for the queue that happens to be declared last.
#[test]
fn a_binding_of_no_queue_is_not_restored() {
    let recovery = Recovery::default().reopen_channels(true);
    let mut rig = SessionRig::new(recovery);
    let (id, other) = (rig.open(), rig.open());
    rig.send(id, bind_last(true));
    rig.run();
    let queue = rig.queue(other, durable("q"));
    assert_eq!(restored_routes(&mut rig, &[&queue]), [0]);
    assert_eq!(rig.report().bindings, 0);
}

/// Its name is not known when they are sent.
#[test]
fn requests_without_a_reply_behind_an_unnamed_queue_belong_to_it() {
    let mut rig = SessionRig::new(Recovery::default());
    let id = rig.open();
    let before = rig.queue(id, durable("before"));
    let unnamed = QueueDeclare { exclusive: true, ..<_>::default() };
    let declare = rig.send(id, unnamed.clone());
    rig.send(id, bind_last(true));
    let gone = rig.send(id, unnamed);
    rig.send(id, bind_last(true));
    rig.send(id, QueueDelete { no_wait: true, ..<_>::default() });
    rig.run();
    let name = |rig: &mut SessionRig<Broker>, declare| {
        let answer = rig.answer(declare).and_then(QueueDeclareOk::from_reply);
        answer.expect("it is declared").queue
    };
    let (unnamed, _gone) = (name(&mut rig, declare), name(&mut rig, gone));
    assert_eq!(restored_routes(&mut rig, &[&before, &unnamed]), [0, 1]);
    assert_eq!(rig.report().queues, 2);
}

/// Such a declaration counts as carried out when it is sent. The reply to an earlier one comes later.
#[test]
fn a_declaration_without_a_reply_changes_nothing_before_it() {
    let mut rig = SessionRig::new(Recovery::default());
    let id = rig.open();
    rig.send(id, durable("first"));
    rig.send(id, bind_last(false));
    rig.send(id, QueueDeclare { no_wait: true, ..durable("second") });
    assert_eq!(restored_routes(&mut rig, &[&short("first"), &short("second")]), [1, 0]);

    let mut rig = SessionRig::new(Recovery::default());
    let id = rig.open();
    rig.send(id, durable("first"));
    rig.send(id, QueueDeclare { no_wait: true, ..durable("second") });
    rig.run();
    rig.ask(id, bind_last(false)).expect("it is bound");
    assert_eq!(restored_routes(&mut rig, &[&short("first"), &short("second")]), [0, 1]);
    // An empty name stands for the second one still.
    rig.ask(id, QueuePurge::default()).expect("it is there");
    assert_eq!(rig.queue_count(id, "second").0, 0);
}

/// The broker forgets it with the connection, and the session declares the queue again on a channel of its own.
#[test]
fn the_empty_name_means_the_queue_declared_last_after_a_loss_too() {
    for request in 0..6 {
        let mut rig = SessionRig::new(Recovery::default());
        let id = rig.open();
        let queue = rig.queue(id, nameless());
        rig.bind(id, &queue, "amq.direct", "key");
        rig.cut();
        rig.recover();
        let (exchange, routing_key) = (short("amq.direct"), short("key"));
        let replied = match request {
            0 => rig.ask(id, BasicGet::default()).is_some(),
            1 => rig.ask(id, BasicConsume::default()).is_some(),
            2 => rig.ask(id, QueuePurge::default()).is_some(),
            3 => rig.ask(id, QueueDelete::default()).is_some(),
            4 => rig.ask(id, QueueBind { exchange, routing_key, ..<_>::default() }).is_some(),
            _ => rig.ask(id, QueueUnbind { exchange, routing_key, ..<_>::default() }).is_some(),
        };
        assert!(replied, "{request}: {:?}", rig.events);
    }
}

/// A declaration without a reply counts as carried out when it is sent, and one that is lost with the connection does not.
#[test]
fn after_a_loss_the_empty_name_means_the_last_declaration_that_is_known_to_be_carried_out() {
    for first_is_unnamed in [false, true] {
        for carried in 0..3 {
            let mut rig = SessionRig::new(Recovery::default());
            let id = rig.open();
            let name = if first_is_unnamed { "" } else { "first" };
            let first = rig.send(id, QueueDeclare { exclusive: true, ..durable(name) });
            let bound = rig.send(id, bind_last(false));
            rig.send(id, QueueDeclare { no_wait: true, ..durable("second") });
            // The replies to the first two requests arrive.
            (0..carried).for_each(|_| rig.round());
            rig.send(id, durable("third"));
            rig.cut();
            let answered = rig.answer(first).and_then(QueueDeclareOk::from_reply);
            assert_eq!(rig.answer(bound).is_some(), answered.is_some());
            rig.recover();
            rig.publish(id, "", "second", "purged");
            rig.publish(id, "", "second", "purged as well");
            rig.publish(id, "amq.direct", "key", "routed");
            rig.run();
            let purged = rig.ask(id, QueuePurge::default()).expect("there is one");
            assert_eq!(purged.message_count, 2, "{name} {carried}");
            let Some(first) = answered else { continue };
            let first = rig.session.current_name(&first.queue).to_string();
            assert_eq!(rig.queue_count(id, &first).0, 1, "{name} {carried}: its binding");
        }
    }
}

/// It has no queue: the declaration was lost.
#[test]
fn a_consumer_without_a_reply_ends_with_the_declaration_of_its_unnamed_queue() {
    let mut rig = SessionRig::new(Recovery::default());
    let (id, other) = (rig.open(), rig.open());
    rig.send(other, QueueDeclare { no_wait: true, ..nameless() });
    rig.run();
    let declare = rig.send(id, nameless());
    let consume = BasicConsume { no_wait: true, consumer_tag: short("c"), ..<_>::default() };
    let consumer: ConsumerId = rig.send(id, consume).into();
    rig.cut();
    assert!(rig.failure(declare).is_some());
    assert_eq!(rig.failed_consumers(), [consumer]);
    let report = rig.recover();
    assert_eq!((report.queues, report.consumers, report.failed.len()), (1, 0, 0), "{report:?}");
    assert_eq!(rig.failed_consumers(), [consumer]);
}

#[test]
fn a_declaration_that_is_retried_is_the_last_one() {
    let mut rig = SessionRig::with(|recovery| recovery.retry_locked(true));
    let id = rig.open();
    let theirs = rig.declare_elsewhere(exclusive("first"));
    let first = rig.send(id, exclusive("first"));
    // The broker ignores it, since it closes the channel for the other one.
    rig.send(id, QueueDeclare { no_wait: true, ..durable("second") });
    rig.run();
    rig.peer.engine.handle_eof(theirs, rig.now);
    rig.pass(Duration::from_secs(10));
    assert!(rig.answer(first).is_some(), "{:?}", rig.events);
    rig.ask(id, bind_last(false)).expect("it is bound");
    assert_eq!(restored_routes(&mut rig, &[&short("first")]), [1]);
}
