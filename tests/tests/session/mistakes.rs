//! Recovery does not repeat an operation that closes the channel or the connection, or at least not without a pause.

use std::time::Duration;

use amqp_client_core::proto::method::{BasicConsume, BasicQos};
use amqp_client_core::proto::session::{Reconnect, Recovery};
use amqp_client_core::proto::{
    ChannelEvent, ChannelId, PublishError, PublishSeq, RawProperties, ReplyCode, Route,
    SessionEvent,
};

use crate::harness::Broker;
use crate::rig::{SessionRig, durable, exclusive, short};

fn keep_immediate(rig: &mut SessionRig<Broker>, id: ChannelId, body: &str) -> PublishSeq {
    let route = Route::new("", "q").immediate();
    let channel = &mut rig.channel(id);
    channel.publish_kept(&route, &RawProperties::EMPTY, body).expect("it is taken")
}

/// The publishes that were refused, and by which codes.
fn refused(rig: &SessionRig<Broker>) -> Vec<(PublishSeq, Option<ReplyCode>)> {
    let refused = rig.channel_events().filter_map(|event| match event {
        ChannelEvent::PublishFailed { publish, error: PublishError::Ended(error) } => {
            Some((*publish, error.as_close().map(|close| close.reply_code)))
        }
        _ => None,
    });
    refused.collect()
}

fn losses(rig: &SessionRig<Broker>) -> usize {
    rig.session_events().filter(|event| matches!(event, SessionEvent::Lost { .. })).count()
}

/// RabbitMQ does not have `immediate`, and closes the connection (540).
#[test]
fn a_kept_message_that_costs_the_connection_does_so_once() {
    for before_loss in [false, true] {
        let mut rig = SessionRig::new(Recovery::default());
        let id = rig.open();
        rig.queue(id, durable("q"));
        rig.confirm(id);
        let other = rig.open();
        rig.confirm(other);
        rig.events.clear();
        if before_loss {
            rig.cut();
        }
        rig.keep(id, "q", "first");
        let guilty = keep_immediate(&mut rig, id, "guilty");
        rig.keep(id, "q", "last");
        rig.keep(other, "q", "innocent");
        rig.run();
        for _ in 0..10 {
            rig.recover();
            rig.pass(Duration::from_secs(1));
        }
        assert_eq!(refused(&rig), [(guilty, Some(ReplyCode::NOT_IMPLEMENTED))]);
        let mut confirmed = rig.confirmed();
        confirmed.sort_unstable();
        assert_eq!(confirmed, [1, 1, 3]);
        assert_eq!(losses(&rig), 1 + usize::from(before_loss), "it costs one connection");
        assert_eq!(rig.session.kept(), 0);
        // Those behind it may have come twice, marked as such.
        assert!(rig.queue_count(id, "q").0 >= 3);
    }
}

#[test]
fn a_limit_that_costs_the_connection_is_not_set_again() {
    for abandoned in [false, true] {
        let mut rig = SessionRig::new(Recovery::default());
        let id = rig.open();
        rig.queue(id, durable("q"));
        rig.limit(id, 2);
        let consumer = rig.consume(id, &short("q"), "c");
        // RabbitMQ does not have this (540).
        let guilty = rig.send(id, BasicQos { prefetch_size: 1, ..<_>::default() });
        if abandoned {
            // The application does not wait for the reply, for example because a call has timed out.
            rig.channel(id).abandon(guilty);
        }
        // Nobody waits for the reply to its start, so it is started again.
        let (queue, consumer_tag) = (short("q"), short("behind"));
        let behind = BasicConsume { queue, consumer_tag, no_wait: true, ..<_>::default() };
        let behind = rig.send(id, behind).into();
        rig.run();
        assert_eq!(rig.failure(guilty).is_some(), !abandoned);
        let report = rig.recover();
        assert_eq!((report.attempts, report.failed.len()), (1, 0), "{:?}", report.failed);
        assert_eq!(losses(&rig), 1);
        // The limit of before holds, also for consumers that are started now.
        let second = rig.consume(id, &short("q"), "d");
        for _ in 0..10 {
            rig.publish(id, "", "q", "m");
        }
        rig.run();
        let deliveries = rig.deliveries();
        let count = |wanted| deliveries.iter().filter(|(own, _)| *own == wanted).count();
        let counts = [consumer, behind, second].map(count);
        assert_eq!(counts, [2, 2, 2], "abandoned: {abandoned}");
    }
}

#[test]
fn connections_that_are_lost_soon_again_and_again_are_made_ever_more_slowly() {
    let mut rig = SessionRig::new(Recovery::default());
    rig.open();
    let mut waits = Vec::new();
    let mut lose = |rig: &mut SessionRig<Broker>| {
        rig.cut();
        let lost = rig.now;
        rig.recover();
        waits.push(rig.now - lost);
    };
    for _ in 0..12 {
        lose(&mut rig);
    }
    // A connection that lasts resets the backoff.
    rig.pass(Duration::from_secs(6));
    lose(&mut rig);
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
        let mut rig = SessionRig::with(|recovery| recovery.retry_locked(true));
        let mine = || exclusive("mine");
        let before = rig.declare_elsewhere(mine());
        let id = rig.open();
        rig.queue(id, durable("q"));
        let consumer = rig.consume(id, &short("q"), "c");
        let declare = rig.send(id, mine());
        let beside = rig.send(id, durable("beside"));
        rig.run();
        assert!(rig.failure(beside).is_some(), "what was behind it fails");
        for _ in 0..10 {
            rig.pass(Duration::from_secs(1));
            assert!(rig.failure(declare).is_none());
        }
        if abandons {
            rig.channel(id).abandon(declare);
            rig.pass(Duration::from_secs(10));
            assert!(rig.session.channel(id).is_ok());
        }
        rig.peer.engine.handle_eof(before, rig.now);
        for _ in 0..10 {
            rig.pass(Duration::from_secs(1));
        }
        assert_eq!(rig.answer(declare).is_some(), !abandons);
        assert!(rig.failure(declare).is_none());
        // Everything else was restored with the channel.
        rig.publish(id, "", "q", "m");
        rig.run();
        assert_eq!(rig.texts(consumer), ["m"]);
        rig.cut();
        let report = rig.recover();
        assert_eq!(report.queues, if abandons { 1 } else { 2 });
        assert_eq!(losses(&rig), 1);
    }
}

#[test]
fn the_first_declaration_of_a_locked_queue_fails_without_that() {
    let mut rig = SessionRig::new(Recovery::default());
    let mine = || exclusive("mine");
    rig.declare_elsewhere(mine());
    let id = rig.open();
    rig.send(id, mine());
    rig.run();
    assert!(rig.session.channel(id).is_err());
    assert_eq!(rig.session.poll_reconnect(rig.now), Reconnect::Nothing);
}

/// A call with a timeout may be dropped at any time. The next declaration was not refused, so it is not repeated in its place.
#[test]
fn a_locked_declaration_that_is_dropped_does_not_cost_the_channel() {
    let mut rig = SessionRig::with(|recovery| recovery.retry_locked(true));
    rig.declare_elsewhere(exclusive("mine"));
    let id = rig.open();
    let queue = rig.queue(id, durable("q"));
    let consumer = rig.consume(id, &queue, "c");
    let dropped = rig.send(id, exclusive("mine"));
    let next = rig.send(id, durable("next"));
    rig.channel(id).abandon(dropped);
    rig.run();
    rig.pass(Duration::from_secs(60));
    let closed = |event: &ChannelEvent| matches!(event, ChannelEvent::Closed(_));
    assert!(!rig.channel_events().any(closed), "{:?}", rig.events);
    assert!(rig.failure(next).is_some());
    rig.publish(id, "", "q", "m");
    rig.run();
    assert_eq!(rig.texts(consumer), ["m"]);
}
