use std::time::Duration;

use amqp_client_core::proto::session::{Reconnect, Recovery};
use amqp_client_core::proto::{
    ChannelError, ChannelEvent, ConnectionError, Event, OpenChannelError, ReplyCode, SessionEvent,
    TimerReason,
};

use amqp_testkit::alloc::allocations;

use crate::world::{World, durable, nameless};

fn recovery(change: impl FnOnce(&mut Recovery)) -> Recovery {
    let mut recovery = Recovery::default();
    change(&mut recovery);
    recovery
}

#[test]
fn attempts_are_reported_and_back_off() {
    let mut world = World::new(Recovery::default());
    world.reachable = false;
    world.cut();
    let lost = world.now;
    let mut waits = Vec::new();
    for _ in 0..12 {
        let before = world.now;
        assert!(!world.reconnect());
        waits.push(world.now - before);
    }
    assert!(waits[11] >= Duration::from_millis(2500), "{waits:?}");
    assert!(waits.iter().all(|wait| *wait <= Duration::from_secs(5)), "{waits:?}");
    world.run();
    let mut attempts = 0;
    for event in world.session_events() {
        match event {
            SessionEvent::Lost { reason } => assert_eq!(*reason, ConnectionError::Eof),
            SessionEvent::Connecting { attempt, .. } => {
                attempts += 1;
                assert_eq!(*attempt, attempts);
            }
            SessionEvent::AttemptFailed { reason, .. } => assert_eq!(reason, "no route to host"),
            _ => {}
        }
    }
    assert_eq!(attempts, 12);
    world.reachable = true;
    let report = world.recover();
    assert_eq!(report.attempts, 13);
    assert_eq!(report.connecting, world.now - lost);
}

#[test]
fn after_the_last_attempt_everything_ends_with_the_reason() {
    let mut world = World::new(recovery(|recovery| recovery.attempts_max = Some(3)));
    let id = world.open();
    world.reachable = false;
    world.cut();
    let waiting = world.send(id, durable("waiting"));
    for _ in 0..3 {
        assert!(world.session.check().is_ok());
        assert!(!world.reconnect());
    }
    world.run();
    let error = world.session.check().expect_err("it has given up");
    assert_eq!(
        format!("{error:?}"),
        "connection lost, and not recovered after 3 attempts; the last one failed (no route to host): the peer \
         disconnected without closing the connection"
    );
    let closed = ChannelEvent::Closed(ChannelError::Connection(error.clone()));
    assert!(world.channel_events().any(|event| *event == closed));
    assert_eq!(world.events.last(), Some(&Event::Closed(error.clone())));
    assert!(world.answer(waiting).is_none());
    assert_eq!(world.session.open_channel(), Err(OpenChannelError::Connection(error)));
    assert_eq!(world.session.poll_reconnect(world.now), Reconnect::Nothing);
    assert_eq!(world.session.poll_timeout(), None);
}

#[test]
fn it_gives_up_in_time() {
    let patience = Duration::from_secs(7);
    let mut world = World::new(recovery(|recovery| recovery.give_up_after = Some(patience)));
    let lost = world.now;
    world.cut();
    assert!(matches!(world.session.poll_reconnect(world.now), Reconnect::Wait(_)));
    world.now = world.session.poll_timeout().expect("there is a next attempt").0;
    // Nobody reports the result.
    assert!(matches!(world.session.poll_reconnect(world.now), Reconnect::Connect { .. }));
    let give_up = (lost + patience, TimerReason::Recovery);
    assert_eq!(world.session.poll_timeout(), Some(give_up));
    world.pass(lost + patience - Duration::from_millis(1) - world.now);
    assert!(world.session.check().is_ok());
    world.pass(Duration::from_millis(1));
    let error = world.session.check().expect_err("it has given up");
    assert!(matches!(error, ConnectionError::NotRecovered { attempts: 1, .. }), "{error:?}");
}

#[test]
fn a_handshake_that_fails_is_an_attempt() {
    let mut world = World::new(Recovery::default());
    world.cut();
    assert!(world.reconnect());
    world.cut_after = Some(world.rounds + 1);
    world.run();
    assert!(!world.session.is_open() && world.session.check().is_ok());
    assert!(
        world.session_events().any(|event| matches!(event, SessionEvent::AttemptFailed { .. }))
    );
    assert_eq!(world.recover().attempts, 2);
    let lost = world.session_events().filter(|event| matches!(event, SessionEvent::Lost { .. }));
    assert_eq!(lost.count(), 1, "once is enough");
}

#[test]
fn closing_ends_a_session_with_and_without_a_connection() {
    let mut world = World::new(Recovery::default());
    world.open();
    world.session.close(world.now, ReplyCode::REPLY_SUCCESS, "done");
    world.run();
    assert!(world.session.check().expect_err("it is over").is_local_close());
    assert_eq!(world.session.poll_reconnect(world.now), Reconnect::Nothing);

    for reconnects in [false, true] {
        let mut world = World::new(Recovery::default());
        let id = world.open();
        world.cut();
        if reconnects {
            assert!(world.reconnect());
        }
        world.session.close(world.now, ReplyCode::REPLY_SUCCESS, "done");
        world.run();
        let error = world.session.check().expect_err("it is over");
        assert!(error.is_local_close(), "{error:?}");
        let closed = ChannelEvent::Closed(ChannelError::Connection(error.clone()));
        assert!(world.events.contains(&Event::Channel(id, closed)));
        assert_eq!(world.events.last(), Some(&Event::Closed(error)));
        assert_eq!(world.session.poll_reconnect(world.now), Reconnect::Nothing);
    }
}

#[test]
fn a_channel_can_be_closed_at_any_time() {
    for moment in 0..3 {
        let mut world = World::new(Recovery::default());
        let (id, other) = (world.open(), world.open());
        let close = |world: &mut World| {
            let channel = &mut world.session.channel(id).expect("it is open");
            channel.close(ReplyCode::REPLY_SUCCESS, "done");
        };
        if moment == 0 {
            close(&mut world);
        }
        world.cut();
        if moment == 1 {
            close(&mut world);
        }
        if moment == 2 {
            assert!(world.reconnect());
            close(&mut world);
        }
        let report = world.recover();
        world.run();
        let closed = world.events.iter().filter(
            |event| matches!(event, Event::Channel(found, ChannelEvent::Closed(_)) if *found == id),
        );
        assert_eq!((closed.count(), report.channels), (1, 1), "{moment}");
        assert!(world.session.channel(id).is_err());
        assert_eq!(world.broker.channel_count(world.peer.expect("it is connected")), 1);
        world.queue(other, durable("usable"));
    }
}

#[test]
fn without_a_policy_a_session_is_a_connection() {
    let mut world =
        World::new(recovery(|recovery| *recovery = recovery.clone().recovers(|_| false)));
    let id = world.open();
    world.cut();
    let closed = ChannelEvent::Closed(ChannelError::Connection(ConnectionError::Eof));
    assert!(world.events.contains(&Event::Channel(id, closed)));
    assert_eq!(world.session.check(), Err(ConnectionError::Eof));
    assert_eq!(world.session.poll_reconnect(world.now), Reconnect::Nothing);
}

#[test]
fn losses_leave_nothing_behind() {
    let mut world = World::new(Recovery::default());
    let id = world.open();
    let own = world.queue(id, nameless());
    world.bind(id, &own, "amq.direct", "key");
    let consumer = world.consume(id, &own, "tag");
    world.confirm(id);
    let cycle = |world: &mut World| {
        world.cut();
        world.keep(id, "nowhere", "kept");
        world.send(id, durable("again"));
        world.recover();
        world.publish(id, "amq.direct", "key", "delivered");
        world.run();
        let delivered = world.deliveries();
        assert_eq!(delivered.len(), 1);
        for (found, delivery) in delivered {
            assert_eq!(found, consumer);
            let channel = &mut world.session.channel(id).expect("it is open");
            channel.ack(delivery.delivery_tag()).expect("it waits for it");
        }
        world.events.clear();
    };
    (0..100).for_each(|_| cycle(&mut world));
    let ((), counted) = allocations(|| (0..1000).for_each(|_| cycle(&mut world)));
    assert!(counted.kept_bytes < 16 * 1024, "{} octets are kept", counted.kept_bytes);
    // The first name of the queue leads to it after all of that.
    world.bind(id, &own, "amq.direct", "more");
}

#[test]
fn an_undriven_session_is_not_recovered_whatever_the_policy() {
    let mut world =
        World::new(recovery(|recovery| *recovery = recovery.clone().recovers(|_| true)));
    let id = world.open();
    world.session.handle_driver_gone();
    world.run();
    let closed = ChannelEvent::Closed(ChannelError::Connection(ConnectionError::DriverGone));
    assert!(world.events.contains(&Event::Channel(id, closed)));
    assert_eq!(world.session.check(), Err(ConnectionError::DriverGone));
}
