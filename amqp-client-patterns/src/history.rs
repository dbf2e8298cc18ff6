//! The history of a message: headers that the broker sets, and those of the copies that workers publish.

use std::cell::Cell;

use amqp_client_core::{
    Delivery, FieldTable, Message, Properties, RawProperties, ShortStr, Value, proto,
    proto::LongStr,
};

use crate::codec::BoxError;
use crate::shown;

/// Number of copies of the message that were published to try it again.
const RETRIES: &str = "x-retries";
/// The exchange or routing key that the message was published with first.
const EXCHANGE: &str = "x-original-exchange";
const ROUTING_KEY: &str = "x-original-routing-key";
/// The reason why it was published again.
const FAILURE: &str = "x-failure";
/// Number of times that a message was tried before it was parked.
const ATTEMPTS: &str = "x-attempts";
/// Headers that are not copied: the broker routes by the first two again, and the last two counted the deliveries of the original.
const NOT_COPIED: [&str; 4] = ["CC", "BCC", "x-delivery-count", "x-acquired-count"];
/// Headers of RabbitMQ about the queues that the message was dead-lettered from, such as the queues of retries.
const DEATHS: [&str; 7] = [
    "x-death",
    "x-first-death-exchange",
    "x-first-death-queue",
    "x-first-death-reason",
    "x-last-death-exchange",
    "x-last-death-queue",
    "x-last-death-reason",
];

/// Properties have to fit into one frame, of which this is a small part.
const FAILURE_MAX: usize = 1024;

thread_local! {
    /// How often the delivery that is being looked at has failed here. Its message does not say that.
    static FAILURES: Cell<u32> = const { Cell::new(0) };
}

/// Calls `look`, in which [`attempt`] counts the failures of a delivery that is handled again.
#[inline]
pub(crate) fn after_failures<T>(failures: u32, look: impl FnOnce() -> T) -> T {
    /// Also if `look` panics.
    struct Restore(u32);

    impl Drop for Restore {
        fn drop(&mut self) {
            FAILURES.set(self.0);
        }
    }

    // Almost always.
    if failures == 0 {
        return look();
    }
    let _restore = Restore(FAILURES.replace(failures));
    look()
}

/// Returns the number of this attempt, from 1.
///
/// # Errors
/// If the headers are malformed. Then 0 would be wrong: a message that fails each time would be tried for ever.
pub(crate) fn attempt(delivery: &proto::Delivery) -> Result<u32, proto::DecodeError> {
    let failed = u32::try_from(delivery.delivery_count()?).unwrap_or(u32::MAX);
    let here = FAILURES.get();
    Ok(failed.saturating_add(retries(delivery)?).saturating_add(here).saturating_add(1))
}

/// Returns how often a copy of the message was published to try it again.
pub(crate) fn retries(delivery: &proto::Delivery) -> Result<u32, proto::DecodeError> {
    let count = delivery.properties().headers()?.and_then(|headers| headers.get(RETRIES));
    let count = count.as_ref().and_then(Value::as_i64).unwrap_or(0);
    Ok(u32::try_from(count.max(0)).unwrap_or(u32::MAX))
}

/// Returns the routing key with which the message was published first.
pub(crate) fn routing_key(delivery: &proto::Delivery) -> ShortStr {
    let key = delivery.routing_key();
    // A copy returns to its queue through the default exchange.
    if !delivery.exchange().is_empty() {
        return key;
    }
    let headers = delivery.properties().headers().ok().flatten();
    match headers.and_then(|headers| headers.get(ROUTING_KEY)) {
        Some(Value::LongStr(original)) => {
            ShortStr::named("routing_key", original.as_bytes()).unwrap_or(key)
        }
        _ => key,
    }
}

/// The purpose of a copy of a message.
#[derive(Debug, Clone, Copy, PartialEq, Eq)]
pub(crate) enum Copy {
    /// To be tried again: the number of this copy.
    Retry(u32),
    /// To be parked. If somebody puts it back into its queue, the attempts count from 1.
    Parked,
}

/// Returns a copy of a message, to be published in its place, with the reason in its headers.
///
/// It has all properties but those that would have an effect once more: the user id, which the broker compares with the login of
/// this connection, and the expiration, which would remove the copy. Malformed headers are left out.
pub(crate) fn copy(delivery: &Delivery, copy: Copy, failure: &BoxError) -> Message {
    let raw = delivery.properties();
    let mut properties = raw.decode().unwrap_or_else(|_| readable(&raw));
    properties.user_id = None;
    properties.expiration = None;
    let mut headers = properties.headers.take().unwrap_or_default();
    for name in NOT_COPIED {
        headers.remove(name);
    }
    if headers.get(EXCHANGE).is_none() {
        set(&mut headers, EXCHANGE, bytes(delivery.exchange().as_bytes()));
    }
    set(&mut headers, ROUTING_KEY, bytes(routing_key(delivery).as_bytes()));
    set(&mut headers, FAILURE, bytes(shortened(&shown::text(&**failure)).as_bytes()));
    match copy {
        Copy::Retry(number) => set(&mut headers, RETRIES, Value::I64(number.into())),
        Copy::Parked => {
            headers.remove(RETRIES);
            if let Ok(attempts) = attempt(delivery) {
                set(&mut headers, ATTEMPTS, Value::I64(attempts.into()));
            }
        }
    }
    properties.headers = Some(headers);
    Message::from(delivery).with_encoded(RawProperties::from(&properties))
}

/// Returns a copy without the reason, which is the longest of the headers that were added to it.
pub(crate) fn without_failure(copy: &Message) -> Message {
    without(copy, &[FAILURE])
}

/// Returns a copy without the headers that the worker and the broker added: as the message was published first.
pub(crate) fn without_history(copy: &Message) -> Message {
    without(&without(copy, &[FAILURE, RETRIES, EXCHANGE, ROUTING_KEY, ATTEMPTS]), &DEATHS)
}

fn without(copy: &Message, names: &[&str]) -> Message {
    let mut properties = copy.properties().decode().unwrap_or_default();
    if let Some(headers) = &mut properties.headers {
        names.iter().for_each(|name| drop(headers.remove(name)));
    }
    copy.clone().with_encoded(RawProperties::from(&properties))
}

fn set(headers: &mut FieldTable, name: &str, value: Value) {
    let fits = headers.insert(name, value);
    debug_assert!(fits.is_ok(), "{name} fits into a table: {fits:?}");
}

fn bytes(bytes: &[u8]) -> Value {
    Value::LongStr(LongStr::from(bytes.to_vec()))
}

fn shortened(text: &str) -> &str {
    let end = (0..=text.len().min(FAILURE_MAX)).rev().find(|end| text.is_char_boundary(*end));
    &text[..end.unwrap_or(0)]
}

/// Returns the properties without the malformed ones.
fn readable(raw: &RawProperties) -> Properties {
    Properties {
        content_type: raw.content_type().ok().flatten(),
        content_encoding: raw.content_encoding().ok().flatten(),
        delivery_mode: raw.delivery_mode().ok().flatten(),
        priority: raw.priority().ok().flatten(),
        correlation_id: raw.correlation_id().ok().flatten(),
        reply_to: raw.reply_to().ok().flatten(),
        message_id: raw.message_id().ok().flatten(),
        timestamp: raw.timestamp().ok().flatten(),
        kind: raw.kind().ok().flatten(),
        app_id: raw.app_id().ok().flatten(),
        ..Properties::default()
    }
}
