//! Messages that come back to their queue.

use crate::arguments::Limits;
use crate::deaths::Death;
use crate::engine::Engine;
use crate::message::Message;
use crate::name::Name;
use crate::observe::Note;

/// RabbitMQ: failed deliveries of a message by a quorum queue (4.0 and later), unless the queue is declared otherwise.
const DELIVERY_LIMIT: i64 = 20;

/// Why a message comes back.
#[derive(Debug, Clone, Copy, PartialEq, Eq)]
pub(crate) enum Requeue {
    /// `basic.nack` or `basic.recover`.
    Returned,
    /// `basic.reject`.
    Rejected,
    /// Its channel or connection has ended.
    Abandoned,
}

impl Requeue {
    /// Returns whether the message was delivered in vain. Before RabbitMQ 4.3, every delivery was that came back.
    const fn has_failed(self, rabbitmq_4_3: bool) -> bool {
        !rabbitmq_4_3 || !matches!(self, Self::Returned)
    }

    /// Returns whether the message goes to the end of its quorum queue. RabbitMQ 3.10 writes a message without a delivery limit
    /// again, so that its log does not grow with one that comes back again and again.
    const fn is_at_the_end(self, limit: Option<i64>, rabbitmq_4_3: bool) -> bool {
        !rabbitmq_4_3 && limit.is_none() && !matches!(self, Self::Abandoned)
    }
}

impl Limits {
    /// Returns the number of failed deliveries above which a quorum queue drops a message.
    fn failures(&self, rabbitmq_4_3: bool) -> Option<i64> {
        match self.delivery_limit {
            _ if !self.counts_deliveries => None,
            None => rabbitmq_4_3.then_some(DELIVERY_LIMIT),
            // RabbitMQ 3.10 takes a negative limit as it is: the first failure is above it.
            Some(limit) => (limit >= 0 || !rabbitmq_4_3).then_some(limit),
        }
    }
}

impl Engine {
    /// Requeues a message, because its delivery failed or no consumer accepted it.
    pub(crate) fn requeue(&mut self, name: &Name, mut message: Message, why: Requeue) {
        message.redelivered = true;
        let now = self.now;
        let rabbitmq_4_3 = self.options.rabbitmq_4_3;
        let Some(queue) = self.queues.get_mut(name) else { return };
        if queue.limits.is_stream {
            // It is there still.
            return;
        }
        message.acquired_count += 1;
        message.delivery_count += u32::from(why.has_failed(rabbitmq_4_3));
        let limit = queue.limits.failures(rabbitmq_4_3);
        if limit.is_some_and(|limit| i64::from(message.delivery_count) > limit) {
            self.note(|| Note::LimitReached { body: message.body.clone() });
            self.bury(name, message, Death::DeliveryLimit);
            return;
        }
        if queue.limits.counts_deliveries {
            self.last_message += 1;
            message.returned = None;
            match why.is_at_the_end(limit, rabbitmq_4_3) {
                true => message.order = self.last_message,
                false => message.returned = Some(self.last_message),
            }
        }
        let failed = why.has_failed(rabbitmq_4_3);
        let retry = queue.limits.delayed_retry.and_then(|retry| retry.delay(&message, failed));
        match retry.and_then(|delay| now.checked_add(delay)) {
            Some(at) => queue.delayed.push((at, message)),
            None => queue.put(message),
        }
        self.dirty.insert(name.clone());
        self.drop_head(name);
    }
}
