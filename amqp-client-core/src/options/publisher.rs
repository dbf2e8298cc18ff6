use std::time::Duration;

use amqp_proto::{RawProperties, TooLong};

use crate::config::Settings;
use crate::message::{DeliveryMode, MessageProperties};

/// How a publisher publishes.
///
/// A publisher is safe unless it is told otherwise: its messages are persistent and mandatory. So a confirmed message has
/// reached a queue and, if the queue is durable, survives a restart of the broker. A message that reaches no queue fails with
/// [`ConfirmError::Returned`](crate::ConfirmError::Returned).
///
/// Turn both off for data that may be lost, such as prices that the next one replaces:
///
/// ```
/// use amqp_client_core::PublisherOptions;
///
/// let options = PublisherOptions::new().persistent(false).mandatory(false);
/// ```
#[derive(Debug, Clone, PartialEq)]
#[must_use]
pub struct PublisherOptions {
    persistent: bool,
    mandatory: bool,
    window: Window,
    timeout: Option<Option<Duration>>,
    properties: MessageProperties,
    on_loss: OnLoss,
    keep_for: Option<Duration>,
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
    ///
    /// A mandatory message whose queue did not come back with the connection is
    /// [`Returned`](crate::ConfirmError::Returned), as if it was published for the first time. What came back before the loss is
    /// not published again.
    Keep,
}

impl PublisherOptions {
    /// Persistent and mandatory messages, up to 1000 of them or 16 MiB unconfirmed, with no other properties.
    pub fn new() -> Self {
        Self {
            persistent: true,
            mandatory: true,
            window: Window { messages: 1000, octets: 16 * 1024 * 1024 },
            timeout: None,
            properties: MessageProperties::new(),
            on_loss: OnLoss::Wait,
            keep_for: None,
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

    /// Whether messages without a delivery mode are persistent. Default `true`. A message that has a
    /// [delivery mode](crate::DeliveryMode) keeps it.
    pub const fn persistent(mut self, persistent: bool) -> Self {
        self.persistent = persistent;
        self
    }

    /// Whether a message that reaches no queue fails, with [`ConfirmError::Returned`](crate::ConfirmError::Returned). Default
    /// `true`. Turn it off for publish and subscribe, where a message without a subscriber is no mistake.
    ///
    /// The publisher hashes each mandatory message, because `basic.return` does not say which publish it returns.
    pub const fn mandatory(mut self, mandatory: bool) -> Self {
        self.mandatory = mandatory;
        self
    }

    /// How many messages, and how many bytes of them, may be unconfirmed at once. One message is always allowed. The messages of
    /// all publishers of the channel count, so these should have the same window; see [`Publisher`](crate::Publisher).
    pub const fn window(mut self, messages: usize, octets: usize) -> Self {
        self.window = Window { messages, octets };
        self
    }

    /// How long publishing may have to wait, instead of the connection's setting; `None` waits for ever.
    pub const fn timeout(mut self, timeout: Option<Duration>) -> Self {
        self.timeout = Some(timeout);
        self
    }

    /// How long messages are kept ([`OnLoss::Keep`]). What was not confirmed by then is not sent any more: its confirmation is
    /// [`NotResent`](crate::ConfirmError::NotResent), unless it is on its way. Without, until it is confirmed, however long
    /// an outage lasts, and whether anybody still waits for it or not.
    pub const fn keep_for(mut self, time: Duration) -> Self {
        self.keep_for = Some(time);
        self
    }

    pub(crate) const fn how_long_kept(&self) -> Option<Duration> {
        self.keep_for
    }

    /// The properties of messages that are published without their own.
    pub fn properties(mut self, properties: MessageProperties) -> Self {
        self.properties = properties;
        self
    }

    pub(crate) fn encoded_properties(&self) -> Result<RawProperties, TooLong> {
        Ok(self.properties.encode()?.or_delivery_mode(self.delivery_mode()).into())
    }

    /// The delivery mode of messages that have none.
    pub(crate) const fn delivery_mode(&self) -> Option<u8> {
        if self.persistent { Some(DeliveryMode::Persistent.octet()) } else { None }
    }

    pub(crate) const fn is_mandatory(&self) -> bool {
        self.mandatory
    }

    pub(crate) fn timeout_or(&self, settings: Settings) -> Option<Duration> {
        self.timeout.unwrap_or(settings.publish_timeout)
    }

    pub(crate) const fn limits(&self) -> Window {
        self.window
    }
}

/// How many messages, and how many bytes of them, may be unconfirmed at once.
#[derive(Debug, Clone, Copy, PartialEq, Eq)]
pub(crate) struct Window {
    messages: usize,
    octets: usize,
}

impl Window {
    /// Whether one more message of `size` bytes fits beside those that are unconfirmed.
    #[inline]
    pub(crate) const fn has_room(self, messages: usize, octets: usize, size: usize) -> bool {
        messages == 0 || messages < self.messages && octets.saturating_add(size) <= self.octets
    }
}

impl Default for PublisherOptions {
    fn default() -> Self {
        Self::new()
    }
}
