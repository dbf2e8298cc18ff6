//! Hostile and broken servers, in virtual time: what they send, what the client says to that, and what it costs in memory.
//!
//! Each module is a table. The client is a `Driver` that is fed by hand: no socket, no runtime, no waiting. Checked is what
//! an application holds: everything that waits must be woken and end, for the right reason. Memory is counted: its peak
//! follows what has come, not what was announced.

mod endings;
mod floods;
mod handshake;
mod messages;
mod scene;
mod silence;
mod violations;
mod wire;
