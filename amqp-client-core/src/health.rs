use amqp_proto::ConnectionError;

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
    /// How many channels there are.
    pub channels: usize,
    /// How many publishes are not confirmed.
    pub unconfirmed: usize,
    /// How many deliveries are not settled.
    pub unsettled: usize,
    /// How many octets of messages are kept until they are confirmed ([`OnLoss::Keep`](crate::OnLoss::Keep)).
    pub kept_octets: usize,
    /// How many octets wait to be written.
    pub queued_octets: usize,
    /// How many octets were delivered, and not taken by their consumers.
    pub delivered_octets: usize,
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
    /// Whether it can be used.
    #[must_use]
    pub const fn is_open(&self) -> bool {
        matches!(self.status, Status::Open)
    }
}
