//! An AMQP 0-9-1 client for tokio.
//!
//! [`Connection::open`] connects. Everything else is the same for every runtime: this crate re-exports all items of
//! `amqp-client-core`.
//!
//! ```no_run
//! use amqp_client_tokio::{Connection, ConsumeOptions, Message, QueueOptions};
//!
//! # async fn example() -> Result<(), Box<dyn std::error::Error>> {
//! let connection = Connection::open("amqp://guest:guest@localhost:5672/%2f").await?;
//! let channel = connection.open_channel().await?;
//! let queue = channel.queue_declare("hello", QueueOptions::new()).await?;
//! queue.publish_confirmed(&Message::new("Hello, world!")).await?;
//!
//! let mut consumer = queue.consume(ConsumeOptions::new()).await?;
//! while let Some(delivery) = consumer.next().await {
//!     let delivery = delivery?;
//!     println!("{}", String::from_utf8_lossy(delivery.body()));
//!     delivery.ack()?;
//! }
//! # Ok(())
//! # }
//! ```
//!
//! One task per connection reads and writes its socket. [`Connection::open`] spawns this task. [`Connection::open_with`] takes any
//! stream, spawns nothing, and leaves it to the caller where the driver runs. The client works on current-thread and multi-thread
//! runtimes. In `block_on` of a multi-thread runtime, every reply has to cross threads; a spawned task is faster.
//!
//! # Which type for what
//!
//! | To | use |
//! |---|---|
//! | declare, bind, purge, delete | [`Channel`], [`Queue`], [`Exchange`] |
//! | publish with confirms | [`Publisher`], [`Confirmation`] |
//! | publish one message and wait for its confirm | [`Exchange::publish_confirmed`], [`Queue::publish_confirmed`] |
//! | publish without confirms | [`Exchange::publish`], [`Queue::publish`], [`Channel::basic_publish`] |
//! | consume | [`Queue::consume`], [`Consumer`], [`Delivery`] |
//! | fetch one message | [`Queue::get`] |
//! | be notified of returned messages, blocked connections, closed channels | [`Channel::events`], [`events`](amqp_client_core::Connection::events) |
//! | choose what publishers do when the connection is lost | [`OnLoss`] |
//! | be notified of losses and recoveries | [`events`](amqp_client_core::Connection::events), [`on_recover`](amqp_client_core::Connection::on_recover) |
//! | shut down in an orderly way | [`shutdown`](amqp_client_core::Connection::shutdown) |
//! | monitor a connection | [`health`](amqp_client_core::Connection::health) |
//! | send any request of the protocol | [`Channel::call`] with the methods of [`proto::method`] |
//!
//! Publishing is safe by default: queues are durable, messages are persistent, and with confirms a message that reaches no queue
//! is an error. [`PublisherOptions`] turn that off; [`Channel::basic_publish`] adds no such defaults.
//!
//! # One connection to publish, another to consume
//!
//! During a memory or disk alarm, RabbitMQ reads nothing more from a connection that publishes: neither the acknowledgements
//! nor the requests of its other channels ([`ConnectionEvent::Blocked`]). If a program consumes on a separate connection, it keeps
//! consuming during the alarm, and so helps the alarm to end:
//!
//! ```no_run
//! use amqp_client_tokio::{Connection, Target};
//!
//! # async fn example() -> Result<(), Box<dyn std::error::Error>> {
//! let target: Target = "amqp://guest:guest@localhost:5672/%2f".parse()?;
//! let publishing = Connection::open_target(target.clone()).await?;
//! let consuming = Connection::open_target(target).await?;
//! # Ok(())
//! # }
//! ```
//!
//! Some features work only on one connection or channel: declare and consume exclusive queues on `consuming`, and publish requests
//! for direct reply-to on the channel that consumes the replies.
//!
//! # Side by side
//!
//! | | tokio | smol, async-std | threads |
//! |---|---|---|---|
//! | connect | `Connection::open(uri).await` | `Connection::open(uri).await` | `Connection::open(uri)` |
//! | request | `channel.queue_declare(..).await` | the same | `channel.queue_declare(..).wait()` |
//! | publish | `publisher.publish(..).await` | the same | `publisher.publish(..).wait()` |
//! | consume | `consumer.next().await` | the same | `for delivery in &mut consumer` |
//! | with callbacks | `consumer.for_each_concurrent(..)` | the same | `Callbacks` |
//! | wait with a timeout | `tokio::time::timeout` | a timer of the runtime | `.wait_timeout(..)` |
//! | any stream | `Connection::open_with` | `Connection::open_with` | `Connection::open_with` |
//! | TLS on any stream | `Connection::open_tls_with` | `Connection::open_tls_with` | `Connection::open_tls_with` |
//!
//! Handles, options, errors and features (`tls`, `cram-md5`) have the same names everywhere.
//!
//! # Errors and cancellation
//!
//! Each operation has an error of its own: [`ConnectError`], [`CallError`], [`PublishError`],
//! [`ConfirmError`], [`ConsumerEnd`]. If a channel or connection was closed, the error contains the reason, with reply code, text
//! and the method that caused it. A failed request closes its channel (as AMQP requires) and leaves the other channels open.
//!
//! All futures can be dropped at any time; their documentation describes the effect under "Cancel safety".

mod io;
mod open;

pub use amqp_client_core::*;
pub use open::Connection;
