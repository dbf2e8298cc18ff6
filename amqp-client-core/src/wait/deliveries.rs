use std::time::Duration;

use super::Wait as _;
use crate::{Consumer, ConsumerEnd, Delivery};

/// The deliveries of a [`Consumer`], one after the other, waited for by blocking the thread. Ends when the consumer is
/// cancelled; an error comes once and last.
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
    /// The next delivery, if it comes in time. `None` is that nothing came, `Some(None)` that the consumer was cancelled.
    pub fn next_timeout(
        &mut self,
        timeout: Duration,
    ) -> Option<Option<Result<Delivery, ConsumerEnd>>> {
        self.next().wait_timeout(timeout)
    }
}
