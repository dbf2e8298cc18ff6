//! Channels that the application closes while they are brought back: the rest comes back all the same.

use std::time::Duration;

use amqp_client_core::proto::method::{BasicConsume, BasicConsumeOk, Method, QueueDeclare};
use amqp_client_core::proto::session::{Recovery, RecoveryReport};
use amqp_client_core::proto::{ChannelEvent, Event, ReplyCode, ServerConfig, SessionEvent};

use crate::pair::{Pair, accept};
use crate::world::{World, durable, short};

fn consume(queue: &str) -> BasicConsume {
    BasicConsume { queue: short(queue), consumer_tag: short("c"), ..<_>::default() }
}

fn report(pair: &Pair) -> Option<&RecoveryReport> {
    pair.events.iter().find_map(|event| match event {
        Event::Session(SessionEvent::Recovered(report)) => Some(&**report),
        _ => None,
    })
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
    let report = report(&pair).expect("it is recovered");
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
            let mut world = World::new({
                let mut recovery = Recovery::default();
                recovery.reopen_channels = reopen_channels;
                recovery
            });
            let ids = [world.open(), world.open()];
            for (id, name) in ids.into_iter().zip(["a", "b"]) {
                let queue = world.queue(id, durable(name));
                world.consume(id, &queue, "c");
            }
            world.cut();
            world.dial();
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
        let mut world = World::new({
            let mut recovery = Recovery::default();
            recovery.reopen_channels = true;
            recovery
        });
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
        let report = report(&pair).expect("it is recovered");
        assert_eq!((report.queues, report.failed.as_slice()), (2, &[][..]), "{count}");
        assert_eq!(report.channels, ids.len() - 1);
    }
}
