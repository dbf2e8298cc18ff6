//! Protocol violations end the connection at once. The server and every pending call get the reason.

use amqp_client_core::Config;
use amqp_client_core::proto::method::{
    AccessRequestOk, BasicAck, BasicDeliver, BasicGetOk, BasicNack, ChannelCloseOk, ChannelOpenOk,
    ConnectionBlocked, ConnectionCloseOk, ConnectionOpenOk, ConnectionTune, ExchangeDeclareOk,
    Method, QueueDeclare, QueueDeclareOk,
};
use amqp_client_core::proto::{ChannelId, ConnectionError, DecodeErrorKind, ReplyCode, Violation};

use crate::scene::{Scene, peak};
use crate::wire::{
    BODY, HEADER, HEARTBEAT, METHOD, body, deliver, deliver_to, frame, header, header_on, message,
    method, start, tune,
};

/// Memory that the client may need for any of these, in addition to its read buffer.
const BOUND: u64 = 8 * 1024;

/// The memory that a violation costs, whatever sizes it announces.
struct Row {
    name: &'static str,
    sends: Vec<u8>,
    says: Says,
    reply_code: ReplyCode,
}

/// An error by cause.
#[derive(Debug, PartialEq)]
enum Says {
    Decode(DecodeErrorKind),
    Violation(Violation),
}

fn says(error: &ConnectionError) -> Says {
    match error {
        ConnectionError::Decode(error) => Says::Decode(error.kind()),
        ConnectionError::Violation(violation) => Says::Violation(*violation),
        other => panic!("{other:?}"),
    }
}

/// Bytes that are no frames, or no methods.
fn broken_bytes() -> Vec<Row> {
    let row =
        |name, sends, kind, reply_code| Row { name, sends, says: Says::Decode(kind), reply_code };
    let broken = |name, sends, kind| row(name, sends, kind, ReplyCode::FRAME_ERROR);
    let invalid = |name, sends, kind| row(name, sends, kind, ReplyCode::SYNTAX_ERROR);
    let too_large = |size| DecodeErrorKind::FrameTooLarge { size, max: 131_072 };
    let wrong_end = [&frame(BODY, 1, b"x")[..8], b"\0"].concat();
    let unknown = |class_id, method_id| DecodeErrorKind::UnknownMethod { class_id, method_id };
    let payload = |bytes: &[u8]| frame(METHOD, 1, bytes);
    vec![
        broken("wrong frame end", wrong_end, DecodeErrorKind::FrameEnd(0)),
        broken("frame type 7", frame(7, 0, b""), DecodeErrorKind::UnknownFrameType(7)),
        broken("frame_max and one byte", b"\x03\0\x01\0\x01\xff\xf9".to_vec(), too_large(131_073)),
        broken(
            "a frame of 4 GiB",
            b"\x03\0\x01\xff\xff\xff\xff".to_vec(),
            too_large((1 << 32) + 7),
        ),
        row(
            "unknown method",
            payload(b"\0\x3c\0\x63"),
            unknown(60, 99),
            ReplyCode::COMMAND_INVALID,
        ),
        row("unknown class", payload(b"\0\x63\0\x0a"), unknown(99, 10), ReplyCode::COMMAND_INVALID),
        row("class 0", frame(METHOD, 0, &[0; 4]), unknown(0, 0), ReplyCode::COMMAND_INVALID),
        invalid("no ids", payload(b""), DecodeErrorKind::Truncated),
        invalid("half of the ids", payload(b"\0\x3c\0"), DecodeErrorKind::Truncated),
        invalid(
            "a string past the frame",
            payload(b"\0\x3c\0\x3c\xfft"),
            DecodeErrorKind::Truncated,
        ),
        invalid("a string past a reply", payload(b"\0\x32\0\x0b\xffq"), DecodeErrorKind::Truncated),
        invalid(
            "bytes behind the last field",
            payload(b"\0\x14\0\x29??"),
            DecodeErrorKind::Trailing(2),
        ),
        invalid(
            "a string past a blocked reason",
            frame(METHOD, 0, b"\0\x0a\0\x3c\x09low"),
            DecodeErrorKind::Truncated,
        ),
        invalid(
            "half a content header",
            [deliver(1), frame(HEADER, 1, b"\0\x3c\0\0\0")].concat(),
            DecodeErrorKind::Truncated,
        ),
        invalid(
            "a content header of another class",
            [deliver(1), frame(HEADER, 1, &[0, 50, 0, 0, 0, 0, 0, 0, 0, 0, 0, 1, 0, 0])].concat(),
            DecodeErrorKind::UnknownContentClass(50),
        ),
    ]
}

/// Content whose parts do not belong together.
fn broken_content() -> Vec<Row> {
    let unexpected = |name, parts: &[Vec<u8>], kind, expected| Row {
        name,
        sends: parts.concat(),
        says: Says::Violation(Violation::UnexpectedFrame { kind, expected }),
        reply_code: ReplyCode::UNEXPECTED_FRAME,
    };
    let too_long = |name, parts: &[Vec<u8>], announced| Row {
        name,
        sends: parts.concat(),
        says: Says::Violation(Violation::BodyTooLong { announced }),
        reply_code: ReplyCode::FRAME_ERROR,
    };
    let a_method = "a method frame";
    vec![
        too_long("a body longer than announced", &[deliver(1), header(3), body(b"four")], 3),
        too_long(
            "a second frame of body too many",
            &[deliver(1), header(3), body(b"12"), body(b"34")],
            3,
        ),
        unexpected(
            "a body behind an empty one",
            &[deliver(1), header(0), body(b"x")],
            "body",
            a_method,
        ),
        unexpected(
            "a body shorter than announced, then a delivery",
            &[deliver(1), header(9), body(b"short"), deliver(2)],
            "method",
            "a body frame",
        ),
        unexpected(
            "a body shorter than announced, then a header",
            &[deliver(1), header(9), body(b"short"), header(9)],
            "content header",
            "a body frame",
        ),
        unexpected("a content header without method", &[header(5)], "content header", a_method),
        unexpected("a body without anything", &[body(b"x")], "body", a_method),
        unexpected("a body without header", &[deliver(1), body(b"x")], "body", "a content header"),
        unexpected(
            "a method instead of a header",
            &[deliver(1), deliver(2)],
            "method",
            "a content header",
        ),
        unexpected(
            "a body on channel 0",
            &[frame(BODY, 0, b"x")],
            "body",
            "a method frame on channel 0",
        ),
        unexpected(
            "a content header on channel 0",
            &[header_on(0, 1, &[0, 0])],
            "content header",
            "a method frame on channel 0",
        ),
    ]
}

/// Channels that are not there, and methods on the wrong one.
fn wrong_channels() -> Vec<Row> {
    let not_open = |name, sends, channel| Row {
        name,
        sends,
        says: Says::Violation(Violation::ChannelNotOpen { channel }),
        reply_code: ReplyCode::CHANNEL_ERROR,
    };
    let misplaced = |name, sends, method, channel| Row {
        name,
        sends,
        says: Says::Violation(Violation::WrongChannel { method, channel }),
        reply_code: ReplyCode::COMMAND_INVALID,
    };
    let declared = |channel| method(channel, QueueDeclareOk::default());
    let blocked = method(1, ConnectionBlocked::default());
    let delivered = method(0, BasicDeliver::default());
    vec![
        not_open("a method on a channel that was never open", declared(3), 3),
        not_open("a method above channel_max", declared(2048), 2048),
        not_open("a method on the highest channel", declared(u16::MAX), u16::MAX),
        not_open("a delivery on a channel that was never open", deliver_to(3, "t", 1), 3),
        not_open("a content header on such a channel", header_on(9, 5, &[0, 0]), 9),
        not_open("a body on such a channel", frame(BODY, 9, b"x"), 9),
        misplaced("queue.declare-ok on channel 0", declared(0), "queue.declare-ok", 0),
        misplaced("basic.deliver on channel 0", delivered, "basic.deliver", 0),
        misplaced("connection.blocked on channel 1", blocked, "connection.blocked", 1),
        misplaced(
            "connection.tune on channel 1",
            method(1, ConnectionTune::default()),
            "connection.tune",
            1,
        ),
        misplaced(
            "connection.close-ok on channel 1",
            method(1, ConnectionCloseOk {}),
            "connection.close-ok",
            1,
        ),
    ]
}

/// Methods that nobody asked for, or that only clients send.
fn methods_out_of_place() -> Vec<Row> {
    let row = |name, sends, method| Row {
        name,
        sends,
        says: Says::Violation(Violation::UnexpectedMethod { method }),
        reply_code: ReplyCode::COMMAND_INVALID,
    };
    let on_one = |name: &'static str, value: Method| row(name, method(1, value), name);
    vec![
        on_one("queue.declare-ok", QueueDeclareOk::default().into()),
        on_one("exchange.declare-ok", ExchangeDeclareOk::default().into()),
        on_one("basic.get-ok", BasicGetOk::default().into()),
        on_one("access.request-ok", AccessRequestOk::default().into()),
        on_one("channel.open-ok", ChannelOpenOk::default().into()),
        on_one("channel.close-ok", ChannelCloseOk {}.into()),
        on_one("queue.declare", QueueDeclare::default().into()),
        row("a second start", start(), "connection.start"),
        row("a second tune", tune(1, 4096, 1), "connection.tune"),
        row("a second open-ok", method(0, ConnectionOpenOk::default()), "connection.open-ok"),
        row("close-ok without close", method(0, ConnectionCloseOk {}), "connection.close-ok"),
    ]
}

/// Numbers that cannot be. One message was published, and none delivered.
fn wrong_numbers(channel: ChannelId) -> Vec<Row> {
    let row = |name, sends, violation| Row {
        name,
        sends,
        says: Says::Violation(violation),
        reply_code: ReplyCode::NOT_ALLOWED,
    };
    let confirm = |name, sends, tag| row(name, sends, Violation::UnknownPublish { channel, tag });
    let ack = |delivery_tag, multiple| method(1, BasicAck { delivery_tag, multiple });
    let nack = |delivery_tag, multiple| {
        method(1, BasicNack { delivery_tag, multiple, ..BasicNack::default() })
    };
    let delivery = |name, sends, tag| row(name, sends, Violation::BadDeliveryTag { channel, tag });
    let stranger = Violation::UnknownConsumer { channel };
    vec![
        confirm("ack of publish 2", ack(2, false), 2),
        confirm("ack of publish 0", ack(0, false), 0),
        confirm("ack of everything up to 2", ack(2, true), 2),
        confirm("ack of everything up to the last number", ack(u64::MAX, true), u64::MAX),
        confirm("nack of publish 2", nack(2, false), 2),
        confirm("nack of publish 0", nack(0, false), 0),
        confirm("nack of everything up to the last number", nack(u64::MAX, true), u64::MAX),
        row("a delivery for an unknown consumer", deliver_to(1, "stranger", 1), stranger),
        row("a delivery for nobody", deliver_to(1, "", 1), stranger),
        delivery("the same delivery twice", [message(1, b"a"), message(1, b"a")].concat(), 1),
        delivery("deliveries backwards", [message(7, b"a"), message(3, b"b")].concat(), 3),
        delivery("a number that no server gets to", message(u64::MAX, b"a"), u64::MAX),
        delivery("deliveries that start anew", [message(1, b"a"), message(0, b"b")].concat(), 0),
    ]
}

#[test]
fn a_violation_ends_everything_for_a_reason_and_costs_next_to_nothing() {
    let id = Scene::open(Config::default()).channel(1).id();
    let tables = [
        broken_bytes(),
        broken_content(),
        wrong_channels(),
        methods_out_of_place(),
        wrong_numbers(id),
    ];
    let mut peaks = Vec::new();
    for row in tables.into_iter().flatten() {
        // However its bytes are cut, it is the same.
        for size in [64 * 1024, 1] {
            peaks.push((row.name, row.assert(size)));
        }
    }
    let most = peaks.iter().max_by_key(|(_, peak)| *peak).expect("rows");
    assert!(most.1 < BOUND, "{most:?}");
}

impl Row {
    /// The peak of memory.
    fn assert(&self, size: usize) -> u64 {
        let name = self.name;
        let mut scene = Scene::open(Config::default());
        let application = scene.application();
        let peak = peak(|| {
            scene.feed_by(size, &self.sends);
        });
        let error = crate::scene::now(scene.connection.closed());
        assert_eq!(says(&error), self.says, "{name}");
        application.assert_over(&error);
        let Some(Method::ConnectionClose(close)) = scene.methods().pop() else {
            panic!("{name}: the server receives no reason")
        };
        assert_eq!(ReplyCode(close.reply_code), self.reply_code, "{name}");
        // Nothing more is taken, and nothing is left to do.
        assert_eq!(scene.feed(&frame(HEARTBEAT, 0, b"")), 0, "{name}");
        assert!(scene.turn().is_done(), "{name}");
        peak
    }
}
