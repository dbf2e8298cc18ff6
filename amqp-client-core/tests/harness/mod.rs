//! The harness of tests in memory: a client, its peer, the bytes between them, and virtual time. No runtime, no socket.
//!
//! [`ClientRig`] has the handles and the driver of a client. At the other end of its transport is a [`Peer`]: a [`Server`] accepts
//! everything and does what the test tells it to do. `tests/tests/harness` adds the broker in memory,
//! and `tests/tests/session/rig` is for sessions with either of the two, over several transports.
//!
//! Other packages include this folder by its path. As a crate, it would depend on the client, whose own tests could not use it
//! without a cycle.

#![allow(dead_code, unused_imports, reason = "each user needs a part of it")]

mod client;
mod server;
mod wire;

use std::future::Future;
use std::pin::Pin;
use std::task::{Context, Poll, Waker};
use std::time::Instant;

use amqp_client_core::proto::Transmit;
use bytes::BytesMut;
pub(crate) use client::ClientRig;
pub(crate) use server::{Server, consent};
pub(crate) use wire::{Clock, Wire, Wires};

/// The far end of a client's transport.
pub(crate) trait Peer {
    /// The client has another transport. Nothing more comes over the one before.
    fn connect(&mut self, now: Instant);

    /// Processes bytes from the client, and leaves an incomplete frame in `input`.
    fn handle_input(&mut self, now: Instant, input: &mut BytesMut);

    /// Replies to the input, and handles due timers.
    fn reply(&mut self, now: Instant);

    /// Returns bytes to write to the client.
    fn poll_transmit(&mut self, now: Instant) -> Option<&mut Transmit>;

    /// The transport has ended.
    fn handle_eof(&mut self, now: Instant);
}

/// Polls a future once, without waking its task later. Returns its result, if it is ready.
pub(crate) fn poll_once<T>(future: Pin<&mut impl Future<Output = T>>) -> Option<T> {
    match future.poll(&mut Context::from_waker(Waker::noop())) {
        Poll::Ready(value) => Some(value),
        Poll::Pending => None,
    }
}
