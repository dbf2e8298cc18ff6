//! Waiting for futures by blocking the thread (feature `blocking`): the basis of an adapter for threads.
//!
//! A waiting thread does not have to sleep. [`Wait`] lets it run the loop of the connection that it used last, an [`IoLoop`],
//! until its future is ready. So the reply to its request arrives without two switches to another thread.

mod alarm;
mod deliveries;
mod waiter;

pub use alarm::{Alarm, alarmed};
pub use deliveries::{Deliveries, NextError};
pub use waiter::{IoLoop, Waiter, used};

use std::future::Future;
use std::pin::{Pin, pin};
use std::task::{Context, Poll, Waker};
use std::time::{Duration, Instant};

use alarm::{earlier, is_past};
use waiter::Watch;

/// Waiting for futures by blocking the thread.
///
/// ```no_run
/// # use amqp_client_core::{Channel, QueueOptions, adapter as amqp_client_blocking};
/// use std::time::Duration;
///
/// use amqp_client_blocking::Wait as _;
///
/// # fn example(channel: &Channel) -> Result<(), Box<dyn std::error::Error>> {
/// let queue = channel.queue_declare("jobs", QueueOptions::new()).wait()?;
/// match queue.purge().wait_timeout(Duration::from_secs(5)) {
///     Some(purged) => println!("{} messages purged", purged?),
///     None => println!("no reply within 5 seconds"),
/// }
/// # Ok(())
/// # }
/// ```
pub trait Wait: Future + Sized {
    /// Blocks until there is a result.
    fn wait(self) -> Self::Output {
        let mut future = pin!(self);
        // Many futures are ready at once, and then nothing has to be woken.
        let mut context = Context::from_waker(Waker::noop());
        if let (Poll::Ready(output), _) = alarmed(|| future.as_mut().poll(&mut context)) {
            return output;
        }
        loop {
            // Without a deadline, it returns only with a result.
            if let Some(output) = poll_until(future.as_mut(), None) {
                return output;
            }
        }
    }

    /// Blocks until there is a result, for at most `timeout`. Returns `None` at the timeout: the future is dropped, with the
    /// consequences that its documentation describes.
    fn wait_timeout(self, timeout: Duration) -> Option<Self::Output> {
        poll_until(pin!(self), Instant::now().checked_add(timeout))
    }
}

impl<F: Future> Wait for F {}

/// Polls a future until it is ready, or until that time.
fn poll_until<F: Future>(mut future: Pin<&mut F>, until: Option<Instant>) -> Option<F::Output> {
    let mut watch = Watch::begin();
    let waker = Waker::from(watch.waiter().clone());
    let mut context = Context::from_waker(&waker);
    loop {
        watch.waiter().forget();
        // Polling may run code that blocks, such as a handler of deliveries. Meanwhile, no loop may be left to this thread.
        watch.leave();
        let (polled, alarm) = alarmed(|| future.as_mut().poll(&mut context));
        if let Poll::Ready(output) = polled {
            return Some(output);
        }
        let wake_at = earlier(until, alarm);
        while !watch.waiter().is_woken() && !is_past(wake_at) {
            watch.pass_time(wake_at);
        }
        if !watch.waiter().is_woken() && is_past(until) {
            return None;
        }
    }
}

#[cfg(test)]
mod tests;
