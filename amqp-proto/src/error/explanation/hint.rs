//! Hints: what to do about each reason of a close.

use super::{Explanation, Limited, Permission, Scope};

impl Explanation {
    /// Returns a short sentence about what to do. `None` if there is nothing to do.
    #[must_use]
    pub const fn hint(&self) -> Option<&'static str> {
        Some(match self {
            Self::InequivalentArgument { .. } => {
                "declare it with the same values, or delete it first, with all messages in it"
            }
            Self::InvalidArgument { .. } => "correct the argument, or remove it",
            Self::AccessRefused { topic: Some(_), .. } => {
                "grant the user the permission for this routing key (rabbitmqctl set_topic_permissions)"
            }
            Self::AccessRefused { permission: Some(permission), .. } => match permission {
                Permission::Configure => {
                    "grant the user the configure permission (rabbitmqctl set_permissions)"
                }
                Permission::Write => {
                    "grant the user the write permission (rabbitmqctl set_permissions)"
                }
                Permission::Read => {
                    "grant the user the read permission (rabbitmqctl set_permissions)"
                }
            },
            Self::AccessRefused { permission: None, .. } => {
                "grant the user the permission for it (rabbitmqctl set_permissions)"
            }
            Self::NotFound { .. } => "declare it first, or check the name and the virtual host",
            Self::Unavailable { .. } => "wait until its node is up again, or delete the queue",
            Self::Locked { .. } => {
                "only the connection that declared it can use it; close that connection, or choose another name"
            }
            Self::ExclusiveConsumer { .. } => {
                "stop its other consumers, or consume without exclusive"
            }
            Self::InUse { .. } => {
                "remove its consumers or bindings first, or delete without if_unused"
            }
            Self::NotEmpty { .. } => {
                "consume or purge its messages first, or delete without if_empty"
            }
            Self::ReservedName { .. } => "the prefix amq. is reserved: choose another name",
            Self::DefaultExchange => {
                "the default exchange is bound to every queue by its name; use another exchange for bindings"
            }
            Self::InternalExchange { .. } => "publish to an exchange that is bound to it",
            Self::UnknownExchangeType { .. } => {
                "check the type, or enable the plugin that provides it"
            }
            Self::UnknownDeliveryTag { .. } => {
                "acknowledge each delivery once, on the channel that it came on"
            }
            Self::AcknowledgementTimeout { .. } => {
                "acknowledge earlier, lower the prefetch, or raise consumer_timeout on the broker"
            }
            Self::MessageTooLarge { .. } => {
                "split the message, or raise max_message_size on the broker"
            }
            Self::UserId { .. } => {
                "remove the property user_id, or set it to the connection's user"
            }
            Self::InvalidExpiration { .. } => "set it to a number of milliseconds, as text",
            Self::ConsumerTagInUse { .. } => {
                "choose another consumer tag, or let the client choose"
            }
            Self::Limit { of, scope, .. } => return limit(*of, scope),
            Self::VirtualHostNotFound { .. } => {
                "check the name, or create it (rabbitmqctl add_vhost)"
            }
            Self::VirtualHostRefused { .. } => {
                "check the name, or grant the user permissions in it (rabbitmqctl set_permissions)"
            }
            Self::VirtualHostDown { .. } => {
                "see the broker's log, or restart it (rabbitmqctl restart_vhost)"
            }
            Self::Negotiation { too_high: false, .. } => {
                "raise the limit in the client's configuration"
            }
            Self::Negotiation { too_high: true, .. } => {
                "lower the limit in the client's configuration"
            }
            Self::LoginRefused { .. } => {
                "check the user and the password; the user guest may connect only from the broker's own host"
            }
            Self::CredentialsExpired => "connect with new credentials",
            Self::NotSupported { .. } => "check the type of the queue",
            Self::ShuttingDown => "connect again later, or to another node",
            Self::ClosedByOperator | Self::ConnectionForced { .. } => return None,
        })
    }
}

const fn limit(of: Limited, scope: &Scope) -> Option<&'static str> {
    Some(match (of, scope) {
        (Limited::Connections, Scope::Node) => {
            "close other connections, or raise connection_max on the broker"
        }
        (Limited::Connections, Scope::User(_)) => {
            "close other connections, or raise the limit (rabbitmqctl set_user_limits)"
        }
        (Limited::Connections, _) => {
            "close other connections, or raise the limit (rabbitmqctl set_vhost_limits)"
        }
        (Limited::Channels, Scope::Connection) => {
            "close other channels, or open another connection"
        }
        (Limited::Channels, Scope::User(_)) => {
            "close other channels, or raise the limit (rabbitmqctl set_user_limits)"
        }
        (Limited::Channels, _) => {
            "close other channels, or raise channel_max_per_node on the broker"
        }
        (Limited::Queues, Scope::VirtualHost(_)) => {
            "delete other queues, or raise the limit (rabbitmqctl set_vhost_limits)"
        }
        (Limited::Queues, _) => "delete other queues, or raise cluster_queue_limit on the broker",
        (Limited::Exchanges, _) => {
            "delete other exchanges, or raise cluster_exchange_limit on the broker"
        }
        (Limited::Consumers, _) => {
            "open another channel, or raise consumer_max_per_channel on the broker"
        }
    })
}
