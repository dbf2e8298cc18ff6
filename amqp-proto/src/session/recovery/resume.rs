//! Starting a paused consumer again, if its queue still exists.

use super::repair::Repair;
use crate::method::{Arguments as _, QueueDeclare};
use crate::session::context::Context;
use crate::session::record::consumers::Pause;
use crate::session::report::Entity;
use crate::{ChannelError, ChannelEvent, ChannelId, ConsumerId, ReplyCode};

impl Repair {
    /// The queue of a paused consumer exists: starts the consumer next, unless it was cancelled or restored in between.
    pub(super) fn start_resumed(&mut self, cx: &mut Context, id: ChannelId, consumer: ConsumerId) {
        if cx.consumer(id, consumer).is_some_and(|found| found.pause == Pause::Resuming) {
            self.start((id, consumer));
        }
    }

    /// The broker has refused to look at the queue of a paused consumer.
    pub(super) fn fail_resumed(
        &mut self,
        cx: &mut Context,
        id: ChannelId,
        consumer: ConsumerId,
        error: ChannelError,
    ) {
        // There was no free channel for the check, or that channel was closed for another reason: no reason to end the consumer.
        let check = (QueueDeclare::CLASS_ID, QueueDeclare::METHOD_ID);
        let refusal = error.as_close().filter(|close| (close.class_id, close.method_id) == check);
        let Some(close) = refusal else { return self.start_resumed(cx, id, consumer) };
        let not_found = close.reply_code == ReplyCode::NOT_FOUND;
        let Some(found) = cx.consumer(id, consumer) else { return };
        if found.pause != Pause::Resuming {
            return;
        }
        found.pause = Pause::Running;
        let consumer_tag = found.consume.consumer_tag.clone();
        if !not_found {
            cx.end_consumer(id, consumer, &error);
            let entity = Entity::Consumer { channel: id, consumer, consumer_tag };
            return self.report_failure(cx, entity, error);
        }
        // The queue was deleted. If the broker had had the consumer, it would have cancelled it.
        match cx.resubscription(id, consumer) {
            Some(steps) => self.add(steps, [(id, consumer)]),
            None => cx.emit(id, ChannelEvent::Cancelled { consumer }),
        }
    }
}
