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
    on_loss: OnLoss,
}

/// What a publisher does about the loss of the connection.
#[derive(Debug, Clone, Copy, PartialEq, Eq, Default)]
#[non_exhaustive]
pub enum OnLoss {
    /// Publishing fails at once while there is no connection. What was not confirmed is
    /// [`Unconfirmed`](crate::ConfirmError::Unconfirmed).
    Fail,
    /// Publishing waits for the connection to come back, up to its deadline. What was not confirmed is
    /// [`Unconfirmed`](crate::ConfirmError::Unconfirmed).
    #[default]
    Wait,
    /// Messages are kept until they are confirmed, up to [`Recovery::keep_max`](crate::Recovery::keep_max) octets. Publishing
    /// goes on while there is no connection, as long as there is room, and everything that was not confirmed is published
    /// again, in its order, with the header `x-republished`. So each message arrives at least once; receivers that must not
    /// take one twice tell it by its message id.
    Keep,
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
            on_loss: OnLoss::Wait,
        }
    }

    /// What to do about the loss of the connection. Default [`OnLoss::Wait`].
    pub const fn on_loss(mut self, on_loss: OnLoss) -> Self {
        self.on_loss = on_loss;
        self
    }

    pub(crate) const fn what_on_loss(&self) -> OnLoss {
        self.on_loss
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
