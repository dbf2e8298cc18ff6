//! Hostile and broken servers, in virtual time: what they send, how the client reacts, and how much memory that takes.
//!
//! Each module is a table. The client is a `Driver` that is fed by hand: no socket, no runtime, no waiting. Tests check what an
//! application sees: everything that waits must be woken and end, with the right reason. They measure memory: its peak follows
//! the bytes that arrived, not the announced sizes.

#[path = "../harness/mod.rs"]
mod harness;

mod endings;
mod floods;
mod handshake;
mod messages;
mod scene;
mod silence;
mod violations;
mod wire;
