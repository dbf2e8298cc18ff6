use std::time::{Duration, Instant, SystemTime};

use amqp_proto::{
    FieldArray, FieldError, FieldTable, LongStr, RawProperties, ShortStr, Timestamp, Value,
};
use bytes::Bytes;

use crate::deaths::{Death, Deaths, long};
use crate::engine::At;

/// A message in the broker.
#[derive(Debug, Clone)]
pub(crate) struct Message {
    /// Its place in the order of all messages, to which a requeue returns it.
    pub(crate) order: u64,
    pub(crate) exchange: ShortStr,
    pub(crate) routing_key: ShortStr,
    pub(crate) properties: RawProperties,
    pub(crate) body: Bytes,
    pub(crate) redelivered: bool,
    /// Number of times that it was requeued, as far as that [counts](crate::Options::rabbitmq_4_3).
    pub(crate) delivery_count: u32,
    /// Number of times that it was requeued.
    pub(crate) acquired_count: u32,
    /// Its place among the requeued messages of a quorum queue, which are delivered before all others.
    pub(crate) returned: Option<u64>,
    pub(crate) arrived: Instant,
    pub(crate) expires_at: Option<Instant>,
    pub(crate) priority: u8,
    /// The number of the publish, of a channel in confirm mode.
    pub(crate) published_by: Option<Publish>,
    /// Its deaths, if there are any: they are not part of its properties.
    pub(crate) deaths: Deaths,
}

/// A publish on a channel in confirm mode.
#[derive(Debug, Clone, Copy)]
pub(crate) struct Publish {
    pub(crate) at: At,
    /// Distinguishes the channels that had this number, one after the other.
    pub(crate) confirms: u64,
    /// The number of the publish there.
    pub(crate) number: u64,
}

impl Message {
    /// Returns whether it survives a restart, if its queue does.
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

    /// The message dies in `queue`: its headers say so, as RabbitMQ's do, if the broker can read them.
    pub(crate) fn die(&mut self, queue: &ShortStr, death: Death) {
        let mut properties = self.properties.decode().ok();
        let mut headers =
            properties.as_mut().and_then(|own| own.headers.take()).unwrap_or_default();
        if let Some(header) = headers.remove("x-death") {
            self.deaths = Deaths::parse(&header);
        }
        let count = self.deaths.take(queue, death).saturating_add(1);
        let expiration = properties.as_mut().and_then(|own| own.expiration.take());
        // Constant names and names of the protocol fit.
        if let Ok(entry) = self.obituary(queue, death, count, expiration.as_ref()) {
            self.deaths.add(entry);
        }
        let Some(mut properties) = properties else { return };
        if headers.get("x-first-death-reason").is_none() {
            // The headers stay as they are if they cannot take more.
            let _full = headers.extend([
                ("x-first-death-reason", LongStr::from(death.reason())),
                ("x-first-death-queue", long(queue)),
                ("x-first-death-exchange", long(&self.exchange)),
            ]);
        }
        properties.headers = Some(headers);
        // Without its expiration, which was taken above: it must not expire again where it goes.
        self.properties = RawProperties::from(&properties);
    }

    fn obituary(
        &self,
        queue: &ShortStr,
        death: Death,
        count: i64,
        expiration: Option<&ShortStr>,
    ) -> Result<FieldTable, FieldError> {
        let keys = FieldArray::from_values([long(&self.routing_key)])?;
        let entries: [(_, Value); 6] = [
            ("count", count.into()),
            ("reason", death.reason().into()),
            ("queue", long(queue).into()),
            ("time", Timestamp::from(SystemTime::now()).into()),
            ("exchange", long(&self.exchange).into()),
            ("routing-keys", keys.into()),
        ];
        let expiration = expiration.map(|text| ("original-expiration", long(text).into()));
        FieldTable::from_entries(entries.into_iter().chain(expiration))
    }

    /// The properties that a delivery carries: with the deaths of the message, and with more headers.
    pub(crate) fn properties_with<'a>(
        &self,
        more: impl IntoIterator<Item = (&'a str, i64)>,
    ) -> RawProperties {
        let deaths = self.deaths.header().map(|deaths| ("x-death", Value::from(deaths)));
        let more = more.into_iter().map(|(name, value)| (name, Value::from(value)));
        let more: Vec<_> = deaths.into_iter().chain(more).collect();
        if more.is_empty() {
            return self.properties.clone();
        }
        // Properties that the broker cannot read are forwarded unchanged.
        let Ok(mut properties) = self.properties.decode() else { return self.properties.clone() };
        let mut headers = properties.headers.take().unwrap_or_default();
        // The headers stay as they are if they cannot take more.
        let _full = headers.extend(more);
        properties.headers = Some(headers);
        RawProperties::from(&properties)
    }
}
