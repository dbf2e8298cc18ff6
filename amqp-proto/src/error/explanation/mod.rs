//! Parses the texts with which RabbitMQ closes channels and connections.

mod hint;
mod parse;
#[cfg(test)]
mod tests;

use alloc::string::String;
use core::fmt;
use core::time::Duration;

use super::close::{Close, Initiator};
use crate::method::{
    Arguments, BasicConsume, BasicGet, BasicPublish, ExchangeDelete, QueueBind, QueueDelete,
    QueuePurge, QueueUnbind,
};
use crate::{ReplyCode, wire};

/// The reason why RabbitMQ closed a channel or a connection, as fields: see [`Close::explanation`].
///
/// RabbitMQ reports the details of an error only in its reply text. The texts are those of RabbitMQ 3.10 to 4.3. Names can contain
/// anything, even what looks like another part of the text, and RabbitMQ shortens long texts. The fields are then a guess: use them
/// for logs and messages, not for decisions about security.
///
/// ```
/// use amqp_proto::error::Explanation;
/// # use amqp_proto::Close;
/// # fn example(close: &Close) {
/// match close.explanation() {
///     Some(Explanation::InequivalentArgument { argument, resource, received, current }) => {
///         println!("{resource} has {argument} = {current}, but this program wants {received}");
///     }
///     Some(Explanation::NotFound { resource }) => println!("there is no {resource}"),
///     _ => println!("{close}"),
/// }
/// # }
/// ```
#[derive(Debug, Clone, PartialEq, Eq)]
#[non_exhaustive]
pub enum Explanation {
    /// The queue or exchange exists, and its properties differ from those of the declaration.
    InequivalentArgument {
        /// The property, such as `durable`, or the argument, such as `x-max-length`.
        argument: String,
        /// The existing queue or exchange.
        resource: Resource,
        /// The declared value, as in the text: `'true'`, `none`, or `the value '10' of type 'signedint'`.
        received: String,
        /// The value that the queue or exchange has.
        current: String,
    },
    /// An argument or property of a declaration is invalid, or does not fit the type of the queue.
    InvalidArgument {
        /// The argument, such as `x-max-length`, or the property, such as `exclusive-owner`.
        argument: String,
        /// The queue or exchange of the declaration.
        resource: Resource,
        /// The reason, if the text has one.
        why: String,
    },
    /// The user lacks a permission.
    AccessRefused {
        /// The missing permission. RabbitMQ 3 does not name it. It is then known only if the refused method needs exactly one
        /// permission.
        permission: Option<Permission>,
        /// The queue or exchange.
        resource: Resource,
        /// The routing key, if the user has the permission for the exchange, but not for this topic.
        topic: Option<String>,
        /// The user.
        user: String,
    },
    /// The queue or exchange does not exist.
    NotFound {
        /// The missing queue or exchange.
        resource: Resource,
    },
    /// The queue exists, but cannot be used at present: its node is down, for example.
    Unavailable {
        /// The queue.
        resource: Resource,
    },
    /// Another connection owns the queue exclusively.
    Locked {
        /// The queue.
        resource: Resource,
    },
    /// The queue has an exclusive consumer. Or the queue has consumers, and the new consumer was to be exclusive.
    ExclusiveConsumer {
        /// The queue.
        resource: Resource,
    },
    /// The request was to delete the queue or exchange only if it is unused (`if_unused`), but it is in use.
    InUse {
        /// The queue or exchange.
        resource: Resource,
    },
    /// The request was to delete the queue only if it is empty (`if_empty`), but it has messages.
    NotEmpty {
        /// The queue.
        resource: Resource,
    },
    /// The name begins with `amq.`, which is reserved for the broker.
    ReservedName {
        /// The name.
        name: String,
    },
    /// The request is not possible on the default exchange.
    DefaultExchange,
    /// Clients cannot publish to an internal exchange.
    InternalExchange {
        /// The exchange.
        resource: Resource,
    },
    /// The type of exchange does not exist on this broker.
    UnknownExchangeType {
        /// The type.
        exchange_type: String,
    },
    /// No delivery with that tag waits for an acknowledgement on the channel.
    UnknownDeliveryTag {
        /// The delivery tag.
        delivery_tag: u64,
    },
    /// A delivery was not acknowledged in time.
    AcknowledgementTimeout {
        /// The timeout of the broker or of the queue.
        timeout: Duration,
    },
    /// The body of a message is larger than the broker accepts.
    MessageTooLarge {
        /// The size of the body in bytes.
        size: u64,
        /// The broker's limit in bytes.
        max: u64,
    },
    /// The property `user_id` of a message does not name the user of the connection.
    UserId {
        /// The value of the property.
        claimed: String,
        /// The user.
        user: String,
    },
    /// The property `expiration` of a message is not a number of milliseconds.
    InvalidExpiration {
        /// The value of the property.
        expiration: String,
    },
    /// The consumer tag is in use on the channel.
    ConsumerTagInUse {
        /// The consumer tag.
        consumer_tag: String,
    },
    /// A limit on the number of connections, channels, queues, exchanges or consumers is reached.
    Limit {
        /// The limited items.
        of: Limited,
        /// The scope of the limit.
        scope: Scope,
        /// The limit.
        limit: u64,
    },
    /// The virtual host does not exist.
    VirtualHostNotFound {
        /// The virtual host.
        virtual_host: String,
    },
    /// The user has no permissions in the virtual host.
    VirtualHostRefused {
        /// The virtual host.
        virtual_host: String,
        /// The user.
        user: String,
    },
    /// The virtual host is not running.
    VirtualHostDown {
        /// The virtual host.
        virtual_host: String,
    },
    /// The broker does not accept a value that the client negotiated, such as a small `frame_max`.
    Negotiation {
        /// The name of the value.
        parameter: String,
        /// The value of the client.
        negotiated: u64,
        /// The lowest or highest value that the broker accepts.
        bound: u64,
        /// Whether the value is above the bound; otherwise it is below.
        too_high: bool,
    },
    /// The broker refused the credentials.
    LoginRefused {
        /// The SASL mechanism.
        mechanism: String,
    },
    /// The credentials, such as a token, have expired.
    CredentialsExpired,
    /// The queue does not support the operation, because of its type.
    NotSupported {
        /// The queue.
        resource: Resource,
    },
    /// The node shuts down, or was put into maintenance mode.
    ShuttingDown,
    /// An operator closed the connection in the management interface, and has given no reason.
    ClosedByOperator,
    /// The broker was made to close the connection (320). The reason can be an operator's own words, or name what happened to the
    /// user or the virtual host.
    ConnectionForced {
        /// The reason.
        why: String,
    },
}

/// A queue or exchange, as RabbitMQ's texts name it.
///
/// ```
/// # use amqp_proto::error::Resource;
/// # fn example(resource: &Resource) {
/// // queue 'orders' in virtual host '/'
/// println!("{resource}");
/// # }
/// ```
#[derive(Debug, Clone, PartialEq, Eq)]
#[non_exhaustive]
pub struct Resource {
    /// `queue` or `exchange`.
    pub kind: String,
    /// Its name.
    pub name: String,
    /// The virtual host that it is in.
    pub virtual_host: String,
}

impl fmt::Display for Resource {
    fn fmt(&self, f: &mut fmt::Formatter<'_>) -> fmt::Result {
        let Self { kind, name, virtual_host } = self;
        for part in [kind, " '", name, "' in virtual host '", virtual_host, "'"] {
            wire::write_escaped(part, f)?;
        }
        Ok(())
    }
}

/// A permission of a user, for the resources that match a pattern
/// ([RabbitMQ: access control](https://www.rabbitmq.com/docs/access-control#authorisation)).
///
/// ```
/// use amqp_proto::error::{Explanation, Permission};
/// # fn example(explanation: &Explanation) {
/// if let Explanation::AccessRefused { permission: Some(Permission::Write), resource, .. } = explanation {
///     println!("the user may not publish to {resource}");
/// }
/// # }
/// ```
#[derive(Debug, Clone, Copy, PartialEq, Eq, Hash)]
#[non_exhaustive]
pub enum Permission {
    /// To declare and delete.
    Configure,
    /// To publish, and to bind the queue or exchange to something.
    Write,
    /// To consume, get and purge, and to bind something to the exchange.
    Read,
}

/// The items whose number can be limited: see [`Explanation::Limit`].
///
/// ```
/// use amqp_proto::error::{Explanation, Limited};
/// # fn example(explanation: &Explanation) {
/// if let Explanation::Limit { of: Limited::Connections, limit, .. } = explanation {
///     println!("{limit} connections are open already");
/// }
/// # }
/// ```
#[derive(Debug, Clone, Copy, PartialEq, Eq, Hash)]
#[non_exhaustive]
pub enum Limited {
    /// Connections.
    Connections,
    /// Channels.
    Channels,
    /// Queues.
    Queues,
    /// Exchanges.
    Exchanges,
    /// Consumers.
    Consumers,
}

/// The scope of a limit: see [`Explanation::Limit`].
///
/// ```
/// use amqp_proto::error::{Explanation, Scope};
/// # fn example(explanation: &Explanation) {
/// if let Explanation::Limit { scope: Scope::User(user), limit, .. } = explanation {
///     println!("{user} may have {limit} at most");
/// }
/// # }
/// ```
#[derive(Debug, Clone, PartialEq, Eq)]
#[non_exhaustive]
pub enum Scope {
    /// All of the broker's nodes together.
    Cluster,
    /// One node.
    Node,
    /// A virtual host.
    VirtualHost(String),
    /// A user.
    User(String),
    /// This connection.
    Connection,
    /// This channel.
    Channel,
}

impl Close {
    /// Returns the reason in fields, if the peer closed with a text that RabbitMQ is known to send.
    #[must_use]
    pub fn explanation(&self) -> Option<Explanation> {
        if self.by == Initiator::Local {
            return None;
        }
        let text = String::from_utf8_lossy(self.reply_text.as_bytes());
        let text = self.reply_code.name().and_then(|name| text.strip_prefix(name)).unwrap_or(&text);
        let text = text.strip_prefix(" - ").unwrap_or(text);
        let mut explanation = match parse::text(text) {
            Some(explanation) => explanation,
            None if self.reply_code == ReplyCode::CONNECTION_FORCED => {
                Explanation::ConnectionForced { why: text.into() }
            }
            None => return None,
        };
        if let Explanation::AccessRefused { permission: permission @ None, resource, .. } =
            &mut explanation
        {
            *permission = self.needed(&resource.kind);
        }
        Some(explanation)
    }

    /// Returns a short sentence about what to do, if the reason is known.
    #[must_use]
    pub fn hint(&self) -> Option<&'static str> {
        match self.explanation() {
            Some(explanation) => explanation.hint(),
            None if self.by == Initiator::Peer && self.reply_code == ReplyCode::INTERNAL_ERROR => {
                Some("the broker's log has the details")
            }
            None => None,
        }
    }

    /// Returns the permission that the refused method needs for a resource, if there is only one.
    ///
    /// RabbitMQ: `queue.declare` and `exchange.declare` can need each of them, depending on the arguments.
    fn needed(&self, kind: &str) -> Option<Permission> {
        let method = self.method()?;
        match kind {
            "queue" if [BasicConsume::NAME, BasicGet::NAME, QueuePurge::NAME].contains(&method) => {
                Some(Permission::Read)
            }
            "queue" if [QueueBind::NAME, QueueUnbind::NAME].contains(&method) => {
                Some(Permission::Write)
            }
            "exchange" if [QueueBind::NAME, QueueUnbind::NAME].contains(&method) => {
                Some(Permission::Read)
            }
            "exchange" if method == BasicPublish::NAME => Some(Permission::Write),
            "queue" | "exchange" if [QueueDelete::NAME, ExchangeDelete::NAME].contains(&method) => {
                Some(Permission::Configure)
            }
            _ => None,
        }
    }
}
