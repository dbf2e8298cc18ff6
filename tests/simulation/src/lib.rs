//! Deterministic simulation of clients, a broker, and a network that fails, in one thread and in virtual time.
//!
//! The clients are the real handles and the real protocol. The broker is the in-memory broker with nondeterminism. Only
//! the transport and the clock are simulated. A seed generates a [`Script`]: what clients do, and which faults occur when.
//! [`run`] runs it and checks the invariants:
//!
//! - no confirmed message is lost; nothing is delivered that was not published, or damaged, or out of order;
//! - only the intended delivery is acknowledged, and only once;
//! - every call ends, with its own reply, or with an error that has a cause;
//! - neither end breaks the protocol; no timer is missed; pending output is bounded; nothing is left over.
//!
//! In one seed of six, each transport is inside a TLS session: the client's end is the loop and the TLS that users run, and the
//! broker's end is rustls. The wires cut records anywhere, and break in the middle of them; sessions end without their
//! transports, and transports without their sessions. Further checks apply then: neither end of TLS keeps back bytes that it
//! could pass on, nothing is sent after the end of a session or read after it, and a client that closes in an orderly way ends
//! its session first.
//!
//! Three kinds of scripts run so: [stories](Script), [explorations](Exploration) of the whole API, and the [patterns](Patterns) of
//! `amqp-client-patterns`.
//!
//! The same seed always leads to the same run. [`shrink`] finds a smaller script that fails as well.

mod client;
mod executor;
mod explore;
mod ledger;
mod network;
mod pace;
mod patterns;
mod script;
mod shrink;
mod stage;
mod wire;
mod witness;
mod workload;
mod world;

pub use explore::commands::Exploration;
pub use explore::{Counts, Explored, explore, shrink as shrink_exploration};
pub use ledger::Totals;
pub use patterns::{
    PatternCounts, Patterns, PatternsReport, run_patterns, shrink as shrink_patterns,
};
pub use script::Script;
pub use shrink::shrink;
pub use world::{Report, run};
