use std::io;
use std::pin::Pin;
use std::sync::MutexGuard;
use std::task::{Context, Poll};

use tokio::io::{AsyncRead, AsyncWrite, ReadBuf};

use super::Pipe;
use crate::server::State;

impl AsyncRead for Pipe {
    fn poll_read(
        self: Pin<&mut Self>,
        cx: &mut Context<'_>,
        buffer: &mut ReadBuf<'_>,
    ) -> Poll<io::Result<()>> {
        let mut state = self.shared.lock();
        match self.try_read(&mut state, buffer.initialize_unfilled()) {
            Some((count, makes_room)) => {
                buffer.advance(count);
                if makes_room {
                    self.shared.notify(state);
                }
                Poll::Ready(Ok(()))
            }
            None => park(state, cx),
        }
    }
}

impl AsyncWrite for Pipe {
    fn poll_write(
        mut self: Pin<&mut Self>,
        cx: &mut Context<'_>,
        bytes: &[u8],
    ) -> Poll<io::Result<usize>> {
        let shared = self.shared.clone();
        let mut state = shared.lock();
        match self.try_write(&mut state, bytes) {
            Some(result) => {
                shared.notify(state);
                Poll::Ready(result)
            }
            None => park(state, cx),
        }
    }

    fn poll_flush(self: Pin<&mut Self>, _: &mut Context<'_>) -> Poll<io::Result<()>> {
        Poll::Ready(Ok(()))
    }

    fn poll_shutdown(self: Pin<&mut Self>, _: &mut Context<'_>) -> Poll<io::Result<()>> {
        self.close();
        Poll::Ready(Ok(()))
    }
}

/// Waits for a change.
fn park<T>(mut state: MutexGuard<'_, State>, cx: &Context<'_>) -> Poll<T> {
    if !state.wakers.iter().any(|waker| waker.will_wake(cx.waker())) {
        state.wakers.push(cx.waker().clone());
    }
    Poll::Pending
}
