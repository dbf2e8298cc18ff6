//! Deterministic simulation of clients, a broker, and a network that fails, in one thread and in virtual time.
//!
//! The clients are the real handles and the real protocol; the broker is the one in memory, with whims; only the transport
//! and the clock are made up. A seed makes a [`Script`]: what clients do, and what goes wrong, when. [`run`] runs it and
//! checks what always has to hold:
//!
//! - no message is lost that was confirmed; nothing is delivered that was not published, or damaged, or out of order;
//! - no delivery is acknowledged but the one that was meant, and none again that was;
//! - every call ends, with its own answer, or with an error that something explains;
//! - neither end breaks the protocol; no timer is missed; what waits for a transport is bounded; nothing is left over.
//!
//! The same seed always leads to the same run. [`shrink`] finds a smaller script that fails as well.

mod client;
mod executor;
mod explore;
mod ledger;
mod network;
mod pace;
mod script;
mod shrink;
mod stage;
mod wire;
mod workload;
mod world;

pub use explore::commands::Exploration;
pub use explore::{Counts, Explored, explore, shrink as shrink_exploration};
pub use ledger::Totals;
pub use script::Script;
pub use shrink::shrink;
pub use world::{Report, run};
