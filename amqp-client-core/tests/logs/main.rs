//! The lines of the log: what a sink gets, when, and what a sink may do.

#![cfg(feature = "log")]

#[path = "../harness/mod.rs"]
mod harness;

mod channels;
mod connections;
mod consumers;
mod messages;
mod page;
mod recovery;
mod scene;
mod sinks;
