//! What the loop of an embedder relies on.

use std::time::Duration;

use amqp_client_core::proto::method::BasicGet;
use amqp_client_core::proto::session::{Reconnect, Recovery};
use amqp_client_core::proto::{
    ChannelError, ChannelEvent, CommandError, ConnectionError, Event, OpenChannelError,
    PublishError, RawProperties, ReplyCode, Route, SessionEvent, TimerReason,
};

use crate::world::{World, durable};

fn recovery(change: impl FnOnce(&mut Recovery)) -> Recovery {
    let mut recovery = Recovery::default();
    change(&mut recovery);
    recovery
}

/// Between the bytes of `connection.open-ok` and its event, the channels of before the loss are not open yet.
#[test]
fn a_channel_opened_at_any_step_of_a_handshake_has_its_own_number() {
    for moment in 0..8 {
        let mut world = World::new(Recovery::default());
        let first = world.open();
        world.queue(first, durable("q"));
        world.cut();
        assert!(world.reconnect());
        for _ in 0..moment {
            // Unlike `run`, this polls no events.
            world.carry();
        }
        let second = world.session.open_channel().expect("there is room");
        assert_ne!(first, second, "{moment}");
        world.run();
        assert!(world.session.is_open());
        for id in [first, second] {
            assert_eq!(world.queue_count(id, "q"), (0, 0));
        }
        let opened = Event::Channel(second, ChannelEvent::Opened);
        assert_eq!(world.events.iter().filter(|event| **event == opened).count(), 1);
    }
}

/// Its end is still to be polled: until then its number is its own.
#[test]
fn the_number_of_a_channel_closed_during_an_outage_is_free_after_its_event() {
    for dialed in [false, true] {
        let mut world = World::new(Recovery::default());
        let first = world.open();
        world.cut();
        if dialed {
            assert!(world.reconnect());
        }
        let channel = &mut world.session.channel(first).expect("it is open");
        channel.close(ReplyCode::REPLY_SUCCESS, "done");
        // What it is asked for now waits for nothing.
        let refused = channel.request(BasicGet::default()).expect_err("it is closed");
        assert!(matches!(refused, CommandError::Ended(ChannelError::Closed(_))), "{refused:?}");
        let second = world.session.open_channel().expect("there is room");
        assert_ne!(first, second);
        assert_eq!(
            world.session.open_channel_numbered(first.get()),
            Err(OpenChannelError::InUse { number: first.get() })
        );
        world.recover();
        world.queue(second, durable("q"));
        assert!(world.session.channel(first).is_err());
        assert_eq!(world.session.channel_count(), 1);
    }
}

/// The loop may ask for a channel before it polls the loss that it has just reported.
#[test]
fn a_channel_opened_before_the_event_of_the_loss_waits_for_the_next_connection() {
    let mut world = World::new(Recovery::default());
    let first = world.open();
    world.session.handle_eof(world.now);
    let second = world.session.open_channel().expect("there is room");
    assert_ne!(first, second);
    world.cut();
    world.recover();
    world.queue(second, durable("q"));
    assert_eq!(world.session.channel_count(), 2);
}

#[test]
fn a_session_that_has_ended_takes_no_requests() {
    let mut world = World::new(recovery(|recovery| {
        *recovery = recovery.clone().recovers(|error| matches!(error, ConnectionError::Eof));
    }));
    let ids = [world.open(), world.open()];
    world.cut();
    assert!(world.reconnect());
    // The next connection ends in a way that is not recovered from.
    world.session.handle_transport_failure(world.now, "something else");
    let mut closed = 0;
    while let Some(event) = world.session.poll_event() {
        let Event::Channel(id, ChannelEvent::Closed(_)) = event else { continue };
        closed += 1;
        assert!(world.session.channel(id).is_err(), "its end was polled");
        let left = ids.into_iter().filter(|id| world.session.channel(*id).is_ok());
        // The other is there until its own end is polled, and takes nothing.
        for id in left.collect::<Vec<_>>() {
            let channel = &mut world.session.channel(id).expect("its end was not polled");
            let refused = channel.request(durable("q")).expect_err("the session has ended");
            assert!(matches!(refused, CommandError::Ended(_)), "{refused:?}");
            assert!(channel.check_gate().is_ok(), "there is nothing to wait for");
            let refused = channel.publish(&Route::new("", "q"), &RawProperties::EMPTY, "");
            assert!(matches!(refused, Err(PublishError::Ended(_))), "{refused:?}");
        }
    }
    assert_eq!((closed, world.session.channel_count()), (2, 0));
}

#[test]
fn the_timer_includes_the_wait_before_the_next_attempt() {
    let mut world = World::new(recovery(|recovery| recovery.delay_min = Duration::from_secs(3)));
    world.cut();
    let (at, reason) = world.session.poll_timeout().expect("there is a next attempt");
    assert_eq!(
        (Reconnect::Wait(at), reason),
        (world.session.poll_reconnect(world.now), TimerReason::Recovery)
    );
    assert!(at > world.now);
    world.now = at;
    world.session.handle_timeout(at);
    assert_eq!(world.session.poll_reconnect(at), Reconnect::Connect { node: 0 });
}

#[test]
fn an_unreported_attempt_times_out() {
    let limit = Duration::from_secs(9);
    let mut world = World::new(recovery(|recovery| recovery.attempt_timeout = Some(limit)));
    world.cut();
    world.now += Duration::from_secs(1);
    assert_eq!(world.session.poll_reconnect(world.now), Reconnect::Connect { node: 0 });
    let begun = world.now;
    assert_eq!(world.session.poll_timeout(), Some((begun + limit, TimerReason::Recovery)));
    world.pass(limit);
    let failed = world.session_events().find_map(|event| match event {
        SessionEvent::AttemptFailed { node, reason } => Some((*node, reason.clone())),
        _ => None,
    });
    assert_eq!(failed, Some((0, "no transport within 9s".to_owned())));
    // What comes of it at last is too late.
    assert!(!world.session.handle_transport(world.now, None));
    world.session.handle_unreachable(world.now, "no route to host");
    assert_eq!(world.recover().attempts, 2);
}

#[test]
fn attempts_without_a_limit_last() {
    let mut world = World::new(recovery(|recovery| recovery.attempt_timeout = None));
    world.cut();
    world.now += Duration::from_secs(1);
    assert_eq!(world.session.poll_reconnect(world.now), Reconnect::Connect { node: 0 });
    assert_eq!(world.session.poll_timeout(), None);
    world.pass(Duration::from_secs(1_000_000));
    assert_eq!(world.session.poll_reconnect(world.now), Reconnect::Nothing);
}

#[test]
fn any_delay_is_fine() {
    let extremes = [Duration::ZERO, Duration::from_nanos(1), Duration::MAX];
    for (delay_min, delay_max) in
        extremes.into_iter().flat_map(|min| extremes.map(|max| (min, max)))
    {
        let mut world = World::new(recovery(|recovery| {
            (recovery.delay_min, recovery.delay_max) = (delay_min, delay_max);
            recovery.attempt_timeout = Some(Duration::MAX);
            recovery.give_up_after = Some(Duration::MAX);
        }));
        world.reachable = false;
        world.cut();
        let mut waits_for_ever = false;
        for _ in 0..40 {
            let _due = world.session.poll_timeout();
            match world.session.poll_reconnect(world.now) {
                Reconnect::Connect { .. } => {
                    world.session.handle_unreachable(world.now, "no route to host");
                }
                // Nobody waits for that, and it must not be at once either.
                Reconnect::Wait(at) if at - world.now > Duration::from_secs(400_000_000) => {
                    assert_eq!((delay_min, delay_max), (Duration::MAX, Duration::MAX));
                    waits_for_ever = true;
                    break;
                }
                Reconnect::Wait(at) => world.now = at,
                other => panic!("{other:?}"),
            }
        }
        assert_eq!(waits_for_ever, delay_min == delay_max && delay_min == Duration::MAX);
    }
}

/// The first waits of a session.
fn waits(seed: Option<u64>) -> Vec<Duration> {
    let mut world = World::unseeded(recovery(|recovery| recovery.seed = seed));
    world.reachable = false;
    world.cut();
    let wait = |_| {
        let before = world.now;
        world.reconnect();
        world.now - before
    };
    (0..10).map(wait).collect()
}

#[test]
fn only_sessions_of_one_seed_behave_alike() {
    assert_ne!(waits(None), waits(None), "herds");
    for seed in [0, 1, u64::MAX] {
        assert_eq!(waits(Some(seed)), waits(Some(seed)));
    }
    assert_ne!(waits(Some(0)), waits(Some(1)));
}
