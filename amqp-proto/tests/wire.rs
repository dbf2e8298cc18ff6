//! Field tables and properties: round trips, bytes worked out by hand, and hostile input.

use std::time::{Duration, SystemTime};

use amqp_proto::method::{BasicConsume, Method};
use amqp_proto::wire::MAX_TABLE_DEPTH;
use amqp_proto::{
    Decimal, DecodeErrorKind, FieldArray, FieldError, FieldTable, Properties, RawProperties,
    ShortStr, Timestamp, Value,
};
use bytes::Bytes;
use proptest::prelude::*;

/// Sends a table through a method and back.
fn through_the_wire(table: &FieldTable) -> FieldTable {
    let method = BasicConsume { arguments: table.clone(), ..BasicConsume::default() };
    let mut out = Vec::new();
    Method::from(method).encode(&mut out);
    match Method::decode(&out.into()).expect("what was encoded decodes") {
        Method::BasicConsume(method) => method.arguments,
        other => panic!("{other:?}"),
    }
}

/// Decodes the entries of a table, without the length before them.
fn decoded(entries: &[u8]) -> Result<FieldTable, DecodeErrorKind> {
    let length = u32::try_from(entries.len()).expect("small");
    // basic.consume with empty names and no bits.
    let head = b"\0\x3c\0\x14\0\0\0\0\0";
    let payload = [&head[..], &length.to_be_bytes(), entries].concat();
    match Method::decode(&payload.into()) {
        Ok(Method::BasicConsume(method)) => Ok(method.arguments),
        Ok(other) => panic!("{other:?}"),
        Err(error) => Err(error.kind()),
    }
}

#[test]
fn every_type_looks_as_worked_out_by_hand() {
    let inner = FieldTable::new().with("k", true).expect("fits");
    let array = FieldArray::from_values([Value::U8(1), Value::Void]).expect("fits");
    let values: [(Value, &[u8]); 18] = [
        (Value::Bool(true), b"t\x01"),
        (Value::I8(-2), b"b\xfe"),
        (Value::U8(254), b"B\xfe"),
        (Value::I16(-2), b"s\xff\xfe"),
        (Value::U16(258), b"u\x01\x02"),
        (Value::I32(-2), b"I\xff\xff\xff\xfe"),
        (Value::U32(1), b"i\0\0\0\x01"),
        (Value::I64(-2), b"l\xff\xff\xff\xff\xff\xff\xff\xfe"),
        (Value::F32(1.5), b"f\x3f\xc0\0\0"),
        (Value::F64(-2.0), b"d\xc0\0\0\0\0\0\0\0"),
        (Value::Decimal(Decimal { scale: 255, value: -1 }), b"D\xff\xff\xff\xff\xff"),
        (Value::from("hi"), b"S\0\0\0\x02hi"),
        (Value::from(FieldArray::new()), b"A\0\0\0\0"),
        (array.into(), b"A\0\0\0\x03B\x01V"),
        (Value::Timestamp(Timestamp(1)), b"T\0\0\0\0\0\0\0\x01"),
        (inner.into(), b"F\0\0\0\x04\x01kt\x01"),
        (Value::Void, b"V"),
        (Value::ByteArray(Bytes::from_static(b"\0\xff")), b"x\0\0\0\x02\0\xff"),
    ];
    for (value, by_hand) in values {
        let table = FieldTable::new().with("n", value.clone()).expect("fits");
        assert_eq!(table.as_encoded(), [&b"\x01n"[..], by_hand].concat(), "{value:?}");
        assert_eq!(decoded(table.as_encoded()), Ok(table.clone()));
        assert_eq!(table.get("n"), Some(value));
    }
}

/// The types that RabbitMQ's own parser reads (`rabbit_binary_parser:parse_table/1` and `parse_array/1`, the same in
/// 3.7 to 4.x), each with a value, and what the value means.
fn types_of_rabbitmq() -> [(&'static [u8], Value); 18] {
    let table = FieldTable::new().with("k", true).expect("fits");
    let array = FieldArray::from_values([Value::U8(1), Value::Void]).expect("fits");
    [
        (b"S\0\0\0\x02hi", Value::from("hi")),
        (b"T\0\0\0\0\0\0\0\x01", Value::Timestamp(Timestamp(1))),
        (b"b\xfe", Value::I8(-2)),
        (b"B\xfe", Value::U8(254)),
        (b"s\xff\xfe", Value::I16(-2)),
        (b"u\xff\xfe", Value::U16(65_534)),
        (b"I\xff\xff\xff\xfe", Value::I32(-2)),
        (b"i\xff\xff\xff\xfe", Value::U32(4_294_967_294)),
        (b"d\xc0\0\0\0\0\0\0\0", Value::F64(-2.0)),
        (b"f\x3f\xc0\0\0", Value::F32(1.5)),
        (b"l\xff\xff\xff\xff\xff\xff\xff\xfe", Value::I64(-2)),
        (b"L\xff\xff\xff\xff\xff\xff\xff\xfe", Value::I64(-2)),
        (b"t\x02", Value::Bool(true)),
        (b"D\x02\0\0\x01\0", Value::Decimal(Decimal { scale: 2, value: 256 })),
        (b"F\0\0\0\x04\x01kt\x01", table.into()),
        (b"A\0\0\0\x03B\x01V", array.into()),
        (b"x\0\0\0\x02\0\xff", Value::ByteArray(Bytes::from_static(b"\0\xff"))),
        (b"V", Value::Void),
    ]
}

/// `content` with its length before it.
fn sized(content: &[u8]) -> Vec<u8> {
    let length = u32::try_from(content.len()).expect("small");
    [&length.to_be_bytes(), content].concat()
}

#[test]
fn every_type_of_rabbitmq_is_read_wherever_a_value_can_stand() {
    for (encoded, value) in types_of_rabbitmq() {
        let entry = [b"\x01n", encoded].concat();
        let name = char::from(encoded[0]);
        // The arguments of a method.
        let table = decoded(&entry).unwrap_or_else(|error| panic!("{name}: {error}"));
        assert_eq!(table.get("n"), Some(value.clone()), "{name}");
        assert_eq!(table.iter().next().expect("an entry").1, value, "{name}");
        // The entry after it is found.
        let table = decoded(&[&entry[..], b"\x01mt\x01"].concat()).expect("two entries");
        assert_eq!(table.get("m"), Some(Value::Bool(true)), "{name}");
        // A table within a table, and an array.
        let table = decoded(&[b"\x01oF", &sized(&entry)[..]].concat()).expect("nested");
        let inner = table.get("o").expect("an entry");
        assert_eq!(
            inner.as_table().and_then(|inner| inner.get("n")),
            Some(value.clone()),
            "{name}"
        );
        let twice = sized(&[encoded, encoded].concat());
        let table = decoded(&[b"\x01oA", &twice[..]].concat()).expect("an array");
        let inner = table.get("o").expect("an entry");
        let values: Vec<_> = inner.as_array().expect("an array").iter().collect();
        assert_eq!(values, [value.clone(), value.clone()], "{name}");
        // The headers of a message.
        let list = [&b"\x20\0"[..], &sized(&entry)].concat();
        let headers = Properties::decode(&list.into()).expect("well-formed").headers;
        assert_eq!(headers.and_then(|headers| headers.get("n")), Some(value.clone()), "{name}");
        // Written again, it is something that RabbitMQ reads, too.
        let written = FieldTable::new().with("n", value.clone()).expect("fits");
        assert_eq!(decoded(written.as_encoded()).expect("decodes").get("n"), Some(value), "{name}");
    }
}

#[test]
fn types_that_rabbitmq_does_not_read_are_unknown() {
    let known: Vec<_> = types_of_rabbitmq().iter().map(|(encoded, _)| encoded[0]).collect();
    for kind in (0..=u8::MAX).filter(|kind| !known.contains(kind)) {
        let entry = [&[1, b'n', kind][..], &[0; 16]].concat();
        assert_eq!(decoded(&entry), Err(DecodeErrorKind::UnknownFieldType(kind)));
    }
}

#[test]
fn tables_can_be_changed() {
    let mut table = FieldTable::new();
    assert!(table.is_empty());
    for (name, value) in [("a", 1), ("b", 2), ("c", 3)] {
        table.insert(name, value).expect("fits");
    }
    table.insert("b", "two").expect("fits");
    assert_eq!(table.len(), 3);
    assert_eq!(table.get("b"), Some(Value::from("two")));
    assert_eq!(table.remove("a"), Some(Value::I32(1)));
    assert_eq!(table.remove("a"), None);
    assert_eq!(table.get("a"), None);
    let names: Vec<_> = table.iter().map(|(name, _)| name.to_string()).collect();
    assert_eq!(names, ["c", "b"]);
    assert_eq!(format!("{table:?}"), r#"{"c": I32(3), "b": LongStr("two")}"#);
}

#[test]
fn a_name_that_is_too_long_leaves_the_table_as_it_was() {
    let mut table = FieldTable::new().with("a", 1).expect("fits");
    let error = table.insert("x".repeat(256), 1).expect_err("too long");
    assert!(matches!(error, FieldError::Name(error) if error.length == 256));
    table.insert("x".repeat(255), 1).expect("fits");
    assert_eq!(table.len(), 2);
}

#[test]
fn numbers_that_rabbitmq_cannot_read_are_refused() {
    let with = |value: Value| FieldTable::new().with("n", value);
    for value in [f64::NAN, f64::INFINITY, f64::NEG_INFINITY] {
        assert_eq!(with(value.into()), Err(FieldError::NotFinite));
        #[expect(clippy::cast_possible_truncation, reason = "there is nothing to cut off")]
        let short = value as f32;
        assert_eq!(with(short.into()), Err(FieldError::NotFinite));
        assert_eq!(FieldArray::from_values([value]), Err(FieldError::NotFinite));
        assert_eq!(FieldArray::new().push(value), Err(FieldError::NotFinite));
        // Other brokers may send them.
        let entry = [&b"\x01nd"[..], &value.to_be_bytes()].concat();
        let read = decoded(&entry).expect("well-formed").get("n").and_then(|value| value.as_f64());
        assert_eq!(read.map(f64::to_bits), Some(value.to_bits()));
    }
    assert!(with(f64::MAX.into()).is_ok() && with(f64::MIN_POSITIVE.into()).is_ok());
}

/// A table within a table, `depth` levels in all.
fn nested(depth: usize) -> Vec<u8> {
    (1..depth).fold(b"\x01nV".to_vec(), |inner, _| {
        let length = u32::try_from(inner.len()).expect("small");
        [&b"\x01nF"[..], &length.to_be_bytes(), &inner].concat()
    })
}

#[test]
fn tables_nest_up_to_the_limit() {
    assert!(decoded(&nested(MAX_TABLE_DEPTH)).is_ok());
    assert_eq!(decoded(&nested(MAX_TABLE_DEPTH + 1)), Err(DecodeErrorKind::TooDeep));
    assert_eq!(decoded(&nested(10_000)), Err(DecodeErrorKind::TooDeep));
    let mut table = FieldTable::new();
    for depth in 1..MAX_TABLE_DEPTH {
        table = FieldTable::new().with("n", table).unwrap_or_else(|_| panic!("{depth} levels"));
    }
    assert_eq!(decoded(table.as_encoded()), Ok(table.clone()));
    let error = FieldTable::new().with("n", table).expect_err("one level too many");
    assert_eq!(error, FieldError::TooDeep);
}

#[test]
fn malformed_tables_are_refused() {
    for (entries, error) in [
        (&b"\x01nZ"[..], DecodeErrorKind::UnknownFieldType(b'Z')),
        (b"\x01n", DecodeErrorKind::Truncated),
        (b"\x05n", DecodeErrorKind::Truncated),
        (b"\x01nI\0\0\0", DecodeErrorKind::Truncated),
        (b"\x01nS\xff\xff\xff\xffhi", DecodeErrorKind::Truncated),
        (b"\x01nF\0\0\0\x02\x01k", DecodeErrorKind::Truncated),
        (b"\x01nA\0\0\0\x01Q", DecodeErrorKind::UnknownFieldType(b'Q')),
    ] {
        assert_eq!(decoded(entries), Err(error), "{entries:?}");
    }
}

#[test]
fn decimals_read_like_numbers() {
    for (scale, value, text) in [
        (0, 42, "42"),
        (2, 314, "3.14"),
        (2, -5, "-0.05"),
        (3, 0, "0.000"),
        (0, i32::MIN, "-2147483648"),
    ] {
        assert_eq!(Decimal { scale, value }.to_string(), text);
    }
    assert_eq!(Decimal { scale: 255, value: i32::MIN }.to_string().len(), 1 + 1 + 1 + 255);
}

#[test]
fn times_before_the_epoch_and_far_away_are_no_trouble() {
    let epoch = SystemTime::UNIX_EPOCH;
    let before = epoch.checked_sub(Duration::from_secs(5)).expect("a time");
    assert_eq!(Timestamp::from(before), Timestamp(0));
    assert_eq!(Timestamp(5).to_system_time(), Some(epoch + Duration::from_secs(5)));
    let _maybe = Timestamp(u64::MAX).to_system_time();
    assert_eq!(Value::try_from(7u64), Ok(Value::I64(7)));
    assert!(Value::try_from(u64::MAX).is_err());
}

fn text(text: &str) -> Option<ShortStr> {
    Some(ShortStr::try_from(text).expect("short"))
}

/// Each property on its own: flags and value by hand (spec 4.2.6.1; the first property has the highest bit).
#[test]
fn every_property_looks_as_worked_out_by_hand() {
    let none = Properties::default;
    let headers = FieldTable::new().with("k", true).expect("fits");
    let cases: [(Properties, &[u8]); 15] = [
        (none(), b"\0\0"),
        (Properties { content_type: text("a"), ..none() }, b"\x80\0\x01a"),
        (Properties { content_encoding: text("a"), ..none() }, b"\x40\0\x01a"),
        (Properties { headers: Some(headers), ..none() }, b"\x20\0\0\0\0\x04\x01kt\x01"),
        (Properties { delivery_mode: Some(2), ..none() }, b"\x10\0\x02"),
        (Properties { priority: Some(9), ..none() }, b"\x08\0\x09"),
        (Properties { correlation_id: text("a"), ..none() }, b"\x04\0\x01a"),
        (Properties { reply_to: text("a"), ..none() }, b"\x02\0\x01a"),
        (Properties { expiration: text("60"), ..none() }, b"\x01\0\x0260"),
        (Properties { message_id: text("a"), ..none() }, b"\0\x80\x01a"),
        (Properties { timestamp: Some(Timestamp(1)), ..none() }, b"\0\x40\0\0\0\0\0\0\0\x01"),
        (Properties { kind: text("a"), ..none() }, b"\0\x20\x01a"),
        (Properties { user_id: text("a"), ..none() }, b"\0\x10\x01a"),
        (Properties { app_id: text("a"), ..none() }, b"\0\x08\x01a"),
        (Properties { cluster_id: text("a"), ..none() }, b"\0\x04\x01a"),
    ];
    for (properties, by_hand) in cases {
        let raw = RawProperties::from(&properties);
        assert_eq!(raw.as_encoded(), by_hand);
        assert_eq!(Properties::decode(&Bytes::copy_from_slice(by_hand)), Ok(properties));
    }
}

/// The properties that the bits of `flags` select, each with a value of its own.
fn selected(flags: u16) -> Properties {
    let given = |bit: u16, value: &str| (flags & 1 << bit != 0).then(|| text(value)).flatten();
    Properties {
        content_type: given(0, "type"),
        content_encoding: given(1, "encoding"),
        headers: (flags & 1 << 2 != 0).then(FieldTable::new),
        delivery_mode: (flags & 1 << 3 != 0).then_some(2),
        priority: (flags & 1 << 4 != 0).then_some(5),
        correlation_id: given(5, "correlation"),
        reply_to: given(6, ""),
        expiration: given(7, "60000"),
        message_id: given(8, "id"),
        timestamp: (flags & 1 << 9 != 0).then_some(Timestamp(1)),
        kind: given(10, "kind"),
        user_id: given(11, "user"),
        app_id: given(12, "app"),
        cluster_id: given(13, "cluster"),
    }
}

#[test]
fn every_combination_of_properties_survives_a_round_trip() {
    for flags in 0..1u16 << 14 {
        let properties = selected(flags);
        let raw = RawProperties::from(&properties);
        let encoded = Bytes::copy_from_slice(raw.as_encoded());
        assert_eq!(Properties::decode(&encoded), Ok(properties.clone()));
        // One by one as well as all together.
        assert_eq!(raw.message_id(), Ok(properties.message_id));
        assert_eq!(raw.cluster_id(), Ok(properties.cluster_id));
        assert_eq!(raw.headers(), Ok(properties.headers));
    }
}

#[test]
fn further_words_of_flags_are_accepted_if_they_are_empty() {
    let decode = |encoded: &'static [u8]| Properties::decode(&Bytes::from_static(encoded));
    let mode = Properties { delivery_mode: Some(2), ..Properties::default() };
    assert_eq!(decode(b"\x10\x01\0\0\x02"), Ok(mode.clone()));
    assert_eq!(decode(b"\x10\x01\0\x01\0\0\x02"), Ok(mode));
    for unknown in [&b"\x10\x01\x80\0\x02"[..], b"\0\x02", b"\0\x01\0\x02"] {
        let error = decode(unknown).expect_err("unknown properties");
        assert!(matches!(error.kind(), DecodeErrorKind::UnknownProperty(_)), "{error}");
    }
    for short in [&b""[..], b"\0", b"\0\x01", b"\x80\0", b"\x80\0\x05a", b"\x20\0\0\0\0\x09"] {
        let error = decode(short).expect_err("cut short");
        assert_eq!(error.kind(), DecodeErrorKind::Truncated, "{short:?}");
    }
    assert_eq!(decode(b"\0\0x").expect_err("more").kind(), DecodeErrorKind::Trailing(1));
}

fn any_value() -> impl Strategy<Value = Value> {
    let leaf = prop_oneof![
        any::<bool>().prop_map(Value::Bool),
        any::<i8>().prop_map(Value::I8),
        any::<u8>().prop_map(Value::U8),
        any::<i16>().prop_map(Value::I16),
        any::<u16>().prop_map(Value::U16),
        any::<i32>().prop_map(Value::I32),
        any::<u32>().prop_map(Value::U32),
        any::<i64>().prop_map(Value::I64),
        any::<i16>().prop_map(|value| Value::F32(value.into())),
        any::<i32>().prop_map(|value| Value::F64(value.into())),
        (any::<u8>(), any::<i32>())
            .prop_map(|(scale, value)| Value::Decimal(Decimal { scale, value })),
        any::<u64>().prop_map(|seconds| Value::Timestamp(Timestamp(seconds))),
        Just(Value::Void),
        ".{0,20}".prop_map(Value::from),
        proptest::collection::vec(any::<u8>(), 0..20).prop_map(Value::from),
    ];
    leaf.prop_recursive(4, 64, 6, |inner| {
        let array = proptest::collection::vec(inner.clone(), 0..6)
            .prop_map(|values| FieldArray::from_values(values).expect("fits").into());
        let table = proptest::collection::vec(("[a-z]{1,9}", inner), 0..6)
            .prop_map(|entries| table_of(entries).into());
        prop_oneof![array, table]
    })
}

fn table_of(entries: Vec<(String, Value)>) -> FieldTable {
    entries
        .into_iter()
        .fold(FieldTable::new(), |table, (name, value)| table.with(&name, value).expect("fits"))
}

proptest! {
    #[test]
    fn a_table_of_entries_holds_what_inserting_them_leaves(
        first in proptest::collection::vec(("[a-c]{0,2}", any::<i32>()), 0..12),
        then in proptest::collection::vec(("[a-c]{0,2}", ".{0,5}"), 0..12),
    ) {
        let mut inserted = FieldTable::new();
        for (name, value) in &first {
            inserted.insert(name, *value).expect("fits");
        }
        let mut table = FieldTable::from_entries(first).expect("fits");
        prop_assert_eq!(&table, &inserted);
        for (name, value) in &then {
            inserted.insert(name, value.as_str()).expect("fits");
        }
        table.extend(then).expect("fits");
        prop_assert_eq!(&table, &inserted);
        let too_long = "x".repeat(256);
        prop_assert!(table.extend([("a", 1), (&too_long, 2)]).is_err());
        prop_assert_eq!(&table, &inserted);
        let mut pushed = FieldArray::new();
        let values: Vec<_> = inserted.iter().map(|(_, value)| value).collect();
        for value in values.clone() {
            let before = pushed.clone();
            pushed.push(value).expect("fits");
            prop_assert_eq!(pushed.len(), before.len() + 1);
        }
        prop_assert_eq!(pushed, FieldArray::from_values(values).expect("fits"));
    }

    #[test]
    fn any_table_survives_a_round_trip(entries in proptest::collection::vec((".{0,30}", any_value()), 0..12)) {
        let table = table_of(entries.clone());
        prop_assert_eq!(&through_the_wire(&table), &table);
        for (name, _) in &entries {
            let last = entries.iter().rev().find(|(other, _)| other == name);
            prop_assert_eq!(table.get(name), last.map(|(_, value)| value.clone()));
        }
        // An array returns its values, too.
        let values: Vec<_> = entries.into_iter().map(|(_, value)| value).collect();
        let array = FieldArray::from_values(values.clone()).expect("fits");
        prop_assert_eq!(array.iter().collect::<Vec<_>>(), values);
    }

    #[test]
    fn any_bytes_make_a_short_string_up_to_255(
        bytes in proptest::collection::vec(any::<u8>(), 0..300),
    ) {
        match ShortStr::try_from(&bytes[..]) {
            Ok(short) => {
                prop_assert!(bytes.len() <= 255);
                prop_assert_eq!(short.as_bytes(), &bytes[..]);
                prop_assert_eq!(short.to_str().is_ok(), std::str::from_utf8(&bytes).is_ok());
            }
            Err(error) => prop_assert_eq!((error.length, bytes.len() > 255), (bytes.len(), true)),
        }
    }

    #[test]
    fn noise_never_panics(
        mut bytes in proptest::collection::vec(any::<u8>(), 0..200),
        class in 0usize..8,
    ) {
        let _any = Method::decode(&Bytes::from(bytes.clone()));
        let _any = Properties::decode(&Bytes::from(bytes.clone()));
        let _any = decoded(&bytes);
        // Noise that starts like a method gets further.
        if bytes.len() >= 4 {
            bytes[0] = 0;
            bytes[1] = [10u8, 20, 30, 40, 50, 60, 85, 90][class];
            bytes[2] = 0;
            bytes[3] = bytes[3] % 13 * 10;
            if let Ok(method) = Method::decode(&Bytes::from(bytes)) {
                let _shown = format!("{method:?}");
            }
        }
    }
}
