use std::future::Future as _;
use std::io::{self, IoSlice};
use std::net::{SocketAddr, TcpStream};
use std::pin::Pin;
use std::task::{Context, Poll};
use std::time::Instant;

use amqp_client_core::Settings;
use amqp_client_core::adapter::{Filler, Timer, Transport, connect_socket, set_options};
use async_io::Async;
use bytes::BytesMut;
use futures_io::{AsyncRead, AsyncWrite};

/// Connects a socket, with its options.
pub(crate) async fn connect(addr: SocketAddr, settings: Settings) -> io::Result<Async<TcpStream>> {
    if settings.get_receive_buffer().is_some() {
        // `async-io` creates a socket and connects it in one step, and the buffer has to be set between. So a thread connects.
        return Async::new(smol::unblock(move || connect_socket(addr, &settings)).await?);
    }
    let stream = Async::<TcpStream>::connect(addr).await?;
    set_options(&stream, &settings)?;
    Ok(stream)
}

/// A stream with the traits of `futures-io`.
pub(crate) struct Stream<S> {
    inner: S,
    filler: Filler,
}

impl<S> Stream<S> {
    pub(crate) fn new(inner: S) -> Self {
        Self { inner, filler: Filler::default() }
    }
}

impl<S: AsyncRead + AsyncWrite + Unpin> Transport for Stream<S> {
    fn poll_read(&mut self, cx: &mut Context<'_>, input: &mut BytesMut) -> Poll<io::Result<usize>> {
        let Self { inner, filler } = self;
        filler.fill(input, |room| Pin::new(inner).poll_read(cx, room))
    }

    fn poll_write(
        &mut self,
        cx: &mut Context<'_>,
        pieces: &[IoSlice<'_>],
    ) -> Poll<io::Result<usize>> {
        Pin::new(&mut self.inner).poll_write_vectored(cx, pieces)
    }

    fn poll_flush(&mut self, cx: &mut Context<'_>) -> Poll<io::Result<()>> {
        Pin::new(&mut self.inner).poll_flush(cx)
    }

    fn poll_close(&mut self, cx: &mut Context<'_>) -> Poll<io::Result<()>> {
        Pin::new(&mut self.inner).poll_close(cx)
    }
}

/// The clock of `async-io`, which both runtimes share.
pub(crate) struct Clock {
    timer: async_io::Timer,
    /// When it fires; it is moved only when that changes.
    fires_at: Option<Instant>,
}

impl Clock {
    pub(crate) fn new() -> Self {
        Self { timer: async_io::Timer::never(), fires_at: None }
    }
}

impl Timer for Clock {
    fn now(&self) -> Instant {
        Instant::now()
    }

    fn poll_until(&mut self, cx: &mut Context<'_>, at: Instant) -> Poll<()> {
        if self.fires_at != Some(at) {
            self.fires_at = Some(at);
            self.timer.set_at(at);
        }
        let fired = Pin::new(&mut self.timer).poll(cx);
        if fired.is_ready() {
            self.fires_at = None;
        }
        fired.map(|_| ())
    }
}
