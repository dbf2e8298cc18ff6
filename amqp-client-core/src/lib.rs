//! The handles of the AMQP 0-9-1 clients, written once for every runtime.
//!
//! Most programs use an adapter such as `amqp-client-tokio`, which re-exports the handles and opens connections. Use this crate to
//! write an adapter: see [`adapter`].
//!
//! # How it works
//!
//! One lock protects the state of a connection: a [session](amqp_proto::session), and the tasks that wait for it. A command
//! encodes into the outgoing buffer under the lock, which takes about as long as copying the message. If the driver sleeps, the
//! command wakes it. The driver takes the whole buffer and writes it without the lock, so writes get larger when the load rises.
//! Input is decoded under the lock, a whole read at a time. Each consumer is woken once per read, and takes all its deliveries at
//! once.
//!
//! - The lock is never held across an await, a system call or code of the user (except SASL mechanisms and
//!   `Recovery::recovers`), and wakers are woken after its release.
//! - Handles read no clock. A deadline starts as a duration; the driver, which knows the time, turns it into a point in
//!   time at its next turn. So all of this can be tested in virtual time.
//! - When a connection or channel ends, one function resolves everything that waits on it.
//! - When a connection is lost, its driver turns into a [reconnector](adapter::Reconnector), which turns into the driver of the
//!   next transport: see [recovery].
//! - Dropping a future abandons its request: the protocol discards the late reply and undoes its effect.

pub mod adapter;
mod broker_version;
mod channel;
mod config;
mod connect;
mod connection;
mod consumer;
mod counters;
mod delivery;
mod driver;
#[doc = include_str!("../docs/errors.md")]
pub mod error;
mod event;
pub mod intercept;
pub mod login;
#[doc = include_str!("../docs/logs.md")]
pub mod log_lines {}
mod logs;
mod message;
#[doc = include_str!("../docs/observability.md")]
pub mod observability {}
mod options;
mod panics;
mod publisher;
#[doc = include_str!("../docs/recovery.md")]
pub mod recovery {}
mod reply;
mod state;
pub mod tap;
pub mod testing;
pub mod tls;
pub mod topology;
#[cfg(feature = "blocking")]
mod wait;

pub use amqp_proto as proto;
pub use amqp_proto::session::{Entity, Locked, OnCancel, Recovery, RecoveryReport};
pub use amqp_proto::uri::{Endpoint, Password, Uri};
pub use amqp_proto::{
    Body, ChannelError, ChannelId, ClientConfig, Close, ConnectStep, ConnectionError, DeathReason,
    Decimal, DecodeError, DeliveryTag, FieldArray, FieldError, FieldTable, Gate, Initiator, Limits,
    LoginError, Misuse, Negotiated, OpenChannelError, Oversized, Prepared, Properties,
    RawProperties, ReplyCode, Returned, Route, Secret, ShortStr, Timestamp, TooLong, Unusable,
    Value,
};
pub use broker_version::{BrokerFeature, BrokerVersion};
pub use channel::{Channel, ChannelEvents, Exchange, NoWait, Queue};
pub use config::{Config, SettingError, Settings};
pub use connect::{ConnectError, Target};
pub use connection::{After, Connection, ConnectionEvents, Leftovers, Monitor, OpenChannel};
pub use consumer::Consumer;
pub use counters::{Counters, Histogram, PrometheusText};
pub use delivery::{Delivery, Got, OnPanic};
pub use error::{CallError, ConfirmError, ConsumerEnd, PublishError, SendError, TryPublishError};
pub use event::{ChannelEvent, ConnectionEvent};
pub use message::{DeliveryMode, Message, MessageProperties};
pub use options::{
    ConsumeOptions, DeadLetterStrategy, DelayedRetry, ExchangeKind, ExchangeOptions, LeaderLocator,
    MasterLocator, OnLoss, OptionError, OptionProblem, Overflow, PublisherOptions, QueueMode,
    QueueOptions, QueueType, StreamOffset,
};
pub use publisher::{Confirmation, Confirmations, PreparedPublisher, PublishAllError, Publisher};
pub use reply::Reply;
pub use state::{ClosedChannel, Health, ReadingPaused, Status};
