use amqp_proto::{ChannelError, ChannelId, ConnectionError};

/// How a connection is, at one moment; see [`Connection::health`](crate::Connection::health).
#[derive(Debug, Clone, PartialEq, Eq)]
#[non_exhaustive]
pub struct Health {
    /// Whether it can be used.
    pub status: Status,
    /// Whether the broker has blocked publishing (`connection.blocked`).
    pub blocked: bool,
    /// How often the connection was lost.
    pub losses: u64,
    /// How many deliveries were settled too late: the connection was lost since they came, so the broker has requeued them
    /// and delivers them again. See [`Delivery::ack`](crate::Delivery::ack).
    pub stale: u64,
    /// How many messages could not be taken in, because their bodies were larger than
    /// [`Limits::body_max`](amqp_proto::Limits::body_max).
    pub unusable: u64,
    /// How many channels there are.
    pub channels: usize,
    /// Channels that the broker has closed, or that were not restored, and that still have handles. A publisher on such a channel
    /// fails until it is made anew on another. With [`Recovery::reopen_channels`](crate::Recovery::reopen_channels) channels are
    /// opened again instead.
    pub closed_channels: Vec<ClosedChannel>,
    /// How many publishes are not confirmed.
    pub unconfirmed: usize,
    /// How many deliveries are not settled, without those that are [held](amqp_proto::Oversized::Hold).
    pub unsettled: usize,
    /// How many octets of messages are kept until they are confirmed ([`OnLoss::Keep`](crate::OnLoss::Keep)).
    pub kept_octets: usize,
    /// How many octets wait to be written.
    pub queued_octets: usize,
    /// How many octets were delivered, and not taken by their consumers.
    pub delivered_octets: usize,
}

/// A channel that the broker has closed, or that was not restored after a loss, while the connection goes on.
#[derive(Debug, Clone, PartialEq, Eq)]
#[non_exhaustive]
pub struct ClosedChannel {
    /// The number it had. The connection may have given it to another channel since.
    pub id: ChannelId,
    /// Why it is closed.
    pub reason: ChannelError,
}

/// Whether a connection can be used.
#[derive(Debug, Clone, PartialEq, Eq)]
#[non_exhaustive]
pub enum Status {
    /// The handshake is not over yet.
    Connecting,
    /// It can be used.
    Open,
    /// It was lost, and another is being made.
    Recovering,
    /// It is over.
    Closed(ConnectionError),
}

impl Health {
    /// Whether the connection can be used. Single channels may be closed nevertheless; see
    /// [`closed_channels`](Self::closed_channels).
    #[must_use]
    pub const fn is_open(&self) -> bool {
        matches!(self.status, Status::Open)
    }
}
