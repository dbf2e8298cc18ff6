use std::cmp::Ordering;
use std::fmt;

use amqp_proto::FieldTable;

/// The product and version of a broker; see [`Connection::broker_version`](crate::Connection::broker_version).
///
/// Versions of one product are ordered. Versions of different products are not: each comparison is `false`.
///
/// ```
/// # use amqp_client_core as amqp_client_tokio;
/// use amqp_client_tokio::BrokerVersion;
///
/// let version = BrokerVersion::rabbitmq(4, 0, 5);
/// assert!(version > BrokerVersion::rabbitmq(3, 13, 7));
/// assert_eq!(version.to_string(), "RabbitMQ 4.0.5");
/// ```
#[derive(Debug, Clone, PartialEq, Eq, Hash)]
pub struct BrokerVersion {
    product: Product,
    numbers: [u32; 3],
}

#[derive(Debug, Clone, PartialEq, Eq, Hash)]
enum Product {
    RabbitMq,
    Other(String),
}

/// A feature that depends on the version of RabbitMQ; see [`BrokerVersion::has`].
///
/// ```
/// # use amqp_client_core as amqp_client_tokio;
/// use amqp_client_tokio::{BrokerFeature, BrokerVersion};
///
/// assert!(BrokerVersion::rabbitmq(4, 3, 0).has(BrokerFeature::DelayedRetry));
/// assert!(!BrokerVersion::rabbitmq(4, 2, 0).has(BrokerFeature::DelayedRetry));
/// ```
#[derive(Debug, Clone, Copy, PartialEq, Eq, Hash)]
#[non_exhaustive]
pub enum BrokerFeature {
    /// Virtual hosts have a default queue type, so a queue without `x-queue-type` can be a quorum queue. Since 3.11.
    DefaultQueueType,
    /// A queue sets the time within which its consumers must settle deliveries (`x-consumer-timeout`). Since 3.12; from 4.3 on,
    /// only for quorum queues.
    QueueConsumerTimeout,
    /// Consumers of streams filter messages (`x-stream-filter`). Since 3.13.
    StreamFilters,
    /// Quorum queues drop or dead-letter a message after 20 failed deliveries, unless `x-delivery-limit` says otherwise. Since 4.0.
    DefaultDeliveryLimit,
    /// Quorum queues know message priorities. Since 4.0.
    QuorumPriorities,
    /// Of the consumers of a quorum queue with a single active consumer, the one with the highest priority is the active one, also if it
    /// comes later than others. Since 4.0.
    SingleActivePriorities,
    /// A declaration of an exchange with an unknown type closes only the channel, and not the connection. Since 4.0.
    UnknownExchangeClosesChannel,
    /// Exchanges of type `x-local-random`. Since 4.0.
    LocalRandomExchange,
    /// Only failures count as failed deliveries: a delivery that is requeued by `basic.nack` has not failed. Since 4.3.
    NackWithoutBlame,
    /// Quorum queues deliver a failed message again only after a delay (`x-delayed-retry-type`). Since 4.3.
    DelayedRetry,
    /// A consumer sets the time within which it must settle deliveries (`x-consumer-timeout`). Since 4.3.
    ConsumerTimeout,
    /// Exchanges of type `x-modulus-hash` without a plugin. Since 4.3.
    ModulusHashExchange,
}

impl BrokerFeature {
    /// The first version of RabbitMQ with this feature.
    const fn since(self) -> [u32; 3] {
        match self {
            Self::DefaultQueueType => [3, 11, 0],
            Self::QueueConsumerTimeout => [3, 12, 0],
            Self::StreamFilters => [3, 13, 0],
            Self::DefaultDeliveryLimit
            | Self::QuorumPriorities
            | Self::SingleActivePriorities
            | Self::UnknownExchangeClosesChannel
            | Self::LocalRandomExchange => [4, 0, 0],
            Self::NackWithoutBlame
            | Self::DelayedRetry
            | Self::ConsumerTimeout
            | Self::ModulusHashExchange => [4, 3, 0],
        }
    }
}

impl BrokerVersion {
    /// Returns a version of RabbitMQ, to compare with.
    #[must_use]
    pub const fn rabbitmq(major: u32, minor: u32, patch: u32) -> Self {
        Self { product: Product::RabbitMq, numbers: [major, minor, patch] }
    }

    /// Reads the version from server properties: `product`, and `version` such as `4.3.0-rc.1`. `None` if one of them is missing, or
    /// if the version does not begin with a number.
    #[must_use]
    pub fn from_properties(properties: &FieldTable) -> Option<Self> {
        let (product, version) = (properties.get("product")?, properties.get("version")?);
        let product = match product.as_str()? {
            "RabbitMQ" => Product::RabbitMq,
            other => Product::Other(other.to_owned()),
        };
        Some(Self { product, numbers: numbers_of(version.as_str()?)? })
    }

    /// Returns the name of the product.
    #[must_use]
    pub fn product(&self) -> &str {
        match &self.product {
            Product::RabbitMq => "RabbitMQ",
            Product::Other(name) => name,
        }
    }

    /// Returns whether the product is RabbitMQ.
    #[must_use]
    pub const fn is_rabbitmq(&self) -> bool {
        matches!(self.product, Product::RabbitMq)
    }

    /// Returns the major number, such as 4 for 4.3.1.
    #[must_use]
    pub const fn major(&self) -> u32 {
        self.numbers[0]
    }

    /// Returns the minor number, such as 3 for 4.3.1.
    #[must_use]
    pub const fn minor(&self) -> u32 {
        self.numbers[1]
    }

    /// Returns the patch number, such as 1 for 4.3.1.
    #[must_use]
    pub const fn patch(&self) -> u32 {
        self.numbers[2]
    }

    /// The three numbers of a version of RabbitMQ.
    pub(crate) fn known_numbers(&self) -> Option<[u32; 3]> {
        self.is_rabbitmq().then_some(self.numbers)
    }

    /// Returns whether a broker of this version has a feature. For products other than RabbitMQ, nothing is known, and the result is
    /// `false`.
    #[must_use]
    pub fn has(&self, feature: BrokerFeature) -> bool {
        self.known_numbers().is_some_and(|numbers| numbers >= feature.since())
    }
}

/// The first three numbers of a version. Numbers that are missing are 0, and everything behind a number is ignored.
fn numbers_of(version: &str) -> Option<[u32; 3]> {
    let mut numbers = [0; 3];
    for (index, part) in version.splitn(4, '.').take(3).enumerate() {
        let digits = part.len() - part.trim_start_matches(|c: char| c.is_ascii_digit()).len();
        match part.get(..digits).and_then(|digits| digits.parse().ok()) {
            Some(number) => numbers[index] = number,
            None if index == 0 => return None,
            None => break,
        }
        // A suffix ends the numbers: 4.3-rc.1 is 4.3.0.
        if digits < part.len() {
            break;
        }
    }
    Some(numbers)
}

impl PartialOrd for BrokerVersion {
    fn partial_cmp(&self, other: &Self) -> Option<Ordering> {
        (self.product == other.product).then(|| self.numbers.cmp(&other.numbers))
    }
}

impl fmt::Display for BrokerVersion {
    fn fmt(&self, f: &mut fmt::Formatter<'_>) -> fmt::Result {
        let [major, minor, patch] = self.numbers;
        write!(f, "{} {major}.{minor}.{patch}", self.product().escape_debug())
    }
}

#[cfg(test)]
mod tests {
    use amqp_proto::Value;

    use super::*;

    fn version(product: &str, version: &str) -> Option<BrokerVersion> {
        let properties = FieldTable::new().with("product", product).ok()?;
        BrokerVersion::from_properties(&properties.with("version", version).ok()?)
    }

    #[test]
    fn versions_are_read_from_server_properties() {
        for (text, expected) in [
            ("3.10.8", Some((3, 10, 8))),
            ("4.3.0-rc.1", Some((4, 3, 0))),
            ("4.3.12+7.g5b09e55", Some((4, 3, 12))),
            ("4.3-rc.1", Some((4, 3, 0))),
            ("4", Some((4, 0, 0))),
            ("4.x.9", Some((4, 0, 0))),
            ("4.3.6.1", Some((4, 3, 6))),
            ("", None),
            ("v4", None),
            ("99999999999.1", None),
            ("0.0.0", Some((0, 0, 0))),
        ] {
            let expected = expected.map(|(a, b, c)| BrokerVersion::rabbitmq(a, b, c));
            assert_eq!(version("RabbitMQ", text), expected, "{text}");
        }
        assert_eq!(BrokerVersion::from_properties(&FieldTable::new()), None);
    }

    #[test]
    fn properties_of_other_types_are_no_version() -> Result<(), amqp_proto::FieldError> {
        let properties =
            FieldTable::new().with("product", "RabbitMQ")?.with("version", Value::Void)?;
        assert_eq!(BrokerVersion::from_properties(&properties), None);
        Ok(())
    }

    #[test]
    fn versions_of_one_product_are_ordered() {
        let rabbitmq = BrokerVersion::rabbitmq;
        assert!(rabbitmq(4, 0, 0) > rabbitmq(3, 13, 7));
        assert!(rabbitmq(3, 9, 30) < rabbitmq(3, 10, 0));
        assert!(rabbitmq(4, 3, 1) < rabbitmq(4, 3, 2));
        let other = version("LavinMQ", "4.3.0").expect("a version");
        assert_eq!(other.partial_cmp(&rabbitmq(4, 3, 0)), None);
        assert!(!other.has(BrokerFeature::DelayedRetry));
        assert_eq!(other.to_string(), "LavinMQ 4.3.0");
    }
}
