//! Delayed retry of quorum queues (RabbitMQ 4.3): requeued messages wait before they are delivered again.

use std::time::Duration;

use amqp_proto::{FieldTable, Value};

use crate::engine::Engine;
use crate::message::Message;
use crate::name::Name;

/// The arguments of a queue about delayed retry.
#[derive(Debug, Clone, Copy, PartialEq, Eq)]
pub(crate) struct DelayedRetry {
    failed: bool,
    returned: bool,
    min: Duration,
    max: Duration,
}

impl DelayedRetry {
    /// Reads the arguments. Without a type or a shortest delay, messages do not wait.
    pub(crate) fn parse(arguments: &FieldTable) -> Option<Self> {
        let kind = arguments.get("x-delayed-retry-type")?;
        let (failed, returned) = match kind.as_str()? {
            "all" => (true, true),
            "failed" => (true, false),
            "returned" => (false, true),
            _ => return None,
        };
        let delay = |name| {
            let number = arguments.get(name).as_ref().and_then(Value::as_i64);
            let number = number.and_then(|number| u64::try_from(number).ok());
            number.filter(|number| *number > 0).map(Duration::from_millis)
        };
        let min = delay("x-delayed-retry-min")?;
        Some(Self { failed, returned, min, max: delay("x-delayed-retry-max").unwrap_or(min) })
    }

    /// Returns how long a message waits that has come back: longer with each failure.
    pub(crate) fn delay(self, message: &Message, failed: bool) -> Option<Duration> {
        let waits = if failed { self.failed } else { self.returned };
        let failures = message.delivery_count.max(1);
        waits.then(|| self.min.saturating_mul(failures).min(self.max))
    }
}

impl Engine {
    /// Puts back messages of a queue that have waited long enough.
    pub(crate) fn release_delayed(&mut self, name: &Name) {
        let now = self.now;
        let Some(queue) = self.queues.get_mut(name) else { return };
        let delayed = std::mem::take(&mut queue.delayed);
        let (mut ready, waiting): (Vec<_>, _) = delayed.into_iter().partition(|(at, _)| *at <= now);
        queue.delayed = waiting;
        ready.sort_by_key(|(at, message)| (*at, message.returned));
        if ready.is_empty() {
            return;
        }
        ready.into_iter().for_each(|(_, message)| queue.put(message));
        self.dirty.insert(name.clone());
    }
}
