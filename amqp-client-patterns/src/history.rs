//! How often a message has been tried.

use amqp_client_core::{FieldTable, Value, proto};

/// Set by quorum queues: the number of failed deliveries before this one.
const DELIVERY_COUNT: &str = "x-delivery-count";

/// Returns the number of this attempt, from 1.
pub(crate) fn attempt(delivery: &proto::Delivery) -> u32 {
    let Ok(Some(headers)) = delivery.properties().headers() else { return 1 };
    count(&headers, DELIVERY_COUNT).saturating_add(1)
}

/// Returns a number in the headers, of any integer type. Negative numbers and other values count as 0.
fn count(headers: &FieldTable, name: &str) -> u32 {
    let count = headers.get(name).as_ref().and_then(Value::as_i64).unwrap_or(0);
    u32::try_from(count.max(0)).unwrap_or(u32::MAX)
}
