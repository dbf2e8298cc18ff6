//! How a client connects and how long it waits.

use std::time::Duration;

use amqp_proto::ClientConfig;
use amqp_proto::session::Session;

/// How a client connects, and what bounds it afterwards.
///
/// ```
/// use amqp_client_core::Config;
/// use std::time::Duration;
///
/// let mut config = Config::default();
/// config.protocol.heartbeat = Duration::from_secs(10);
/// config.settings.call_timeout = Some(Duration::from_secs(5));
/// ```
#[derive(Debug, Clone, Default)]
#[non_exhaustive]
pub struct Config {
    /// Login, virtual host, heartbeats and limits.
    pub protocol: ClientConfig,
    /// Deadlines and buffers of the handles.
    pub settings: Settings,
}

/// Deadlines and buffers of the handles.
#[derive(Debug, Clone, Copy, PartialEq, Eq)]
#[non_exhaustive]
pub struct Settings {
    /// How long connecting may take in all: resolving the name, TCP, TLS and the handshake. Default 30 s.
    pub connect_timeout: Duration,
    /// How long the broker may take to answer a request; `None` waits for ever. Default 30 s.
    pub call_timeout: Option<Duration>,
    /// How long publishing may have to wait for the broker or the transport; `None` waits for ever. Default 30 s.
    pub publish_timeout: Option<Duration>,
    /// How long the broker may take to confirm a message that somebody waits for; `None` waits for ever. Default 60 s.
    pub confirm_timeout: Option<Duration>,
    /// How many octets may be delivered to consumers that do not take them, before reading from the transport is
    /// suspended; 0 counts as 1, which lets one read through at a time. Prefetch should bound it long before. Default 16 MiB.
    ///
    /// While the broker owes an answer or a confirm, reading goes on, up to eight times as far: what it owes comes behind
    /// those deliveries, and whoever should take them may be the one who waits for it.
    ///
    /// A consumer that takes nothing for a second then is paused where that is possible, so that the others go on; see
    /// [`Consumer`](crate::Consumer#consumers-that-lag).
    ///
    /// Each time half a MiB of it is taken, consumers are given a millisecond to keep up before more is read, so that floods
    /// take no more memory than they have to.
    pub delivery_budget: usize,
    /// After how much silence, from 1 to 32767 s, the system asks whether the peer is there (`SO_KEEPALIVE`); after as much again without an
    /// answer it gives the connection up. `None` does not ask. Default 60 s. Beside heartbeats, this keeps routers on the
    /// way from forgetting the connection where heartbeats are off.
    pub keepalive: Option<Duration>,
    /// How long what was sent may stay unacknowledged by the peer's system, where the platform has such a limit
    /// (`TCP_USER_TIMEOUT`: Linux, Android). `None` is the system's own, on Linux about 15 minutes; heartbeats notice a
    /// dead peer much earlier. Default `None`: RabbitMQ stops reading from publishers while it is short of memory or disk,
    /// and Linux would count that as not acknowledged.
    pub user_timeout: Option<Duration>,
}

/// How far beyond the budget reading goes for something that the broker owes.
const FOR_WHAT_IS_OWED: usize = 8;

impl Settings {
    /// How much may be delivered and not taken. With a budget of 0, nothing would ever be read.
    #[inline]
    pub(crate) fn budget(&self) -> usize {
        self.delivery_budget.max(1)
    }

    /// Whether to read on when consumers have not taken that many octets.
    pub(crate) fn may_read(&self, delivered: usize, proto: &Session) -> bool {
        let budget = self.budget();
        // A handshake brings no deliveries, and there may be many from before a loss that need no acknowledgement.
        proto.negotiated().is_none()
            || delivered < budget
            || delivered < budget.saturating_mul(FOR_WHAT_IS_OWED) && proto.awaits_peer()
    }
}

impl Default for Settings {
    fn default() -> Self {
        Self {
            connect_timeout: Duration::from_secs(30),
            call_timeout: Some(Duration::from_secs(30)),
            publish_timeout: Some(Duration::from_secs(30)),
            confirm_timeout: Some(Duration::from_secs(60)),
            delivery_budget: 16 * 1024 * 1024,
            keepalive: Some(Duration::from_secs(60)),
            user_timeout: None,
        }
    }
}
