//! AMQP 0-9-1 as pure state machines.
#![cfg_attr(
    not(test),
    warn(
        clippy::unwrap_used,
        clippy::expect_used,
        clippy::panic,
        clippy::unreachable,
        clippy::indexing_slicing,
        clippy::cast_possible_truncation
    )
)]

mod body;
mod channel;
pub mod config;
mod connection;
mod content;
mod delivery;
pub mod error;
mod event;
pub mod frame;
mod ids;
mod link;
pub mod method;
mod properties;
mod reply_code;
pub mod sasl;
mod transmit;
pub mod uri;
pub mod wire;

pub use body::Body;
pub use channel::{Channel, Route};
pub use config::{ClientConfig, Limits, ServerConfig};
pub use connection::Connection;
pub use delivery::{Delivery, GetReply, Published, Reply, Returned, Unusable};
pub use error::{
    ChannelError, Close, CommandError, ConnectionError, Gate, Initiator, LoginError, Misuse,
    OpenChannelError, PublishError, Violation, WrongProtocol,
};
pub use event::{ChannelEvent, Event, Negotiated, ServerEvent, TimerReason};
pub use ids::{ChannelId, ConsumerId, DeliveryTag, PublishSeq, RequestId};
pub use properties::{EncodeProperties, Properties, RawProperties};
pub use reply_code::ReplyCode;
pub use sasl::{Exchange, Mechanism, SaslError};
pub use transmit::Transmit;
pub use wire::{
    Decimal, DecodeError, DecodeErrorKind, FieldArray, FieldError, FieldTable, LongStr, Secret,
    ShortStr, Timestamp, TooLong, Value,
};

use config::FRAME_MAX_CAP;
use frame::FRAME_MIN_SIZE;
