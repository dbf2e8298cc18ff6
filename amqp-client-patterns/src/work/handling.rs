//! Futures of handlers, whose panics are caught.

use std::any::Any;
use std::future::Future;
use std::panic::AssertUnwindSafe;
use std::pin::Pin;
use std::task::{Context, Poll};

use futures_util::FutureExt as _;
use futures_util::future::CatchUnwind;

/// The payload of a panic.
pub(super) type Panic = Box<dyn Any + Send>;

/// A place for the future of a handler. It is used again if the handler returns at its first poll, which saves an allocation for
/// each message.
pub(super) struct Handling<F>(Pin<Box<Option<CatchUnwind<AssertUnwindSafe<F>>>>>);

impl<F: Future> Handling<F> {
    pub(super) fn begin(&mut self, handler: F) {
        self.0.set(Some(AssertUnwindSafe(handler).catch_unwind()));
    }
}

impl<F: Future> Default for Handling<F> {
    fn default() -> Self {
        Self(Box::pin(None))
    }
}

impl<F: Future> Future for Handling<F> {
    type Output = Result<F::Output, Panic>;

    fn poll(mut self: Pin<&mut Self>, cx: &mut Context<'_>) -> Poll<Self::Output> {
        let Some(handler) = self.0.as_mut().as_pin_mut() else { return Poll::Pending };
        let Poll::Ready(outcome) = handler.poll(cx) else { return Poll::Pending };
        // Dropped at once: it may hold what others wait for.
        self.0.set(None);
        Poll::Ready(outcome)
    }
}
