//! Handlers of messages: async functions whose arguments are taken from the delivery.
//!
//! ```
//! use amqp_client_patterns::codec::Json;
//! use amqp_client_patterns::handler::{RoutingKey, State, Verdict};
//!
//! # #[derive(Clone)]
//! # struct Database;
//! # impl Database { async fn store(&self, _: &Order) -> Result<(), std::io::Error> { Ok(()) } }
//! #[derive(serde::Deserialize)]
//! struct Order {
//!     number: u32,
//!     pieces: u32,
//! }
//!
//! async fn charge(
//!     Json(order): Json<Order>,
//!     key: RoutingKey,
//!     State(database): State<Database>,
//! ) -> Result<(), Verdict> {
//!     if order.pieces == 0 {
//!         return Err(Verdict::refuse("an order of nothing"));
//!     }
//!     // An error of any type asks for a retry.
//!     database.store(&order).await?;
//!     println!("order {} by {key}", order.number);
//!     Ok(())
//! }
//! ```
//!
//! # Arguments
//!
//! A handler has up to 8 arguments. Each is a type that implements [`Extract`]:
//!
//! | Argument | What it is |
//! |---|---|
//! | [`Json<T>`](crate::codec), `MessagePack<T>`, `Cbor<T>` | the value in the body |
//! | `ByContentType<T>` | the value in the body, decoded by the message's content type |
//! | [`Text`], [`Bytes`](bytes::Bytes) | the body as it is |
//! | [`Headers`], [`MessageProperties`](amqp_client_core::MessageProperties) | the headers; all properties |
//! | [`RoutingKey`] | the routing key of the message |
//! | [`PartitionKey`] | the key of a message of [partitions](crate::partitions) |
//! | [`Redelivered`] | whether the message may have been delivered before |
//! | [`Attempt`] | how often the message has been tried, as far as the broker and retries count it |
//! | [`State<T>`] | the state of the worker, or a part of it: [`FromRef`] |
//! | `Result<T, BoxError>` | an argument whose failure the handler sees |
//! | [`proto::Delivery`](amqp_client_core::proto::Delivery) | everything about the message; the verdict settles it |
//! | [`Delivery`](amqp_client_core::Delivery), as the last one | the delivery itself, which the handler has to settle |
//!
//! A message from which an argument cannot be taken never reaches the handler. It is refused, with the reason.
//!
//! The compiler names an argument that is not an extractor. The delivery has to be the last argument, because nothing is left to be
//! taken after it:
//!
//! ```compile_fail,E0277
//! # use amqp_client_core::{Delivery, Queue};
//! # use amqp_client_patterns::{handler::Text, work::Work};
//! # fn example(queue: &Queue) {
//! async fn handler(delivery: Delivery, text: Text) {}
//! let work = Work::on(queue).each(handler);
//! # }
//! ```
//!
//! # Results
//!
//! A handler returns nothing, a [`Verdict`], or a `Result` whose error converts to a [`Verdict`]: any error type, `String`, `&str`,
//! or a boxed error. See [`IntoVerdict`].

mod arguments;
mod extract;
mod function;
mod verdict;

pub use arguments::{Arguments, ByReference, ByValue, ExtractLast};
pub use extract::{
    Attempt, Extract, FromRef, Headers, PartitionKey, Redelivered, RoutingKey, State, Text,
};
pub use function::Handler;
pub use verdict::{IntoVerdict, Verdict};
