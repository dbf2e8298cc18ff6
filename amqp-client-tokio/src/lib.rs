//! An AMQP 0-9-1 client for tokio.
//!
//! [`Connection::open`] connects; everything else is the same for every runtime and comes from `amqp-client-core`, whose
//! items are all here, too.
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
//! One task per connection moves its octets. It is spawned by [`Connection::open`]; [`Connection::open_with`] spawns
//! nothing, takes any stream, and leaves it to the caller where the driver runs. The client works on a runtime of one
//! thread as on one of many. Called from `block_on` of a multi-threaded runtime, every answer has to cross threads; a
//! spawned task is faster.
//!
//! # Which type for what
//!
//! | To | use |
//! |---|---|
//! | declare, bind, purge, delete | [`Channel`], [`Queue`], [`Exchange`] |
//! | publish and know what became of it | [`Publisher`], [`Confirmation`] |
//! | publish one message and wait for its confirm | [`Exchange::publish_confirmed`], [`Queue::publish_confirmed`] |
//! | publish and not care | [`Exchange::publish`], [`Queue::publish`], [`Channel::basic_publish`] |
//! | consume | [`Queue::consume`], [`Consumer`], [`Delivery`] |
//! | ask for one message | [`Queue::get`] |
//! | hear of returned messages, blocked connections, ends | [`Channel::events`], [`events`](amqp_client_core::Connection::events) |
//! | publish over a loss of the connection | [`OnLoss`] |
//! | hear of losses and recoveries | [`events`](amqp_client_core::Connection::events), [`on_recover`](amqp_client_core::Connection::on_recover) |
//! | end in good order, or know how things are | [`shutdown`](amqp_client_core::Connection::shutdown), [`health`](amqp_client_core::Connection::health) |
//! | send any request there is | [`Channel::call`] with the methods of [`proto::method`] |
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
//!
//! # Errors and cancellation
//!
//! Each operation has an error of its own: [`ConnectError`], [`OpenError`], [`CallError`], [`PublishError`],
//! [`ConfirmError`], [`ConsumerEnd`]. What ended a channel or connection is in it, with reply code, text and the method
//! that caused it. A failed request closes its channel (that is AMQP) and leaves the other channels unharmed.
//!
//! All futures can be dropped at any time; what that means is said with each of them.

mod io;
mod open;

pub use amqp_client_core::*;
pub use open::Connection;
