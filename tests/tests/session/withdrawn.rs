//! Kept messages that are given up before they are confirmed.

use std::time::Duration;

use amqp_client_core::proto::session::Recovery;
use amqp_client_core::proto::{
    ChannelEvent, ChannelId, PublishError, PublishSeq, RawProperties, Route,
};

use crate::world::{World, durable};

fn keep_for(world: &mut World, id: ChannelId, body: &str, time: Duration) -> PublishSeq {
    let channel = world.session.channel(id).expect("it is open").keep_for(Some(time));
    let mut channel = channel;
    channel.publish_kept(&Route::new("", "q"), &RawProperties::EMPTY, body).expect("it is taken")
}

fn withdraw(world: &mut World, id: ChannelId, publish: PublishSeq) -> bool {
    let withdrawn = world.session.channel(id).expect("it is open").withdraw(publish);
    world.run();
    withdrawn
}

fn failed(world: &World) -> Vec<(PublishSeq, PublishError)> {
    let failed = world.channel_events().filter_map(|event| match event {
        ChannelEvent::PublishFailed { publish, error } => Some((*publish, error.clone())),
        _ => None,
    });
    failed.collect()
}

fn world() -> (World, ChannelId) {
    let mut world = World::new(Recovery::default());
    let id = world.open();
    world.queue(id, durable("q"));
    world.confirm(id);
    world.events.clear();
    (world, id)
}

#[test]
fn messages_withdrawn_before_they_were_sent_are_not_sent() {
    let (mut world, id) = world();
    world.cut();
    let publishes = ["a", "b", "c"].map(|body| world.keep(id, "q", body));
    assert!(withdraw(&mut world, id, publishes[1]));
    assert!(!withdraw(&mut world, id, publishes[1]), "once is enough");
    assert_eq!(failed(&world), [(publishes[1], PublishError::Withdrawn)]);
    world.recover();
    assert_eq!(world.confirmed(), [1, 3]);
    assert_eq!((world.session.kept(), world.queue_count(id, "q").0), (0, 2));
}

#[test]
fn messages_withdrawn_in_flight_are_confirmed_or_unconfirmed() {
    for lost in [false, true] {
        let (mut world, id) = world();
        let publish = world.keep(id, "q", "a");
        // It is queued for the transport, so it may have been sent.
        let withdrawn = world.session.channel(id).expect("it is open").withdraw(publish);
        assert!(!withdrawn);
        if lost {
            world.cut();
            world.recover();
            let unconfirmed = world.channel_events().any(
                |event| matches!(event, ChannelEvent::Unconfirmed { publishes, .. } if publishes.contains(&publish)),
            );
            assert!(unconfirmed, "{:?}", world.events);
        }
        world.run();
        assert_eq!(world.confirmed().len(), usize::from(!lost));
        assert_eq!(failed(&world), []);
        assert_eq!(world.session.kept(), 0);
    }
}

#[test]
fn withdrawn_messages_are_not_sent_again_after_a_loss() {
    let (mut world, id) = world();
    let publish = world.keep(id, "q", "a");
    world.cut();
    assert!(!withdraw(&mut world, id, publish), "the broker may have it");
    assert_eq!(failed(&world), [(publish, PublishError::Withdrawn)]);
    assert_eq!(world.recover().republished, 0);
    let next = world.keep(id, "q", "b");
    world.run();
    assert_eq!(world.confirmed(), [next.get()]);
}

#[test]
fn kept_messages_expire() {
    let (mut world, id) = world();
    world.reachable = false;
    world.cut();
    let short = keep_for(&mut world, id, "short", Duration::from_secs(10));
    let long = keep_for(&mut world, id, "long", Duration::from_secs(100));
    let for_ever = keep_for(&mut world, id, "forever", Duration::MAX);
    let unlimited = world.keep(id, "q", "unlimited");
    world.pass(Duration::ZERO);
    world.pass(Duration::from_millis(9999));
    assert_eq!(failed(&world), []);
    world.pass(Duration::from_millis(1));
    assert_eq!(failed(&world), [(short, PublishError::Expired)]);
    world.reachable = true;
    world.recover();
    assert_eq!(world.confirmed(), [long, for_ever, unlimited].map(PublishSeq::get));
    world.pass(Duration::from_secs(200));
    assert_eq!(failed(&world).len(), 1, "what was confirmed does not expire");
    assert_eq!(world.session.kept(), 0);
}

#[test]
fn the_timer_includes_the_time_to_live() {
    let (mut world, id) = world();
    world.cut();
    world.session.handle_timeout(world.now);
    let (next, _) = world.session.poll_timeout().expect("there is a next attempt");
    keep_for(&mut world, id, "m", Duration::from_nanos(1));
    world.session.handle_timeout(world.now);
    let (at, _) = world.session.poll_timeout().expect("it expires");
    assert!(at < next);
}
