//! Channels that the application closes while they are restored: everything else is restored all the same.

use std::time::Duration;

use amqp_client_core::proto::method::{
    Arguments as _, BasicConsume, BasicConsumeOk, Method, QueueDeclare, TxCommit, TxSelect,
};
use amqp_client_core::proto::session::{Entity, Recovery};
use amqp_client_core::proto::{ChannelEvent, Limits, ReplyCode, ServerConfig};

use crate::rig::{SessionRig, accept, durable, short};

fn consume(queue: &str) -> BasicConsume {
    BasicConsume { queue: short(queue), consumer_tag: short("c"), ..<_>::default() }
}

#[test]
fn a_recovery_ends_when_its_last_channel_is_closed() {
    let mut rig = SessionRig::scripted(Recovery::default());
    rig.run();
    let (closed, other) = (rig.open(), rig.open());
    rig.channel(closed).request(consume("q")).expect("it is sent");
    rig.run();
    rig.cut();
    rig.events.clear();
    rig.reconnect_to(ServerConfig::default());
    // The queue takes its time with the reply.
    rig.run_with(|_, _, _| {});
    assert!(!rig.session.is_open());
    rig.channel(closed).close(ReplyCode::REPLY_SUCCESS, "");
    rig.run();
    assert!(rig.session.is_open(), "{:?}", rig.events);
    assert_eq!(rig.channel(other).check_gate(), Ok(()));
    let report = rig.report();
    assert_eq!((report.channels, report.consumers, report.failed.len()), (1, 0, 0));
    // Later frames for the closed channel have no effect.
    if let Ok(mut channel) = rig.peer.server.channel(closed) {
        let _over = channel.send(BasicConsumeOk { consumer_tag: short("c") });
    }
    rig.run();
    assert!(rig.session.is_open());
    assert_eq!(rig.open(), closed, "the number is free");
}

#[test]
fn channels_can_be_closed_at_any_round_of_a_recovery() {
    for reopen_channels in [false, true] {
        for (rounds, which) in (0..12).flat_map(|rounds| [(rounds, 0), (rounds, 1), (rounds, 2)]) {
            let mut rig = SessionRig::with(|recovery| recovery.reopen_channels(reopen_channels));
            let ids = [rig.open(), rig.open()];
            for (id, name) in ids.into_iter().zip(["a", "b"]) {
                let queue = rig.queue(id, durable(name));
                rig.consume(id, &queue, "c");
            }
            rig.cut();
            rig.reconnect();
            (0..rounds).for_each(|_| rig.round());
            let closed: Vec<_> = match which {
                2 => ids.to_vec(),
                one => vec![ids[one]],
            };
            for id in &closed {
                let channel = &mut rig.channel(*id);
                channel.close(ReplyCode::REPLY_SUCCESS, "");
            }
            rig.run();
            rig.pass(Duration::from_secs(5));
            assert!(rig.session.is_open(), "{rounds} {which}");
            assert!(rig.report().failed.is_empty(), "{rounds} {which}");
            let ends = rig.channel_events().filter(|e| matches!(e, ChannelEvent::Closed(_)));
            assert_eq!(ends.count(), closed.len(), "{rounds} {which}");
            // Channels that are still open work, and are restored once more.
            let probe = rig.open();
            for (id, name) in ids.into_iter().zip(["a", "b"]) {
                let expected = u32::from(!closed.contains(&id));
                assert_eq!(rig.queue_count(probe, name).1, expected, "{rounds} {which}");
            }
            assert_eq!(rig.peer.engine.take_violation(), None);
            rig.cut();
            assert_eq!(rig.recover().consumers, ids.len() - closed.len());
        }
    }
}

#[test]
fn a_channel_that_is_closed_while_it_is_reopened_stops_nothing() {
    for rounds in 0..8 {
        let mut rig = SessionRig::with(|recovery| recovery.reopen_channels(true));
        let (first, second) = (rig.open(), rig.open());
        for (id, name) in [(first, "a"), (second, "b")] {
            let queue = rig.queue(id, durable(name));
            rig.consume(id, &queue, "c");
        }
        let missing = || QueueDeclare { passive: true, ..durable("missing") };
        rig.send(first, missing());
        (0..rounds).for_each(|_| rig.round());
        rig.channel(first).close(ReplyCode::REPLY_SUCCESS, "");
        rig.run();
        rig.send(second, missing());
        rig.run();
        let probe = rig.open();
        assert_eq!(rig.queue_count(probe, "b").1, 1, "{rounds}: it came back");
        assert_eq!(rig.queue_count(probe, "a").1, 0, "{rounds}");
    }
}

#[test]
fn a_declaration_is_not_blamed_for_the_close_of_the_channel_that_it_is_made_on() {
    for count in [1, 2] {
        let config = ServerConfig::default().limits(Limits::default().channel_max(count));
        let mut rig = SessionRig::scripted(Recovery::default());
        rig.run();
        let ids: Vec<_> = (0..count).map(|_| rig.open()).collect();
        for name in ["a", "b"] {
            let declare = durable(name);
            rig.channel(ids[0]).request(declare).expect("it is sent");
        }
        rig.run();
        rig.cut();
        rig.events.clear();
        // All numbers are taken: the last channel is used to declare.
        rig.reconnect_to(config);
        let mut on = None;
        rig.run_with(|_, id, method| {
            if matches!(method, Method::QueueDeclare(_)) {
                on = Some(id);
            }
        });
        let on = on.expect("a queue is declared");
        assert!(ids.contains(&on));
        rig.channel(on).close(ReplyCode::REPLY_SUCCESS, "");
        rig.peer.asked.clear();
        rig.run();
        assert!(rig.session.is_open(), "{count}: {:?}", rig.events);
        let report = rig.report();
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
        let config = ServerConfig::default().limits(Limits::default().channel_max(1));
        let mut rig = SessionRig::scripted(Recovery::default());
        rig.run();
        let id = rig.open();
        rig.channel(id).request(TxSelect {}).expect("it is sent");
        for name in ["a", "b"] {
            rig.channel(id).request(durable(name)).expect("it is sent");
        }
        rig.run();
        rig.cut();
        rig.events.clear();
        rig.reconnect_to(config);
        rig.run_with(|_, _, _| {});
        let committing = rig.channel(id).request(TxCommit {}).expect("it is sent");
        let mut refused = 0;
        rig.run_with(|_, _, _| {});
        let channel = &mut rig.peer.server.channel(id).expect("it is open");
        channel.close_over(ReplyCode::PRECONDITION_FAILED, "no", cause);
        rig.run_with(|server, id, method| {
            let first =
                |method: &Method| matches!(method, Method::QueueDeclare(own) if own.queue == "a");
            let again = method.facts().id == cause && (cause != declare || first(method));
            refused += usize::from(again);
            assert!(refused < 10, "it is asked for again and again");
            // Frames after a close are ignored.
            let Ok(mut channel) = server.channel(id) else { return };
            match again {
                true => channel.close_over(ReplyCode::PRECONDITION_FAILED, "no", cause),
                false => accept(server, id, method),
            }
        });
        assert!(rig.session.is_open(), "{cause:?}: {:?}", rig.events);
        let report = rig.report();
        let failed: Vec<_> = report.failed.iter().map(|(entity, _)| entity).collect();
        let expected = match (lost, channels) {
            (Some(queue), _) => vec![Entity::Queue(short(queue))],
            (None, 0) => vec![Entity::Channel(id)],
            (None, _) => vec![],
        };
        assert_eq!(failed, expected.iter().collect::<Vec<_>>());
        let queues = 2 - usize::from(lost.is_some());
        assert_eq!((report.queues, report.channels), (queues, channels), "{cause:?}");
        let failures = rig.channel_events().filter(
            |event| matches!(event, ChannelEvent::Failed { request, .. } if *request == committing),
        );
        assert_eq!(failures.count(), 1, "{cause:?}: nobody knows what became of the commit");
    }
}

/// The application commits while its channel is being restored step by step.
#[test]
fn restored_entities_are_not_blamed_for_a_refused_commit() {
    for waits in [false, true] {
        let mut rig = SessionRig::scripted(Recovery::default());
        rig.run();
        let (id, slow) = (rig.open(), rig.open());
        rig.channel(id).request(TxSelect {}).expect("it is sent");
        for (queue, channel) in [("bad", id), ("good", id), ("slow", slow)] {
            let consumer_tag = short(queue);
            let consume = BasicConsume { consumer_tag, ..consume(queue) };
            rig.channel(channel).request(consume).expect("it is sent");
        }
        rig.run();
        rig.cut();
        rig.events.clear();
        rig.reconnect_to(ServerConfig::default());
        let starts = |method: &Method, which| matches!(method, Method::BasicConsume(own) if own.queue == which);
        rig.run_with(|server, id, method| {
            // Frames after a close are ignored.
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
        assert_eq!(rig.failed_consumers().len(), 1);
        let committing = rig.channel(id).request(TxCommit {}).expect("it is sent");
        rig.run_with(|_, _, _| {});
        let commit = (TxCommit::CLASS_ID, TxCommit::METHOD_ID);
        rig.refuse(id, ReplyCode::PRECONDITION_FAILED, "no", commit);
        let failed = |event: &&ChannelEvent| matches!(event, ChannelEvent::Failed { request, .. } if *request == committing);
        assert_eq!(rig.channel_events().filter(failed).count(), 1);
        assert_eq!(rig.failed_consumers().len(), 1, "{waits}: that of the missing queue");
        let running = rig.peer.asked.iter().rev().find(|method| starts(method, "good"));
        assert!(running.is_some() && rig.session.channel(id).is_ok(), "{waits}");
        let started = BasicConsumeOk { consumer_tag: short("slow") };
        rig.say(slow, started);
        let report = rig.report();
        assert_eq!((report.channels, report.consumers, report.failed.len()), (2, 2, 1), "{waits}");
    }
}
