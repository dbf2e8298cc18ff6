//! An in-memory AMQP 0-9-1 broker for tests and first steps. **In production, use RabbitMQ**: this broker keeps nothing on disk,
//! and is not optimized.
//!
//! ```
//! let broker = amqp_test_broker::Broker::start()?;
//! // Connect to broker.uri() with any AMQP 0-9-1 client, or without a socket over broker.pipe().
//! # Ok::<(), std::io::Error>(())
//! ```
//!
//! The broker is also a program, for clients of other languages: `cargo run -p amqp-test-broker -- --help`. With `--commands`, it
//! injects the faults below on commands from standard input.
//!
//! It supports direct, fanout, topic, headers and default exchanges, bindings between exchanges, alternate exchanges,
//! dead-lettering, message and queue TTL, length limits, priorities, consumer priorities, single active consumers, prefetch,
//! returns, publisher confirms, transactions and direct reply-to. It refuses what RabbitMQ refuses, with the same reply codes and
//! texts. It has no replication and no permissions, and keeps streams in memory.
//!
//! A test can inject faults: [restart](Broker::restart) or [stop](Broker::stop) the broker, which durable queues and persistent
//! messages survive; [cut](Broker::cut), [freeze](Broker::freeze) or [close](Broker::close_connection) a connection;
//! [refuse](Broker::nack_next) publishes, [hold](Broker::hold_confirms) confirms, [block](Broker::set_alarm) publishers,
//! [refuse](Broker::refuse_logins) logins. It can [inspect a queue](Broker::queue). With
//! [nondeterminism](Options::nondeterminism), the broker chooses at random where the protocol allows several behaviours.
//!
//! [`Engine`] is the broker without I/O and without a clock, for simulations and for other transports; [`Broker`] runs one behind
//! a TCP port. Tests run random scripts on this broker and on RabbitMQ, and compare the results.

mod arguments;
mod channel;
mod choices;
mod confirms;
mod deaths;
mod delayed_retry;
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
mod requeue;
mod server;
mod single_active;
mod stream;
mod view;

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
