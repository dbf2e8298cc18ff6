//! The messages of a worker that a panic ends.

use super::Worker;
use crate::work::Routes;
use crate::work::order::Order;
use crate::work::source::{Arriving, Taken};

/// A panic in the task of the worker, but outside of it, is no failure of the messages.
impl<S, R: Routes<S>, A: Arriving> Drop for Worker<S, R, A> {
    fn drop(&mut self) {
        if !std::thread::panicking() {
            return;
        }
        let running =
            std::mem::take(&mut self.jobs).into_iter().filter_map(|(_, job)| job.delivery);
        let next = self.next.drain(..).map(|(_, delivery)| delivery);
        let waiting = self.order.as_mut().map(Order::take_all).unwrap_or_default();
        for delivery in running.chain(next).chain(waiting) {
            // If the channel is closed, the broker has requeued the delivery.
            let _closed = delivery.requeue();
        }
    }
}
