//! The credentials of a client, and the properties of the broker.

use amqp_proto::{FieldTable, RawProperties};
use bytes::Bytes;

/// Name and password in a response of the mechanism PLAIN.
pub(crate) fn plain(response: &[u8]) -> Option<(Vec<u8>, Vec<u8>)> {
    let mut parts = response.split(|byte| *byte == 0).map(<[u8]>::to_vec);
    let (_on_behalf_of, name, password) = (parts.next()?, parts.next()?, parts.next()?);
    parts.next().is_none().then_some((name, password))
}

/// Name and password in a response of the mechanism AMQPLAIN: a table without its length.
pub(crate) fn amqplain(response: &[u8]) -> Option<(Vec<u8>, Vec<u8>)> {
    // A list of properties that consists of headers only is a way to have a table decoded.
    let mut list = vec![0x20, 0];
    list.extend_from_slice(&u32::try_from(response.len()).ok()?.to_be_bytes());
    list.extend_from_slice(response);
    let table = RawProperties::checked(Bytes::from(list)).ok()?.headers().ok()??;
    let text = |name| table.get(name).and_then(|value| Some(value.as_str()?.as_bytes().to_vec()));
    Some((text("LOGIN")?, text("PASSWORD")?))
}

/// Returns the broker's server properties: those of the RabbitMQ whose behaviour it has, so that clients do what they would do with
/// that version. The platform tells the two apart.
pub(crate) fn server_properties(rabbitmq_4_3: bool) -> FieldTable {
    let capabilities = [
        "authentication_failure_close",
        "basic.nack",
        "consumer_cancel_notify",
        "connection.blocked",
        "consumer_priorities",
        "direct_reply_to",
        "exchange_exchange_bindings",
        "per_consumer_qos",
        "publisher_confirms",
    ];
    let capabilities =
        capabilities.into_iter().try_fold(FieldTable::new(), |table, name| table.with(name, true));
    let properties = capabilities.and_then(|capabilities| {
        FieldTable::new()
            .with("product", "RabbitMQ")?
            .with("version", if rabbitmq_4_3 { "4.3.6" } else { "3.10.8" })?
            .with("platform", concat!("amqp-test-broker ", env!("CARGO_PKG_VERSION")))?
            .with("capabilities", capabilities)
    });
    // Constant names and values fit.
    properties.unwrap_or_default()
}
