//! One channel: its requests, consumers, confirms and acknowledgements.

mod acks;
mod commands;
mod confirms;
mod consumers;
mod equals;
mod fingerprint;
mod held;
mod prepared;
mod publish;
mod receive;
mod requests;
mod returns;
mod state;
mod table;
mod transaction;
mod unusable;

pub use acks::Settlement;
pub use commands::Channel;
pub use prepared::Prepared;
pub use publish::Route;
pub(crate) use table::Channels;
