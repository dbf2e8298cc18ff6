use std::net::SocketAddr;
use std::time::Instant;

use amqp_proto::{ChannelError, ChannelId, ConnectionError, ShortStr};

/// A snapshot of a connection's state; see [`Connection::health`](crate::Connection::health).
///
/// ```no_run
/// # use amqp_client_core as amqp_client_tokio;
/// # use amqp_client_tokio::Connection;
/// # async fn example(connection: Connection) -> Result<(), Box<dyn std::error::Error>> {
/// let health = connection.health();
/// if !health.is_open() {
///     println!("not ready: {:?}", health.status);
/// }
/// println!("{} unconfirmed, {} losses so far", health.unconfirmed, health.losses);
/// # Ok(())
/// # }
/// ```
#[derive(Debug, Clone, PartialEq, Eq)]
#[non_exhaustive]
pub struct Health {
    /// The status of the connection.
    pub status: Status,
    /// True if the broker has blocked publishing (`connection.blocked`).
    pub blocked: bool,
    /// When the client learned that the broker blocks publishing; `None` if the broker does not.
    pub blocked_since: Option<Instant>,
    /// The broker's reason for blocking publishing, such as the resource that it is short of; `None` if it does not block.
    pub blocked_reason: Option<ShortStr>,
    /// Set while the client does not read, because consumers do not take their deliveries: since when, and which consumer has the most
    /// untaken bytes.
    pub reading_paused: Option<ReadingPaused>,
    /// The address that the connection leads to; see [`Connection::peer_addr`](crate::Connection::peer_addr).
    pub peer_addr: Option<SocketAddr>,
    /// Number of times that the connection was lost.
    pub losses: u64,
    /// When bytes last arrived from the broker, such as a heartbeat; `None` if none have arrived yet. After a loss, this is a time of
    /// the earlier transport, until the new one has received bytes. While consumers do not keep up, the client does not read, so this
    /// time does not change.
    pub last_heard: Option<Instant>,
    /// Number of deliveries that were settled too late: the connection was lost in between, so the broker has requeued them
    /// and delivers them again. See [`Delivery::ack`](crate::Delivery::ack).
    pub stale: u64,
    /// Number of messages that the client did not accept because their bodies were larger than
    /// [`Limits::body_max`](amqp_proto::Limits::body_max).
    pub unusable: u64,
    /// Number of channels.
    pub channels: usize,
    /// Channels that the broker has closed, or that were not restored, and that still have handles. A publisher on such a channel
    /// fails; create a new one on another channel. With [`Recovery::reopen_channels`](crate::Recovery::reopen_channels), such
    /// channels are reopened instead.
    pub closed_channels: Vec<ClosedChannel>,
    /// Number of unconfirmed publishes.
    pub unconfirmed: usize,
    /// Number of unsettled deliveries, without those that are [held](amqp_proto::Oversized::Hold).
    pub unsettled: usize,
    /// Number of bytes of kept messages ([`OnLoss::Keep`](crate::OnLoss::Keep)).
    pub kept_bytes: usize,
    /// Number of bytes that wait to be written to the transport.
    pub queued_bytes: usize,
    /// Number of bytes delivered to consumers and not taken by them.
    pub delivered_bytes: usize,
}

/// A channel that the broker has closed, or that was not restored after a loss, while the connection goes on.
///
/// ```no_run
/// # use amqp_client_core as amqp_client_tokio;
/// # use amqp_client_tokio::Connection;
/// # async fn example(connection: Connection) -> Result<(), Box<dyn std::error::Error>> {
/// for closed in connection.health().closed_channels {
///     println!("channel {} was closed: {}", closed.id, closed.reason);
/// }
/// # Ok(())
/// # }
/// ```
#[derive(Debug, Clone, PartialEq, Eq)]
#[non_exhaustive]
pub struct ClosedChannel {
    /// The channel's former number. The connection may use it for another channel now.
    pub id: ChannelId,
    /// The reason why the channel is closed.
    pub reason: ChannelError,
}

/// The client does not read from a connection, because consumers do not take their deliveries; see
/// [consumers that lag](crate::Consumer#consumers-that-lag).
///
/// ```no_run
/// # use amqp_client_core as amqp_client_tokio;
/// # use amqp_client_tokio::Connection;
/// # fn example(connection: Connection) {
/// if let Some(paused) = connection.health().reading_paused {
///     let (tag, channel) = (paused.consumer_tag.escaped(), paused.channel);
///     println!("consumer '{tag}' of channel {channel} has not taken {} bytes", paused.bytes);
///     println!("nothing was read for {:?}", paused.since.elapsed());
/// }
/// # }
/// ```
#[derive(Debug, Clone, PartialEq, Eq)]
#[non_exhaustive]
pub struct ReadingPaused {
    /// When reading stopped.
    pub since: Instant,
    /// The channel of the consumer with the most untaken bytes.
    pub channel: ChannelId,
    /// The tag of this consumer.
    pub consumer_tag: ShortStr,
    /// Number of bytes delivered to this consumer and not taken.
    pub bytes: usize,
}

/// The status of a connection.
///
/// ```no_run
/// # use amqp_client_core as amqp_client_tokio;
/// # use amqp_client_tokio::Connection;
/// use amqp_client_tokio::Status;
///
/// # async fn example(connection: Connection) -> Result<(), Box<dyn std::error::Error>> {
/// match connection.health().status {
///     Status::Open => println!("ready"),
///     Status::Closed(reason) => println!("closed: {reason}"),
///     other => println!("wait: {other:?}"),
/// }
/// # Ok(())
/// # }
/// ```
#[derive(Debug, Clone, PartialEq, Eq)]
#[non_exhaustive]
pub enum Status {
    /// The connection has never been open: it is being made.
    Connecting,
    /// The connection can be used.
    Open,
    /// The connection was lost and is being recovered.
    Recovering,
    /// The connection is closed, for this reason.
    Closed(ConnectionError),
}

impl Health {
    /// Returns whether the connection can be used. Individual channels may still be closed; see
    /// [`closed_channels`](Self::closed_channels).
    #[must_use]
    pub const fn is_open(&self) -> bool {
        matches!(self.status, Status::Open)
    }
}
