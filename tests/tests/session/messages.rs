use amqp_client_core::proto::method::{
    BasicConsume, BasicGet, QueueDelete, TxCommit, TxRollback, TxSelect,
};
use amqp_client_core::proto::session::Recovery;
use amqp_client_core::proto::{
    ChannelEvent, ChannelId, CommandError, DeliveryTag, Gate, Misuse, PublishError, RawProperties,
    Reply, ReplyCode, Route,
};

use crate::world::{World, durable, short, text};

#[test]
fn requests_on_their_way_fail_and_later_ones_wait() {
    let mut world = World::new(Recovery::default());
    let id = world.open();
    let lost = world.send(id, durable("lost"));
    world.cut();
    assert!(matches!(world.failure(lost), Some(CommandError::Ended(_))), "{:?}", world.events);
    let waiting = world.send(id, durable("waiting"));
    let unwanted = world.send(id, durable("unwanted"));
    world.session.channel(id).expect("it is open").abandon(unwanted);
    world.recover();
    world.run();
    assert!(world.answer(waiting).is_some());
    assert!(world.answer(unwanted).is_none() && world.failure(unwanted).is_none());
    // It is unknown whether the first was carried out, so nothing of it is restored.
    world.cut();
    assert_eq!(world.recover().queues, 1);
}

#[test]
fn an_abandoned_reply_is_still_recorded() {
    let mut world = World::new(Recovery::default());
    let id = world.open();
    let declare = world.send(id, durable("unwanted"));
    world.session.channel(id).expect("it is open").abandon(declare);
    world.run();
    assert!(world.answer(declare).is_none());
    world.cut();
    assert_eq!(world.recover().queues, 1);
}

#[test]
fn deliveries_from_before_the_loss_are_stale_and_delivered_again() {
    let mut world = World::new(Recovery::default());
    let id = world.open();
    let queue = world.queue(id, durable("queue"));
    let consumer = world.consume(id, &queue, "tag");
    for body in ["one", "two"] {
        world.publish(id, "", "queue", body);
    }
    world.run();
    let before = world.deliveries();
    assert_eq!(before.len(), 2);
    world.cut();
    let stale = |world: &mut World, tag: DeliveryTag| {
        let error = Err(CommandError::Misuse(Misuse::StaleDelivery(tag.get())));
        let channel = &mut world.session.channel(id).expect("it is open");
        assert_eq!(channel.ack(tag), error);
        assert_eq!(channel.ack_up_to(tag), error);
        assert_eq!(channel.reject(tag, true), error);
        assert_eq!(channel.nack_up_to(tag, true), error);
    };
    stale(&mut world, before[0].1.delivery_tag());
    world.recover();
    world.run();
    let after = world.deliveries();
    assert_eq!(after.len(), 2);
    for ((_, old), (found, new)) in before.iter().zip(&after) {
        assert_eq!((*found, text(old)), (consumer, text(new)));
        assert!(new.redelivered() && new.delivery_tag() > old.delivery_tag());
        stale(&mut world, old.delivery_tag());
    }
    let channel = &mut world.session.channel(id).expect("it is open");
    channel.ack_up_to(after[1].1.delivery_tag()).expect("they wait for it");
    world.run();
    assert_eq!(world.broker.unacknowledged_count(world.peer.expect("it is connected")), 0);
    assert_eq!(world.broker.take_violation(), None);
}

#[test]
fn tags_of_messages_that_were_got_count_as_well() {
    let mut world = World::new(Recovery::default());
    let id = world.open();
    let queue = world.queue(id, durable("queue"));
    let mut tags = Vec::new();
    for _ in 0..3 {
        world.publish(id, "", "queue", "body");
        let get = world.send(id, BasicGet { queue: queue.clone(), ..<_>::default() });
        world.run();
        let Some(Reply::Message(amqp_client_core::proto::GetReply::Message { delivery, .. })) =
            world.answer(get)
        else {
            panic!("no message");
        };
        tags.push(delivery.delivery_tag());
        world.cut();
        world.recover();
    }
    assert!(tags.is_sorted_by(|a, b| a < b), "{tags:?}");
}

#[test]
fn only_unconfirmed_publishes_are_reported() {
    let mut world = World::new(Recovery::default());
    let id = world.open();
    world.queue(id, durable("queue"));
    world.confirm(id);
    let first = world.publish(id, "", "queue", "confirmed").expect("it is numbered");
    world.run();
    let lost: Vec<_> =
        ["b", "c"].into_iter().filter_map(|body| world.publish(id, "", "queue", body)).collect();
    world.events.clear();
    world.cut();
    let told: Vec<_> = world
        .channel_events()
        .filter_map(|event| match event {
            ChannelEvent::Unconfirmed { publishes, .. } => Some(publishes.clone()),
            _ => None,
        })
        .collect();
    assert_eq!(told, [lost[0]..=lost[1]]);
    assert!(lost[0] > first);
    let channel = &mut world.session.channel(id).expect("it is open");
    let gated = channel.publish(&Route::queue("queue"), &RawProperties::EMPTY, "gated");
    assert_eq!(gated, Err(PublishError::Gated(Gate::Recovering)));
    world.recover();
    let next = world.publish(id, "", "queue", "next").expect("it is numbered");
    assert!(next > lost[1]);
    world.events.clear();
    world.run();
    let confirmed = ChannelEvent::Confirmed { publishes: next..=next, ack: true };
    assert!(world.channel_events().any(|event| *event == confirmed), "{:?}", world.events);
}

#[test]
fn kept_messages_are_sent_again_in_order_and_marked() {
    let mut world = World::new(Recovery::default());
    let id = world.open();
    let queue = world.queue(id, durable("queue"));
    world.confirm(id);
    let confirmed = world.keep(id, "queue", "confirmed");
    world.run();
    assert_eq!(world.session.kept(), 0);
    let first = world.keep(id, "queue", "first");
    let plain = world.publish(id, "", "queue", "plain").expect("it is numbered");
    let second = world.keep(id, "queue", "second");
    world.cut();
    // It is taken while there is no connection, and was never sent.
    let third = world.keep(id, "queue", "third");
    assert!(confirmed < first && first < plain && plain < second && second < third);
    world.events.clear();
    let report = world.recover();
    assert_eq!(report.republished, 2);
    let next = world.publish(id, "", "queue", "next").expect("it is numbered");
    world.run();
    let mut settled = Vec::new();
    for event in world.channel_events() {
        if let ChannelEvent::Confirmed { publishes, ack: true } = event {
            settled.extend(publishes.start().get()..=publishes.end().get());
        }
    }
    assert_eq!(settled, [first, second, third, next].map(|seq| seq.get()));
    assert_eq!(world.session.kept(), 0);

    let consumer = world.consume(id, &queue, "tag");
    world.run();
    let delivered = world.deliveries();
    let told: Vec<_> = delivered
        .iter()
        .map(|(found, delivery)| {
            assert_eq!(*found, consumer);
            let headers = delivery.properties().headers().expect("well-formed").unwrap_or_default();
            (text(delivery), headers.get("x-republished").is_some())
        })
        .collect();
    let told: Vec<_> = told.iter().map(|(body, again)| (body.as_str(), *again)).collect();
    assert_eq!(
        told,
        [
            ("confirmed", false),
            ("first", true),
            ("second", true),
            ("third", false),
            ("next", false)
        ]
    );
}

#[test]
fn no_more_is_kept_than_may_be() {
    let mut world = World::with(|recovery| recovery.keep_max = 1000);
    let id = world.open();
    world.queue(id, durable("queue"));
    let route = Route::queue("queue");
    let keep = |world: &mut World, size: usize| {
        let channel = &mut world.session.channel(id).expect("it is open");
        channel.publish_kept(&route, &RawProperties::EMPTY, vec![0; size])
    };
    assert_eq!(keep(&mut world, 1), Err(Misuse::NeedsConfirms.into()), "there are no confirms");
    world.confirm(id);
    // One is always taken.
    keep(&mut world, 2000).expect("it is the first");
    assert_eq!(keep(&mut world, 1), Err(Gate::Kept.into()));
    world.run();
    assert_eq!(world.session.kept(), 0);
    keep(&mut world, 100).expect("there is room");
    keep(&mut world, 100).expect("there is room");
    // With its channel, all of it goes.
    world
        .session
        .channel(id)
        .expect("it is open")
        .close(amqp_client_core::proto::ReplyCode::REPLY_SUCCESS, "done");
    world.run();
    assert_eq!(world.session.kept(), 0);
}

#[test]
fn a_partly_lost_transaction_is_never_committed() {
    let mut world = World::new(Recovery::default());
    let id = world.open();
    let queue = world.queue(id, durable("queue"));
    world.ask(id, TxSelect {}).expect("it is selected");
    let commit = |world: &mut World| {
        let channel = &mut world.session.channel(id).expect("it is open");
        channel.request(TxCommit {})
    };
    world.publish(id, "", "queue", "lost");
    world.run();
    world.cut();
    world.recover();
    world.publish(id, "", "queue", "the other half");
    assert_eq!(commit(&mut world), Err(Misuse::TransactionLost.into()));
    world.run();
    // From here on it is another transaction.
    world.publish(id, "", "queue", "whole");
    commit(&mut world).expect("nothing is lost");
    world.run();
    let deleted = world.ask(id, QueueDelete { queue: queue.clone(), ..<_>::default() });
    assert_eq!(deleted.expect("it is deleted").message_count, 1);

    // What has no work in it has nothing to lose, and a rollback loses it anyway.
    world.cut();
    world.recover();
    commit(&mut world).expect("nothing is lost");
    world.publish(id, "", "queue", "lost");
    world.run();
    world.cut();
    world.recover();
    world.ask(id, TxRollback {}).expect("it is rolled back");
    commit(&mut world).expect("nothing is lost");
}

/// A transactional channel that has got its message back while another channel is still being restored: the world, the
/// channel, and the message's tag. With `dirty`, half a transaction is lost.
fn transaction_amid_a_recovery(dirty: bool) -> (World, ChannelId, DeliveryTag) {
    let mut world = World::new(Recovery::default());
    let other = world.open();
    let taken = world.queue(other, durable("taken"));
    for tag in ["tag", "too"] {
        world.consume(other, &taken, tag);
    }
    let id = world.open();
    let queue = world.queue(id, durable("queue"));
    world.publish(id, "", "queue", "message");
    world.ask(id, TxSelect {}).expect("it is selected");
    world.consume(id, &queue, "tag");
    world.deliveries();
    if dirty {
        world.publish(id, "", "queue", "lost");
    }
    world.cut();
    // The other channel is refused its consumers, and is opened once more.
    world.elsewhere(|elsewhere, id| {
        let consume = BasicConsume { queue: taken, exclusive: true, ..<_>::default() };
        elsewhere.ask(id, consume).expect("nobody else consumes");
    });
    world.reconnect();
    let delivered = (0..20).find_map(|_| {
        world.round();
        world.deliveries().pop()
    });
    assert!(!world.session.is_open(), "there is nothing left to restore");
    (world, id, delivered.expect("it comes again").1.delivery_tag())
}

#[test]
fn a_lost_transaction_can_be_rolled_back_during_recovery() {
    let (mut world, id, tag) = transaction_amid_a_recovery(true);
    let channel = &mut world.session.channel(id).expect("it is open");
    channel.ack(tag).expect("it waits");
    assert_eq!(channel.request(TxCommit {}), Err(Misuse::TransactionLost.into()));
    world.run();
    assert!(world.session.is_open());
    world.ask(id, TxCommit {}).expect("nothing is in it");
    world.session.channel(id).expect("it is open").close(ReplyCode::REPLY_SUCCESS, "");
    let observer = world.open();
    assert_eq!(world.queue_count(observer, "queue").0, 1);
}

#[test]
fn a_rollback_during_recovery_keeps_its_place_among_acknowledgements() {
    let (mut world, id, tag) = transaction_amid_a_recovery(false);
    let rolled_back = world.send(id, TxRollback {});
    world.session.channel(id).expect("it is open").ack(tag).expect("it waits");
    world.run();
    assert!(world.session.is_open() && world.answer(rolled_back).is_some());
    world.ask(id, TxCommit {}).expect("it is committed");
    world.session.channel(id).expect("it is open").close(ReplyCode::REPLY_SUCCESS, "");
    let observer = world.open();
    assert_eq!(world.queue_count(observer, "queue").0, 0);
}

#[test]
fn a_transaction_whose_acknowledgement_is_stale_is_not_committed() {
    let mut world = World::new(Recovery::default());
    let id = world.open();
    let queue = world.queue(id, durable("queue"));
    world.publish(id, "", "queue", "work");
    world.ask(id, TxSelect {}).expect("it is selected");
    world.consume(id, &queue, "tag");
    let tag = world.deliveries()[0].1.delivery_tag();
    world.cut();
    world.recover();
    // The work is delivered again, so its result must not be published now.
    world.publish(id, "", "queue", "result");
    let channel = &mut world.session.channel(id).expect("it is open");
    assert_eq!(channel.ack(tag), Err(Misuse::StaleDelivery(tag.get()).into()));
    assert_eq!(channel.request(TxCommit {}), Err(Misuse::TransactionLost.into()));
    // The loss has requeued it already.
    assert_eq!(channel.reject(tag, true), Err(Misuse::StaleDelivery(tag.get()).into()));
    channel.request(TxCommit {}).expect("nothing is lost");
    world.run();
    assert_eq!(world.broker.take_violation(), None);
}

#[test]
fn deliveries_during_recovery_can_be_acknowledged() {
    let mut world = World::new(Recovery::default());
    let mut consumers = Vec::new();
    for name in ["a", "b"] {
        let id = world.open();
        let queue = world.queue(id, durable(name));
        world.limit(id, 2);
        consumers.push(world.consume(id, &queue, "tag"));
        for number in 0..10 {
            world.publish(id, "", name, &number.to_string());
        }
    }
    world.run();
    world.deliveries();
    world.cut();
    world.eager = true;
    world.recover();
    world.run();
    let delivered = world.deliveries();
    for consumer in consumers {
        assert_eq!(delivered.iter().filter(|(found, _)| *found == consumer).count(), 10);
    }
    let peer = world.peer.expect("it is connected");
    assert_eq!(world.broker.unacknowledged_count(peer), 0);
}

#[test]
fn a_consumer_discarded_during_recovery_takes_nothing() {
    for rounds in 0..10 {
        let mut world = World::new(Recovery::default());
        let id = world.open();
        let queue = world.queue(id, durable("queue"));
        world.publish(id, "", "queue", "body");
        let consumer = world.consume(id, &queue, "tag");
        world.run();
        world.deliveries();
        world.cut();
        assert!(world.reconnect());
        for _ in 0..rounds {
            world.round();
        }
        let channel = &mut world.session.channel(id).expect("it is open");
        channel.discard_consumer(consumer);
        // Discarding a consumer requeues the messages that it has.
        for (_, delivery) in world.deliveries() {
            let channel = &mut world.session.channel(id).expect("it is open");
            channel.reject(delivery.delivery_tag(), true).expect("it is not stale");
        }
        world.run();
        assert!(world.session.is_open());
        let count = world.queue_count(id, "queue");
        assert_eq!(count, (1, 0), "{rounds}");
        assert_eq!(world.broker.take_violation(), None);
    }
}

/// Its reply has come, but the application has not polled it yet.
#[test]
fn an_abandoned_reply_leaves_nothing_behind() {
    let mut world = World::new(Recovery::default());
    let id = world.open();
    world.queue(id, durable("q"));
    world.publish(id, "", "q", "m");
    world.run();
    let get = world.send(id, BasicGet { queue: short("q"), ..<_>::default() });
    world.carry();
    world.session.channel(id).expect("it is open").abandon(get);
    world.run();
    assert!(world.answer(get).is_none());
    assert_eq!(world.queue_count(id, "q"), (1, 0), "the message is requeued");
    // A consumer.
    let consume = BasicConsume { queue: short("q"), consumer_tag: short("c"), ..<_>::default() };
    let consume = world.send(id, consume);
    world.carry();
    world.session.channel(id).expect("it is open").abandon(consume);
    world.run();
    assert!(world.answer(consume).is_none() && world.deliveries().is_empty());
    assert_eq!(world.queue_count(id, "q"), (1, 0), "it is cancelled");
    assert_eq!(world.session.channel(id).expect("it is open").unsettled(), 0);
    // Another one can take its tag.
    let consumer = world.consume(id, &short("q"), "c");
    assert_eq!(world.texts(consumer), ["m"]);
    assert_eq!(world.broker.take_violation(), None);
}
