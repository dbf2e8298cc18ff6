//! An AMQP 0-9-1 broker in memory, for tests and first steps. **In production, use RabbitMQ**: this one keeps nothing on disk,
//! and is as fast as it happens to be.
//!
//! ```
//! let broker = amqp_test_broker::Broker::start()?;
//! // Connect to broker.uri() with any AMQP 0-9-1 client, or through no socket over broker.pipe().
//! # Ok::<(), std::io::Error>(())
//! ```
//!
//! As a program, for clients of other languages: `cargo run -p amqp-test-broker -- --help`. With `--commands`,
//! it makes the trouble below when a line on its standard input asks for it.
//!
//! It supports direct, fanout, topic, headers and default exchanges, bindings between exchanges, alternate exchanges,
//! dead-lettering, message and queue TTL, length limits, priorities, consumer priorities, single active consumers, prefetch,
//! returns, publisher confirms, transactions and direct reply-to. It refuses what RabbitMQ refuses, with the same reply codes and
//! texts. It has no replication and no permissions, and its streams are in memory, too.
//!
//! A test can inject faults: [restart](Broker::restart) or [stop](Broker::stop) the broker, which durable queues and persistent
//! messages survive; [cut](Broker::cut), [freeze](Broker::freeze) or [close](Broker::close_connection) a connection;
//! [refuse](Broker::nack_next) publishes, [hold](Broker::hold_confirms) confirms, [block](Broker::set_alarm) publishers,
//! [refuse](Broker::refuse_logins) logins. It can [look into a queue](Broker::queue). With [whims](Options::whims), the broker
//! uses every freedom that the protocol allows, at random.
//!
//! [`Engine`] is the broker without I/O and without a clock, for simulations and for other transports; [`Broker`] runs one behind
//! a TCP port. Random scripts that run on both compare the broker with RabbitMQ.

mod arguments;
mod channel;
mod confirms;
mod deaths;
mod direct_reply;
mod engine;
mod exchange;
mod fault;
mod login;
mod message;
mod messages;
mod name;
mod observe;
mod operate;
mod options;
mod pipe;
mod queue;
mod requests;
mod server;
mod stream;
mod view;
mod whims;

pub use engine::Engine;
pub use fault::Scope;
pub use observe::{ConsumerView, Note, Verdict};
pub use options::Options;
pub use pipe::Pipe;
pub use server::Broker;
pub use view::{ConnectionView, MessageView, QueueView};

/// One client of a broker.
#[derive(Debug, Clone, Copy, PartialEq, Eq, PartialOrd, Ord, Hash)]
pub struct SessionId(u64);
