use core::time::Duration;

use crate::ConnectionError;

/// How a [`Session`](super::Session) comes back when its transport is lost.
#[derive(Debug, Clone)]
#[non_exhaustive]
pub struct Recovery {
    /// Which ends of a connection are followed by another. Default [`ConnectionError::is_recoverable`].
    pub recovers: fn(&ConnectionError) -> bool,
    /// How long a node is left alone after its first failure; after each further one twice as long. Half of it is left to
    /// chance, so that the clients of a broker that restarts do not all come at once. Default 100 ms.
    ///
    /// At least 1 ms, as are `delay_max` and the time of [`Locked::Retry`]: what is refused at once would be tried again
    /// without a pause otherwise.
    pub delay_min: Duration,
    /// How long it is left alone at most. A connection that does not last that long counts as a failure, too. Default 5 s.
    pub delay_max: Duration,
    /// After how many attempts in a row to give up; `None` never does, and 0 counts as 1. Default `None`.
    pub attempts_max: Option<u32>,
    /// How long after a loss to give up, at once if it is zero; `None` never does. Default `None`.
    pub give_up_after: Option<Duration>,
    /// What a consumer does that the broker cancels. Default [`OnCancel::End`].
    pub on_cancel: OnCancel,
    /// Whether a channel that the broker closed because of an error is opened again, with all it had. What caused the error
    /// fails either way and is not repeated: requests, and [kept](super::Channel::publish_kept) messages that the broker
    /// refuses ([`ChannelEvent::PublishFailed`](crate::ChannelEvent::PublishFailed)). Default false.
    ///
    /// The channel is opened at once. If the broker closes it again within a second, or within twice the last pause, it is
    /// opened after `delay_min`, then after twice that, up to `delay_max`.
    pub reopen_channels: bool,
    /// What to do about a queue that another connection holds exclusively (405, `RESOURCE_LOCKED`), or that another consumer
    /// consumes exclusively (403, `in exclusive use`): mostly that is the lost connection, of whose end the broker does not know
    /// yet. Default: try again every second, for as long as it takes.
    pub locked: Locked,
    /// Whether the first declaration of such a queue is tried again, too, as when a program was started again and the broker
    /// does not know yet that its earlier connection has ended. The request is not answered until the queue is free; bound it
    /// by a timeout. The broker closes the channel each time (405): it is opened again with all it had, as by
    /// `reopen_channels`, and what else was under way on it fails. Default false.
    pub retry_locked: bool,
    /// How many octets of messages are kept until they are confirmed, for channels that
    /// [keep](super::Channel::publish_kept) them. Publishing waits when there is no room. One message is always kept, even if
    /// this is 0. After a loss they are all queued for the transport at once, small ones as a copy. Default 16 MiB.
    pub keep_max: usize,
    /// How long an attempt to connect may take before it counts as failed, from [`Dial::Connect`](super::Dial::Connect) to
    /// the call that reports its result; the handshake that follows has [a timeout of its
    /// own](crate::ClientConfig::handshake_timeout). `None` waits for ever. Default 60 s. The clients have a shorter one,
    /// `connect_timeout`.
    pub attempt_timeout: Option<Duration>,
    /// The seed of jitter and node order. Sessions of equal seeds behave alike, so set it in tests only. Default `None`: a
    /// random one; without the standard library, one that is made of the time at which recovery was switched on.
    pub seed: Option<u64>,
}

/// What a consumer does that the broker cancels, as when its queue is deleted or moves to another node.
#[derive(Debug, Clone, Copy, PartialEq, Eq, Default)]
#[non_exhaustive]
pub enum OnCancel {
    /// It ends.
    #[default]
    End,
    /// It is started again; its queue is declared anew if it was declared on this session. A consumer of a stream goes on
    /// with the first delivery that was not settled.
    Resubscribe,
}

/// No two attempts follow each other faster than this, whatever [`Recovery`] says.
pub(super) const LEAST_DELAY: Duration = Duration::from_millis(1);

/// What to do about a queue that is another connection's own.
#[derive(Debug, Clone, Copy, PartialEq, Eq)]
#[non_exhaustive]
pub enum Locked {
    /// Try again after that time, until it works. At least 1 ms.
    Retry(Duration),
    /// It has failed.
    Fail,
}

impl Default for Recovery {
    fn default() -> Self {
        Self {
            recovers: ConnectionError::is_recoverable,
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
