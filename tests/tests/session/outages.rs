use std::sync::Arc;
use std::time::Duration;

use amqp_client_core::proto::method::{
    BasicConsume, BasicGet, ConfirmSelect, QueuePurge, TxSelect,
};
use amqp_client_core::proto::session::{Reconnect, Recovery};
use amqp_client_core::proto::{
    ChannelError, ChannelEvent, ClientConfig, ConnectStep, ConnectionError, Event, GetReply,
    Limits, Misuse, OpenChannelError, Oversized, ReplyCode, SessionEvent, TimerReason,
};

use amqp_testkit::alloc::allocations;

use crate::harness::Broker;
use crate::rig::{SessionRig, durable, nameless, short};

#[test]
fn attempts_are_reported_and_back_off() {
    let mut rig = SessionRig::new(Recovery::default());
    rig.reachable = false;
    rig.cut();
    let lost = rig.now;
    let mut waits = Vec::new();
    for _ in 0..12 {
        let before = rig.now;
        assert!(!rig.reconnect());
        waits.push(rig.now - before);
    }
    assert!(waits[11] >= Duration::from_millis(2500), "{waits:?}");
    assert!(waits.iter().all(|wait| *wait <= Duration::from_secs(5)), "{waits:?}");
    rig.run();
    let mut attempts = 0;
    for event in rig.session_events() {
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
    rig.reachable = true;
    let report = rig.recover();
    assert_eq!(report.attempts, 13);
    assert_eq!(report.connecting, rig.now - lost);
}

#[test]
fn after_the_last_attempt_everything_ends_with_the_reason() {
    let mut rig = SessionRig::with(|recovery| recovery.attempts_max(Some(3)));
    let id = rig.open();
    rig.reachable = false;
    rig.cut();
    let waiting = rig.send(id, durable("waiting"));
    for _ in 0..3 {
        assert!(rig.session.check().is_ok());
        assert!(!rig.reconnect());
    }
    rig.run();
    let error = rig.session.check().expect_err("it has given up");
    assert_eq!(
        format!("{error:?}"),
        "connection lost and not recovered (attempts: 3, last failure: no route to host): the peer \
         disconnected without closing the connection"
    );
    let closed = ChannelEvent::Closed(ChannelError::Connection(error.clone()));
    assert!(rig.channel_events().any(|event| *event == closed));
    assert_eq!(rig.events.last(), Some(&Event::Closed(error.clone())));
    assert!(rig.answer(waiting).is_none());
    assert_eq!(rig.session.open_channel(), Err(OpenChannelError::Connection(error)));
    assert_eq!(rig.session.poll_reconnect(rig.now), Reconnect::Nothing);
    assert_eq!(rig.session.poll_timeout(), None);
}

#[test]
fn it_gives_up_in_time() {
    let timeout = Duration::from_secs(7);
    let mut rig = SessionRig::with(|recovery| recovery.give_up_after(Some(timeout)));
    let lost = rig.now;
    rig.cut();
    assert!(matches!(rig.session.poll_reconnect(rig.now), Reconnect::Wait(_)));
    rig.now = rig.session.poll_timeout().expect("there is a next attempt").0;
    // Nobody reports the result.
    assert!(matches!(rig.session.poll_reconnect(rig.now), Reconnect::Connect { .. }));
    let give_up = (lost + timeout, TimerReason::Recovery);
    assert_eq!(rig.session.poll_timeout(), Some(give_up));
    rig.pass(lost + timeout - Duration::from_millis(1) - rig.now);
    assert!(rig.session.check().is_ok());
    rig.pass(Duration::from_millis(1));
    let error = rig.session.check().expect_err("it has given up");
    assert!(matches!(error, ConnectionError::NotRecovered { attempts: 1, .. }), "{error:?}");
}

#[test]
fn without_recovery_a_session_ends_when_its_connection_is_lost_or_was_lost() {
    for lost_before in [false, true] {
        let mut rig = SessionRig::new(Recovery::default());
        rig.open();
        if lost_before {
            rig.cut();
        }
        rig.session.stop_recovery();
        rig.run();
        assert_eq!(rig.session.check().is_err(), lost_before);
        rig.cut();
        let error = rig.session.check().expect_err("it has ended");
        assert_eq!(matches!(error, ConnectionError::NotRecovered { .. }), lost_before, "{error:?}");
        rig.run();
        assert_eq!(rig.events.last(), Some(&Event::Closed(error)));
        assert_eq!(rig.session.poll_timeout(), None);
    }
}

#[test]
fn a_handshake_that_fails_is_an_attempt() {
    let mut rig = SessionRig::new(Recovery::default());
    rig.cut();
    assert!(rig.reconnect());
    rig.cut_after = Some(rig.rounds + 1);
    rig.run();
    assert!(!rig.session.is_open() && rig.session.check().is_ok());
    assert!(rig.session_events().any(|event| matches!(event, SessionEvent::AttemptFailed { .. })));
    assert_eq!(rig.recover().attempts, 2);
    let lost = rig.session_events().filter(|event| matches!(event, SessionEvent::Lost { .. }));
    assert_eq!(lost.count(), 1, "once is enough");
}

#[test]
fn closing_ends_a_session_with_and_without_a_connection() {
    let mut rig = SessionRig::new(Recovery::default());
    rig.open();
    rig.session.close(rig.now, ReplyCode::REPLY_SUCCESS, "done");
    rig.run();
    assert!(rig.session.check().expect_err("it is over").is_local_close());
    assert_eq!(rig.session.poll_reconnect(rig.now), Reconnect::Nothing);

    for reconnects in [false, true] {
        let mut rig = SessionRig::new(Recovery::default());
        let id = rig.open();
        rig.cut();
        if reconnects {
            assert!(rig.reconnect());
        }
        rig.session.close(rig.now, ReplyCode::REPLY_SUCCESS, "done");
        rig.run();
        let error = rig.session.check().expect_err("it is over");
        assert!(error.is_local_close(), "{error:?}");
        let closed = ChannelEvent::Closed(ChannelError::Connection(error.clone()));
        assert!(rig.events.contains(&Event::Channel(id, closed)));
        assert_eq!(rig.events.last(), Some(&Event::Closed(error)));
        assert_eq!(rig.session.poll_reconnect(rig.now), Reconnect::Nothing);
    }
}

#[test]
fn a_channel_can_be_closed_at_any_time() {
    for moment in 0..3 {
        let mut rig = SessionRig::new(Recovery::default());
        let (id, other) = (rig.open(), rig.open());
        let close = |rig: &mut SessionRig<Broker>| {
            rig.channel(id).close(ReplyCode::REPLY_SUCCESS, "done");
            assert!(rig.channel(id).request(durable("refused")).is_err());
        };
        if moment == 0 {
            close(&mut rig);
        }
        rig.cut();
        if moment == 1 {
            close(&mut rig);
        }
        if moment == 2 {
            assert!(rig.reconnect());
            close(&mut rig);
        }
        let report = rig.recover();
        rig.run();
        let closed = rig.events.iter().filter(
            |event| matches!(event, Event::Channel(found, ChannelEvent::Closed(_)) if *found == id),
        );
        assert_eq!((closed.count(), report.channels), (1, 1), "{moment}");
        assert!(rig.session.channel(id).is_err());
        assert_eq!(rig.peer.engine.channel_count(rig.peer.client.expect("it is connected")), 1);
        rig.queue(other, durable("usable"));
    }
}

#[test]
fn without_a_policy_a_session_is_a_connection() {
    let mut rig = SessionRig::with(|recovery| recovery.recovers(|_| false));
    let id = rig.open();
    rig.cut();
    let closed = ChannelEvent::Closed(ChannelError::Connection(ConnectionError::Eof));
    assert!(rig.events.contains(&Event::Channel(id, closed)));
    assert_eq!(rig.session.check(), Err(ConnectionError::Eof));
    assert_eq!(rig.session.poll_reconnect(rig.now), Reconnect::Nothing);
}

#[test]
fn losses_leave_nothing_behind() {
    let mut rig = SessionRig::new(Recovery::default());
    let id = rig.open();
    let own = rig.queue(id, nameless());
    rig.bind(id, &own, "amq.direct", "key");
    let consumer = rig.consume(id, &own, "tag");
    rig.confirm(id);
    let cycle = |rig: &mut SessionRig<Broker>| {
        rig.cut();
        rig.keep(id, "nowhere", "kept");
        rig.send(id, durable("again"));
        rig.recover();
        rig.publish(id, "amq.direct", "key", "delivered");
        rig.run();
        let delivered = rig.deliveries();
        assert_eq!(delivered.len(), 1);
        for (found, delivery) in delivered {
            assert_eq!(found, consumer);
            let channel = &mut rig.channel(id);
            channel.ack(delivery.delivery_tag()).expect("it waits for it");
        }
        rig.events.clear();
    };
    (0..100).for_each(|_| cycle(&mut rig));
    let ((), counted) = allocations(|| (0..1000).for_each(|_| cycle(&mut rig)));
    assert!(counted.kept_bytes < 16 * 1024, "{} bytes are kept", counted.kept_bytes);
    // The first name of the queue leads to it after all of that.
    rig.bind(id, &own, "amq.direct", "more");
}

#[test]
fn an_undriven_session_is_not_recovered_whatever_the_policy() {
    let mut rig = SessionRig::with(|recovery| recovery.recovers(|_| true));
    let id = rig.open();
    rig.session.handle_driver_gone();
    rig.run();
    let closed = ChannelEvent::Closed(ChannelError::Connection(ConnectionError::DriverGone));
    assert!(rig.events.contains(&Event::Channel(id, closed)));
    assert_eq!(rig.session.check(), Err(ConnectionError::DriverGone));
}

/// A connection refuses these requests at once, so they are refused at once without one, too.
#[test]
fn misuse_is_refused_without_a_connection() {
    let mut rig = SessionRig::new(Recovery::default());
    let (confirming, transactional) = (rig.open(), rig.open());
    rig.confirm(confirming);
    rig.ask(transactional, TxSelect {});
    rig.queue(confirming, durable("q"));
    rig.consume(confirming, &short("q"), "open");
    rig.cut();

    let both = Err(Misuse::TxAndConfirm.into());
    assert_eq!(rig.channel(confirming).request(TxSelect {}), both);
    assert_eq!(rig.channel(transactional).request(ConfirmSelect::default()), both);

    let consume =
        |tag| BasicConsume { queue: short("q"), consumer_tag: short(tag), ..<_>::default() };
    let mut channel = rig.channel(confirming);
    let in_use = Err(Misuse::ConsumerTagInUse.into());
    assert_eq!(channel.request(consume("open")), in_use);
    assert!(channel.request(consume("waiting")).is_ok());
    assert_eq!(channel.request(consume("waiting")), in_use);
    assert!(channel.request(consume("")).is_ok(), "the broker generates a tag");
    assert!(channel.request(consume("")).is_ok(), "and another one");

    let channel_max = rig.session.negotiated().expect("it was open").channel_max;
    for number in [0, channel_max + 1] {
        let refused = OpenChannelError::NoSuchNumber { number, channel_max };
        assert_eq!(rig.session.open_channel_numbered(number), Err(refused));
    }
    assert!(rig.session.open_channel_numbered(channel_max).is_ok());
}

#[test]
fn the_wait_before_an_attempt_is_reported_once() {
    let mut rig = SessionRig::new(Recovery::default());
    rig.reachable = false;
    rig.cut();
    while matches!(rig.session.poll_reconnect(rig.now), Reconnect::Connect { .. }) {
        rig.session.handle_unreachable(rig.now, ConnectStep::Tcp, "no route to host");
    }
    for _ in 0..3 {
        assert!(matches!(rig.session.poll_reconnect(rig.now), Reconnect::Wait(_)));
        rig.run();
    }
    let waits = rig.session_events().filter(|e| matches!(e, SessionEvent::Waiting { .. }));
    assert_eq!(waits.count(), 1, "{:?}", rig.events);
}

/// The broker numbers deliveries from 1 again on the next connection.
#[test]
fn a_message_that_is_too_large_is_settled_by_the_number_in_its_event() {
    for gets in [false, true] {
        let mut rig = SessionRig::new(Recovery::default());
        let id = rig.open();
        rig.queue(id, durable("q"));
        rig.publish(id, "", "q", "1");
        let first = rig.ask(id, BasicGet { queue: short("q"), ..<_>::default() });
        assert!(matches!(first, Some(GetReply::Message { .. })));
        rig.cut();
        let limits = Limits::default().body_max(1).oversized(Oversized::Hold);
        rig.next_config = Some(Arc::new(ClientConfig::default().limits(limits)));
        rig.recover();
        rig.ask(id, QueuePurge { queue: short("q"), ..<_>::default() });
        rig.publish(id, "", "q", "too large");
        let tag = match gets {
            true => match rig.ask(id, BasicGet { queue: short("q"), ..<_>::default() }) {
                Some(GetReply::Unusable { delivery_tag, .. }) => delivery_tag,
                other => panic!("{other:?}"),
            },
            false => {
                rig.consume(id, &short("q"), "c");
                let found = rig.channel_events().find_map(|event| match event {
                    ChannelEvent::Unusable { delivery_tag, .. } => Some(*delivery_tag),
                    _ => None,
                });
                found.expect("it is reported")
            }
        };
        rig.channel(id).reject(tag, false).expect("it is unsettled");
        rig.run();
        let peer = rig.peer.client.expect("it is connected");
        assert_eq!(rig.peer.engine.unacknowledged_count(peer), 0, "{gets}");
        assert_eq!(rig.queue_count(id, "q").0, 0, "{gets}");
    }
}
