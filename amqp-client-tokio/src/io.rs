use std::future::Future;
use std::io::{self, IoSlice};
use std::net::SocketAddr;
use std::pin::{Pin, pin};
use std::task::{Context, Poll, Waker};

use amqp_client_core::Settings;
use amqp_client_core::adapter::Runtime;
use amqp_client_core::adapter::connect_socket;
use amqp_client_core::adapter::{Timer, Transport};
use bytes::BytesMut;
use tokio::io::{AsyncRead, AsyncWrite};
use tokio::net::{TcpSocket, TcpStream, lookup_host};
use tokio::runtime::Handle;
use tokio::task::yield_now;
use tokio::time::{Instant, Sleep, sleep_until};
use tokio_util::io::poll_read_buf;

/// Tokio's sockets, time and tasks.
pub(crate) struct Tokio;

impl Runtime for Tokio {
    type Transport = Stream<TcpStream>;
    type Registration = ();
    type Timer = Clock;

    fn timer() -> Clock {
        Clock::new()
    }

    async fn resolve(host: &str, port: u16) -> io::Result<Vec<SocketAddr>> {
        Ok(lookup_host((host, port)).await?.collect())
    }

    async fn connect(addr: SocketAddr, settings: Settings) -> io::Result<(Stream<TcpStream>, ())> {
        let connect = |socket| TcpSocket::from_std_stream(socket).connect(addr);
        Ok((Stream(connect_socket(addr, &settings, connect).await?), ()))
    }

    fn spawn(task: impl Future<Output = ()> + Send + 'static) {
        tokio::spawn(task);
    }

    fn call(callback: Box<dyn FnOnce() + Send>) {
        match Handle::try_current() {
            Ok(runtime) => drop(runtime.spawn(async move { callback() })),
            // The runtime has shut down, or the connection is closed already and this thread has no runtime.
            Err(_) => callback(),
        }
    }

    /// Uses tokio's own `yield_now`: tokio then wakes the task only after it has checked sockets and timers. A task that wakes
    /// itself is polled dozens of times before tokio checks them.
    fn yield_now(waker: &Waker) {
        let yielding = pin!(yield_now());
        let _pending = yielding.poll(&mut Context::from_waker(waker));
    }
}

/// A tokio stream as a transport.
pub(crate) struct Stream<S>(pub(crate) S);

impl<S: AsyncRead + AsyncWrite + Unpin> Transport for Stream<S> {
    fn poll_read(&mut self, cx: &mut Context<'_>, input: &mut BytesMut) -> Poll<io::Result<usize>> {
        poll_read_buf(Pin::new(&mut self.0), cx, input)
    }

    fn poll_write(
        &mut self,
        cx: &mut Context<'_>,
        pieces: &[IoSlice<'_>],
    ) -> Poll<io::Result<usize>> {
        Pin::new(&mut self.0).poll_write_vectored(cx, pieces)
    }

    fn poll_flush(&mut self, cx: &mut Context<'_>) -> Poll<io::Result<()>> {
        Pin::new(&mut self.0).poll_flush(cx)
    }

    fn poll_close(&mut self, cx: &mut Context<'_>) -> Poll<io::Result<()>> {
        Pin::new(&mut self.0).poll_shutdown(cx)
    }
}

/// Tokio's clock, so that tokio's paused time applies to the connection as well.
pub(crate) struct Clock {
    sleep: Pin<Box<Sleep>>,
    /// When `sleep` fires. It is reset only when this changes.
    fires_at: Option<Instant>,
}

impl Clock {
    pub(crate) fn new() -> Self {
        Self { sleep: Box::pin(sleep_until(Instant::now())), fires_at: None }
    }
}

impl Timer for Clock {
    fn now(&self) -> std::time::Instant {
        Instant::now().into_std()
    }

    fn poll_until(&mut self, cx: &mut Context<'_>, at: std::time::Instant) -> Poll<()> {
        let at = Instant::from_std(at);
        if self.fires_at != Some(at) {
            self.fires_at = Some(at);
            self.sleep.as_mut().reset(at);
        }
        let fired = self.sleep.as_mut().poll(cx);
        if fired.is_ready() {
            self.fires_at = None;
        }
        fired
    }
}

#[cfg(test)]
mod tests {
    use std::net::TcpListener;

    use socket2::SockRef;

    use super::*;

    #[tokio::test]
    async fn a_socket_has_the_options_of_its_settings() -> io::Result<()> {
        let listener = TcpListener::bind("127.0.0.1:0")?;
        let settings = Settings::default().receive_buffer(Some(24 * 1024));
        let (Stream(stream), ()) = Tokio::connect(listener.local_addr()?, settings).await?;
        // Linux doubles the size.
        assert!([24 * 1024, 48 * 1024].contains(&SockRef::from(&stream).recv_buffer_size()?));
        assert!(stream.nodelay()?);
        Ok(())
    }
}
