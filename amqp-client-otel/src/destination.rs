use std::borrow::Cow;

use amqp_client_core::intercept::OutgoingMessage;

/// The place to which a message goes, or from which it comes.
#[derive(Debug, Clone, Copy, PartialEq, Eq)]
#[non_exhaustive]
pub struct Destination<'a> {
    /// The exchange; empty for the default exchange.
    pub exchange: &'a [u8],
    /// The routing key.
    pub routing_key: &'a [u8],
    /// The queue of a delivery. `None` for a publish.
    pub queue: Option<&'a [u8]>,
}

/// Returns a name of low cardinality.
pub(crate) type Template = dyn Fn(&Destination<'_>) -> String + Send + Sync;

impl<'a> Destination<'a> {
    /// Returns the destination of a message.
    pub(crate) fn of(message: &OutgoingMessage<'a>) -> Self {
        let (exchange, routing_key) = (message.exchange(), message.routing_key());
        Self { exchange, routing_key, queue: None }
    }
}

impl Destination<'_> {
    /// Returns the value of `messaging.destination.name`.
    pub(crate) fn full_name(&self) -> String {
        let key = if self.queue == Some(self.routing_key) { &[] } else { self.routing_key };
        let parts = [self.exchange, key, self.queue.unwrap_or_default()];
        let parts: Vec<_> =
            parts.iter().filter(|part| !part.is_empty()).map(|part| text(part)).collect();
        if parts.is_empty() { "amq.default".to_owned() } else { parts.join(":") }
    }

    /// Returns the name for spans and metrics: few different values, so never the routing key.
    pub(crate) fn low_cardinality(&self) -> String {
        match (self.exchange, self.queue) {
            ([], None) => "amq.default".to_owned(),
            ([], Some(queue)) if is_anonymous(queue) => "(anonymous)".to_owned(),
            ([], Some(queue)) => text(queue).into_owned(),
            (exchange, _) => text(exchange).into_owned(),
        }
    }

    pub(crate) fn is_anonymous(&self) -> bool {
        self.queue.is_some_and(is_anonymous)
    }
}

/// Returns whether the broker chose the name. Such names are all different, so they are no good for grouping.
fn is_anonymous(queue: &[u8]) -> bool {
    queue.is_empty()
        || queue.starts_with(b"amq.gen-")
        || queue.starts_with(b"amq.rabbitmq.reply-to")
}

pub(crate) fn text(bytes: &[u8]) -> Cow<'_, str> {
    String::from_utf8_lossy(bytes)
}

#[cfg(test)]
mod tests {
    use super::Destination;

    #[test]
    fn names() {
        let none: Option<&[u8]> = None;
        let cases: [(&str, &str, Option<&str>, &str, &str); 8] = [
            ("orders", "eu.new", None, "orders:eu.new", "orders"),
            ("orders", "", None, "orders", "orders"),
            ("", "jobs", None, "jobs", "amq.default"),
            ("", "", None, "amq.default", "amq.default"),
            ("orders", "eu.new", Some("mail"), "orders:eu.new:mail", "orders"),
            ("orders", "mail", Some("mail"), "orders:mail", "orders"),
            ("", "mail", Some("mail"), "mail", "mail"),
            ("", "amq.gen-x", Some("amq.gen-x"), "amq.gen-x", "(anonymous)"),
        ];
        for (exchange, key, queue, full, low) in cases {
            let queue = queue.map(str::as_bytes).or(none);
            let destination =
                Destination { exchange: exchange.as_bytes(), routing_key: key.as_bytes(), queue };
            assert_eq!(destination.full_name(), full);
            assert_eq!(destination.low_cardinality(), low);
        }
    }
}
