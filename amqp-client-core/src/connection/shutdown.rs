use std::future::poll_fn;
use std::task::Poll;
use std::time::Duration;

use amqp_proto::{ConnectionError, ReplyCode};

use crate::connection::Connection;
use crate::state::Deadline;
use crate::state::{Counts, On, State, Waiting};

/// The work that was unfinished when a connection was shut down.
///
/// ```no_run
/// # use amqp_client_core as amqp_client_tokio;
/// # use amqp_client_tokio::Connection;
/// use std::time::Duration;
///
/// # async fn example(connection: Connection) -> Result<(), Box<dyn std::error::Error>> {
/// let leftovers = connection.shutdown(Duration::from_secs(10)).await?;
/// println!("{leftovers:?}");
/// # Ok(())
/// # }
/// ```
#[derive(Debug, Clone, Copy, PartialEq, Eq, Default)]
#[non_exhaustive]
pub struct Leftovers {
    /// Number of deliveries that consumers had not taken: they were requeued, or lost if they need no acknowledgement.
    pub untaken: usize,
    /// Number of deliveries that consumers had taken and that were not settled within the grace period: they were requeued.
    pub unsettled: usize,
    /// Number of publishes that were not confirmed within the grace period.
    pub unconfirmed: usize,
}

impl Leftovers {
    /// Returns whether all deliveries that were taken are settled, and all publishes are confirmed.
    #[must_use]
    pub const fn is_nothing(&self) -> bool {
        self.unsettled == 0 && self.unconfirmed == 0
    }
}

impl Connection {
    /// Shuts the connection down in an orderly way. Stops the consumers, requeues the deliveries that they have not taken, waits up
    /// to `grace` for deliveries to be settled and publishes to be confirmed, sends everything that is queued, and closes.
    ///
    /// `grace` includes the time that a slow link needs. Everything that is queued after that is written before the connection
    /// closes, however long it takes, unless the transport accepts nothing for the
    /// [`close_timeout`](amqp_proto::ClientConfig::close_timeout).
    ///
    /// Handlers finish the deliveries that they have. Consumers end as if they had been cancelled. A [`Consumer`](crate::Consumer)
    /// takes up to half a MiB of arrived deliveries at a time. It still returns those that it has already taken, and `shutdown`
    /// waits for them, too. If you drop the `Consumer`, they are requeued.
    ///
    /// New publishes are still possible, and `shutdown` waits for them as well. If the broker has not replied to the start of a
    /// consumer, `shutdown` waits for that reply even after `grace`, for up to the `close_timeout`: the consumer cannot be stopped
    /// before.
    ///
    /// ```no_run
    /// # use std::time::Duration;
    /// # async fn example(connection: amqp_client_core::Connection) -> Result<(), Box<dyn std::error::Error>> {
    /// let left = connection.shutdown(Duration::from_secs(10)).await?;
    /// assert!(left.is_nothing());
    /// # Ok(())
    /// # }
    /// ```
    ///
    /// # Errors
    /// [`ConnectionError`]: the reason why the connection ended, if it is another.
    ///
    /// # Cancel safety
    /// Once polled, consumers are stopped. If the future is dropped while it waits for these, the connection stays open.
    pub async fn shutdown(&self, grace: Duration) -> Result<Leftovers, ConnectionError> {
        let mut untaken = self.shared().lock().stop_consumers();
        self.wait_until(grace, |state| {
            // More consumers may have been started meanwhile.
            untaken += state.stop_consumers();
            state.in_flight() == (0, 0)
        })
        .await;
        // A consumer can be cancelled only after the reply to its start. Until then, the broker would deliver the messages that
        // are requeued below to it again, and the close would count these deliveries as failed.
        let close_timeout = self.shared().lock().proto.config().get_close_timeout();
        self.wait_until(close_timeout, |state| {
            untaken += state.stop_consumers();
            !state.starts_consumer()
        })
        .await;
        let (unsettled, unconfirmed) = {
            let mut state = self.shared().lock();
            // The remaining deliveries were interrupted and did not fail, so they are requeued without counting as failed.
            state.requeues = true;
            state.in_flight()
        };
        self.close_with(ReplyCode::REPLY_SUCCESS, "shut down").await?;
        Ok(Leftovers { untaken, unsettled, unconfirmed })
    }

    /// Waits until that is so, for that long at most, while the connection is open.
    async fn wait_until(&self, limit: Duration, mut is_so: impl FnMut(&mut State) -> bool) {
        let deadline =
            Deadline::start_as(self.shared(), self.shared().lock(), Some(limit), Counts::Always);
        let mut waiting = Waiting::new(self.shared(), On::Turn);
        poll_fn(|cx| {
            if deadline.expired(cx) {
                return Poll::Ready(());
            }
            self.shared().poll(cx, |state, task| {
                if is_so(state) || state.proto.check().is_err() {
                    return Poll::Ready(());
                }
                waiting.wait(state, task)
            })
        })
        .await;
    }
}

impl State {
    /// Ends all consumers and requeues the deliveries that they have not taken. Returns their number.
    pub(crate) fn stop_consumers(&mut self) -> usize {
        let mut untaken = 0;
        let places: Vec<_> = self.places().collect();
        for place in places {
            for consumer in self.channel(place).map(|own| own.queues.ids()).unwrap_or_default() {
                untaken += self.stop_consumer(place, consumer);
            }
        }
        untaken
    }
}
