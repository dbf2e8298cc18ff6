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

use crate::harness::Broker;
use crate::rig::{Script, SessionRig, durable, exclusive, short};

fn purge(name: &str) -> QueuePurge {
    QueuePurge { queue: short(name), ..<_>::default() }
}

/// A queue with one message before each of its requests and behind the last.
fn script(rig: &mut SessionRig<Broker>, id: ChannelId) -> Vec<RequestId> {
    let mut requests = vec![rig.send(id, durable("late"))];
    rig.keep(id, "late", "purged");
    requests.push(rig.send(id, purge("late")));
    rig.keep(id, "late", "deleted");
    requests.push(rig.send(id, QueueDelete { queue: short("late"), ..<_>::default() }));
    requests.push(rig.send(id, durable("late")));
    rig.keep(id, "late", "stays");
    requests
}

#[test]
fn a_kept_message_does_not_overtake_the_requests_before_it() {
    // Without a connection, with a transport, in the middle of the handshake, while the channel is restored.
    for rounds in 0..8 {
        let mut rig = SessionRig::new(Recovery::default());
        let id = rig.open();
        rig.queue(id, durable("q"));
        rig.confirm(id);
        rig.cut();
        let before = rig.keep(id, "q", "before");
        if rounds > 0 {
            assert!(rig.reconnect());
            (1..rounds).for_each(|_| rig.round());
        }
        let requests = script(&mut rig, id);
        rig.run();
        if rounds == 0 {
            rig.recover();
        }
        for request in requests {
            assert!(rig.answer(request).is_some(), "{rounds}: {request:?}");
        }
        assert_eq!(rig.confirmed().len(), 4, "{rounds}: {before:?}");
        assert_eq!(rig.queue_count(id, "late").0, 1, "{rounds}");
        assert_eq!(rig.session.kept(), 0);
        assert_eq!(rig.peer.engine.take_violation(), None);
    }
}

/// Each loss lets the requests that were sent fail, and no others.
#[test]
fn the_order_holds_over_a_loss_at_any_step() {
    for after in 1..20 {
        let mut rig = SessionRig::new(Recovery::default());
        let id = rig.open();
        rig.queue(id, durable("q"));
        rig.confirm(id);
        rig.cut();
        let requests = script(&mut rig, id);
        assert!(rig.reconnect());
        rig.cut_after = Some(rig.rounds + after);
        rig.run();
        let whole = rig.cut_after.take().is_some();
        if !rig.session.is_open() {
            rig.recover();
        }
        rig.run();
        for request in requests {
            let answered = rig.answer(request).is_some();
            assert_ne!(answered, rig.failure(request).is_some(), "{after}: {request:?}");
        }
        assert_eq!(rig.confirmed().len(), 3, "{after}");
        assert_eq!(rig.session.kept(), 0);
        if whole {
            assert_eq!(rig.queue_count(id, "late").0, 1);
            return;
        }
    }
    panic!("a recovery does not take so long");
}

/// A declaration that is tried again stays ahead of the messages behind it.
#[test]
fn a_kept_message_waits_for_the_declaration_of_a_locked_queue() {
    let mut rig = SessionRig::with(|recovery| recovery.retry_locked(true));
    let mine = || exclusive("mine");
    let before = rig.declare_elsewhere(mine());
    let id = rig.open();
    rig.confirm(id);
    let declare = rig.send(id, mine());
    rig.keep(id, "mine", "m");
    rig.run();
    for _ in 0..5 {
        rig.pass(Duration::from_secs(1));
    }
    assert_eq!(rig.confirmed().len(), 0);
    rig.peer.engine.handle_eof(before, rig.now);
    for _ in 0..5 {
        rig.pass(Duration::from_secs(5));
    }
    assert!(rig.answer(declare).is_some());
    assert_eq!(rig.confirmed().len(), 1);
    let check = QueueDeclare { passive: true, ..mine() };
    assert_eq!(rig.ask(id, check).expect("it is there").message_count, 1);
}

/// Messages that are sent in groups come last: requests do not wait for their confirms.
#[test]
fn requests_do_not_make_the_groups_of_suspects_larger() {
    let recovery = Recovery::default().reopen_channels(true);
    let mut rig = SessionRig::new(recovery);
    let id = rig.open();
    rig.queue(id, durable("q"));
    rig.confirm(id);
    rig.events.clear();
    rig.cut();
    let requests: Vec<_> = (0..8)
        .map(|index| {
            let request = rig.send(id, purge("q"));
            let channel = &mut rig.channel(id);
            let exchange = if index == 5 { "nowhere" } else { "" };
            let route = amqp_client_core::proto::Route::new(exchange, "q");
            let properties = &amqp_client_core::proto::RawProperties::EMPTY;
            channel.publish_kept(&route, properties, "m").expect("it is taken");
            request
        })
        .collect();
    rig.recover();
    for _ in 0..20 {
        rig.pass(Duration::from_secs(5));
    }
    let ended = requests
        .iter()
        .filter(|request| rig.failure(**request).is_some() || rig.answer(**request).is_some());
    assert_eq!(ended.count(), 8);
    assert_eq!(rig.confirmed().len(), 7);
    let refused = rig.channel_events();
    let refused = refused.filter(|event| matches!(event, ChannelEvent::PublishFailed { .. }));
    assert_eq!(refused.count(), 1);
    assert_eq!(rig.session.kept(), 0);
}

/// A channel that sends its messages one by one, as the broker has closed it over one of two and did not say which. Nothing
/// is confirmed yet.
fn careful() -> (SessionRig<Script>, ChannelId) {
    let recovery = Recovery::default().reopen_channels(true).seed(Some(7));
    let mut rig = SessionRig::scripted(recovery);
    rig.run();
    let id = rig.open();
    rig.channel(id).request(ConfirmSelect { no_wait: false }).expect("it is sent");
    rig.run();
    for body in ["first", "second"] {
        keep(&mut rig, id, body);
    }
    rig.run();
    rig.peer.log.clear();
    rig.refuse(id, ReplyCode::PRECONDITION_FAILED, "no", (60, 40));
    rig.pass(Duration::from_secs(1));
    assert_eq!(rig.peer.log, ["confirm.select", "first"]);
    (rig, id)
}

fn keep(rig: &mut SessionRig<Script>, id: ChannelId, body: &str) {
    let kept =
        rig.channel(id).publish_kept(&Route::queue("q"), &RawProperties::EMPTY, body.to_owned());
    kept.expect("it is kept");
}

/// Another channel, and all messages are confirmed from now on.
fn confirm(rig: &mut SessionRig<Script>, id: ChannelId) {
    rig.peer.judge = Some(Box::new(|_| None));
    rig.refuse(id, ReplyCode::PRECONDITION_FAILED, "unknown delivery tag", (60, 80));
    rig.pass(Duration::from_secs(60));
}

/// Requests that remove messages, or keep them from arriving.
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

fn remove(rig: &mut SessionRig<Script>, id: ChannelId, method: Method) -> RequestId {
    let mut channel = rig.channel(id);
    let sent = match method {
        Method::QueuePurge(purge) => channel.request(purge),
        Method::QueueDelete(delete) => channel.request(delete),
        Method::QueueUnbind(unbind) => channel.request(*unbind),
        Method::ExchangeDelete(delete) => channel.request(delete),
        Method::ExchangeUnbind(unbind) => channel.request(*unbind),
        other => panic!("{other:?}"),
    };
    sent.expect("it waits")
}

fn is_answered(rig: &SessionRig<Script>, wanted: RequestId) -> bool {
    rig.channel_events()
        .any(|event| matches!(event, ChannelEvent::Reply { request, .. } if *request == wanted))
}

/// Messages that come behind the removal of their queue or exchange would be lost, or refused in their turn.
#[test]
fn removals_do_not_overtake_careful_messages() {
    for removal in removals() {
        for lost in [false, true] {
            let (mut rig, id) = careful();
            let name = removal.facts().name;
            if lost {
                rig.cut();
            }
            let removed = remove(&mut rig, id, removal.clone());
            let declared = rig.channel(id).request(durable("q")).expect("it waits");
            keep(&mut rig, id, "last");
            rig.run();
            if lost {
                rig.reconnect_to(ServerConfig::default());
                rig.run();
            }
            assert!(!rig.peer.log.iter().any(|entry| entry == name), "{:?}", rig.peer.log);
            confirm(&mut rig, id);
            let end = ["first", "second", name, "queue.declare", "last"];
            assert!(rig.peer.log.ends_with(&end.map(str::to_owned)), "{:?}", rig.peer.log);
            assert!(is_answered(&rig, removed) && is_answered(&rig, declared));
            assert_eq!((rig.confirmed(), rig.session.kept()), (vec![1, 2, 3], 0));
            assert_eq!(rig.channel(id).check_gate(), Ok(()));
        }
    }
}

/// It removes nothing: messages behind it need not wait for confirms.
#[test]
fn other_requests_do_not_wait_for_messages_that_are_sent_one_by_one() {
    let (mut rig, id) = careful();
    let declared = rig.channel(id).request(durable("other")).expect("it is sent");
    rig.run();
    assert!(is_answered(&rig, declared));
    // Nobody waits for a removal any more: it is not made.
    let removed = remove(&mut rig, id, QueuePurge::default().into());
    let behind = rig.channel(id).request(durable("other")).expect("it waits");
    rig.run();
    rig.channel(id).abandon(removed);
    rig.channel(id).abandon(behind);
    confirm(&mut rig, id);
    assert!(!rig.peer.log.iter().any(|entry| entry == "queue.purge"), "{:?}", rig.peer.log);
}

#[test]
fn a_message_that_expires_before_its_group_is_sent_fails() {
    let (mut rig, id) = careful();
    let mut channel = rig.channel(id).keep_for(Some(Duration::from_secs(5)));
    let route = Route::queue("q");
    let kept = channel.publish_kept(&route, &RawProperties::EMPTY, "late").expect("it is kept");
    rig.pass(Duration::ZERO);
    rig.pass(Duration::from_secs(4));
    assert_eq!(rig.given_up(), []);
    rig.pass(Duration::from_secs(2));
    assert_eq!(rig.given_up(), [(kept.get(), &PublishError::Expired)]);
    // Requests that were sent before a loss fail as well.
    let mut channel = rig.channel(id).keep_for(Some(Duration::from_secs(5)));
    let kept = channel.publish_kept(&route, &RawProperties::EMPTY, "lost").expect("it is kept");
    confirm(&mut rig, id);
    assert!(rig.confirmed().contains(&kept.get()));
    rig.peer.judge = None;
    let mut channel = rig.channel(id).keep_for(Some(Duration::from_secs(5)));
    let kept = channel.publish_kept(&route, &RawProperties::EMPTY, "lost").expect("it is sent");
    rig.pass(Duration::ZERO);
    rig.cut();
    rig.events.clear();
    // Nobody reconnects.
    rig.now += Duration::from_secs(6);
    rig.session.handle_timeout(rig.now);
    rig.run();
    assert_eq!(rig.given_up(), [(kept.get(), &PublishError::Expired)]);
}
