use std::time::Duration;

use amqp_proto::{RawProperties, TooLong};

use crate::config::Settings;
use crate::message::MessageProperties;

/// How a publisher publishes.
#[derive(Debug, Clone, PartialEq)]
#[must_use]
pub struct PublisherOptions {
    mandatory: bool,
    window_messages: usize,
    window_octets: usize,
    timeout: Option<Option<Duration>>,
    properties: MessageProperties,
}

impl PublisherOptions {
    /// Up to 1000 messages or 16 MiB unconfirmed, no properties, not mandatory.
    pub fn new() -> Self {
        Self {
            mandatory: false,
            window_messages: 1000,
            window_octets: 16 * 1024 * 1024,
            timeout: None,
            properties: MessageProperties::new(),
        }
    }

    /// Whether messages that reach no queue come back, as the error of their confirmation.
    pub const fn mandatory(mut self, mandatory: bool) -> Self {
        self.mandatory = mandatory;
        self
    }

    /// How many messages, and how many octets of them, may be unconfirmed at once. One message is always allowed.
    pub const fn window(mut self, messages: usize, octets: usize) -> Self {
        self.window_messages = messages;
        self.window_octets = octets;
        self
    }

    /// How long publishing may have to wait, instead of the connection's setting; `None` waits for ever.
    pub const fn timeout(mut self, timeout: Option<Duration>) -> Self {
        self.timeout = Some(timeout);
        self
    }

    /// The properties of messages that are published without their own.
    pub fn properties(mut self, properties: MessageProperties) -> Self {
        self.properties = properties;
        self
    }

    pub(crate) fn encoded_properties(&self) -> Result<RawProperties, TooLong> {
        self.properties.encode()
    }

    pub(crate) const fn is_mandatory(&self) -> bool {
        self.mandatory
    }

    pub(crate) fn timeout_or(&self, settings: Settings) -> Option<Duration> {
        self.timeout.unwrap_or(settings.publish_timeout)
    }

    /// Whether one more message of `size` octets fits beside those that are unconfirmed.
    pub(crate) const fn has_room(&self, messages: usize, octets: usize, size: usize) -> bool {
        messages == 0
            || messages < self.window_messages && octets.saturating_add(size) <= self.window_octets
    }
}

impl Default for PublisherOptions {
    fn default() -> Self {
        Self::new()
    }
}
