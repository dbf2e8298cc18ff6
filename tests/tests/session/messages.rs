use amqp_client_core::proto::method::{
    BasicConsume, BasicGet, QueueDelete, TxCommit, TxRollback, TxSelect,
};
use amqp_client_core::proto::session::Recovery;
use amqp_client_core::proto::{
    ChannelEvent, ChannelId, CommandError, DeliveryTag, Gate, Misuse, PublishError, RawProperties,
    Reply, ReplyCode, Route,
};

use crate::harness::Broker;
use crate::rig::{SessionRig, durable, short, text};

#[test]
fn requests_on_their_way_fail_and_later_ones_wait() {
    let mut rig = SessionRig::new(Recovery::default());
    let id = rig.open();
    let lost = rig.send(id, durable("lost"));
    rig.cut();
    assert!(matches!(rig.failure(lost), Some(CommandError::Ended(_))), "{:?}", rig.events);
    let waiting = rig.send(id, durable("waiting"));
    let unwanted = rig.send(id, durable("unwanted"));
    rig.channel(id).abandon(unwanted);
    rig.recover();
    rig.run();
    assert!(rig.answer(waiting).is_some());
    assert!(rig.answer(unwanted).is_none() && rig.failure(unwanted).is_none());
    // It is unknown whether the first was carried out, so nothing of it is restored.
    rig.cut();
    assert_eq!(rig.recover().queues, 1);
}

#[test]
fn an_abandoned_reply_is_still_recorded() {
    let mut rig = SessionRig::new(Recovery::default());
    let id = rig.open();
    let declare = rig.send(id, durable("unwanted"));
    rig.channel(id).abandon(declare);
    rig.run();
    assert!(rig.answer(declare).is_none());
    rig.cut();
    assert_eq!(rig.recover().queues, 1);
}

#[test]
fn deliveries_from_before_the_loss_are_stale_and_delivered_again() {
    let mut rig = SessionRig::new(Recovery::default());
    let id = rig.open();
    let queue = rig.queue(id, durable("queue"));
    let consumer = rig.consume(id, &queue, "tag");
    for body in ["one", "two"] {
        rig.publish(id, "", "queue", body);
    }
    rig.run();
    let before = rig.deliveries();
    assert_eq!(before.len(), 2);
    rig.cut();
    let stale = |rig: &mut SessionRig<Broker>, tag: DeliveryTag| {
        let error = Err(CommandError::Misuse(Misuse::StaleDelivery(tag.get())));
        let channel = &mut rig.channel(id);
        assert_eq!(channel.ack(tag), error);
        assert_eq!(channel.ack_up_to(tag), error);
        assert_eq!(channel.reject(tag, true), error);
        assert_eq!(channel.nack_up_to(tag, true), error);
    };
    stale(&mut rig, before[0].1.delivery_tag());
    rig.recover();
    rig.run();
    let after = rig.deliveries();
    assert_eq!(after.len(), 2);
    for ((_, old), (found, new)) in before.iter().zip(&after) {
        assert_eq!((*found, text(old)), (consumer, text(new)));
        assert!(new.redelivered() && new.delivery_tag() > old.delivery_tag());
        stale(&mut rig, old.delivery_tag());
    }
    let channel = &mut rig.channel(id);
    channel.ack_up_to(after[1].1.delivery_tag()).expect("they wait for it");
    rig.run();
    assert_eq!(rig.peer.engine.unacknowledged_count(rig.peer.client.expect("it is connected")), 0);
    assert_eq!(rig.peer.engine.take_violation(), None);
}

#[test]
fn tags_of_messages_that_were_got_count_as_well() {
    let mut rig = SessionRig::new(Recovery::default());
    let id = rig.open();
    let queue = rig.queue(id, durable("queue"));
    let mut tags = Vec::new();
    for _ in 0..3 {
        rig.publish(id, "", "queue", "body");
        let get = rig.send(id, BasicGet { queue: queue.clone(), ..<_>::default() });
        rig.run();
        let Some(Reply::Message(amqp_client_core::proto::GetReply::Message { delivery, .. })) =
            rig.answer(get)
        else {
            panic!("no message");
        };
        tags.push(delivery.delivery_tag());
        rig.cut();
        rig.recover();
    }
    assert!(tags.is_sorted_by(|a, b| a < b), "{tags:?}");
}

#[test]
fn only_unconfirmed_publishes_are_reported() {
    let mut rig = SessionRig::new(Recovery::default());
    let id = rig.open();
    rig.queue(id, durable("queue"));
    rig.confirm(id);
    let first = rig.publish(id, "", "queue", "confirmed").expect("it is numbered");
    rig.run();
    let lost: Vec<_> =
        ["b", "c"].into_iter().filter_map(|body| rig.publish(id, "", "queue", body)).collect();
    rig.events.clear();
    rig.cut();
    let told: Vec<_> = rig
        .channel_events()
        .filter_map(|event| match event {
            ChannelEvent::Unconfirmed { publishes, .. } => Some(publishes.clone()),
            _ => None,
        })
        .collect();
    assert_eq!(told, [lost[0]..=lost[1]]);
    assert!(lost[0] > first);
    let channel = &mut rig.channel(id);
    let gated = channel.publish(&Route::queue("queue"), &RawProperties::EMPTY, "gated");
    assert_eq!(gated, Err(PublishError::Gated(Gate::Recovering)));
    rig.recover();
    let next = rig.publish(id, "", "queue", "next").expect("it is numbered");
    assert!(next > lost[1]);
    rig.events.clear();
    rig.run();
    let confirmed = ChannelEvent::Confirmed { publishes: next..=next, ack: true };
    assert!(rig.channel_events().any(|event| *event == confirmed), "{:?}", rig.events);
}

#[test]
fn kept_messages_are_sent_again_in_order_and_marked() {
    let mut rig = SessionRig::new(Recovery::default());
    let id = rig.open();
    let queue = rig.queue(id, durable("queue"));
    rig.confirm(id);
    let confirmed = rig.keep(id, "queue", "confirmed");
    rig.run();
    assert_eq!(rig.session.kept(), 0);
    let first = rig.keep(id, "queue", "first");
    let plain = rig.publish(id, "", "queue", "plain").expect("it is numbered");
    let second = rig.keep(id, "queue", "second");
    rig.cut();
    // It is taken while there is no connection, and was never sent.
    let third = rig.keep(id, "queue", "third");
    assert!(confirmed < first && first < plain && plain < second && second < third);
    rig.events.clear();
    let report = rig.recover();
    assert_eq!(report.republished, 2);
    let next = rig.publish(id, "", "queue", "next").expect("it is numbered");
    rig.run();
    let mut settled = Vec::new();
    for event in rig.channel_events() {
        if let ChannelEvent::Confirmed { publishes, ack: true } = event {
            settled.extend(publishes.start().get()..=publishes.end().get());
        }
    }
    assert_eq!(settled, [first, second, third, next].map(|seq| seq.get()));
    assert_eq!(rig.session.kept(), 0);

    let consumer = rig.consume(id, &queue, "tag");
    rig.run();
    let delivered = rig.deliveries();
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
    let mut rig = SessionRig::with(|recovery| recovery.keep_max(1000));
    let id = rig.open();
    rig.queue(id, durable("queue"));
    let route = Route::queue("queue");
    let keep = |rig: &mut SessionRig<Broker>, size: usize| {
        let channel = &mut rig.channel(id);
        channel.publish_kept(&route, &RawProperties::EMPTY, vec![0; size])
    };
    assert_eq!(keep(&mut rig, 1), Err(Misuse::NeedsConfirms.into()), "there are no confirms");
    rig.confirm(id);
    // One is always taken.
    keep(&mut rig, 2000).expect("it is the first");
    assert_eq!(keep(&mut rig, 1), Err(Gate::Kept.into()));
    rig.run();
    assert_eq!(rig.session.kept(), 0);
    keep(&mut rig, 100).expect("there is room");
    keep(&mut rig, 100).expect("there is room");
    // With its channel, all of it goes.
    rig.channel(id).close(amqp_client_core::proto::ReplyCode::REPLY_SUCCESS, "done");
    rig.run();
    assert_eq!(rig.session.kept(), 0);
}

#[test]
fn a_partly_lost_transaction_is_never_committed() {
    let mut rig = SessionRig::new(Recovery::default());
    let id = rig.open();
    let queue = rig.queue(id, durable("queue"));
    rig.ask(id, TxSelect {}).expect("it is selected");
    let commit = |rig: &mut SessionRig<Broker>| {
        let channel = &mut rig.channel(id);
        channel.request(TxCommit {})
    };
    rig.publish(id, "", "queue", "lost");
    rig.run();
    rig.cut();
    rig.recover();
    rig.publish(id, "", "queue", "the other half");
    assert_eq!(commit(&mut rig), Err(Misuse::TransactionLost.into()));
    rig.run();
    // From here on it is another transaction.
    rig.publish(id, "", "queue", "whole");
    commit(&mut rig).expect("nothing is lost");
    rig.run();
    let deleted = rig.ask(id, QueueDelete { queue: queue.clone(), ..<_>::default() });
    assert_eq!(deleted.expect("it is deleted").message_count, 1);

    // Neither an empty transaction nor one that is rolled back is lost with the connection.
    rig.cut();
    rig.recover();
    commit(&mut rig).expect("nothing is lost");
    rig.publish(id, "", "queue", "lost");
    rig.run();
    rig.cut();
    rig.recover();
    rig.ask(id, TxRollback {}).expect("it is rolled back");
    commit(&mut rig).expect("nothing is lost");
}

/// A transactional channel that has got its message back while another channel is still being restored: the rig, the
/// channel, and the message's tag. With `dirty`, half a transaction is lost.
fn transaction_amid_a_recovery(dirty: bool) -> (SessionRig<Broker>, ChannelId, DeliveryTag) {
    let mut rig = SessionRig::new(Recovery::default());
    let other = rig.open();
    let taken = rig.queue(other, durable("taken"));
    for tag in ["tag", "too"] {
        rig.consume(other, &taken, tag);
    }
    let id = rig.open();
    let queue = rig.queue(id, durable("queue"));
    rig.publish(id, "", "queue", "message");
    rig.ask(id, TxSelect {}).expect("it is selected");
    rig.consume(id, &queue, "tag");
    rig.deliveries();
    if dirty {
        rig.publish(id, "", "queue", "lost");
    }
    rig.cut();
    // The other channel is refused its consumers, and is opened once more.
    rig.elsewhere(|elsewhere, id| {
        let consume = BasicConsume { queue: taken, exclusive: true, ..<_>::default() };
        elsewhere.ask(id, consume).expect("nobody else consumes");
    });
    rig.reconnect();
    let delivered = (0..20).find_map(|_| {
        rig.round();
        rig.deliveries().pop()
    });
    assert!(!rig.session.is_open(), "there is nothing left to restore");
    (rig, id, delivered.expect("it comes again").1.delivery_tag())
}

#[test]
fn a_lost_transaction_can_be_rolled_back_during_recovery() {
    let (mut rig, id, tag) = transaction_amid_a_recovery(true);
    let channel = &mut rig.channel(id);
    channel.ack(tag).expect("it waits");
    assert_eq!(channel.request(TxCommit {}), Err(Misuse::TransactionLost.into()));
    rig.run();
    assert!(rig.session.is_open());
    rig.ask(id, TxCommit {}).expect("nothing is in it");
    rig.channel(id).close(ReplyCode::REPLY_SUCCESS, "");
    let observer = rig.open();
    assert_eq!(rig.queue_count(observer, "queue").0, 1);
}

#[test]
fn a_rollback_during_recovery_keeps_its_place_among_acknowledgements() {
    let (mut rig, id, tag) = transaction_amid_a_recovery(false);
    let rolled_back = rig.send(id, TxRollback {});
    rig.channel(id).ack(tag).expect("it waits");
    rig.run();
    assert!(rig.session.is_open() && rig.answer(rolled_back).is_some());
    rig.ask(id, TxCommit {}).expect("it is committed");
    rig.channel(id).close(ReplyCode::REPLY_SUCCESS, "");
    let observer = rig.open();
    assert_eq!(rig.queue_count(observer, "queue").0, 0);
}

#[test]
fn a_transaction_whose_acknowledgement_is_stale_is_not_committed() {
    let mut rig = SessionRig::new(Recovery::default());
    let id = rig.open();
    let queue = rig.queue(id, durable("queue"));
    rig.publish(id, "", "queue", "work");
    rig.ask(id, TxSelect {}).expect("it is selected");
    rig.consume(id, &queue, "tag");
    let tag = rig.deliveries()[0].1.delivery_tag();
    rig.cut();
    rig.recover();
    // The work is delivered again, so its result must not be published now.
    rig.publish(id, "", "queue", "result");
    let channel = &mut rig.channel(id);
    assert_eq!(channel.ack(tag), Err(Misuse::StaleDelivery(tag.get()).into()));
    assert_eq!(channel.request(TxCommit {}), Err(Misuse::TransactionLost.into()));
    // The loss has requeued it already.
    assert_eq!(channel.reject(tag, true), Err(Misuse::StaleDelivery(tag.get()).into()));
    channel.request(TxCommit {}).expect("nothing is lost");
    rig.run();
    assert_eq!(rig.peer.engine.take_violation(), None);
}

#[test]
fn deliveries_during_recovery_can_be_acknowledged() {
    let mut rig = SessionRig::new(Recovery::default());
    let mut consumers = Vec::new();
    for name in ["a", "b"] {
        let id = rig.open();
        let queue = rig.queue(id, durable(name));
        rig.limit(id, 2);
        consumers.push(rig.consume(id, &queue, "tag"));
        for number in 0..10 {
            rig.publish(id, "", name, &number.to_string());
        }
    }
    rig.run();
    rig.deliveries();
    rig.cut();
    rig.eager = true;
    rig.recover();
    rig.run();
    let delivered = rig.deliveries();
    for consumer in consumers {
        assert_eq!(delivered.iter().filter(|(found, _)| *found == consumer).count(), 10);
    }
    let peer = rig.peer.client.expect("it is connected");
    assert_eq!(rig.peer.engine.unacknowledged_count(peer), 0);
}

#[test]
fn a_consumer_discarded_during_recovery_takes_nothing() {
    for rounds in 0..10 {
        let mut rig = SessionRig::new(Recovery::default());
        let id = rig.open();
        let queue = rig.queue(id, durable("queue"));
        rig.publish(id, "", "queue", "body");
        let consumer = rig.consume(id, &queue, "tag");
        rig.run();
        rig.deliveries();
        rig.cut();
        assert!(rig.reconnect());
        for _ in 0..rounds {
            rig.round();
        }
        let channel = &mut rig.channel(id);
        channel.discard_consumer(consumer);
        // Discarding a consumer requeues the messages that it has.
        for (_, delivery) in rig.deliveries() {
            let channel = &mut rig.channel(id);
            channel.reject(delivery.delivery_tag(), true).expect("it is not stale");
        }
        rig.run();
        assert!(rig.session.is_open());
        let count = rig.queue_count(id, "queue");
        assert_eq!(count, (1, 0), "{rounds}");
        assert_eq!(rig.peer.engine.take_violation(), None);
    }
}

/// Its reply has come, but the application has not polled it yet.
#[test]
fn an_abandoned_reply_leaves_nothing_behind() {
    let mut rig = SessionRig::new(Recovery::default());
    let id = rig.open();
    rig.queue(id, durable("q"));
    rig.publish(id, "", "q", "m");
    rig.run();
    let get = rig.send(id, BasicGet { queue: short("q"), ..<_>::default() });
    rig.carry();
    rig.channel(id).abandon(get);
    rig.run();
    assert!(rig.answer(get).is_none());
    assert_eq!(rig.queue_count(id, "q"), (1, 0), "the message is requeued");
    // A consumer.
    let consume = BasicConsume { queue: short("q"), consumer_tag: short("c"), ..<_>::default() };
    let consume = rig.send(id, consume);
    rig.carry();
    rig.channel(id).abandon(consume);
    rig.run();
    assert!(rig.answer(consume).is_none() && rig.deliveries().is_empty());
    assert_eq!(rig.queue_count(id, "q"), (1, 0), "it is cancelled");
    assert_eq!(rig.channel(id).unsettled(), 0);
    // Another one can take its tag.
    let consumer = rig.consume(id, &short("q"), "c");
    assert_eq!(rig.texts(consumer), ["m"]);
    assert_eq!(rig.peer.engine.take_violation(), None);
}
