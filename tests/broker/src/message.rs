use std::time::{Duration, Instant, SystemTime};

use amqp_proto::{FieldArray, FieldTable, Properties, RawProperties, ShortStr, Timestamp, Value};
use bytes::Bytes;

use crate::engine::At;

/// A message in the broker.
#[derive(Debug, Clone)]
pub(crate) struct Message {
    /// Its place in the order of all messages, which a requeued one goes back to.
    pub(crate) order: u64,
    pub(crate) exchange: ShortStr,
    pub(crate) routing_key: ShortStr,
    pub(crate) properties: RawProperties,
    pub(crate) body: Bytes,
    pub(crate) redelivered: bool,
    /// How often it was returned to its queue, as far as that [counts](crate::Options::rabbitmq_4_3).
    pub(crate) returns: u32,
    pub(crate) arrived: Instant,
    pub(crate) expires_at: Option<Instant>,
    pub(crate) priority: u8,
    /// Who waits for a confirm of it, and its number there.
    pub(crate) published_by: Option<(At, u64)>,
}

/// Why a message is dead.
#[derive(Debug, Clone, Copy, PartialEq, Eq)]
pub(crate) enum Death {
    Rejected,
    Expired,
    MaxLength,
    DeliveryLimit,
}

impl Death {
    const fn reason(self) -> &'static str {
        match self {
            Self::Rejected => "rejected",
            Self::Expired => "expired",
            Self::MaxLength => "maxlen",
            Self::DeliveryLimit => "delivery_limit",
        }
    }
}

impl Message {
    /// Whether it survives a restart, if its queue does.
    pub(crate) fn is_persistent(&self) -> bool {
        self.properties.delivery_mode() == Ok(Some(2))
    }

    /// The `expiration` property. It has to be a number of milliseconds.
    pub(crate) fn expiration(properties: &RawProperties) -> Result<Option<Duration>, String> {
        let Ok(Some(text)) = properties.expiration() else { return Ok(None) };
        let text = text.to_string();
        match text.parse() {
            Ok(milliseconds) => Ok(Some(Duration::from_millis(milliseconds))),
            Err(_) => Err(format!("invalid expiration '{text}'")),
        }
    }

    /// The properties of the message once it has died in `queue`: the headers tell so, as RabbitMQ's. `None` if the broker
    /// cannot read them.
    pub(crate) fn after_death(&self, queue: &ShortStr, death: Death) -> Option<Properties> {
        let mut properties = self.properties.decode().ok()?;
        let headers = properties.headers.take().unwrap_or_default();
        let reason = death.reason();
        let mut earlier = Vec::new();
        let mut count = 1;
        if let Some(deaths) = headers.get("x-death").as_ref().and_then(Value::as_array) {
            for entry in deaths.iter() {
                let same = entry.as_table().is_some_and(|entry| is_of(entry, queue, reason));
                match entry.as_table().and_then(|entry| entry.get("count")) {
                    Some(times) if same => count = times.as_i64().unwrap_or(0) + 1,
                    _ => earlier.push(entry),
                }
            }
        }
        let entry = self.obituary(queue, reason, count, &properties);
        let deaths = entry.into_iter().map(Value::from).chain(earlier);
        let mut headers = headers;
        let first = [
            ("x-first-death-reason", reason.to_owned()),
            ("x-first-death-queue", queue.to_string()),
            ("x-first-death-exchange", self.exchange.to_string()),
        ];
        let unknown = headers.get("x-first-death-reason").is_none();
        let told = FieldArray::from_values(deaths)
            .and_then(|deaths| headers.insert("x-death", deaths))
            .and_then(|()| {
                let mut first = first.into_iter().filter(|_| unknown);
                first.try_for_each(|(name, value)| headers.insert(name, value))
            });
        // The headers stay as they are if they cannot take more.
        let _full = told;
        properties.headers = Some(headers);
        // It must not expire again where it goes.
        properties.expiration = None;
        Some(properties)
    }

    fn obituary(
        &self,
        queue: &ShortStr,
        reason: &str,
        count: i64,
        properties: &Properties,
    ) -> Option<FieldTable> {
        let keys = FieldArray::from_values([self.routing_key.to_string()]).ok()?;
        let mut entry = FieldTable::new()
            .with("count", count)
            .ok()?
            .with("reason", reason)
            .ok()?
            .with("queue", queue.to_string())
            .ok()?
            .with("time", Timestamp::from(SystemTime::now()))
            .ok()?
            .with("exchange", self.exchange.to_string())
            .ok()?
            .with("routing-keys", keys)
            .ok()?;
        if let Some(expiration) = &properties.expiration {
            entry.insert("original-expiration", expiration.to_string()).ok()?;
        }
        Some(entry)
    }
}

fn is_of(entry: &FieldTable, queue: &ShortStr, reason: &str) -> bool {
    let text = |name| entry.get(name).and_then(|value| value.as_str().map(str::to_owned));
    text("queue").is_some_and(|name| *queue == *name) && text("reason").as_deref() == Some(reason)
}
