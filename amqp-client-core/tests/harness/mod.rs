//! The harness of tests in memory: a client, its peer, the bytes between them, and virtual time. No runtime, no socket.
//!
//! The harness has a face for each layer of the client:
//!
//! | Face | What is under test | Where |
//! |---|---|---|
//! | protocol pair | a `Connection`, against another | `amqp-proto/tests/harness` |
//! | session rig | a `Session`, over several transports, against a [`Peer`] | `tests/tests/session/rig` |
//! | client rig | the handles and their `Driver`, against a [`Peer`] | [`ClientRig`] |
//! | client's task | the handles and their `Drive`, over a [`Wire`] and by a [`Clock`] | here |
//!
//! A [`Peer`] is the far end of a transport. A [`Server`] is a peer that accepts everything and follows the
//! commands of the test.
//! `tests/tests/harness` adds the broker in memory, and TLS.
//!
//! Other packages include this folder by its path. As a crate, it would depend on the client, whose own tests could not use it
//! without a cycle, and the tests of the published package would not compile.
//!
//! Three tests move bytes by themselves. In `hostile`, the test is the peer: it writes byte by byte what no peer would, and
//! counts the client's memory. The fuzz targets are a part of `amqp-proto`, which cannot use what depends on it. The simulation
//! decides by a seed what happens to each byte: with another order of steps, known seeds would mean something else.

#![allow(dead_code, unused_imports, reason = "each user needs a part of it")]

mod client;
mod server;
mod wire;

use std::future::Future;
use std::pin::pin;
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
pub(crate) fn poll_once<T>(future: impl Future<Output = T>) -> Option<T> {
    match pin!(future).poll(&mut Context::from_waker(Waker::noop())) {
        Poll::Ready(value) => Some(value),
        Poll::Pending => None,
    }
}
