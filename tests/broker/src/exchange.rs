use amqp_proto::{FieldTable, RawProperties, ShortStr, Value};

use crate::name::Name;

/// The routing of an exchange.
#[derive(Debug, Clone, Copy, PartialEq, Eq)]
pub(crate) enum Kind {
    Direct,
    Fanout,
    Topic,
    Headers,
}

impl Kind {
    pub(crate) fn named(name: &ShortStr) -> Option<Self> {
        Some(match name.as_bytes() {
            b"direct" => Self::Direct,
            b"fanout" => Self::Fanout,
            b"topic" => Self::Topic,
            b"headers" => Self::Headers,
            _ => return None,
        })
    }

    pub(crate) const fn name(self) -> &'static str {
        match self {
            Self::Direct => "direct",
            Self::Fanout => "fanout",
            Self::Topic => "topic",
            Self::Headers => "headers",
        }
    }
}

#[derive(Debug)]
pub(crate) struct Exchange {
    pub(crate) kind: Kind,
    pub(crate) durable: bool,
    pub(crate) auto_delete: bool,
    pub(crate) internal: bool,
    pub(crate) arguments: FieldTable,
    pub(crate) bindings: Vec<Binding>,
}

/// The queues and exchanges to which an exchange routes messages.
#[derive(Debug, Clone, PartialEq, Eq)]
pub(crate) struct Binding {
    pub(crate) target: Target,
    pub(crate) routing_key: ShortStr,
    pub(crate) arguments: FieldTable,
}

#[derive(Debug, Clone, PartialEq, Eq)]
pub(crate) enum Target {
    Queue(Name),
    Exchange(Name),
}

impl Exchange {
    pub(crate) const fn new(kind: Kind) -> Self {
        Self {
            kind,
            durable: true,
            auto_delete: false,
            internal: false,
            arguments: FieldTable::new(),
            bindings: Vec::new(),
        }
    }

    /// The targets of a message.
    pub(crate) fn matching<'a>(
        &'a self,
        routing_key: &'a ShortStr,
        properties: &RawProperties,
    ) -> Vec<&'a Target> {
        let headers = match self.kind {
            Kind::Headers => properties.headers().ok().flatten().unwrap_or_default(),
            _ => FieldTable::new(),
        };
        let matches = |binding: &&Binding| match self.kind {
            Kind::Direct => binding.routing_key == *routing_key,
            Kind::Fanout => true,
            Kind::Topic => topic_matches(binding.routing_key.as_bytes(), routing_key.as_bytes()),
            Kind::Headers => headers_match(&binding.arguments, &headers),
        };
        self.bindings.iter().filter(matches).map(|binding| &binding.target).collect()
    }
}

/// Returns whether a pattern of words matches a key of words: `*` is one word, `#` any number of them.
fn topic_matches(pattern: &[u8], key: &[u8]) -> bool {
    let words = |text: &[u8]| -> Vec<Vec<u8>> {
        let words = text.split(|byte| *byte == b'.').map(<[u8]>::to_vec);
        // Nothing is no words, and not one that is empty.
        if text.is_empty() { Vec::new() } else { words.collect() }
    };
    let (pattern, key) = (words(pattern), words(key));
    // matched[j]: the pattern so far matches the first j words.
    let mut matched = vec![false; key.len() + 1];
    matched[0] = true;
    for word in &pattern {
        let mut next = vec![false; key.len() + 1];
        match word.as_slice() {
            b"#" => {
                let mut any = false;
                for (slot, before) in next.iter_mut().zip(&matched) {
                    any |= *before;
                    *slot = any;
                }
            }
            word => {
                for (index, own) in key.iter().enumerate() {
                    next[index + 1] = matched[index] && (word == b"*" || word == own.as_slice());
                }
            }
        }
        matched = next;
    }
    matched[key.len()]
}

/// Returns whether headers fulfil a binding: all of its arguments (`x-match` is `all`, the default) or any of them.
fn headers_match(arguments: &FieldTable, headers: &FieldTable) -> bool {
    let mode = arguments.get("x-match");
    let mode = mode.as_ref().and_then(Value::as_str).unwrap_or("all");
    let with_x = mode.ends_with("-with-x");
    let mut wanted = arguments
        .iter()
        .filter(|(name, _)| *name != "x-match" && (with_x || !name.as_bytes().starts_with(b"x-")));
    let fulfilled = |(name, value): (ShortStr, Value)| match headers.get(&name) {
        Some(found) => value == Value::Void || found == value,
        None => false,
    };
    if mode.starts_with("any") { wanted.any(fulfilled) } else { wanted.all(fulfilled) }
}

#[cfg(test)]
mod tests {
    use super::*;

    #[test]
    fn patterns_match_words() {
        for (pattern, key, expected) in [
            ("a.b", "a.b", true),
            ("a.*", "a.b", true),
            ("a.*", "a", false),
            ("a.*", "a.b.c", false),
            ("a.#", "a", true),
            ("a.#", "a.b.c", true),
            ("#", "", true),
            ("#", "a.b", true),
            ("*", "", false),
            ("", "", true),
            ("", "a", false),
            ("#.b.#", "a.b.c", true),
            ("#.b", "a.c", false),
            ("*.#.*", "a", false),
            ("*.#.*", "a.b", true),
        ] {
            let matched = topic_matches(pattern.as_bytes(), key.as_bytes());
            assert_eq!(matched, expected, "{pattern} {key}");
        }
    }

    #[test]
    fn headers_match_all_or_any() {
        let table = |entries: &[(&str, i32)]| {
            entries.iter().fold(FieldTable::new(), |table, (name, value)| {
                table.with(name, *value).expect("fits")
            })
        };
        let all = table(&[("a", 1), ("b", 2)]);
        let any = all.clone().with("x-match", "any").expect("fits");
        assert!(headers_match(&all, &table(&[("b", 2), ("a", 1), ("c", 3)])));
        assert!(!headers_match(&all, &table(&[("a", 1)])));
        assert!(headers_match(&any, &table(&[("a", 1)])));
        assert!(!headers_match(&any, &table(&[("a", 2)])));
        let exists = FieldTable::new().with("a", Value::Void).expect("fits");
        assert!(headers_match(&exists, &table(&[("a", 7)])));
    }
}
