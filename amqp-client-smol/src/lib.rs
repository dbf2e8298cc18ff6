//! An AMQP 0-9-1 client for smol, and, with the feature `async-std`, for async-std: see [`async_std`].
//!
//! [`Connection::open`] connects; everything else is the same for every runtime and comes from `amqp-client-core`, whose
//! items are all here, too.
//!
//! ```no_run
//! use amqp_client_smol::{Connection, ConsumeOptions, Message, QueueOptions};
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
//! One task per connection moves its octets, spawned on smol's global executor by [`Connection::open`];
//! [`Connection::open_with`] spawns nothing, takes any stream, and leaves it to the caller where the driver runs.
//!
//! Publishing is safe by default: queues are durable, messages are persistent, and with confirms a message that reaches no queue
//! is an error. [`PublisherOptions`] turn that off; [`Channel::basic_publish`] sends what it is given.
//!
//! # One connection to publish, another to consume
//!
//! During a memory or disk alarm, RabbitMQ reads nothing more from a connection that publishes: neither the acknowledgements
//! nor the requests of its other channels ([`ConnectionEvent::Blocked`]). A program that does both keeps consuming, and so
//! helps the alarm to end, if it consumes on a connection of its own:
//!
//! ```no_run
//! use amqp_client_smol::{Connection, Target};
//!
//! # async fn example() -> Result<(), Box<dyn std::error::Error>> {
//! let target: Target = "amqp://guest:guest@localhost:5672/%2f".parse()?;
//! let publishing = Connection::open_target(target.clone()).await?;
//! let consuming = Connection::open_target(target).await?;
//! # Ok(())
//! # }
//! ```
//!
//! Some things can only be used on the connection or channel that made them: declare and consume exclusive queues on
//! `consuming`, and publish requests for direct reply-to on the channel that consumes the replies.
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

#![cfg_attr(not(feature = "async-std"), allow(rustdoc::broken_intra_doc_links))]

#[cfg(feature = "async-std")]
pub mod async_std;
mod io;
mod open;
mod stream;

pub use amqp_client_core::*;

open::connection!(io::Smol, "smol");
