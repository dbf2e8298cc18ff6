//! Kept messages that are withdrawn or expire before they are confirmed.

use std::time::Duration;

use amqp_client_core::proto::session::Recovery;
use amqp_client_core::proto::{
    ChannelEvent, ChannelId, PublishError, PublishSeq, RawProperties, Route,
};

use crate::harness::Broker;
use crate::rig::{SessionRig, durable};

fn keep_for(rig: &mut SessionRig<Broker>, id: ChannelId, body: &str, time: Duration) -> PublishSeq {
    let channel = rig.channel(id).keep_for(Some(time));
    let mut channel = channel;
    channel.publish_kept(&Route::new("", "q"), &RawProperties::EMPTY, body).expect("it is taken")
}

fn withdraw(rig: &mut SessionRig<Broker>, id: ChannelId, publish: PublishSeq) -> bool {
    let withdrawn = rig.channel(id).withdraw(publish);
    rig.run();
    withdrawn
}

fn failed(rig: &SessionRig<Broker>) -> Vec<(PublishSeq, PublishError)> {
    let failed = rig.channel_events().filter_map(|event| match event {
        ChannelEvent::PublishFailed { publish, error } => Some((*publish, error.clone())),
        _ => None,
    });
    failed.collect()
}

fn rig() -> (SessionRig<Broker>, ChannelId) {
    let mut rig = SessionRig::new(Recovery::default());
    let id = rig.open();
    rig.queue(id, durable("q"));
    rig.confirm(id);
    rig.events.clear();
    (rig, id)
}

#[test]
fn messages_withdrawn_before_they_were_sent_are_not_sent() {
    let (mut rig, id) = rig();
    rig.cut();
    let publishes = ["a", "b", "c"].map(|body| rig.keep(id, "q", body));
    assert!(withdraw(&mut rig, id, publishes[1]));
    assert!(!withdraw(&mut rig, id, publishes[1]), "once is enough");
    assert_eq!(failed(&rig), [(publishes[1], PublishError::Withdrawn)]);
    rig.recover();
    assert_eq!(rig.confirmed(), [1, 3]);
    assert_eq!((rig.session.kept(), rig.queue_count(id, "q").0), (0, 2));
}

#[test]
fn messages_withdrawn_in_flight_are_confirmed_or_unconfirmed() {
    for lost in [false, true] {
        let (mut rig, id) = rig();
        let publish = rig.keep(id, "q", "a");
        // It is queued for the transport, so it may have been sent.
        let withdrawn = rig.channel(id).withdraw(publish);
        assert!(!withdrawn);
        if lost {
            rig.cut();
            rig.recover();
            let unconfirmed = rig.channel_events().any(
                |event| matches!(event, ChannelEvent::Unconfirmed { publishes, .. } if publishes.contains(&publish)),
            );
            assert!(unconfirmed, "{:?}", rig.events);
        }
        rig.run();
        assert_eq!(rig.confirmed().len(), usize::from(!lost));
        assert_eq!(failed(&rig), []);
        assert_eq!(rig.session.kept(), 0);
    }
}

#[test]
fn withdrawn_messages_are_not_sent_again_after_a_loss() {
    let (mut rig, id) = rig();
    let publish = rig.keep(id, "q", "a");
    rig.cut();
    assert!(!withdraw(&mut rig, id, publish), "the broker may have it");
    assert_eq!(failed(&rig), [(publish, PublishError::Withdrawn)]);
    assert_eq!(rig.recover().republished, 0);
    let next = rig.keep(id, "q", "b");
    rig.run();
    assert_eq!(rig.confirmed(), [next.get()]);
}

#[test]
fn kept_messages_expire() {
    let (mut rig, id) = rig();
    rig.reachable = false;
    rig.cut();
    let short = keep_for(&mut rig, id, "short", Duration::from_secs(10));
    let long = keep_for(&mut rig, id, "long", Duration::from_secs(100));
    let for_ever = keep_for(&mut rig, id, "forever", Duration::MAX);
    let unlimited = rig.keep(id, "q", "unlimited");
    rig.pass(Duration::ZERO);
    rig.pass(Duration::from_millis(9999));
    assert_eq!(failed(&rig), []);
    rig.pass(Duration::from_millis(1));
    assert_eq!(failed(&rig), [(short, PublishError::Expired)]);
    rig.reachable = true;
    rig.recover();
    assert_eq!(rig.confirmed(), [long, for_ever, unlimited].map(PublishSeq::get));
    rig.pass(Duration::from_secs(200));
    assert_eq!(failed(&rig).len(), 1, "what was confirmed does not expire");
    assert_eq!(rig.session.kept(), 0);
}

#[test]
fn the_timer_includes_the_time_to_live() {
    let (mut rig, id) = rig();
    rig.cut();
    rig.session.handle_timeout(rig.now);
    let (next, _) = rig.session.poll_timeout().expect("there is a next attempt");
    keep_for(&mut rig, id, "m", Duration::from_nanos(1));
    rig.session.handle_timeout(rig.now);
    let (at, _) = rig.session.poll_timeout().expect("it expires");
    assert!(at < next);
}
