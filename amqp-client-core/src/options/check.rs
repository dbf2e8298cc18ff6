//! Checks that options fit together, before they are sent.

use amqp_proto::method::{BasicConsume, QueueDeclare};
use amqp_proto::session::Entity;
use amqp_proto::{FieldTable, ShortStr};

use super::known::{self, Known, Numbers};
use super::problem::{OptionError, OptionProblem};
use super::queue_values::QueueType;
use crate::broker_version::BrokerVersion;

const TYPES: &[QueueType] = &[QueueType::Classic, QueueType::Quorum, QueueType::Stream];

/// Checks a declaration.
pub(crate) fn check_queue(
    method: &QueueDeclare,
    version: Option<&BrokerVersion>,
) -> Result<(), Box<OptionError>> {
    let found = in_all(version, |version| {
        first_if_all(types_of(method, version)?, |kind| problem_of_queue(method, kind, version))
    });
    refuse(&method.queue, found)
}

/// Checks the start of a consumer. The type of its queue is not known.
pub(crate) fn check_consumer(
    method: &BasicConsume,
    version: Option<&BrokerVersion>,
) -> Result<(), Box<OptionError>> {
    let found = in_all(version, |version| {
        let stream = foreign(&method.arguments, known::OF_CONSUMERS, QueueType::Stream, version)
            .map(|known| known.name)
            // RabbitMQ: this would close the connection (540).
            .or_else(|| method.no_ack.then_some("no_ack"))?;
        let others = [QueueType::Classic, QueueType::Quorum];
        let of_stream = first_if_all(&others, |kind| {
            foreign(&method.arguments, known::OF_CONSUMERS, kind, version)
        })?;
        Some(OptionProblem::Exclude { first: of_stream.name.to_owned(), second: stream.to_owned() })
    });
    refuse(&method.queue, found)
}

fn refuse(queue: &ShortStr, found: Option<OptionProblem>) -> Result<(), Box<OptionError>> {
    match found {
        Some(problem) => {
            Err(Box::new(OptionError { entity: Entity::Queue(queue.detached()), problem }))
        }
        None => Ok(()),
    }
}

/// Returns a problem if all versions have one that the broker can be.
fn in_all(
    version: Option<&BrokerVersion>,
    find: impl Fn(Numbers) -> Option<OptionProblem>,
) -> Option<OptionProblem> {
    match version {
        None => first_if_all(known::VERSIONS, find),
        Some(version) => version.known_numbers().filter(|v| known::applies_to(*v)).and_then(find),
    }
}

/// Returns the first of the results, if there is one for each item.
fn first_if_all<I: Copy, T>(items: &[I], find: impl Fn(I) -> Option<T>) -> Option<T> {
    let mut found = None;
    for item in items {
        let one = find(*item)?;
        found.get_or_insert(one);
    }
    found
}

/// The types that the queue can have. `None` for a type that is not known here.
fn types_of(method: &QueueDeclare, version: Numbers) -> Option<&'static [QueueType]> {
    let Some(value) = method.arguments.get("x-queue-type") else {
        // From 3.11 on, a virtual host can have another default type.
        return Some(if version < [3, 11, 0] { &TYPES[..1] } else { TYPES });
    };
    let place = TYPES.iter().position(|kind| value.as_str() == Some(kind.as_str()))?;
    TYPES.get(place..=place)
}

fn problem_of_queue(
    method: &QueueDeclare,
    kind: QueueType,
    version: Numbers,
) -> Option<OptionProblem> {
    if kind != QueueType::Classic {
        let property = match (method.exclusive, method.auto_delete, method.durable) {
            (true, _, _) => Some("exclusive"),
            (_, true, _) => Some("auto-delete"),
            (_, _, false) => Some("transient"),
            _ => None,
        };
        if let Some(property) = property {
            return Some(OptionProblem::Property { kind, property });
        }
        if method.queue.is_empty() {
            return Some(OptionProblem::NeedsName { kind });
        }
    }
    let arguments = &method.arguments;
    if let Some(argument) = foreign(arguments, known::OF_QUEUES, kind, version) {
        let types = TYPES.iter().copied().filter(|kind| argument.is_of(*kind, version)).collect();
        return Some(OptionProblem::NotOfType { kind, argument: argument.name.to_owned(), types });
    }
    let (argument, needed) = ("x-dead-letter-routing-key", "x-dead-letter-exchange");
    if arguments.get(argument).is_some() && arguments.get(needed).is_none() {
        return Some(OptionProblem::Needs { argument, needed });
    }
    RANGES.iter().find_map(|(argument, min, max)| {
        let value = arguments.get(argument)?.as_i64()?;
        let is_allowed = (*min..=*max).contains(&value);
        (!is_allowed).then_some(OptionProblem::OutOfRange { argument, value, min: *min, max: *max })
    })
}

/// The numbers that all versions check.
const RANGES: &[(&str, i64, i64)] = &[
    // Times are limited to 32 bits: 49 days.
    ("x-message-ttl", 0, u32::MAX as i64),
    ("x-expires", 1, u32::MAX as i64),
    ("x-max-length", 0, i64::MAX),
    ("x-max-length-bytes", 0, i64::MAX),
    ("x-max-priority", 0, u8::MAX as i64),
    ("x-quorum-initial-group-size", 1, i64::MAX),
    ("x-initial-cluster-size", 1, i64::MAX),
];

/// Returns the first argument that other types of queues have, and this one does not.
fn foreign<'a>(
    arguments: &FieldTable,
    table: &'a [Known],
    kind: QueueType,
    version: Numbers,
) -> Option<&'a Known> {
    table.iter().find(|known| {
        !known.is_of(kind, version)
            && TYPES.iter().any(|kind| known.is_of(*kind, version))
            && arguments.get(known.name).is_some()
    })
}
