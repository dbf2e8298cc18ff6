//! Events of connections and sessions.

use alloc::boxed::Box;
use alloc::string::String;
use core::ops::RangeInclusive;
use core::time::Duration;

use crate::method::Method;
use crate::session::{Entity, RecoveryReport};
use crate::wire::{FieldTable, Secret, ShortStr};
use crate::{
    ChannelError, ChannelId, CommandError, ConnectStep, ConnectionError, ConsumerId, Delivery,
    DeliveryTag, PublishError, PublishSeq, Published, Reply, RequestId, Returned, Unusable,
};

/// An event of a connection.
#[derive(Debug, Clone, PartialEq)]
#[non_exhaustive]
pub enum Event {
    /// The handshake has completed: channels can be opened.
    Opened(Box<Negotiated>),
    /// `connection.blocked`: publishing has to wait.
    Blocked {
        /// The resource that the broker is short of.
        reason: ShortStr,
    },
    /// `connection.unblocked`: publishing may continue.
    Unblocked,
    /// The server accepted the new secret.
    SecretUpdated,
    /// An event of a channel.
    Channel(ChannelId, ChannelEvent),
    /// The connection is closed. Emitted once, as the last event.
    Closed(ConnectionError),
    /// An event that only a [`Session`](crate::session::Session) emits.
    Session(SessionEvent),
    /// An event that only servers get.
    Server(ServerEvent),
}

/// The result of the negotiation in the handshake.
///
/// ```
/// # use amqp_proto::Negotiated;
/// # fn example(negotiated: &Negotiated) {
/// println!("a heartbeat every {:?}", negotiated.heartbeat);
/// if let Some(version) = negotiated.peer_properties.get("version") {
///     println!("version {:?}", version.as_str());
/// }
/// # }
/// ```
#[derive(Debug, Clone, PartialEq)]
#[non_exhaustive]
pub struct Negotiated {
    /// The peer's properties, as it describes itself.
    pub peer_properties: FieldTable,
    /// The highest channel number.
    pub channel_max: u16,
    /// The largest frame in bytes, overhead included.
    pub frame_max: u32,
    /// The heartbeat interval; zero means off.
    pub heartbeat: Duration,
}

impl Negotiated {
    /// Returns whether the peer announced a capability, such as `consumer_cancel_notify`.
    #[must_use]
    pub fn peer_can(&self, capability: &str) -> bool {
        let capabilities = self.peer_properties.get("capabilities");
        let value = capabilities.and_then(|table| table.as_table()?.get(capability));
        value.and_then(|value| value.as_bool()).unwrap_or(false)
    }
}

/// An event of a channel.
#[derive(Debug, Clone, PartialEq)]
#[non_exhaustive]
pub enum ChannelEvent {
    /// The channel is open.
    Opened,
    /// A reply to a request arrived.
    Reply {
        /// The request.
        request: RequestId,
        /// The reply.
        reply: Reply,
    },
    /// A consumer got a message.
    Delivery {
        /// The consumer.
        consumer: ConsumerId,
        /// The message.
        delivery: Delivery,
    },
    /// A message for a consumer was not accepted. It was held, requeued or rejected, as
    /// [`Limits::oversized`](crate::Limits::oversized) configures. If it needed no acknowledgement, it is lost.
    Unusable {
        /// The consumer.
        consumer: ConsumerId,
        /// The message's delivery tag, to settle it if it is held.
        delivery_tag: DeliveryTag,
        /// The reason.
        why: Unusable,
    },
    /// The server cancelled a consumer, for example because its queue was deleted.
    Cancelled {
        /// The consumer.
        consumer: ConsumerId,
    },
    /// A consumer that this side has cancelled has ended and gets no more deliveries. Either the server has replied; this event then
    /// precedes the reply. Or the reply to the cancel was not requested, [not awaited](crate::Channel::abandon), or lost with the
    /// connection.
    ConsumerEnded {
        /// The consumer.
        consumer: ConsumerId,
    },
    /// The broker accepted publishes (`basic.ack`) or refused them (`basic.nack`).
    Confirmed {
        /// The publishes, none of which was confirmed before.
        publishes: RangeInclusive<PublishSeq>,
        /// True if they were accepted, false if they were refused.
        ack: bool,
    },
    /// A mandatory message reached no queue. Its confirm follows, as an acknowledgement.
    ///
    /// If several unconfirmed messages are equal, the returned message is the one whose confirm arrives next. The event is then
    /// emitted with that confirm. If the channel closes first, it is emitted at the close, for the oldest of them.
    Returned {
        /// The publish, if the channel has publisher confirms.
        publish: Option<PublishSeq>,
        /// The message.
        returned: Box<Returned>,
    },
    /// The server requeues deliveries, because this side requested that ([`BasicRecover`](crate::method::BasicRecover)), and delivers
    /// them again under other tags. This event is emitted at the request, before each delivery that arrives between the request and
    /// its reply, and before the reply. Deliveries that need no acknowledgement are not affected.
    Requeued {
        /// The last of them. All earlier deliveries of the channel were settled, or are requeued as well.
        last: DeliveryTag,
    },
    /// The broker pauses (false) or resumes publishing on this channel. The reply was sent automatically.
    Flow {
        /// True if messages may be published.
        active: bool,
    },
    /// The channel is closed. Emitted once, as the last event of the channel.
    Closed(ChannelError),
    /// Sessions: the connection was lost, or the channel is being reopened after an error. [`Failed`](Self::Failed) and
    /// [`Unconfirmed`](Self::Unconfirmed) events for outstanding work precede this event. Deliveries up to `delivered` were
    /// requeued.
    Interrupted {
        /// The last requeued delivery.
        delivered: DeliveryTag,
        /// The number of deliveries up to it that were unsettled. The broker delivers them again.
        unsettled: usize,
        /// The reason.
        error: ChannelError,
    },
    /// Sessions: a request got no reply and will not get one. The outcome of the request is unknown.
    Failed {
        /// The request.
        request: RequestId,
        /// The reason.
        error: CommandError,
    },
    /// Sessions: the outcome of these publishes will never be known.
    Unconfirmed {
        /// The publishes.
        publishes: RangeInclusive<PublishSeq>,
        /// The reason.
        error: ChannelError,
    },
    /// Sessions: a [kept](crate::session::SessionChannel::publish_kept) message was dropped. It is not confirmed, and will not be
    /// sent again.
    PublishFailed {
        /// The publish.
        publish: PublishSeq,
        /// The reason. [`PublishError::Ended`] holds the close with which the broker refused the message.
        error: PublishError,
    },
    /// Sessions: some [kept](crate::session::SessionChannel::publish_kept) messages were published again, because they had been sent
    /// before and were not confirmed.
    Republished {
        /// Number of messages.
        count: usize,
    },
    /// Sessions: a consumer could not be started again.
    ConsumerFailed {
        /// The consumer.
        consumer: ConsumerId,
        /// The reason.
        error: ChannelError,
    },
    /// Sessions: the channel was reopened and its state restored.
    Restored,
    /// Sessions: [`Gate::Recovering`](crate::Gate::Recovering) is open on the channel. Emitted after [`Restored`](Self::Restored)
    /// if some of the [kept](crate::session::SessionChannel::publish_kept) messages had to be sent in groups, to find out which
    /// of them the broker refuses. All of these messages are now settled.
    GateOpened,
    /// Servers: a client sent a method that has no automatic reply.
    Method(Method),
    /// Servers: a client published a message.
    Published(Box<Published>),
    /// Servers: a client published a message that was not accepted.
    UnusablePublish(Unusable),
}

/// An event that only a [`Session`](crate::session::Session) emits.
#[derive(Debug, Clone, PartialEq)]
#[non_exhaustive]
pub enum SessionEvent {
    /// The connection was lost. The events of the channels precede this event.
    Lost {
        /// The reason.
        reason: ConnectionError,
    },
    /// The session waits before the next attempt to reconnect.
    Waiting {
        /// The node of the next attempt, as an index into the list of nodes.
        node: usize,
        /// The delay.
        time: Duration,
    },
    /// An attempt to reconnect begins.
    Connecting {
        /// The node, as an index into the list of nodes.
        node: usize,
        /// The number of attempts since the loss, including this one.
        attempt: u32,
    },
    /// An attempt to reconnect failed.
    AttemptFailed {
        /// The node, as an index into the list of nodes.
        node: usize,
        /// The step that failed, or `None` if the connection was open and was lost while the session was restored.
        step: Option<ConnectStep>,
        /// The reason.
        reason: String,
    },
    /// The session has reconnected and restored its state. The events of the channels precede this event.
    Recovered(Box<RecoveryReport>),
    /// An entity was restored later than the rest.
    Restored {
        /// The restored entity.
        entity: Entity,
    },
    /// An entity that was retried later than the rest could not be restored.
    NotRestored {
        /// The entity that is missing.
        entity: Entity,
        /// The reason.
        error: ChannelError,
    },
}

/// An event that only servers get.
#[derive(Debug, Clone, PartialEq)]
#[non_exhaustive]
pub enum ServerEvent {
    /// A client logs in. Reply with [`challenge`](crate::Connection::challenge), [`accept_login`](
    /// crate::Connection::accept_login) or [`close`](crate::Connection::close).
    Login {
        /// The mechanism that the client chose.
        mechanism: ShortStr,
        /// The client's first response.
        response: Secret,
        /// The client's properties, as it describes itself.
        client_properties: FieldTable,
    },
    /// A client responds to a challenge.
    LoginResponse {
        /// The response.
        response: Secret,
    },
    /// A client selects a virtual host. Reply with [`accept_open`](crate::Connection::accept_open) or
    /// [`close`](crate::Connection::close).
    Open {
        /// The virtual host.
        virtual_host: ShortStr,
    },
    /// A client has a new secret. The reply was sent automatically.
    UpdateSecret {
        /// The secret.
        new_secret: Secret,
        /// The reason for the change.
        reason: ShortStr,
    },
}

/// The purpose of a timer.
#[derive(Debug, Clone, Copy, PartialEq, Eq, Hash)]
#[non_exhaustive]
pub enum TimerReason {
    /// The deadline of the handshake.
    Handshake,
    /// A heartbeat is due.
    Heartbeat,
    /// The deadline for receiving something from the peer.
    Silence,
    /// The deadline for the peer's reply to a close.
    Close,
    /// Messages that were not accepted are requeued; see [`Oversized::Requeue`](crate::Oversized::Requeue).
    Requeue,
    /// A session stops reconnecting, or retries to restore an entity.
    Recovery,
}
