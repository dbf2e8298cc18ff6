use std::fmt;
use std::time::Duration;

use amqp_client_core::error::chain;
use amqp_client_core::{CallError, ConsumerEnd, Delivery, proto};
use thiserror::Error;

use crate::codec::BoxError;
use crate::handler::Verdict;

/// What a worker reports: see [`Work::on_event`](super::Work::on_event).
#[derive(Debug)]
#[non_exhaustive]
pub enum WorkEvent<'a> {
    /// A message was not handled: its verdict is a retry or a refusal.
    Failed {
        /// The message, unless its handler took the delivery.
        message: Option<&'a proto::Delivery>,
        /// The verdict, with the reason.
        verdict: &'a Verdict,
        /// Where the failure was found.
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
    /// The copy of a message could not be published to be retried or parked. After a second, the message is requeued.
    NotPublished {
        /// The message.
        message: &'a proto::Delivery,
        /// The queue for the copy.
        queue: &'a str,
        /// The reason.
        error: &'a BoxError,
    },
}

/// Where the failure of a message was found.
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
            Self::NotPublished { message, queue, error } => {
                let (message, error) = (name(&Some(message)), chain(&***error));
                write!(f, "{message}: its copy could not be published to {queue:?}: {error}")
            }
        }
    }
}

/// What a worker did, and what it left.
#[derive(Debug, Default)]
#[non_exhaustive]
pub struct Summary {
    /// Messages that were handled.
    pub done: u64,
    /// Messages that were requeued by [`Verdict::Return`].
    pub returned: u64,
    /// Messages to be tried again.
    pub retried: u64,
    /// Messages that were refused, including those that had no attempt left.
    pub refused: u64,
    /// Number of handlers that panicked. Their messages are also counted as retried or refused.
    pub panicked: u64,
    /// Deliveries whose handlers had not finished at the end of the grace period. The handlers were dropped. A delivery that you
    /// drop is requeued.
    pub unfinished: Vec<Delivery>,
}

/// A worker could not start, or was ended by the broker or a loss.
#[derive(Error)]
#[non_exhaustive]
pub enum WorkError {
    /// The worker could not start: a channel could not be opened, or the queue could not be consumed.
    #[error("the worker could not start")]
    Start(#[from] CallError),
    /// The consumer ended. The handlers that were running have finished.
    #[error("the consumer of the worker ended")]
    Ended {
        /// The reason.
        #[source]
        end: ConsumerEnd,
        /// What the worker did before.
        summary: Box<Summary>,
    },
}

impl fmt::Debug for WorkError {
    fn fmt(&self, f: &mut fmt::Formatter<'_>) -> fmt::Result {
        fmt::Display::fmt(&chain(self), f)
    }
}
