//! Futures of handlers, whose panics are caught.

use std::any::Any;
use std::future::Future;
use std::panic::{AssertUnwindSafe, catch_unwind};
use std::pin::Pin;
use std::task::{Context, Poll};

use amqp_client_core::intercept::HandlerScope;

use super::Routes;
use crate::handler::Verdict;

/// The payload of a panic.
pub(super) type Panic = Box<dyn Any + Send>;

/// A place for a running handler. It is used again if the handler returns at its first poll, which saves an allocation for each
/// message.
pub(super) struct Handling<S, R: Routes<S>> {
    place: Pin<Box<Option<R::Running>>>,
    scope: HandlerScope,
}

impl<S, R: Routes<S>> Handling<S, R> {
    /// Polls a handler for the first time, in the scope of the caller. Panics as the handler does.
    #[inline]
    pub(super) fn begin(&mut self, handler: R::Running, cx: &mut Context<'_>) -> Poll<Verdict> {
        self.place.set(Some(handler));
        self.go_on(cx)
    }

    /// Keeps the scope in which the handler is polled from now on.
    pub(super) fn within(self, scope: HandlerScope) -> Self {
        Self { scope, ..self }
    }

    /// Drops the handler.
    pub(super) fn end(&mut self) {
        self.place.set(None);
    }

    #[inline]
    fn go_on(&mut self, cx: &mut Context<'_>) -> Poll<Verdict> {
        let Some(handler) = self.place.as_mut().as_pin_mut() else { return Poll::Pending };
        let polled = R::poll(handler, cx);
        if polled.is_ready() {
            // Dropped at once: it may hold what others wait for.
            self.end();
        }
        polled
    }
}

impl<S, R: Routes<S>> Default for Handling<S, R> {
    fn default() -> Self {
        Self { place: Box::pin(None), scope: HandlerScope::default() }
    }
}

impl<S, R: Routes<S>> Future for Handling<S, R> {
    type Output = Result<Verdict, Panic>;

    fn poll(mut self: Pin<&mut Self>, cx: &mut Context<'_>) -> Poll<Self::Output> {
        let scope = self.scope.clone();
        let polled = catch_unwind(AssertUnwindSafe(|| scope.run(|| self.go_on(cx))));
        polled.map_or_else(
            |panic| {
                self.end();
                Poll::Ready(Err(panic))
            },
            |polled| polled.map(Ok),
        )
    }
}
