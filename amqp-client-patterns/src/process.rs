//! Settling one delivery by the result of the code that handles it, for programs that want only that.
//!
//! ```
//! # use amqp_client_tokio::{Message, QueueOptions, connect};
//! use amqp_client_patterns::process::ProcessExt as _;
//!
//! # #[tokio::main(flavor = "current_thread")]
//! # async fn main() -> Result<(), Box<dyn std::error::Error>> {
//! # let broker = amqp_test_broker::Broker::start()?;
//! # let connection = connect(&broker.uri()).await?;
//! # let channel = connection.open_channel().await?;
//! # let queue = channel.queue_declare("numbers", QueueOptions::new()).await?;
//! # queue.publish_confirmed(&Message::new("42")).await?;
//! # let Some(got) = queue.get().await? else { return Ok(()) };
//! # let delivery = got.delivery;
//! let number = delivery.process().reject_redelivered(true).run(async |message| {
//!     let text = std::str::from_utf8(message.body())?;
//!     Ok::<u32, Box<dyn std::error::Error>>(text.parse()?)
//! });
//! assert_eq!(number.await?, 42);
//! # Ok(())
//! # }
//! ```

use std::future::Future;
use std::panic::{AssertUnwindSafe, resume_unwind};

use amqp_client_core::{CallError, Delivery, proto};
use futures_util::FutureExt as _;
use thiserror::Error;

/// Adds [`process`](Self::process) to deliveries.
pub trait ProcessExt {
    /// Processes the delivery in a scope whose result settles it.
    fn process(self) -> Process;
}

impl ProcessExt for Delivery {
    fn process(self) -> Process {
        Process::new(self)
    }
}

/// A scope in which a delivery is processed. Its result settles the delivery:
///
/// | The code | The delivery |
/// |---|---|
/// | returns `Ok` | is acknowledged |
/// | returns an error, or panics | is rejected, and [requeued](Self::requeue) unless the options say otherwise |
/// | is dropped before it returns | is requeued (`basic.nack`), which is not a failure |
#[derive(Debug)]
#[must_use = "call `run`"]
pub struct Process {
    delivery: Delivery,
    requeue: bool,
    reject_redelivered: bool,
}

/// Processing a delivery failed, or its acknowledgement could not be sent.
#[derive(Debug, Error)]
#[expect(clippy::exhaustive_enums, reason = "there is no third step")]
pub enum ProcessError<E> {
    /// The code returned this error, and the delivery was rejected.
    #[error("processing the message failed, and it was rejected: {0}")]
    Failed(E),
    /// The code succeeded, but its channel is closed. The broker delivers the message again.
    #[error(
        "the message was processed, but could not be acknowledged; the broker delivers it again"
    )]
    NotAcknowledged(#[source] CallError),
}

impl Process {
    /// Creates a scope that requeues the delivery if processing it fails.
    pub const fn new(delivery: Delivery) -> Self {
        Self { delivery, requeue: true, reject_redelivered: false }
    }

    /// Sets whether a failed delivery is requeued. Otherwise, it is dead-lettered or dropped. Default `true`.
    pub fn requeue(self, requeue: bool) -> Self {
        Self { requeue, ..self }
    }

    /// Sets whether a failed delivery that may have been delivered before is dead-lettered or dropped, instead of requeued. Default
    /// `false`.
    pub fn reject_redelivered(self, reject: bool) -> Self {
        Self { reject_redelivered: reject, ..self }
    }

    /// Runs the code, and settles the delivery by its result.
    ///
    /// # Errors
    /// [`ProcessError`]: the error of the code, or the reason why the acknowledgement could not be sent.
    ///
    /// # Cancel safety
    /// If the future is dropped, the message is requeued.
    pub async fn run<T, E, F>(
        self,
        code: impl FnOnce(proto::Delivery) -> F,
    ) -> Result<T, ProcessError<E>>
    where
        F: Future<Output = Result<T, E>>,
    {
        let redelivered = self.reject_redelivered && self.delivery.redelivered();
        // The code gets the content by value: it shares the memory, and the future borrows nothing.
        let content = proto::Delivery::clone(&self.delivery);
        let guard = Guard { delivery: Some(self.delivery), requeue: self.requeue && !redelivered };
        // The call may panic before it returns a future.
        let scope = guard.delivery.as_ref().map(Delivery::scope).unwrap_or_default();
        let running = AssertUnwindSafe(scope.wrap(async { code(content).await }));
        match running.catch_unwind().await {
            Ok(Ok(value)) => guard.ack().map(|()| value).map_err(ProcessError::NotAcknowledged),
            Ok(Err(error)) => {
                guard.reject();
                Err(ProcessError::Failed(error))
            }
            Err(panic) => {
                guard.reject();
                resume_unwind(panic)
            }
        }
    }
}

/// Holds a delivery while its code runs.
struct Guard {
    delivery: Option<Delivery>,
    requeue: bool,
}

impl Guard {
    fn ack(mut self) -> Result<(), CallError> {
        self.delivery.take().map_or(Ok(()), Delivery::ack)
    }

    fn reject(mut self) {
        if let Some(delivery) = self.delivery.take() {
            // If the channel is closed, the broker has requeued the delivery.
            let _closed = delivery.reject(self.requeue);
        }
    }
}

impl Drop for Guard {
    fn drop(&mut self) {
        if let Some(delivery) = self.delivery.take() {
            // The same if a panic elsewhere drops the future. A delivery that is dropped would then be rejected.
            let _closed = delivery.nack(true);
        }
    }
}
