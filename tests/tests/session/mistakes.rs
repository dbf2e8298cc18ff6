//! What costs a channel or the connection is not done again by recovery, or at least not as fast as it can.

use std::time::Duration;

use amqp_client_core::proto::method::BasicQos;
use amqp_client_core::proto::session::{Reconnect, Recovery};
use amqp_client_core::proto::{
    ChannelEvent, ChannelId, PublishError, PublishSeq, RawProperties, ReplyCode, Route,
    SessionEvent,
};

use crate::world::{World, durable, exclusive, short};

fn keep_immediate(world: &mut World, id: ChannelId, body: &str) -> PublishSeq {
    let mut route = Route::new("", "q");
    route.immediate = true;
    let channel = &mut world.session.channel(id).expect("it is open");
    channel.publish_kept(&route, &RawProperties::EMPTY, body).expect("it is taken")
}

/// The publishes that were refused, and by which codes.
fn refused(world: &World) -> Vec<(PublishSeq, Option<ReplyCode>)> {
    let refused = world.channel_events().filter_map(|event| match event {
        ChannelEvent::PublishFailed { publish, error: PublishError::Ended(error) } => {
            Some((*publish, error.as_close().map(|close| close.reply_code)))
        }
        _ => None,
    });
    refused.collect()
}

fn losses(world: &World) -> usize {
    world.session_events().filter(|event| matches!(event, SessionEvent::Lost { .. })).count()
}

/// RabbitMQ does not have `immediate`, and closes the connection (540).
#[test]
fn a_kept_message_that_costs_the_connection_does_so_once() {
    for before_loss in [false, true] {
        let mut world = World::new(Recovery::default());
        let id = world.open();
        world.queue(id, durable("q"));
        world.confirm(id);
        let other = world.open();
        world.confirm(other);
        world.events.clear();
        if before_loss {
            world.cut();
        }
        world.keep(id, "q", "first");
        let guilty = keep_immediate(&mut world, id, "guilty");
        world.keep(id, "q", "last");
        world.keep(other, "q", "innocent");
        world.run();
        for _ in 0..10 {
            world.recover();
            world.pass(Duration::from_secs(1));
        }
        assert_eq!(refused(&world), [(guilty, Some(ReplyCode::NOT_IMPLEMENTED))]);
        let mut confirmed = world.confirmed();
        confirmed.sort_unstable();
        assert_eq!(confirmed, [1, 1, 3]);
        assert_eq!(losses(&world), 1 + usize::from(before_loss), "it costs one connection");
        assert_eq!(world.session.kept(), 0);
        // Those behind it may have come twice, marked as such.
        assert!(world.queue_count(id, "q").0 >= 3);
    }
}

#[test]
fn a_limit_that_costs_the_connection_is_not_set_again() {
    let mut world = World::new(Recovery::default());
    let id = world.open();
    world.queue(id, durable("q"));
    world.limit(id, 2);
    let consumer = world.consume(id, &short("q"), "c");
    // RabbitMQ does not have this (540).
    let guilty = world.send(id, BasicQos { prefetch_size: 1, ..<_>::default() });
    world.run();
    assert!(world.failure(guilty).is_some());
    let report = world.recover();
    assert_eq!((report.attempts, report.failed.len()), (1, 0), "{:?}", report.failed);
    assert_eq!(losses(&world), 1);
    // The limit of before holds, also for consumers that are started now.
    let second = world.consume(id, &short("q"), "d");
    for _ in 0..10 {
        world.publish(id, "", "q", "m");
    }
    world.run();
    let deliveries = world.deliveries();
    let count = |wanted| deliveries.iter().filter(|(own, _)| *own == wanted).count();
    assert_eq!((count(consumer), count(second)), (2, 2));
}

#[test]
fn connections_that_are_lost_soon_again_and_again_are_made_ever_more_slowly() {
    let mut world = World::new(Recovery::default());
    world.open();
    let mut waits = Vec::new();
    let mut lose = |world: &mut World| {
        world.cut();
        let lost = world.now;
        world.recover();
        waits.push(world.now - lost);
    };
    for _ in 0..12 {
        lose(&mut world);
    }
    // One that lasts makes up for it.
    world.pass(Duration::from_secs(6));
    lose(&mut world);
    let (last, rest) = waits.split_last().expect("there are some");
    assert!(rest[0] <= Duration::from_millis(100), "{waits:?}");
    assert!(rest[11] >= Duration::from_millis(2500), "{waits:?}");
    assert!(rest.iter().all(|wait| *wait <= Duration::from_secs(5)), "{waits:?}");
    assert!(*last <= Duration::from_millis(100), "{waits:?}");
}

/// As when a program was started again, and the broker does not know yet that its connection of before has ended.
#[test]
fn the_first_declaration_of_a_locked_queue_can_be_retried() {
    for abandons in [false, true] {
        let mut world = World::with(|recovery| recovery.retry_locked = true);
        let mine = || exclusive("mine");
        let before = world.declare_elsewhere(mine());
        let id = world.open();
        world.queue(id, durable("q"));
        let consumer = world.consume(id, &short("q"), "c");
        let declare = world.send(id, mine());
        let beside = world.send(id, durable("beside"));
        world.run();
        assert!(world.failure(beside).is_some(), "what was behind it fails");
        for _ in 0..10 {
            world.pass(Duration::from_secs(1));
            assert!(world.failure(declare).is_none());
        }
        if abandons {
            world.session.channel(id).expect("it is open").abandon(declare);
            world.pass(Duration::from_secs(10));
            assert!(world.session.channel(id).is_ok());
        }
        world.broker.handle_eof(before, world.now);
        for _ in 0..10 {
            world.pass(Duration::from_secs(1));
        }
        assert_eq!(world.answer(declare).is_some(), !abandons);
        assert!(world.failure(declare).is_none());
        // Everything else came back with the channel.
        world.publish(id, "", "q", "m");
        world.run();
        assert_eq!(world.texts(consumer), ["m"]);
        world.cut();
        let report = world.recover();
        assert_eq!(report.queues, if abandons { 1 } else { 2 });
        assert_eq!(losses(&world), 1);
    }
}

#[test]
fn the_first_declaration_of_a_locked_queue_fails_without_that() {
    let mut world = World::new(Recovery::default());
    let mine = || exclusive("mine");
    world.declare_elsewhere(mine());
    let id = world.open();
    world.send(id, mine());
    world.run();
    assert!(world.session.channel(id).is_err());
    assert_eq!(world.session.poll_reconnect(world.now), Reconnect::Nothing);
}
