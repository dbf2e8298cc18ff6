//! The loop that moves octets and time between a connection and its transport.

use std::future::Future;
use std::io::{self, IoSlice};
use std::pin::Pin;
use std::task::{Context, Poll, ready};

use amqp_client_core::driver::{Driver, Turn};
use bytes::Buf as _;
use tokio::io::{AsyncRead, AsyncWrite};
use tokio::time::{Instant, Sleep, sleep_until};
use tokio_util::io::poll_read_buf;

/// How many pieces are handed to one vectored write. Kernels take up to 1024; more than a few large bodies at once gain
/// nothing.
const SLICES: usize = 64;

/// How many reads and writes happen in one poll before other tasks get their turn.
const ROUNDS: usize = 16;

/// Drives a connection over `stream` until it is over. One task does both directions: an acknowledgement that answers a
/// delivery needs nobody else to run.
pub(crate) struct Drive<S> {
    driver: Driver,
    stream: S,
    timer: Pin<Box<Sleep>>,
    /// When the timer fires; it is moved only when that changes.
    fires_at: Option<Instant>,
    /// Why nothing can be written any more. What the peer said before is still read: it may be the reason.
    write_error: Option<io::Error>,
}

impl<S: AsyncRead + AsyncWrite + Unpin> Drive<S> {
    pub(crate) fn new(driver: Driver, stream: S) -> Self {
        let timer = Box::pin(sleep_until(Instant::now()));
        Self { driver, stream, timer, fires_at: None, write_error: None }
    }

    /// Writes what there is. Ready if all of it, or the connection, is gone.
    fn poll_write(&mut self, cx: &mut Context<'_>) -> Poll<io::Result<()>> {
        while self.driver.output().has_remaining() {
            let output = self.driver.output();
            let written = if self.stream.is_write_vectored() {
                let mut slices = [IoSlice::new(&[]); SLICES];
                let filled = output.chunks_vectored(&mut slices);
                let slices = slices.get(..filled).unwrap_or_default();
                ready!(Pin::new(&mut self.stream).poll_write_vectored(cx, slices))?
            } else {
                ready!(Pin::new(&mut self.stream).poll_write(cx, output.chunk()))?
            };
            if written == 0 {
                return Poll::Ready(Err(io::ErrorKind::WriteZero.into()));
            }
            self.driver.output().advance(written);
        }
        Pin::new(&mut self.stream).poll_flush(cx)
    }

    /// Sets the timer, and says whether it has fired.
    fn poll_timer(&mut self, cx: &mut Context<'_>, turn: Turn) -> bool {
        let Some(at) = turn.wake_at.map(Instant::from_std) else {
            return false;
        };
        if self.fires_at != Some(at) {
            self.fires_at = Some(at);
            self.timer.as_mut().reset(at);
        }
        let fired = self.timer.as_mut().poll(cx).is_ready();
        if fired {
            self.fires_at = None;
        }
        fired
    }

    /// One round of everything. Ready with whether there may be more to do.
    fn round(&mut self, cx: &mut Context<'_>) -> Poll<bool> {
        let turn = self.driver.turn(now(), cx.waker());
        let mut progress = false;
        if turn.write && self.write_error.is_none() {
            match self.poll_write(cx) {
                Poll::Ready(Ok(())) => progress = true,
                Poll::Ready(Err(error)) => self.write_error = Some(error),
                Poll::Pending => {}
            }
        }
        if turn.done {
            // The connection is over either way.
            let _closed = ready!(Pin::new(&mut self.stream).poll_shutdown(cx));
            return Poll::Ready(false);
        }
        progress |= turn.read && self.read(cx);
        if progress || self.poll_timer(cx, turn) {
            return Poll::Ready(true);
        }
        // Nothing came that would explain it better.
        if let Some(error) = self.write_error.take() {
            self.driver.transport_error(now(), &error);
            return Poll::Ready(true);
        }
        Poll::Pending
    }

    /// Reads what there is; says whether that was anything.
    fn read(&mut self, cx: &mut Context<'_>) -> bool {
        match poll_read_buf(Pin::new(&mut self.stream), cx, self.driver.input()) {
            Poll::Ready(Ok(0)) => match self.write_error.take() {
                Some(error) => self.driver.transport_error(now(), &error),
                None => self.driver.eof(now()),
            },
            Poll::Ready(Ok(_)) => self.driver.received(now()),
            Poll::Ready(Err(error)) => self.driver.transport_error(now(), &error),
            Poll::Pending => return false,
        }
        true
    }
}

impl<S: AsyncRead + AsyncWrite + Unpin> Future for Drive<S> {
    type Output = ();

    fn poll(mut self: Pin<&mut Self>, cx: &mut Context<'_>) -> Poll<()> {
        for _ in 0..ROUNDS {
            if !ready!(self.round(cx)) {
                return Poll::Ready(());
            }
        }
        cx.waker().wake_by_ref();
        Poll::Pending
    }
}

/// Tokio's clock, so that its paused time is this connection's time too.
pub(crate) fn now() -> std::time::Instant {
    Instant::now().into_std()
}
