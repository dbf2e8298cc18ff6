//! The fate of a message by its verdict.

use std::error::Error;
use std::fmt;
use std::future::Future;
use std::pin::Pin;
use std::sync::Arc;
use std::time::Duration;

use amqp_client_core::intercept::HandlerScope;
use amqp_client_core::{
    Connection, Delivery, Message, OnLoss, PublishError, Publisher, PublisherOptions, SendError,
};
use futures_util::FutureExt as _;
use futures_util::future::Shared;

use crate::codec::BoxError;
use crate::handler::Verdict;
use crate::history::{self, Copy};
use crate::retry::{self, Retry, RetryStrategy};

/// The time for which a message waits to be requeued if its copy could not be published.
const PAUSE: Duration = Duration::from_secs(1);

/// The destinations of messages that failed.
pub(super) struct Policy {
    connection: Connection,
    /// Publishes copies. Opened for the first copy, and again if its channel was closed. Copies that need it meanwhile share it.
    publisher: Option<Opening>,
    failed_to: Option<Arc<str>>,
    retries: Retries,
}

type Opening = Shared<Pin<Box<dyn Future<Output = Opened> + Send>>>;
type Opened = Result<Publisher, Arc<dyn Error + Send + Sync>>;

/// The way in which messages are tried again.
pub(super) enum Retries {
    /// They are requeued at once.
    None,
    /// By the broker.
    Broker {
        retry: Retry,
        /// The strategy by which they are delayed. Never [`RetryStrategy::Best`].
        strategy: RetryStrategy,
        queue: Box<str>,
    },
    /// With the same delivery.
    Here(Retry),
}

/// A step that takes time, and the number of its job.
pub(super) type Step = Pin<Box<dyn Future<Output = (usize, Settled)> + Send>>;

pub(super) enum Settled {
    /// The copy of the message was published to this queue and confirmed.
    Published,
    /// It was not.
    NotPublished(Arc<str>, BoxError),
    /// The pause after that is over.
    Paused,
}

/// An action on a delivery.
#[derive(Debug)]
pub(super) enum Action {
    Ack,
    Requeue,
    Reject {
        requeue: bool,
    },
    /// Publish a copy to a queue, to be tried again, and then acknowledge the original.
    Retry(Arc<str>, Message),
    /// The same, to be parked.
    Park(Arc<str>, Message),
    /// Handle the same delivery again after this time.
    Again(Duration),
}

impl Action {
    /// The kind of the line about it in the log.
    pub(super) const fn kind(&self) -> &'static str {
        match self {
            Self::Ack => "acknowledged",
            Self::Requeue | Self::Reject { requeue: true } => "requeued",
            Self::Reject { requeue: false } => "rejected",
            Self::Retry(..) | Self::Again(_) => "retried",
            Self::Park(..) => "parked",
        }
    }
}

/// For log lines: what the message is.
impl fmt::Display for Action {
    fn fmt(&self, f: &mut fmt::Formatter<'_>) -> fmt::Result {
        match self {
            Self::Ack => f.write_str("acknowledged"),
            Self::Requeue | Self::Reject { requeue: true } => f.write_str("requeued"),
            Self::Reject { requeue: false } => {
                f.write_str("rejected: the queue dead-letters or drops it")
            }
            Self::Retry(queue, _) => write!(f, "tried again, after a wait in {queue:?}"),
            Self::Park(queue, _) => write!(f, "parked in {queue:?}"),
            Self::Again(delay) => write!(f, "tried again after {delay:?}"),
        }
    }
}

impl Policy {
    pub(super) fn new(connection: &Connection, retries: Retries, failed_to: Option<&str>) -> Self {
        let failed_to = match (failed_to, &retries) {
            (Some(queue), _) => Some(Arc::from(queue)),
            (None, Retries::Broker { queue, .. }) => Some(Arc::from(retry::failed(queue))),
            (None, _) => None,
        };
        Self { connection: connection.clone(), publisher: None, failed_to, retries }
    }

    /// Decides what becomes of a delivery that has failed before as often as `failures` says.
    pub(super) fn decide(&self, delivery: &Delivery, verdict: &Verdict, failures: u32) -> Action {
        match (verdict, &self.retries) {
            (Verdict::Done, _) => Action::Ack,
            (Verdict::Requeue, Retries::Here(_)) => Action::Again(PAUSE),
            (Verdict::Requeue, _) => Action::Requeue,
            (Verdict::Retry(_), Retries::None) => Action::Reject { requeue: true },
            (Verdict::Retry(why), Retries::Here(retry)) => {
                let delay = retry.delay(failures.saturating_add(1));
                delay.map_or_else(|| self.park(delivery, why), Action::Again)
            }
            (Verdict::Retry(why), Retries::Broker { retry, strategy, queue }) => {
                self.retry(delivery, why, (*retry, *strategy, queue))
            }
            (Verdict::Refuse(why), _) => self.park(delivery, why),
        }
    }

    fn retry(
        &self,
        delivery: &Delivery,
        why: &BoxError,
        (retry, strategy, queue): (Retry, RetryStrategy, &str),
    ) -> Action {
        let counted = match strategy {
            RetryStrategy::Queues => {
                history::retries(delivery).map(|copies| copies.saturating_add(1))
            }
            // The queue counts. The first attempt precedes the first retry.
            _ => history::attempt(delivery),
        };
        // Without a count, the message would be tried for ever.
        let Some((number, delay)) =
            counted.ok().and_then(|number| Some((number, retry.delay(number)?)))
        else {
            return self.park(delivery, why);
        };
        if strategy != RetryStrategy::Queues {
            return Action::Reject { requeue: true };
        }
        let queue = retry::waiting(queue, delay).into();
        Action::Retry(queue, history::copy(delivery, Copy::Retry(number), why))
    }

    fn park(&self, delivery: &Delivery, why: &BoxError) -> Action {
        let Some(queue) = &self.failed_to else { return Action::Reject { requeue: false } };
        Action::Park(queue.clone(), history::copy(delivery, Copy::Parked, why))
    }

    /// Publishes the copy of a message, in the scope of the delivery: what happens because of a message belongs to it.
    pub(super) fn publish(
        &mut self,
        job: usize,
        queue: Arc<str>,
        message: Message,
        scope: HandlerScope,
    ) -> Step {
        let publisher = self.publisher();
        let failed_to = self.failed_to.clone().unwrap_or_else(|| queue.clone());
        Box::pin(async move {
            let published = scope.wrap(publish(publisher, &queue, &message, &failed_to));
            let settled = match published.await {
                Ok(()) => Settled::Published,
                Err(error) => Settled::NotPublished(queue, error),
            };
            (job, settled)
        })
    }

    fn publisher(&mut self) -> Opening {
        let usable = |opening: &Opening| match opening.peek() {
            None => true,
            Some(opened) => opened.as_ref().is_ok_and(Publisher::is_open),
        };
        if let Some(opening) = self.publisher.as_ref().filter(|opening| usable(opening)) {
            return opening.clone();
        }
        let opening =
            open(self.connection.clone()).map(|opened| opened.map_err(Arc::from)).boxed().shared();
        self.publisher.insert(opening).clone()
    }

    /// Waits before a message is requeued whose copy could not be published: it would fail again at once.
    pub(super) fn pause(&self, job: usize) -> Step {
        let pause = self.connection.after(PAUSE);
        Box::pin(async move {
            // If the connection has ended, the broker has requeued the message.
            let _over = pause.await;
            (job, Settled::Paused)
        })
    }
}

async fn open(connection: Connection) -> Result<Publisher, BoxError> {
    let channel = connection.open_channel().await?;
    // A loss requeues the messages. A copy that is published after it would be one more.
    let options = PublisherOptions::new().on_loss(OnLoss::Fail);
    Ok(channel.default_exchange().publisher(options)?)
}

async fn publish(
    publisher: Opening,
    queue: &str,
    message: &Message,
    failed_to: &str,
) -> Result<(), BoxError> {
    let publisher = publisher.await?;
    let mut sent = publisher.send_message(queue, message).await;
    if is_too_large(&sent) {
        sent = publisher.send_message(queue, &history::without_failure(message)).await;
    }
    if is_too_large(&sent) {
        // Nothing can count its attempts, so they are over.
        sent = publisher.send_message(failed_to, &history::without_history(message)).await;
    }
    Ok(sent?)
}

/// Returns whether the headers of a copy do not fit into a frame.
fn is_too_large(sent: &Result<(), SendError>) -> bool {
    matches!(sent, Err(SendError::NotSent(PublishError::PropertiesTooLarge { .. })))
}
