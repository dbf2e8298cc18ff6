//! A client, its peer, the bytes between them, and virtual time: all in memory, without a runtime and without a socket.

#![allow(dead_code, reason = "each user needs a part of it")]

mod client;

pub(crate) use client::ClientRig;
