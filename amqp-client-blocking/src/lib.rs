//! An AMQP 0-9-1 client for threads, without an async runtime.
//!
//! [`connect`] connects. Everything else is the same for every runtime. [`Wait::wait`] waits for the result of a future:
//!
//! ```
//! use amqp_client_blocking::{ConsumeOptions, Message, QueueOptions, Wait as _, connect};
//!
//! # let broker = amqp_test_broker::Broker::start()?;
//! # let uri = broker.uri();
//! let connection = connect(&uri)?;
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
//! A waiting thread reads and writes the socket of its connection itself, so that no other thread has to be woken for its reply.
//! When no thread waits, a helper thread does so, and heartbeats and deliveries continue while the application computes. On Unix,
//! all connections of a process share one helper thread. Handles can be used from any number of threads at once.
//!
//! Methods that return nothing to wait for, such as [`Delivery::ack`], only queue their bytes. Close the connection before the
//! program ends: closing writes everything that is queued.
//!
//! # Logs
//!
//! With the feature `log` or `tracing`, the client writes a line about each event of a connection: attempts to
//! connect, losses, recoveries, blocked publishing, channels that the broker closed, consumers that ended, messages that could not
//! be used. Neither feature is on by default. With both, each line goes to both. No line is written for a message that is
//! published, delivered or acknowledged, and no line contains a secret.
//!
//! Each line names the connection by a number and, if it has one, by its
//! [name](ClientConfig::connection_name), and the channel by its number. The target of all lines is `amqp_client`; with
//! `env_logger`, `RUST_LOG=amqp_client=debug` selects it. There are four levels. *error*: the problem does not
//! go away by itself. *warn*: something is wrong, and the client goes on. *info*: a state has changed, or something is slow.
//! *debug*: an action of the application. Lines that could come with each message get rarer, and say how many were left out. The
//! page [`log_lines`] lists the lines, what they mean, and what to do.
//!
//! A sink (the logger or subscriber that receives the lines) runs on the thread on which the event happens, outside the client's
//! locks. It may use handles of the connection, and may panic. While a sink blocks, its connection does not read or
//! write. If the sink blocks the helper thread, all connections that no thread waits for stop as well, and send no heartbeats. So a
//! sink must not wait for the result of a request on any connection. If only the blocked helper thread could read the reply, the
//! sink would wait forever.
//!
//! ```text
//! WARN amqp_client: connection 1 (orders): connection lost: the peer disconnected without closing the connection; ...
//! INFO amqp_client: connection 1 (orders): the next attempt to connect to localhost:5672 is in 0.5 s
//! ```
//!
//! # Which to use for consuming
//!
//! | | |
//! |---|---|
//! | one consumer | `for delivery in &mut consumer` |
//! | with a timeout | [`Consumer::next_timeout`] |
//! | without waiting | [`Consumer::try_next`] |
//! | several consumers, in your own loop | [`recv_any`] |
//! | the same, and events of the connection | [`recv_any_or_event`] |
//! | several consumers, by callbacks | [`Callbacks`] |
//!
//! Publishing is safe by default: queues are durable, messages are persistent, and with confirms a message that reaches no queue
//! is an error. [`PublisherOptions`] can turn this off; [`Channel::basic_publish`] adds no such defaults.
//!
//! # One connection to publish, another to consume
//!
//! During a memory or disk alarm, RabbitMQ reads nothing more from a connection that publishes: neither the acknowledgements
//! nor the requests of its other channels ([`ConnectionEvent::Blocked`]). If a program consumes on a separate connection, it keeps
//! consuming during the alarm, and so helps the alarm to end:
//!
//! ```
//! use amqp_client_blocking::{Target, connect_target};
//!
//! # let broker = amqp_test_broker::Broker::start()?;
//! # let uri = broker.uri();
//! let target: Target = uri.parse()?;
//! let publishing = connect_target(target.clone())?;
//! let consuming = connect_target(target)?;
//! # Ok::<(), Box<dyn std::error::Error>>(())
//! ```
//!
//! Some features work only on one connection or channel: declare and consume exclusive queues on `consuming`, and publish requests
//! for direct reply-to on the channel that consumes the replies.
//!
//! # Side by side
//!
//! | | tokio | smol, async-std | threads |
//! |---|---|---|---|
//! | connect | `connect(uri).await` | `connect(uri).await` | `connect(uri)` |
//! | request | `channel.queue_declare(..).await` | the same | `channel.queue_declare(..).wait()` |
//! | publish | `publisher.publish(..).await` | the same | `publisher.publish(..).wait()` |
//! | consume | `consumer.next().await` | the same | `for delivery in &mut consumer` |
//! | consume with callbacks | `consumer.for_each_concurrent(..)` | the same | `Callbacks` |
//! | wait with a timeout | `tokio::time::timeout` | a timer of the runtime | `.wait_timeout(..)` |
//! | connect in the background | `connect_in_background` | `connect_in_background` | `connect_in_background` |
//! | connect over your own stream | `connect_over` | `connect_over` | `connect_over` |
//! | the same, with TLS | `connect_tls_over` | `connect_tls_over` | `connect_tls_over` |
//!
//! Handles (`Connection`, `Channel`, `Consumer` and so on), options, errors and features (`tls`, `cram-md5`) have the same names
//! everywhere. The page [`error`] lists all errors, and what to do about each.
//!
//! # Pipelining
//!
//! A request is sent when its method is called, and only waiting for the reply blocks. So several requests cost one round trip:
//!
//! ```
//! # use amqp_client_blocking::{QueueOptions, Wait as _, connect};
//! # let broker = amqp_test_broker::Broker::start()?;
//! # let connection = connect(&broker.uri())?;
//! # let channel = connection.open_channel().wait()?;
//! let declared = ["a", "b", "c"].map(|name| channel.queue_declare(name, QueueOptions::new()));
//! for queue in declared {
//!     println!("{}", queue.wait()?.name());
//! }
//! # Ok::<(), Box<dyn std::error::Error>>(())
//! ```

mod connect;
mod consume;
mod io;
mod shared_loop;

pub use amqp_client_core::adapter::{Deliveries, NextError, Wait};
pub use amqp_client_core::{
    After, Body, BrokerFeature, BrokerVersion, CallError, Channel, ChannelError, ChannelEvent,
    ChannelEvents, ChannelId, ClientConfig, Close, ClosedChannel, Config, ConfirmError,
    Confirmation, Confirmations, ConnectError, ConnectStep, Connection, ConnectionError,
    ConnectionEvent, ConnectionEvents, ConsumeOptions, Consumer, ConsumerEnd, Counters,
    DeadLetterStrategy, DeathReason, Decimal, DecodeError, DelayedRetry, Delivery, DeliveryMode,
    DeliveryTag, Endpoint, Entity, Exchange, ExchangeKind, ExchangeOptions, FieldArray, FieldError,
    FieldTable, Gate, Got, Health, Histogram, Initiator, LeaderLocator, Leftovers, Limits, Locked,
    LoginError, MasterLocator, Message, MessageProperties, Misuse, Monitor, Negotiated, NoWait,
    OnCancel, OnLoss, OnPanic, OpenChannel, OpenChannelError, OptionError, OptionProblem, Overflow,
    Oversized, Password, Prepared, PreparedPublisher, PrometheusText, Properties, PublishAllError,
    PublishError, Publisher, PublisherOptions, Queue, QueueMode, QueueOptions, QueueType,
    RawProperties, ReadingPaused, Recovery, RecoveryReport, Reply, ReplyCode, Returned, Route,
    Secret, SendError, SettingError, Settings, ShortStr, Status, StreamOffset, Target, Timestamp,
    TooLong, TryPublishError, Unusable, Uri, Value, error, intercept, log_lines, login,
    observability, proto, recovery, tap, testing, tls, topology,
};
#[cfg(feature = "tls")]
pub use connect::connect_tls_over;
pub use connect::{connect, connect_in_background, connect_over, connect_target};
pub use consume::{CallbackError, Callbacks, Received, recv_any, recv_any_or_event};
