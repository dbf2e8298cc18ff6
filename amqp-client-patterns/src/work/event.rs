use std::fmt;
use std::time::Duration;

use amqp_client_core::error::chain;
use amqp_client_core::{CallError, ConsumerEnd, Delivery, DeliveryTag, ShortStr, Unusable, proto};
use thiserror::Error;

use crate::codec::BoxError;
use crate::handler::Verdict;
use crate::partitions::GroupEnd;
use crate::shown::debug_shows_chain;

/// An event of a worker: see [`Work::on_event`](super::Work::on_event).
#[derive(Debug)]
#[non_exhaustive]
pub enum WorkEvent<'a> {
    /// A message was not handled: its verdict is a retry or a refusal.
    Failed {
        /// The message, unless its handler took the delivery.
        message: Option<&'a proto::Delivery>,
        /// The verdict, with the reason.
        verdict: &'a Verdict,
        /// The step at which the message failed.
        by: Failure,
    },
    /// A handler has been running for long. The broker closes the channel when a delivery is unacknowledged for longer than its
    /// consumer timeout (`consumer_timeout`, by default 30 minutes).
    Slow {
        /// The message, unless its handler took the delivery.
        message: Option<&'a proto::Delivery>,
        /// The time for which the handler has been running, at least.
        running: Duration,
    },
    /// The client did not accept a message, because its body is larger than
    /// [`Limits::body_max`](amqp_client_core::Limits::body_max). It was held, requeued or rejected, as
    /// [`Limits::oversized`](amqp_client_core::Limits::oversized) configures.
    ///
    /// A message that is held counts against the [prefetch limit](super::Work::prefetch): a worker that holds as many gets no others,
    /// until the broker closes its channel after its consumer timeout. Raise the limit, or let such messages be rejected.
    Unusable {
        /// The delivery tag of the message.
        delivery_tag: DeliveryTag,
        /// The reason.
        why: &'a Unusable,
    },
    /// The copy of a message could not be published to be retried or parked. After a second, the message is requeued, or handled again
    /// if it is of a [group](super#groups).
    NotPublished {
        /// The message.
        message: &'a proto::Delivery,
        /// The queue for the copy.
        queue: &'a str,
        /// The reason.
        error: &'a BoxError,
    },
}

/// The step at which a message failed.
#[derive(Debug, Clone, Copy, PartialEq, Eq, Hash)]
#[non_exhaustive]
pub enum Failure {
    /// An argument of the handler could not be taken, such as the value in the body.
    Arguments,
    /// No route takes the message.
    NoRoute,
    /// The handler returned it.
    Handler,
    /// The handler panicked.
    Panic,
    /// It was not called: the message was delivered [too often](super::Work::deliveries_max).
    Deliveries,
}

/// For log lines.
impl fmt::Display for WorkEvent<'_> {
    fn fmt(&self, f: &mut fmt::Formatter<'_>) -> fmt::Result {
        let name = |message: &Option<&proto::Delivery>| match message {
            Some(message) => format!(
                "message {} with the routing key {:?}",
                message.delivery_tag(),
                message.routing_key()
            ),
            None => "a message".to_owned(),
        };
        match self {
            Self::Failed { message, verdict, .. } => write!(f, "{}: {verdict}", name(message)),
            Self::Slow { message, running } => {
                write!(f, "{}: its handler has been running for {running:?}", name(message))
            }
            Self::Unusable { delivery_tag, why } => {
                write!(f, "message {delivery_tag}: the client does not accept it: {why}")
            }
            Self::NotPublished { message, queue, error } => {
                let (message, error) = (name(&Some(message)), chain(&***error));
                write!(f, "{message}: its copy could not be published to {queue:?}: {error}")
            }
        }
    }
}

/// The counts of a worker that has ended, and its unfinished messages.
#[derive(Debug, Default)]
#[non_exhaustive]
pub struct Summary {
    /// Messages that were handled.
    pub done: u64,
    /// Messages that were requeued, or handled again, by [`Verdict::Requeue`].
    pub requeued: u64,
    /// How often messages were to be tried again.
    pub retried: u64,
    /// Messages that were refused, including those that had no attempt left.
    pub refused: u64,
    /// Number of handlers that panicked. Their messages are also counted as retried or refused.
    pub panicked: u64,
    /// Deliveries whose handlers had not finished at the end of the grace period. The handlers were dropped. A delivery that you
    /// drop is requeued. Those of a [group](super#groups) cannot be settled any more: other members get them.
    pub unfinished: Vec<Delivery>,
}

/// A worker could not start, or was ended by the broker or a loss.
#[derive(Error)]
#[non_exhaustive]
pub enum WorkError {
    /// The worker could not start: a channel could not be opened, or the queue could not be consumed.
    #[error("the worker could not start")]
    Start(#[from] CallError),
    /// Messages cannot be retried, because the name of the queue or of the partitions is not text, or was generated by the broker.
    #[error(
        "messages of the queue {0:?} cannot be retried; declare the queue with a name of its own, in UTF-8"
    )]
    QueueName(ShortStr),
    /// The consumer ended. The handlers that were running had the [grace period](super::Work::grace) to finish.
    #[error("the consumer of the worker ended")]
    Ended {
        /// The reason.
        #[source]
        end: ConsumerEnd,
        /// The counts until then.
        summary: Box<Summary>,
    },
    /// The group of the worker ended. The handlers that were running had the [grace period](super::Work::grace) to finish.
    #[error("the group of the worker ended")]
    GroupEnded {
        /// The reason.
        #[source]
        end: GroupEnd,
        /// The counts until then.
        summary: Box<Summary>,
    },
}

debug_shows_chain! { WorkError }
