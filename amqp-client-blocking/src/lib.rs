//! An AMQP 0-9-1 client for threads, without an async runtime.
//!
//! [`Connection::open`] connects; everything else is the same for every runtime and comes from `amqp-client-core`, whose
//! items are all here, too. What is a future there is waited for with [`Wait::wait`]:
//!
//! ```
//! use amqp_client_blocking::{
//!     Connection, ConsumeOptions, Deliveries as _, Message, QueueOptions, Wait as _,
//! };
//!
//! # let broker = amqp_test_broker::Broker::start()?;
//! # let uri = broker.uri();
//! let connection = Connection::open(&uri)?;
//! let channel = connection.open_channel().wait()?;
//! let queue = channel.queue_declare("hello", QueueOptions::new()).wait()?;
//! queue.publish(&Message::new("Hello, world!")).wait()?;
//!
//! let mut consumer = queue.consume(ConsumeOptions::new()).wait()?;
//! for delivery in consumer.deliveries() {
//!     let delivery = delivery?;
//!     println!("{}", String::from_utf8_lossy(delivery.body()));
//!     delivery.ack()?;
//! #   break;
//! }
//! # Ok::<(), Box<dyn std::error::Error>>(())
//! ```
//!
//! A thread of each connection moves its octets, so that heartbeats go on while the application computes, and handles can be
//! used from any number of threads at once.
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
mod wait;

pub use amqp_client_core::*;
pub use consume::{Deliveries, Each, recv_any};
pub use open::Connection;
pub use wait::Wait;
