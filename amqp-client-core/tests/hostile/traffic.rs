//! What comes over an open connection.

use amqp_client_core::proto::frame::FrameKind;
use amqp_client_core::proto::method::{
    BasicAck, BasicDeliver, BasicGetOk, BasicNack, ChannelClose, ConnectionClose, ConnectionTune,
    Method, QueueDeclare, QueueDeclareOk, QueuePurgeOk, TxSelectOk,
};
use amqp_client_core::{CallError, ChannelEvent};

use crate::wire::{body, deliver, frame, header, headers, method, nested, plain_header, short};
use crate::{Blame, Victim, blame, now, peak};

/// What is sent, whose fault it is, and what the error says.
type Case = (&'static str, Vec<u8>, Blame, &'static str);

/// More than any of these may cost.
const MEMORY: u64 = 512 * 1024;

fn ack(delivery_tag: u64, multiple: bool) -> Method {
    BasicAck { delivery_tag, multiple }.into()
}

fn cases(tag: &amqp_client_core::proto::ShortStr) -> Vec<Case> {
    use Blame::{Nobody, Octets, Peer};
    let content = |size| [deliver(1, tag, 1), plain_header(1, size)].concat();
    let mut wrong_end = body(1, "x");
    *wrong_end.last_mut().expect("octets") = 0;
    let mut truncated = Vec::new();
    Method::from(BasicDeliver { consumer_tag: tag.clone(), ..<_>::default() })
        .encode(&mut truncated);
    truncated.truncate(truncated.len() - 3);
    let close = ConnectionClose {
        reply_code: 541,
        reply_text: short("INTERNAL_ERROR - gone mad"),
        ..<_>::default()
    };
    vec![
        ("a wrong frame end", wrong_end, Octets, "frame end"),
        ("a frame of no type", frame_of_type(9), Octets, "frame type 9"),
        ("a frame over frame_max", vec![3, 0, 1, 0xff, 0xff, 0xff, 0xff], Octets, "frame_max"),
        ("a method of no class", frame(FrameKind::Method, 1, vec![0, 99, 0, 1]), Octets, "99"),
        ("a method of no number", frame(FrameKind::Method, 1, vec![0, 60, 0, 99]), Octets, "99"),
        ("half a method", frame(FrameKind::Method, 1, truncated), Octets, "basic.deliver"),
        (
            "a string past the frame",
            frame(FrameKind::Method, 1, b"\0\x3c\0\x3c\xffab".to_vec()),
            Octets,
            "basic.deliver",
        ),
        (
            "half a content header",
            [deliver(1, tag, 1), frame(FrameKind::Header, 1, vec![0, 60])].concat(),
            Octets,
            "header",
        ),
        ("a header without a method", plain_header(1, 1), Peer, "header"),
        ("a body without a header", body(1, "x"), Peer, "body"),
        ("a body instead of a header", [deliver(1, tag, 1), body(1, "x")].concat(), Peer, "body"),
        ("a body that is too long", [content(3), body(1, "four")].concat(), Peer, "3 octets"),
        (
            "a method amid a body",
            [content(30), body(1, "x"), method(1, ack(1, false))].concat(),
            Peer,
            "method",
        ),
        ("a header amid a body", [content(30), plain_header(1, 1)].concat(), Peer, "header"),
        ("content on a channel that is not open", deliver(7, tag, 1), Peer, "channel 7"),
        ("a channel beyond channel_max", deliver(65_535, tag, 1), Peer, "channel 65535"),
        (
            "a delivery for nobody",
            [deliver(1, &short("nobody"), 1), plain_header(1, 0)].concat(),
            Peer,
            "unknown consumer",
        ),
        ("a delivery tag again", [content(0), content(0)].concat(), Peer, "delivery tag 1"),
        ("a confirm of nothing", method(1, ack(99, false)), Peer, "99"),
        ("a confirm of too much", method(1, ack(99, true)), Peer, "99"),
        (
            "a refusal of nothing",
            method(1, BasicNack { delivery_tag: 99, ..<_>::default() }),
            Peer,
            "99",
        ),
        ("a confirm of number 0", method(1, ack(0, false)), Peer, "0"),
        ("an answer to nothing", method(1, TxSelectOk {}), Peer, "tx.select-ok"),
        ("another answer", method(1, QueuePurgeOk::default()), Peer, "queue.purge-ok"),
        (
            "an answer too many",
            [method(1, QueueDeclareOk::default()), method(1, QueueDeclareOk::default())].concat(),
            Peer,
            "queue.declare-ok",
        ),
        ("a message that nobody got", method(1, BasicGetOk::default()), Peer, "basic.get-ok"),
        ("a request from the server", method(1, QueueDeclare::default()), Peer, "queue.declare"),
        (
            "a channel's method on channel 0",
            method(0, QueueDeclareOk::default()),
            Peer,
            "channel 0",
        ),
        ("a connection's method on a channel", method(1, close.clone()), Peer, "connection.close"),
        ("content on channel 0", plain_header(0, 1), Peer, "header"),
        ("tune once more", method(0, ConnectionTune::default()), Peer, "connection.tune"),
        ("a close amid content", [content(3), method(0, close)].concat(), Nobody, "gone mad"),
    ]
}

fn frame_of_type(kind: u8) -> Vec<u8> {
    vec![kind, 0, 0, 0, 0, 0, 0, 0xce]
}

#[test]
fn everything_ends_and_the_error_says_whose_fault_it_was() {
    for index in 0..cases(&short("")).len() {
        let mut victim = Victim::new();
        let (name, octets, fault, text) =
            cases(victim.consumer.tag()).into_iter().nth(index).expect("as many as before");
        // An answer that was owed is no longer, where the case begins with one.
        let answered = name == "an answer too many";
        let cost = peak(|| victim.rig.attack(&octets));
        let error = match answered {
            true => now(victim.rig.connection.closed()).expect("the connection is over"),
            false => victim.ended(),
        };
        assert_eq!(blame(&error), fault, "{name}: {error}");
        assert!(error.to_string().contains(text), "{name}: {error}");
        assert!(cost < MEMORY, "{name}: {cost} octets");
    }
}

#[test]
fn a_channel_that_is_closed_amid_content_takes_no_other_with_it() {
    let mut victim = Victim::new();
    let close = ChannelClose {
        reply_code: 406,
        reply_text: short("PRECONDITION_FAILED - enough"),
        ..<_>::default()
    };
    let tag = victim.consumer.tag().clone();
    let octets = [deliver(1, &tag, 1), plain_header(1, 100), method(1, close)].concat();
    victim.rig.attack(&octets);
    let error = now(victim.channel.closed()).expect("the channel is over");
    assert!(error.to_string().contains("enough"), "{error}");
    assert_eq!(
        now(&mut victim.declared).map(|r| r.map(|_| ())),
        Some(Err(CallError::Ended(error)))
    );
    assert!(victim.rig.connection.is_open());
}

/// Messages that cannot be taken in cost that message, and the application is told.
#[test]
fn a_message_that_is_unusable_costs_no_more_than_itself() {
    let deep = headers(&nested(10_000));
    let past_the_end = headers(b"\0\0\0\x09\x01sS\xff\xff\xff\xff!!");
    let too_large =
        || vec![plain_header(1, 129 << 20), body(1, vec![0; 129 << 10 >> 1]).repeat(1 << 11)];
    let cases: [(&str, Vec<Vec<u8>>); 3] = [
        ("a body over body_max", too_large()),
        ("headers 10,000 tables deep", vec![header(1, 1, &deep), body(1, "x")]),
        ("a string past the headers", vec![header(1, 1, &past_the_end), body(1, "x")]),
    ];
    for (name, content) in cases {
        let mut victim = Victim::new();
        let octets = [deliver(1, victim.consumer.tag(), 1), content.concat()].concat();
        let cost = peak(|| victim.rig.attack(&octets));
        assert!(cost < MEMORY, "{name}: {cost} octets");
        victim.endures();
        let event = now(victim.events.next()).flatten();
        assert!(matches!(event, Some(ChannelEvent::Unusable { .. })), "{name}: {event:?}");
    }
}

#[test]
fn a_body_that_is_too_large_to_ever_end_costs_nothing() {
    for size in [1 << 63, u64::MAX] {
        let mut victim = Victim::new();
        let octets = [deliver(1, victim.consumer.tag(), 1), plain_header(1, size)].concat();
        victim.rig.attack(&octets);
        let part = body(1, vec![0; 100_000]);
        let cost = peak(|| (0..1000).for_each(|_| victim.rig.attack(&part)));
        assert!(cost < MEMORY, "{size}: {cost} octets");
        victim.endures();
    }
}

#[test]
fn what_is_odd_but_legal_is_taken() {
    let mut victim = Victim::new();
    // A decimal of scale 255.
    let properties = headers(b"\0\0\0\x08\x01dD\xff\0\0\0\x01");
    let tag = victim.consumer.tag().clone();
    let octets = [deliver(1, &tag, 1), header(1, 0, &properties)].concat();
    victim.rig.attack(&octets);
    let delivery = now(victim.consumer.next()).flatten().expect("a delivery").expect("it is fine");
    assert!(delivery.properties().headers().expect("headers").get("d").is_some());
    victim.endures();
    // Confirms backwards, and once more.
    let publisher = victim.channel.default_exchange().publisher(<_>::default());
    let publisher = publisher.expect("the channel is open");
    let second = victim.rig.run(publisher.publish("q", "2")).expect("it is sent");
    let acks = [method(1, ack(2, false)), method(1, ack(1, false)), method(1, ack(2, true))];
    victim.rig.attack(&acks.concat());
    assert_eq!(now(second), Some(Ok(())));
    assert_eq!(now(&mut victim.confirmation), Some(Ok(())));
    victim.endures();
}
