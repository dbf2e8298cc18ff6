//! Servers that send without end, or nothing at all.

use std::io;
use std::time::Duration;

use amqp_client_core::proto::frame::FrameKind;
use amqp_client_core::proto::method::{
    BasicCancel, BasicReturn, ChannelFlow, ConnectionBlocked, ConnectionUnblocked,
};
use amqp_client_core::proto::{ConnectionError, Violation};
use amqp_client_core::{
    CallError, Config, ConfirmError, ConsumeOptions, PublisherOptions, TryError,
};

use crate::rig::Rig;
use crate::wire::{body, deliver, frame, method, plain_header, short};
use crate::{Blame, CALL, Victim, blame, now, peak};

const MIB: u64 = 1024 * 1024;

#[test]
fn deliveries_that_nobody_takes_are_bounded_by_the_budget() {
    let mut config = Config::default();
    config.settings.delivery_budget = 64 * 1024;
    let mut victim = Victim::with(config);
    let tag = victim.consumer.tag().clone();
    let cost = peak(|| {
        for number in 1..=20_000 {
            let octets = [deliver(1, &tag, number), plain_header(1, 1000), body(1, vec![0; 1000])];
            victim.rig.attack(&octets.concat());
        }
    });
    // Eight times the budget, because an answer is owed; and what it takes to keep them.
    assert!(cost < 3 * MIB, "{cost} octets");
    assert!(!victim.rig.reads());
    victim.endures();
}

/// Events have a bound of their own, and whoever listens learns how many were missed.
#[test]
fn events_that_nobody_takes_are_bounded() {
    let returned = BasicReturn { reply_code: 312, routing_key: short("q"), ..<_>::default() };
    let floods = [
        ("returns", [method(1, returned), plain_header(1, 100), body(1, vec![0; 100])].concat()),
        (
            "blocks",
            [
                method(0, ConnectionBlocked { reason: short("!") }),
                method(0, ConnectionUnblocked {}),
            ]
            .concat(),
        ),
        (
            "cancels of nobody",
            method(1, BasicCancel { consumer_tag: short("nobody"), no_wait: true }),
        ),
        ("heartbeats", frame(FrameKind::Heartbeat, 0, "")),
    ];
    for (name, octets) in floods {
        let mut victim = Victim::new();
        let _listens = victim.rig.connection.events();
        let cost = peak(|| (0..50_000).for_each(|_| victim.rig.attack(&octets)));
        assert!(cost < MIB, "{name}: {cost} octets");
        victim.endures();
    }
}

/// Each of these is answered. A server that reads no answer gets no more of them.
#[test]
fn answers_that_nobody_reads_are_bounded() {
    let mut victim = Victim::new();
    let octets = method(1, ChannelFlow { active: true }).repeat(1000);
    let cost = peak(|| {
        for _ in 0..5_000 {
            victim.rig.attack_unread(&octets);
        }
    });
    assert!(cost < 48 * MIB, "{cost} octets");
    let error = victim.ended();
    assert!(
        matches!(error, ConnectionError::Violation(Violation::RepliesNotRead { .. })),
        "{error}"
    );
}

/// Memory follows what came, not what was announced.
#[test]
fn bodies_that_never_end_cost_what_came_of_them() {
    let mut rig = Rig::new(Config::default());
    let mut consumers = Vec::new();
    for _ in 0..500 {
        let opening = rig.connection.open_channel();
        let channel = rig.run(opening).expect("a channel");
        let consuming = channel.basic_consume("q", ConsumeOptions::new());
        let consumer = rig.run(consuming).expect("a consumer");
        consumers.push((channel, consumer));
    }
    let cost = peak(|| {
        for (channel, consumer) in &consumers {
            let id = channel.id().get();
            let octets = [
                deliver(id, consumer.tag(), 1),
                plain_header(id, 128 * MIB),
                body(id, vec![0; 1000]),
            ];
            rig.attack(&octets.concat());
        }
    });
    assert!(cost < 4 * MIB, "{cost} octets");
    assert!(rig.connection.is_open());
}

/// Nor do they cost all there is.
#[test]
fn bodies_that_never_end_are_bounded_on_all_channels_together() {
    let mut config = Config::default();
    config.protocol.limits.unfinished_max = 1 << 20;
    let mut victim = Victim::with(config);
    let tag = victim.consumer.tag().clone();
    victim.rig.attack(&[deliver(1, &tag, 1), plain_header(1, 64 * MIB)].concat());
    let part = body(1, vec![0; 100_000]);
    let cost = peak(|| (0..20).for_each(|_| victim.rig.attack(&part)));
    assert!(cost < 4 * MIB, "{cost} octets");
    let error = victim.ended();
    let expected = Violation::UnfinishedBodies { limit: 1 << 20 };
    assert_eq!(error, ConnectionError::Violation(expected));
}

#[test]
fn a_server_that_closes_every_channel_costs_only_the_channels() {
    let mut rig = Rig::new(Config::default());
    for number in 0..1000 {
        let opening = rig.connection.open_channel();
        let channel = rig.run(opening).expect("a channel");
        rig.close_channel(channel.id());
        assert!(!channel.is_open(), "{number}");
    }
    assert!(rig.connection.is_open());
}

#[test]
fn publishing_to_a_server_that_reads_nothing_waits() {
    let mut rig = Rig::new(Config::default());
    let opening = rig.connection.open_channel();
    let channel = rig.run(opening).expect("a channel");
    let options = PublisherOptions::new().window(usize::MAX, usize::MAX);
    let publisher = channel.default_exchange().publisher(options).expect("the channel is open");
    let mut sent = Vec::new();
    let cost = peak(|| {
        for number in 0..10_000 {
            match publisher.try_publish("q", vec![0; 1000]) {
                Ok(confirmation) => sent.push(confirmation),
                Err(error) => assert!(matches!(error.error, TryError::WouldWait(_)), "{error:?}"),
            }
            if number % 100 == 0 {
                rig.turn_unread();
            }
        }
    });
    assert!(sent.len() < 1000 && cost < 2 * MIB, "{} messages, {cost} octets", sent.len());
    let mut waiting = Box::pin(publisher.publish("q", "one more"));
    assert!(now(&mut waiting).is_none());
    rig.turn_unread();
    rig.idle_unread(CALL);
    assert!(now(waiting).expect("it has ended").is_err());
}

#[test]
fn heartbeats_are_no_answers() {
    let mut victim = Victim::new();
    for _ in 0..CALL.as_secs() * 2 {
        victim.rig.idle(Duration::from_secs(1));
        victim.rig.attack(&frame(FrameKind::Heartbeat, 0, ""));
    }
    let declared = now(&mut victim.declared).map(|result| result.map(|_| ()));
    let expected = CallError::TimedOut { method: "queue.declare", after: CALL };
    assert_eq!(declared, Some(Err(expected)));
    assert!(now(&mut victim.confirmation).is_none(), "its time counts from now on");
    for _ in 0..120 {
        victim.rig.idle(Duration::from_secs(1));
        victim.rig.attack(&frame(FrameKind::Heartbeat, 0, ""));
    }
    assert!(matches!(now(&mut victim.confirmation), Some(Err(ConfirmError::TimedOut { .. }))));
    assert!(victim.rig.connection.is_open());
}

/// Octets are a sign of life, however few (section 4.2.7).
#[test]
fn one_octet_a_second_is_slow_but_not_silent() {
    let mut victim = Victim::new();
    let tag = victim.consumer.tag().clone();
    let octets = [deliver(1, &tag, 1), plain_header(1, 200), body(1, vec![0; 200])].concat();
    for octet in octets {
        victim.rig.idle(Duration::from_secs(1));
        victim.rig.attack(&[octet]);
    }
    assert!(victim.rig.connection.is_open());
    assert!(now(victim.consumer.next()).flatten().expect("a delivery").is_ok());
}

#[test]
fn silence_ends_everything() {
    let mut victim = Victim::new();
    victim.rig.idle(Duration::from_secs(121));
    let error = victim.ended();
    assert!(matches!(error, ConnectionError::PeerSilent(_)), "{error}");
}

#[test]
fn the_end_of_the_transport_ends_everything() {
    let mut victim = Victim::new();
    victim.rig.hang_up(None);
    assert_eq!(victim.ended(), ConnectionError::Eof);
    let mut victim = Victim::new();
    victim.rig.hang_up(Some(io::ErrorKind::ConnectionReset.into()));
    assert_eq!(blame(&victim.ended()), Blame::Transport);
}
