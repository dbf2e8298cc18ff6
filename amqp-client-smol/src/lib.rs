//! An AMQP 0-9-1 client for smol, and, with the feature `async-std`, for async-std: see [`async_std`].
//!
//! [`connect`] connects. Everything else is the same for every runtime.
//!
//! ```no_run
//! use amqp_client_smol::{ConsumeOptions, Message, QueueOptions, connect};
//!
//! # async fn example() -> Result<(), Box<dyn std::error::Error>> {
//! let connection = connect("amqp://guest:guest@localhost:5672/%2f").await?;
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
//! One task per connection reads and writes its socket. [`connect`] spawns this task on smol's global executor. [`connect_over`]
//! takes any stream, spawns nothing, and lets the caller choose where the driver runs.
//!
//! Publishing is safe by default: queues are durable, messages are persistent, and with confirms a message that reaches no queue
//! is an error. [`PublisherOptions`] can turn this off; [`Channel::basic_publish`] adds no such defaults.
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
//! locks. It may use handles of the connection, and may panic. While it blocks, the connection waits.
//!
//! ```text
//! WARN amqp_client: connection 1 (orders): connection lost: the peer disconnected without closing the connection; ...
//! INFO amqp_client: connection 1 (orders): the next attempt to connect to localhost:5672 is in 0.5 s
//! ```
//!
//! # One connection to publish, another to consume
//!
//! During a memory or disk alarm, RabbitMQ reads nothing more from a connection that publishes: neither the acknowledgements
//! nor the requests of its other channels ([`ConnectionEvent::Blocked`]). If a program consumes on a separate connection, it keeps
//! consuming during the alarm, and so helps the alarm to end:
//!
//! ```no_run
//! use amqp_client_smol::{Target, connect_target};
//!
//! # async fn example() -> Result<(), Box<dyn std::error::Error>> {
//! let target: Target = "amqp://guest:guest@localhost:5672/%2f".parse()?;
//! let publishing = connect_target(target.clone()).await?;
//! let consuming = connect_target(target).await?;
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

#![cfg_attr(not(feature = "async-std"), allow(rustdoc::broken_intra_doc_links))]

#[cfg(feature = "async-std")]
pub mod async_std;
mod connect;
mod io;
mod stream;

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

connect::functions!(io::Smol, "smol");
