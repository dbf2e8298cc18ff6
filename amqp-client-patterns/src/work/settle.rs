//! What becomes of a message by its verdict.

use std::future::Future;
use std::pin::Pin;
use std::sync::Arc;
use std::time::Duration;

use amqp_client_core::{Connection, Delivery, Message, Publisher, PublisherOptions};

use super::Options;
use crate::codec::BoxError;
use crate::handler::Verdict;
use crate::history::{self, Copy};

/// How long a message waits to be requeued if its copy could not be published.
const PAUSE: Duration = Duration::from_secs(1);

/// Where messages go that failed.
pub(super) struct Policy {
    connection: Connection,
    /// Publishes copies. Opened for the first copy, and again if its channel was closed.
    publisher: Option<Publisher>,
    failed_to: Option<Arc<str>>,
}

/// A step that takes time, and the number of its job.
pub(super) type Step = Pin<Box<dyn Future<Output = (usize, Settled)> + Send>>;

pub(super) enum Settled {
    /// The copy of the message was published to this queue and confirmed.
    Published(Publisher),
    /// It was not.
    NotPublished(Arc<str>, BoxError),
    /// The pause after that is over.
    Paused,
}

/// What to do with a delivery.
#[derive(Debug)]
pub(super) enum Action {
    Ack,
    Requeue,
    Reject {
        requeue: bool,
    },
    /// Publish a copy to a queue, and then acknowledge the original.
    Publish(Arc<str>, Message),
}

impl Policy {
    pub(super) fn new(connection: &Connection, options: &Options) -> Self {
        let failed_to = options.failed_to.as_deref().map(Arc::from);
        Self { connection: connection.clone(), publisher: None, failed_to }
    }

    /// Decides what becomes of a delivery.
    pub(super) fn decide(&self, delivery: &Delivery, verdict: &Verdict) -> Action {
        match verdict {
            Verdict::Done => Action::Ack,
            Verdict::Return => Action::Requeue,
            Verdict::Retry(_) => Action::Reject { requeue: true },
            Verdict::Refuse(why) => self.park(delivery, why),
        }
    }

    fn park(&self, delivery: &Delivery, why: &BoxError) -> Action {
        let Some(queue) = &self.failed_to else { return Action::Reject { requeue: false } };
        Action::Publish(queue.clone(), history::copy(delivery, Copy::Parked, why))
    }

    /// Publishes the copy of a message.
    pub(super) fn publish(&self, job: usize, queue: Arc<str>, message: Message) -> Step {
        let connection = self.connection.clone();
        let publisher = self.publisher.clone().filter(Publisher::is_open);
        Box::pin(async move {
            let settled = match publish(&connection, publisher, &queue, &message).await {
                Ok(publisher) => Settled::Published(publisher),
                Err(error) => Settled::NotPublished(queue, error),
            };
            (job, settled)
        })
    }

    /// Keeps the publisher of a copy for the next ones.
    pub(super) fn keep(&mut self, publisher: Publisher) {
        self.publisher = Some(publisher);
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

async fn publish(
    connection: &Connection,
    publisher: Option<Publisher>,
    queue: &str,
    message: &Message,
) -> Result<Publisher, BoxError> {
    let publisher = match publisher {
        Some(publisher) => publisher,
        None => {
            let channel = connection.open_channel().await?;
            channel.default_exchange().publisher(PublisherOptions::new())?
        }
    };
    publisher.send_message(queue, message).await?;
    Ok(publisher)
}
