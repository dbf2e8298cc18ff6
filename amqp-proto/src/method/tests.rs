use std::collections::HashMap;

use bytes::Bytes;

use super::*;
use crate::wire::{FieldTable, LongStr, Secret, ShortStr};
use crate::{DecodeErrorKind, frame};

/// The properties of a method in the specification.
struct Fact<'a> {
    name: &'a str,
    id: (u16, u16),
    synchronous: bool,
    content: bool,
    replies: Vec<String>,
    arguments: Vec<(&'a str, &'a str)>,
}

fn facts() -> Vec<Fact<'static>> {
    let lines = include_str!("facts.txt").lines().filter(|line| !line.starts_with('#'));
    lines
        .map(|line| {
            let mut words = line.split(' ');
            let mut word = || words.next().unwrap();
            let name = word();
            let (class, method) = word().split_once(',').unwrap();
            let (synchronous, content, replies) = (word() == "s", word() == "c", word());
            let (class_name, _) = name.split_once('.').unwrap();
            let replies = replies.split('|').filter(|reply| *reply != "-");
            Fact {
                name,
                id: (class.parse().unwrap(), method.parse().unwrap()),
                synchronous,
                content,
                replies: replies.map(|reply| format!("{class_name}.{reply}")).collect(),
                arguments: words.map(|word| word.split_once(':').unwrap()).collect(),
            }
        })
        .collect()
}

/// The table's spelling of an argument: snake case, and other words for Rust's own.
fn spelling(method: &str, argument: &str, kind: &str) -> String {
    match (argument, kind) {
        ("type", _) => "kind".to_owned(),
        ("nowait", _) => "no_wait".to_owned(),
        // The access ticket of AMQP 0-8.
        ("reserved-1", "short") if method != "access.request-ok" => "ticket".to_owned(),
        _ => argument.replace('-', "_"),
    }
}

#[test]
fn the_table_matches_the_specification() {
    let facts = facts();
    assert_eq!((facts.len(), Method::ALL.len()), (66, 66));
    let ids: HashMap<_, _> = facts.iter().map(|fact| (fact.name, fact.id)).collect();
    for (row, fact) in Method::ALL.iter().zip(sorted(&facts)) {
        assert_eq!((row.name, row.id, row.content), (fact.name, fact.id, fact.content));
        let arguments: Vec<_> = fact
            .arguments
            .iter()
            .map(|(name, kind)| (spelling(fact.name, name, kind), *kind))
            .collect();
        let declared: Vec<_> =
            row.arguments.iter().map(|(name, kind)| ((*name).to_owned(), *kind)).collect();
        assert_eq!(declared, arguments, "{}", row.name);
        let replies: Vec<_> = fact.replies.iter().map(|reply| ids[&**reply]).collect();
        if row.name == "basic.recover" {
            // The specification omits this, but every broker replies with recover-ok.
            assert_eq!((&*replies, row.replies), (&[][..], &[(60, 111)][..]));
        } else {
            assert_eq!(row.replies, replies, "{}", row.name);
        }
    }
}

/// In the table's order, in which the queue methods stand by number.
fn sorted<'a>(facts: &'a [Fact<'static>]) -> impl Iterator<Item = &'a Fact<'static>> {
    Method::ALL.iter().map(|row| facts.iter().find(|fact| fact.name == row.name).unwrap())
}

#[test]
fn methods_are_synchronous_if_they_have_a_reply_or_are_one() {
    for fact in facts() {
        let row = Method::ALL.iter().find(|row| row.name == fact.name).unwrap();
        let answers = Method::ALL.iter().any(|other| other.replies.contains(&row.id));
        let synchronous = !row.replies.is_empty() || answers;
        // Exceptions: `channel.flow-ok`, which the specification calls asynchronous, and `basic.recover`, which has a reply.
        let exception = matches!(fact.name, "channel.flow-ok" | "basic.recover");
        assert_eq!(synchronous, fact.synchronous || exception, "{}", fact.name);
    }
}

#[test]
fn no_method_has_two_runs_of_bits() {
    for row in Method::ALL {
        let bits = row.arguments.iter().map(|(_, kind)| *kind == "bit");
        let runs =
            bits.fold((0, false), |(runs, before), bit| (runs + u32::from(bit && !before), bit));
        assert!(runs.0 <= 1, "{}", row.name);
    }
}

fn encoded(method: &Method) -> Bytes {
    let mut out = Vec::new();
    method.encode(&mut out);
    out.into()
}

/// A method of every kind, with arguments that differ from the defaults.
fn filled() -> Vec<Method> {
    Method::ALL.iter().map(fill).collect()
}

/// Fills a method by its declaration: every argument gets bytes of its type.
fn fill(row: &MethodFacts) -> Method {
    let mut out = Vec::new();
    out.extend_from_slice(&row.id.0.to_be_bytes());
    out.extend_from_slice(&row.id.1.to_be_bytes());
    let mut bits = None;
    for (index, (_, kind)) in row.arguments.iter().enumerate() {
        match *kind {
            "bit" => {
                let (at, mask) = *bits.get_or_insert((out.len(), 1u8));
                if mask == 1 {
                    out.push(0);
                }
                out[at] |= if index % 2 == 0 { mask } else { 0 };
                bits = Some((at, mask << 1));
            }
            "octet" => out.push(7),
            "short" => out.extend_from_slice(&[1, 2]),
            "long" => out.extend_from_slice(&[1, 2, 3, 4]),
            "longlong" => out.extend_from_slice(&[1, 2, 3, 4, 5, 6, 7, 8]),
            "shortstr" => out.extend_from_slice(b"\x03a\xffc"),
            "longstr" => out.extend_from_slice(b"\0\0\0\x02hi"),
            "table" => out.extend_from_slice(b"\0\0\0\x04\x01kt\x01"),
            other => panic!("{other}"),
        }
    }
    let method = Method::decode(&out.clone().into()).unwrap_or_else(|error| panic!("{error}"));
    assert_eq!(encoded(&method), out, "{}", row.name);
    method
}

#[test]
fn every_method_decodes_what_it_encodes() {
    for method in filled() {
        assert_eq!(Method::decode(&encoded(&method)), Ok(method.clone()));
    }
}

#[test]
fn a_method_that_is_cut_short_is_an_error_that_names_it() {
    for method in filled() {
        let whole = encoded(&method);
        let name = method.facts().name;
        for end in 4..whole.len() {
            let error = Method::decode(&whole.slice(..end)).expect_err(name);
            assert_eq!(error.kind(), DecodeErrorKind::Truncated, "{name} {end}");
            assert!(error.place().starts_with(name), "{error}");
        }
        for end in 0..4 {
            assert!(Method::decode(&whole.slice(..end)).is_err());
        }
    }
}

#[test]
fn bytes_behind_a_method_are_an_error() {
    for method in filled() {
        let mut out = Vec::new();
        method.encode(&mut out);
        out.extend_from_slice(b"xyz");
        let error = Method::decode(&out.into()).unwrap_err();
        assert_eq!(error.kind(), DecodeErrorKind::Trailing(3));
        assert_eq!(error.place(), method.facts().name);
    }
}

#[test]
fn unknown_methods_are_named_by_their_numbers() {
    for (class_id, method_id) in [(10, 99), (99, 10), (0, 0), (60, 81), (u16::MAX, u16::MAX)] {
        let payload = [class_id.to_be_bytes(), method_id.to_be_bytes()].concat();
        let error = Method::decode(&payload.into()).unwrap_err();
        assert_eq!(error.kind(), DecodeErrorKind::UnknownMethod { class_id, method_id });
    }
}

#[test]
fn secrets_are_not_shown() {
    let secret = || Secret::from("hunter2");
    let methods: [Method; 3] = [
        ConnectionStartOk { response: secret(), ..ConnectionStartOk::default() }.into(),
        ConnectionSecureOk { response: secret() }.into(),
        ConnectionUpdateSecret { new_secret: secret(), reason: ShortStr::EMPTY }.into(),
    ];
    for method in methods {
        let shown = format!("{method:?}");
        assert!(shown.contains("redacted") && !shown.contains("hunter2"), "{shown}");
    }
}

/// Worked out by hand from the specification: types in 4.2.5, frames in 4.2.3, methods in 1.x.
#[test]
fn methods_look_as_worked_out_by_hand() {
    let declare = QueueDeclare {
        queue: ShortStr::try_from("q1").unwrap(),
        durable: true,
        no_wait: true,
        arguments: FieldTable::new().with("x-max-length", 5).unwrap(),
        ..QueueDeclare::default()
    };
    let by_hand = b"\0\x32\0\x0a\
        \0\0\
        \x02q1\
        \x12\
        \0\0\0\x12\x0cx-max-lengthI\0\0\0\x05";
    assert_eq!(encoded(&declare.into())[..], by_hand[..]);

    let deliver = BasicDeliver {
        consumer_tag: ShortStr::try_from("t").unwrap(),
        delivery_tag: 0x0102,
        redelivered: true,
        exchange: ShortStr::try_from("ex").unwrap(),
        routing_key: ShortStr::try_from("key").unwrap(),
    };
    let by_hand = b"\0\x3c\0\x3c\x01t\0\0\0\0\0\0\x01\x02\x01\x02ex\x03key";
    assert_eq!(encoded(&deliver.into())[..], by_hand[..]);

    let start_ok = ConnectionStartOk {
        client_properties: FieldTable::new(),
        mechanism: ShortStr::try_from("PLAIN").unwrap(),
        response: Secret::from("\0guest\0guest"),
        locale: ShortStr::try_from("en_US").unwrap(),
    };
    let by_hand = b"\0\x0a\0\x0b\0\0\0\0\x05PLAIN\0\0\0\x0c\0guest\0guest\x05en_US";
    assert_eq!(encoded(&start_ok.into())[..], by_hand[..]);

    let start = ConnectionStart {
        version_minor: 9,
        mechanisms: LongStr::from("PLAIN"),
        locales: LongStr::from("en_US"),
        ..ConnectionStart::default()
    };
    let by_hand = b"\0\x0a\0\x0a\0\x09\0\0\0\0\0\0\0\x05PLAIN\0\0\0\x05en_US";
    assert_eq!(encoded(&start.into())[..], by_hand[..]);

    let tune = ConnectionTune { channel_max: 2047, frame_max: 131_072, heartbeat: 60 };
    assert_eq!(encoded(&tune.into())[..], b"\0\x0a\0\x1e\x07\xff\0\x02\0\0\0\x3c"[..]);
}

/// The first declared bit is the lowest (spec 4.2.5.2).
#[test]
fn each_bit_has_its_place() {
    let base = ExchangeDeclare::default;
    let bits = [
        (ExchangeDeclare { passive: true, ..base() }, 0b1),
        (ExchangeDeclare { durable: true, ..base() }, 0b10),
        (ExchangeDeclare { auto_delete: true, ..base() }, 0b100),
        (ExchangeDeclare { internal: true, ..base() }, 0b1000),
        (ExchangeDeclare { no_wait: true, ..base() }, 0b1_0000),
        (base(), 0),
    ];
    for (method, byte) in bits {
        // Behind the ids, the ticket and two empty names; before the empty table.
        let payload = encoded(&method.clone().into());
        assert_eq!(payload[8], byte, "{method:?}");
        assert_eq!(payload.len(), 13);
        assert_eq!(Method::decode(&payload), Ok(method.into()));
    }
}

#[test]
fn a_whole_frame_looks_as_worked_out_by_hand() {
    let mut out = Vec::new();
    let start = frame::begin(&mut out, frame::FrameKind::Method, 0x0102);
    ChannelCloseOk {}.encode(&mut out);
    frame::finish(&mut out, start);
    assert_eq!(out, b"\x01\x01\x02\0\0\0\x04\0\x14\0\x29\xce");
}
