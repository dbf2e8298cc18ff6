use std::future::Future as _;
use std::io::{self, IoSlice};
use std::net::{SocketAddr, TcpStream};
use std::pin::Pin;
use std::task::{Context, Poll};
use std::time::Instant;

use amqp_client_core::Settings;
use amqp_client_core::adapter::{Filler, Timer, Transport, connect_socket};
use async_io::Async;
use bytes::BytesMut;
use futures_io::{AsyncRead, AsyncWrite};
use socket2::SockRef;

/// Connects a socket with the options of the settings. No thread waits for it.
pub(crate) async fn connect(addr: SocketAddr, settings: Settings) -> io::Result<Async<TcpStream>> {
    connect_socket(addr, &settings, |socket| connect_nonblocking(socket, addr)).await
}

/// Connects a socket that does not block.
async fn connect_nonblocking(socket: TcpStream, addr: SocketAddr) -> io::Result<Async<TcpStream>> {
    if let Err(error) = SockRef::from(&socket).connect(&addr.into()) {
        if !is_in_progress(&error) {
            return Err(error);
        }
    }
    let stream = Async::new_nonblocking(socket)?;
    // A socket is writable once it is connected, and also once it has failed to connect.
    stream.writable().await?;
    match stream.get_ref().take_error()? {
        Some(error) => Err(error),
        None => Ok(stream),
    }
}

/// Returns whether a socket has only begun to connect.
fn is_in_progress(error: &io::Error) -> bool {
    #[cfg(unix)]
    let in_progress =
        rustix::io::Errno::from_io_error(error) == Some(rustix::io::Errno::INPROGRESS);
    #[cfg(not(unix))]
    let in_progress = error.kind() == io::ErrorKind::WouldBlock;
    in_progress
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

#[cfg(test)]
mod tests {
    use std::net::TcpListener;

    use amqp_client_core::adapter::Runtime;

    use super::*;

    /// A receive buffer that is smaller than any default.
    const SMALL: usize = 24 * 1024;

    async fn connected<R: Runtime>() -> io::Result<R::Transport> {
        let listener = TcpListener::bind("127.0.0.1:0")?;
        let settings = Settings::default().receive_buffer(Some(SMALL));
        let (stream, _) = R::connect(listener.local_addr()?, settings).await?;
        Ok(stream)
    }

    #[test]
    fn a_socket_has_the_options_of_its_settings() -> io::Result<()> {
        let stream = smol::block_on(connected::<crate::io::Smol>())?;
        let socket = SockRef::from(&stream.inner);
        // Linux doubles the size.
        assert!([SMALL, 2 * SMALL].contains(&socket.recv_buffer_size()?));
        assert!(socket.tcp_nodelay()?);
        Ok(())
    }

    #[test]
    #[cfg(feature = "async-std")]
    fn a_socket_of_async_std_has_the_options_of_its_settings() -> io::Result<()> {
        let stream = ::async_std::task::block_on(connected::<crate::async_std::AsyncStd>())?;
        // Its socket does not show the receive buffer. The same function sets it.
        assert!(stream.inner.nodelay()?);
        Ok(())
    }
}
