use std::borrow::Cow;

use amqp_client_core::proto::{Delivery, RawProperties, ShortStr};

use crate::conventions::{self as names, Operation};
use crate::destination::{Destination, text};

/// The value of an attribute.
#[derive(Debug)]
pub(crate) enum Attribute<'a> {
    Text(Cow<'a, str>),
    Number(i64),
    Flag(bool),
}

/// Attributes that all spans of an interceptor have, and whether spans have the size of the body.
#[derive(Debug, Clone, Default)]
pub(crate) struct Common {
    /// The address and the port of the broker.
    pub(crate) server: Option<(String, u16)>,
    pub(crate) client_id: Option<String>,
    pub(crate) body_size: bool,
}

/// Passes the attributes of a span to `add`. `message`: the properties and the size of the body, if the span is that of one message.
pub(crate) fn describe<'a>(
    common: &'a Common,
    operation: Operation,
    to: &Destination<'a>,
    message: Option<(&RawProperties, usize)>,
    mut add: impl FnMut(&'static str, Attribute<'a>),
) {
    add(names::SYSTEM, Attribute::Text(names::RABBITMQ.into()));
    add(names::OPERATION_NAME, Attribute::Text(operation.name.into()));
    add(names::OPERATION_TYPE, Attribute::Text(operation.kind.into()));
    add(names::DESTINATION_NAME, Attribute::Text(to.full_name().into()));
    if to.is_anonymous() {
        add(names::DESTINATION_ANONYMOUS, Attribute::Flag(true));
    }
    if !to.routing_key.is_empty() {
        add(names::ROUTING_KEY, Attribute::Text(text(to.routing_key)));
    }
    if let Some(id) = &common.client_id {
        add(names::CLIENT_ID, Attribute::Text(id.into()));
    }
    describe_server(common, &mut add);
    let Some((properties, size)) = message else { return };
    let ids = [
        (names::MESSAGE_ID, properties.message_id().ok().flatten()),
        (names::CONVERSATION_ID, properties.correlation_id().ok().flatten()),
    ];
    for (name, id) in ids {
        if let Some(id) = id {
            add(name, Attribute::Text(text(id.as_bytes()).into_owned().into()));
        }
    }
    if common.body_size {
        add(names::BODY_SIZE, Attribute::Number(i64::try_from(size).unwrap_or(i64::MAX)));
    }
}

/// Passes the attributes of the server to `add`. Metrics have these as well.
pub(crate) fn describe_server<'a>(
    common: &'a Common,
    add: &mut impl FnMut(&'static str, Attribute<'a>),
) {
    if let Some((address, port)) = &common.server {
        add(names::SERVER_ADDRESS, Attribute::Text(address.into()));
        add(names::SERVER_PORT, Attribute::Number(i64::from(*port)));
    }
}

/// The origin of a delivery, kept for the span of its settlement.
#[derive(Debug)]
pub(crate) struct Origin {
    exchange: ShortStr,
    routing_key: ShortStr,
    queue: ShortStr,
    /// The delivery tag.
    pub(crate) tag: i64,
}

impl Origin {
    pub(crate) fn of(delivery: &Delivery, queue: &ShortStr) -> Self {
        Self {
            exchange: delivery.exchange(),
            routing_key: delivery.routing_key(),
            queue: queue.clone(),
            tag: i64::try_from(delivery.delivery_tag().get()).unwrap_or(i64::MAX),
        }
    }

    pub(crate) fn destination(&self) -> Destination<'_> {
        Destination {
            exchange: self.exchange.as_bytes(),
            routing_key: self.routing_key.as_bytes(),
            queue: Some(self.queue.as_bytes()),
        }
    }
}
