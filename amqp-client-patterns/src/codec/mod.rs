//! Typed messages: values in JSON, MessagePack, CBOR or a format of your own.
//!
//! A codec is a type that implements [`Encode`], [`Decode`] or both. The features `json`, `messagepack` and `cbor` add the codecs
//! `Json`, `MessagePack` and `Cbor` for types of serde, and `ByContentType`, which decodes each message by its content type.
//!
//! [`PublisherExt::of`] turns a publisher into a publisher of values, and [`ConsumerExt`] a consumer into a consumer of values:
//!
//! ```
//! # use amqp_client_tokio::{ConsumeOptions, PublisherOptions, QueueOptions, connect};
//! use amqp_client_patterns::codec::{ConsumerExt as _, Json, PublisherExt as _};
//!
//! #[derive(serde::Serialize, serde::Deserialize)]
//! struct Order {
//!     number: u32,
//! }
//!
//! # #[tokio::main(flavor = "current_thread")]
//! # async fn main() -> Result<(), Box<dyn std::error::Error>> {
//! # let broker = amqp_test_broker::Broker::start()?;
//! # let connection = connect(&broker.uri()).await?;
//! # let channel = connection.open_channel().await?;
//! let queue = channel.queue_declare("orders", QueueOptions::new()).await?;
//! let publisher = channel.default_exchange().publisher(PublisherOptions::new())?;
//! publisher.of::<Order, Json>().send("orders", &Order { number: 1 }).await?;
//!
//! let mut orders = queue.consume(ConsumeOptions::new()).await?.of::<Order>();
//! if let Some(received) = orders.next().await {
//!     let received = received?;
//!     match received.value {
//!         Ok(order) => println!("order {}", order.number),
//!         Err(error) => println!("{error}"),
//!     }
//!     received.delivery.ack()?;
//! }
//! # Ok(())
//! # }
//! ```
//!
//! # Formats of your own
//!
//! ```
//! use amqp_client_patterns::codec::{Content, Decode, DecodeBodyError, Encode, EncodeBodyError};
//!
//! /// Numbers as decimal text.
//! struct Decimal;
//!
//! impl Encode<u64> for Decimal {
//!     const CONTENT_TYPE: &'static str = "text/x-decimal";
//!
//!     fn encode(value: &u64) -> Result<Vec<u8>, EncodeBodyError> {
//!         Ok(value.to_string().into_bytes())
//!     }
//! }
//!
//! impl Decode<u64> for Decimal {
//!     fn decode(content: Content<'_>) -> Result<u64, DecodeBodyError> {
//!         content.expect("decimal", &["text/x-decimal"])?;
//!         let text = std::str::from_utf8(content.body)
//!             .map_err(|error| DecodeBodyError::body("decimal", error))?;
//!         text.parse().map_err(|error| DecodeBodyError::body("decimal", error))
//!     }
//! }
//! ```
//!
//! A codec can build on another one, and compress what that encodes: it sets
//! [`CONTENT_ENCODING`](Encode::CONTENT_ENCODING), and decodes bodies of that [encoding](Content::content_encoding). The example
//! `json_gzip` does so, for messages, handlers and remote calls.

mod by_content_type;
mod content;
mod error;
mod formats;
mod typed;

#[cfg(any(feature = "json", feature = "messagepack", feature = "cbor"))]
pub use by_content_type::ByContentType;
pub use content::Content;
pub use error::{BoxError, DecodeBodyError, EncodeBodyError, TypedSendError};
#[cfg(feature = "cbor")]
pub use formats::Cbor;
#[cfg(feature = "json")]
pub use formats::Json;
#[cfg(feature = "messagepack")]
pub use formats::MessagePack;
pub use typed::{ConsumerExt, PublisherExt, Received, TypedConsumer, TypedPublisher};

use amqp_client_core::{Message, MessageProperties, proto};

/// A codec that encodes values of type `T`.
#[diagnostic::on_unimplemented(
    message = "the codec `{Self}` cannot encode `{T}`",
    note = "`Json`, `MessagePack` and `Cbor` encode types that implement `serde::Serialize`"
)]
pub trait Encode<T: ?Sized> {
    /// The content type of the messages.
    const CONTENT_TYPE: &'static str;

    /// The content encoding of the messages, if the codec compresses them: `Some("gzip")`.
    const CONTENT_ENCODING: Option<&'static str> = None;

    /// Encodes a value to the body of a message.
    ///
    /// # Errors
    /// [`EncodeBodyError`] if the format cannot express the value.
    fn encode(value: &T) -> Result<Vec<u8>, EncodeBodyError>;
}

/// A codec that decodes values of type `T`.
#[diagnostic::on_unimplemented(
    message = "the codec `{Self}` cannot decode `{T}`",
    note = "`Json`, `MessagePack`, `Cbor` and `ByContentType` decode types that implement `serde::de::DeserializeOwned`"
)]
pub trait Decode<T> {
    /// Decodes the content of a message.
    ///
    /// # Errors
    /// [`DecodeBodyError`] if the content has another format, or does not decode.
    fn decode(content: Content<'_>) -> Result<T, DecodeBodyError>;
}

/// Encodes a value to a message with these properties. The codec sets the content type, and the content encoding if it has one.
///
/// # Errors
/// [`EncodeBodyError`] if the format cannot express the value, or a property is too long.
pub fn encode<C: Encode<T>, T: ?Sized>(
    value: &T,
    properties: &MessageProperties,
) -> Result<Message, EncodeBodyError> {
    let properties = Format::of::<C, T>().set(properties.clone());
    Ok(Message::new(C::encode(value)?).with(&properties)?)
}

/// The properties of a message that describe its body.
#[derive(Debug, Clone, Copy)]
pub(crate) struct Format {
    content_type: &'static str,
    content_encoding: Option<&'static str>,
}

impl Format {
    pub(crate) const fn of<C: Encode<T>, T: ?Sized>() -> Self {
        Self { content_type: C::CONTENT_TYPE, content_encoding: C::CONTENT_ENCODING }
    }

    pub(crate) fn set(self, properties: MessageProperties) -> MessageProperties {
        let properties = properties.content_type(self.content_type);
        match self.content_encoding {
            Some(encoding) => properties.content_encoding(encoding),
            None => properties,
        }
    }
}

/// Decodes the value in a message.
///
/// # Errors
/// [`DecodeBodyError`] if the content has another format, or does not decode.
pub fn decode<C: Decode<T>, T>(message: &proto::Delivery) -> Result<T, DecodeBodyError> {
    let properties = message.properties();
    let (kind, encoding) = (properties.content_type()?, properties.content_encoding()?);
    C::decode(Content {
        content_type: content::text(kind.as_ref())?,
        content_encoding: content::text(encoding.as_ref())?,
        body: message.body(),
    })
}
