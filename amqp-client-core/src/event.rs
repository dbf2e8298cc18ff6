//! Events of connections and channels.

use std::fmt;
use std::sync::Arc;
use std::time::Duration;

use amqp_proto::error::chain;
use amqp_proto::session::{Entity, RecoveryReport};
use amqp_proto::uri::Endpoint;
use amqp_proto::{
    ChannelError, ChannelId, ConnectStep, ConnectionError, DeliveryTag, Returned, SessionEvent,
    ShortStr, Unusable,
};

/// An event of a connection. Displayed as one line, for logs.
///
/// ```no_run
/// # use amqp_client_core as amqp_client_tokio;
/// use amqp_client_tokio::ConnectionEvent;
///
/// # fn example(event: ConnectionEvent) -> Result<(), Box<dyn std::error::Error>> {
/// match event {
///     ConnectionEvent::Waiting { time, .. } => println!("the next attempt is in {time:?}"),
///     ConnectionEvent::Recovered(report) => println!("recovered after {} attempts", report.attempts),
///     // For example `connecting to rabbit-2:5672, attempt 3`.
///     event => println!("{event}"),
/// }
/// # Ok(())
/// # }
/// ```
#[derive(Debug, Clone, PartialEq)]
#[non_exhaustive]
pub enum ConnectionEvent {
    /// The connection is open for the first time. A listener is notified of it only if the connection was made in the background
    /// or over the program's own stream: the other functions return the connection once it is open.
    Opened,
    /// The broker is short of a resource and accepts no messages (`connection.blocked`). Publishing waits.
    ///
    /// RabbitMQ reads nothing more from this connection until the alarm ends: requests, acknowledgements and a close on any of
    /// its channels wait as well, and time out. It blocks connections that publish during an alarm, and no others
    /// ([alarms](https://www.rabbitmq.com/docs/alarms)). So publish on one connection and consume on another.
    Blocked {
        /// The resource, as the broker names it.
        reason: ShortStr,
    },
    /// The broker accepts messages again (`connection.unblocked`).
    Unblocked,
    /// A consumer does not take its deliveries, and all consumers of the connection wait for it; see
    /// [`ChannelEvent::ConsumerLags`].
    ConsumerLags {
        /// The number of the consumer's channel.
        channel: ChannelId,
        /// The consumer's tag.
        consumer_tag: ShortStr,
        /// The number of bytes delivered to the consumer and not taken.
        bytes: usize,
    },
    /// The [`TokenSource`](crate::login::TokenSource) returned no new token. The client retries until the connection is closed;
    /// the broker closes it when the last token has expired.
    TokenNotRenewed {
        /// The reason.
        why: String,
    },
    /// The connection was lost. The client reconnects; handles stay valid.
    Lost {
        /// The reason.
        reason: ConnectionError,
    },
    /// The client waits before the next attempt to connect, for the first time or again.
    Waiting {
        /// The node of the next attempt, as an index into the [endpoints](crate::Target::endpoints).
        node: usize,
        /// The node's endpoint; `None` if the connection was not opened with a [`Target`](crate::Target).
        endpoint: Option<Endpoint>,
        /// The delay.
        time: Duration,
    },
    /// An attempt to connect begins.
    Connecting {
        /// The node, as an index into the [endpoints](crate::Target::endpoints).
        node: usize,
        /// The node's endpoint; `None` if the connection was not opened with a [`Target`](crate::Target).
        endpoint: Option<Endpoint>,
        /// The number of attempts since the loss, or for the first connection, including this one.
        attempt: u32,
    },
    /// An attempt to connect failed.
    AttemptFailed {
        /// The node, as an index into the [endpoints](crate::Target::endpoints).
        node: usize,
        /// The node's endpoint; `None` if the connection was not opened with a [`Target`](crate::Target).
        endpoint: Option<Endpoint>,
        /// The step that failed, or `None` if the connection was open, and was lost while its state was restored.
        step: Option<ConnectStep>,
        /// The reason.
        reason: String,
    },
    /// The client has reconnected and restored the state of the connection. The report has the details.
    Recovered(Arc<RecoveryReport>),
    /// An entity was restored later than the rest, for example a queue that was still locked by the lost connection.
    Restored {
        /// The restored entity.
        entity: Entity,
    },
    /// An entity that was retried after the rest could not be restored.
    NotRestored {
        /// The entity that is missing.
        entity: Entity,
        /// The reason.
        error: ChannelError,
    },
    /// The connection is closed for good. This is the last event.
    Closed(ConnectionError),
    /// The listener was too slow and missed this many events.
    Missed(u64),
}

/// An event of a channel. Displayed as one line, for logs.
///
/// ```no_run
/// # use amqp_client_core as amqp_client_tokio;
/// use amqp_client_tokio::ChannelEvent;
///
/// # fn example(event: ChannelEvent) -> Result<(), Box<dyn std::error::Error>> {
/// match event {
///     ChannelEvent::Returned(returned) => println!("no queue for {:?}", returned.routing_key),
///     ChannelEvent::ConsumerLags { consumer_tag, bytes } => println!("{consumer_tag:?}: {bytes} bytes"),
///     ChannelEvent::Closed(reason) => println!("closed: {reason}"),
///     _ => {}
/// }
/// # Ok(())
/// # }
/// ```
#[derive(Debug, Clone, PartialEq)]
#[non_exhaustive]
pub enum ChannelEvent {
    /// A mandatory message reached no queue. If it was published with confirms, its confirmation fails as well.
    Returned(Box<Returned>),
    /// A consumer does not take its deliveries, and holds most of the
    /// [`delivery_budget`](crate::Settings::delivery_budget). The client stops reading, and all consumers of the connection wait
    /// until this one is [paused](Self::ConsumerPaused), where that is possible. Give the consumer a prefetch limit
    /// ([`prefetch`](crate::ConsumeOptions::prefetch)) or its own connection.
    ///
    /// Reported again only after the consumer has taken the deliveries that it holds.
    ConsumerLags {
        /// The consumer's tag.
        consumer_tag: ShortStr,
        /// The number of bytes delivered to the consumer and not taken.
        bytes: usize,
    },
    /// A consumer that [lags](Self::ConsumerLags) has taken nothing for a second while others wait for their deliveries. It is
    /// [paused](crate::Consumer#consumers-that-lag): cancelled until it has taken the deliveries that it holds. Most of them were
    /// requeued.
    ConsumerPaused {
        /// The consumer's tag.
        consumer_tag: ShortStr,
    },
    /// A [paused](Self::ConsumerPaused) consumer has taken the deliveries that it held, and is started again.
    ConsumerResumed {
        /// The consumer's tag.
        consumer_tag: ShortStr,
    },
    /// The broker cancelled a consumer, for example because its queue was deleted. Its stream ends with the same reason.
    ConsumerCancelled {
        /// The consumer's tag.
        consumer_tag: ShortStr,
    },
    /// The client did not accept a message because its body is larger than
    /// [`Limits::body_max`](amqp_proto::Limits::body_max). The message was held, requeued or rejected, as
    /// [`Limits::oversized`](amqp_proto::Limits::oversized) configures. If it needed no acknowledgement, it is lost.
    /// [`Health::unusable`](crate::Health::unusable) counts such messages.
    Unusable {
        /// The tag of the message's consumer.
        consumer_tag: ShortStr,
        /// The message's delivery tag. If the message is held, settle it with
        /// [`basic_reject`](crate::Channel::basic_reject).
        delivery_tag: DeliveryTag,
        /// The reason.
        why: Unusable,
    },
    /// The handler of a delivery panicked, and the panic was caught ([`OnPanic`](crate::OnPanic)).
    HandlerPanicked {
        /// The tag of the delivery's consumer.
        consumer_tag: ShortStr,
        /// The panic message.
        text: String,
    },
    /// The broker pauses or resumes publishing on this channel (`channel.flow`).
    Flow {
        /// True if messages may be published.
        active: bool,
    },
    /// The connection was lost, or the channel is being reopened after an error. Unacknowledged deliveries were requeued.
    Interrupted(ChannelError),
    /// The channel was reopened and its state restored.
    Restored,
    /// The channel is closed for good. This is the last event.
    Closed(ChannelError),
    /// The listener was too slow and missed this many events.
    Missed(u64),
}

impl ConnectionEvent {
    /// Returns the event that reports a session's event. `endpoints` are those of the session's nodes, if they are known.
    pub(crate) fn of_session(event: SessionEvent, endpoints: &[Endpoint]) -> Option<Self> {
        let endpoint = |node: usize| endpoints.get(node).cloned();
        Some(match event {
            SessionEvent::Lost { reason } => Self::Lost { reason },
            SessionEvent::Waiting { node, time } => {
                Self::Waiting { node, endpoint: endpoint(node), time }
            }
            SessionEvent::Connecting { node, attempt } => {
                Self::Connecting { node, endpoint: endpoint(node), attempt }
            }
            SessionEvent::AttemptFailed { node, step, reason } => {
                Self::AttemptFailed { node, endpoint: endpoint(node), step, reason }
            }
            SessionEvent::Recovered(report) => Self::Recovered(Arc::new(*report)),
            SessionEvent::Restored { entity } => Self::Restored { entity },
            SessionEvent::NotRestored { entity, error } => Self::NotRestored { entity, error },
            _ => return None,
        })
    }
}

impl fmt::Display for ConnectionEvent {
    fn fmt(&self, f: &mut fmt::Formatter<'_>) -> fmt::Result {
        match self {
            Self::Opened => f.write_str("connection open"),
            Self::Blocked { reason } => {
                write!(f, "the broker accepts no messages: {}", reason.escaped())
            }
            Self::Unblocked => f.write_str("the broker accepts messages again"),
            Self::ConsumerLags { channel, consumer_tag, bytes } => {
                let tag = consumer_tag.escaped();
                write!(f, "consumer '{tag}' of channel {channel} lags: {bytes} bytes not taken")
            }
            Self::TokenNotRenewed { why } => write!(f, "no new token: {why}"),
            Self::Lost { reason } => write!(f, "connection lost: {}", chain(reason)),
            Self::Waiting { node, endpoint, time } => {
                write!(f, "connecting to {} in {time:?}", Node(*node, endpoint))
            }
            Self::Connecting { node, endpoint, attempt } => {
                write!(f, "connecting to {}, attempt {attempt}", Node(*node, endpoint))
            }
            Self::AttemptFailed { node, endpoint, step, reason } => {
                write!(f, "attempt to connect to {} failed", Node(*node, endpoint))?;
                // The reason names the steps before.
                if let Some(step) = step.filter(|step| *step >= ConnectStep::Tls) {
                    write!(f, " (step: {step})")?;
                }
                write!(f, ": {reason}")
            }
            Self::Recovered(report) => {
                let (time, missing) = (report.connecting + report.restoring, report.failed.len());
                write!(f, "recovered after {time:?} and {} attempts", report.attempts)?;
                if missing > 0 { write!(f, ", without {missing} entities") } else { Ok(()) }
            }
            Self::Restored { entity } => write!(f, "restored {entity}"),
            Self::NotRestored { entity, error } => {
                write!(f, "cannot restore {entity}: {}", chain(error))
            }
            Self::Closed(reason) => write!(f, "connection closed: {}", chain(reason)),
            Self::Missed(count) => write!(f, "{count} events missed"),
        }
    }
}

/// The reason of a return: its code, and the text if that says more than the name of the code.
pub(crate) struct ReturnReason<'a>(pub(crate) &'a Returned);

impl fmt::Display for ReturnReason<'_> {
    fn fmt(&self, f: &mut fmt::Formatter<'_>) -> fmt::Result {
        let Self(Returned { reply_code: code, reply_text: text, .. }) = self;
        write!(f, "{code}")?;
        if code.name().is_some_and(|name| *text == name) {
            return Ok(());
        }
        write!(f, " {}", text.escaped())
    }
}

/// A node as events display it: by its endpoint, or else by its index.
struct Node<'a>(usize, &'a Option<Endpoint>);

impl fmt::Display for Node<'_> {
    fn fmt(&self, f: &mut fmt::Formatter<'_>) -> fmt::Result {
        match self.1 {
            Some(endpoint) => write!(f, "{endpoint}"),
            None => write!(f, "node {}", self.0),
        }
    }
}

impl fmt::Display for ChannelEvent {
    fn fmt(&self, f: &mut fmt::Formatter<'_>) -> fmt::Result {
        match self {
            Self::Returned(returned) => {
                let (exchange, key) = (returned.exchange.escaped(), returned.routing_key.escaped());
                let reason = ReturnReason(returned);
                write!(f, "message to exchange '{exchange}' by '{key}' returned: {reason}")
            }
            Self::ConsumerLags { consumer_tag, bytes } => {
                write!(f, "consumer '{}' lags: {bytes} bytes not taken", consumer_tag.escaped())
            }
            Self::ConsumerPaused { consumer_tag } => {
                write!(f, "consumer '{}' paused", consumer_tag.escaped())
            }
            Self::ConsumerResumed { consumer_tag } => {
                write!(f, "consumer '{}' resumed", consumer_tag.escaped())
            }
            Self::ConsumerCancelled { consumer_tag } => {
                write!(f, "consumer '{}' cancelled by the broker", consumer_tag.escaped())
            }
            Self::Unusable { consumer_tag, why, .. } => {
                write!(f, "message for consumer '{}' not accepted: {why}", consumer_tag.escaped())
            }
            Self::HandlerPanicked { consumer_tag, text } => {
                write!(f, "handler of consumer '{}' panicked: {text}", consumer_tag.escaped())
            }
            Self::Flow { active: false } => f.write_str("the broker pauses publishing"),
            Self::Flow { active: true } => f.write_str("the broker resumes publishing"),
            Self::Interrupted(error) => write!(f, "channel interrupted: {}", chain(error)),
            Self::Restored => f.write_str("channel restored"),
            Self::Closed(reason) => write!(f, "channel closed: {}", chain(reason)),
            Self::Missed(count) => write!(f, "{count} events missed"),
        }
    }
}

/// An event that [listeners](crate::state::Listeners) queue until it is taken.
pub(crate) trait ListenerEvent: Clone {
    /// Returns the number of bytes of the message that the event carries.
    fn message_bytes(&self) -> usize;
}

impl ListenerEvent for ConnectionEvent {
    fn message_bytes(&self) -> usize {
        0
    }
}

impl ListenerEvent for ChannelEvent {
    fn message_bytes(&self) -> usize {
        match self {
            Self::Returned(returned) => {
                returned.body.len() + returned.properties.as_encoded().len()
            }
            _ => 0,
        }
    }
}
