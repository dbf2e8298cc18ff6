use std::future::{Future as _, poll_fn};
use std::pin::pin;
use std::task::Poll;
use std::time::Duration;

use amqp_client_core::{Consumer, ConsumerEnd, Delivery};

use crate::wait::Wait as _;

/// Taking the deliveries of a [`Consumer`] by blocking the thread.
pub trait Deliveries {
    /// The deliveries, one after the other. Ends when the consumer is cancelled; an error comes once and last.
    fn deliveries(&mut self) -> Each<'_>;

    /// The next delivery, if it comes in time. `None` is that nothing came, `Some(None)` that the consumer was cancelled.
    fn next_timeout(&mut self, timeout: Duration) -> Option<Option<Result<Delivery, ConsumerEnd>>>;
}

impl Deliveries for Consumer {
    fn deliveries(&mut self) -> Each<'_> {
        Each(self)
    }

    fn next_timeout(&mut self, timeout: Duration) -> Option<Option<Result<Delivery, ConsumerEnd>>> {
        self.next().wait_timeout(timeout)
    }
}

/// The deliveries of a consumer, as [`Deliveries::deliveries`] gives them.
#[derive(Debug)]
pub struct Each<'a>(&'a mut Consumer);

impl Iterator for Each<'_> {
    type Item = Result<Delivery, ConsumerEnd>;

    fn next(&mut self) -> Option<Self::Item> {
        self.0.next().wait()
    }
}

/// Waits for a delivery of any of several consumers, which may be of different channels and connections; up to `timeout`, if
/// one is given. Returns the place of the consumer that it came to, with what [`Consumer::next`] gives; nothing if nothing
/// came in time. Each is as likely to be first as the others.
pub fn recv_any(
    consumers: &mut [Consumer],
    timeout: Option<Duration>,
) -> Option<(usize, Option<Result<Delivery, ConsumerEnd>>)> {
    let mut first = 0;
    let any = poll_fn(|cx| {
        let count = consumers.len();
        first += 1;
        for turn in 0..count {
            let index = (first + turn) % count;
            let Some(consumer) = consumers.get_mut(index) else { continue };
            if let Poll::Ready(next) = pin!(consumer.next()).poll(cx) {
                return Poll::Ready((index, next));
            }
        }
        Poll::Pending
    });
    match timeout {
        Some(timeout) => any.wait_timeout(timeout),
        None => Some(any.wait()),
    }
}
