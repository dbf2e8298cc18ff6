use std::collections::{HashMap, HashSet};
use std::fmt;

use amqp_proto::ShortStr;
use amqp_proto::method::{ExchangeDeclare, QueueDeclare};
use amqp_proto::session::Entity;

use super::dead_letters::DeadLetters;
use super::same::{same_exchange, same_queue};
use super::{Binding, Topology};
use crate::broker_version::BrokerVersion;
use crate::error::CallError;
use crate::options::check_queue;

impl Topology {
    /// Checks the topology without a broker. Returns what a broker would refuse, and what it would accept although it is probably not
    /// meant.
    ///
    /// With a version, this checks what that version of RabbitMQ refuses, ignores and deprecates. Without one, it checks what no version
    /// from 3.10 to 4.3 accepts, and nothing about deprecations.
    ///
    /// ```
    /// # use amqp_client_core as amqp_client_tokio;
    /// use amqp_client_tokio::QueueOptions;
    /// use amqp_client_tokio::topology::Topology;
    ///
    /// let topology = Topology::new().queue("jobs", QueueOptions::new()).bind("jobs", "work", "#");
    /// let findings = topology.check(None);
    /// assert_eq!(
    ///     findings[0].to_string(),
    ///     "binding of 'jobs' to 'work' by '#': there is no exchange 'work' in this topology; \
    ///      add it, or name it by existing_exchange",
    /// );
    /// assert!(findings[0].problem.is_error());
    /// ```
    #[must_use]
    pub fn check(&self, version: Option<&BrokerVersion>) -> Vec<Finding> {
        let mut findings: Vec<_> = self
            .errors
            .iter()
            .map(|(entity, error)| Finding::new(entity.clone(), Problem::Invalid(error.clone())))
            .collect();
        self.check_names(&mut findings);
        self.check_references(&mut findings);
        for queue in self.declared_queues() {
            check_options(queue, version, &mut findings);
        }
        for cycle in DeadLetters::new(&self.exchanges, &self.queues, &self.bindings).cycles() {
            let entity = Entity::Queue(cycle[0].clone());
            findings.push(Finding::new(entity, Problem::DeadLetterCycle(cycle)));
        }
        findings
    }

    /// Finds names that the broker reserves, and entities that are declared twice and differently.
    fn check_names(&self, findings: &mut Vec<Finding>) {
        let mut exchanges = HashMap::new();
        for exchange in &self.exchanges {
            let entity = || Entity::Exchange(exchange.exchange.clone());
            let name = exchange.exchange.as_bytes();
            if !exchange.passive && (name.is_empty() || is_reserved(name) && !is_predeclared(name))
            {
                findings.push(Finding::new(entity(), Problem::Reserved));
            }
            if !exchange.passive && exchange.kind.is_empty() {
                findings.push(Finding::new(entity(), Problem::NoType));
            }
            if let Some(kind) = predeclared_differently(exchange) {
                findings.push(Finding::new(entity(), Problem::Predeclared { kind }));
            }
            // That it exists is true of an exchange that the topology itself declares.
            let earlier = if exchange.passive { None } else { exchanges.insert(name, exchange) };
            if earlier.is_some_and(|earlier| !same_exchange(earlier, exchange)) {
                findings.push(Finding::new(entity(), Problem::Twice));
            }
        }
        let mut queues = HashMap::new();
        for queue in &self.queues {
            let entity = || Entity::Queue(queue.queue.clone());
            let name = queue.queue.as_bytes();
            if !queue.passive && is_reserved(name) {
                findings.push(Finding::new(entity(), Problem::Reserved));
            }
            if name.is_empty() {
                findings.push(Finding::new(entity(), Problem::NoName));
            } else if !queue.passive {
                let earlier = queues.insert(name, queue);
                if earlier.is_some_and(|earlier| !same_queue(earlier, queue)) {
                    findings.push(Finding::new(entity(), Problem::Twice));
                }
            }
        }
    }

    /// Finds exchanges and queues that are used and not part of the topology.
    fn check_references(&self, findings: &mut Vec<Finding>) {
        let exchanges: HashSet<_> =
            self.exchanges.iter().map(|one| one.exchange.as_bytes()).collect();
        let queues: HashSet<_> = self.queues.iter().map(|one| one.queue.as_bytes()).collect();
        let has_exchange = |name: &[u8]| exchanges.contains(name) || is_predeclared(name);
        for binding in &self.bindings {
            let (source, target) = match binding {
                Binding::Queue(bind) => (&bind.exchange, Err(&bind.queue)),
                Binding::Exchange(bind) => (&bind.source, Ok(&bind.destination)),
            };
            let mut found = |problem| findings.push(Finding::new(binding.entity(), problem));
            if source.is_empty() || target.is_ok_and(|name| name.is_empty()) {
                found(Problem::DefaultExchange);
            } else if !has_exchange(source.as_bytes()) {
                found(Problem::UnknownExchange(source.clone()));
            }
            match target {
                Ok(name) if !has_exchange(name.as_bytes()) && !name.is_empty() => {
                    found(Problem::UnknownExchange(name.clone()));
                }
                Err(name) if !queues.contains(name.as_bytes()) => {
                    found(Problem::UnknownQueue(name.clone()));
                }
                _ => {}
            }
        }
        let of_queues = self.declared_queues().filter_map(|queue| {
            let name = super::dead_letters::text(&queue.arguments, "x-dead-letter-exchange")?;
            Some((Entity::Queue(queue.queue.clone()), name))
        });
        let of_exchanges = self.exchanges.iter().filter_map(|exchange| {
            let name = super::dead_letters::text(&exchange.arguments, "alternate-exchange")?;
            Some((Entity::Exchange(exchange.exchange.clone()), name))
        });
        for (entity, name) in of_queues.chain(of_exchanges) {
            if !name.is_empty() && !has_exchange(name.as_bytes()) {
                findings.push(Finding::new(entity, Problem::LostTo(name)));
            }
        }
    }
}

fn check_options(
    queue: &QueueDeclare,
    version: Option<&BrokerVersion>,
    findings: &mut Vec<Finding>,
) {
    let mut found =
        |problem| findings.push(Finding::new(Entity::Queue(queue.queue.clone()), problem));
    if let Err(error) = check_queue(queue, version) {
        found(Problem::Invalid(error.into()));
    }
    let value = |name: &str| queue.arguments.get(name);
    let is = |name: &str, text: &str| value(name).is_some_and(|value| value.as_str() == Some(text));
    if is("x-dead-letter-strategy", "at-least-once")
        && !(is("x-overflow", "reject-publish") && value("x-dead-letter-exchange").is_some())
    {
        found(Problem::NoEffect {
            argument: "x-dead-letter-strategy",
            why: "at-least-once needs x-overflow = reject-publish and a dead-letter exchange",
        });
    }
    if is("x-overflow", "reject-publish-dlx") && is("x-queue-type", "quorum") {
        found(Problem::NoEffect {
            argument: "x-overflow",
            why: "quorum queues have no reject-publish-dlx, and drop their oldest message",
        });
    }
    let Some(version) = version.filter(|version| version.is_rabbitmq()) else { return };
    for (argument, [major, minor, patch]) in SINCE {
        let since = BrokerVersion::rabbitmq(*major, *minor, *patch);
        if *version < since && value(argument).is_some() {
            found(Problem::TooNew { argument, since });
        }
    }
    for (argument, [major, minor, patch], instead) in DEPRECATED {
        let since = BrokerVersion::rabbitmq(*major, *minor, *patch);
        if *version >= since && value(argument).is_some() {
            found(Problem::Deprecated { option: argument, since, instead });
        }
    }
    let since = BrokerVersion::rabbitmq(3, 13, 0);
    if *version >= since && !queue.durable && !queue.exclusive {
        let instead = "RabbitMQ 4.3 refuses such queues by default; make it durable, or exclusive";
        found(Problem::Deprecated { option: "durable(false)", since, instead });
    }
}

/// Arguments that earlier versions ignore.
const SINCE: &[(&str, [u32; 3])] = &[
    ("x-delayed-retry-type", [4, 3, 0]),
    ("x-consumer-timeout", [3, 12, 0]),
    ("x-consumer-disconnected-timeout", [4, 3, 0]),
    ("x-stream-filter-size-bytes", [3, 13, 0]),
    ("x-quorum-target-group-size", [3, 13, 0]),
];

/// Arguments that later versions ignore, and the advice.
const DEPRECATED: &[(&str, [u32; 3], &str)] = &[
    ("x-queue-mode", [3, 12, 0], "it has no effect any more; remove it"),
    ("x-queue-version", [4, 3, 0], "there is only version 2; remove it"),
    ("x-queue-master-locator", [4, 0, 0], "use leader_locator"),
    ("x-max-in-memory-length", [3, 10, 0], "it has no effect any more; remove it"),
    ("x-max-in-memory-bytes", [3, 10, 0], "it has no effect any more; remove it"),
];

fn is_reserved(name: &[u8]) -> bool {
    name.starts_with(b"amq.")
}

/// Returns whether each virtual host has such an exchange.
fn is_predeclared(name: &[u8]) -> bool {
    matches!(
        name,
        b"" | b"amq.direct"
            | b"amq.fanout"
            | b"amq.topic"
            | b"amq.headers"
            | b"amq.match"
            | b"amq.rabbitmq.trace"
            | b"amq.rabbitmq.event"
            | b"amq.rabbitmq.log"
    )
}

/// Returns the type of a predeclared exchange, if the declaration is not that of the broker.
fn predeclared_differently(exchange: &ExchangeDeclare) -> Option<&'static str> {
    let kind = match exchange.exchange.as_bytes() {
        b"amq.direct" => "direct",
        b"amq.fanout" => "fanout",
        b"amq.topic" => "topic",
        b"amq.headers" | b"amq.match" => "headers",
        _ => return None,
    };
    let is_same = exchange.kind.as_bytes() == kind.as_bytes()
        && (exchange.durable, exchange.auto_delete, exchange.internal) == (true, false, false)
        && exchange.arguments.get("alternate-exchange").is_none();
    (!exchange.passive && !is_same).then_some(kind)
}

/// A problem of a topology; see [`Topology::check`].
///
/// ```
/// # use amqp_client_core as amqp_client_tokio;
/// use amqp_client_tokio::topology::{Problem, Topology};
/// use amqp_client_tokio::{BrokerVersion, QueueMode, QueueOptions};
///
/// let topology = Topology::new().queue("jobs", QueueOptions::new().queue_mode(QueueMode::Lazy));
/// let findings = topology.check(Some(&BrokerVersion::rabbitmq(4, 0, 0)));
/// assert!(matches!(findings[0].problem, Problem::Deprecated { option: "x-queue-mode", .. }));
/// assert!(!findings[0].problem.is_error());
/// ```
#[derive(Debug, Clone, PartialEq, Eq)]
#[non_exhaustive]
pub struct Finding {
    /// The exchange, queue or binding.
    pub entity: Entity,
    /// The problem.
    pub problem: Problem,
}

impl Finding {
    const fn new(entity: Entity, problem: Problem) -> Self {
        Self { entity, problem }
    }
}

/// A kind of problem of a topology.
///
/// ```
/// use amqp_client_core::topology::Problem;
///
/// assert!(Problem::Reserved.is_error());
/// ```
#[derive(Debug, Clone, PartialEq, Eq)]
#[non_exhaustive]
pub enum Problem {
    /// The declaration cannot be sent: its options do not fit together, or a name or argument cannot be encoded.
    Invalid(CallError),
    /// The name is reserved for the broker.
    Reserved,
    /// Each virtual host has that exchange from the beginning, with other options.
    Predeclared {
        /// The type of the exchange.
        kind: &'static str,
    },
    /// An exchange has no type.
    NoType,
    /// A queue has no name, so nothing can refer to it.
    NoName,
    /// It is declared twice, with different options.
    Twice,
    /// The default exchange can be neither source nor destination of a binding.
    DefaultExchange,
    /// A binding uses an exchange that is not in the topology.
    UnknownExchange(ShortStr),
    /// A binding uses a queue that is not in the topology.
    UnknownQueue(ShortStr),
    /// Dead-lettered or unrouted messages go to an exchange that is not in the topology. If it does not exist either, they are lost.
    LostTo(ShortStr),
    /// Messages can go round these queues without being rejected. RabbitMQ drops a message that does. Of cycles that share queues, one
    /// is found.
    DeadLetterCycle(Vec<ShortStr>),
    /// An argument does not do what it says.
    NoEffect {
        /// The argument.
        argument: &'static str,
        /// The reason.
        why: &'static str,
    },
    /// The version ignores the argument, or refuses it.
    TooNew {
        /// The argument.
        argument: &'static str,
        /// The first version with it.
        since: BrokerVersion,
    },
    /// The version ignores the option, or refuses it by default.
    Deprecated {
        /// The argument or option.
        option: &'static str,
        /// The first version that does.
        since: BrokerVersion,
        /// The advice.
        instead: &'static str,
    },
}

impl Problem {
    /// Returns whether a broker refuses the topology because of this. Otherwise, it is a warning.
    #[must_use]
    pub const fn is_error(&self) -> bool {
        match self {
            Self::Invalid(_)
            | Self::Reserved
            | Self::Predeclared { .. }
            | Self::NoType
            | Self::Twice
            | Self::DefaultExchange
            | Self::UnknownExchange(_)
            | Self::UnknownQueue(_) => true,
            Self::NoName
            | Self::LostTo(_)
            | Self::DeadLetterCycle(_)
            | Self::NoEffect { .. }
            | Self::TooNew { .. }
            | Self::Deprecated { .. } => false,
        }
    }
}

impl fmt::Display for Finding {
    fn fmt(&self, f: &mut fmt::Formatter<'_>) -> fmt::Result {
        match &self.problem {
            // The options name the entity by themselves.
            Problem::Invalid(error @ CallError::Options(_)) => error.fmt(f),
            problem => write!(f, "{}: {problem}", self.entity),
        }
    }
}

impl fmt::Display for Problem {
    fn fmt(&self, f: &mut fmt::Formatter<'_>) -> fmt::Result {
        match self {
            Self::Invalid(error) => error.fmt(f),
            Self::Reserved => f.write_str("the broker reserves this name; choose another"),
            Self::Predeclared { kind } => write!(
                f,
                "each virtual host has it as a durable exchange of type {kind}; name it by existing_exchange, or choose another name"
            ),
            Self::NoType => f.write_str("it has no type; choose one, such as direct or topic"),
            Self::NoName => f.write_str("it has no name, so nothing can refer to it; name it"),
            Self::Twice => f.write_str("it is declared twice, with different options; remove one"),
            Self::DefaultExchange => f.write_str(
                "the default exchange cannot be bound; it routes to each queue by the queue's name",
            ),
            Self::UnknownExchange(name) => write!(
                f,
                "there is no exchange '{name}' in this topology; add it, or name it by existing_exchange"
            ),
            Self::UnknownQueue(name) => write!(
                f,
                "there is no queue '{name}' in this topology; add it, or name it by existing_queue"
            ),
            Self::LostTo(name) => write!(
                f,
                "its messages are lost unless there is an exchange '{name}'; add it, or name it by existing_exchange"
            ),
            Self::DeadLetterCycle(queues) => {
                f.write_str("messages can go round")?;
                for queue in queues {
                    write!(f, " '{queue}',")?;
                }
                f.write_str(
                    " and RabbitMQ drops a message that comes back without having been rejected",
                )
            }
            Self::NoEffect { argument, why } => write!(f, "{argument} has no effect: {why}"),
            Self::TooNew { argument, since } => {
                write!(f, "{argument} has no effect before {since}")
            }
            Self::Deprecated { option, since, instead } => {
                write!(f, "{option} is deprecated since {since}: {instead}")
            }
        }
    }
}
