//! Checks that options fit together, before they are sent.

use std::fmt;

use amqp_proto::method::{BasicConsume, QueueDeclare};
use amqp_proto::session::Entity;
use amqp_proto::{FieldTable, ShortStr};
use thiserror::Error;

use super::QueueType;
use super::known::{self, Known, Numbers};
use crate::broker_version::BrokerVersion;

/// Options that the broker would refuse. Nothing was sent: the broker would have closed the channel, or the connection.
///
/// Only that is refused which all versions of RabbitMQ refuse that the broker can be: the one that it
/// [names](crate::Connection::broker_version), or 3.10 to 4.3 if it is not known yet. Nothing is checked for other brokers and for
/// later versions. [`Channel::call`](crate::Channel::call) sends any request without these checks.
///
/// ```no_run
/// # use amqp_client_core as amqp_client_tokio;
/// # use amqp_client_tokio::Channel;
/// use amqp_client_tokio::{CallError, QueueOptions, QueueType};
///
/// # async fn example(channel: Channel) {
/// let options = QueueOptions::new().queue_type(QueueType::Quorum).exclusive(true);
/// let error = channel.queue_declare("orders", options).await.expect_err("it cannot be");
/// assert_eq!(
///     error.to_string(),
///     "queue 'orders' cannot be declared: a quorum queue cannot be exclusive; \
///      remove that, or use a classic queue",
/// );
/// assert!(matches!(error, CallError::Options(_)));
/// # }
/// ```
#[derive(Debug, Clone, PartialEq, Eq, Error)]
#[error("{}: {problem}", Subject(.entity, .problem))]
#[non_exhaustive]
pub struct OptionError {
    /// The queue.
    pub entity: Entity,
    /// The problem with its options.
    pub problem: OptionProblem,
}

/// The reason of an [`OptionError`].
///
/// ```
/// # use amqp_client_core as amqp_client_tokio;
/// use amqp_client_tokio::{OptionProblem, QueueType};
///
/// let problem = OptionProblem::NeedsName { kind: QueueType::Stream };
/// assert_eq!(problem.to_string(), "a stream needs a name; name it, or use a classic queue");
/// ```
#[derive(Debug, Clone, PartialEq, Eq, Error)]
#[non_exhaustive]
pub enum OptionProblem {
    /// Queues of that type do not have that argument.
    #[error("{} has no {argument}; remove that, or use {}", a(*.kind), Types(.types))]
    NotOfType {
        /// The type of the queue.
        kind: QueueType,
        /// The name of the argument.
        argument: String,
        /// The types of queues that have the argument.
        types: Vec<QueueType>,
    },
    /// Queues of that type cannot be exclusive, auto-delete or transient.
    #[error("{} cannot be {property}; remove that, or use a classic queue", a(*.kind))]
    Property {
        /// The type of the queue.
        kind: QueueType,
        /// The property: `exclusive`, `auto-delete` or `transient`.
        property: &'static str,
    },
    /// The broker generates no names for queues of that type.
    #[error("{} needs a name; name it, or use a classic queue", a(*.kind))]
    NeedsName {
        /// The type of the queue.
        kind: QueueType,
    },
    /// An argument means nothing without another.
    #[error("{argument} needs {needed}; set both, or none")]
    Needs {
        /// The name of the argument.
        argument: &'static str,
        /// The name of the argument that is missing.
        needed: &'static str,
    },
    /// A number is too small or too large.
    #[error("{argument} is {value}; it must be from {min} to {max}")]
    OutOfRange {
        /// The name of the argument.
        argument: &'static str,
        /// Its value, in milliseconds if it is a time.
        value: i64,
        /// The smallest value.
        min: i64,
        /// The largest value.
        max: i64,
    },
    /// Queues that have the first option do not have the second.
    #[error("no queue has both {first} and {second}; remove one of them")]
    Exclude {
        /// An option of the consumer.
        first: String,
        /// Another one.
        second: String,
    },
}

/// What cannot be done.
struct Subject<'a>(&'a Entity, &'a OptionProblem);

impl fmt::Display for Subject<'_> {
    fn fmt(&self, f: &mut fmt::Formatter<'_>) -> fmt::Result {
        match self.1 {
            OptionProblem::Exclude { .. } => write!(f, "consumer of {} cannot be started", self.0),
            _ => write!(f, "{} cannot be declared", self.0),
        }
    }
}

/// Types of queues, as alternatives.
struct Types<'a>(&'a [QueueType]);

impl fmt::Display for Types<'_> {
    fn fmt(&self, f: &mut fmt::Formatter<'_>) -> fmt::Result {
        for (index, kind) in self.0.iter().enumerate() {
            write!(f, "{}{}", if index > 0 { " or " } else { "" }, a(*kind))?;
        }
        Ok(())
    }
}

const fn a(kind: QueueType) -> &'static str {
    match kind {
        QueueType::Classic => "a classic queue",
        QueueType::Quorum => "a quorum queue",
        QueueType::Stream => "a stream",
    }
}

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
