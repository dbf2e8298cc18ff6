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
//! In one seed of six, each transport is inside of a TLS session: the client's end is the loop and the TLS that users run, and the
//! broker's end is rustls. The wires cut records anywhere, and break amid them; sessions end without their transports, and
//! transports without their sessions. Then it is also checked that neither end of TLS keeps back what it could hand on, that
//! nothing is sent behind the end of a session or read after it, and that a client that closes in an orderly way ends its
//! session first.
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
