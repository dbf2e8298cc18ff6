//! Options of recovery at their extremes: it recovers or gives up, and never loops without a pause.

use std::time::Duration;

use amqp_client_core::proto::session::{Locked, Recovery};
use amqp_client_core::proto::{ConnectionError, Gate, RawProperties, Route};

use crate::world::{World, durable};

fn recovery(change: impl FnOnce(&mut Recovery)) -> Recovery {
    let mut recovery = Recovery::default();
    change(&mut recovery);
    recovery
}

/// Loses the connection to a node that cannot be reached three times, and then can.
fn outage(world: &mut World) {
    world.cut();
    for reachable in [false, false, false, true] {
        world.reachable = reachable;
        let before = world.now;
        world.reconnect();
        assert!(world.now > before || world.session.check().is_err(), "there was no pause");
        world.run();
    }
}

#[test]
fn a_session_recovers_whatever_its_delays_and_limits_are() {
    let (zero, most) = (Duration::ZERO, Duration::MAX);
    for (name, policy) in [
        ("no delays", recovery(|own| (own.delay_min, own.delay_max) = (zero, zero))),
        ("no longest delay", recovery(|own| own.delay_max = zero)),
        ("no shortest delay", recovery(|own| own.delay_min = zero)),
        ("endless delays", recovery(|own| (own.delay_min, own.delay_max) = (most, most))),
        ("endless attempts", recovery(|own| own.attempt_timeout = Some(most))),
        ("no end", recovery(|own| (own.give_up_after, own.attempts_max) = (Some(most), None))),
        ("no last attempt", recovery(|own| own.attempts_max = Some(u32::MAX))),
        ("nothing is kept", recovery(|own| own.keep_max = 0)),
        ("all is kept", recovery(|own| own.keep_max = usize::MAX)),
        ("locked for no time", recovery(|own| own.locked = Locked::Retry(zero))),
        ("locked forever", recovery(|own| own.locked = Locked::Retry(most))),
        ("seeds", recovery(|own| own.seed = Some(u64::MAX))),
    ] {
        let mut world = World::new(policy);
        let id = world.open();
        let queue = world.queue(id, durable("queue"));
        world.confirm(id);
        world.consume(id, &queue, "tag");
        outage(&mut world);
        assert!(world.session.is_open(), "{name}: {:?}", world.events);
        world.keep(id, "queue", "message");
        world.run();
        assert_eq!(world.deliveries().len(), 1, "{name}");
    }
}

#[test]
fn a_session_with_few_attempts_ends_with_the_reason() {
    for policy in [
        recovery(|own| own.give_up_after = Some(Duration::ZERO)),
        recovery(|own| own.attempts_max = Some(0)),
        recovery(|own| own.attempts_max = Some(1)),
    ] {
        let mut world = World::new(policy);
        outage(&mut world);
        let error = world.session.check().expect_err("it gives up");
        let ConnectionError::NotRecovered { attempts, .. } = error else { panic!("{error:?}") };
        assert!(attempts <= 1, "{attempts}");
    }
}

#[test]
fn an_attempt_that_may_take_no_time_fails_and_others_follow_it_later_and_later() {
    let mut world = World::new(recovery(|own| own.attempt_timeout = Some(Duration::ZERO)));
    world.cut();
    world.reachable = false;
    let begin = world.now;
    for _ in 0..20 {
        world.reconnect();
        world.run();
    }
    assert!(world.now - begin > Duration::from_secs(20), "{:?}", world.now - begin);
}

/// Another connection has the queue, and the session asks for it again after no time.
#[test]
fn a_locked_queue_is_not_asked_for_without_a_pause() {
    let mut world = World::new(recovery(|own| own.locked = Locked::Retry(Duration::ZERO)));
    let id = world.open();
    world.lose_queue(id, "mine", "tag");
    world.cut_after = Some(world.rounds + 1000);
    assert_eq!(world.recover().locked.len(), 1);
    assert!(world.cut_after.is_some(), "it asks again and again");
    let due = world.session.poll_timeout().expect("it is asked for again").0;
    assert!(due > world.now, "at once");
}

#[test]
fn a_message_that_is_kept_for_no_time_or_for_ever_is_kept_like_that() {
    for (time, count) in [(Duration::ZERO, 0), (Duration::MAX, 3)] {
        let mut world = World::new(Recovery::default());
        let id = world.open();
        world.queue(id, durable("queue"));
        world.confirm(id);
        world.cut();
        for _ in 0..3 {
            let channel = world.session.channel(id).expect("it is open");
            let (route, none) = (Route::queue("queue"), RawProperties::EMPTY);
            channel.keep_for(Some(time)).publish_kept(&route, &none, "m").expect("it is taken");
            world.run();
        }
        world.pass(Duration::from_secs(3600));
        world.recover();
        world.run();
        assert_eq!(world.queue_count(id, "queue").0, count, "{time:?}");
    }
}

#[test]
fn one_message_is_kept_where_none_may_be() {
    let mut world = World::new(recovery(|own| own.keep_max = 0));
    let id = world.open();
    world.queue(id, durable("queue"));
    world.confirm(id);
    world.keep(id, "queue", "one");
    let (route, none) = (Route::queue("queue"), RawProperties::EMPTY);
    let gate = world.session.channel(id).expect("open").check_kept_gate(&route, &none, 1);
    assert_eq!(gate, Err(Gate::Kept));
    world.run();
    world.keep(id, "queue", "another");
    world.run();
    assert_eq!(world.queue_count(id, "queue").0, 2);
}
