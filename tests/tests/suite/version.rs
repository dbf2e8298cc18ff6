//! The version of RabbitMQ: where versions differ, each behaviour has a branch for each.

use amqp_client_core::Connection;

/// A version of RabbitMQ: major and minor number.
#[derive(Debug, Clone, Copy, PartialEq, Eq, PartialOrd, Ord)]
pub(super) struct Version(u32, u32);

impl Version {
    pub(super) const V4_0: Self = Self(4, 0);
    pub(super) const V4_3: Self = Self(4, 3);

    /// The version of the broker at the other end, from its server properties.
    pub(super) fn of(connection: &Connection) -> Option<Self> {
        let negotiated = connection.negotiated()?;
        let text = |key| negotiated.peer_properties.get(key)?.as_str().map(str::to_owned);
        text("product").filter(|product| product == "RabbitMQ")?;
        let version = text("version")?;
        let mut numbers = version.split('.').map_while(|number| number.parse().ok());
        Some(Self(numbers.next()?, numbers.next()?))
    }
}
