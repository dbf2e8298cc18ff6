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
//! | [`pool`] | channels for transactions, and for requests that may fail |
//!
//! Everything here uses only the public items of `amqp-client-core`, so it runs on every runtime. It spawns no tasks and reads no
//! clock. If you need something slightly different, copy the module and change it.
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
pub mod pool;
pub mod process;
pub mod retry;
pub mod rpc;
mod shown;
pub mod work;
