//! Options of recovery at their extremes: the session recovers or ends, and never loops without a pause.

use std::time::Duration;

use amqp_client_core::proto::session::{Locked, Recovery};
use amqp_client_core::proto::{ConnectionError, Gate, RawProperties, Route};

use crate::harness::Broker;
use crate::rig::{SessionRig, durable};

/// Loses the connection to a node that cannot be reached three times, and then can.
fn outage(rig: &mut SessionRig<Broker>) {
    rig.cut();
    for reachable in [false, false, false, true] {
        rig.reachable = reachable;
        let before = rig.now;
        rig.reconnect();
        assert!(rig.now > before || rig.session.check().is_err(), "there was no pause");
        rig.run();
    }
}

#[test]
fn a_session_recovers_whatever_its_delays_and_limits_are() {
    let (zero, most) = (Duration::ZERO, Duration::MAX);
    let own = || Recovery::default().seed(Some(1));
    for (name, policy) in [
        ("no delays", own().delay_min(zero).delay_max(zero)),
        ("no longest delay", own().delay_max(zero)),
        ("no shortest delay", own().delay_min(zero)),
        ("endless delays", own().delay_min(most).delay_max(most)),
        ("endless attempts", own().attempt_timeout(Some(most))),
        ("no end", own().give_up_after(Some(most)).attempts_max(None)),
        ("no last attempt", own().attempts_max(Some(u32::MAX))),
        ("nothing is kept", own().keep_max(0)),
        ("all is kept", own().keep_max(usize::MAX)),
        ("locked for no time", own().locked(Locked::Retry(zero))),
        ("locked forever", own().locked(Locked::Retry(most))),
        ("seeds", own().seed(Some(u64::MAX))),
    ] {
        let mut rig = SessionRig::unseeded(policy);
        let id = rig.open();
        let queue = rig.queue(id, durable("queue"));
        rig.confirm(id);
        rig.consume(id, &queue, "tag");
        outage(&mut rig);
        assert!(rig.session.is_open(), "{name}: {:?}", rig.events);
        rig.keep(id, "queue", "message");
        rig.run();
        assert_eq!(rig.deliveries().len(), 1, "{name}");
    }
}

#[test]
fn a_session_with_few_attempts_ends_with_the_reason() {
    for policy in [
        Recovery::default().give_up_after(Some(Duration::ZERO)),
        Recovery::default().attempts_max(Some(0)),
        Recovery::default().attempts_max(Some(1)),
    ] {
        let mut rig = SessionRig::new(policy);
        outage(&mut rig);
        let error = rig.session.check().expect_err("it gives up");
        let ConnectionError::NotRecovered { attempts, .. } = error else { panic!("{error:?}") };
        assert!(attempts <= 1, "{attempts}");
    }
}

#[test]
fn an_attempt_that_may_take_no_time_fails_and_others_follow_it_later_and_later() {
    let mut rig = SessionRig::with(|own| own.attempt_timeout(Some(Duration::ZERO)));
    rig.cut();
    rig.reachable = false;
    let begin = rig.now;
    for _ in 0..20 {
        rig.reconnect();
        rig.run();
    }
    assert!(rig.now - begin > Duration::from_secs(20), "{:?}", rig.now - begin);
}

/// Another connection has the queue, and the session asks for it again after no time.
#[test]
fn a_locked_queue_is_not_asked_for_without_a_pause() {
    let mut rig = SessionRig::with(|own| own.locked(Locked::Retry(Duration::ZERO)));
    let id = rig.open();
    rig.lose_queue(id, "mine", "tag");
    rig.cut_after = Some(rig.rounds + 1000);
    assert_eq!(rig.recover().locked.len(), 1);
    assert!(rig.cut_after.is_some(), "it asks again and again");
    let due = rig.session.poll_timeout().expect("it is asked for again").0;
    assert!(due > rig.now, "at once");
}

#[test]
fn a_message_that_is_kept_for_no_time_or_for_ever_is_kept_like_that() {
    for (time, count) in [(Duration::ZERO, 0), (Duration::MAX, 3)] {
        let mut rig = SessionRig::new(Recovery::default());
        let id = rig.open();
        rig.queue(id, durable("queue"));
        rig.confirm(id);
        rig.cut();
        for _ in 0..3 {
            let channel = rig.channel(id);
            let (route, none) = (Route::queue("queue"), RawProperties::EMPTY);
            channel.keep_for(Some(time)).publish_kept(&route, &none, "m").expect("it is taken");
            rig.run();
        }
        rig.pass(Duration::from_secs(3600));
        rig.recover();
        rig.run();
        assert_eq!(rig.queue_count(id, "queue").0, count, "{time:?}");
    }
}

#[test]
fn one_message_is_kept_where_none_may_be() {
    let mut rig = SessionRig::with(|own| own.keep_max(0));
    let id = rig.open();
    rig.queue(id, durable("queue"));
    rig.confirm(id);
    rig.keep(id, "queue", "one");
    let (route, none) = (Route::queue("queue"), RawProperties::EMPTY);
    let gate = rig.session.channel(id).expect("open").check_kept_gate(&route, &none, 1);
    assert_eq!(gate, Err(Gate::Kept));
    rig.run();
    rig.keep(id, "queue", "another");
    rig.run();
    assert_eq!(rig.queue_count(id, "queue").0, 2);
}
