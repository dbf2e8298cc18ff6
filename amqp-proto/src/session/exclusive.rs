//! Exclusive consumers that the broker still has on the lost connection.
//!
//! It refuses to start them again (403, `in exclusive use`) and closes the channel, with all its other consumers. So this end
//! does not simply try again: it asks how many consumers the queue has, on a channel of its own, and starts its consumer when
//! there is none.

use super::report::Entity;
use super::steps::ChannelStep;
use super::topology::{Purpose, Step};
use super::{LEAST_DELAY, Locked, Session, slot};
use crate::method::{Method, QueueDeclare};
use crate::{ChannelError, ChannelId, ConsumerId, Reply, ReplyCode};

/// A consumer of a channel.
pub(super) type Waiting = (ChannelId, ConsumerId);

impl Session {
    /// Schedules another attempt if the broker has refused an exclusive consumer because of another one. Returns whether it
    /// did.
    pub(super) fn waits_for_exclusive(
        &mut self,
        id: ChannelId,
        step: &ChannelStep,
        error: &ChannelError,
    ) -> bool {
        let (Entity::Consumer { consumer, .. }, Method::BasicConsume(consume)) =
            (&step.entity, &step.method)
        else {
            return false;
        };
        // RabbitMQ: the same code as for a permission that is missing. Only the text differs.
        let in_use = error.as_close().is_some_and(|close| {
            close.reply_code == ReplyCode::ACCESS_REFUSED
                && close.reply_text.as_bytes().ends_with(b"in exclusive use")
        });
        let waits = consume.exclusive && in_use && self.probe_later((id, *consumer));
        if let (true, Some(replay)) = (waits, &mut self.replay) {
            replay.report.locked.push(step.entity.clone());
        }
        waits
    }

    fn probe_later(&mut self, waiting: Waiting) -> bool {
        let Some(recovering) = &mut self.recovering else { return false };
        let Locked::Retry(after) = recovering.policy.locked else { return false };
        recovering.exclusive.push(waiting);
        recovering.locked_until = self.now.checked_add(after.max(LEAST_DELAY));
        true
    }

    /// Asks for the consumers of a queue.
    pub(super) fn probe(&mut self, (id, consumer): Waiting) -> Option<Step> {
        let record = slot(&mut self.channels, id)?;
        let found = record.consumers.get(consumer)?;
        let queue = found.consume.queue.clone();
        let declare = QueueDeclare { queue: queue.clone(), passive: true, ..<_>::default() };
        let mut step = Step::new(declare.into(), Entity::Queue(queue), None);
        step.purpose = Purpose::Probe(id, consumer);
        Some(step)
    }

    pub(super) fn probed(&mut self, waiting: Waiting, reply: &Reply) {
        let Reply::Method(Method::QueueDeclareOk(answer)) = reply else { return };
        if answer.consumer_count > 0 {
            self.probe_later(waiting);
        } else if let Some(replay) = &mut self.replay {
            replay.consumers.push(waiting);
        }
    }

    /// The queue is not there any more.
    pub(super) fn probe_failed(&mut self, (id, consumer): Waiting, error: ChannelError) {
        let Some(record) = slot(&mut self.channels, id) else { return };
        let Some(found) = record.consumers.get(consumer) else {
            return;
        };
        let consumer_tag = found.consume.consumer_tag.clone();
        self.end_consumer(id, consumer, &error);
        self.report_failure(Entity::Consumer { channel: id, consumer, consumer_tag }, error);
    }
}
