//! Patterns on top of the AMQP 0-9-1 clients `amqp-client-tokio`, `amqp-client-smol` and `amqp-client-blocking`.
//!
//! | Module | What it has |
//! |---|---|
//! | [`codec`] | typed messages, in JSON, MessagePack, CBOR or a format of your own |
//! | [`retry`] | trying failed messages again, with growing delays, and parking those that never succeed |
//! | [`handler`] | async functions whose arguments are taken from the delivery |
//! | [`work`] | workers: concurrency, order, failures, an end in good order |
//! | [`batch`] | deliveries in batches |
//! | [`process`] | settling one delivery by the result of the code that handles it |
//! | [`rpc`] | remote calls: requests that get a reply |
//! | [`partitions`] | messages with keys, in order for each key, over many queues and machines |
//! | [`pool`] | channels for transactions, and for requests that may fail |
//!
//! Everything here uses only the public items of `amqp-client-core`, so it runs on every runtime. It spawns no tasks and reads no
//! clock. If you need something slightly different, copy the module and change it.
//!
//! # A worker
//!
//! ```no_run
//! # use amqp_client_tokio::{QueueOptions, connect};
//! # async fn save(order: &str) -> Result<(), std::io::Error> { Ok(()) }
//! use amqp_client_patterns::handler::{Text, Verdict};
//! use amqp_client_patterns::retry::Retry;
//! use amqp_client_patterns::work::Work;
//!
//! // `Ok` acknowledges the message. An error tries it again later.
//! async fn handle(Text(order): Text) -> Result<(), Verdict> {
//!     Ok(save(&order).await?)
//! }
//!
//! # async fn example() -> Result<(), Box<dyn std::error::Error>> {
//! let connection = connect("amqp://guest:guest@localhost:5672/%2f").await?;
//! let channel = connection.open_channel().await?;
//! let queue = channel.queue_declare("orders", QueueOptions::new()).await?;
//! Work::on(&queue).at_once(16).retry(Retry::times(5)).each(handle).run().await?;
//! # Ok(())
//! # }
//! ```
//!
//! # Errors, and what to do
//!
//! The errors here contain those of the client, whose [page](amqp_client_core::error) describes them.
//!
//! | Error | What happened | What to do |
//! |---|---|---|
//! | [`WorkError::Start`](work::WorkError), [`ServeError::Start`](rpc::ServeError), [`BatchingError::Start`](batch::BatchingError) | no channel, or the queue cannot be consumed | as for [`CallError`](amqp_client_core::CallError); often the queue has to be declared first |
//! | `WorkError::QueueName` | retries need a queue with a name of its own | name the queue |
//! | `WorkError::Ended`, `ServeError::Ended` | the queue was deleted, or the channel or connection closed for good | as for [`ConsumerEnd`](amqp_client_core::ConsumerEnd), then start another worker or server |
//! | `ServeError::NotConfirmed` | the server was stopped, and its last replies may be lost | nothing: the broker delivers these requests again |
//! | `BatchingError::Prefetch` | a batch would never be full | raise the prefetch limit |
//! | [`RpcError::NotSent`](rpc::RpcError) | the request was not sent, or the broker refused it | as for [`SendError`](amqp_client_core::SendError) |
//! | `RpcError::NoServer` | no queue took the request | start the server; check the name of the queue |
//! | `RpcError::TimedOut`, `RpcError::Lost` | no reply; unless [`may_have_run`](rpc::RpcError::may_have_run) is false, the request may have been carried out | repeat it if it may be carried out twice; [`idempotent`](rpc::Call::idempotent) does so by itself after a loss |
//! | `RpcError::Remote` | the server replied with an error | its [code](rpc::RemoteError::code) says what; correct the request or the server |
//! | `RpcError::Ended` | the channel of the client is closed | open another client |
//! | `RpcError::{Encode, Reply}`, [`EncodeBodyError`](codec::EncodeBodyError), [`DecodeBodyError`](codec::DecodeBodyError) | a value does not fit the format, or a body is not what was expected | correct the program that publishes, or the one that decodes |
//! | [`PartitionsError::Missing`](partitions::PartitionsError), `PartitionsError::OtherCount` | the broker's queues are not these partitions | declare them, or correct the number |
//! | `PartitionsError::Unbalanced` | the broker is older than RabbitMQ 4.0 | upgrade it, or join [all the same](partitions::Join::even_if_unbalanced) |
//! | [`GroupEnd::Dropped`](partitions::GroupEnd), `GroupEnd::Stuck` | a handler did not settle its delivery | correct the handler, and join again |
//! | `GroupEnd::Ended` | a partition was deleted, or the channel or connection closed for good | as for [`ConsumerEnd`](amqp_client_core::ConsumerEnd) |
//! | [`PartitionSendError::Message`](partitions::PartitionSendError) | the message has a priority, or names other queues | remove these properties |
//! | [`ProcessError::Failed`](process::ProcessError) | your code returned this error, and the delivery was rejected | as your code needs |
//! | `ProcessError::NotAcknowledged` | your code succeeded, but the channel is closed | expect the message again |
//!
//! # Features
//!
//! None is on by default.
//!
//! | Feature | What it adds |
//! |---|---|
//! | `json` | [`codec::Json`](codec), with `serde_json` |
//! | `messagepack` | [`codec::MessagePack`](codec), with `rmp-serde` |
//! | `cbor` | [`codec::Cbor`](codec), with `ciborium` |

pub mod batch;
pub mod codec;
mod grace;
pub mod handler;
mod history;
pub mod partitions;
pub mod pool;
pub mod process;
pub mod retry;
pub mod rpc;
mod shown;
pub mod work;
