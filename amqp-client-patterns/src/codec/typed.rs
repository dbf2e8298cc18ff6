//! Publishers and consumers of values.

use std::fmt;
use std::marker::PhantomData;
use std::pin::Pin;
use std::task::{Context, Poll};

use amqp_client_core::{
    Confirmation, Consumer, ConsumerEnd, Delivery, Message, MessageProperties, Publisher, SendError,
};
use futures_core::Stream;
use futures_util::StreamExt as _;

use super::{Decode, DecodeBodyError, Encode, EncodeBodyError, TypedSendError};

/// Turns a [`Publisher`] into a publisher of values.
pub trait PublisherExt {
    /// Returns a publisher of values of type `T`, encoded by the codec `C`: `publisher.of::<Order, Json>()`. It has the
    /// exchange, the window and the options of this publisher, except its properties.
    fn of<T: ?Sized, C: Encode<T>>(&self) -> TypedPublisher<T, C>;
}

impl PublisherExt for Publisher {
    fn of<T: ?Sized, C: Encode<T>>(&self) -> TypedPublisher<T, C> {
        let properties = MessageProperties::new();
        TypedPublisher { publisher: self.clone(), properties, of: PhantomData }
    }
}

/// Publishes values with publisher confirms. [`PublisherExt::of`] creates it.
pub struct TypedPublisher<T: ?Sized, C> {
    publisher: Publisher,
    properties: MessageProperties,
    of: PhantomData<fn(&T) -> C>,
}

impl<T: ?Sized, C: Encode<T>> TypedPublisher<T, C> {
    /// Sets properties of all messages. The codec sets the content type.
    #[must_use]
    pub fn properties(self, properties: MessageProperties) -> Self {
        Self { properties, ..self }
    }

    /// Returns the publisher that publishes the messages.
    #[must_use]
    pub const fn publisher(&self) -> &Publisher {
        &self.publisher
    }

    /// Encodes a value to a message, without publishing it.
    ///
    /// # Errors
    /// [`EncodeBodyError`].
    pub fn message(&self, value: &T) -> Result<Message, EncodeBodyError> {
        super::encode::<C, T>(value, &self.properties)
    }

    /// Publishes a value; see [`Publisher::publish_message`].
    ///
    /// # Errors
    /// [`TypedSendError`]: the message was not sent.
    ///
    /// # Cancel safety
    /// The message is queued as a whole or not at all.
    pub async fn publish(
        &self,
        routing_key: impl AsRef<[u8]>,
        value: &T,
    ) -> Result<Confirmation, TypedSendError> {
        let message = self.message(value)?;
        let published = self.publisher.publish_message(routing_key, &message).await;
        Ok(published.map_err(SendError::from)?)
    }

    /// Publishes a value and waits for its confirm.
    ///
    /// # Errors
    /// [`TypedSendError`]: not sent, or sent and not confirmed.
    ///
    /// # Cancel safety
    /// If the future is dropped, the message may be sent or not.
    pub async fn send(
        &self,
        routing_key: impl AsRef<[u8]>,
        value: &T,
    ) -> Result<(), TypedSendError> {
        let message = self.message(value)?;
        Ok(self.publisher.send_message(routing_key, &message).await?)
    }
}

impl<T: ?Sized, C> Clone for TypedPublisher<T, C> {
    fn clone(&self) -> Self {
        let (publisher, properties) = (self.publisher.clone(), self.properties.clone());
        Self { publisher, properties, of: PhantomData }
    }
}

impl<T: ?Sized, C> fmt::Debug for TypedPublisher<T, C> {
    fn fmt(&self, f: &mut fmt::Formatter<'_>) -> fmt::Result {
        f.debug_struct("TypedPublisher")
            .field("publisher", &self.publisher)
            .field("properties", &self.properties)
            .finish_non_exhaustive()
    }
}

/// Turns a [`Consumer`] into a consumer of values.
pub trait ConsumerExt: Sized {
    /// Returns a consumer of values of type `T`, which decodes each message [by its content type](super::ByContentType).
    #[cfg(any(feature = "json", feature = "messagepack", feature = "cbor"))]
    fn of<T>(self) -> TypedConsumer<T, super::ByContentType>
    where
        super::ByContentType: Decode<T>,
    {
        self.of_as()
    }

    /// Returns a consumer of values of type `T`, decoded by the codec `C`: `consumer.of_as::<Order, Json>()`.
    fn of_as<T, C: Decode<T>>(self) -> TypedConsumer<T, C>;
}

impl ConsumerExt for Consumer {
    fn of_as<T, C: Decode<T>>(self) -> TypedConsumer<T, C> {
        TypedConsumer { consumer: self, of: PhantomData }
    }
}

/// A consumer of values, as a [`Stream`]. [`ConsumerExt`] creates it.
///
/// It ends like its [`Consumer`]. A message that does not decode is an item like any other, with the error instead of the value.
#[must_use = "a consumer that is dropped is cancelled"]
pub struct TypedConsumer<T, C> {
    consumer: Consumer,
    of: PhantomData<fn() -> (T, C)>,
}

/// A delivery, and the value in its body.
#[derive(Debug)]
#[expect(clippy::exhaustive_structs, reason = "its parts are moved out of it")]
pub struct Received<T> {
    /// The delivery, to be settled. If it is dropped, the message is requeued.
    pub delivery: Delivery,
    /// The value, or why the body does not decode.
    pub value: Result<T, DecodeBodyError>,
}

impl<T, C: Decode<T>> TypedConsumer<T, C> {
    /// Waits for the next delivery; see [`Consumer::next`].
    ///
    /// # Cancel safety
    /// Dropping the future loses nothing.
    pub async fn next(&mut self) -> Option<Result<Received<T>, ConsumerEnd>> {
        Some(self.consumer.next().await?.map(received::<T, C>))
    }

    /// Returns a delivery that has already arrived, without waiting.
    pub fn try_next(&mut self) -> Option<Received<T>> {
        self.consumer.try_next().map(received::<T, C>)
    }

    /// Returns the consumer, to cancel it, for example.
    pub const fn consumer(&self) -> &Consumer {
        &self.consumer
    }
}

fn received<T, C: Decode<T>>(delivery: Delivery) -> Received<T> {
    let value = super::decode::<C, T>(&delivery);
    Received { delivery, value }
}

impl<T, C: Decode<T>> Stream for TypedConsumer<T, C> {
    type Item = Result<Received<T>, ConsumerEnd>;

    fn poll_next(mut self: Pin<&mut Self>, cx: &mut Context<'_>) -> Poll<Option<Self::Item>> {
        let next = self.consumer.poll_next_unpin(cx);
        next.map(|item| item.map(|item| item.map(received::<T, C>)))
    }
}

impl<T, C> fmt::Debug for TypedConsumer<T, C> {
    fn fmt(&self, f: &mut fmt::Formatter<'_>) -> fmt::Result {
        f.debug_tuple("TypedConsumer").field(&self.consumer).finish()
    }
}
