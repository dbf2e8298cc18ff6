//! The behaviour on which the loop of an embedder relies.

use std::time::Duration;

use amqp_client_core::proto::method::BasicGet;
use amqp_client_core::proto::session::{Reconnect, Recovery};
use amqp_client_core::proto::{
    ChannelError, ChannelEvent, ChannelId, CommandError, ConnectStep, ConnectionError, Event,
    OpenChannelError, PublishError, RawProperties, ReplyCode, Route, SessionEvent, TimerReason,
};

use crate::rig::{SessionRig, durable};

/// Between the bytes of `connection.open-ok` and its event, the channels of before the loss are not open yet.
#[test]
fn a_channel_opened_at_any_step_of_a_handshake_has_its_own_number() {
    for moment in 0..8 {
        let mut rig = SessionRig::new(Recovery::default());
        let first = rig.open();
        rig.queue(first, durable("q"));
        rig.cut();
        assert!(rig.reconnect());
        for _ in 0..moment {
            // Unlike `run`, this polls no events.
            rig.carry();
        }
        let second = rig.session.open_channel().expect("there is room");
        assert_ne!(first, second, "{moment}");
        rig.run();
        assert!(rig.session.is_open());
        for id in [first, second] {
            assert_eq!(rig.queue_count(id, "q"), (0, 0));
        }
        let opened = Event::Channel(second, ChannelEvent::Opened);
        assert_eq!(rig.events.iter().filter(|event| **event == opened).count(), 1);
    }
}

/// Its end is still to be polled: until then its number is its own.
#[test]
fn the_number_of_a_channel_closed_during_an_outage_is_free_after_its_event() {
    for dialed in [false, true] {
        let mut rig = SessionRig::new(Recovery::default());
        let first = rig.open();
        rig.cut();
        if dialed {
            assert!(rig.reconnect());
        }
        let channel = &mut rig.channel(first);
        channel.close(ReplyCode::REPLY_SUCCESS, "done");
        // Requests fail from now on.
        let refused = channel.request(BasicGet::default()).expect_err("it is closed");
        assert!(matches!(refused, CommandError::Ended(ChannelError::Closed(_))), "{refused:?}");
        let second = rig.session.open_channel().expect("there is room");
        assert_ne!(first, second);
        assert_eq!(
            rig.session.open_channel_numbered(first.get()),
            Err(OpenChannelError::InUse { number: first.get() })
        );
        rig.recover();
        rig.queue(second, durable("q"));
        assert!(rig.session.channel(first).is_err());
        assert_eq!(rig.session.channel_count(), 1);
    }
}

#[test]
fn channels_get_the_lowest_number_that_is_free() {
    let mut rig = SessionRig::new(Recovery::default());
    let opened = [(); 3].map(|()| rig.open());
    assert_eq!(opened.map(ChannelId::get), [1, 2, 3]);
    let five = rig.session.open_channel_numbered(5).expect("it is free");
    for id in [opened[2], opened[0]] {
        rig.channel(id).close(ReplyCode::REPLY_SUCCESS, "done");
    }
    rig.run();
    assert_eq!([(); 4].map(|()| rig.open().get()), [1, 3, 4, 6]);
    rig.channel(five).close(ReplyCode::REPLY_SUCCESS, "done");
    // The broker has not confirmed the close yet.
    assert_eq!([(); 2].map(|()| rig.open().get()), [7, 5]);
}

/// The loop may ask for a channel before it polls the loss that it has just reported.
#[test]
fn a_channel_opened_before_the_event_of_the_loss_waits_for_the_next_connection() {
    let mut rig = SessionRig::new(Recovery::default());
    let first = rig.open();
    rig.session.handle_eof(rig.now);
    let second = rig.session.open_channel().expect("there is room");
    assert_ne!(first, second);
    rig.cut();
    rig.recover();
    rig.queue(second, durable("q"));
    assert_eq!(rig.session.channel_count(), 2);
}

#[test]
fn a_session_that_has_ended_takes_no_requests() {
    let mut rig = SessionRig::with(|recovery| {
        recovery.recovers(|error| matches!(error, ConnectionError::Eof))
    });
    let ids = [rig.open(), rig.open()];
    rig.cut();
    assert!(rig.reconnect());
    // The next connection ends in a way that is not recovered from.
    rig.session.handle_transport_failure(rig.now, "something else");
    let mut closed = 0;
    while let Some(event) = rig.session.poll_event() {
        let Event::Channel(id, ChannelEvent::Closed(_)) = event else { continue };
        closed += 1;
        assert!(rig.session.channel(id).is_err(), "its end was polled");
        let left = ids.into_iter().filter(|id| rig.session.channel(*id).is_ok());
        // The other is there until its own end is polled, and takes nothing.
        for id in left.collect::<Vec<_>>() {
            let channel = &mut rig.session.channel(id).expect("its end was not polled");
            let refused = channel.request(durable("q")).expect_err("the session has ended");
            assert!(matches!(refused, CommandError::Ended(_)), "{refused:?}");
            assert!(channel.check_gate().is_ok(), "there is nothing to wait for");
            let refused = channel.publish(&Route::new("", "q"), &RawProperties::EMPTY, "");
            assert!(matches!(refused, Err(PublishError::Ended(_))), "{refused:?}");
        }
    }
    assert_eq!((closed, rig.session.channel_count()), (2, 0));
}

#[test]
fn the_timer_includes_the_wait_before_the_next_attempt() {
    let mut rig = SessionRig::with(|recovery| recovery.delay_min(Duration::from_secs(3)));
    rig.cut();
    let (at, reason) = rig.session.poll_timeout().expect("there is a next attempt");
    assert_eq!(
        (Reconnect::Wait(at), reason),
        (rig.session.poll_reconnect(rig.now), TimerReason::Recovery)
    );
    assert!(at > rig.now);
    rig.now = at;
    rig.session.handle_timeout(at);
    assert_eq!(rig.session.poll_reconnect(at), Reconnect::Connect { node: 0 });
}

#[test]
fn an_unreported_attempt_times_out() {
    let limit = Duration::from_secs(9);
    let mut rig = SessionRig::with(|recovery| recovery.attempt_timeout(Some(limit)));
    rig.cut();
    rig.now += Duration::from_secs(1);
    assert_eq!(rig.session.poll_reconnect(rig.now), Reconnect::Connect { node: 0 });
    let begun = rig.now;
    assert_eq!(rig.session.poll_timeout(), Some((begun + limit, TimerReason::Recovery)));
    rig.pass(limit);
    let failed = rig.session_events().find_map(|event| match event {
        SessionEvent::AttemptFailed { node, step, reason } => Some((*node, *step, reason.clone())),
        _ => None,
    });
    let expected = (0, Some(ConnectStep::Tcp), "not connected within 9s".to_owned());
    assert_eq!(failed, Some(expected));
    // Its late result is ignored.
    assert!(!rig.session.handle_transport(rig.now, None));
    rig.session.handle_unreachable(rig.now, ConnectStep::Tcp, "no route to host");
    assert_eq!(rig.recover().attempts, 2);
}

#[test]
fn attempts_without_a_limit_last() {
    let mut rig = SessionRig::with(|recovery| recovery.attempt_timeout(None));
    rig.cut();
    rig.now += Duration::from_secs(1);
    assert_eq!(rig.session.poll_reconnect(rig.now), Reconnect::Connect { node: 0 });
    assert_eq!(rig.session.poll_timeout(), None);
    rig.pass(Duration::from_secs(1_000_000));
    assert_eq!(rig.session.poll_reconnect(rig.now), Reconnect::Nothing);
}

#[test]
fn any_delay_is_fine() {
    let extremes = [Duration::ZERO, Duration::from_nanos(1), Duration::MAX];
    for (delay_min, delay_max) in
        extremes.into_iter().flat_map(|min| extremes.map(|max| (min, max)))
    {
        let mut rig = SessionRig::with(|recovery| {
            let recovery = recovery.delay_min(delay_min).delay_max(delay_max);
            recovery.attempt_timeout(Some(Duration::MAX)).give_up_after(Some(Duration::MAX))
        });
        rig.reachable = false;
        rig.cut();
        let mut waits_for_ever = false;
        for _ in 0..40 {
            let _due = rig.session.poll_timeout();
            match rig.session.poll_reconnect(rig.now) {
                Reconnect::Connect { .. } => {
                    rig.session.handle_unreachable(rig.now, ConnectStep::Tcp, "no route to host");
                }
                // Nobody waits for that, and it must not be at once either.
                Reconnect::Wait(at) if at - rig.now > Duration::from_secs(400_000_000) => {
                    assert_eq!((delay_min, delay_max), (Duration::MAX, Duration::MAX));
                    waits_for_ever = true;
                    break;
                }
                Reconnect::Wait(at) => rig.now = at,
                other => panic!("{other:?}"),
            }
        }
        assert_eq!(waits_for_ever, delay_min == delay_max && delay_min == Duration::MAX);
    }
}

/// The first waits of a session.
fn waits(seed: Option<u64>) -> Vec<Duration> {
    let mut rig = SessionRig::unseeded(Recovery::default().seed(seed));
    rig.reachable = false;
    rig.cut();
    let wait = |_| {
        let before = rig.now;
        rig.reconnect();
        rig.now - before
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
