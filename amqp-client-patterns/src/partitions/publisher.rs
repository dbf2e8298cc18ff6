use std::fmt;

use amqp_client_core::proto::{Body, LongStr, Properties, RawProperties, Value};
use amqp_client_core::{
    Channel, ConfirmError, Confirmation, Connection, Message, OnLoss, Publisher, PublisherOptions,
    proto,
};
use bytes::Bytes;

use super::{KeyedMessageError, PartitionSendError, Partitions, PartitionsError};

/// The header that has the key.
const KEY: &str = "partition-key";

/// Publishes to partitions, with confirms: see [`Partitions::publisher`]. The key of a message decides its partition.
///
/// Messages go to the queues directly, through the default exchange: no plugin is needed, and no binding can send a key elsewhere. Each
/// message has its key in the header `partition-key`.
///
/// The window counts the messages of all partitions.
#[derive(Clone)]
pub struct PartitionPublisher {
    partitions: Partitions,
    publisher: Publisher,
    /// The properties of messages that are published as bodies.
    properties: Properties,
}

impl PartitionPublisher {
    pub(super) async fn open(
        partitions: &Partitions,
        connection: &Connection,
        options: PublisherOptions,
    ) -> Result<Self, PartitionsError> {
        let channel = connection.open_channel().await?;
        let options = options.mandatory(true).on_loss(OnLoss::Keep);
        let publisher = channel.default_exchange().publisher(options)?;
        let properties = checked(publisher.properties())?;
        Ok(Self { partitions: partitions.clone(), publisher, properties })
    }

    /// Returns the partitions.
    #[must_use]
    pub const fn partitions(&self) -> &Partitions {
        &self.partitions
    }

    /// Returns the publisher's channel. Once it is [closed](Publisher#when-the-channel-closes), open another publisher.
    #[must_use]
    pub fn channel(&self) -> &Channel {
        self.publisher.channel()
    }

    /// Publishes a body with the properties of the publisher's options. Waits as [`Publisher::publish`] does.
    ///
    /// Tasks that publish messages of the same key at the same time have no order among them. Await one call before the next.
    ///
    /// # Errors
    /// [`PartitionSendError`]: the message was not sent.
    ///
    /// # Cancel safety
    /// The message is queued as a whole or not at all.
    pub async fn publish(
        &self,
        key: impl AsRef<[u8]>,
        body: impl Body,
    ) -> Result<Confirmation, PartitionSendError> {
        let message = Message::new(body);
        self.publish_with(key.as_ref(), self.properties.clone(), message).await
    }

    /// Publishes a message with its own properties. If they have no delivery mode, the publisher's
    /// [options](PublisherOptions::persistent) set it.
    ///
    /// # Errors
    /// [`PartitionSendError`]: the message was not sent.
    ///
    /// # Cancel safety
    /// The message is queued as a whole or not at all.
    pub async fn publish_message(
        &self,
        key: impl AsRef<[u8]>,
        message: &Message,
    ) -> Result<Confirmation, PartitionSendError> {
        let properties = checked(message.properties())?;
        self.publish_with(key.as_ref(), properties, message.clone()).await
    }

    /// Publishes a body with the properties of the publisher's options, and waits for its confirm.
    ///
    /// # Errors
    /// [`PartitionSendError`]: not sent, or sent and not confirmed.
    ///
    /// # Cancel safety
    /// If the future is dropped, the message may be sent or not.
    pub async fn send(
        &self,
        key: impl AsRef<[u8]>,
        body: impl Body,
    ) -> Result<(), PartitionSendError> {
        Ok(self.publish(key, body).await?.await?)
    }

    /// Publishes a message with its own properties, and waits for its confirm.
    ///
    /// # Errors
    /// [`PartitionSendError`]: not sent, or sent and not confirmed.
    ///
    /// # Cancel safety
    /// If the future is dropped, the message may be sent or not.
    pub async fn send_message(
        &self,
        key: impl AsRef<[u8]>,
        message: &Message,
    ) -> Result<(), PartitionSendError> {
        Ok(self.publish_message(key, message).await?.await?)
    }

    /// Waits until the broker has confirmed everything that was published.
    ///
    /// # Errors
    /// As [`Publisher::wait_for_confirms`].
    ///
    /// # Cancel safety
    /// Dropping the future changes nothing.
    pub async fn wait_for_confirms(&self) -> Result<(), ConfirmError> {
        self.publisher.wait_for_confirms().await
    }

    async fn publish_with(
        &self,
        key: &[u8],
        mut properties: Properties,
        message: Message,
    ) -> Result<Confirmation, PartitionSendError> {
        let header = LongStr::from(key.to_vec());
        let headers = properties.headers.get_or_insert_default();
        headers.insert(KEY, header).map_err(KeyedMessageError::Key)?;
        let message = message.with_encoded(RawProperties::from(&properties));
        let queue = self.partitions.queue_of(key);
        Ok(self.publisher.publish_message(queue, &message).await?)
    }
}

impl fmt::Debug for PartitionPublisher {
    fn fmt(&self, f: &mut fmt::Formatter<'_>) -> fmt::Result {
        f.debug_struct("PartitionPublisher")
            .field("name", &self.partitions.name)
            .field("count", &self.partitions.count())
            .finish_non_exhaustive()
    }
}

/// Decodes properties, and refuses those that would change the order or the place of a message.
fn checked(properties: &RawProperties) -> Result<Properties, KeyedMessageError> {
    let properties = properties.decode().map_err(KeyedMessageError::Malformed)?;
    if properties.priority.is_some() {
        return Err(KeyedMessageError::Priority);
    }
    let headers = properties.headers.as_ref();
    let copies = ["CC", "BCC"].into_iter();
    let found = copies.into_iter().find(|name| headers.is_some_and(|all| all.get(name).is_some()));
    found.map_or(Ok(properties), |name| Err(KeyedMessageError::Copies(name)))
}

/// Returns the key of a message that a [`PartitionPublisher`] has published. `None` for other messages.
#[must_use]
pub fn key_of(delivery: &proto::Delivery) -> Option<Bytes> {
    match delivery.properties().headers().ok()??.get(KEY)? {
        Value::LongStr(key) => Some(key.into_bytes()),
        Value::ByteArray(key) => Some(key),
        _ => None,
    }
}
