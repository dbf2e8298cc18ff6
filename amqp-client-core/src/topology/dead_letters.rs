//! The destinations of dead-lettered messages.

use std::collections::{HashMap, HashSet};

use amqp_proto::method::{ExchangeDeclare, QueueDeclare};
use amqp_proto::{FieldTable, ShortStr, Value};

use super::Binding;

/// Returns the name in an argument.
pub(super) fn text(arguments: &FieldTable, name: &str) -> Option<ShortStr> {
    match arguments.get(name)? {
        Value::LongStr(text) => ShortStr::named("name", text.as_bytes()).ok(),
        _ => None,
    }
}

/// The ways of messages that queues dead-letter by themselves: because they expire, or because the queue is full.
pub(super) struct DeadLetters<'a> {
    kinds: HashMap<&'a [u8], &'a [u8]>,
    /// The bindings of each exchange.
    bindings: HashMap<&'a [u8], Vec<Hop<'a>>>,
    /// The queues in their order. Only those that dead-letter by themselves have a dead-letter exchange here.
    queues: Vec<Leaving<'a>>,
    places: HashMap<&'a [u8], usize>,
}

struct Hop<'a> {
    key: &'a [u8],
    target: Target<'a>,
}

#[derive(Clone, Copy)]
enum Target<'a> {
    Queue(&'a [u8]),
    Exchange(&'a [u8]),
}

struct Leaving<'a> {
    queue: &'a ShortStr,
    /// The exchange to which messages leave, and their routing keys.
    to: Option<(ShortStr, Vec<Vec<u8>>)>,
}

impl<'a> DeadLetters<'a> {
    pub(super) fn new(
        exchanges: &'a [ExchangeDeclare],
        queues: &'a [QueueDeclare],
        bindings: &'a [Binding],
    ) -> Self {
        // Nothing is known about those that are only expected to exist: another declaration may say more.
        let kinds = exchanges
            .iter()
            .filter(|exchange| !exchange.passive)
            .map(|exchange| (exchange.exchange.as_bytes(), exchange.kind.as_bytes()))
            .collect();
        let mut hops: HashMap<_, Vec<_>> = HashMap::new();
        let mut keys: HashMap<_, Vec<_>> = HashMap::new();
        for binding in bindings {
            let (source, key, target) = match binding {
                Binding::Queue(bind) => {
                    keys.entry(bind.queue.as_bytes()).or_default().push(&bind.routing_key);
                    (&bind.exchange, &bind.routing_key, Target::Queue(bind.queue.as_bytes()))
                }
                Binding::Exchange(bind) => {
                    (&bind.source, &bind.routing_key, Target::Exchange(bind.destination.as_bytes()))
                }
            };
            hops.entry(source.as_bytes()).or_default().push(Hop { key: key.as_bytes(), target });
        }
        let leaving = |queue: &'a QueueDeclare| {
            let to =
                Some(queue).filter(|queue| loses_by_itself(&queue.arguments)).and_then(|queue| {
                    let exchange = text(&queue.arguments, "x-dead-letter-exchange")?;
                    let keys = match text(&queue.arguments, "x-dead-letter-routing-key") {
                        Some(key) => vec![key.as_bytes().to_vec()],
                        // Messages keep their routing keys: those by which the queue is bound, and its name.
                        None => keys
                            .get(queue.queue.as_bytes())
                            .into_iter()
                            .flatten()
                            .map(|key| key.as_bytes().to_vec())
                            .chain([queue.queue.as_bytes().to_vec()])
                            .collect(),
                    };
                    Some((exchange, keys))
                });
            Leaving { queue: &queue.queue, to }
        };
        let queues: Vec<_> = queues.iter().filter(|queue| !queue.passive).map(leaving).collect();
        let places = queues
            .iter()
            .enumerate()
            .map(|(place, leaving)| (leaving.queue.as_bytes(), place))
            .collect();
        Self { kinds, bindings: hops, queues, places }
    }

    /// Returns cycles: for each, its queues in order. Of cycles that share queues, one: a hundred queues that return their messages by
    /// one fanout exchange have more cycles than anybody could list.
    pub(super) fn cycles(&self) -> Vec<Vec<ShortStr>> {
        let next: Vec<Vec<usize>> = (0..self.queues.len()).map(|place| self.next(place)).collect();
        let mut cycles = Vec::new();
        let mut done = vec![false; next.len()];
        let mut reported = vec![false; next.len()];
        for start in 0..next.len() {
            // A depth-first search with a stack of its own: topologies can be deep.
            let mut path = vec![(start, 0)];
            let mut on_path = HashSet::from([start]);
            while let Some((place, tried)) = path.last_mut() {
                let (here, target) = (*place, next[*place].get(*tried).copied());
                *tried += 1;
                match target {
                    Some(target) if on_path.contains(&target) => {
                        // Most edges of a dense graph end here, without a look at the path.
                        if reported[target] || reported[here] {
                            continue;
                        }
                        let from = path.iter().position(|(place, _)| *place == target).unwrap_or(0);
                        let cycle = path[from..].iter().map(|(place, _)| *place);
                        if cycle.clone().any(|place| reported[place]) {
                            continue;
                        }
                        cycle.clone().for_each(|place| reported[place] = true);
                        cycles.push(cycle.map(|place| self.queues[place].queue.clone()).collect());
                    }
                    Some(target) if !done[target] => {
                        on_path.insert(target);
                        path.push((target, 0));
                    }
                    Some(_) => {}
                    None => {
                        done[here] = true;
                        on_path.remove(&here);
                        path.pop();
                    }
                }
                if done[start] {
                    break;
                }
            }
        }
        cycles
    }

    /// The queues that messages reach from this one.
    fn next(&self, place: usize) -> Vec<usize> {
        let Some((exchange, keys)) = &self.queues[place].to else { return Vec::new() };
        let mut reached = Vec::new();
        for key in keys {
            self.route(exchange.as_bytes(), key, &mut reached);
        }
        reached.sort_unstable();
        reached.dedup();
        reached
    }

    /// Adds the queues to which an exchange routes a message with this key.
    fn route(&self, exchange: &[u8], key: &[u8], reached: &mut Vec<usize>) {
        if exchange.is_empty() {
            reached.extend(self.places.get(key));
            return;
        }
        let (mut seen, mut open) = (HashSet::from([exchange]), vec![exchange]);
        while let Some(exchange) = open.pop() {
            for hop in self.bindings.get(exchange).into_iter().flatten() {
                if !self.matches(exchange, hop.key, key) {
                    continue;
                }
                match hop.target {
                    Target::Queue(queue) => reached.extend(self.places.get(queue)),
                    Target::Exchange(target) if seen.insert(target) => open.push(target),
                    Target::Exchange(_) => {}
                }
            }
        }
    }

    /// Returns whether a binding matches for certain: nothing is known about exchanges that route by headers or by plugins.
    fn matches(&self, exchange: &[u8], pattern: &[u8], key: &[u8]) -> bool {
        match (self.kinds.get(exchange).copied(), exchange) {
            (Some(b"fanout"), _) | (None, b"amq.fanout") => true,
            (Some(b"topic"), _) | (None, b"amq.topic") => topic_matches(pattern, key),
            (Some(b"direct"), _) | (None, b"amq.direct") => pattern == key,
            _ => false,
        }
    }
}

/// Returns whether a queue dead-letters messages without a consumer that rejects them.
fn loses_by_itself(arguments: &FieldTable) -> bool {
    let overflow = arguments.get("x-overflow");
    let drops = overflow.is_none_or(|overflow| overflow.as_str() == Some("drop-head"));
    let limited = ["x-max-length", "x-max-length-bytes"];
    arguments.get("x-message-ttl").is_some()
        || drops && limited.iter().any(|limit| arguments.get(limit).is_some())
}

/// Returns the words of a routing key, which dots separate.
fn words(text: &[u8]) -> Vec<&[u8]> {
    if text.is_empty() { Vec::new() } else { text.split(|byte| *byte == b'.').collect() }
}

/// Returns whether a topic pattern matches: `*` stands for one word, `#` for any number of words.
fn topic_matches(pattern: &[u8], key: &[u8]) -> bool {
    // Most patterns of a large topology are keys.
    if !pattern.contains(&b'*') && !pattern.contains(&b'#') {
        return pattern == key;
    }
    let (pattern, key) = (words(pattern), words(key));
    // reached[n]: the words of the pattern so far match the first n words of the key.
    let mut reached = vec![false; key.len() + 1];
    reached[0] = true;
    for word in pattern {
        if word == b"#" {
            let first = reached.iter().position(|matched| *matched).unwrap_or(reached.len());
            reached[first..].fill(true);
        } else {
            for index in (1..=key.len()).rev() {
                reached[index] = reached[index - 1] && (word == b"*" || word == key[index - 1]);
            }
            reached[0] = false;
        }
    }
    reached[key.len()]
}

#[cfg(test)]
mod tests {
    use super::*;

    #[test]
    fn topics_match_words() {
        for (pattern, key, expected) in [
            ("#", "", true),
            ("#", "a.b.c", true),
            ("*", "", false),
            ("*", "a", true),
            ("*", "a.b", false),
            ("a.#", "a", true),
            ("a.#.z", "a.z", true),
            ("a.#.z", "a.b.c.z", true),
            ("a.#.z", "a.b.c", false),
            ("#.*.#", "a", true),
            ("#.*.#", "", false),
            ("a.*.c", "a.b.c", true),
            ("a", "b", false),
            ("", "", true),
            ("", "a", false),
            ("a.b", "a.b", true),
            ("a.b", "a.c", false),
            ("*.", "a.", true),
        ] {
            assert_eq!(
                topic_matches(pattern.as_bytes(), key.as_bytes()),
                expected,
                "{pattern} {key}"
            );
        }
    }
}
