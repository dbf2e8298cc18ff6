//! Messages to publish: a body and properties of native types.

use std::fmt;
use std::time::{Duration, SystemTime};

use amqp_proto::{
    Body, DecodeError, FieldTable, OrDeliveryMode, Properties, RawProperties, Returned, ShortStr,
    Timestamp, TooLong,
};
use bytes::Bytes;

use crate::Delivery;

/// The durability of a message: persistent messages in durable queues survive a restart of the broker.
///
/// A [`Message`] without a delivery mode is published as [`Persistent`](Self::Persistent), unless the options of its
/// [`Publisher`](crate::Publisher) say otherwise.
///
/// ```
/// # use amqp_client_core as amqp_client_tokio;
/// use amqp_client_tokio::{DeliveryMode, Message, MessageProperties};
///
/// let transient = MessageProperties::new().delivery_mode(DeliveryMode::Transient);
/// let message = Message::new("soon out of date").with(&transient)?;
/// # Ok::<(), amqp_client_core::proto::TooLong>(())
/// ```
#[derive(Debug, Clone, Copy, PartialEq, Eq, Hash)]
#[expect(clippy::exhaustive_enums, reason = "the specification knows these two")]
pub enum DeliveryMode {
    /// The message may be lost when the broker restarts.
    Transient,
    /// The message survives a restart of the broker.
    Persistent,
}

impl DeliveryMode {
    pub(crate) const fn octet(self) -> u8 {
        match self {
            Self::Transient => 1,
            Self::Persistent => 2,
        }
    }
}

macro_rules! message_properties {
    ($($(#[$doc:meta])* $name:ident: $type:ty, ($value:ident: $from:ty) => $made:expr;)*) => {
        /// The properties of a message, in native types.
        ///
        /// ```
        /// # use amqp_client_core as amqp_client_tokio;
        /// use amqp_client_tokio::MessageProperties;
        /// use std::time::Duration;
        ///
        /// let properties = MessageProperties::new()
        ///     .content_type("application/json")
        ///     .persistent()
        ///     .expiration(Duration::from_secs(60));
        /// assert_eq!(properties.content_type.as_deref(), Some("application/json"));
        /// ```
        #[derive(Debug, Clone, PartialEq, Eq, Default)]
        #[non_exhaustive]
        pub struct MessageProperties {
            $($(#[$doc])* pub $name: Option<$type>,)*
        }

        impl MessageProperties {
            /// Creates empty properties.
            #[must_use]
            pub fn new() -> Self {
                Self::default()
            }

            $(#[doc = concat!("Sets [`", stringify!($name), "`](#structfield.", stringify!($name), ").")]
            #[must_use]
            pub fn $name(mut self, $value: $from) -> Self {
                self.$name = Some($made);
                self
            })*

            /// Makes the message persistent: in a durable queue, it survives a restart of the broker.
            #[must_use]
            pub fn persistent(self) -> Self {
                self.delivery_mode(DeliveryMode::Persistent)
            }
        }
    };
}

message_properties! {
    /// MIME type of the body.
    content_type: String, (value: impl Into<String>) => value.into();
    /// MIME encoding of the body.
    content_encoding: String, (value: impl Into<String>) => value.into();
    /// Application headers; headers exchanges match them.
    headers: FieldTable, (value: FieldTable) => value;
    /// Durability of the message. A [`Message`] without a delivery mode is published as persistent.
    delivery_mode: DeliveryMode, (value: DeliveryMode) => value;
    /// Priority, from 0 up to the queue's maximum.
    priority: u8, (value: u8) => value;
    /// Identifier that relates a reply to its request.
    correlation_id: String, (value: impl Into<String>) => value.into();
    /// The queue for replies, such as [`Queue::current_name`](crate::Queue::current_name). Names that are not UTF-8 need
    /// [`Properties`].
    reply_to: String, (value: impl AsRef<[u8]>) => String::from_utf8_lossy(value.as_ref()).into_owned();
    /// Longest time for which the message may wait in a queue; encoded as whole milliseconds, rounded up.
    expiration: Duration, (value: Duration) => value;
    /// Identifier of the message, for applications.
    message_id: String, (value: impl Into<String>) => value.into();
    /// When the message was created; encoded as whole seconds.
    timestamp: SystemTime, (value: SystemTime) => value;
    /// The application's name for the type of the message.
    kind: String, (value: impl Into<String>) => value.into();
    /// The publishing user; RabbitMQ checks it against the login.
    user_id: String, (value: impl Into<String>) => value.into();
    /// The publishing application.
    app_id: String, (value: impl Into<String>) => value.into();
    /// Reserved by the specification; the broker only forwards it.
    cluster_id: String, (value: impl Into<String>) => value.into();
}

impl MessageProperties {
    /// Encodes the properties once, to publish many messages with them.
    ///
    /// # Errors
    /// [`TooLong`], which names the property that takes more than 255 bytes.
    pub fn encode(&self) -> Result<RawProperties, TooLong> {
        Properties::try_from(self).map(|properties| RawProperties::from(&properties))
    }
}

impl TryFrom<&MessageProperties> for Properties {
    type Error = TooLong;

    fn try_from(from: &MessageProperties) -> Result<Self, TooLong> {
        let short = |what, text: &Option<String>| {
            text.clone().map(|text| ShortStr::named(what, text)).transpose()
        };
        Ok(Self {
            content_type: short("content_type", &from.content_type)?,
            content_encoding: short("content_encoding", &from.content_encoding)?,
            headers: from.headers.clone(),
            delivery_mode: from.delivery_mode.map(DeliveryMode::octet),
            priority: from.priority,
            correlation_id: short("correlation_id", &from.correlation_id)?,
            reply_to: short("reply_to", &from.reply_to)?,
            expiration: from
                .expiration
                .map(|expiration| ShortStr::named("expiration", milliseconds(expiration)))
                .transpose()?,
            message_id: short("message_id", &from.message_id)?,
            timestamp: from.timestamp.map(Timestamp::from),
            kind: short("kind", &from.kind)?,
            user_id: short("user_id", &from.user_id)?,
            app_id: short("app_id", &from.app_id)?,
            cluster_id: short("cluster_id", &from.cluster_id)?,
        })
    }
}

/// Formats a time as whole milliseconds, rounded up so that a short time does not become 0.
fn milliseconds(time: Duration) -> String {
    time.as_nanos().div_ceil(1_000_000).to_string()
}

impl TryFrom<&RawProperties> for MessageProperties {
    type Error = DecodeError;

    /// Converts bytes that are not UTF-8 to replacement characters, and leaves out an expiration that is not a number.
    /// [`RawProperties`] has the original values of both.
    fn try_from(raw: &RawProperties) -> Result<Self, DecodeError> {
        let text = |value: Option<ShortStr>| value.map(|value| value.to_string());
        let properties = raw.decode()?;
        Ok(Self {
            content_type: text(properties.content_type),
            content_encoding: text(properties.content_encoding),
            headers: properties.headers,
            delivery_mode: properties.delivery_mode.map(|mode| match mode {
                2 => DeliveryMode::Persistent,
                _ => DeliveryMode::Transient,
            }),
            priority: properties.priority,
            correlation_id: text(properties.correlation_id),
            reply_to: text(properties.reply_to),
            expiration: text(properties.expiration)
                .and_then(|text| text.parse().ok())
                .map(Duration::from_millis),
            message_id: text(properties.message_id),
            timestamp: properties.timestamp.and_then(Timestamp::to_system_time),
            kind: text(properties.kind),
            user_id: text(properties.user_id),
            app_id: text(properties.app_id),
            cluster_id: text(properties.cluster_id),
        })
    }
}

/// A message to publish: a body and properties. Cloning shares both.
///
/// A message is persistent unless its properties, or the options of its [`Publisher`](crate::Publisher), say otherwise.
///
/// ```
/// # use amqp_client_core as amqp_client_tokio;
/// use amqp_client_tokio::{Message, MessageProperties};
///
/// let message = Message::new("hello").with(&MessageProperties::new().message_id("4711"))?;
/// # Ok::<(), amqp_client_core::proto::TooLong>(())
/// ```
///
/// # Forwarding
/// `Message::from(&delivery)` has the properties, the headers and the body of a delivery, unchanged and without a copy. So has
/// `Message::from(&returned)`, for a message that was returned. The message is a slice of the same read buffer. To keep it for
/// long, [detach](amqp_proto::Delivery::detach) the delivery before.
///
/// Some properties have an effect when they are published again: RabbitMQ refuses a message (406) whose `user_id` is not that of
/// this connection, routes it by its headers `CC` and `BCC` again, and applies its `expiration` again. Change them by
/// [`with_encoded`](Self::with_encoded):
///
/// ```no_run
/// # use amqp_client_core as amqp_client_tokio;
/// # use amqp_client_tokio::{Delivery, Publisher};
/// use amqp_client_tokio::{Message, Properties, RawProperties};
///
/// # async fn example(delivery: Delivery, publisher: Publisher) -> Result<(), Box<dyn std::error::Error>> {
/// let properties = Properties { user_id: None, ..delivery.properties().decode()? };
/// let message = Message::from(&delivery).with_encoded(RawProperties::from(&properties));
/// // Publish first: a loss in between duplicates the message. The other order would lose it.
/// publisher.send_message("archive", &message).await?;
/// delivery.ack()?;
/// # Ok(())
/// # }
/// ```
#[derive(Clone, PartialEq, Eq)]
pub struct Message {
    properties: RawProperties,
    body: Bytes,
}

impl Message {
    /// Creates a message without properties.
    pub fn new(body: impl Body) -> Self {
        Self { properties: RawProperties::EMPTY, body: body.into_bytes() }
    }

    /// Creates a text message, with `text/plain` and `utf-8` in its properties.
    pub fn text(text: impl Into<String>) -> Self {
        let properties = Properties {
            content_type: Some(ShortStr::truncated("text/plain")),
            content_encoding: Some(ShortStr::truncated("utf-8")),
            ..Properties::default()
        };
        Self { properties: RawProperties::from(&properties), body: text.into().into() }
    }

    /// Sets these properties. Properties of the message that are missing here are kept, such as the content type of
    /// [`text`](Self::text). If the properties of a forwarded message are malformed, they are replaced.
    ///
    /// # Errors
    /// [`TooLong`], which names the property that takes more than 255 bytes.
    pub fn with(self, properties: &MessageProperties) -> Result<Self, TooLong> {
        let properties = Properties::try_from(properties)?;
        let own = self.properties.decode().unwrap_or_default();
        Ok(Self { properties: RawProperties::from(&properties.or(own)), ..self })
    }

    /// Replaces the message's properties with encoded ones.
    #[must_use]
    pub fn with_encoded(self, properties: RawProperties) -> Self {
        Self { properties, ..self }
    }

    /// Returns the message's properties.
    #[must_use]
    pub const fn properties(&self) -> &RawProperties {
        &self.properties
    }

    /// Returns the properties, persistent unless they have a delivery mode: for publishing without a publisher's options.
    pub(crate) const fn safe_properties(&self) -> OrDeliveryMode<'_> {
        self.properties.or_delivery_mode(Some(DeliveryMode::Persistent.octet()))
    }

    /// Returns the message's body.
    #[must_use]
    pub const fn body(&self) -> &Bytes {
        &self.body
    }
}

/// See [forwarding](Message#forwarding).
impl From<&Delivery> for Message {
    fn from(delivery: &Delivery) -> Self {
        Self::from(&**delivery)
    }
}

/// See [forwarding](Message#forwarding).
impl From<&amqp_proto::Delivery> for Message {
    fn from(delivery: &amqp_proto::Delivery) -> Self {
        Self { properties: delivery.properties(), body: delivery.body_bytes() }
    }
}

/// See [forwarding](Message#forwarding).
impl From<&Returned> for Message {
    fn from(returned: &Returned) -> Self {
        Self { properties: returned.properties.clone(), body: returned.body.clone() }
    }
}

impl fmt::Debug for Message {
    fn fmt(&self, f: &mut fmt::Formatter<'_>) -> fmt::Result {
        f.debug_struct("Message")
            .field("properties", &self.properties)
            .field("body_len", &self.body.len())
            .finish()
    }
}
