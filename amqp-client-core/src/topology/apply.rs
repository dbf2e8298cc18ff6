use std::fmt;

use amqp_proto::session::Entity;

use super::mismatch::Mismatch;
use super::{Binding, Topology};
use crate::channel::Channel;
use crate::error::CallError;
use crate::options::check_queue;
use crate::reply::Reply;

impl Topology {
    /// Declares all exchanges, then all queues, checks what is only [expected to exist](Self::existing_queue), and declares all bindings.
    /// The requests are pipelined: they take one round trip, however many there are. What exists with the same options stays as it is.
    ///
    /// The entities are restored after a loss of the connection, as if they had been declared by
    /// [`queue_declare`](Channel::queue_declare), unless the channel is [`unrecovered`](Channel::unrecovered).
    ///
    /// ```no_run
    /// # use amqp_client_core as amqp_client_tokio;
    /// # use amqp_client_tokio::{Connection, topology::Topology};
    /// # async fn example(connection: Connection, topology: Topology) -> Result<(), Box<dyn std::error::Error>> {
    /// // The broker closes the channel if it refuses something.
    /// let channel = connection.open_channel().await?;
    /// topology.apply(&channel).await?;
    /// # Ok(())
    /// # }
    /// ```
    ///
    /// # Errors
    /// [`TopologyError`], for the first entity that failed, in this order. If options cannot be accepted by the broker
    /// ([`CallError::Options`]), nothing was sent. If the broker refuses an entity, it closes the channel. Everything before that
    /// entity was declared, and nothing after it. An entity whose arguments do not fit into a frame fails alone: what follows is declared.
    ///
    /// # Cancel safety
    /// Everything is sent at the first poll. Dropping the future after that changes nothing at the broker.
    pub async fn apply(&self, channel: &Channel) -> Result<(), TopologyError> {
        let replies = self.send(channel)?;
        for (entity, reply) in replies {
            reply.await.map_err(|error| TopologyError::new(entity, error))?;
        }
        Ok(())
    }

    fn send(&self, channel: &Channel) -> Result<Vec<(Entity, Reply<()>)>, TopologyError> {
        if let Some((entity, error)) = self.errors.first() {
            return Err(TopologyError::new(entity.clone(), error.clone()));
        }
        let version = channel.connection().broker_version();
        for queue in self.declared_queues() {
            check_queue(queue, version.as_ref()).map_err(|error| {
                TopologyError::new(Entity::Queue(queue.queue.clone()), error.into())
            })?;
        }
        let mut replies = Vec::with_capacity(self.len());
        // Another part of the topology may declare what this part expects to exist.
        for passive in [false, true] {
            for exchange in self.exchanges.iter().filter(|one| one.passive == passive) {
                let entity = Entity::Exchange(exchange.exchange.clone());
                replies.push((entity, channel.request_done(exchange.clone())));
            }
            for queue in self.queues.iter().filter(|one| one.passive == passive) {
                let entity = Entity::Queue(queue.queue.clone());
                replies.push((entity, channel.request_done(queue.clone())));
            }
        }
        for binding in &self.bindings {
            let reply = match binding {
                Binding::Queue(bind) => channel.request_done(bind.clone()),
                Binding::Exchange(bind) => channel.request_done(bind.clone()),
            };
            replies.push((binding.entity(), reply));
        }
        Ok(replies)
    }

    /// The queues that are declared, and not only expected to exist.
    pub(super) fn declared_queues(
        &self,
    ) -> impl Iterator<Item = &amqp_proto::method::QueueDeclare> {
        self.queues.iter().filter(|queue| !queue.passive)
    }
}

/// A part of a topology could not be declared.
///
/// ```no_run
/// # use amqp_client_core as amqp_client_tokio;
/// # use amqp_client_tokio::{Channel, topology::Topology};
/// # async fn example(channel: Channel, topology: Topology) {
/// if let Err(error) = topology.apply(&channel).await {
///     println!("{} failed", error.entity);
///     if let Some(mismatch) = error.mismatch() {
///         println!("{} differs: {:?}", mismatch.option, mismatch.current);
///     }
/// }
/// # }
/// ```
#[derive(Debug, Clone, PartialEq, Eq)]
#[non_exhaustive]
pub struct TopologyError {
    /// The exchange, queue or binding.
    pub entity: Entity,
    /// The reason.
    pub error: Box<CallError>,
}

impl TopologyError {
    pub(super) fn new(entity: Entity, error: CallError) -> Self {
        Self { entity, error: Box::new(error) }
    }

    /// Returns the option that is different at the broker, if the entity exists with other options.
    #[must_use]
    pub fn mismatch(&self) -> Option<Mismatch> {
        mismatch_of(&self.error)
    }
}

pub(super) fn mismatch_of(error: &CallError) -> Option<Mismatch> {
    Mismatch::parse(&error.reply_text()?.to_string())
}

impl fmt::Display for TopologyError {
    fn fmt(&self, f: &mut fmt::Formatter<'_>) -> fmt::Result {
        match self.mismatch() {
            Some(mismatch) => write!(
                f,
                "{} exists with other options: {mismatch}; declare it with the same, or delete it first",
                self.entity
            ),
            // The options name the entity by themselves.
            None if matches!(*self.error, CallError::Options(_)) => self.error.fmt(f),
            // Such as a lost connection. What was declared before stays as it is.
            None if self.error.is_transient() => {
                write!(f, "{} was not declared; apply the topology again", self.entity)
            }
            None => write!(f, "{} was not declared", self.entity),
        }
    }
}

impl std::error::Error for TopologyError {
    fn source(&self) -> Option<&(dyn std::error::Error + 'static)> {
        match &*self.error {
            CallError::Options(_) => None,
            error => Some(error),
        }
    }
}

#[cfg(test)]
mod tests {
    use std::time::Duration;

    use amqp_proto::{Misuse, ShortStr};

    use super::*;

    #[test]
    fn an_error_says_whether_to_apply_the_topology_again() {
        let text = |error| {
            TopologyError::new(Entity::Exchange(ShortStr::truncated("x")), error).to_string()
        };
        let timed_out =
            CallError::TimedOut { method: "exchange.declare", after: Duration::from_secs(30) };
        assert_eq!(text(timed_out), "exchange 'x' was not declared; apply the topology again");
        assert_eq!(text(Misuse::NeedsConfirms.into()), "exchange 'x' was not declared");
    }
}
