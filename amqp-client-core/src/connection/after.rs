use std::future::Future;
use std::pin::Pin;
use std::sync::Arc;
use std::task::{Context, Poll};
use std::time::Duration;

use amqp_proto::ConnectionError;

use super::Connection;
use crate::state::{Counts, DeadlineId, Shared, WaiterId};

impl Connection {
    /// Returns a future that resolves when `duration` has passed. The connection's driver measures the time, so the future works on
    /// each runtime, on threads, and in virtual time, and needs no other timer.
    ///
    /// The time begins now, not at the first poll. It passes also while the connection is lost and being recovered, and while it is
    /// not open yet. With [`Duration::MAX`], the future waits for the end of the connection.
    ///
    /// The precision is that of the runtime's timers, usually a millisecond. A connection that is driven by the program itself, as
    /// after `connect_over`, notices the time only while its driver is polled.
    ///
    /// ```no_run
    /// # use amqp_client_core as amqp_client_tokio;
    /// # use amqp_client_tokio::{Connection, Queue};
    /// use std::time::Duration;
    ///
    /// # async fn example(connection: Connection, queue: Queue) -> Result<(), Box<dyn std::error::Error>> {
    /// // Polls a queue until it has a message, or until the connection ends.
    /// let delivery = loop {
    ///     if let Some(got) = queue.get().await? {
    ///         break got;
    ///     }
    ///     connection.after(Duration::from_secs(1)).await?;
    /// };
    /// # Ok(())
    /// # }
    /// ```
    ///
    /// # Errors
    /// The future returns [`ConnectionError`] as soon as the connection closes for good, for any reason, or its driver is dropped:
    /// then nothing measures the time any more. So a loop that waits with `?` ends with its connection.
    ///
    /// # Cancel safety
    /// Dropping the future leaves nothing behind. It does not keep the connection open.
    pub fn after(&self, duration: Duration) -> After {
        let mut state = self.shared().lock();
        let deadline = state.deadlines.start(Some(duration), Counts::Always);
        state.wake_driver();
        drop(state);
        After { shared: self.shared().clone(), deadline, waiter: None }
    }
}

/// A future that resolves when some time has passed; see [`Connection::after`].
///
/// It is fused: once it is ready, each further poll returns the same.
///
/// ```no_run
/// # use amqp_client_core as amqp_client_tokio;
/// # use amqp_client_tokio::Connection;
/// use std::time::Duration;
///
/// # async fn example(connection: Connection) -> Result<(), Box<dyn std::error::Error>> {
/// let pause = connection.after(Duration::from_secs(5));
/// println!("this is part of the five seconds");
/// pause.await?;
/// # Ok(())
/// # }
/// ```
#[derive(Debug)]
#[must_use = "await the future to wait"]
pub struct After {
    shared: Arc<Shared>,
    deadline: Option<DeadlineId>,
    /// The entry among those that wait for the end of the connection.
    waiter: Option<WaiterId>,
}

impl After {
    /// Returns the time that is left: zero once it has passed, and [`Duration::MAX`] if there is no end.
    ///
    /// It is the time that was left when the connection's driver last ran, as it does whenever something arrives or is sent. Right
    /// after the connection was recovered, for example, that is now. On a connection on which nothing happens, it may be more than
    /// is really left.
    ///
    /// ```no_run
    /// # use amqp_client_core as amqp_client_tokio;
    /// # use amqp_client_tokio::{Connection, Publisher};
    /// use std::time::Duration;
    ///
    /// # async fn example(connection: Connection, publisher: Publisher) -> Result<(), Box<dyn std::error::Error>> {
    /// // Two steps that share five seconds.
    /// let deadline = connection.after(Duration::from_secs(5));
    /// publisher.publish("first", "step").await?.timeout(deadline.left()).await?;
    /// publisher.publish("second", "step").await?.timeout(deadline.left()).await?;
    /// # Ok(())
    /// # }
    /// ```
    #[must_use]
    pub fn left(&self) -> Duration {
        let state = self.shared.lock();
        self.deadline.map_or(Duration::MAX, |deadline| state.deadlines.left(deadline))
    }
}

impl Future for After {
    type Output = Result<(), ConnectionError>;

    fn poll(self: Pin<&mut Self>, cx: &mut Context<'_>) -> Poll<Self::Output> {
        let Self { shared, deadline, waiter } = self.get_mut();
        shared.poll(cx, |state, task| {
            // Time that has passed in full has passed, even if the connection ended since.
            if state.deadlines.expired(*deadline, task) {
                return Poll::Ready(Ok(()));
            }
            if let Err(error) = state.proto.check() {
                return Poll::Ready(Err(error));
            }
            state.watchers.register(waiter, task);
            Poll::Pending
        })
    }
}

impl Drop for After {
    fn drop(&mut self) {
        // Dropped after the lock is released: dropping a waker may run the user's code.
        let (_timer, _watcher);
        let mut state = self.shared.lock();
        _timer = state.deadlines.stop(self.deadline);
        _watcher = self.waiter.and_then(|waiter| state.watchers.remove(waiter));
    }
}
