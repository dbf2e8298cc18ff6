//! The headers in which RabbitMQ counts what happened to a message.

use core::fmt;

use crate::wire::{DecodeError, FieldTable, Value};
use crate::{Delivery, RawProperties};

/// The reason why a queue dead-lettered a message, for [`Delivery::death_count`].
///
/// ```
/// use amqp_proto::DeathReason;
///
/// // These are RabbitMQ's words.
/// assert_eq!(DeathReason::MaxLength.to_string(), "maxlen");
/// ```
#[derive(Debug, Clone, Copy, PartialEq, Eq, Hash)]
#[non_exhaustive]
pub enum DeathReason {
    /// A consumer rejected the message, and did not request that it is requeued.
    Rejected,
    /// The message was in the queue for longer than its time to live.
    Expired,
    /// The queue was full.
    MaxLength,
    /// A quorum queue had delivered the message in vain as often as its limit allows.
    DeliveryLimit,
}

impl DeathReason {
    /// Returns the word for the reason in the header `x-death`.
    #[must_use]
    pub const fn as_str(self) -> &'static str {
        match self {
            Self::Rejected => "rejected",
            Self::Expired => "expired",
            Self::MaxLength => "maxlen",
            Self::DeliveryLimit => "delivery_limit",
        }
    }
}

impl fmt::Display for DeathReason {
    fn fmt(&self, f: &mut fmt::Formatter<'_>) -> fmt::Result {
        f.write_str(self.as_str())
    }
}

/// The counts that RabbitMQ adds to messages.
impl Delivery {
    /// Returns how often the message was dead-lettered from `queue` for that reason, as its header `x-death` says. 0 if it never
    /// was.
    ///
    /// ```
    /// use amqp_proto::{DeathReason, DecodeError, Delivery};
    ///
    /// /// The message comes back from a queue for retries, in which it expires.
    /// fn is_last_attempt(delivery: &Delivery) -> Result<bool, DecodeError> {
    ///     Ok(delivery.death_count("orders.retry", DeathReason::Expired)? >= 5)
    /// }
    /// ```
    ///
    /// RabbitMQ counts on as long as it moves the message itself. A message that a client publishes again with the same headers
    /// keeps its count up to RabbitMQ 3.13. RabbitMQ 4 begins again at 1.
    ///
    /// # Errors
    /// [`DecodeError`], if the message's headers are malformed, for example because its publisher used a field type that RabbitMQ
    /// does not define.
    pub fn death_count(
        &self,
        queue: impl AsRef<[u8]>,
        reason: DeathReason,
    ) -> Result<u64, DecodeError> {
        death_count(&self.properties(), queue.as_ref(), reason)
    }

    /// Returns how often a quorum queue delivered the message before, as its header `x-delivery-count` says. The queue compares
    /// this count with its `x-delivery-limit`.
    ///
    /// Up to RabbitMQ 4.2, each delivery that was not acknowledged counts; from 4.3, only those that
    /// [failed](https://www.rabbitmq.com/docs/quorum-queues#poison-message-handling). 0 at the first delivery, and in deliveries of
    /// classic queues and streams, which do not count.
    ///
    /// # Errors
    /// As [`death_count`](Self::death_count).
    pub fn delivery_count(&self) -> Result<u64, DecodeError> {
        count(&self.properties(), "x-delivery-count")
    }

    /// Returns how often a quorum queue assigned the message to a consumer before, as its header `x-acquired-count` says: in
    /// contrast to [`delivery_count`](Self::delivery_count), failed deliveries and others. 0 at the first delivery, up to RabbitMQ
    /// 4.2, and in deliveries of classic queues and streams.
    ///
    /// # Errors
    /// As [`death_count`](Self::death_count).
    pub fn acquired_count(&self) -> Result<u64, DecodeError> {
        count(&self.properties(), "x-acquired-count")
    }
}

fn death_count(
    properties: &RawProperties,
    queue: &[u8],
    reason: DeathReason,
) -> Result<u64, DecodeError> {
    let deaths = properties.headers()?.and_then(|headers| headers.get("x-death"));
    let Some(Value::Array(deaths)) = deaths else { return Ok(0) };
    let is = |death: &FieldTable, name, expected: &[u8]| matches!(death.get(name), Some(Value::LongStr(text)) if text.as_bytes() == expected);
    let reason = reason.as_str().as_bytes();
    // There is one entry for each queue and reason.
    let entry = deaths.iter().find_map(|death| match death {
        Value::Table(death) if is(&death, "queue", queue) && is(&death, "reason", reason) => {
            Some(death)
        }
        _ => None,
    });
    Ok(entry.and_then(|death| number(&death, "count")).unwrap_or(0))
}

fn count(properties: &RawProperties, name: &str) -> Result<u64, DecodeError> {
    Ok(properties.headers()?.and_then(|headers| number(&headers, name)).unwrap_or(0))
}

/// A number that is not negative, of whatever integer type: brokers and plugins differ.
fn number(table: &FieldTable, name: &str) -> Option<u64> {
    u64::try_from(table.get(name)?.as_i64()?).ok()
}

#[cfg(test)]
mod tests {
    use bytes::Bytes;

    use super::*;
    use crate::{FieldArray, Properties};

    fn with(name: &str, value: impl Into<Value>) -> RawProperties {
        let headers = FieldTable::new().with(name, value).expect("it is short");
        RawProperties::from(&Properties { headers: Some(headers), ..Properties::default() })
    }

    fn death(queue: &[u8], reason: &str, count: impl Into<Value>) -> Value {
        let queue = crate::LongStr::from(Bytes::copy_from_slice(queue));
        let entries: [(_, Value); 3] =
            [("count", count.into()), ("reason", reason.into()), ("queue", queue.into())];
        FieldTable::from_entries(entries).expect("short").into()
    }

    #[test]
    fn deaths_are_counted_by_queue_and_reason() {
        let deaths = [
            death(b"orders.retry", "expired", 3_i64),
            death(b"orders", "expired", 1_i32),
            death(b"orders", "rejected", 4_i64),
            death(b"\xff", "maxlen", 7_u8),
            death(b"limited", "delivery_limit", 1_i64),
        ];
        let properties = with("x-death", FieldArray::from_values(deaths).expect("short"));
        for (queue, reason, expected) in [
            (&b"orders"[..], DeathReason::Rejected, 4),
            (b"orders", DeathReason::Expired, 1),
            (b"orders", DeathReason::MaxLength, 0),
            (b"orders.retry", DeathReason::Expired, 3),
            (b"\xff", DeathReason::MaxLength, 7),
            (b"limited", DeathReason::DeliveryLimit, 1),
            (b"", DeathReason::Rejected, 0),
        ] {
            assert_eq!(death_count(&properties, queue, reason), Ok(expected), "{reason}");
        }
    }

    #[test]
    fn headers_of_other_shapes_count_nothing_and_malformed_ones_are_errors() {
        let shapes: [Value; 4] = [
            "rejected".into(),
            FieldArray::from_values([1, 2]).expect("short").into(),
            FieldArray::from_values([death(b"q", "rejected", -1_i64)]).expect("short").into(),
            FieldArray::from_values([death(b"q", "rejected", "many")]).expect("short").into(),
        ];
        for shape in shapes {
            let properties = with("x-death", shape);
            assert_eq!(death_count(&properties, b"q", DeathReason::Rejected), Ok(0));
        }
        assert_eq!(count(&RawProperties::EMPTY, "x-delivery-count"), Ok(0));
        assert_eq!(count(&with("x-delivery-count", i64::MIN), "x-delivery-count"), Ok(0));
        assert_eq!(count(&with("x-delivery-count", 3_i64), "x-delivery-count"), Ok(3));
        // Headers of one entry, of a type that does not exist.
        let malformed = RawProperties::unchecked(Bytes::from_static(b"\x20\0\0\0\0\x03\x01x?"));
        assert!(death_count(&malformed, b"q", DeathReason::Rejected).is_err());
        assert!(count(&malformed, "x-delivery-count").is_err());
    }
}
