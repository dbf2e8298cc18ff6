//! Dead-lettering: the header `x-death` of a message.

use std::sync::Arc;

use amqp_proto::{FieldArray, FieldTable, LongStr, ShortStr, Value};
use bytes::Bytes;

/// The reason why a message was dead-lettered.
#[derive(Debug, Clone, Copy, PartialEq, Eq)]
pub(crate) enum Death {
    Rejected,
    Expired,
    MaxLength,
    DeliveryLimit,
}

impl Death {
    pub(crate) const fn reason(self) -> &'static str {
        match self {
            Self::Rejected => "rejected",
            Self::Expired => "expired",
            Self::MaxLength => "maxlen",
            Self::DeliveryLimit => "delivery_limit",
        }
    }
}

/// The deaths of a message, apart from its other headers: it may die in thousands of queues, one after the other, and nobody
/// reads the header before it is delivered.
#[derive(Debug, Clone, Default)]
pub(crate) struct Deaths(
    /// The latest last, other than in the header.
    Arc<Vec<Entry>>,
);

#[derive(Debug, Clone)]
struct Entry {
    /// Names are bytes, and need not be UTF-8.
    queue: Option<LongStr>,
    reason: Option<LongStr>,
    /// Returns the text in the header.
    value: Value,
}

impl Deaths {
    /// Reads the header that the message came with.
    pub(crate) fn parse(header: &Value) -> Self {
        let entries = header.as_array().into_iter().flat_map(FieldArray::iter).map(Entry::parse);
        let mut entries: Vec<_> = entries.collect();
        entries.reverse();
        Self(Arc::new(entries))
    }

    pub(crate) fn is_empty(&self) -> bool {
        self.0.is_empty()
    }

    /// Takes out the entry of earlier deaths in that queue, for that reason. Returns how many there were.
    pub(crate) fn take(&mut self, queue: &ShortStr, death: Death) -> i64 {
        let same = |entry: &Entry| entry.is_of(queue) && entry.is_because(death);
        let Some(place) = self.0.iter().position(same) else { return 0 };
        let entry = Arc::make_mut(&mut self.0).remove(place);
        let count = entry.value.as_table().and_then(|entry| entry.get("count"));
        count.and_then(|count| count.as_i64()).unwrap_or(0)
    }

    /// Adds the latest.
    pub(crate) fn add(&mut self, entry: FieldTable) {
        Arc::make_mut(&mut self.0).push(Entry::parse(entry.into()));
    }

    /// Returns whether the message has been in that queue before, and nobody has rejected it since: it would die there
    /// again, and so on forever. RabbitMQ drops it.
    pub(crate) fn lead_back_to(&self, queue: &ShortStr) -> bool {
        let since = self.0.iter().rev().take_while(|entry| !entry.is_because(Death::Rejected));
        since.into_iter().any(|entry| entry.is_of(queue))
    }

    /// The header.
    pub(crate) fn header(&self) -> Option<FieldArray> {
        let entries = self.0.iter().rev().map(|entry| entry.value.clone());
        (!self.is_empty()).then(|| FieldArray::from_values(entries).ok()).flatten()
    }
}

impl Entry {
    fn parse(value: Value) -> Self {
        let text = |name| match value.as_table()?.get(name)? {
            Value::LongStr(text) => Some(text),
            _ => None,
        };
        Self { queue: text("queue"), reason: text("reason"), value }
    }

    fn is_of(&self, queue: &ShortStr) -> bool {
        self.queue.as_ref().is_some_and(|name| name.as_bytes() == queue.as_bytes())
    }

    fn is_because(&self, death: Death) -> bool {
        self.reason.as_ref().is_some_and(|reason| reason.as_bytes() == death.reason().as_bytes())
    }
}

/// A name as a value of a table, byte by byte.
pub(crate) fn long(name: &ShortStr) -> LongStr {
    LongStr::from(Bytes::from(name.clone()))
}
