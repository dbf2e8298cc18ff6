//! Channels that the broker closes because of a message: the message is given up, the others arrive, and nothing is repeated
//! forever.

use std::collections::BTreeSet;
use std::time::Duration;

use amqp_client_core::proto::method::{
    Arguments as _, BasicAck, BasicCancel, BasicCancelOk, BasicConsume, ConfirmSelect, Method,
    QueueDeclare,
};
use amqp_client_core::proto::session::{OnCancel, Recovery};
use amqp_client_core::proto::{
    ChannelEvent, ChannelId, Connection, Gate, PublishError, PublishSeq, RawProperties, ReplyCode,
    Route, ServerConfig,
};

use crate::rig::{Script, SessionRig, accept, durable, short};

const PUBLISH: (u16, u16) = (60, 40);
const ACK: (u16, u16) = (60, 80);

fn reopening() -> Recovery {
    Recovery::default().reopen_channels(true).seed(Some(7))
}

fn keep(rig: &mut SessionRig<Script>, id: ChannelId, exchange: &str, body: &str) -> u64 {
    let route = Route::new(exchange, "k");
    let kept = rig.channel(id).publish_kept(&route, &RawProperties::EMPTY, body.to_owned());
    kept.expect("it is kept").get()
}

fn confirming(rig: &mut SessionRig<Script>) -> ChannelId {
    rig.run();
    let id = rig.open();
    rig.channel(id).request(ConfirmSelect { no_wait: false }).expect("it is sent");
    rig.run();
    id
}

/// A server that closes the channel over some bodies, and does not say which they were.
fn picky(rig: &mut SessionRig<Script>, cause: (u16, u16)) {
    rig.peer.judge = Some(Box::new(move |published| {
        let bad = published.body.starts_with(b"bad");
        bad.then(|| (ReplyCode::PRECONDITION_FAILED, "PRECONDITION_FAILED - no".into(), cause))
    }));
}

fn given_up(rig: &SessionRig<Script>) -> Vec<u64> {
    rig.given_up().into_iter().map(|(seq, _)| seq).collect()
}

#[test]
fn a_refused_message_is_given_up_and_not_sent_again() {
    let mut rig = SessionRig::new(reopening());
    let id = rig.open();
    rig.queue(id, durable("q"));
    rig.confirm(id);
    let mut kept = Vec::new();
    for (exchange, key) in [("", "q"), ("gone", "a"), ("", "q"), ("gone", "b"), ("", "q")] {
        let channel = &mut rig.channel(id);
        let route = Route::new(exchange, key);
        kept.push(channel.publish_kept(&route, &RawProperties::EMPTY, "body").expect("it is kept"));
    }
    rig.events.clear();
    rig.run();
    let failed: Vec<_> = rig
        .channel_events()
        .filter_map(|event| match event {
            ChannelEvent::PublishFailed { publish, error } => {
                assert!(format!("{error:?}").contains("no exchange 'gone'"), "{error}");
                Some(*publish)
            }
            _ => None,
        })
        .collect();
    assert_eq!(failed, [kept[1], kept[3]]);
    let unconfirmed = |event: &ChannelEvent| matches!(event, ChannelEvent::Unconfirmed { .. });
    assert!(!rig.channel_events().any(unconfirmed), "each is reported once");
    let restored = rig.channel_events().filter(|event| matches!(event, ChannelEvent::Restored));
    assert_eq!((restored.count(), rig.session.kept()), (1, 0));
    let confirmed: BTreeSet<_> = rig
        .channel_events()
        .filter_map(|event| match event {
            ChannelEvent::Confirmed { publishes, ack: true } => Some(publishes.clone()),
            _ => None,
        })
        .flat_map(|publishes| publishes.start().get()..=publishes.end().get())
        .collect();
    assert_eq!(confirmed, [kept[0], kept[2], kept[4]].map(PublishSeq::get).into());
    assert_eq!(rig.queue_count(id, "q").0, 4, "the first was sent twice, as it was not confirmed");
    assert_eq!(rig.peer.engine.take_violation(), None);
}

#[test]
fn the_only_message_is_blamed_whatever_the_text() {
    let mut rig = SessionRig::scripted(reopening());
    let id = confirming(&mut rig);
    picky(&mut rig, PUBLISH);
    let bad = keep(&mut rig, id, "x", "bad");
    rig.run();
    assert_eq!((given_up(&rig), rig.peer.closes), (vec![bad], 1));
    let (_, error) = rig.given_up()[0];
    let PublishError::Ended(error) = error else { panic!("{error}") };
    let code = error.reply_code();
    assert_eq!(code, Some(ReplyCode::PRECONDITION_FAILED));
    let good = keep(&mut rig, id, "x", "good");
    rig.pass(Duration::from_secs(1));
    assert_eq!((rig.confirmed(), rig.peer.closes), (vec![good], 1));
}

#[test]
fn among_many_messages_those_to_blame_are_found_and_all_others_arrive() {
    for bad in [&[0][..], &[99], &[50], &[0, 1, 2, 3], &[10, 11, 60, 98, 99], &[]] {
        let mut rig = SessionRig::scripted(reopening());
        let id = confirming(&mut rig);
        picky(&mut rig, PUBLISH);
        let mut seqs = Vec::new();
        for number in 0..100 {
            let name = if bad.contains(&number) { "bad" } else { "good" };
            seqs.push(keep(&mut rig, id, "", &format!("{name} {number}")));
        }
        rig.run();
        rig.pass(Duration::from_secs(60));
        let expected: Vec<_> = bad.iter().map(|number| seqs[*number]).collect();
        assert_eq!(given_up(&rig), expected);
        let confirmed: BTreeSet<_> = rig.confirmed().into_iter().collect();
        assert_eq!(confirmed.len(), rig.confirmed().len(), "each is confirmed once");
        assert_eq!((confirmed.len(), rig.session.kept()), (100 - bad.len(), 0));
        // Each takes as many closes as it takes to distinguish it from the others.
        assert!(rig.peer.closes <= 9 * bad.len(), "{} for {bad:?}", rig.peer.closes);
    }
}

#[test]
fn messages_that_are_taken_meanwhile_wait_for_their_turn() {
    let mut rig = SessionRig::scripted(reopening());
    let id = confirming(&mut rig);
    picky(&mut rig, PUBLISH);
    let first = keep(&mut rig, id, "", "first");
    let bad = keep(&mut rig, id, "", "bad");
    // Nothing is confirmed from now on.
    let judge = rig.peer.judge.take();
    rig.run();
    rig.peer.published.clear();
    rig.refuse(id, ReplyCode::PRECONDITION_FAILED, "no", PUBLISH);
    rig.pass(Duration::from_secs(1));
    let route = Route::new("", "k");
    assert_eq!(rig.channel(id).check_gate(), Err(Gate::Recovering));
    let plain = rig.channel(id).publish(&route, &RawProperties::EMPTY, "plain");
    assert_eq!(plain, Err(Gate::Recovering.into()));
    let last = keep(&mut rig, id, "", "last");
    rig.run();
    assert_eq!(rig.peer.published, ["first"], "one is sent, and the next when it is confirmed");
    // The connection is lost while it is so careful; the next goes on like that.
    rig.peer.judge = judge;
    rig.cut();
    rig.reconnect_to(ServerConfig::default());
    rig.run();
    rig.pass(Duration::from_secs(1));
    assert_eq!(rig.peer.published, ["first", "bad", "bad", "last"], "groups begin with one again");
    assert_eq!((rig.confirmed(), given_up(&rig)), (vec![first, last], vec![bad]));
    let plain = rig.channel(id).publish(&route, &RawProperties::EMPTY, "plain");
    let plain = plain.expect("it is sent").expect("it is numbered").get();
    rig.run();
    assert_eq!(rig.confirmed(), [first, last, plain]);
}

#[test]
fn a_close_without_a_cause_does_not_repeat_a_message_for_ever() {
    let mut rig = SessionRig::scripted(reopening());
    let id = confirming(&mut rig);
    picky(&mut rig, (0, 0));
    let kept = [
        keep(&mut rig, id, "", "good"),
        keep(&mut rig, id, "", "bad"),
        keep(&mut rig, id, "", "good, too"),
    ];
    rig.run();
    rig.pass(Duration::from_secs(60));
    assert_eq!((rig.confirmed(), given_up(&rig)), (vec![kept[0], kept[2]], vec![kept[1]]));
    assert!(rig.peer.closes <= 5, "{}", rig.peer.closes);
}

/// A message that is not kept cannot be distinguished from one that is.
#[test]
fn a_message_is_not_blamed_for_one_that_is_not_kept() {
    let mut rig = SessionRig::scripted(reopening());
    let id = confirming(&mut rig);
    let plain = rig.channel(id).publish(&Route::new("", "k"), &RawProperties::EMPTY, "plain");
    plain.expect("it is sent");
    let kept = keep(&mut rig, id, "", "kept");
    rig.run();
    rig.refuse(id, ReplyCode::PRECONDITION_FAILED, "no", PUBLISH);
    picky(&mut rig, PUBLISH);
    rig.refuse(id, ReplyCode::PRECONDITION_FAILED, "unknown delivery tag", ACK);
    rig.pass(Duration::from_secs(60));
    assert_eq!((given_up(&rig), rig.confirmed()), (vec![], vec![kept]));
}

#[test]
fn the_only_message_is_to_blame_for_the_third_close_without_a_cause() {
    let mut rig = SessionRig::scripted(reopening());
    let id = confirming(&mut rig);
    picky(&mut rig, (0, 0));
    let bad = keep(&mut rig, id, "", "bad");
    rig.run();
    rig.pass(Duration::from_secs(60));
    assert_eq!((given_up(&rig), rig.peer.closes), (vec![bad], 3));
}

/// Messages to exchanges x and y and to a queue, of which the server refuses the bad ones.
#[test]
fn only_messages_refused_for_the_same_reason_are_given_up() {
    const X: &str = "NOT_FOUND - no exchange 'x' in vhost '/'";
    let bad = [("x", "bad"), ("", "good"), ("x", "bad"), ("y", "good")];
    // The code and the text, which messages are refused, and how many closes that takes.
    let cases = [
        // The exchange is named.
        (ReplyCode::NOT_FOUND, X, bad, 1),
        // It is not, or not in a way that is known.
        (ReplyCode::NOT_FOUND, "NOT_FOUND", bad, 2),
        (ReplyCode::NOT_FOUND, "there is no exchange like 'x'", bad, 2),
        // Other messages to the exchange are not to blame for the bad one.
        (
            ReplyCode::PRECONDITION_FAILED,
            "no",
            [("x", "bad"), ("x", "good"), ("y", "good"), ("x", "good")],
            2,
        ),
        (
            ReplyCode::PRECONDITION_FAILED,
            X,
            [("x", "good"), ("x", "bad"), ("x", "good"), ("y", "good")],
            2,
        ),
        // There always is the exchange without a name.
        (
            ReplyCode::NOT_FOUND,
            "NOT_FOUND - no exchange '' in vhost '/'",
            [("", "bad"), ("", "good"), ("", "good"), ("x", "good")],
            2,
        ),
    ];
    for (code, text, messages, closes) in cases {
        let mut rig = SessionRig::scripted(reopening());
        let id = confirming(&mut rig);
        rig.peer.judge = Some(Box::new(move |published| {
            published.body.starts_with(b"bad").then(|| (code, text.into(), PUBLISH))
        }));
        let sent = messages.map(|(exchange, body)| (keep(&mut rig, id, exchange, body), body));
        rig.run();
        rig.pass(Duration::from_secs(60));
        let of = |wanted: &str| -> Vec<u64> {
            sent.iter().filter(|(_, body)| *body == wanted).map(|(seq, _)| *seq).collect()
        };
        let mut confirmed = rig.confirmed();
        confirmed.sort_unstable();
        assert_eq!((given_up(&rig), confirmed), (of("bad"), of("good")), "{text} {messages:?}");
        assert!(rig.peer.closes <= closes, "{}: {text} {messages:?}", rig.peer.closes);
    }
}

#[test]
fn a_message_is_not_blamed_for_another_operation() {
    let mut rig = SessionRig::scripted(reopening());
    let id = confirming(&mut rig);
    let kept = keep(&mut rig, id, "", "kept");
    rig.run();
    for _ in 0..10 {
        rig.refuse(id, ReplyCode::PRECONDITION_FAILED, "unknown delivery tag", ACK);
        rig.pass(Duration::from_secs(60));
    }
    assert_eq!(given_up(&rig), [0_u64; 0]);
    picky(&mut rig, PUBLISH);
    rig.refuse(id, ReplyCode::PRECONDITION_FAILED, "unknown delivery tag", ACK);
    rig.pass(Duration::from_secs(60));
    assert_eq!(rig.confirmed(), [kept]);
}

/// It is sent only when everything else is restored.
#[test]
fn a_message_is_not_blamed_for_closes_before_it_is_sent() {
    let mut rig = SessionRig::scripted(reopening());
    let id = confirming(&mut rig);
    for tag in ["a", "b", "c"] {
        let (queue, consumer_tag) = (short("q"), short(tag));
        let consume = BasicConsume { queue, consumer_tag, ..<_>::default() };
        rig.channel(id).request(consume).expect("it is sent");
    }
    let kept = keep(&mut rig, id, "", "kept");
    rig.run();
    rig.cut();
    rig.reconnect_to(ServerConfig::default());
    let mut closes = 0;
    rig.run_with(|server, id, method| match method {
        Method::BasicConsume(_) => {
            closes += 1;
            let code = ReplyCode::INTERNAL_ERROR;
            // Frames after the close are ignored.
            if let Ok(mut channel) = server.channel(id) {
                channel.close_over(code, "crashed", (0, 0));
            }
        }
        other => accept(server, id, other),
    });
    picky(&mut rig, PUBLISH);
    rig.pass(Duration::from_secs(60));
    assert!(closes > 3, "{closes}");
    assert_eq!(given_up(&rig), [0_u64; 0]);
    assert_eq!(rig.peer.published, ["kept"]);
    rig.say(id, BasicAck { delivery_tag: 1, multiple: false });
    assert_eq!(rig.confirmed(), [kept]);
}

#[test]
fn a_channel_that_is_closed_again_and_again_is_opened_less_and_less_often() {
    let mut rig = SessionRig::scripted(reopening());
    rig.run();
    let id = rig.open();
    let consume = BasicConsume { queue: short("q"), consumer_tag: short("c"), ..<_>::default() };
    let consumer = rig.channel(id).request(consume).expect("it is sent");
    rig.run();
    let mut waits = Vec::new();
    for _ in 0..12 {
        rig.refuse(id, ReplyCode::INTERNAL_ERROR, "the queue has crashed", (0, 0));
        let before = rig.now;
        while rig.peer.server.channel(id).is_err() {
            let (at, _) = rig.session.poll_timeout().expect("there is something to wait for");
            rig.pass(at - rig.now);
        }
        waits.push(rig.now - before);
        // Requests wait with it.
        assert!(rig.session.is_open());
    }
    assert_eq!(waits[0], Duration::ZERO, "once is no habit");
    // The default of `delay_max`.
    let longest = Duration::from_secs(5);
    for (number, wait) in waits.iter().enumerate().skip(1) {
        let full = (Duration::from_millis(100) * 2u32.pow(number as u32 - 1)).min(longest);
        assert!(*wait >= full / 2 && *wait <= full, "{number}: {waits:?}");
    }
    assert!(rig.failed_consumers().is_empty(), "{consumer:?} is there each time");
    // A channel that stays open for long enough resets its backoff.
    rig.pass(2 * longest);
    rig.refuse(id, ReplyCode::INTERNAL_ERROR, "the queue has crashed", (0, 0));
    assert!(rig.peer.server.channel(id).is_ok());
}

/// The broker closes the channel a round trip after it was opened, which may take longer than the first pauses.
#[test]
fn reopening_a_channel_backs_off_however_distant_the_broker_is() {
    const ROUND_TRIP: Duration = Duration::from_millis(250);
    let recovery = Recovery::default().retry_locked(true).seed(Some(7));
    let mut rig = SessionRig::scripted(recovery);
    rig.run();
    let id = rig.open();
    let mine = QueueDeclare { exclusive: true, ..durable("mine") };
    rig.channel(id).request(mine).expect("it is sent");
    let (mut asked, end) = (0, rig.now + Duration::from_secs(60));
    while rig.now < end {
        let before = asked;
        rig.run_with(|server, id, method| match method {
            Method::QueueDeclare(_) => asked += 1,
            other => accept(server, id, other),
        });
        rig.now += ROUND_TRIP;
        rig.peer.server.send_heartbeat();
        if asked > before {
            let cause = (QueueDeclare::CLASS_ID, QueueDeclare::METHOD_ID);
            let channel = &mut rig.peer.server.channel(id).expect("it is open");
            channel.close_over(ReplyCode::RESOURCE_LOCKED, "it is another's", cause);
        }
        rig.session.handle_timeout(rig.now);
    }
    // Once in five seconds at last.
    assert!((10..=30).contains(&asked), "{asked}");
}

/// The state of the channel was never restored completely, so the channel does not count as open in between.
#[test]
fn a_channel_that_cannot_be_restored_is_reopened_with_backoff() {
    let mut rig = SessionRig::scripted(reopening());
    rig.run();
    let (id, other) = (rig.open(), rig.open());
    rig.channel(other).request(durable("q")).expect("it is sent");
    rig.run();
    rig.cut();
    rig.reconnect_to(ServerConfig::default());
    rig.run();
    rig.pass(Duration::from_secs(60));
    rig.cut();
    rig.reconnect_to(ServerConfig::default());
    // The queue is never declared, so that nothing is asked for on the channel.
    rig.run_with(|_, _, _| {});
    let mut closes = 0;
    while let Ok(mut channel) = rig.peer.server.channel(id) {
        channel.close_over(ReplyCode::INTERNAL_ERROR, "crashed", (0, 0));
        rig.run_with(|_, _, _| {});
        closes += 1;
        assert!(closes < 10, "it is opened again and again");
    }
}

/// A timer that has passed would be asked for again and again.
#[test]
fn a_channel_waiting_to_be_reopened_does_not_wake_a_closing_connection() {
    let mut rig = SessionRig::scripted(reopening());
    rig.run();
    let id = rig.open();
    for _ in 0..2 {
        rig.refuse(id, ReplyCode::INTERNAL_ERROR, "crashed", (0, 0));
    }
    rig.session.close(rig.now, ReplyCode::REPLY_SUCCESS, "");
    rig.now += Duration::from_secs(1);
    rig.session.handle_timeout(rig.now);
    let timer = rig.session.poll_timeout();
    assert!(timer.is_none_or(|(at, _)| at > rig.now), "{timer:?}");
}

#[test]
fn a_channel_that_waits_to_be_opened_can_be_closed_and_lost() {
    let again = |rig: &mut SessionRig<Script>, id| {
        rig.refuse(id, ReplyCode::INTERNAL_ERROR, "crashed", (0, 0));
        rig.refuse(id, ReplyCode::INTERNAL_ERROR, "crashed", (0, 0));
        assert!(rig.peer.server.channel(id).is_err());
    };
    let mut rig = SessionRig::scripted(reopening());
    rig.run();
    let id = rig.open();
    again(&mut rig, id);
    // Its number stays its own.
    let other = rig.open();
    assert_ne!(id, other);
    rig.channel(id).close(ReplyCode::REPLY_SUCCESS, "");
    rig.pass(Duration::from_secs(60));
    assert!(rig.peer.server.channel(id).is_err() && rig.session.channel(id).is_err());
    again(&mut rig, other);
    rig.cut();
    assert!(rig.session.poll_timeout().is_some());
    rig.reconnect_to(ServerConfig::default());
    rig.run();
    assert!(rig.session.is_open() && rig.peer.server.channel(other).is_ok());
    rig.pass(Duration::from_secs(60));
    assert_eq!(rig.session.channel_count(), 1);
}

/// RabbitMQ 3.10 crashes the channel when the cancel arrives before the queue has replied.
#[test]
fn a_confirm_does_not_send_a_cancel_before_its_consumer_has_started() {
    let mut rig = SessionRig::scripted(reopening().on_cancel(OnCancel::Resubscribe));
    let id = confirming(&mut rig);
    let consume = BasicConsume { queue: short("q"), consumer_tag: short("t"), ..<_>::default() };
    rig.channel(id).request(consume).expect("it is sent");
    rig.run();
    for body in ["one", "two"] {
        keep(&mut rig, id, "", body);
    }
    rig.run();
    // One of the two may be to blame: from now on, the channel sends one after the other.
    rig.refuse(id, ReplyCode::PRECONDITION_FAILED, "no", (0, 0));
    rig.pass(Duration::from_secs(60));
    assert_eq!(rig.peer.published.len(), 3);
    rig.peer.asked.clear();
    let cancel = BasicCancel { consumer_tag: short("t"), no_wait: true };
    rig.peer.server.channel(id).expect("it is open").send(cancel).expect("it is sent");
    let mut starting = None;
    rig.run_with(|server, id, method| match method {
        Method::BasicConsume(_) => starting = Some(method.clone()),
        method => accept(server, id, method),
    });
    let starting = starting.expect("it starts again");
    let cancel = BasicCancel { consumer_tag: short("t"), no_wait: false };
    let cancel = rig.channel(id).request(cancel).expect("it waits");
    let cancels = |rig: &SessionRig<Script>| {
        rig.peer.asked.iter().filter(|method| matches!(method, Method::BasicCancel(_))).count()
    };
    let reply = |server: &mut Connection, id, method: &Method| match method {
        Method::BasicCancel(cancel) => {
            let reply = BasicCancelOk { consumer_tag: cancel.consumer_tag.clone() };
            server.channel(id).expect("it is open").send(reply).expect("it is sent");
        }
        method => accept(server, id, method),
    };
    let ack = BasicAck { delivery_tag: 1, multiple: false };
    rig.peer.server.channel(id).expect("it is open").send(ack).expect("it is sent");
    rig.run_with(reply);
    assert_eq!(rig.peer.published.len(), 4);
    assert_eq!(cancels(&rig), 0, "it has not started");
    accept(&mut rig.peer.server, id, &starting);
    rig.run_with(reply);
    assert_eq!(cancels(&rig), 1);
    assert!(rig.answer(cancel).is_some());
}
