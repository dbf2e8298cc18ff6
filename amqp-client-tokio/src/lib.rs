//! An AMQP 0-9-1 client for tokio.

mod drive;
mod open;

pub use amqp_client_core::*;
pub use open::Connection;
