//! The wire format compared with another implementation of it, amq-protocol.
//!
//! Bytes that the other one has written are the most telling: they have one form only, so this one has to read them and
//! write the very same. What this one has written, the other one has to read. Encoding and decoding could be wrong in the
//! same way, so the numbers and flags that both have read are compared, too.

use amq_protocol::frame::{GenError, WriteContext};
use amq_protocol::protocol::basic::{AMQPProperties, gen_properties, parse_properties};
use amq_protocol::protocol::{AMQPClass, gen_class, parse_class};
use amqp_proto::method::Method;
use amqp_proto::{Properties, RawProperties};
use bytes::Bytes;

/// Methods, both ways.
pub fn methods(data: &[u8]) {
    if let Ok((_, theirs)) = parse_class(data) {
        check_method(&theirs);
    }
    let Ok(ours) = Method::decode(&Bytes::copy_from_slice(data)) else { return };
    let mut bytes = Vec::new();
    ours.encode(&mut bytes);
    match parse_class(bytes.as_slice()) {
        Ok((rest, theirs)) => {
            assert!(rest.is_empty(), "they leave bytes of {ours:?}");
            assert_eq!(
                scalars(&format!("{ours:?}")),
                scalars(&format!("{theirs:?}")),
                "{ours:?}\n{theirs:?}"
            );
            check_method(&theirs);
        }
        // Theirs takes short strings in UTF-8 only.
        Err(error) => assert!(!bytes.is_ascii(), "they do not read {ours:?}: {error:?}"),
    }
}

fn check_method(theirs: &AMQPClass) {
    let Some(bytes) = written(|context| gen_class(theirs)(context)) else { return };
    let ours = Method::decode(&bytes);
    let ours = ours.unwrap_or_else(|error| panic!("what is wrong with {theirs:?}? {error}"));
    let mut again = Vec::new();
    ours.encode(&mut again);
    assert_eq!(bytes, again, "{theirs:?}\n{ours:?}");
    assert_eq!(
        scalars(&format!("{ours:?}")),
        scalars(&format!("{theirs:?}")),
        "{ours:?}\n{theirs:?}"
    );
}

/// Lists of properties, both ways.
pub fn properties(data: &[u8]) {
    if let Ok((_, theirs)) = parse_properties(data) {
        check_properties(&theirs);
    }
    let Ok(raw) = RawProperties::checked(Bytes::copy_from_slice(data)) else { return };
    let Ok(properties) = raw.decode() else { panic!("it was checked: {raw:?}") };
    let bytes = RawProperties::from(&properties);
    match parse_properties(bytes.as_encoded()) {
        Ok((_, theirs)) => check_properties(&theirs),
        Err(error) => {
            assert!(!bytes.as_encoded().is_ascii(), "they do not read {bytes:?}: {error:?}");
        }
    }
}

fn check_properties(theirs: &AMQPProperties) {
    let Some(bytes) = written(|context| gen_properties(theirs)(context)) else { return };
    let ours = Properties::decode(&bytes);
    let ours = ours.unwrap_or_else(|error| panic!("what is wrong with {theirs:?}? {error}"));
    assert_eq!(bytes, RawProperties::from(&ours).as_encoded(), "{theirs:?}\n{ours:?}");
    assert_eq!(ours.delivery_mode, *theirs.delivery_mode());
    assert_eq!(ours.priority, *theirs.priority());
    assert_eq!(ours.timestamp.map(|time| time.0), *theirs.timestamp());
    let texts = [
        (&ours.content_type, theirs.content_type()),
        (&ours.content_encoding, theirs.content_encoding()),
        (&ours.correlation_id, theirs.correlation_id()),
        (&ours.reply_to, theirs.reply_to()),
        (&ours.expiration, theirs.expiration()),
        (&ours.message_id, theirs.message_id()),
        (&ours.kind, theirs.kind()),
        (&ours.user_id, theirs.user_id()),
        (&ours.app_id, theirs.app_id()),
    ];
    for (ours, theirs) in texts {
        let ours = ours.as_ref().map(|text| text.as_bytes());
        assert_eq!(ours, theirs.as_ref().map(|text| text.as_str().as_bytes()));
    }
}

/// Returns the bytes that the other implementation writes, or `None` if it cannot write them.
fn written(
    write: impl FnOnce(WriteContext<Vec<u8>>) -> Result<WriteContext<Vec<u8>>, GenError>,
) -> Option<Bytes> {
    let (bytes, _) = write(Vec::new().into()).ok()?.into_inner();
    Some(bytes.into())
}

/// The flags and numbers of a method in the order of its fields, from its `Debug` output: both outputs name the fields, and
/// neither has quotes outside of strings.
fn scalars(text: &str) -> Vec<(String, String)> {
    let mut found = Vec::new();
    let mut outside = String::new();
    let mut quoted = false;
    let mut depth = 0;
    let mut escaped = false;
    for character in text.chars() {
        match character {
            _ if escaped => escaped = false,
            '\\' if quoted => escaped = true,
            '"' => quoted = !quoted,
            _ if quoted => {}
            '{' => depth += 1,
            '}' => depth -= 1,
            // Deeper are tables.
            _ if depth <= 1 => outside.push(character),
            _ => {}
        }
    }
    for field in outside.split([',', '(', ')', ' ']).collect::<Vec<_>>().windows(2) {
        let [name, value] = field else { continue };
        let value = value.trim();
        if name.ends_with(':')
            && (value == "true" || value == "false" || value.parse::<u64>().is_ok())
        {
            found.push((name.replace(['_', ':'], ""), value.to_owned()));
        }
    }
    // Fields that have no meaning, or none to RabbitMQ, are not decoded there.
    let kept =
        |name: &str| !name.starts_with("reserved") && name != "ticket" && name != "prefetchsize";
    found.retain(|(name, _)| kept(name));
    found
}

#[cfg(test)]
mod tests {
    use amqp_proto::fuzzing;

    use super::*;

    fn seeds(target: &str) -> Vec<Vec<u8>> {
        let folder = format!("{}/seeds/{target}", env!("CARGO_MANIFEST_DIR"));
        let entries = std::fs::read_dir(folder).expect("a folder of seeds");
        let seeds = entries.map(|entry| std::fs::read(entry.expect("a file").path()));
        let seeds: Vec<_> = seeds.collect::<Result<_, _>>().expect("files that can be read");
        assert!(!seeds.is_empty(), "{target} has no seeds");
        seeds
    }

    #[test]
    fn the_seeds_mean_the_same_to_both() {
        seeds("methods").iter().for_each(|seed| methods(seed));
        seeds("properties").iter().for_each(|seed| properties(seed));
    }

    /// Each target of amqp-proto that has seeds.
    const SEEDED: [(&str, fn(&[u8])); 8] = [
        ("contents", fuzzing::contents),
        ("frames", fuzzing::frames),
        ("methods", fuzzing::methods),
        ("properties", fuzzing::properties),
        ("uri", fuzzing::uri),
        ("client", fuzzing::client),
        ("server", fuzzing::server),
        ("session", fuzzing::session),
    ];

    #[test]
    fn the_targets_hold_for_the_seeds_and_for_each_with_a_byte_changed() {
        for (name, target) in SEEDED {
            for seed in seeds(name) {
                target(&seed);
                for index in 0..seed.len().min(500) {
                    let mut changed = seed.clone();
                    changed[index] ^= 1 << (index % 8);
                    target(&changed);
                }
            }
        }
    }

    #[test]
    fn numbers_and_flags_are_found_in_both_texts() {
        let ours = r#"Queue(Declare { ticket: 0, queue: "a: 1, \" b: 2", no_wait: true, arguments: {"x": 3}, count: 4 })"#;
        let theirs = r#"Queue(Declare { queue: ShortString("a: 1"), nowait: true, arguments: T({"x": Y(3)}), count: 4 })"#;
        let expected = [("nowait", "true"), ("count", "4")];
        let expected = expected.map(|(name, value)| (name.to_owned(), value.to_owned()));
        assert_eq!(scalars(ours), expected);
        assert_eq!(scalars(theirs), expected);
    }
}
