//! The handles of the AMQP 0-9-1 clients, written once for every runtime.

mod channel;
pub mod config;
pub mod connect;
mod connection;
mod consumer;
mod deadline;
mod delivery;
pub mod driver;
pub mod error;
mod event;
mod message;
mod opening;
mod options;
mod publisher;
mod reply;
mod state;

pub use amqp_proto as proto;
pub use channel::{Channel, Exchange, Queue};
pub use config::{Config, Settings};
pub use connect::{ConnectError, Target};
pub use connection::Connection;
pub use consumer::Consumer;
pub use delivery::{Delivery, Got};
pub use error::{
    CallError, CloseError, ConfirmError, ConsumerEnd, OpenError, PublishError, SendError, TryError,
    TryPublishError, Wait,
};
pub use event::{ChannelEvent, ChannelEvents, ConnectionEvent, ConnectionEvents};
pub use message::{DeliveryMode, Message, MessageProperties};
pub use opening::OpenChannel;
pub use options::{
    ConsumeOptions, ExchangeKind, ExchangeOptions, Overflow, PublisherOptions, QueueOptions,
    QueueType, StreamOffset,
};
pub use publisher::{Confirmation, Publisher};
pub use reply::Reply;
