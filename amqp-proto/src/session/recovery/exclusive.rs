//! Exclusive consumers that the broker still has on the lost connection.
//!
//! The broker refuses to start them again (403, `in exclusive use`) and closes the channel, with all its other consumers. So the
//! session does not simply try again. It asks how many consumers the queue has, on a channel of its own, and starts its consumer
//! when there is none.

use super::plan::ChannelStep;
use super::repair::Repair;
use crate::method::{Method, QueueDeclare};
use crate::session::context::{Context, Waiting};
use crate::session::report::Entity;
use crate::session::topology::{Declaration, Purpose};
use crate::{ChannelError, ChannelId, Reply, ReplyCode};

impl Repair {
    /// Returns whether the broker has refused an exclusive consumer because of another one, and it will be tried again.
    pub(super) fn waits_for_exclusive(
        &mut self,
        cx: &mut Context,
        id: ChannelId,
        step: &ChannelStep,
        error: &ChannelError,
    ) -> bool {
        let (Entity::Consumer { consumer, .. }, Method::BasicConsume(consume)) =
            (&step.entity, &step.method)
        else {
            return false;
        };
        // RabbitMQ: the same code as for a missing permission. Only the text differs.
        let in_use = error.as_close().is_some_and(|close| {
            close.reply_code == ReplyCode::ACCESS_REFUSED
                && close.reply_text.as_bytes().ends_with(b"in exclusive use")
        });
        let waits = consume.exclusive && in_use && cx.probe_later((id, *consumer));
        if waits {
            self.report_locked(step.entity.clone());
        }
        waits
    }

    /// Handles the number of consumers of a queue: starts the consumer that waits for it, or waits again.
    pub(super) fn handle_probed(&mut self, cx: &mut Context, waiting: Waiting, reply: &Reply) {
        let Reply::Method(Method::QueueDeclareOk(answer)) = reply else { return };
        if answer.consumer_count > 0 {
            cx.probe_later(waiting);
        } else {
            self.start(waiting);
        }
    }

    /// The queue of a waiting consumer no longer exists.
    pub(super) fn fail_probe(
        &mut self,
        cx: &mut Context,
        (id, consumer): Waiting,
        error: ChannelError,
    ) {
        let record = cx.channels.get(id);
        let Some(found) = record.and_then(|record| record.consumers.get(consumer)) else { return };
        let consumer_tag = found.consume.consumer_tag.clone();
        cx.end_consumer(id, consumer, &error);
        self.report_failure(cx, Entity::Consumer { channel: id, consumer, consumer_tag }, error);
    }
}

impl Context {
    /// Lets a consumer wait until its queue has no other consumer. Returns whether the policy allows that.
    fn probe_later(&mut self, waiting: Waiting) -> bool {
        let Some(recovering) = &mut self.recovering else { return false };
        let waits = recovering.retry_later(self.now);
        if waits {
            recovering.locks.consumers.push(waiting);
        }
        waits
    }

    /// Returns the request for the number of consumers of a queue: a passive declaration.
    pub(crate) fn probe(&self, (id, consumer): Waiting) -> Option<Declaration> {
        let found = self.channels.get(id)?.consumers.get(consumer)?;
        let queue = found.consume.queue.clone();
        let declare = QueueDeclare { queue: queue.clone(), passive: true, ..<_>::default() };
        let mut step = Declaration::new(declare.into(), Entity::Queue(queue), None);
        step.purpose = Purpose::Probe(id, consumer);
        Some(step)
    }
}
