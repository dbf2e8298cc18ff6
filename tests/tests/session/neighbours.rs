//! What shares a channel with something that is refused, or a queue with somebody else.

use std::time::Duration;

use amqp_client_core::proto::method::{
    Arguments as _, BasicCancel, BasicConsume, BasicConsumeOk, ExchangeDeclare, Method, QueueBind,
    QueueDeclare, QueueDelete, QueuePurge,
};
use amqp_client_core::proto::session::{Entity, Locked, OnCancel, Recovery};
use amqp_client_core::proto::{
    ChannelEvent, ChannelId, CommandError, Connection, ConsumerId, Misuse, ReplyCode, ServerConfig,
    ShortStr,
};

use crate::pair::{Pair, accept};
use crate::world::{World, durable, nameless, short};

fn reopening() -> Recovery {
    let mut recovery = Recovery::default();
    recovery.reopen_channels = true;
    recovery
}

fn failed(world: &World) -> Vec<ConsumerId> {
    let failed = world.channel_events().filter_map(|event| match event {
        ChannelEvent::ConsumerFailed { consumer, .. } => Some(*consumer),
        _ => None,
    });
    failed.collect()
}

/// Makes a request that the broker refuses.
fn err(world: &mut World, id: ChannelId) {
    world.send(id, QueueDeclare { passive: true, ..durable("missing") });
    world.run();
}

/// A queue that goes with its last consumer, bound to an exchange that goes with it, which is bound to another such one.
fn fleeting(world: &mut World, id: ChannelId, name: &str) -> ShortStr {
    for exchange in ["near", "far"] {
        let declare = ExchangeDeclare {
            exchange: short(exchange),
            kind: short("fanout"),
            auto_delete: true,
            ..<_>::default()
        };
        world.ask(id, declare).expect("it is declared");
    }
    let queue = QueueDeclare { queue: short(name), auto_delete: true, ..<_>::default() };
    let queue = world.queue(id, queue);
    world.bind(id, &queue, "near", "");
    let bind = amqp_client_core::proto::method::ExchangeBind {
        destination: short("near"),
        source: short("far"),
        ..<_>::default()
    };
    world.ask(id, bind).expect("it is bound");
    queue
}

#[test]
fn a_queue_deleted_with_a_reopened_channel_is_declared_again() {
    for name in ["", "auto"] {
        let mut world = World::new(reopening());
        let (id, other) = (world.open(), world.open());
        let queue = fleeting(&mut world, id, name);
        let consumer = world.consume(id, &queue, "c");
        for _ in 0..3 {
            err(&mut world, id);
            world.pass(Duration::from_secs(60));
            assert_eq!(failed(&world), []);
            world.publish(other, "far", "", "there");
            world.run();
            assert_eq!(world.texts(consumer), ["there"], "'{name}'");
        }
        assert_eq!(world.broker.take_violation(), None);
    }
}

#[test]
fn a_queue_that_another_channel_consumes_as_well_stays_and_keeps_its_name() {
    let mut world = World::new(reopening());
    let (id, other) = (world.open(), world.open());
    let queue = world.queue(id, QueueDeclare { auto_delete: true, ..<_>::default() });
    let consumers = [world.consume(id, &queue, "a"), world.consume(other, &queue, "b")];
    err(&mut world, id);
    assert_eq!(*world.session.current_name(&queue), queue);
    for body in ["one", "two"] {
        world.publish(other, "", &queue.to_string(), body);
    }
    world.run();
    let delivered: Vec<_> = world.deliveries().into_iter().map(|(consumer, _)| consumer).collect();
    assert!(consumers.iter().all(|consumer| delivered.contains(consumer)), "{delivered:?}");
}

#[test]
fn a_consumer_with_a_refused_neighbour_continues_although_its_queue_was_deleted() {
    for name in ["", "auto"] {
        let mut world = World::new(Recovery::default());
        let id = world.open();
        let queue = fleeting(&mut world, id, name);
        // Declared and deleted by somebody else.
        world.elsewhere(|other, id| other.queue(id, durable("theirs")));
        let guilty = world.consume(id, &short("theirs"), "guilty");
        let innocent = world.consume(id, &queue, "innocent");
        world.events.clear();
        world.cut();
        world.elsewhere(|other, id| {
            other.ask(id, QueueDelete { queue: short("theirs"), ..<_>::default() });
        });
        let report = world.recover();
        assert_eq!(failed(&world), [guilty], "'{name}'");
        assert_eq!((report.exchanges, report.queues, report.consumers), (2, 1, 1), "{report:?}");
        let publishing = world.open();
        world.publish(publishing, "far", "", "there");
        world.run();
        assert_eq!(world.texts(innocent), ["there"], "'{name}'");
    }
}

/// A session with an exclusive consumer and another one on the same channel, on a new connection of which the broker does not
/// know yet that it has replaced the old one.
fn unnoticed(recovery: Recovery) -> (World, ChannelId, [ConsumerId; 2], impl FnOnce(&mut World)) {
    let mut world = World::new(recovery);
    let id = world.open();
    let queue = world.queue(id, durable("q"));
    let exclusive =
        BasicConsume { queue, consumer_tag: short("exclusive"), exclusive: true, ..<_>::default() };
    let exclusive = world.send(id, exclusive);
    let other = world.queue(id, durable("other"));
    let other = world.consume(id, &other, "other");
    world.events.clear();
    let lost = world.peer.take().expect("it is connected");
    world.session.handle_eof(world.now);
    world.run();
    world.recover();
    let notice = move |world: &mut World| world.broker.handle_eof(lost, world.now);
    (world, id, [exclusive.into(), other], notice)
}

#[test]
fn an_exclusive_consumer_waits_for_a_channel_to_ask_on() {
    let (mut world, id, [exclusive, _], notice) = unnoticed(Recovery::default());
    let spare = world.open();
    while world.session.open_channel().is_ok() {}
    world.run();
    notice(&mut world);
    for _ in 0..5 {
        world.pass(Duration::from_secs(1));
    }
    assert_eq!(failed(&world), []);
    let mut channel = world.session.channel(spare).expect("it is open");
    channel.close(ReplyCode::REPLY_SUCCESS, "");
    world.run();
    world.pass(Duration::from_secs(1));
    world.publish(id, "", "q", "there");
    world.run();
    assert_eq!(world.texts(exclusive), ["there"]);
}

#[test]
fn an_exclusive_consumer_waits_until_the_broker_notices_the_loss() {
    let (mut world, id, [exclusive, other], notice) = unnoticed(Recovery::default());
    let report = world.report();
    assert!(
        matches!(&report.locked[..], [Entity::Consumer { consumer, .. }] if *consumer == exclusive),
        "{report:?}"
    );
    assert_eq!((report.consumers, report.failed.len()), (1, 0));
    world.events.clear();
    for _ in 0..10 {
        world.pass(Duration::from_secs(1));
    }
    // Waiting costs the other consumer nothing.
    let disturbed = |event: &ChannelEvent| matches!(event, ChannelEvent::Interrupted { .. });
    assert!(!world.channel_events().any(disturbed) && failed(&world).is_empty());
    notice(&mut world);
    world.pass(Duration::from_secs(1));
    assert!(!world.channel_events().any(disturbed), "{other:?} goes on");
    world.publish(id, "", "q", "there");
    world.run();
    assert_eq!(world.texts(exclusive), ["there"]);
    // It has no other timer any more, and is restored after the next loss as well.
    world.cut();
    assert_eq!(world.recover().consumers, 2);
    assert_eq!(world.broker.take_violation(), None);
}

#[test]
fn an_exclusive_consumer_that_waits_can_be_cancelled_or_lose_its_queue_or_its_channel() {
    for act in 0..4 {
        let (mut world, id, [exclusive, other], notice) = unnoticed(reopening());
        world.events.clear();
        match act {
            0 => {
                let channel = &mut world.session.channel(id).expect("it is open");
                channel.discard_consumer(exclusive);
            }
            1 => {
                world.elsewhere(|other, id| {
                    other.ask(id, QueueDelete { queue: short("q"), ..<_>::default() });
                });
            }
            2 => err(&mut world, id),
            _ => {
                let channel = &mut world.session.channel(id).expect("it is open");
                channel.close(ReplyCode::REPLY_SUCCESS, "");
            }
        }
        world.pass(Duration::from_secs(5));
        notice(&mut world);
        world.pass(Duration::from_secs(5));
        let ended = if act == 1 { vec![exclusive] } else { Vec::new() };
        assert_eq!(failed(&world), ended, "{act}: {other:?}");
        let probe = world.open();
        if act != 1 {
            assert_eq!(world.queue_count(probe, "q").1, u32::from(act == 2), "{act}");
        }
        assert_eq!(world.queue_count(probe, "other").1, u32::from(act != 3), "{act}");
        assert_eq!(world.broker.take_violation(), None);
    }
}

/// The broker does not have a consumer that waits. If another one could take its tag, a cancel of the first would end the second.
#[test]
fn the_tag_of_an_exclusive_consumer_that_waits_is_taken() {
    let (mut world, id, _, notice) = unnoticed(Recovery::default());
    let consume =
        BasicConsume { queue: short("other"), consumer_tag: short("exclusive"), ..<_>::default() };
    let mut again = || world.session.channel(id).expect("it is open").request(consume.clone());
    assert_eq!(again(), Err(CommandError::Misuse(Misuse::ConsumerTagInUse)));
    notice(&mut world);
    world.pass(Duration::from_secs(1));
    assert_eq!(world.broker.take_violation(), None);
}

fn start(pair: &mut Pair, id: ChannelId, tag: &str, exclusive: bool) -> ConsumerId {
    let (queue, consumer_tag) = (short(tag), short(tag));
    let consume = BasicConsume { queue, consumer_tag, exclusive, ..<_>::default() };
    pair.channel(id).request(consume).expect("it is sent").into()
}

/// A session with an exclusive consumer and another one on the same channel. The broker has replied that the queue of the first
/// is in use, and the session is about to ask again.
fn waiting() -> (Pair, ChannelId, ConsumerId) {
    let mut pair = Pair::new(Recovery::default());
    pair.run(accept);
    let id = pair.open();
    let exclusive = start(&mut pair, id, "exclusive", true);
    start(&mut pair, id, "other", false);
    pair.run(accept);
    pair.cut();
    pair.reconnect(ServerConfig::default());
    pair.run(refuse);
    assert!(pair.session.is_open());
    due(&mut pair);
    (pair, id, exclusive)
}

fn due(pair: &mut Pair) {
    pair.asked.clear();
    pair.events.clear();
    pair.now += Duration::from_secs(1);
    pair.server.send_heartbeat();
    pair.session.handle_timeout(pair.now);
}

fn is_exclusive(method: &Method) -> bool {
    matches!(method, Method::BasicConsume(consume) if consume.exclusive)
}

/// Replies that the queue has no consumers, but refuses an exclusive one.
fn refuse(server: &mut Connection, id: ChannelId, method: &Method) {
    let text = "ACCESS_REFUSED - queue 'exclusive' in vhost '/' in exclusive use";
    match (server.channel(id), is_exclusive(method)) {
        (Ok(mut channel), true) => {
            channel.close_over(ReplyCode::ACCESS_REFUSED, text, method.facts().id);
        }
        (Ok(_), false) => accept(server, id, method),
        // What comes behind the close is ignored.
        (Err(_), _) => {}
    }
}

/// The queue was free when the broker was asked, and another connection was faster.
#[test]
fn a_race_for_a_queue_that_is_lost_costs_the_channel_once() {
    let (mut pair, _, exclusive) = waiting();
    for _ in 0..3 {
        pair.run(refuse);
        assert_eq!(pair.asked.iter().filter(|method| is_exclusive(method)).count(), 1);
        let interrupted = |event: &&ChannelEvent| matches!(event, ChannelEvent::Interrupted { .. });
        assert_eq!(pair.channel_events().filter(interrupted).count(), 1);
        assert!(pair.failed_consumers().is_empty(), "{exclusive:?} waits");
        due(&mut pair);
    }
    pair.run(accept);
    assert!(pair.asked.iter().any(is_exclusive));
    let disturbed = |event: &ChannelEvent| matches!(event, ChannelEvent::Interrupted { .. });
    assert!(!pair.channel_events().any(disturbed));
}

#[test]
fn a_restored_consumer_is_not_blamed_for_one_of_the_application() {
    let (mut pair, id, exclusive) = waiting();
    pair.run(|server, id, method| match is_exclusive(method) {
        true => {}
        false => accept(server, id, method),
    });
    assert!(pair.asked.iter().any(is_exclusive));
    let forbidden = start(&mut pair, id, "forbidden", false);
    pair.run(|_, _, _| {});
    let cause = (BasicConsume::CLASS_ID, BasicConsume::METHOD_ID);
    pair.refuse(id, ReplyCode::ACCESS_REFUSED, "ACCESS_REFUSED - no", cause);
    let failed = pair.channel_events().filter_map(|event| match event {
        ChannelEvent::Failed { request, .. } => Some(ConsumerId::from(*request)),
        _ => None,
    });
    assert_eq!(failed.collect::<Vec<_>>(), [forbidden]);
    assert_eq!(pair.failed_consumers(), [], "{exclusive:?} was not looked at");
    assert_eq!(pair.asked.iter().filter(|method| is_exclusive(method)).count(), 2);
}

/// The broker cancels a consumer while the rest of its channel is still being restored.
#[test]
fn a_consumer_that_is_cancelled_while_its_channel_is_reopened_starts_again() {
    let mut recovery = reopening();
    recovery.on_cancel = OnCancel::Resubscribe;
    let mut pair = Pair::new(recovery);
    pair.run(accept);
    let id = pair.open();
    let cancelled = start(&mut pair, id, "first", false);
    start(&mut pair, id, "second", false);
    pair.run(accept);
    let starts = |method: &Method, tag: &str| matches!(method, Method::BasicConsume(consume) if consume.consumer_tag == short(tag));
    pair.asked.clear();
    let cause = (QueueDelete::CLASS_ID, QueueDelete::METHOD_ID);
    pair.server.channel(id).expect("it is open").close_over(ReplyCode::NOT_FOUND, "no", cause);
    // One of the two is restored.
    pair.run(|server, id, method| {
        if !starts(method, "second") {
            accept(server, id, method);
        }
    });
    let cancel = BasicCancel { consumer_tag: short("first"), no_wait: true };
    pair.server.channel(id).expect("it is open").send(cancel).expect("it is sent");
    pair.run(accept);
    let second = BasicConsumeOk { consumer_tag: short("second") };
    pair.say(id, second);
    let count = pair.asked.iter().filter(|method| starts(method, "first")).count();
    assert_eq!(count, 2, "{cancelled:?} is started again");
    assert!(pair.session.is_open());
}

#[test]
fn an_exclusive_consumer_can_fail_at_once() {
    let mut recovery = Recovery::default();
    recovery.locked = Locked::Fail;
    let (world, _, [exclusive, _], _) = unnoticed(recovery);
    assert_eq!(failed(&world), [exclusive]);
}

#[test]
fn a_consumer_of_a_locked_queue_outlives_the_reopening_of_its_channel() {
    let mut world = World::new(reopening());
    let id = world.open();
    let (consumer, other) = world.lose_queue(id, "mine", "c");
    assert_eq!(world.recover().locked.len(), 1);
    err(&mut world, id);
    world.pass(Duration::from_secs(5));
    assert_eq!(failed(&world), []);
    world.broker.handle_eof(other, world.now);
    world.pass(Duration::from_secs(5));
    world.publish(id, "", "mine", "back");
    world.run();
    assert_eq!(world.texts(consumer), ["back"]);
}

#[test]
fn an_empty_name_still_means_the_queue_that_was_declared_last() {
    for (declare, waits) in
        [(nameless(), false), (nameless(), true), (durable("q"), false), (durable("q"), true)]
    {
        let mut world = World::new(Recovery::default());
        let id = world.open();
        world.exchange(id, "x", "direct");
        let old = world.queue(id, declare);
        world.queue(id, durable("another"));
        let _last =
            world.queue(id, QueueDeclare { passive: true, queue: old.clone(), ..<_>::default() });
        world.cut();
        let bind = |routing_key: &str| QueueBind {
            exchange: short("x"),
            routing_key: short(routing_key),
            ..<_>::default()
        };
        let asked = waits.then(|| world.send(id, bind("key")));
        world.recover();
        let asked = asked.unwrap_or_else(|| world.send(id, bind("key")));
        world.run();
        assert!(world.answer(asked).is_some(), "{:?}", world.events);
        world.ask(id, bind("")).expect("it is bound by its own name");
        let consume = BasicConsume { consumer_tag: short("c"), ..<_>::default() };
        let consumer: ConsumerId = world.send(id, consume).into();
        world.run();
        let name = world.session.current_name(&old).to_string();
        for key in ["key", name.as_str()] {
            world.publish(id, "x", key, key);
        }
        world.run();
        assert_eq!(world.texts(consumer), ["key", name.as_str()]);
        // All of that is restored once more.
        world.cut();
        let report = world.recover();
        assert_eq!((report.bindings, report.consumers, report.failed.len()), (2, 1, 0));
        world.publish(id, "x", "key", "again");
        world.run();
        assert_eq!(world.texts(consumer).last().map(String::as_str), Some("again"));
        // From the next declaration on it means that queue.
        world.queue(id, durable("new"));
        world.publish(id, "", "new", "purged");
        world.run();
        let purged = world.ask(id, QueuePurge::default()).expect("there is one");
        assert_eq!(purged.message_count, 1);
    }
}
