//! Round trips without protocol logic: the same bytes go out each time, and a known number of bytes comes back.
//!
//! A client on the same kind of transport cannot be faster. One function makes the round trips; the transports differ.

use std::future::Future;
use std::io;
use std::net::TcpStream;
use std::os::fd::AsRawFd as _;
use std::pin::pin;
use std::task::{Context, Poll, Waker};
use std::time::Instant;

use nix::sys::socket::{MsgFlags, recv, send};

use crate::job::Latencies;

/// The size of a transport's read buffer.
pub const READ: usize = 64 * 1024;

/// The bytes of one request, and the number of bytes of its reply.
pub struct Exchange {
    pub request: Vec<u8>,
    pub reply: usize,
}

/// A way to send a request and to wait for its reply.
pub trait Transport {
    fn round_trip(&mut self) -> impl Future<Output = io::Result<()>>;
}

/// Makes `count` round trips, one after the other, and measures each.
pub async fn round_trips(
    count: u64,
    transport: &mut impl Transport,
    latencies: &mut Latencies,
) -> io::Result<()> {
    for _ in 0..count {
        let start = Instant::now();
        transport.round_trip().await?;
        latencies.since(start);
    }
    Ok(())
}

/// Returns the output of a future whose transport blocks the thread, so that one poll completes it.
pub fn blocking<T>(future: impl Future<Output = T>) -> T {
    match pin!(future).poll(&mut Context::from_waker(Waker::noop())) {
        Poll::Ready(output) => output,
        Poll::Pending => unreachable!("a blocking transport is never pending"),
    }
}

/// The thread waits in `recv`.
pub struct Recv<'a> {
    stream: &'a TcpStream,
    exchange: &'a Exchange,
    buffer: Vec<u8>,
}

impl<'a> Recv<'a> {
    #[must_use]
    pub fn new(stream: &'a TcpStream, exchange: &'a Exchange) -> Self {
        Self { stream, exchange, buffer: vec![0; READ] }
    }
}

impl Transport for Recv<'_> {
    async fn round_trip(&mut self) -> io::Result<()> {
        send_all(self.stream, &self.exchange.request)?;
        let mut missing = self.exchange.reply;
        while missing > 0 {
            missing -= read(self.stream, &mut self.buffer)?;
        }
        Ok(())
    }
}

/// Sends all bytes. The socket is blocking, or has room for them.
pub fn send_all(stream: &TcpStream, mut bytes: &[u8]) -> io::Result<()> {
    while !bytes.is_empty() {
        let sent = send(stream.as_raw_fd(), bytes, MsgFlags::MSG_NOSIGNAL)?;
        bytes = &bytes[sent..];
    }
    Ok(())
}

/// Reads at least one byte.
pub fn read(stream: &TcpStream, buffer: &mut [u8]) -> io::Result<usize> {
    match recv(stream.as_raw_fd(), buffer, MsgFlags::empty())? {
        0 => Err(io::ErrorKind::UnexpectedEof.into()),
        count => Ok(count),
    }
}
