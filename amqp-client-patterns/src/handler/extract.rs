use std::fmt;
use std::ops::Deref;

use amqp_client_core::{Delivery, FieldTable, MessageProperties, ShortStr, proto};
use bytes::Bytes;

use crate::codec::{BoxError, DecodeBodyError};
use crate::history;
use crate::partitions::key_of;

/// A type that can be taken from a delivery, as an argument of a [handler](super).
///
/// `S` is the state of the worker. An extractor of your own:
///
/// ```
/// use amqp_client_core::Delivery;
/// use amqp_client_patterns::codec::BoxError;
/// use amqp_client_patterns::handler::Extract;
///
/// struct MessageId(String);
///
/// impl<S> Extract<S> for MessageId {
///     fn extract(delivery: &Delivery, _: &S) -> Result<Self, BoxError> {
///         let id = delivery.properties().message_id()?.ok_or("the message has no id")?;
///         Ok(Self(id.to_string()))
///     }
/// }
/// ```
#[diagnostic::on_unimplemented(
    message = "`{Self}` cannot be taken from a delivery, so it cannot be an argument of a handler here",
    label = "`{Self}` is not an extractor for a worker with the state `{S}`",
    note = "extractors are `Json<T>`, `MessagePack<T>`, `Cbor<T>`, `Text`, `Bytes`, `Headers`, `RoutingKey`, `PartitionKey`, \
            `Redelivered`, `Attempt`, `State<T>` and types that implement `Extract`",
    note = "`Delivery` has to be the last argument; `State<T>` needs a worker with the state `T`, or `T: FromRef`"
)]
pub trait Extract<S>: Sized {
    /// Takes the value from a delivery, or from the state of the worker.
    ///
    /// # Errors
    /// The reason why the message cannot be handled. The message is then refused.
    fn extract(delivery: &Delivery, state: &S) -> Result<Self, BoxError>;
}

/// The body of a message, as text.
#[derive(Debug, Clone, PartialEq, Eq, Hash)]
#[expect(clippy::exhaustive_structs, reason = "handlers take its value out")]
pub struct Text(pub String);

/// The headers of a message; empty if it has none.
#[derive(Debug, Clone, PartialEq)]
#[expect(clippy::exhaustive_structs, reason = "handlers take its value out")]
pub struct Headers(pub FieldTable);

/// The routing key of a message. Dereferences to `str`. If the message is a copy that a worker published to try it again, this is the
/// routing key of the original.
///
/// A routing key that is not UTF-8 cannot be taken. [`Delivery`] and [`proto::Delivery`] have it as bytes.
#[derive(Debug, Clone, PartialEq, Eq, Hash)]
#[expect(clippy::exhaustive_structs, reason = "handlers take its value out")]
pub struct RoutingKey(pub String);

/// The key of a message of [partitions](crate::partitions): see [`key_of`](crate::partitions::key_of). A message without a key cannot be
/// handled: take `Result<PartitionKey, BoxError>` if there are such.
#[derive(Debug, Clone, PartialEq, Eq, Hash)]
#[expect(clippy::exhaustive_structs, reason = "handlers take its value out")]
pub struct PartitionKey(pub Bytes);

/// True if the message may have been delivered before.
#[derive(Debug, Clone, Copy, PartialEq, Eq, Hash)]
#[expect(clippy::exhaustive_structs, reason = "handlers take its value out")]
pub struct Redelivered(pub bool);

/// Number of this attempt to handle the message, from 1.
///
/// It counts the failures that quorum queues count (`x-delivery-count`), the copies that a worker published to try the message
/// again, and the attempts of this member of a [group](crate::work#groups). Classic queues do not count failures.
#[derive(Debug, Clone, Copy, PartialEq, Eq, PartialOrd, Ord, Hash)]
#[expect(clippy::exhaustive_structs, reason = "handlers take its value out")]
pub struct Attempt(pub u32);

/// The state of the worker, or a part of it.
#[derive(Debug, Clone, Copy, PartialEq, Eq, Hash, Default)]
#[expect(clippy::exhaustive_structs, reason = "handlers take its value out")]
pub struct State<T>(pub T);

/// A part of the state `S` of a worker, for handlers that take `State<Self>`.
///
/// ```
/// use amqp_client_patterns::handler::FromRef;
///
/// # #[derive(Clone)] struct Database;
/// # #[derive(Clone)] struct Mailer;
/// #[derive(Clone)]
/// struct Services {
///     database: Database,
///     mailer: Mailer,
/// }
///
/// impl FromRef<Services> for Database {
///     fn from_ref(services: &Services) -> Self {
///         services.database.clone()
///     }
/// }
/// ```
#[diagnostic::on_unimplemented(
    message = "the state `{S}` of the worker has no part `{Self}` for `State<{Self}>`",
    label = "a handler takes `State<{Self}>`",
    note = "set the state by `Work::state` before the handlers, or implement `FromRef<{S}>` for `{Self}`"
)]
pub trait FromRef<S> {
    /// Clones the part of the state.
    fn from_ref(state: &S) -> Self;
}

impl<S: Clone> FromRef<S> for S {
    fn from_ref(state: &S) -> Self {
        state.clone()
    }
}

impl<S, T: FromRef<S>> Extract<S> for State<T> {
    fn extract(_: &Delivery, state: &S) -> Result<Self, BoxError> {
        Ok(Self(T::from_ref(state)))
    }
}

impl<S, T: Extract<S>> Extract<S> for Result<T, BoxError> {
    fn extract(delivery: &Delivery, state: &S) -> Result<Self, BoxError> {
        Ok(T::extract(delivery, state))
    }
}

macro_rules! extractors {
    ($($(#[$attribute:meta])? $type:ident $(<$value:ident: $bound:path>)?, $from:ident => $made:expr;)*) => {$(
        $(#[$attribute])?
        impl<S $(, $value: $bound)?> Extract<S> for $type $(<$value>)? {
            fn extract($from: &Delivery, _: &S) -> Result<Self, BoxError> {
                $made
            }
        }
    )*};
}

#[cfg(any(feature = "json", feature = "messagepack", feature = "cbor"))]
use codec::ByContentType;
#[cfg(feature = "cbor")]
use codec::Cbor;
#[cfg(feature = "json")]
use codec::Json;
#[cfg(feature = "messagepack")]
use codec::MessagePack;
#[cfg(any(feature = "json", feature = "messagepack", feature = "cbor"))]
use {crate::codec, serde::de::DeserializeOwned};

extractors! {
    #[cfg(feature = "json")]
    Json<T: DeserializeOwned>, delivery => Ok(Self(codec::decode::<Json, T>(delivery)?));

    #[cfg(feature = "messagepack")]
    MessagePack<T: DeserializeOwned>, delivery => Ok(Self(codec::decode::<MessagePack, T>(delivery)?));

    #[cfg(feature = "cbor")]
    Cbor<T: DeserializeOwned>, delivery => Ok(Self(codec::decode::<Cbor, T>(delivery)?));

    #[cfg(any(feature = "json", feature = "messagepack", feature = "cbor"))]
    ByContentType<T: DeserializeOwned>, delivery =>
        Ok(Self(codec::decode::<ByContentType, T>(delivery)?));

    Text, delivery => match delivery.text() {
        Ok(text) => Ok(Self(text.to_owned())),
        Err(error) => Err(DecodeBodyError::body("text", error).into()),
    };

    Bytes, delivery => Ok(delivery.body_bytes());

    Headers, delivery => Ok(Self(delivery.properties().headers()?.unwrap_or_default()));

    MessageProperties, delivery => Ok(delivery.message_properties()?);

    RoutingKey, delivery => {
        let key = history::routing_key(delivery);
        match key.to_str() {
            Ok(text) => Ok(Self(text.to_owned())),
            Err(_) => Err(not_text("routing key", &key)),
        }
    };

    PartitionKey, delivery => Ok(Self(key_of(delivery).ok_or("the message has no partition key")?));

    Redelivered, delivery => Ok(Self(delivery.redelivered()));

    Attempt, delivery => Ok(Self(history::attempt(delivery)?));
}

impl<S> Extract<S> for proto::Delivery {
    fn extract(delivery: &Delivery, _: &S) -> Result<Self, BoxError> {
        Ok(Self::clone(delivery))
    }
}

fn not_text(what: &str, name: &ShortStr) -> BoxError {
    format!("the {what} is not text: {}", name.escaped()).into()
}

impl Deref for RoutingKey {
    type Target = str;

    fn deref(&self) -> &str {
        &self.0
    }
}

impl fmt::Display for RoutingKey {
    fn fmt(&self, f: &mut fmt::Formatter<'_>) -> fmt::Result {
        self.0.fmt(f)
    }
}
