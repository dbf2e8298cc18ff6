use std::fmt;
use std::future::{Future, poll_fn};
use std::panic::{AssertUnwindSafe, catch_unwind, resume_unwind};
use std::pin::pin;
use std::sync::Arc;

use crate::panics::contained;

/// The surroundings of the code that handles a delivery, for example the current context of a tracer. The messages that a handler
/// publishes in the scope then belong to the trace of the delivery.
pub trait Scope: Send + Sync {
    /// Sets up the surroundings, calls `run` once, and restores the earlier surroundings. If the handler is a future, each poll is one
    /// call of `enter`, so `enter` is called many times, from any thread.
    fn enter(&self, run: &mut dyn FnMut());
}

/// The surroundings of the code that handles a delivery, from [`Delivery::scope`](crate::Delivery::scope).
///
/// [`for_each_concurrent`](crate::Consumer::for_each_concurrent), callbacks on threads, and workers run their handlers in this scope.
/// A program with its own loop uses the scope itself:
///
/// ```no_run
/// # use amqp_client_core as amqp_client_tokio;
/// # use amqp_client_tokio::{Consumer, Delivery};
/// # async fn handle(_: Delivery) {}
/// # fn spawn(_: impl Future) {}
/// # async fn example(mut consumer: Consumer) -> Result<(), Box<dyn std::error::Error>> {
/// while let Some(delivery) = consumer.next().await {
///     let delivery = delivery?;
///     let scope = delivery.scope();
///     spawn(scope.wrap(handle(delivery)));
/// }
/// # Ok(())
/// # }
/// ```
#[derive(Clone, Default)]
pub struct HandlerScope(Option<Arc<dyn Scope>>);

impl HandlerScope {
    pub(crate) const fn new(scope: Option<Arc<dyn Scope>>) -> Self {
        Self(scope)
    }

    /// Runs a function in the scope.
    #[inline]
    pub fn run<T>(&self, run: impl FnOnce() -> T) -> T {
        match &self.0 {
            None => run(),
            Some(scope) => run_in(&**scope, run),
        }
    }

    /// Returns a future that is polled in the scope.
    ///
    /// # Cancel safety
    /// The same as that of `future`.
    pub async fn wrap<F: Future>(self, future: F) -> F::Output {
        let mut future = pin!(future);
        poll_fn(move |cx| self.run(|| future.as_mut().poll(cx))).await
    }
}

#[cold]
fn run_in<T>(scope: &dyn Scope, run: impl FnOnce() -> T) -> T {
    let (mut run, mut result) = (Some(run), None);
    // A panic of the scope is contained, and a panic of the handler is not.
    contained(|| {
        scope.enter(&mut || {
            if let Some(run) = run.take() {
                result = Some(catch_unwind(AssertUnwindSafe(run)));
            }
        });
    });
    match (result, run) {
        (Some(Ok(result)), _) => result,
        (Some(Err(panic)), _) => resume_unwind(panic),
        // The scope did not call `run`, or has panicked before. The delivery is handled all the same.
        (None, Some(run)) => run(),
        (None, None) => unreachable!("the function is taken only to be run"),
    }
}

/// For code that handles several deliveries at once, in surroundings of its own.
impl From<Arc<dyn Scope>> for HandlerScope {
    fn from(scope: Arc<dyn Scope>) -> Self {
        Self(Some(scope))
    }
}

impl fmt::Debug for HandlerScope {
    fn fmt(&self, f: &mut fmt::Formatter<'_>) -> fmt::Result {
        f.debug_tuple("HandlerScope").field(&self.0.is_some()).finish()
    }
}
