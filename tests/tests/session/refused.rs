//! Channels that the broker closes because of a message: the message is given up, the others arrive, and nothing is repeated
//! forever.

use std::collections::BTreeSet;
use std::time::Duration;

use amqp_client_core::proto::method::{
    Arguments as _, BasicAck, BasicConsume, ConfirmSelect, Method, QueueDeclare,
};
use amqp_client_core::proto::session::Recovery;
use amqp_client_core::proto::{
    ChannelEvent, ChannelId, Gate, PublishError, PublishSeq, RawProperties, ReplyCode, Route,
    ServerConfig,
};

use crate::pair::{Pair, accept};
use crate::world::{World, durable, short};

const PUBLISH: (u16, u16) = (60, 40);
const ACK: (u16, u16) = (60, 80);

fn reopening() -> Recovery {
    let mut recovery = Recovery::default();
    recovery.reopen_channels = true;
    recovery.seed = Some(7);
    recovery
}

fn keep(pair: &mut Pair, id: ChannelId, exchange: &str, body: &str) -> u64 {
    let route = Route::new(exchange, "k");
    let kept = pair.channel(id).publish_kept(&route, &RawProperties::EMPTY, body.to_owned());
    kept.expect("it is kept").get()
}

fn confirming(pair: &mut Pair) -> ChannelId {
    pair.run(accept);
    let id = pair.open();
    pair.channel(id).request(ConfirmSelect { no_wait: false }).expect("it is sent");
    pair.run(accept);
    id
}

/// A server that closes the channel over some bodies, and does not say which they were.
fn picky(pair: &mut Pair, cause: (u16, u16)) {
    pair.judge = Some(Box::new(move |published| {
        let bad = published.body.starts_with(b"bad");
        bad.then(|| (ReplyCode::PRECONDITION_FAILED, "PRECONDITION_FAILED - no".into(), cause))
    }));
}

fn given_up(pair: &Pair) -> Vec<u64> {
    pair.given_up().into_iter().map(|(seq, _)| seq).collect()
}

#[test]
fn a_refused_message_is_given_up_and_not_sent_again() {
    let mut world = World::new(reopening());
    let id = world.open();
    world.queue(id, durable("q"));
    world.confirm(id);
    let mut kept = Vec::new();
    for (exchange, key) in [("", "q"), ("gone", "a"), ("", "q"), ("gone", "b"), ("", "q")] {
        let channel = &mut world.session.channel(id).expect("it is open");
        let route = Route::new(exchange, key);
        kept.push(channel.publish_kept(&route, &RawProperties::EMPTY, "body").expect("it is kept"));
    }
    world.events.clear();
    world.run();
    let failed: Vec<_> = world
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
    assert!(!world.channel_events().any(unconfirmed), "each is reported once");
    let restored = world.channel_events().filter(|event| matches!(event, ChannelEvent::Restored));
    assert_eq!((restored.count(), world.session.kept()), (1, 0));
    let confirmed: BTreeSet<_> = world
        .channel_events()
        .filter_map(|event| match event {
            ChannelEvent::Confirmed { publishes, ack: true } => Some(publishes.clone()),
            _ => None,
        })
        .flat_map(|publishes| publishes.start().get()..=publishes.end().get())
        .collect();
    assert_eq!(confirmed, [kept[0], kept[2], kept[4]].map(PublishSeq::get).into());
    assert_eq!(
        world.queue_count(id, "q").0,
        4,
        "the first was sent twice, as it was not confirmed"
    );
    assert_eq!(world.broker.take_violation(), None);
}

#[test]
fn the_only_message_is_blamed_whatever_the_text() {
    let mut pair = Pair::new(reopening());
    let id = confirming(&mut pair);
    picky(&mut pair, PUBLISH);
    let bad = keep(&mut pair, id, "x", "bad");
    pair.run(accept);
    assert_eq!((given_up(&pair), pair.closes), (vec![bad], 1));
    let (_, error) = pair.given_up()[0];
    let PublishError::Ended(error) = error else { panic!("{error}") };
    let code = error.reply_code();
    assert_eq!(code, Some(ReplyCode::PRECONDITION_FAILED));
    let good = keep(&mut pair, id, "x", "good");
    pair.pass(Duration::from_secs(1));
    assert_eq!((pair.confirmed(), pair.closes), (vec![good], 1));
}

#[test]
fn among_many_messages_those_to_blame_are_found_and_all_others_arrive() {
    for bad in [&[0][..], &[99], &[50], &[0, 1, 2, 3], &[10, 11, 60, 98, 99], &[]] {
        let mut pair = Pair::new(reopening());
        let id = confirming(&mut pair);
        picky(&mut pair, PUBLISH);
        let mut seqs = Vec::new();
        for number in 0..100 {
            let name = if bad.contains(&number) { "bad" } else { "good" };
            seqs.push(keep(&mut pair, id, "", &format!("{name} {number}")));
        }
        pair.run(accept);
        pair.pass(Duration::from_secs(60));
        let expected: Vec<_> = bad.iter().map(|number| seqs[*number]).collect();
        assert_eq!(given_up(&pair), expected);
        let confirmed: BTreeSet<_> = pair.confirmed().into_iter().collect();
        assert_eq!(confirmed.len(), pair.confirmed().len(), "each is confirmed once");
        assert_eq!((confirmed.len(), pair.session.kept()), (100 - bad.len(), 0));
        // Each takes as many closes as it takes to distinguish it from the others.
        assert!(pair.closes <= 9 * bad.len(), "{} for {bad:?}", pair.closes);
    }
}

#[test]
fn messages_that_are_taken_meanwhile_wait_for_their_turn() {
    let mut pair = Pair::new(reopening());
    let id = confirming(&mut pair);
    picky(&mut pair, PUBLISH);
    let first = keep(&mut pair, id, "", "first");
    let bad = keep(&mut pair, id, "", "bad");
    // Nothing is confirmed from now on.
    let judge = pair.judge.take();
    pair.run(accept);
    pair.published.clear();
    pair.refuse(id, ReplyCode::PRECONDITION_FAILED, "no", PUBLISH);
    pair.pass(Duration::from_secs(1));
    let route = Route::new("", "k");
    assert_eq!(pair.channel(id).check_gate(), Err(Gate::Recovering));
    let plain = pair.channel(id).publish(&route, &RawProperties::EMPTY, "plain");
    assert_eq!(plain, Err(Gate::Recovering.into()));
    let last = keep(&mut pair, id, "", "last");
    pair.run(accept);
    assert_eq!(pair.published, ["first"], "one is sent, and the next when it is confirmed");
    // The connection is lost while it is so careful; the next goes on like that.
    pair.judge = judge;
    pair.cut();
    pair.reconnect(ServerConfig::default());
    pair.run(accept);
    pair.pass(Duration::from_secs(1));
    assert_eq!(pair.published, ["first", "bad", "bad", "last"], "groups begin with one again");
    assert_eq!((pair.confirmed(), given_up(&pair)), (vec![first, last], vec![bad]));
    let plain = pair.channel(id).publish(&route, &RawProperties::EMPTY, "plain");
    let plain = plain.expect("it is sent").expect("it is numbered").get();
    pair.run(accept);
    assert_eq!(pair.confirmed(), [first, last, plain]);
}

#[test]
fn a_close_without_a_cause_does_not_repeat_a_message_for_ever() {
    let mut pair = Pair::new(reopening());
    let id = confirming(&mut pair);
    picky(&mut pair, (0, 0));
    let kept = [
        keep(&mut pair, id, "", "good"),
        keep(&mut pair, id, "", "bad"),
        keep(&mut pair, id, "", "good, too"),
    ];
    pair.run(accept);
    pair.pass(Duration::from_secs(60));
    assert_eq!((pair.confirmed(), given_up(&pair)), (vec![kept[0], kept[2]], vec![kept[1]]));
    assert!(pair.closes <= 5, "{}", pair.closes);
}

/// A message that is not kept cannot be distinguished from one that is.
#[test]
fn a_message_is_not_blamed_for_one_that_is_not_kept() {
    let mut pair = Pair::new(reopening());
    let id = confirming(&mut pair);
    let plain = pair.channel(id).publish(&Route::new("", "k"), &RawProperties::EMPTY, "plain");
    plain.expect("it is sent");
    let kept = keep(&mut pair, id, "", "kept");
    pair.run(accept);
    pair.refuse(id, ReplyCode::PRECONDITION_FAILED, "no", PUBLISH);
    picky(&mut pair, PUBLISH);
    pair.refuse(id, ReplyCode::PRECONDITION_FAILED, "unknown delivery tag", ACK);
    pair.pass(Duration::from_secs(60));
    assert_eq!((given_up(&pair), pair.confirmed()), (vec![], vec![kept]));
}

#[test]
fn the_only_message_is_to_blame_for_the_third_close_without_a_cause() {
    let mut pair = Pair::new(reopening());
    let id = confirming(&mut pair);
    picky(&mut pair, (0, 0));
    let bad = keep(&mut pair, id, "", "bad");
    pair.run(accept);
    pair.pass(Duration::from_secs(60));
    assert_eq!((given_up(&pair), pair.closes), (vec![bad], 3));
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
        let mut pair = Pair::new(reopening());
        let id = confirming(&mut pair);
        pair.judge = Some(Box::new(move |published| {
            published.body.starts_with(b"bad").then(|| (code, text.into(), PUBLISH))
        }));
        let sent = messages.map(|(exchange, body)| (keep(&mut pair, id, exchange, body), body));
        pair.run(accept);
        pair.pass(Duration::from_secs(60));
        let of = |wanted: &str| -> Vec<u64> {
            sent.iter().filter(|(_, body)| *body == wanted).map(|(seq, _)| *seq).collect()
        };
        let mut confirmed = pair.confirmed();
        confirmed.sort_unstable();
        assert_eq!((given_up(&pair), confirmed), (of("bad"), of("good")), "{text} {messages:?}");
        assert!(pair.closes <= closes, "{}: {text} {messages:?}", pair.closes);
    }
}

#[test]
fn a_message_is_not_blamed_for_another_operation() {
    let mut pair = Pair::new(reopening());
    let id = confirming(&mut pair);
    let kept = keep(&mut pair, id, "", "kept");
    pair.run(accept);
    for _ in 0..10 {
        pair.refuse(id, ReplyCode::PRECONDITION_FAILED, "unknown delivery tag", ACK);
        pair.pass(Duration::from_secs(60));
    }
    assert_eq!(given_up(&pair), []);
    picky(&mut pair, PUBLISH);
    pair.refuse(id, ReplyCode::PRECONDITION_FAILED, "unknown delivery tag", ACK);
    pair.pass(Duration::from_secs(60));
    assert_eq!(pair.confirmed(), [kept]);
}

/// It is sent only when everything else is restored.
#[test]
fn a_message_is_not_blamed_for_closes_before_it_is_sent() {
    let mut pair = Pair::new(reopening());
    let id = confirming(&mut pair);
    for tag in ["a", "b", "c"] {
        let (queue, consumer_tag) = (short("q"), short(tag));
        let consume = BasicConsume { queue, consumer_tag, ..<_>::default() };
        pair.channel(id).request(consume).expect("it is sent");
    }
    let kept = keep(&mut pair, id, "", "kept");
    pair.run(accept);
    pair.cut();
    pair.reconnect(ServerConfig::default());
    let mut closes = 0;
    pair.run(|server, id, method| match method {
        Method::BasicConsume(_) => {
            closes += 1;
            let code = ReplyCode::INTERNAL_ERROR;
            // What comes behind the close is ignored.
            if let Ok(mut channel) = server.channel(id) {
                channel.close_over(code, "crashed", (0, 0));
            }
        }
        other => accept(server, id, other),
    });
    picky(&mut pair, PUBLISH);
    pair.pass(Duration::from_secs(60));
    assert!(closes > 3, "{closes}");
    assert_eq!(given_up(&pair), []);
    assert_eq!(pair.published, ["kept"]);
    pair.say(id, BasicAck { delivery_tag: 1, multiple: false });
    assert_eq!(pair.confirmed(), [kept]);
}

#[test]
fn a_channel_that_is_closed_again_and_again_is_opened_less_and_less_often() {
    let mut pair = Pair::new(reopening());
    pair.run(accept);
    let id = pair.open();
    let consume = BasicConsume { queue: short("q"), consumer_tag: short("c"), ..<_>::default() };
    let consumer = pair.channel(id).request(consume).expect("it is sent");
    pair.run(accept);
    let mut waits = Vec::new();
    for _ in 0..12 {
        pair.refuse(id, ReplyCode::INTERNAL_ERROR, "the queue has crashed", (0, 0));
        let before = pair.now;
        while pair.server.channel(id).is_err() {
            let (at, _) = pair.session.poll_timeout().expect("there is something to wait for");
            pair.pass(at - pair.now);
        }
        waits.push(pair.now - before);
        // Requests wait with it.
        assert!(pair.session.is_open());
    }
    assert_eq!(waits[0], Duration::ZERO, "once is no habit");
    let longest = Recovery::default().delay_max;
    for (number, wait) in waits.iter().enumerate().skip(1) {
        let full = (Duration::from_millis(100) * 2u32.pow(number as u32 - 1)).min(longest);
        assert!(*wait >= full / 2 && *wait <= full, "{number}: {waits:?}");
    }
    assert!(pair.failed_consumers().is_empty(), "{consumer:?} is there each time");
    // What stays open for long enough starts anew.
    pair.pass(2 * longest);
    pair.refuse(id, ReplyCode::INTERNAL_ERROR, "the queue has crashed", (0, 0));
    assert!(pair.server.channel(id).is_ok());
}

/// Whatever closes the channel can only do so a round trip after it is open, and that may be longer than the first pauses.
#[test]
fn reopening_a_channel_backs_off_however_distant_the_broker_is() {
    const ROUND_TRIP: Duration = Duration::from_millis(250);
    let mut recovery = Recovery::default();
    (recovery.retry_locked, recovery.seed) = (true, Some(7));
    let mut pair = Pair::new(recovery);
    pair.run(accept);
    let id = pair.open();
    let mine = QueueDeclare { exclusive: true, ..durable("mine") };
    pair.channel(id).request(mine).expect("it is sent");
    let (mut asked, end) = (0, pair.now + Duration::from_secs(60));
    while pair.now < end {
        let before = asked;
        pair.run(|server, id, method| match method {
            Method::QueueDeclare(_) => asked += 1,
            other => accept(server, id, other),
        });
        pair.now += ROUND_TRIP;
        pair.server.send_heartbeat();
        if asked > before {
            let cause = (QueueDeclare::CLASS_ID, QueueDeclare::METHOD_ID);
            let channel = &mut pair.server.channel(id).expect("it is open");
            channel.close_over(ReplyCode::RESOURCE_LOCKED, "it is another's", cause);
        }
        pair.session.handle_timeout(pair.now);
    }
    // Once in five seconds at last.
    assert!((10..=30).contains(&asked), "{asked}");
}

/// What it has was never all back, so it has not been open in between.
#[test]
fn a_channel_that_cannot_be_restored_is_reopened_with_backoff() {
    let mut pair = Pair::new(reopening());
    pair.run(accept);
    let (id, other) = (pair.open(), pair.open());
    pair.channel(other).request(durable("q")).expect("it is sent");
    pair.run(accept);
    pair.cut();
    pair.reconnect(ServerConfig::default());
    pair.run(accept);
    pair.pass(Duration::from_secs(60));
    pair.cut();
    pair.reconnect(ServerConfig::default());
    // The queue is never declared, so that nothing is asked for on the channel.
    pair.run(|_, _, _| {});
    let mut closes = 0;
    while let Ok(mut channel) = pair.server.channel(id) {
        channel.close_over(ReplyCode::INTERNAL_ERROR, "crashed", (0, 0));
        pair.run(|_, _, _| {});
        closes += 1;
        assert!(closes < 10, "it is opened again and again");
    }
}

/// A timer that has passed would be asked for again and again.
#[test]
fn a_channel_waiting_to_be_reopened_does_not_wake_a_closing_connection() {
    let mut pair = Pair::new(reopening());
    pair.run(accept);
    let id = pair.open();
    for _ in 0..2 {
        pair.refuse(id, ReplyCode::INTERNAL_ERROR, "crashed", (0, 0));
    }
    pair.session.close(pair.now, ReplyCode::REPLY_SUCCESS, "");
    pair.now += Duration::from_secs(1);
    pair.session.handle_timeout(pair.now);
    let timer = pair.session.poll_timeout();
    assert!(timer.is_none_or(|(at, _)| at > pair.now), "{timer:?}");
}

#[test]
fn a_channel_that_waits_to_be_opened_can_be_closed_and_lost() {
    let again = |pair: &mut Pair, id| {
        pair.refuse(id, ReplyCode::INTERNAL_ERROR, "crashed", (0, 0));
        pair.refuse(id, ReplyCode::INTERNAL_ERROR, "crashed", (0, 0));
        assert!(pair.server.channel(id).is_err());
    };
    let mut pair = Pair::new(reopening());
    pair.run(accept);
    let id = pair.open();
    again(&mut pair, id);
    // Its number stays its own.
    let other = pair.open();
    assert_ne!(id, other);
    pair.channel(id).close(ReplyCode::REPLY_SUCCESS, "");
    pair.pass(Duration::from_secs(60));
    assert!(pair.server.channel(id).is_err() && pair.session.channel(id).is_err());
    again(&mut pair, other);
    pair.cut();
    assert!(pair.session.poll_timeout().is_some());
    pair.reconnect(ServerConfig::default());
    pair.run(accept);
    assert!(pair.session.is_open() && pair.server.channel(other).is_ok());
    pair.pass(Duration::from_secs(60));
    assert_eq!(pair.session.channel_count(), 1);
}
