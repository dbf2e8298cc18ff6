//! Remote calls: requests that get a reply.
//!
//! ```
//! # use std::time::Duration;
//! # use amqp_client_tokio::{QueueOptions, connect};
//! use amqp_client_patterns::codec::Json;
//! use amqp_client_patterns::rpc::{ReplyError, RpcClient, RpcServer};
//!
//! async fn divide(Json((a, b)): Json<(u32, u32)>) -> Result<Json<u32>, ReplyError> {
//!     let quotient = a.checked_div(b).ok_or_else(|| ReplyError::new("zero", "division by zero"))?;
//!     Ok(Json(quotient))
//! }
//!
//! # #[tokio::main(flavor = "current_thread")]
//! # async fn main() -> Result<(), Box<dyn std::error::Error>> {
//! # let broker = amqp_test_broker::Broker::start()?;
//! # let connection = connect(&broker.uri()).await?;
//! // The server, in this program or another one.
//! let channel = connection.open_channel().await?;
//! let queue = channel.queue_declare("divide", QueueOptions::new()).await?;
//! let server = tokio::spawn(RpcServer::on(&queue).at_once(64).serve(divide).run());
//!
//! // A client.
//! let client = RpcClient::open(&connection).await?;
//! let quotient: u32 = client.call_as::<_, _, Json>("divide", &(12, 4)).await?;
//! assert_eq!(quotient, 3);
//! let failed = client.call_as::<_, u32, Json>("divide", &(1, 0)).timeout(Duration::from_secs(5)).await;
//! println!("{}", failed.unwrap_err()); // the server replied with an error (zero): division by zero
//! # server.abort();
//! # Ok(())
//! # }
//! ```
//!
//! Without a runtime, wait for a call and for a server by `Wait::wait` of `amqp-client-blocking`.
//!
//! # What becomes of a call
//!
//! | What happens | The call |
//! |---|---|
//! | the server replies | returns the reply |
//! | the handler returns an error or panics, or the request does not decode | [`RpcError::Remote`], at once |
//! | there is no such queue | [`RpcError::NoServer`], at once |
//! | nobody consumes the queue, or the server takes too long | [`RpcError::TimedOut`] |
//! | there is no connection, or the broker accepts no messages | waits, up to its timeout |
//! | the connection is lost before the reply | [`RpcError::Lost`], or sends the request [again](Call::idempotent) |
//! | the connection or the channel closes | [`RpcError::Lost`], or [`RpcError::NotSent`] |
//! | the call is dropped | is forgotten; its reply is [counted](RpcClient::late_replies) and dropped |
//!
//! A server handles a request at least once: if it is lost before it has acknowledged the request, the broker delivers the request
//! again, to it or to another one.
//!
//! # The messages
//!
//! Other programs can be client or server:
//!
//! | | Request | Reply |
//! |---|---|---|
//! | routed to | the queue of the server, or an exchange | `reply_to` of the request, through the default exchange |
//! | `correlation_id` | unique | that of the request |
//! | `reply_to` | the address for the reply; without it, the request is handled, and there is no reply | |
//! | `type` | the name of the [method](Call::method), if the server has several | |
//! | `expiration` | the time that is left until the timeout of the call | |
//! | header `x-rpc-error` | | the [code](RemoteError::code) of an error, whose text is the body |
//!
//! # Handlers
//!
//! [`handler`](crate::handler) says what handlers can have as arguments, except for the delivery itself: the server acknowledges a
//! request once it has sent the reply. [`IntoReply`] says what they can return. All handlers of a server run in the task that awaits
//! the server. They wait concurrently, but they compute one at a time. Run work that computes or blocks elsewhere, or run several
//! servers.

mod call;
mod calls;
mod client;
mod dispatch;
mod error;
mod methods;
mod reply;
mod serve;
mod server;
mod sync;
#[cfg(all(test, shuttle))]
mod threads;
mod turns;

pub use call::Call;
pub use client::{RpcClient, RpcOptions};
pub use error::{AlreadyRegistered, RemoteError, RpcError, ServeError};
pub use methods::Methods;
pub use reply::{IntoReply, ReplyError};
pub use server::{RpcServer, Served};
