//! The errors of options that do not fit together.

use std::fmt;

use amqp_proto::session::Entity;
use thiserror::Error;

use super::queue_values::QueueType;

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

/// The reason why something cannot be done.
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
