//! An AMQP 0-9-1 client for threads, without an async runtime.
//!
//! [`Connection::open`] connects; everything else is the same for every runtime and comes from `amqp-client-core`, whose
//! items are all here, too. What is a future there is waited for with [`Wait::wait`]:
//!
//! ```
//! use amqp_client_blocking::{
//!     Connection, ConsumeOptions, Message, QueueOptions, Wait as _,
//! };
//!
//! # let broker = amqp_test_broker::Broker::start()?;
//! # let uri = broker.uri();
//! let connection = Connection::open(&uri)?;
//! let channel = connection.open_channel().wait()?;
//! let queue = channel.queue_declare("hello", QueueOptions::new()).wait()?;
//! queue.publish_confirmed(&Message::new("Hello, world!")).wait()?;
//!
//! let mut consumer = queue.consume(ConsumeOptions::new()).wait()?;
//! for delivery in &mut consumer {
//!     let delivery = delivery?;
//!     println!("{}", String::from_utf8_lossy(delivery.body()));
//!     delivery.ack()?;
//! #   break;
//! }
//! # Ok::<(), Box<dyn std::error::Error>>(())
//! ```
//!
//! A thread that waits moves the octets of its connection itself, so that no other has to wake for its answer. A helper
//! thread does when none waits, so that heartbeats and deliveries go on while the application computes. Handles can be used
//! from any number of threads at once.
//!
//! Methods that return nothing to wait for, as [`Delivery::ack`], only queue their octets. Close the connection before the
//! program ends: what is queued is written by then.
//!
//! # Which to use for consuming
//!
//! | | |
//! |---|---|
//! | one consumer | `for delivery in &mut consumer` |
//! | with a limit of time | [`Consumer::next_timeout`] |
//! | what is there already | [`Consumer::try_next`] |
//! | several consumers, in a loop of one's own | [`recv_any`] |
//! | several consumers, by callbacks | [`Callbacks`] |
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
//! ```
//! use amqp_client_blocking::{Connection, Target};
//!
//! # let broker = amqp_test_broker::Broker::start()?;
//! # let uri = broker.uri();
//! let target: Target = uri.parse()?;
//! let publishing = Connection::open_target(target.clone())?;
//! let consuming = Connection::open_target(target)?;
//! # Ok::<(), Box<dyn std::error::Error>>(())
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
//! # Pipelining
//!
//! A request is sent when its method is called, and only waiting for the answer blocks. So several cost one round trip:
//!
//! ```
//! # use amqp_client_blocking::{Connection, QueueOptions, Wait as _};
//! # let broker = amqp_test_broker::Broker::start()?;
//! # let connection = Connection::open(&broker.uri())?;
//! # let channel = connection.open_channel().wait()?;
//! let declared = ["a", "b", "c"].map(|name| channel.queue_declare(name, QueueOptions::new()));
//! for queue in declared {
//!     println!("{}", queue.wait()?.name());
//! }
//! # Ok::<(), Box<dyn std::error::Error>>(())
//! ```

mod consume;
mod io;
mod open;
mod shared_loop;

pub use amqp_client_core::wait::{Deliveries, Wait};
pub use amqp_client_core::*;
pub use consume::{CallbackError, Callbacks, recv_any};
pub use open::Connection;
