//! Channels that the application closes while they are restored: everything else is restored all the same.

use std::time::Duration;

use amqp_client_core::proto::method::{
    Arguments as _, BasicConsume, BasicConsumeOk, Method, QueueDeclare, TxCommit, TxSelect,
};
use amqp_client_core::proto::session::{Entity, Recovery};
use amqp_client_core::proto::{ChannelEvent, ReplyCode, ServerConfig};

use crate::pair::{Pair, accept};
use crate::world::{World, durable, short};

fn consume(queue: &str) -> BasicConsume {
    BasicConsume { queue: short(queue), consumer_tag: short("c"), ..<_>::default() }
}

#[test]
fn a_recovery_ends_when_its_last_channel_is_closed() {
    let mut pair = Pair::new(Recovery::default());
    pair.run(accept);
    let (closed, other) = (pair.open(), pair.open());
    pair.channel(closed).request(consume("q")).expect("it is sent");
    pair.run(accept);
    pair.cut();
    pair.events.clear();
    pair.reconnect(ServerConfig::default());
    // The queue takes its time with the reply.
    pair.run(|_, _, _| {});
    assert!(!pair.session.is_open());
    pair.channel(closed).close(ReplyCode::REPLY_SUCCESS, "");
    pair.run(accept);
    assert!(pair.session.is_open(), "{:?}", pair.events);
    assert_eq!(pair.channel(other).check_gate(), Ok(()));
    let report = pair.report();
    assert_eq!((report.channels, report.consumers, report.failed.len()), (1, 0, 0));
    // What still comes for the closed channel disturbs nobody.
    if let Ok(mut channel) = pair.server.channel(closed) {
        let _over = channel.send(BasicConsumeOk { consumer_tag: short("c") });
    }
    pair.run(accept);
    assert!(pair.session.is_open());
    assert_eq!(pair.open(), closed, "the number is free");
}

#[test]
fn channels_can_be_closed_at_any_round_of_a_recovery() {
    for reopen_channels in [false, true] {
        for (rounds, which) in (0..12).flat_map(|rounds| [(rounds, 0), (rounds, 1), (rounds, 2)]) {
            let mut world = World::with(|recovery| recovery.reopen_channels = reopen_channels);
            let ids = [world.open(), world.open()];
            for (id, name) in ids.into_iter().zip(["a", "b"]) {
                let queue = world.queue(id, durable(name));
                world.consume(id, &queue, "c");
            }
            world.cut();
            world.reconnect();
            (0..rounds).for_each(|_| world.round());
            let closed: Vec<_> = match which {
                2 => ids.to_vec(),
                one => vec![ids[one]],
            };
            for id in &closed {
                let channel = &mut world.session.channel(*id).expect("it is open");
                channel.close(ReplyCode::REPLY_SUCCESS, "");
            }
            world.run();
            world.pass(Duration::from_secs(5));
            assert!(world.session.is_open(), "{rounds} {which}");
            assert!(world.report().failed.is_empty(), "{rounds} {which}");
            let ends = world.channel_events().filter(|e| matches!(e, ChannelEvent::Closed(_)));
            assert_eq!(ends.count(), closed.len(), "{rounds} {which}");
            // What is left of them still works, and is restored once more.
            let probe = world.open();
            for (id, name) in ids.into_iter().zip(["a", "b"]) {
                let expected = u32::from(!closed.contains(&id));
                assert_eq!(world.queue_count(probe, name).1, expected, "{rounds} {which}");
            }
            assert_eq!(world.broker.take_violation(), None);
            world.cut();
            assert_eq!(world.recover().consumers, ids.len() - closed.len());
        }
    }
}

#[test]
fn a_channel_that_is_closed_while_it_is_reopened_stops_nothing() {
    for rounds in 0..8 {
        let mut world = World::with(|recovery| recovery.reopen_channels = true);
        let (first, second) = (world.open(), world.open());
        for (id, name) in [(first, "a"), (second, "b")] {
            let queue = world.queue(id, durable(name));
            world.consume(id, &queue, "c");
        }
        let missing = || QueueDeclare { passive: true, ..durable("missing") };
        world.send(first, missing());
        (0..rounds).for_each(|_| world.round());
        world.session.channel(first).expect("it is open").close(ReplyCode::REPLY_SUCCESS, "");
        world.run();
        world.send(second, missing());
        world.run();
        let probe = world.open();
        assert_eq!(world.queue_count(probe, "b").1, 1, "{rounds}: it came back");
        assert_eq!(world.queue_count(probe, "a").1, 0, "{rounds}");
    }
}

#[test]
fn a_declaration_is_not_blamed_for_the_close_of_the_channel_that_it_is_made_on() {
    for count in [1, 2] {
        let mut config = ServerConfig::default();
        config.limits.channel_max = count;
        let mut pair = Pair::new(Recovery::default());
        pair.run(accept);
        let ids: Vec<_> = (0..count).map(|_| pair.open()).collect();
        for name in ["a", "b"] {
            let declare = durable(name);
            pair.channel(ids[0]).request(declare).expect("it is sent");
        }
        pair.run(accept);
        pair.cut();
        pair.events.clear();
        // All numbers are taken: the last channel is used to declare.
        pair.reconnect(config);
        let mut on = None;
        pair.run(|_, id, method| {
            if matches!(method, Method::QueueDeclare(_)) {
                on = Some(id);
            }
        });
        let on = on.expect("a queue is declared");
        assert!(ids.contains(&on));
        pair.channel(on).close(ReplyCode::REPLY_SUCCESS, "");
        pair.asked.clear();
        pair.run(accept);
        assert!(pair.session.is_open(), "{count}: {:?}", pair.events);
        let report = pair.report();
        assert_eq!((report.queues, report.failed.as_slice()), (2, &[][..]), "{count}");
        assert_eq!(report.channels, ids.len() - 1);
    }
}

/// All numbers are taken, so queues are declared on a channel of the application, whose transaction is on it as well.
#[test]
fn a_declaration_is_blamed_only_for_its_own_refusal() {
    let declare = (QueueDeclare::CLASS_ID, QueueDeclare::METHOD_ID);
    let commit = (TxCommit::CLASS_ID, TxCommit::METHOD_ID);
    let select = (TxSelect::CLASS_ID, TxSelect::METHOD_ID);
    // The request for which the broker closes the channel each time; the queue that this costs, and the channels.
    let cases = [(commit, None, 1), (declare, Some("a"), 1), (select, None, 0), ((0, 0), None, 1)];
    for (cause, lost, channels) in cases {
        let mut config = ServerConfig::default();
        config.limits.channel_max = 1;
        let mut pair = Pair::new(Recovery::default());
        pair.run(accept);
        let id = pair.open();
        pair.channel(id).request(TxSelect {}).expect("it is sent");
        for name in ["a", "b"] {
            pair.channel(id).request(durable(name)).expect("it is sent");
        }
        pair.run(accept);
        pair.cut();
        pair.events.clear();
        pair.reconnect(config);
        pair.run(|_, _, _| {});
        let committing = pair.channel(id).request(TxCommit {}).expect("it is sent");
        let mut refused = 0;
        pair.run(|_, _, _| {});
        let channel = &mut pair.server.channel(id).expect("it is open");
        channel.close_over(ReplyCode::PRECONDITION_FAILED, "no", cause);
        pair.run(|server, id, method| {
            let first =
                |method: &Method| matches!(method, Method::QueueDeclare(own) if own.queue == "a");
            let again = method.facts().id == cause && (cause != declare || first(method));
            refused += usize::from(again);
            assert!(refused < 10, "it is asked for again and again");
            // What comes behind a close is ignored.
            let Ok(mut channel) = server.channel(id) else { return };
            match again {
                true => channel.close_over(ReplyCode::PRECONDITION_FAILED, "no", cause),
                false => accept(server, id, method),
            }
        });
        assert!(pair.session.is_open(), "{cause:?}: {:?}", pair.events);
        let report = pair.report();
        let failed: Vec<_> = report.failed.iter().map(|(entity, _)| entity).collect();
        let expected = match (lost, channels) {
            (Some(queue), _) => vec![Entity::Queue(short(queue))],
            (None, 0) => vec![Entity::Channel(id)],
            (None, _) => vec![],
        };
        assert_eq!(failed, expected.iter().collect::<Vec<_>>());
        let queues = 2 - usize::from(lost.is_some());
        assert_eq!((report.queues, report.channels), (queues, channels), "{cause:?}");
        let failures = pair.channel_events().filter(
            |event| matches!(event, ChannelEvent::Failed { request, .. } if *request == committing),
        );
        assert_eq!(failures.count(), 1, "{cause:?}: nobody knows what became of the commit");
    }
}

/// The application commits while its channel is being restored step by step.
#[test]
fn restored_entities_are_not_blamed_for_a_refused_commit() {
    for waits in [false, true] {
        let mut pair = Pair::new(Recovery::default());
        pair.run(accept);
        let (id, slow) = (pair.open(), pair.open());
        pair.channel(id).request(TxSelect {}).expect("it is sent");
        for (queue, channel) in [("bad", id), ("good", id), ("slow", slow)] {
            let consumer_tag = short(queue);
            let consume = BasicConsume { consumer_tag, ..consume(queue) };
            pair.channel(channel).request(consume).expect("it is sent");
        }
        pair.run(accept);
        pair.cut();
        pair.events.clear();
        pair.reconnect(ServerConfig::default());
        let starts = |method: &Method, which| matches!(method, Method::BasicConsume(own) if own.queue == which);
        pair.run(|server, id, method| {
            // What comes behind a close is ignored.
            let Ok(mut channel) = server.channel(id) else { return };
            match method {
                bad if starts(bad, "bad") => {
                    channel.close_over(ReplyCode::NOT_FOUND, "no", method.facts().id);
                }
                good if starts(good, "good") && waits => {}
                slow if starts(slow, "slow") => {}
                other => accept(server, id, other),
            }
        });
        assert_eq!(pair.failed_consumers().len(), 1);
        let committing = pair.channel(id).request(TxCommit {}).expect("it is sent");
        pair.run(|_, _, _| {});
        let commit = (TxCommit::CLASS_ID, TxCommit::METHOD_ID);
        pair.refuse(id, ReplyCode::PRECONDITION_FAILED, "no", commit);
        let failed = |event: &&ChannelEvent| matches!(event, ChannelEvent::Failed { request, .. } if *request == committing);
        assert_eq!(pair.channel_events().filter(failed).count(), 1);
        assert_eq!(pair.failed_consumers().len(), 1, "{waits}: that of the missing queue");
        let running = pair.asked.iter().rev().find(|method| starts(method, "good"));
        assert!(running.is_some() && pair.session.channel(id).is_ok(), "{waits}");
        let started = BasicConsumeOk { consumer_tag: short("slow") };
        pair.say(slow, started);
        let report = pair.report();
        assert_eq!((report.channels, report.consumers, report.failed.len()), (2, 2, 1), "{waits}");
    }
}
