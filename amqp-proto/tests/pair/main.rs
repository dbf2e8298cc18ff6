//! A client and a server talk to each other in virtual time, over a stream that can be split anywhere.

#[path = "../harness/mod.rs"]
mod harness;

mod acks;
mod awaiting;
mod channels;
mod chunks;
mod content;
mod handshake;
mod illegal;
mod oversized;
mod returns;
mod shown;
mod splits;
mod timers;
