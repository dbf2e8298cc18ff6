//! Interceptors: code that sees each message of a connection, and can add headers.
//!
//! Use an interceptor for tasks that concern all messages: traces, metrics, signatures, an audit log. The crate `amqp-client-otel`
//! contains an interceptor for OpenTelemetry.
//!
//! ```
//! # use amqp_client_core as amqp_client_tokio;
//! use amqp_client_tokio::Target;
//! use amqp_client_tokio::intercept::{Intercept, OutgoingMessage, PublishOutcome, Published};
//! use std::sync::Arc;
//! use std::sync::atomic::{AtomicU64, Ordering};
//!
//! /// Marks each message with the name of the service, and counts messages that were not confirmed.
//! struct Marks {
//!     service: &'static str,
//!     failed: Arc<AtomicU64>,
//! }
//!
//! impl Intercept for Marks {
//!     fn publish(&self, message: &mut OutgoingMessage<'_>) -> Option<Box<dyn Published>> {
//!         // Without room for the header, the message goes out without it.
//!         let _added = message.insert_header("x-service", self.service);
//!         Some(Box::new(CountFailure(self.failed.clone())))
//!     }
//! }
//!
//! struct CountFailure(Arc<AtomicU64>);
//!
//! impl Published for CountFailure {
//!     fn ended(self: Box<Self>, outcome: PublishOutcome<'_>) {
//!         if let PublishOutcome::NotSent(_) | PublishOutcome::Failed(_) = outcome {
//!             self.0.fetch_add(1, Ordering::Relaxed);
//!         }
//!     }
//! }
//!
//! let failed = Arc::new(AtomicU64::new(0));
//! let target: Target = "amqp://rabbit-1".parse()?;
//! let target = target.intercept(Marks { service: "billing", failed: failed.clone() });
//! # Ok::<(), amqp_client_core::ConnectError>(())
//! ```
//!
//! # What an interceptor may do
//! Its methods run outside of the connection's lock, so they may use handles of the connection. They run in the task that
//! publishes, or that takes or settles a delivery. The exception is [`Published::ended`]: if the outcome comes from the broker, the
//! task that drives the connection calls it. So `ended` must not block: it would delay heartbeats and all other messages of the
//! connection.
//!
//! A panic of an interceptor is caught, and the message continues as if the interceptor had returned `None`.
//!
//! # Cost
//! Without an interceptor, each message costs a check that there is none. With one, each publish encodes its properties, and
//! allocates memory for them and for each observer that the interceptor returns. [Prepared publishers](crate::PreparedPublisher)
//! then encode each message anew, and `publish_all` takes the lock once for each message.

mod both;
mod observers;
mod outgoing;
mod scope;
mod source;
mod watched;

pub use outgoing::{HeaderError, OutgoingMessage};
pub use scope::{HandlerScope, Scope};
pub use source::Source;

pub(crate) use both::Interceptor;
pub(crate) use observers::{Observers, ProcessingId};
pub(crate) use watched::Watched;

use amqp_proto::Delivery;

use crate::error::{ConfirmError, PublishError};

/// Sees each message that the application publishes or takes; see the [module](self).
///
/// Set it with [`Target::intercept`](crate::Target::intercept) or [`Config::intercept`](crate::Config::intercept).
pub trait Intercept: Send + Sync + 'static {
    /// Called for each message before it is published, whether or not its publisher uses confirms. The returned observer gets the
    /// outcome.
    ///
    /// The publish may still have to wait afterwards, for example while the broker blocks publishing.
    /// [`try_publish`](crate::Publisher::try_publish) does not wait: the outcome is then [`PublishOutcome::NotSent`], and a further
    /// attempt counts as another publish.
    fn publish(&self, message: &mut OutgoingMessage<'_>) -> Option<Box<dyn Published>> {
        let _ = message;
        None
    }

    /// Called once for each call that publishes several messages, before the first of them. `to` is the first message. If this
    /// method returns a batch, the batch gets the messages instead of [`publish`](Self::publish).
    fn publish_all(&self, to: &OutgoingMessage<'_>) -> Option<Box<dyn PublishBatch>> {
        let _ = to;
        None
    }

    /// Called for each delivery when the application takes it from its consumer, or fetches it with `basic.get`. Not called for
    /// deliveries that wait in the client. The returned observer is kept until the delivery is settled or dropped.
    fn deliver(&self, delivery: &Delivery, from: Source<'_>) -> Option<Box<dyn Processing>> {
        let _ = (delivery, from);
        None
    }
}

/// The messages of one call of [`publish_all`](crate::PreparedPublisher::publish_all), in their order. Dropped when the last of
/// them is queued, or when the call ends before that.
pub trait PublishBatch: Send {
    /// As [`Intercept::publish`], for the messages of the batch.
    fn publish(&mut self, message: &mut OutgoingMessage<'_>) -> Option<Box<dyn Published>>;
}

/// Observes one publish.
///
/// The observer is dropped without a call of [`ended`](Self::ended) in two cases: if the future of the publish is dropped while it
/// waits, or if all handles of the channel are dropped before the broker has confirmed the message.
pub trait Published: Send {
    /// The publish has ended. If the connection is lost, the publish of a [kept](crate::OnLoss::Keep) message goes on, and
    /// ends when its outcome is known.
    ///
    /// The task that drives the connection calls this method if the outcome comes from the broker, so it must not block.
    fn ended(self: Box<Self>, outcome: PublishOutcome<'_>);
}

/// The outcome of a publish.
#[derive(Debug, Clone, Copy, PartialEq)]
#[non_exhaustive]
pub enum PublishOutcome<'a> {
    /// The broker has confirmed the message.
    Confirmed,
    /// The message is queued for sending, on a channel without publisher confirms. Nothing more will be known about it.
    Queued,
    /// The message was not sent.
    NotSent(&'a PublishError),
    /// The message was refused or returned, or its outcome is unknown.
    Failed(&'a ConfirmError),
}

/// Observes the processing of one delivery, from when the application takes it until it is settled.
pub trait Processing: Send {
    /// The delivery was settled, or dropped without being settled. Called in the task that settled or dropped it.
    fn settled(self: Box<Self>, how: Settled);

    /// Returns the scope in which the code that handles the delivery runs, if it needs one; see [`Scope`].
    fn scope(&self) -> Option<std::sync::Arc<dyn Scope>> {
        None
    }
}

/// How a delivery was settled.
#[derive(Debug, Clone, Copy, PartialEq, Eq)]
#[non_exhaustive]
pub enum Settled {
    /// Acknowledged.
    Acked,
    /// Returned to the broker with `basic.nack`.
    Nacked {
        /// The broker requeues it. Otherwise it drops or dead-letters it.
        requeue: bool,
    },
    /// Rejected with `basic.reject`.
    Rejected {
        /// The broker requeues it. Otherwise it drops or dead-letters it.
        requeue: bool,
    },
    /// Dropped without being settled, so it is requeued.
    Dropped,
    /// Dropped without being settled, and kept by its channel; see [`Channel::hold_until_closed`](crate::Channel::hold_until_closed).
    Held,
    /// Dropped by a panic, and rejected.
    Panicked {
        /// The broker requeues it. Otherwise it drops or dead-letters it.
        requeue: bool,
    },
    /// The delivery needed no acknowledgement, and was dropped.
    Unneeded,
    /// Settling had no effect, because the broker has requeued the message: the connection was lost since the delivery.
    Stale,
    /// Settling had no effect, because the channel is closed. The broker has requeued the message.
    ChannelClosed,
    /// Settled together with a later delivery, or by its delivery tag.
    Elsewhere,
    /// [Taken apart](crate::Delivery::into_message). The application settles it by its delivery tag.
    Detached,
}

/// Calls code of an interceptor. A panic in it is caught.
pub(crate) fn observed<T>(observe: impl FnOnce() -> Option<T>) -> Option<T> {
    let mut observer = None;
    crate::panics::contained(|| observer = observe());
    observer
}

/// Reports the outcome of a publish.
pub(crate) fn report(observer: Box<dyn Published>, outcome: PublishOutcome<'_>) {
    crate::panics::contained(|| observer.ended(outcome));
}
