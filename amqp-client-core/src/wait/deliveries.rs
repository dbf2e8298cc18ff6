use std::time::Duration;

use amqp_proto::{__common_methods as common_methods, __debug_shows_chain as debug_shows_chain};
use thiserror::Error;

use super::Wait as _;
use crate::{Consumer, ConsumerEnd, Delivery};

/// An iterator over the deliveries of a [`Consumer`]. It blocks the thread until the next delivery arrives.
///
/// The iterator ends when the application cancels the consumer. If the consumer ends for another reason, the last item is the
/// error.
///
/// ```no_run
/// # use amqp_client_core::Consumer;
/// # fn example(mut consumer: Consumer) -> Result<(), Box<dyn std::error::Error>> {
/// for delivery in &mut consumer {
///     delivery?.ack()?;
/// }
/// # Ok(())
/// # }
/// ```
#[derive(Debug)]
pub struct Deliveries<'a>(&'a mut Consumer);

impl Iterator for Deliveries<'_> {
    type Item = Result<Delivery, ConsumerEnd>;

    fn next(&mut self) -> Option<Self::Item> {
        match self.0.try_next() {
            Some(delivery) => Some(Ok(delivery)),
            None => self.0.next().wait(),
        }
    }
}

/// `for delivery in &mut consumer`, blocking the thread (feature `blocking`).
impl<'a> IntoIterator for &'a mut Consumer {
    type Item = Result<Delivery, ConsumerEnd>;
    type IntoIter = Deliveries<'a>;

    fn into_iter(self) -> Deliveries<'a> {
        Deliveries(self)
    }
}

/// Blocking the thread (feature `blocking`).
impl Consumer {
    /// Waits for the next delivery, for at most `timeout`. If nothing arrives in time, the consumer continues, and nothing is lost.
    ///
    /// ```no_run
    /// # use amqp_client_core::{Consumer, adapter as amqp_client_blocking};
    /// use std::time::Duration;
    ///
    /// use amqp_client_blocking::NextError;
    ///
    /// # fn example(mut consumer: Consumer) -> Result<(), Box<dyn std::error::Error>> {
    /// loop {
    ///     match consumer.next_timeout(Duration::from_secs(1)) {
    ///         Ok(delivery) => delivery.ack()?,
    ///         Err(NextError::TimedOut { .. }) => println!("nothing to do"),
    ///         Err(NextError::Cancelled) => return Ok(()),
    ///         Err(end) => return Err(end.into()),
    ///     }
    /// }
    /// # }
    /// ```
    ///
    /// # Errors
    /// [`NextError`]: nothing arrived in time, or the consumer has ended.
    pub fn next_timeout(&mut self, timeout: Duration) -> Result<Delivery, NextError> {
        match self.next().wait_timeout(timeout) {
            Some(Some(Ok(delivery))) => Ok(delivery),
            Some(Some(Err(end))) => Err(NextError::Ended(end)),
            Some(None) => Err(NextError::Cancelled),
            None => Err(NextError::TimedOut { after: timeout }),
        }
    }
}

/// [`Consumer::next_timeout`] returned no delivery.
///
/// ```no_run
/// # use amqp_client_core::{Consumer, adapter as amqp_client_blocking};
/// use std::time::Duration;
///
/// use amqp_client_blocking::NextError;
///
/// # fn example(mut consumer: Consumer) -> Result<(), Box<dyn std::error::Error>> {
/// match consumer.next_timeout(Duration::from_secs(1)) {
///     Err(NextError::TimedOut { after }) => println!("no delivery within {after:?}"),
///     next => next?.ack()?,
/// }
/// # Ok(())
/// # }
/// ```
#[derive(Clone, PartialEq, Eq, Error)]
#[non_exhaustive]
pub enum NextError {
    /// Nothing arrived in time. The consumer continues.
    #[error("no delivery within {after:?}")]
    TimedOut {
        /// The timeout.
        after: Duration,
    },
    /// The application cancelled the consumer, and has taken all its deliveries.
    #[error("the consumer was cancelled by the application")]
    Cancelled,
    /// The consumer has ended for another reason. That is reported once; from then on, the error is [`Cancelled`](Self::Cancelled).
    #[error(transparent)]
    Ended(#[from] ConsumerEnd),
}

common_methods! {
    NextError { Self::Ended(end) => end }
    transient Self::TimedOut { .. }
}

debug_shows_chain! { NextError }
