use alloc::sync::Arc;
use core::fmt;
use core::time::Duration;

use crate::ConnectionError;
use crate::config::setters;

/// The policy by which a [`Session`](super::Session) reconnects and restores its state when its transport is lost.
///
/// ```
/// # use amqp_proto::session::{OnCancel, Recovery};
/// use std::time::Duration;
///
/// let recovery = Recovery::default()
///     .delay_max(Duration::from_secs(30))
///     .give_up_after(Some(Duration::from_secs(600)))
///     .on_cancel(OnCancel::Resubscribe)
///     .reopen_channels(true)
///     .recovers(|error| error.is_recoverable() && error.is_transient());
/// ```
#[derive(Debug, Clone)]
pub struct Recovery {
    pub(crate) recovers: Recovers,
    pub(crate) delay_min: Duration,
    pub(crate) delay_max: Duration,
    pub(crate) attempts_max: Option<u32>,
    pub(crate) give_up_after: Option<Duration>,
    pub(crate) on_cancel: OnCancel,
    pub(crate) reopen_channels: bool,
    pub(crate) locked: Locked,
    pub(crate) retry_locked: bool,
    pub(crate) keep_max: usize,
    pub(crate) attempt_timeout: Option<Duration>,
    pub(crate) seed: Option<u64>,
}

setters! {
    Recovery {
        /// Sets the backoff of a node after its first failure. It doubles with each further failure. Half of it is random (jitter),
        /// so that the clients of a restarted broker do not all reconnect at once. Default 100 ms.
        ///
        /// At least 1 ms, like `delay_max` and the time of [`Locked::Retry`]: otherwise an attempt that is refused at once would be
        /// repeated without a pause.
        delay_min: Duration,
        /// Sets the maximum backoff of a node. A connection that does not last that long counts as a failure, too. Default 5 s.
        delay_max: Duration,
        /// Sets the number of consecutive attempts after which to give up; `None` means never, and 0 counts as 1. Default `None`.
        attempts_max: Option<u32>,
        /// Sets the time after a loss at which to give up; zero gives up at once, `None` never. Default `None`.
        give_up_after: Option<Duration>,
        /// Sets the policy for a consumer that the broker cancels. Default [`OnCancel::End`].
        on_cancel: OnCancel,
        /// Sets whether to reopen a channel that the broker closed because of an error, and to restore its state. The operation that
        /// caused the error fails either way and is not repeated: a request, or a [kept](super::SessionChannel::publish_kept)
        /// message that the broker refuses ([`ChannelEvent::PublishFailed`](crate::ChannelEvent::PublishFailed)). Default false.
        ///
        /// The channel is reopened at once. If the broker closes it again within a second, or within twice the last delay, it is
        /// reopened after `delay_min`, then after twice that, up to `delay_max`.
        reopen_channels: bool,
        /// Sets the policy for a queue that another connection holds exclusively (405, `RESOURCE_LOCKED`), or that another consumer
        /// consumes exclusively (403, `in exclusive use`). Mostly, that is the lost connection, whose end the broker has not
        /// noticed yet. Each attempt needs a channel number that is not in use. Default: retry every second, for as long as it takes.
        locked: Locked,
        /// Sets whether to retry the first declaration of such a queue, too. That helps when a program was restarted and the broker
        /// has not noticed yet that its earlier connection has ended. The request gets no reply until the queue is free; bound it by
        /// a timeout. The broker closes the channel each time (405): it is reopened with its state, as by `reopen_channels`, and
        /// everything else that was pending on it fails. Default false.
        retry_locked: bool,
        /// Sets the maximum number of bytes of [kept](super::SessionChannel::publish_kept) messages: those that are kept until they
        /// are confirmed. Publishing waits when there is no room. One message is always kept, even if this is 0. After a loss, all
        /// kept messages are queued for the transport at once, small ones as a copy. Default 16 MiB.
        keep_max: usize,
        /// Sets how long an attempt to connect may take before it counts as failed, from
        /// [`Reconnect::Connect`](super::Reconnect::Connect) to the call that reports its result. The handshake that follows has
        /// [its own timeout](crate::ClientConfig::handshake_timeout). `None` waits forever. Default 60 s. The clients have a shorter
        /// timeout, `connect_timeout`.
        attempt_timeout: Option<Duration>,
        /// Sets the seed of jitter and node order. Sessions with equal seeds behave alike, so set it in tests only. Default `None`:
        /// a random seed; without the standard library, a seed derived from the time at which recovery was turned on.
        seed: Option<u64>,
    }
}

/// Policy for a consumer that the broker cancels, for example because its queue is deleted or moves to another node.
///
/// ```
/// # use amqp_proto::session::{OnCancel, Recovery};
/// let recovery = Recovery::default().on_cancel(OnCancel::Resubscribe);
/// ```
#[derive(Debug, Clone, Copy, PartialEq, Eq, Default)]
#[non_exhaustive]
pub enum OnCancel {
    /// The consumer ends.
    #[default]
    End,
    /// The consumer is started again. Its queue is declared again if this session declared it. A consumer of a stream resumes at
    /// the first delivery that was not settled.
    ///
    /// The session declares the queue on its own channel. If all channels of the connection are in use, the consumer ends with an
    /// error that names the reason.
    Resubscribe,
}

/// The minimum time between two attempts, regardless of [`Recovery`].
pub(super) const LEAST_DELAY: Duration = Duration::from_millis(1);

/// Policy for a queue that another connection holds exclusively.
///
/// ```
/// # use amqp_proto::session::{Locked, Recovery};
/// use std::time::Duration;
///
/// let recovery = Recovery::default().locked(Locked::Retry(Duration::from_secs(5)));
/// ```
#[derive(Debug, Clone, Copy, PartialEq, Eq)]
#[non_exhaustive]
pub enum Locked {
    /// Retry after that time, until it succeeds. At least 1 ms.
    ///
    /// Waiting does not disturb other consumers. The session declares queues on a channel of its own, and asks there for the
    /// number of consumers before it starts an exclusive one. If another connection is faster, the broker closes the consumer's
    /// channel once, and the session reopens it at once. A broker that does not count consumers, unlike RabbitMQ, closes the
    /// channel at each retry: use a separate channel for such a consumer. While all channels of the connection are in use, nothing
    /// is retried.
    Retry(Duration),
    /// Treat the queue as not restored.
    Fail,
}

/// Decides whether a session recovers from an error; `None` asks the error.
#[derive(Clone)]
pub(crate) struct Recovers(Option<Arc<Decide>>);

type Decide = dyn Fn(&ConnectionError) -> bool + Send + Sync;

impl Recovers {
    pub(super) fn from(&self, error: &ConnectionError) -> bool {
        match &self.0 {
            Some(decide) => decide(error),
            None => error.is_recoverable(),
        }
    }
}

impl fmt::Debug for Recovers {
    fn fmt(&self, f: &mut fmt::Formatter<'_>) -> fmt::Result {
        f.write_str(if self.0.is_some() { "Fn" } else { "is_recoverable" })
    }
}

impl Recovery {
    /// Decides whether a connection that failed with an error is recovered. Default [`ConnectionError::is_recoverable`]. Clients
    /// call the closure while they hold the lock of the connection, so it must not use handles of that connection.
    #[must_use]
    pub fn recovers(
        mut self,
        decide: impl Fn(&ConnectionError) -> bool + Send + Sync + 'static,
    ) -> Self {
        self.recovers = Recovers(Some(Arc::new(decide)));
        self
    }
}

impl Default for Recovery {
    fn default() -> Self {
        Self {
            recovers: Recovers(None),
            delay_min: Duration::from_millis(100),
            delay_max: Duration::from_secs(5),
            attempts_max: None,
            give_up_after: None,
            on_cancel: OnCancel::End,
            reopen_channels: false,
            locked: Locked::Retry(Duration::from_secs(1)),
            retry_locked: false,
            keep_max: 16 * 1024 * 1024,
            attempt_timeout: Some(Duration::from_secs(60)),
            seed: None,
        }
    }
}
