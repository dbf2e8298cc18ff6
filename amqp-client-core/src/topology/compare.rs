use std::fmt;

use amqp_proto::ReplyCode;
use amqp_proto::method::{ExchangeDeclare, QueueDeclare, Request};
use amqp_proto::session::Entity;
use futures_util::stream::{self, StreamExt as _, TryStreamExt as _};

use super::apply::mismatch_of;
use super::mismatch::Mismatch;
use super::{Topology, TopologyError};
use crate::connection::Connection;
use crate::error::CallError;

/// The largest number of channels that are used at the same time.
const AT_ONCE: usize = 32;

/// The number of channels to use at the same time: some brokers allow a connection only a few.
fn at_once(connection: &Connection) -> usize {
    let max = connection.negotiated().map_or(AT_ONCE, |limits| usize::from(limits.channel_max));
    // With none free, the error of the first one says so.
    max.saturating_sub(connection.health().channels).clamp(1, AT_ONCE)
}

impl Topology {
    /// Compares the exchanges and queues with those of the broker, and returns the differences.
    ///
    /// AMQP has no request that reads options. So for each entity that exists (seen by a passive declaration), this declares it with
    /// the options of this topology, and reads the broker's refusal. An entity that is deleted in between would be created. Entities
    /// that do not exist are not created. RabbitMQ names one option of each entity, even if several differ. Bindings cannot be
    /// compared.
    ///
    /// Each entity has a channel of its own, because the broker closes it in case of a difference. At the same time, these are up to 32,
    /// and no more than the connection has free. Nothing is noted for recovery.
    ///
    /// ```no_run
    /// # use amqp_client_core as amqp_client_tokio;
    /// # use amqp_client_tokio::{Connection, topology::Topology};
    /// # async fn example(connection: Connection, topology: Topology) -> Result<(), Box<dyn std::error::Error>> {
    /// for difference in topology.compare(&connection).await? {
    ///     println!("{difference}");
    /// }
    /// # Ok(())
    /// # }
    /// ```
    ///
    /// # Errors
    /// [`TopologyError`], if an entity could not be compared: for example, the connection was lost, or the user may not configure it.
    ///
    /// # Cancel safety
    /// Dropping the future leaves nothing behind.
    pub async fn compare(&self, connection: &Connection) -> Result<Vec<Difference>, TopologyError> {
        if let Some((entity, error)) = self.errors.first() {
            return Err(TopologyError::new(entity.clone(), error.clone()));
        }
        // By loops: with closures, the compiler would not see that this future is `Send`.
        let mut exchanges = Vec::new();
        for declare in &self.exchanges {
            let entity = Entity::Exchange(declare.exchange.clone());
            let exchange = declare.exchange.clone();
            let passive = ExchangeDeclare { exchange, passive: true, ..<_>::default() };
            let active = (!declare.passive).then(|| declare.clone());
            exchanges.push(compare_one(connection, entity, passive, active));
        }
        let mut queues = Vec::new();
        for declare in &self.queues {
            let entity = Entity::Queue(declare.queue.clone());
            let queue = declare.queue.clone();
            let passive = QueueDeclare { queue, passive: true, ..<_>::default() };
            let active = (!declare.passive).then(|| declare.clone());
            queues.push(compare_one(connection, entity, passive, active));
        }
        let at_once = at_once(connection);
        let exchanges: Vec<_> = stream::iter(exchanges).buffered(at_once).try_collect().await?;
        let queues: Vec<_> = stream::iter(queues).buffered(at_once).try_collect().await?;
        Ok(exchanges.into_iter().chain(queues).flatten().collect())
    }
}

async fn compare_one<R: Request>(
    connection: &Connection,
    entity: Entity,
    passive: R,
    active: Option<R>,
) -> Result<Option<Difference>, TopologyError> {
    let compared = async {
        let channel = connection.open_channel().await?.unrecovered();
        channel.request_done(passive).await?;
        if let Some(active) = active {
            channel.request_done(active).await?;
        }
        channel.close().await
    };
    let Err(error) = compared.await else { return Ok(None) };
    let discrepancy = match (error.reply_code(), mismatch_of(&error)) {
        (Some(ReplyCode::NOT_FOUND), _) => Discrepancy::Missing,
        (Some(ReplyCode::RESOURCE_LOCKED), _) => Discrepancy::Locked,
        (_, Some(mismatch)) => Discrepancy::Differs(mismatch),
        // The text may have been truncated, or the options are never accepted.
        (Some(ReplyCode::PRECONDITION_FAILED), None) => Discrepancy::Refused(error),
        _ => return Err(TopologyError::new(entity, error)),
    };
    Ok(Some(Difference { entity, discrepancy }))
}

/// A difference between a topology and the broker; see [`Topology::compare`].
///
/// ```no_run
/// # use amqp_client_core as amqp_client_tokio;
/// # use amqp_client_tokio::{Connection, topology::Topology};
/// use amqp_client_tokio::topology::Discrepancy;
///
/// # async fn example(connection: Connection, topology: Topology) -> Result<(), Box<dyn std::error::Error>> {
/// let differences = topology.compare(&connection).await?;
/// let missing = differences.iter().filter(|one| one.discrepancy == Discrepancy::Missing);
/// println!("{} are missing", missing.count());
/// # Ok(())
/// # }
/// ```
#[derive(Debug, Clone, PartialEq, Eq)]
#[non_exhaustive]
pub struct Difference {
    /// The exchange or queue.
    pub entity: Entity,
    /// The difference.
    pub discrepancy: Discrepancy,
}

/// The difference between an exchange or queue of the broker and that of the topology.
///
/// ```
/// use amqp_client_core::topology::Discrepancy;
///
/// assert_eq!(Discrepancy::Missing.to_string(), "does not exist at the broker");
/// ```
#[derive(Debug, Clone, PartialEq, Eq)]
#[non_exhaustive]
pub enum Discrepancy {
    /// It does not exist.
    Missing,
    /// It exists, and an option is different.
    Differs(Mismatch),
    /// Another connection holds the queue exclusively, or it is exclusive here and not at the broker.
    Locked,
    /// The broker refuses the options for another reason.
    Refused(CallError),
}

impl fmt::Display for Difference {
    fn fmt(&self, f: &mut fmt::Formatter<'_>) -> fmt::Result {
        write!(f, "{} {}", self.entity, self.discrepancy)
    }
}

impl fmt::Display for Discrepancy {
    fn fmt(&self, f: &mut fmt::Formatter<'_>) -> fmt::Result {
        match self {
            Self::Missing => f.write_str("does not exist at the broker"),
            Self::Differs(mismatch) => write!(f, "differs: {mismatch}"),
            Self::Locked => {
                f.write_str("is exclusive to another connection, or exclusive only here")
            }
            Self::Refused(error) => write!(f, "was refused: {error}"),
        }
    }
}
