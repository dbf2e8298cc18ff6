//! What a connection has to tell.

use alloc::boxed::Box;
use alloc::string::String;
use core::ops::RangeInclusive;
use core::time::Duration;

use crate::method::Method;
use crate::session::{Entity, RecoveryReport};
use crate::wire::{FieldTable, Secret, ShortStr};
use crate::{
    ChannelError, ChannelId, CommandError, ConnectionError, ConsumerId, Delivery, DeliveryTag,
    PublishError, PublishSeq, Published, Reply, RequestId, Returned, Unusable,
};

/// Something happened on a connection.
#[derive(Debug, Clone, PartialEq)]
#[non_exhaustive]
pub enum Event {
    /// The handshake is over: channels can be opened.
    Opened(Box<Negotiated>),
    /// `connection.blocked`: content has to wait.
    Blocked {
        /// Which resource the broker is short of.
        reason: ShortStr,
    },
    /// `connection.unblocked`: content may go on.
    Unblocked,
    /// The server took the new secret.
    SecretUpdated,
    /// Something happened on a channel.
    Channel(ChannelId, ChannelEvent),
    /// The connection is over. Comes once and last.
    Closed(ConnectionError),
    /// Something that only a [`Session`](crate::session::Session) meets.
    Session(SessionEvent),
    /// Something that only servers meet.
    Server(ServerEvent),
}

/// What both ends have agreed on.
#[derive(Debug, Clone, PartialEq)]
#[non_exhaustive]
pub struct Negotiated {
    /// What the peer says of itself.
    pub peer_properties: FieldTable,
    /// The highest channel number.
    pub channel_max: u16,
    /// The largest frame in octets, overhead included.
    pub frame_max: u32,
    /// The heartbeat interval; zero is off.
    pub heartbeat: Duration,
}

impl Negotiated {
    /// Whether the peer announced a capability, as `consumer_cancel_notify`.
    #[must_use]
    pub fn peer_can(&self, capability: &str) -> bool {
        let capabilities = self.peer_properties.get("capabilities");
        let value = capabilities.and_then(|table| table.as_table()?.get(capability));
        value.and_then(|value| value.as_bool()).unwrap_or(false)
    }
}

/// Something happened on a channel.
#[derive(Debug, Clone, PartialEq)]
#[non_exhaustive]
pub enum ChannelEvent {
    /// The channel is open.
    Opened,
    /// A request was answered.
    Reply {
        /// Which one.
        request: RequestId,
        /// The answer.
        reply: Reply,
    },
    /// A consumer got a message.
    Delivery {
        /// Which consumer.
        consumer: ConsumerId,
        /// The message.
        delivery: Delivery,
    },
    /// A message for a consumer could not be taken in. It was held, requeued or rejected, as
    /// [`Limits::oversized`](crate::Limits::oversized) says; if it needed no acknowledgement, it is lost.
    Unusable {
        /// Which consumer.
        consumer: ConsumerId,
        /// The tag to settle it by, if it is held.
        delivery_tag: DeliveryTag,
        /// Why.
        why: Unusable,
    },
    /// The server cancelled a consumer, as when its queue is deleted.
    Cancelled {
        /// Which consumer.
        consumer: ConsumerId,
    },
    /// A consumer that this end has cancelled has ended, and has no more deliveries: the server agreed, or the answer to the
    /// cancel was not asked for, [not awaited](crate::Channel::abandon), or lost with the connection. Comes ahead of that answer.
    ConsumerEnded {
        /// Which consumer.
        consumer: ConsumerId,
    },
    /// The broker took publishes over (`ack`), or said that it did not.
    Confirmed {
        /// The publishes, none of which was confirmed before.
        publishes: RangeInclusive<PublishSeq>,
        /// Whether they were acknowledged (true) or refused (false).
        ack: bool,
    },
    /// A mandatory message reached no queue. Its confirm still comes, as an acknowledgement.
    ///
    /// Of several equal messages that are unconfirmed, the one whose confirm comes next was returned. The event comes with that
    /// confirm then, or with the end of the channel, which the oldest of them takes.
    Returned {
        /// Which publish it was, if the channel has publisher confirms.
        publish: Option<PublishSeq>,
        /// The message.
        returned: Box<Returned>,
    },
    /// The broker pauses (false) or resumes content on this channel; it was answered.
    Flow {
        /// Whether content may flow.
        active: bool,
    },
    /// The channel is over. Comes once and last for the channel.
    Closed(ChannelError),
    /// Sessions: the connection was lost, or the channel is opened again after an error. What was not answered and not
    /// confirmed was told before. Deliveries up to that tag have gone back to their queues.
    Interrupted {
        /// The last of them.
        delivered: DeliveryTag,
        /// What happened.
        error: ChannelError,
    },
    /// Sessions: a request has no answer, and will not get one. Whether it was carried out is not known.
    Failed {
        /// Which one.
        request: RequestId,
        /// Why.
        error: CommandError,
    },
    /// Sessions: whether the broker took these publishes over will never be known.
    Unconfirmed {
        /// The publishes.
        publishes: RangeInclusive<PublishSeq>,
        /// Why.
        error: ChannelError,
    },
    /// Sessions: a message that was [kept](crate::session::Channel::publish_kept) is given up. It is not confirmed, and it is
    /// not sent again.
    PublishFailed {
        /// The publish.
        publish: PublishSeq,
        /// Why it cannot be sent again. [`PublishError::Ended`] holds the close with which the broker refused it.
        error: PublishError,
    },
    /// Sessions: a consumer could not be started again.
    ConsumerFailed {
        /// Which consumer.
        consumer: ConsumerId,
        /// Why.
        error: ChannelError,
    },
    /// Sessions: the channel is there again, with all that came back.
    Restored,
    /// Sessions: [`Gate::Recovering`](crate::Gate::Recovering) is open on the channel. Comes after [`Restored`](Self::Restored)
    /// if some of the [kept](crate::session::Channel::publish_kept) messages had to be sent in groups, to find out which of them
    /// the broker refuses: all of these are settled.
    GateOpened,
    /// Servers: a client sent a method that is not answered by itself.
    Method(Method),
    /// Servers: a client published a message.
    Published(Box<Published>),
    /// Servers: a client published a message that could not be taken in.
    UnusablePublish(Unusable),
}

/// What only a [`Session`](crate::session::Session) meets.
#[derive(Debug, Clone, PartialEq)]
#[non_exhaustive]
pub enum SessionEvent {
    /// The connection was lost. The channels were told before.
    Lost {
        /// Why.
        reason: ConnectionError,
    },
    /// Time passes before the next attempt.
    Waiting {
        /// The node that it will go to, by its place in the list.
        node: usize,
        /// How much.
        time: Duration,
    },
    /// An attempt begins.
    Connecting {
        /// The node that it goes to, by its place in the list.
        node: usize,
        /// How many there were since the loss, this one included.
        attempt: u32,
    },
    /// An attempt failed.
    AttemptFailed {
        /// The node that it went to, by its place in the list.
        node: usize,
        /// Why.
        reason: String,
    },
    /// There is a connection again, and on it all that came back. The channels were told before.
    Recovered(Box<RecoveryReport>),
    /// Something came back later than the rest.
    Restored {
        /// What it is.
        entity: Entity,
    },
    /// Something that was tried later than the rest did not come back.
    NotRestored {
        /// What it is.
        entity: Entity,
        /// Why.
        error: ChannelError,
    },
}

/// What only servers meet.
#[derive(Debug, Clone, PartialEq)]
#[non_exhaustive]
pub enum ServerEvent {
    /// A client logs in. Answer with [`challenge`](crate::Connection::challenge), [`accept_login`](
    /// crate::Connection::accept_login) or [`close`](crate::Connection::close).
    Login {
        /// The mechanism it chose.
        mechanism: ShortStr,
        /// Its first response.
        response: Secret,
        /// What it says of itself.
        client_properties: FieldTable,
    },
    /// A client answers a challenge.
    LoginResponse {
        /// Its response.
        response: Secret,
    },
    /// A client selects a virtual host. Answer with [`accept_open`](crate::Connection::accept_open) or
    /// [`close`](crate::Connection::close).
    Open {
        /// The virtual host.
        virtual_host: ShortStr,
    },
    /// A client has a new secret; it was answered.
    UpdateSecret {
        /// The secret.
        new_secret: Secret,
        /// Why it changed.
        reason: ShortStr,
    },
}

/// What a timer is for.
#[derive(Debug, Clone, Copy, PartialEq, Eq, Hash)]
#[non_exhaustive]
pub enum TimerReason {
    /// The handshake must be over.
    Handshake,
    /// A heartbeat is due.
    Heartbeat,
    /// The peer must have been heard of.
    Silence,
    /// The peer must have answered the close.
    Close,
    /// Messages that could not be taken in are requeued; see [`Oversized::Requeue`](crate::Oversized::Requeue).
    Requeue,
    /// A session gives up, or tries again to bring something back.
    Recovery,
}
