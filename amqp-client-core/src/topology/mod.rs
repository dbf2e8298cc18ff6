//! Exchanges, queues and bindings as one value.
//!
//! A [`Topology`] is built like a list of declarations, and sends nothing. It can be [checked](Topology::check) without a broker,
//! [applied](Topology::apply) in one round trip, [compared](Topology::compare) with what a broker has, and
//! [drawn](Topology::to_mermaid).

mod apply;
mod check;
mod compare;
mod dead_letters;
#[cfg(feature = "definitions")]
mod definitions;
mod draw;
mod mismatch;
mod same;

pub use apply::TopologyError;
pub use check::{Finding, Problem};
pub use compare::{Difference, Discrepancy};
#[cfg(feature = "definitions")]
pub use definitions::DefinitionsError;
pub use mismatch::Mismatch;

use std::fmt;

use amqp_proto::method::{ExchangeBind, ExchangeDeclare, QueueBind, QueueDeclare};
use amqp_proto::session::Entity;
use amqp_proto::{FieldTable, ShortStr};

use crate::channel::{exchange_binding, queue_binding};
use crate::error::CallError;
use crate::options::{ExchangeKind, ExchangeOptions, QueueOptions, name};

/// Exchanges, queues and bindings, as a value.
///
/// ```
/// # use amqp_client_core as amqp_client_tokio;
/// use std::time::Duration;
///
/// use amqp_client_tokio::topology::Topology;
/// use amqp_client_tokio::{BrokerVersion, ExchangeOptions, QueueOptions, QueueType};
///
/// let orders = QueueOptions::new().queue_type(QueueType::Quorum).dead_letter_exchange("dead");
/// let topology = Topology::new()
///     .exchange("shop", "topic", ExchangeOptions::new())
///     .exchange("dead", "fanout", ExchangeOptions::new())
///     .queue("orders", orders)
///     .queue("parked", QueueOptions::new())
///     .bind("orders", "shop", "order.*")
///     .bind("parked", "dead", "");
/// assert_eq!(topology.check(Some(&BrokerVersion::rabbitmq(4, 3, 0))), []);
/// ```
///
/// An error of a name or argument is kept, and reported by [`check`](Self::check) and [`apply`](Self::apply).
#[derive(Clone, PartialEq, Default)]
#[must_use]
pub struct Topology {
    exchanges: Vec<ExchangeDeclare>,
    queues: Vec<QueueDeclare>,
    bindings: Vec<Binding>,
    /// Declarations that cannot be sent.
    errors: Vec<(Entity, CallError)>,
}

#[derive(Debug, Clone, PartialEq)]
enum Binding {
    Queue(QueueBind),
    Exchange(ExchangeBind),
}

impl Topology {
    /// Creates an empty topology.
    pub const fn new() -> Self {
        Self { exchanges: Vec::new(), queues: Vec::new(), bindings: Vec::new(), errors: Vec::new() }
    }

    /// Adds an exchange; see [`Channel::exchange_declare`](crate::Channel::exchange_declare).
    pub fn exchange(
        mut self,
        exchange: impl AsRef<[u8]>,
        kind: impl Into<ExchangeKind>,
        options: ExchangeOptions,
    ) -> Self {
        match options.into_method(exchange.as_ref(), &kind.into()) {
            Ok(method) => self.exchanges.push(method),
            Err(error) => self.fail(Entity::Exchange, exchange, error),
        }
        self
    }

    /// Adds a queue; see [`Channel::queue_declare`](crate::Channel::queue_declare). Name it: bindings refer to it by name.
    pub fn queue(mut self, queue: impl AsRef<[u8]>, options: QueueOptions) -> Self {
        match options.into_method(queue.as_ref()) {
            Ok(method) => self.queues.push(method),
            Err(error) => self.fail(Entity::Queue, queue, error),
        }
        self
    }

    /// Adds an exchange that others declare. [`apply`](Self::apply) checks that it exists, after everything that it declares.
    pub fn existing_exchange(mut self, exchange: impl AsRef<[u8]>) -> Self {
        match name("exchange", &exchange) {
            Ok(exchange) => self.exchanges.push(ExchangeDeclare {
                exchange,
                passive: true,
                ..ExchangeDeclare::default()
            }),
            Err(error) => self.fail(Entity::Exchange, exchange, error.into()),
        }
        self
    }

    /// Adds a queue that others declare. [`apply`](Self::apply) checks that it exists, after everything that it declares.
    pub fn existing_queue(mut self, queue: impl AsRef<[u8]>) -> Self {
        match name("queue", &queue) {
            Ok(queue) => {
                self.queues.push(QueueDeclare { queue, passive: true, ..QueueDeclare::default() });
            }
            Err(error) => self.fail(Entity::Queue, queue, error.into()),
        }
        self
    }

    /// Binds a queue to an exchange.
    pub fn bind(
        self,
        queue: impl AsRef<[u8]>,
        exchange: impl AsRef<[u8]>,
        routing_key: impl AsRef<[u8]>,
    ) -> Self {
        self.bind_with(queue, exchange, routing_key, FieldTable::new())
    }

    /// Binds a queue to an exchange with arguments, which a headers exchange matches.
    pub fn bind_with(
        mut self,
        queue: impl AsRef<[u8]>,
        exchange: impl AsRef<[u8]>,
        routing_key: impl AsRef<[u8]>,
        arguments: FieldTable,
    ) -> Self {
        match queue_binding(&queue, &exchange, &routing_key, arguments) {
            Ok(method) => self.bindings.push(Binding::Queue(method)),
            Err(error) => self.fail_binding(&exchange, &queue, &routing_key, error.into()),
        }
        self
    }

    /// Binds the exchange `destination` to the exchange `source`: messages that reach `source` and match are also routed to
    /// `destination`.
    pub fn bind_exchange(
        self,
        destination: impl AsRef<[u8]>,
        source: impl AsRef<[u8]>,
        routing_key: impl AsRef<[u8]>,
    ) -> Self {
        self.bind_exchange_with(destination, source, routing_key, FieldTable::new())
    }

    /// Binds the exchange `destination` to the exchange `source` with arguments, which a headers exchange matches.
    pub fn bind_exchange_with(
        mut self,
        destination: impl AsRef<[u8]>,
        source: impl AsRef<[u8]>,
        routing_key: impl AsRef<[u8]>,
        arguments: FieldTable,
    ) -> Self {
        match exchange_binding(&destination, &source, &routing_key, arguments) {
            Ok(method) => self.bindings.push(Binding::Exchange(method)),
            Err(error) => self.fail_binding(&source, &destination, &routing_key, error.into()),
        }
        self
    }

    /// Adds everything of another topology.
    pub fn and(mut self, other: Self) -> Self {
        self.exchanges.extend(other.exchanges);
        self.queues.extend(other.queues);
        self.bindings.extend(other.bindings);
        self.errors.extend(other.errors);
        self
    }

    /// Returns the number of exchanges, queues and bindings.
    #[must_use]
    pub fn len(&self) -> usize {
        self.exchanges.len() + self.queues.len() + self.bindings.len() + self.errors.len()
    }

    /// Returns whether there are neither exchanges, queues nor bindings.
    #[must_use]
    pub fn is_empty(&self) -> bool {
        self.len() == 0
    }

    fn fail(&mut self, entity: fn(ShortStr) -> Entity, name: impl AsRef<[u8]>, error: CallError) {
        self.errors.push((entity(shortened(&name)), error));
    }

    fn fail_binding(
        &mut self,
        source: impl AsRef<[u8]>,
        destination: impl AsRef<[u8]>,
        routing_key: impl AsRef<[u8]>,
        error: CallError,
    ) {
        let entity = Entity::Binding {
            source: shortened(source),
            destination: shortened(destination),
            routing_key: shortened(routing_key),
        };
        self.errors.push((entity, error));
    }
}

/// Returns the beginning of a name that may be too long.
fn shortened(name: impl AsRef<[u8]>) -> ShortStr {
    ShortStr::truncated(&String::from_utf8_lossy(name.as_ref()))
}

impl Binding {
    fn entity(&self) -> Entity {
        match self {
            Self::Queue(bind) => Entity::Binding {
                source: bind.exchange.clone(),
                destination: bind.queue.clone(),
                routing_key: bind.routing_key.clone(),
            },
            Self::Exchange(bind) => Entity::Binding {
                source: bind.source.clone(),
                destination: bind.destination.clone(),
                routing_key: bind.routing_key.clone(),
            },
        }
    }
}

/// The numbers of exchanges, queues and bindings: there may be thousands.
impl fmt::Debug for Topology {
    fn fmt(&self, f: &mut fmt::Formatter<'_>) -> fmt::Result {
        f.debug_struct("Topology")
            .field("exchanges", &self.exchanges.len())
            .field("queues", &self.queues.len())
            .field("bindings", &self.bindings.len())
            .field("errors", &self.errors)
            .finish()
    }
}
