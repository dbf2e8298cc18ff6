//! Requests and kept messages of a channel reach the broker in the order in which they were made, whatever happens between.

use std::time::Duration;

use amqp_client_core::proto::method::{
    ConfirmSelect, ExchangeDelete, ExchangeUnbind, Method, QueueDeclare, QueueDelete, QueuePurge,
    QueueUnbind,
};
use amqp_client_core::proto::session::Recovery;
use amqp_client_core::proto::{
    ChannelEvent, ChannelId, PublishError, RawProperties, ReplyCode, RequestId, Route, ServerConfig,
};

use crate::pair::{Pair, accept};
use crate::world::{World, durable, exclusive, short};

fn purge(name: &str) -> QueuePurge {
    QueuePurge { queue: short(name), ..<_>::default() }
}

/// A queue with one message before each of its requests and behind the last.
fn script(world: &mut World, id: ChannelId) -> Vec<RequestId> {
    let mut requests = vec![world.send(id, durable("late"))];
    world.keep(id, "late", "purged");
    requests.push(world.send(id, purge("late")));
    world.keep(id, "late", "deleted");
    requests.push(world.send(id, QueueDelete { queue: short("late"), ..<_>::default() }));
    requests.push(world.send(id, durable("late")));
    world.keep(id, "late", "stays");
    requests
}

#[test]
fn a_kept_message_does_not_overtake_the_requests_before_it() {
    // Without a connection, with a transport, in the middle of the handshake, while the channel is restored.
    for rounds in 0..8 {
        let mut world = World::new(Recovery::default());
        let id = world.open();
        world.queue(id, durable("q"));
        world.confirm(id);
        world.cut();
        let before = world.keep(id, "q", "before");
        if rounds > 0 {
            assert!(world.reconnect());
            (1..rounds).for_each(|_| world.round());
        }
        let requests = script(&mut world, id);
        world.run();
        if rounds == 0 {
            world.recover();
        }
        for request in requests {
            assert!(world.answer(request).is_some(), "{rounds}: {request:?}");
        }
        assert_eq!(world.confirmed().len(), 4, "{rounds}: {before:?}");
        assert_eq!(world.queue_count(id, "late").0, 1, "{rounds}");
        assert_eq!(world.session.kept(), 0);
        assert_eq!(world.broker.take_violation(), None);
    }
}

/// Each loss lets the requests that were sent fail, and no others.
#[test]
fn the_order_holds_over_a_loss_at_any_step() {
    for after in 1..20 {
        let mut world = World::new(Recovery::default());
        let id = world.open();
        world.queue(id, durable("q"));
        world.confirm(id);
        world.cut();
        let requests = script(&mut world, id);
        assert!(world.reconnect());
        world.cut_after = Some(world.rounds + after);
        world.run();
        let whole = world.cut_after.take().is_some();
        if !world.session.is_open() {
            world.recover();
        }
        world.run();
        for request in requests {
            let answered = world.answer(request).is_some();
            assert_ne!(answered, world.failure(request).is_some(), "{after}: {request:?}");
        }
        assert_eq!(world.confirmed().len(), 3, "{after}");
        assert_eq!(world.session.kept(), 0);
        if whole {
            assert_eq!(world.queue_count(id, "late").0, 1);
            return;
        }
    }
    panic!("a recovery does not take so long");
}

/// A declaration that is tried again stays ahead of the messages behind it.
#[test]
fn a_kept_message_waits_for_the_declaration_of_a_locked_queue() {
    let mut world = World::with(|recovery| recovery.retry_locked = true);
    let mine = || exclusive("mine");
    let before = world.declare_elsewhere(mine());
    let id = world.open();
    world.confirm(id);
    let declare = world.send(id, mine());
    world.keep(id, "mine", "m");
    world.run();
    for _ in 0..5 {
        world.pass(Duration::from_secs(1));
    }
    assert_eq!(world.confirmed().len(), 0);
    world.broker.handle_eof(before, world.now);
    for _ in 0..5 {
        world.pass(Duration::from_secs(5));
    }
    assert!(world.answer(declare).is_some());
    assert_eq!(world.confirmed().len(), 1);
    let check = QueueDeclare { passive: true, ..mine() };
    assert_eq!(world.ask(id, check).expect("it is there").message_count, 1);
}

/// Messages that are sent in groups come last: requests do not wait for their confirms.
#[test]
fn requests_do_not_make_the_groups_of_suspects_larger() {
    let mut recovery = Recovery::default();
    recovery.reopen_channels = true;
    let mut world = World::new(recovery);
    let id = world.open();
    world.queue(id, durable("q"));
    world.confirm(id);
    world.events.clear();
    world.cut();
    let requests: Vec<_> = (0..8)
        .map(|index| {
            let request = world.send(id, purge("q"));
            let channel = &mut world.session.channel(id).expect("it is open");
            let exchange = if index == 5 { "nowhere" } else { "" };
            let route = amqp_client_core::proto::Route::new(exchange, "q");
            let properties = &amqp_client_core::proto::RawProperties::EMPTY;
            channel.publish_kept(&route, properties, "m").expect("it is taken");
            request
        })
        .collect();
    world.recover();
    for _ in 0..20 {
        world.pass(Duration::from_secs(5));
    }
    let ended = requests
        .iter()
        .filter(|request| world.failure(**request).is_some() || world.answer(**request).is_some());
    assert_eq!(ended.count(), 8);
    assert_eq!(world.confirmed().len(), 7);
    let refused = world.channel_events();
    let refused = refused.filter(|event| matches!(event, ChannelEvent::PublishFailed { .. }));
    assert_eq!(refused.count(), 1);
    assert_eq!(world.session.kept(), 0);
}

/// A channel that sends its messages one by one, as the broker has closed it over one of two and did not say which. Nothing
/// is confirmed yet.
fn careful() -> (Pair, ChannelId) {
    let mut recovery = Recovery::default();
    recovery.reopen_channels = true;
    recovery.seed = Some(7);
    let mut pair = Pair::new(recovery);
    pair.run(accept);
    let id = pair.open();
    pair.channel(id).request(ConfirmSelect { no_wait: false }).expect("it is sent");
    pair.run(accept);
    for body in ["first", "second"] {
        keep(&mut pair, id, body);
    }
    pair.run(accept);
    pair.log.clear();
    pair.refuse(id, ReplyCode::PRECONDITION_FAILED, "no", (60, 40));
    pair.pass(Duration::from_secs(1));
    assert_eq!(pair.log, ["confirm.select", "first"]);
    (pair, id)
}

fn keep(pair: &mut Pair, id: ChannelId, body: &str) {
    let kept =
        pair.channel(id).publish_kept(&Route::queue("q"), &RawProperties::EMPTY, body.to_owned());
    kept.expect("it is kept");
}

/// Another channel, and all messages are confirmed from now on.
fn confirm(pair: &mut Pair, id: ChannelId) {
    pair.judge = Some(Box::new(|_| None));
    pair.refuse(id, ReplyCode::PRECONDITION_FAILED, "unknown delivery tag", (60, 80));
    pair.pass(Duration::from_secs(60));
}

/// What takes messages away, or keeps them from getting there.
fn removals() -> [Method; 5] {
    let queue = || short("q");
    [
        QueuePurge { queue: queue(), ..<_>::default() }.into(),
        QueueDelete { queue: queue(), ..<_>::default() }.into(),
        QueueUnbind { queue: queue(), ..<_>::default() }.into(),
        ExchangeDelete { exchange: short("x"), ..<_>::default() }.into(),
        ExchangeUnbind { destination: short("x"), ..<_>::default() }.into(),
    ]
}

fn remove(pair: &mut Pair, id: ChannelId, method: Method) -> RequestId {
    let mut channel = pair.channel(id);
    let sent = match method {
        Method::QueuePurge(purge) => channel.request(purge),
        Method::QueueDelete(delete) => channel.request(delete),
        Method::QueueUnbind(unbind) => channel.request(unbind),
        Method::ExchangeDelete(delete) => channel.request(delete),
        Method::ExchangeUnbind(unbind) => channel.request(unbind),
        other => panic!("{other:?}"),
    };
    sent.expect("it waits")
}

fn is_answered(pair: &Pair, wanted: RequestId) -> bool {
    pair.channel_events()
        .any(|event| matches!(event, ChannelEvent::Reply { request, .. } if *request == wanted))
}

/// Messages that come behind the removal of their queue or exchange would be lost, or refused in their turn.
#[test]
fn removals_do_not_overtake_careful_messages() {
    for removal in removals() {
        for lost in [false, true] {
            let (mut pair, id) = careful();
            let name = removal.facts().name;
            if lost {
                pair.cut();
            }
            let removed = remove(&mut pair, id, removal.clone());
            let declared = pair.channel(id).request(durable("q")).expect("it waits");
            keep(&mut pair, id, "last");
            pair.run(accept);
            if lost {
                pair.reconnect(ServerConfig::default());
                pair.run(accept);
            }
            assert!(!pair.log.iter().any(|entry| entry == name), "{:?}", pair.log);
            confirm(&mut pair, id);
            let end = ["first", "second", name, "queue.declare", "last"];
            assert!(pair.log.ends_with(&end.map(str::to_owned)), "{:?}", pair.log);
            assert!(is_answered(&pair, removed) && is_answered(&pair, declared));
            assert_eq!((pair.confirmed(), pair.session.kept()), (vec![1, 2, 3], 0));
            assert_eq!(pair.channel(id).check_gate(), Ok(()));
        }
    }
}

/// It removes nothing: messages behind it need not wait for confirms.
#[test]
fn other_requests_do_not_wait_for_messages_that_are_sent_one_by_one() {
    let (mut pair, id) = careful();
    let declared = pair.channel(id).request(durable("other")).expect("it is sent");
    pair.run(accept);
    assert!(is_answered(&pair, declared));
    // Nobody waits for a removal any more: it is not made.
    let removed = remove(&mut pair, id, QueuePurge::default().into());
    let behind = pair.channel(id).request(durable("other")).expect("it waits");
    pair.run(accept);
    pair.channel(id).abandon(removed);
    pair.channel(id).abandon(behind);
    confirm(&mut pair, id);
    assert!(!pair.log.iter().any(|entry| entry == "queue.purge"), "{:?}", pair.log);
}

#[test]
fn a_message_that_expires_before_its_group_is_sent_fails() {
    let (mut pair, id) = careful();
    let mut channel = pair.channel(id).keep_for(Some(Duration::from_secs(5)));
    let route = Route::queue("q");
    let kept = channel.publish_kept(&route, &RawProperties::EMPTY, "late").expect("it is kept");
    pair.pass(Duration::ZERO);
    pair.pass(Duration::from_secs(4));
    assert_eq!(pair.given_up(), []);
    pair.pass(Duration::from_secs(2));
    assert_eq!(pair.given_up(), [(kept.get(), &PublishError::Expired)]);
    // What was sent before a loss fails as well.
    let mut channel = pair.channel(id).keep_for(Some(Duration::from_secs(5)));
    let kept = channel.publish_kept(&route, &RawProperties::EMPTY, "lost").expect("it is kept");
    confirm(&mut pair, id);
    assert!(pair.confirmed().contains(&kept.get()));
    pair.judge = None;
    let mut channel = pair.channel(id).keep_for(Some(Duration::from_secs(5)));
    let kept = channel.publish_kept(&route, &RawProperties::EMPTY, "lost").expect("it is sent");
    pair.pass(Duration::ZERO);
    pair.cut();
    pair.events.clear();
    // Nobody reconnects.
    pair.now += Duration::from_secs(6);
    pair.session.handle_timeout(pair.now);
    pair.run(accept);
    assert_eq!(pair.given_up(), [(kept.get(), &PublishError::Expired)]);
}
