//! Recognizes RabbitMQ's texts.
//!
//! Names are between quotes, but nothing in them is escaped. So a name ends at the last place where it can end: most hostile names
//! are then read as they are.

use alloc::borrow::ToOwned;
use alloc::string::String;
use core::time::Duration;

use super::{Explanation, Limited, Permission, Resource, Scope};

/// Parses a reply text without the name of its code.
pub(super) fn text(text: &str) -> Option<Explanation> {
    PARSERS.iter().find_map(|parse| parse(text))
}

const PARSERS: [fn(&str) -> Option<Explanation>; 10] =
    [inequivalent, invalid, access, missing, busy, message, limit, host, connection, other];

/// `inequivalent arg 'durable' for queue 'q' in vhost '/': received 'true' but current is 'false'`.
fn inequivalent(text: &str) -> Option<Explanation> {
    let (argument, rest) = text.strip_prefix("inequivalent arg '")?.split_once("' for ")?;
    let (resource, values) = rest.rsplit_once(": received ")?;
    let (received, current) = values.rsplit_once(" but current is ")?;
    Some(Explanation::InequivalentArgument {
        argument: argument.to_owned(),
        resource: whole_resource(resource)?,
        received: received.to_owned(),
        current: current.to_owned(),
    })
}

/// `invalid arg 'x-max-length' for queue 'q' in vhost '/': {value_negative,-1}`, and
/// `invalid property 'exclusive-owner' for queue 'q' in vhost '/'`.
fn invalid(text: &str) -> Option<Explanation> {
    let begins = ["invalid arg '", "invalid property '"];
    let rest = begins.iter().find_map(|begin| text.strip_prefix(begin))?;
    let (argument, rest) = rest.split_once("' for ")?;
    // The reason can contain such an end, too. The resource ends with a quote before it.
    let split = [": ", " of queue type "].iter().find_map(|end| {
        rest.rmatch_indices(end).find_map(|(at, end)| {
            let (head, why) = (rest.get(..at)?, rest.get(at + end.len()..)?);
            Some((whole_resource(head)?, why.to_owned()))
        })
    });
    let (resource, why) = match split {
        Some(split) => split,
        None => (whole_resource(rest)?, String::new()),
    };
    Some(Explanation::InvalidArgument { argument: argument.to_owned(), resource, why })
}

/// `configure access to queue 'q' in vhost '/' refused for user 'u'`, and
/// `write access to topic 'a.b' in exchange 'x' in vhost '/' refused for user 'u'`. RabbitMQ 3 does not name the permission.
fn access(text: &str) -> Option<Explanation> {
    let permissions = [
        ("configure ", Permission::Configure),
        ("write ", Permission::Write),
        ("read ", Permission::Read),
    ];
    let named = permissions
        .into_iter()
        .find_map(|(name, permission)| Some((text.strip_prefix(name)?, Some(permission))));
    let (rest, permission) = named.unwrap_or((text, None));
    let (resource, user) = rest.strip_prefix("access to ")?.rsplit_once(" refused for user '")?;
    let (topic, resource) = match resource.strip_prefix("topic '") {
        Some(rest) => {
            let (topic, name) = rest.split_once("' in exchange ")?;
            // RabbitMQ 4 writes the kind twice, or not at all.
            let name = name.strip_prefix("exchange ").unwrap_or(name);
            (Some(topic.to_owned()), named_resource("exchange", name)?)
        }
        None => (None, whole_resource(resource)?),
    };
    Some(Explanation::AccessRefused { permission, resource, topic, user: user_name(user) })
}

/// What does not exist, or not at present.
fn missing(text: &str) -> Option<Explanation> {
    if let Some(resource) = text.strip_prefix("no ").and_then(whole_resource) {
        return Some(Explanation::NotFound { resource });
    }
    let unavailable = [
        ("home node '", " is down or inaccessible"),
        ("", " process is stopped by supervisor"),
        ("", " has crashed and failed to restart"),
        ("failed to perform operation on ", " due to timeout"),
        ("failed to perform operation on ", "may be stopping or being demoted"),
    ];
    unavailable.into_iter().find_map(|(before, after)| {
        let rest = text.strip_prefix(before)?.strip_suffix(after)?;
        let rest = rest.split_once("' of durable ").map_or(rest, |(_, rest)| rest);
        let rest = rest.rsplit_once(": its leader ").map_or(rest, |(rest, _)| rest);
        whole_resource(rest).map(|resource| Explanation::Unavailable { resource })
    })
}

/// What somebody else uses.
fn busy(text: &str) -> Option<Explanation> {
    if let Some(rest) = text.strip_prefix("cannot obtain exclusive access to locked ") {
        let (rest, _) = rest.rsplit_once(". It could be").unwrap_or((rest, ""));
        return Some(Explanation::Locked { resource: whole_resource(rest)? });
    }
    if let Some(rest) = text.strip_suffix(" in exclusive use") {
        return Some(Explanation::ExclusiveConsumer { resource: whole_resource(rest)? });
    }
    if let Some(rest) = text.strip_suffix(" in use") {
        return Some(Explanation::InUse { resource: whole_resource(rest)? });
    }
    if let Some(rest) = text.strip_suffix(" not empty") {
        return Some(Explanation::NotEmpty { resource: whole_resource(rest)? });
    }
    if let Some(rest) = text.strip_prefix("cannot publish to internal ") {
        return Some(Explanation::InternalExchange { resource: whole_resource(rest)? });
    }
    let get_of_stream = text.strip_prefix("basic.get not supported by stream queues ");
    let purge_of_stream = text.strip_prefix("queue.purge not supported by stream queues ");
    if let Some(rest) = get_of_stream.or(purge_of_stream) {
        return Some(Explanation::NotSupported { resource: whole_resource(rest)? });
    }
    if let Some(rest) = text.strip_prefix("cannot delete ") {
        let (rest, _) = rest.rsplit_once(". queue.delete operations with ")?;
        return Some(Explanation::NotSupported { resource: whole_resource(rest)? });
    }
    if let Some(rest) = text.strip_prefix("cannot obtain access to locked ") {
        let (rest, _) = rest.rsplit_once(". basic.get operations are not supported by ")?;
        return Some(Explanation::NotSupported { resource: whole_resource(rest)? });
    }
    None
}

/// What is wrong with a message, a delivery or a consumer.
fn message(text: &str) -> Option<Explanation> {
    if let Some(tag) = text.strip_prefix("unknown delivery tag ") {
        return Some(Explanation::UnknownDeliveryTag { delivery_tag: tag.parse().ok()? });
    }
    if let Some(rest) = text.strip_prefix("delivery acknowledgement on channel ") {
        let (_, rest) = rest.split_once("Timeout value used: ")?;
        let (milliseconds, _) = rest.split_once(" ms")?;
        let timeout = Duration::from_millis(milliseconds.parse().ok()?);
        return Some(Explanation::AcknowledgementTimeout { timeout });
    }
    if let Some(rest) = text.strip_prefix("message size ") {
        let (size, rest) = rest.split_once(" is larger than ")?;
        let (_, max) = rest.rsplit_once("max size ")?;
        let (size, max) = (size.parse().ok()?, max.parse().ok()?);
        return Some(Explanation::MessageTooLarge { size, max });
    }
    if let Some(rest) = text.strip_prefix("user_id property set to '") {
        let (claimed, user) = rest.rsplit_once("' but authenticated user was '")?;
        return Some(Explanation::UserId { claimed: claimed.to_owned(), user: unquoted(user) });
    }
    if let Some(rest) = text.strip_prefix("invalid expiration '") {
        let (expiration, _) = rest.rsplit_once("': ")?;
        return Some(Explanation::InvalidExpiration { expiration: expiration.to_owned() });
    }
    let tag = text.strip_prefix("attempt to reuse consumer tag '")?;
    Some(Explanation::ConsumerTagInUse { consumer_tag: unquoted(tag) })
}

/// Of what there is too much.
fn limit(text: &str) -> Option<Explanation> {
    let reached = |of, scope, limit: &str| {
        let limit = limit.trim_matches(['(', ')']).parse().ok()?;
        Some(Explanation::Limit { of, scope, limit })
    };
    if let Some(rest) = text.strip_prefix("number of channels opened ") {
        if let Some((_, limit)) = rest.rsplit_once("negotiated channel_max ") {
            return reached(Limited::Channels, Scope::Connection, limit);
        }
        let (rest, limit) = rest.rsplit_once("limit of ")?;
        let (rest, _) = rest.rsplit_once("' has reached ")?;
        let scope = match rest.strip_prefix("for user '") {
            Some(user) => Scope::User(user.to_owned()),
            None => Scope::Node,
        };
        return reached(Limited::Channels, scope, limit);
    }
    if let Some(rest) = text.strip_prefix("reached maximum (") {
        let limit = rest.strip_suffix(") of consumers per channel")?;
        return reached(Limited::Consumers, Scope::Channel, limit);
    }
    let rest = text.strip_suffix(" is reached")?;
    if let Some((_, limit)) = rest.rsplit_once(": exchange limit of ") {
        return reached(Limited::Exchanges, Scope::Cluster, limit);
    }
    let (rest, limit) = rest.rsplit_once(' ')?;
    if rest.ends_with("queue limit in cluster") {
        return reached(Limited::Queues, Scope::Cluster, limit);
    }
    if let Some((_, name)) = rest.rsplit_once("queue limit in vhost '") {
        return reached(Limited::Queues, Scope::VirtualHost(unquoted(name)), limit);
    }
    let rest = rest.strip_suffix("connection limit")?;
    if rest == "connection refused: node " {
        return reached(Limited::Connections, Scope::Node, limit);
    }
    if let Some(user) = rest.strip_prefix("connection refused for user '") {
        let user = user.strip_suffix("': user ")?;
        return reached(Limited::Connections, Scope::User(user.to_owned()), limit);
    }
    let (name, _) = rest.strip_prefix("access to vhost '")?.rsplit_once("' refused for user '")?;
    reached(Limited::Connections, Scope::VirtualHost(name.to_owned()), limit)
}

/// What is wrong with the virtual host.
fn host(text: &str) -> Option<Explanation> {
    if let Some(rest) = text.strip_prefix("vhost ") {
        // RabbitMQ 3 writes quotes around the name, RabbitMQ 4 does not.
        let name = rest.strip_suffix(" not found")?;
        let quoted = name.strip_prefix('\'').and_then(|name| name.strip_suffix('\''));
        let virtual_host = quoted.unwrap_or(name).to_owned();
        return Some(Explanation::VirtualHostNotFound { virtual_host });
    }
    let (name, user) =
        text.strip_prefix("access to vhost '")?.rsplit_once("' refused for user '")?;
    let virtual_host = name.to_owned();
    if let Some((_, rest)) = user.split_once("': ") {
        return rest.ends_with(" is down").then_some(Explanation::VirtualHostDown { virtual_host });
    }
    Some(Explanation::VirtualHostRefused { virtual_host, user: user_name(user) })
}

/// Why a login or an open connection ends.
fn connection(text: &str) -> Option<Explanation> {
    if let Some(rest) = text.strip_prefix("Login was refused using authentication mechanism ") {
        let (mechanism, _) = rest.split_once(". ").unwrap_or((rest, ""));
        return Some(Explanation::LoginRefused { mechanism: mechanism.to_owned() });
    }
    if let Some(rest) = text.strip_prefix("negotiated ") {
        let (parameter, rest) = rest.split_once(" = ")?;
        let (value, rest) = rest.split_once(" is ")?;
        // An unlimited number is `0 (no limit)`.
        let (value, _) = value.split_once(' ').unwrap_or((value, ""));
        let (_, bound) = rest.rsplit_once('(')?;
        return Some(Explanation::Negotiation {
            parameter: parameter.to_owned(),
            negotiated: value.parse().ok()?,
            bound: bound.strip_suffix(')')?.parse().ok()?,
            too_high: rest.starts_with("higher"),
        });
    }
    if text == "Node was put into maintenance mode"
        || text.starts_with("broker forced connection closure")
    {
        return Some(Explanation::ShuttingDown);
    }
    // The management interface has this text if the operator gives none. The text of `rabbitmqctl close_connection` is always the
    // operator's own, so it cannot be recognized.
    if text == "Closed via management plugin" {
        return Some(Explanation::ClosedByOperator);
    }
    (text == "credential expired").then_some(Explanation::CredentialsExpired)
}

/// What the broker never does.
fn other(text: &str) -> Option<Explanation> {
    if text == "operation not permitted on the default exchange" {
        return Some(Explanation::DefaultExchange);
    }
    if let Some(rest) = text.strip_suffix("' contains reserved prefix 'amq.*'") {
        let (_, name) = rest.split_once(" name '")?;
        return Some(Explanation::ReservedName { name: name.to_owned() });
    }
    let begins = ["unknown exchange type '", "invalid exchange type '"];
    let rest = begins.iter().find_map(|begin| text.strip_prefix(begin))?;
    Some(Explanation::UnknownExchangeType { exchange_type: unquoted(rest) })
}

/// Parses a text that is nothing but a resource: `queue 'q' in vhost '/'`.
fn whole_resource(text: &str) -> Option<Resource> {
    let kind = ["queue", "exchange"].into_iter().find(|kind| text.starts_with(kind))?;
    named_resource(kind, text.strip_prefix(kind)?.strip_prefix(' ')?)
}

/// Parses `'q' in vhost '/'`.
fn named_resource(kind: &str, text: &str) -> Option<Resource> {
    let (name, virtual_host) = text.strip_prefix('\'')?.rsplit_once("' in vhost '")?;
    Some(Resource {
        kind: kind.to_owned(),
        name: name.to_owned(),
        virtual_host: virtual_host.strip_suffix('\'')?.to_owned(),
    })
}

/// Returns a name at the end of a text without its closing quote, which a shortened text lacks.
fn unquoted(text: &str) -> String {
    text.strip_suffix('\'').unwrap_or(text).to_owned()
}

/// Returns the name of a user. An authorization backend can add a reason behind it.
fn user_name(text: &str) -> String {
    let ends = ["' by backend ", "', backend "];
    let before = ends.iter().find_map(|end| text.split_once(end).map(|(name, _)| name));
    before.map_or_else(|| unquoted(text), ToOwned::to_owned)
}
