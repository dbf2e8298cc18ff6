//! Entities that share a channel with a refused one, or a queue with another connection.

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

use crate::harness::Broker;
use crate::rig::{Script, SessionRig, accept, durable, nameless, short};

fn reopening() -> Recovery {
    Recovery::default().reopen_channels(true)
}

/// Makes a request that the broker refuses.
fn err(rig: &mut SessionRig<Broker>, id: ChannelId) {
    rig.send(id, QueueDeclare { passive: true, ..durable("missing") });
    rig.run();
}

/// A queue that goes with its last consumer, bound to an exchange that goes with it, which is bound to another such one.
fn fleeting(rig: &mut SessionRig<Broker>, id: ChannelId, name: &str) -> ShortStr {
    for exchange in ["near", "far"] {
        let declare = ExchangeDeclare {
            exchange: short(exchange),
            kind: short("fanout"),
            auto_delete: true,
            ..<_>::default()
        };
        rig.ask(id, declare).expect("it is declared");
    }
    let queue = QueueDeclare { queue: short(name), auto_delete: true, ..<_>::default() };
    let queue = rig.queue(id, queue);
    rig.bind(id, &queue, "near", "");
    let bind = amqp_client_core::proto::method::ExchangeBind {
        destination: short("near"),
        source: short("far"),
        ..<_>::default()
    };
    rig.ask(id, bind).expect("it is bound");
    queue
}

#[test]
fn a_queue_deleted_with_a_reopened_channel_is_declared_again() {
    for name in ["", "auto"] {
        let mut rig = SessionRig::new(reopening());
        let (id, other) = (rig.open(), rig.open());
        let queue = fleeting(&mut rig, id, name);
        let consumer = rig.consume(id, &queue, "c");
        for _ in 0..3 {
            err(&mut rig, id);
            rig.pass(Duration::from_secs(60));
            assert_eq!(rig.failed_consumers(), []);
            rig.publish(other, "far", "", "there");
            rig.run();
            assert_eq!(rig.texts(consumer), ["there"], "'{name}'");
        }
        assert_eq!(rig.peer.engine.take_violation(), None);
    }
}

#[test]
fn a_queue_that_another_channel_consumes_as_well_stays_and_keeps_its_name() {
    let mut rig = SessionRig::new(reopening());
    let (id, other) = (rig.open(), rig.open());
    let queue = rig.queue(id, QueueDeclare { auto_delete: true, ..<_>::default() });
    let consumers = [rig.consume(id, &queue, "a"), rig.consume(other, &queue, "b")];
    err(&mut rig, id);
    assert_eq!(*rig.session.current_name(&queue), queue);
    for body in ["one", "two"] {
        rig.publish(other, "", &queue.to_string(), body);
    }
    rig.run();
    let delivered: Vec<_> = rig.deliveries().into_iter().map(|(consumer, _)| consumer).collect();
    assert!(consumers.iter().all(|consumer| delivered.contains(consumer)), "{delivered:?}");
}

#[test]
fn a_consumer_with_a_refused_neighbour_continues_although_its_queue_was_deleted() {
    for name in ["", "auto"] {
        let mut rig = SessionRig::new(Recovery::default());
        let id = rig.open();
        let queue = fleeting(&mut rig, id, name);
        // Declared and deleted by somebody else.
        rig.elsewhere(|other, id| other.queue(id, durable("theirs")));
        let guilty = rig.consume(id, &short("theirs"), "guilty");
        let innocent = rig.consume(id, &queue, "innocent");
        rig.events.clear();
        rig.cut();
        rig.elsewhere(|other, id| {
            other.ask(id, QueueDelete { queue: short("theirs"), ..<_>::default() });
        });
        let report = rig.recover();
        assert_eq!(rig.failed_consumers(), [guilty], "'{name}'");
        assert_eq!((report.exchanges, report.queues, report.consumers), (2, 1, 1), "{report:?}");
        let publishing = rig.open();
        rig.publish(publishing, "far", "", "there");
        rig.run();
        assert_eq!(rig.texts(innocent), ["there"], "'{name}'");
    }
}

/// A session with an exclusive consumer and another one on the same channel, on a new connection of which the broker does not
/// know yet that it has replaced the old one.
fn unnoticed(
    recovery: Recovery,
) -> (SessionRig<Broker>, ChannelId, [ConsumerId; 2], impl FnOnce(&mut SessionRig<Broker>)) {
    let mut rig = SessionRig::new(recovery);
    let id = rig.open();
    let queue = rig.queue(id, durable("q"));
    let exclusive =
        BasicConsume { queue, consumer_tag: short("exclusive"), exclusive: true, ..<_>::default() };
    let exclusive = rig.send(id, exclusive);
    let other = rig.queue(id, durable("other"));
    let other = rig.consume(id, &other, "other");
    rig.events.clear();
    let lost = rig.peer.client.take().expect("it is connected");
    rig.session.handle_eof(rig.now);
    rig.run();
    rig.recover();
    let notice = move |rig: &mut SessionRig<Broker>| rig.peer.engine.handle_eof(lost, rig.now);
    (rig, id, [exclusive.into(), other], notice)
}

#[test]
fn an_exclusive_consumer_waits_for_a_channel_to_ask_on() {
    let (mut rig, id, [exclusive, _], notice) = unnoticed(Recovery::default());
    let spare = rig.open();
    while rig.session.open_channel().is_ok() {}
    rig.run();
    notice(&mut rig);
    for _ in 0..5 {
        rig.pass(Duration::from_secs(1));
    }
    assert_eq!(rig.failed_consumers(), []);
    let mut channel = rig.channel(spare);
    channel.close(ReplyCode::REPLY_SUCCESS, "");
    rig.run();
    rig.pass(Duration::from_secs(1));
    rig.publish(id, "", "q", "there");
    rig.run();
    assert_eq!(rig.texts(exclusive), ["there"]);
}

#[test]
fn an_exclusive_consumer_waits_until_the_broker_notices_the_loss() {
    let (mut rig, id, [exclusive, other], notice) = unnoticed(Recovery::default());
    let report = rig.report();
    assert!(
        matches!(&report.locked[..], [Entity::Consumer { consumer, .. }] if *consumer == exclusive),
        "{report:?}"
    );
    assert_eq!((report.consumers, report.failed.len()), (1, 0));
    rig.events.clear();
    for _ in 0..10 {
        rig.pass(Duration::from_secs(1));
    }
    // Waiting costs the other consumer nothing.
    let disturbed = |event: &ChannelEvent| matches!(event, ChannelEvent::Interrupted { .. });
    assert!(!rig.channel_events().any(disturbed) && rig.failed_consumers().is_empty());
    notice(&mut rig);
    rig.pass(Duration::from_secs(1));
    assert!(!rig.channel_events().any(disturbed), "{other:?} goes on");
    rig.publish(id, "", "q", "there");
    rig.run();
    assert_eq!(rig.texts(exclusive), ["there"]);
    // It has no other timer any more, and is restored after the next loss as well.
    rig.cut();
    assert_eq!(rig.recover().consumers, 2);
    assert_eq!(rig.peer.engine.take_violation(), None);
}

#[test]
fn an_exclusive_consumer_that_waits_can_be_cancelled_or_lose_its_queue_or_its_channel() {
    for act in 0..4 {
        let (mut rig, id, [exclusive, other], notice) = unnoticed(reopening());
        rig.events.clear();
        match act {
            0 => {
                let channel = &mut rig.channel(id);
                channel.discard_consumer(exclusive);
            }
            1 => {
                rig.elsewhere(|other, id| {
                    other.ask(id, QueueDelete { queue: short("q"), ..<_>::default() });
                });
            }
            2 => err(&mut rig, id),
            _ => {
                let channel = &mut rig.channel(id);
                channel.close(ReplyCode::REPLY_SUCCESS, "");
            }
        }
        rig.pass(Duration::from_secs(5));
        notice(&mut rig);
        rig.pass(Duration::from_secs(5));
        let ended = if act == 1 { vec![exclusive] } else { Vec::new() };
        assert_eq!(rig.failed_consumers(), ended, "{act}: {other:?}");
        let probe = rig.open();
        if act != 1 {
            assert_eq!(rig.queue_count(probe, "q").1, u32::from(act == 2), "{act}");
        }
        assert_eq!(rig.queue_count(probe, "other").1, u32::from(act != 3), "{act}");
        assert_eq!(rig.peer.engine.take_violation(), None);
    }
}

/// The question how many consumers its queue has never counts itself: whenever its channel is reopened, it is started once.
#[test]
fn an_exclusive_consumer_that_waits_outlasts_its_channel_at_any_round_of_the_question() {
    for (rounds, noticed) in (0..8).flat_map(|rounds| [(rounds, false), (rounds, true)]) {
        let (mut rig, id, [exclusive, _], notice) = unnoticed(reopening());
        let mut notice = Some(notice);
        if noticed {
            notice.take().into_iter().for_each(|notice| notice(&mut rig));
        }
        rig.now += Duration::from_secs(1);
        (0..rounds).for_each(|_| rig.round());
        rig.send(id, QueueDeclare { passive: true, ..durable("missing") });
        rig.run();
        notice.into_iter().for_each(|notice| notice(&mut rig));
        rig.pass(Duration::from_secs(5));
        assert_eq!(rig.failed_consumers(), [], "{rounds} {noticed}");
        rig.publish(id, "", "q", "there");
        rig.run();
        assert_eq!(rig.texts(exclusive), ["there"], "{rounds} {noticed}");
        // Nothing is asked any more.
        let timer = rig.session.poll_timeout().map(|(at, _)| at);
        assert!(timer.is_none_or(|at| at > rig.now + Duration::from_secs(5)), "{rounds} {noticed}");
        assert_eq!(rig.peer.engine.take_violation(), None);
    }
}

/// The broker does not have a consumer that waits. If another one could take its tag, a cancel of the first would end the second.
#[test]
fn the_tag_of_an_exclusive_consumer_that_waits_is_taken() {
    let (mut rig, id, _, notice) = unnoticed(Recovery::default());
    let consume =
        BasicConsume { queue: short("other"), consumer_tag: short("exclusive"), ..<_>::default() };
    let mut again = || rig.channel(id).request(consume.clone());
    assert_eq!(again(), Err(CommandError::Misuse(Misuse::ConsumerTagInUse)));
    notice(&mut rig);
    rig.pass(Duration::from_secs(1));
    assert_eq!(rig.peer.engine.take_violation(), None);
}

fn start(rig: &mut SessionRig<Script>, id: ChannelId, tag: &str, exclusive: bool) -> ConsumerId {
    let (queue, consumer_tag) = (short(tag), short(tag));
    let consume = BasicConsume { queue, consumer_tag, exclusive, ..<_>::default() };
    rig.channel(id).request(consume).expect("it is sent").into()
}

/// A session with an exclusive consumer and another one on the same channel. The broker has replied that the queue of the first
/// is in use, and the session is about to ask again.
fn waiting() -> (SessionRig<Script>, ChannelId, ConsumerId) {
    let mut rig = SessionRig::scripted(Recovery::default());
    rig.run();
    let id = rig.open();
    let exclusive = start(&mut rig, id, "exclusive", true);
    start(&mut rig, id, "other", false);
    rig.run();
    rig.cut();
    rig.reconnect_to(ServerConfig::default());
    rig.run_with(refuse);
    assert!(rig.session.is_open());
    due(&mut rig);
    (rig, id, exclusive)
}

fn due(rig: &mut SessionRig<Script>) {
    rig.peer.asked.clear();
    rig.events.clear();
    rig.now += Duration::from_secs(1);
    rig.peer.server.send_heartbeat();
    rig.session.handle_timeout(rig.now);
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
        // Frames after the close are ignored.
        (Err(_), _) => {}
    }
}

/// The queue was free when the broker was asked, and another connection was faster.
#[test]
fn a_race_for_a_queue_that_is_lost_costs_the_channel_once() {
    let (mut rig, _, exclusive) = waiting();
    for _ in 0..3 {
        rig.run_with(refuse);
        assert_eq!(rig.peer.asked.iter().filter(|method| is_exclusive(method)).count(), 1);
        let interrupted = |event: &&ChannelEvent| matches!(event, ChannelEvent::Interrupted { .. });
        assert_eq!(rig.channel_events().filter(interrupted).count(), 1);
        assert!(rig.failed_consumers().is_empty(), "{exclusive:?} waits");
        due(&mut rig);
    }
    rig.run();
    assert!(rig.peer.asked.iter().any(is_exclusive));
    let disturbed = |event: &ChannelEvent| matches!(event, ChannelEvent::Interrupted { .. });
    assert!(!rig.channel_events().any(disturbed));
}

#[test]
fn a_restored_consumer_is_not_blamed_for_one_of_the_application() {
    let (mut rig, id, exclusive) = waiting();
    rig.run_with(|server, id, method| match is_exclusive(method) {
        true => {}
        false => accept(server, id, method),
    });
    assert!(rig.peer.asked.iter().any(is_exclusive));
    let forbidden = start(&mut rig, id, "forbidden", false);
    rig.run_with(|_, _, _| {});
    let cause = (BasicConsume::CLASS_ID, BasicConsume::METHOD_ID);
    rig.refuse(id, ReplyCode::ACCESS_REFUSED, "ACCESS_REFUSED - no", cause);
    let failed = rig.channel_events().filter_map(|event| match event {
        ChannelEvent::Failed { request, .. } => Some(ConsumerId::from(*request)),
        _ => None,
    });
    assert_eq!(failed.collect::<Vec<_>>(), [forbidden]);
    assert_eq!(rig.failed_consumers(), [], "{exclusive:?} was not looked at");
    assert_eq!(rig.peer.asked.iter().filter(|method| is_exclusive(method)).count(), 2);
}

/// The broker cancels a consumer while the rest of its channel is still being restored.
#[test]
fn a_consumer_that_is_cancelled_while_its_channel_is_reopened_starts_again() {
    let recovery = reopening().on_cancel(OnCancel::Resubscribe);
    let mut rig = SessionRig::scripted(recovery);
    rig.run();
    let id = rig.open();
    let cancelled = start(&mut rig, id, "first", false);
    start(&mut rig, id, "second", false);
    rig.run();
    let starts = |method: &Method, tag: &str| matches!(method, Method::BasicConsume(consume) if consume.consumer_tag == short(tag));
    rig.peer.asked.clear();
    let cause = (QueueDelete::CLASS_ID, QueueDelete::METHOD_ID);
    rig.peer.server.channel(id).expect("it is open").close_over(ReplyCode::NOT_FOUND, "no", cause);
    // One of the two is restored.
    rig.run_with(|server, id, method| {
        if !starts(method, "second") {
            accept(server, id, method);
        }
    });
    let cancel = BasicCancel { consumer_tag: short("first"), no_wait: true };
    rig.peer.server.channel(id).expect("it is open").send(cancel).expect("it is sent");
    rig.run();
    let second = BasicConsumeOk { consumer_tag: short("second") };
    rig.say(id, second);
    let count = rig.peer.asked.iter().filter(|method| starts(method, "first")).count();
    assert_eq!(count, 2, "{cancelled:?} is started again");
    assert!(rig.session.is_open());
}

#[test]
fn an_exclusive_consumer_can_fail_at_once() {
    let recovery = Recovery::default().locked(Locked::Fail);
    let (rig, _, [exclusive, _], _) = unnoticed(recovery);
    assert_eq!(rig.failed_consumers(), [exclusive]);
}

#[test]
fn a_consumer_of_a_locked_queue_outlives_the_reopening_of_its_channel() {
    let mut rig = SessionRig::new(reopening());
    let id = rig.open();
    let (consumer, other) = rig.lose_queue(id, "mine", "c");
    assert_eq!(rig.recover().locked.len(), 1);
    err(&mut rig, id);
    rig.pass(Duration::from_secs(5));
    assert_eq!(rig.failed_consumers(), []);
    rig.peer.engine.handle_eof(other, rig.now);
    rig.pass(Duration::from_secs(5));
    rig.publish(id, "", "mine", "back");
    rig.run();
    assert_eq!(rig.texts(consumer), ["back"]);
}

#[test]
fn an_empty_name_still_means_the_queue_that_was_declared_last() {
    for (declare, waits) in
        [(nameless(), false), (nameless(), true), (durable("q"), false), (durable("q"), true)]
    {
        let mut rig = SessionRig::new(Recovery::default());
        let id = rig.open();
        rig.exchange(id, "x", "direct");
        let old = rig.queue(id, declare);
        rig.queue(id, durable("another"));
        let _last =
            rig.queue(id, QueueDeclare { passive: true, queue: old.clone(), ..<_>::default() });
        rig.cut();
        let bind = |routing_key: &str| QueueBind {
            exchange: short("x"),
            routing_key: short(routing_key),
            ..<_>::default()
        };
        let asked = waits.then(|| rig.send(id, bind("key")));
        rig.recover();
        let asked = asked.unwrap_or_else(|| rig.send(id, bind("key")));
        rig.run();
        assert!(rig.answer(asked).is_some(), "{:?}", rig.events);
        rig.ask(id, bind("")).expect("it is bound by its own name");
        let consume = BasicConsume { consumer_tag: short("c"), ..<_>::default() };
        let consumer: ConsumerId = rig.send(id, consume).into();
        rig.run();
        let name = rig.session.current_name(&old).to_string();
        for key in ["key", name.as_str()] {
            rig.publish(id, "x", key, key);
        }
        rig.run();
        assert_eq!(rig.texts(consumer), ["key", name.as_str()]);
        // All of that is restored once more.
        rig.cut();
        let report = rig.recover();
        assert_eq!((report.bindings, report.consumers, report.failed.len()), (2, 1, 0));
        rig.publish(id, "x", "key", "again");
        rig.run();
        assert_eq!(rig.texts(consumer).last().map(String::as_str), Some("again"));
        // From the next declaration on it means that queue.
        rig.queue(id, durable("new"));
        rig.publish(id, "", "new", "purged");
        rig.run();
        let purged = rig.ask(id, QueuePurge::default()).expect("there is one");
        assert_eq!(purged.message_count, 1);
    }
}
