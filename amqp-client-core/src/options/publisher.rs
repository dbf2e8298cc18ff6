use std::time::Duration;

use amqp_proto::{RawProperties, TooLong};

use crate::config::Settings;
use crate::message::{DeliveryMode, MessageProperties};

/// Options of a publisher.
///
/// By default, messages are persistent and mandatory. So a confirmed message has reached a queue and, if the queue is durable,
/// survives a restart of the broker. A message that reaches no queue fails with
/// [`ConfirmError::Returned`](crate::ConfirmError::Returned).
///
/// Turn both off for data that may be lost, such as prices that are soon out of date:
///
/// ```
/// # use amqp_client_core as amqp_client_tokio;
/// use amqp_client_tokio::PublisherOptions;
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

/// Policy of a publisher when the connection is lost.
///
/// ```
/// # use amqp_client_core as amqp_client_tokio;
/// use amqp_client_tokio::{OnLoss, PublisherOptions};
///
/// let options = PublisherOptions::new().on_loss(OnLoss::Keep);
/// ```
#[derive(Debug, Clone, Copy, PartialEq, Eq, Default)]
#[non_exhaustive]
pub enum OnLoss {
    /// Publishing fails at once while there is no connection. Unconfirmed messages fail with
    /// [`Unconfirmed`](crate::ConfirmError::Unconfirmed).
    Fail,
    /// Publishing waits for the connection to be restored, up to its deadline. Unconfirmed messages fail with
    /// [`Unconfirmed`](crate::ConfirmError::Unconfirmed).
    #[default]
    Wait,
    /// Messages are kept until they are confirmed, up to [`Recovery::keep_max`](crate::Recovery::keep_max) bytes. Publishing
    /// continues while there is no connection, as long as there is room. After the loss, all unconfirmed messages are published
    /// again, in their order, with the header `x-republished`. So each message arrives at least once. Receivers that must not
    /// process a message twice can compare message ids.
    ///
    /// A mandatory message whose queue was not restored fails with [`Returned`](crate::ConfirmError::Returned), as if it was
    /// published for the first time. Messages that were returned before the loss are not published again.
    Keep,
}

impl PublisherOptions {
    /// Creates the default options: persistent and mandatory messages without other properties, of which at most 1000 or 16 MiB
    /// may be unconfirmed.
    pub fn new() -> Self {
        Self {
            persistent: true,
            mandatory: true,
            window: Window { messages: 1000, bytes: 16 * 1024 * 1024 },
            timeout: None,
            properties: MessageProperties::new(),
            on_loss: OnLoss::Wait,
            keep_for: None,
        }
    }

    /// Sets what the publisher does when the connection is lost. Default [`OnLoss::Wait`].
    pub const fn on_loss(mut self, on_loss: OnLoss) -> Self {
        self.on_loss = on_loss;
        self
    }

    pub(crate) const fn what_on_loss(&self) -> OnLoss {
        self.on_loss
    }

    /// Sets whether messages without a delivery mode are persistent. Default `true`. A message that has a
    /// [delivery mode](crate::DeliveryMode) keeps it.
    pub const fn persistent(mut self, persistent: bool) -> Self {
        self.persistent = persistent;
        self
    }

    /// Sets whether a message that reaches no queue fails with [`ConfirmError::Returned`](crate::ConfirmError::Returned). Default
    /// `true`. Turn this off for publish and subscribe, where a message without a subscriber is not an error.
    ///
    /// The publisher hashes each mandatory message, because `basic.return` does not say which publish it returns.
    pub const fn mandatory(mut self, mandatory: bool) -> Self {
        self.mandatory = mandatory;
        self
    }

    /// Limits the messages and bytes that may be unconfirmed at once. One message is always allowed. The messages of all
    /// publishers of the channel count, so give them the same window; see [`Publisher`](crate::Publisher).
    pub const fn window(mut self, messages: usize, bytes: usize) -> Self {
        self.window = Window { messages, bytes };
        self
    }

    /// Sets how long publishing may have to wait, instead of the connection's
    /// [`publish_timeout`](crate::Settings::publish_timeout); `None` waits forever.
    pub const fn timeout(mut self, timeout: Option<Duration>) -> Self {
        self.timeout = Some(timeout);
        self
    }

    /// Limits how long messages are kept ([`OnLoss::Keep`]). A message that is not confirmed by then is no longer sent: its
    /// confirmation fails with [`NotResent`](crate::ConfirmError::NotResent), unless the message is in flight on the present
    /// connection. Without this limit, a message is kept until it is confirmed, however long an outage lasts, even if its
    /// confirmation was dropped.
    pub const fn keep_for(mut self, time: Duration) -> Self {
        self.keep_for = Some(time);
        self
    }

    pub(crate) const fn how_long_kept(&self) -> Option<Duration> {
        self.keep_for
    }

    /// Sets the properties of messages that are published without properties of their own.
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

/// The limit of messages and bytes that may be unconfirmed at once.
#[derive(Debug, Clone, Copy, PartialEq, Eq)]
pub(crate) struct Window {
    messages: usize,
    bytes: usize,
}

impl Window {
    /// Returns whether one more message of `size` bytes fits into the window.
    #[inline]
    pub(crate) const fn has_room(self, messages: usize, bytes: usize, size: usize) -> bool {
        messages == 0 || messages < self.messages && bytes.saturating_add(size) <= self.bytes
    }
}

impl Default for PublisherOptions {
    fn default() -> Self {
        Self::new()
    }
}
