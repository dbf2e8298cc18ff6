//! Bringing back what stands on channels: modes, prefetch limits, consumers, messages and requests that wait.

use alloc::collections::BTreeSet;
use alloc::vec::Vec;
use core::ops::RangeInclusive;

use super::channel::ends_transaction;
use super::kept::KeptMessage;
use super::noted::note;
use super::record::{Consumer, Mode, removes};
use super::replay::Restoring;
use super::report::Entity;
use super::steps::ChannelStep;
use super::topology::Step;
use super::{Session, slot};
use crate::method::{ConfirmSelect, Method, TxSelect};
use crate::{
    ChannelError, ChannelEvent, ChannelId, CommandError, ConsumerId, Event, GetReply, Properties,
    PublishSeq, RawProperties, Reply, ReplyCode, RequestId, Route, Settlement, ShortStr,
};

impl Session {
    /// Opens a channel on the connection that it is not on yet.
    pub(super) fn open_again(&mut self, id: ChannelId) {
        let Some(record) = slot(&mut self.channels, id) else { return };
        let opened = self.connection.open_channel_numbered(id.get());
        let transactional = matches!(record.mode, Mode::Tx { .. });
        match opened {
            Ok(_) => {
                let mut restoring = Restoring::default();
                restoring.awaiting.extend(self.select_mode(id));
                if let Some(replay) = &mut self.replay {
                    replay.channels.insert(id, restoring);
                }
                if transactional {
                    // Ahead of acknowledgements, which do not wait until all is restored.
                    while self.send_next_held(id, ends_transaction) {}
                }
            }
            // The new connection is lost already, which is the next event. The channel waits for another one.
            Err(_) if !self.connection.is_open() => {}
            // This node allows fewer channels.
            Err(error) => {
                let error = ChannelError::not_restored(ReplyCode::NOT_ALLOWED, error);
                self.report_failure(Entity::Channel(id), error.clone());
                self.end_channel(id, error);
            }
        }
    }

    /// Selects the mode of a channel that was opened again. Without it the channel is not what it was: if the broker refuses,
    /// the channel ends.
    fn select_mode(&mut self, id: ChannelId) -> Option<(RequestId, ChannelStep)> {
        let method: Method = match slot(&mut self.channels, id)?.mode {
            Mode::Plain => return None,
            Mode::Confirm => ConfirmSelect { no_wait: false }.into(),
            Mode::Tx { .. } => TxSelect {}.into(),
        };
        let facts = method.facts();
        let mut channel = self.connection.channel(id).ok()?;
        let selected = channel.request_as(None, method.clone(), facts, true);
        debug_assert!(selected.is_ok() || !channel.takes_commands(), "{selected:?}");
        let step = ChannelStep { request: None, method, entity: Entity::Channel(id) };
        Some((selected.ok()?, step))
    }

    /// Takes the reply to a request of the recovery. Returns whether it was one; if not, the application made the request.
    pub(super) fn take_restored(
        &mut self,
        id: ChannelId,
        request: RequestId,
        reply: &Reply,
    ) -> bool {
        let Some(replay) = &mut self.replay else { return false };
        if replay.awaiting.front().is_some_and(|(awaited, _)| *awaited == request) {
            self.declared(id, request, reply);
            return true;
        }
        let Some(restoring) = replay.channels.get_mut(&id) else { return false };
        let mut awaiting = restoring.awaiting.iter();
        let Some(index) = awaiting.position(|(awaited, _)| *awaited == request) else {
            return false;
        };
        if let Some((_, step)) = restoring.awaiting.remove(index) {
            self.restored(id, &step.entity);
        }
        self.send_channel(id);
        self.finish_replay();
        true
    }

    /// The application has abandoned a request after its reply had come. What it brought is requeued or cancelled.
    pub(super) fn take_unwanted(&mut self, id: ChannelId, request: RequestId, reply: &mut Reply) {
        let Some(record) = slot(&mut self.channels, id) else { return };
        let Ok(mut channel) = self.connection.channel(id) else { return };
        match reply {
            Reply::Message(GetReply::Message { delivery, .. }) => {
                let tag = delivery.delivery_tag();
                delivery.renumber(|tag| record.tags.received(tag));
                // It needs no answer, or is settled by nobody else.
                let _settled = channel.settle_apart(tag, Settlement::Nack { requeue: true });
            }
            Reply::Message(GetReply::Unusable { delivery_tag, .. }) => {
                let tag = *delivery_tag;
                *delivery_tag = record.tags.received(tag);
                // It needs no answer, or is requeued or rejected already.
                let _settled = channel.settle_apart(tag, Settlement::Nack { requeue: true });
            }
            Reply::Method(Method::BasicConsumeOk(started))
                if channel.consumer(&started.consumer_tag) == Some(request.into()) =>
            {
                record.orphans.push(request.into());
                channel.discard_consumer(&started.consumer_tag);
            }
            _ => {}
        }
    }

    fn restored(&mut self, id: ChannelId, entity: &Entity) {
        // It is back when all that stands on it is.
        if matches!(entity, Entity::Channel(_)) {
            return;
        }
        if let Entity::Consumer { consumer, consumer_tag, .. } = entity {
            let known = slot(&mut self.channels, id)
                .is_some_and(|record| record.consumers.contains(*consumer));
            if known && self.resumed(id, *consumer) {
                return;
            }
            if !known {
                if let Some(record) = slot(&mut self.channels, id) {
                    record.orphans.push(*consumer);
                }
                if let Ok(mut channel) = self.connection.channel(id) {
                    channel.discard_consumer(consumer_tag);
                }
                return;
            }
        }
        self.report_success(entity);
    }

    /// All that can be declared is: goes on with what stands on channels.
    pub(super) fn begin_channels(&mut self) {
        let Some(replay) = &mut self.replay else { return };
        let wanted = core::mem::take(&mut replay.consumers);
        let planned =
            |(id, restoring): (&ChannelId, &Restoring)| (!restoring.planned).then_some(*id);
        for id in replay.channels.iter().filter_map(planned).collect::<Vec<_>>() {
            if slot(&mut self.channels, id).is_some_and(|record| record.attached) {
                continue;
            }
            self.plan_channel(id);
            self.send_channel(id);
        }
        for (id, consumer) in wanted {
            self.drop_consumers_without_queue(id);
            let (Some(replay), Some(record)) =
                (&mut self.replay, slot(&mut self.channels, id).filter(|record| record.attached))
            else {
                continue;
            };
            let (mut steps, missing) = (Vec::new(), &replay.missing);
            record.consumer_steps(
                id,
                record.qos.as_ref(),
                |found| found.id == consumer && !missing.contains(&found.consume.queue),
                &mut steps,
            );
            replay.channels.entry(id).or_default().steps.extend(steps);
            self.send_channel(id);
        }
    }

    /// Plans all that stands on a channel that was opened again.
    pub(super) fn plan_channel(&mut self, id: ChannelId) {
        self.drop_consumers_without_queue(id);
        let (Some(replay), Some(record)) = (&mut self.replay, slot(&mut self.channels, id)) else {
            return;
        };
        // What is held by others is tried later.
        let recovering = self.recovering.as_ref();
        let held = |consumer: &Consumer| {
            recovering.is_some_and(|recovering| {
                recovering.locked.contains(&consumer.consume.queue)
                    || recovering.exclusive.contains(&(id, consumer.id))
            })
        };
        let missing = &replay.missing;
        let steps = record
            .steps(id, |consumer| !missing.contains(&consumer.consume.queue) && !held(consumer));
        if let Some(restoring) = replay.channels.get_mut(&id) {
            restoring.steps = steps.into();
            restoring.planned = true;
        }
    }

    /// Ends the consumers of queues that have not come back, and will not.
    fn drop_consumers_without_queue(&mut self, id: ChannelId) {
        let Some(record) = slot(&mut self.channels, id) else { return };
        let (Some(replay), Some(recovering)) = (&self.replay, &self.recovering) else { return };
        let gone =
            |queue: &ShortStr| replay.missing.contains(queue) && !recovering.locked.contains(queue);
        let ended: Vec<_> = record
            .consumers
            .iter()
            .filter(|consumer| gone(&consumer.consume.queue))
            .map(|consumer| (consumer.id, consumer.consume.clone()))
            .collect();
        for (consumer, consume) in ended {
            let why = alloc::format!("its queue {:?} could not be declared again", consume.queue);
            let error = ChannelError::not_restored(ReplyCode::NOT_FOUND, why);
            let entity =
                Entity::Consumer { channel: id, consumer, consumer_tag: consume.consumer_tag };
            self.end_consumer(id, consumer, &error);
            self.report_failure(entity, error);
        }
    }

    pub(super) fn send_channel(&mut self, id: ChannelId) {
        let Some(replay) = &mut self.replay else { return };
        let one_by_one = replay.one_by_one;
        let busy = |restoring: &Restoring| !restoring.awaiting.is_empty();
        if one_by_one && replay.channels.values().any(busy) {
            return;
        }
        let Some(restoring) = replay.channels.get_mut(&id) else { return };
        let Ok(mut channel) = self.connection.channel(id) else { return };
        let mut failed = Vec::new();
        if one_by_one {
            restoring.one_by_one = true;
        }
        while !restoring.one_by_one || restoring.awaiting.is_empty() {
            let Some(mut step) = restoring.steps.pop_front() else { break };
            let record = slot(&mut self.channels, id).map(|record| &*record);
            let unwanted = |consumer: ConsumerId| {
                record.is_none_or(|record| !record.consumers.contains(consumer))
            };
            match step.entity {
                // Its handle has gone in between.
                Entity::Consumer { consumer, .. } if unwanted(consumer) => continue,
                _ => {}
            }
            if let (
                Some(record),
                Entity::Consumer { consumer, .. },
                Method::BasicConsume(consume),
            ) = (record, &step.entity, &mut step.method)
            {
                let is_stream = self.topology.is_stream(&consume.queue);
                record.streams.resume(*consumer, consume, is_stream, self.now);
            }
            let facts = step.method.facts();
            match channel.request_as(step.request, step.method.clone(), facts, true) {
                Ok(id) => restoring.awaiting.push_back((id, step)),
                // The channel has ended: its event says so, and all of this is planned again.
                Err(CommandError::Ended(_)) => break,
                // It runs: it was started by an earlier step.
                Err(_) if is_running(&mut channel, &step.entity) => {}
                Err(error) => failed.push((step, not_sent(&error))),
            }
        }
        for (step, error) in failed {
            self.not_restored(id, &step, error);
        }
    }

    /// Goes on with the next channel, if that had to wait for another.
    pub(super) fn send_next_channels(&mut self) {
        let waiting = self.replay.as_ref().filter(|replay| replay.one_by_one && replay.declared);
        let ids: Vec<_> =
            waiting.iter().flat_map(|replay| replay.channels.keys().copied()).collect();
        ids.into_iter().for_each(|id| self.send_channel(id));
    }

    /// Something that stood on a channel cannot be brought back. The channel goes on without it.
    fn not_restored(&mut self, id: ChannelId, step: &ChannelStep, error: ChannelError) {
        self.leave_out(id, step, &error);
        self.report_failure(step.entity.clone(), error);
    }

    /// Forgets something that cannot be brought back. Ends the consumer or the channel, if it is one, and reports nothing
    /// else.
    pub(super) fn leave_out(&mut self, id: ChannelId, step: &ChannelStep, error: &ChannelError) {
        let Some(record) = slot(&mut self.channels, id) else { return };
        match (&step.entity, &step.method) {
            (Entity::Consumer { consumer, .. }, _) => self.end_consumer(id, *consumer, error),
            (Entity::Channel(_), _) => self.end_channel(id, error.clone()),
            (Entity::Flow(_), _) => record.paused = false,
            (_, Method::BasicQos(qos)) if qos.global => record.global_qos = None,
            _ => {
                record.qos = None;
                record.consumers.iter_mut().for_each(|consumer| consumer.qos = None);
            }
        }
    }

    /// The broker refused something that was to be brought back on a channel.
    pub(super) fn restored_channel_closed(
        &mut self,
        id: ChannelId,
        error: ChannelError,
        unconfirmed: &[RangeInclusive<PublishSeq>],
    ) {
        let is_alone = self.record(id).is_some_and(|record| record.in_flight.is_empty());
        self.interrupt_over(id, &error, unconfirmed);
        let restoring = self.replay.as_mut().and_then(|replay| replay.channels.remove(&id));
        let Restoring { mut awaiting, one_by_one, .. } = restoring.unwrap_or_default();
        let cause = error.as_close().map(|close| (close.class_id, close.method_id));
        let is_named =
            awaiting.front().is_some_and(|(_, step)| cause == Some(step.method.facts().id));
        // The application may have asked for something as well, such as a commit. That is not asked for again.
        let is_known = match one_by_one {
            true => is_alone || is_named,
            false => is_alone && is_named && awaiting.len() == 1,
        };
        if is_known {
            // Nothing that was sent can be blamed.
            let Some((_, step)) = awaiting.pop_front() else {
                if self.policy_reopens() {
                    self.reopen_later(id, false);
                } else {
                    self.report_failure(Entity::Channel(id), error.clone());
                    self.end_channel(id, error);
                    self.send_declarations();
                }
                return;
            };
            if !self.waits_for_exclusive(id, &step, &error) {
                self.not_restored(id, &step, error);
            }
        }
        if self.record(id).is_none_or(|record| record.closing) {
            return self.send_declarations();
        }
        self.restore_again(id, one_by_one || !is_known);
    }

    /// A channel was closed while it was brought back: brings it back once more, with the requests one by one if something that
    /// was brought back has closed it.
    pub(super) fn restore_again(&mut self, id: ChannelId, one_by_one: bool) {
        self.open_again(id);
        let replay = self.replay.as_mut();
        if let Some(restoring) = replay.and_then(|replay| replay.channels.get_mut(&id)) {
            restoring.one_by_one = one_by_one;
        }
        self.restore_channel(id);
    }

    /// Goes on with a channel that was opened again.
    pub(super) fn restore_channel(&mut self, id: ChannelId) {
        let again = self.gone_with_channel(id);
        if let Some(replay) = self.replay.as_mut().filter(|_| !again.is_empty()) {
            // Not if all is declared anyway before the first consumer is started.
            if replay.declared || !replay.whole {
                replay.steps.extend(again);
                replay.declared = false;
            }
        }
        if self.replay.as_ref().is_some_and(|replay| replay.declared) {
            self.plan_channel(id);
            self.send_channel(id);
        }
        self.send_declarations();
    }

    /// Returns the declarations of auto-delete queues that the broker has deleted with the consumers of a channel.
    fn gone_with_channel(&mut self, id: ChannelId) -> Vec<Step> {
        let Some(record) = slot(&mut self.channels, id) else { return Vec::new() };
        let queues = record.consumers.iter().map(|consumer| &consumer.consume.queue);
        let held = self.recovering.as_ref().map_or(&[][..], |recovering| &recovering.locked);
        let gone = queues.filter(|queue| self.topology.goes_with_consumers(queue));
        let mut gone: BTreeSet<_> = gone.filter(|queue| !held.contains(queue)).cloned().collect();
        // A queue that has a consumer is there. Declaring one without a name would make another.
        for (number, record) in (1u16..).zip(&self.channels) {
            let Ok(mut channel) = self.connection.channel(ChannelId(number)) else { continue };
            for own in record.iter().flat_map(|record| record.consumers.iter()) {
                if channel.consumer(own.tag()) == Some(own.id) {
                    gone.remove(&own.consume.queue);
                }
            }
        }
        gone.iter().flat_map(|queue| self.topology.steps_again(queue)).collect()
    }

    /// A channel cannot be brought back. It takes no more commands, and is forgotten when its end is polled.
    fn end_channel(&mut self, id: ChannelId, error: ChannelError) {
        if let Some(record) = self.record(id) {
            (record.attached, record.closing) = (false, true);
        }
        self.emit(id, ChannelEvent::Closed(error));
    }

    pub(super) fn end_consumer(
        &mut self,
        id: ChannelId,
        consumer: ConsumerId,
        error: &ChannelError,
    ) {
        let record = slot(&mut self.channels, id);
        let removed = record.and_then(|record| record.consumers.remove(consumer));
        if let Some(removed) = removed {
            self.topology.unconsumed(&removed.consume.queue);
        }
        self.emit(id, ChannelEvent::ConsumerFailed { consumer, error: error.clone() });
    }

    /// Commands go to the channel from now on, the first of them being those that waited. Returns how many messages were
    /// published again.
    pub(super) fn attach(&mut self, id: ChannelId) -> usize {
        let Some(record) = slot(&mut self.channels, id) else { return 0 };
        let Ok(mut channel) = self.connection.channel(id) else { return 0 };
        record.attached = true;
        record.reopened.since = Some(self.now);
        record.last_queue_unknown = !record.last_queue.is_empty();
        debug_assert_eq!(
            record.kept.sent_here(),
            0,
            "nothing is sent on a channel that was not open"
        );
        record.seqs.restart();
        if record.mode == Mode::Confirm && !channel.is_confirming() {
            let selected = channel.request(ConfirmSelect { no_wait: true });
            debug_assert!(selected.is_ok() || !channel.takes_commands(), "{selected:?}");
        }
        self.resend(id)
    }

    /// Sends requests and kept messages that wait, in the order in which they were made: all of them, or some if the channel is
    /// [careful](super::blame::Careful). Returns how many of the messages were published before.
    pub(super) fn resend(&mut self, id: ChannelId) -> usize {
        let was_careful = self.record(id).is_some_and(|record| record.careful.is_some());
        let mut again = 0;
        loop {
            let Some(record) = self.record(id) else { return again };
            let Some((ahead_of, removes)) =
                record.held.front().map(|held| (held.ahead_of, removes(&held.method)))
            else {
                again += self.resend_ahead_of(id, u64::MAX);
                break;
            };
            again += self.resend_ahead_of(id, ahead_of);
            let Some(record) = self.record(id) else { return again };
            let is_behind = record.kept.next_unsent().is_some_and(|own| own.seq < ahead_of);
            // Other requests do not wait until messages are confirmed.
            if removes && is_behind || !self.send_next_held(id, |_| true) {
                break;
            }
        }
        if was_careful && self.record(id).is_some_and(|record| record.careful.is_none()) {
            self.emit(id, ChannelEvent::GateOpened);
        }
        again
    }

    /// Publishes kept messages with smaller numbers than that.
    fn resend_ahead_of(&mut self, id: ChannelId, end: u64) -> usize {
        let mut again = 0;
        if self.waits_for_turn(id) {
            return again;
        }
        let Some(record) = slot(&mut self.channels, id) else { return again };
        let Ok(mut channel) = self.connection.channel(id) else { return again };
        // A group that is not sent must not count: the next one is larger.
        if record.kept.next_unsent().is_some_and(|message| message.seq >= end) {
            return again;
        }
        let mut sent_any = false;
        let mut room = record.may_resend();
        // When the channel has ended, its event is yet to come: until then they stay where they are.
        while room > 0 && channel.takes_commands() {
            let Some(message) = record.kept.next_unsent().filter(|own| own.seq < end) else {
                break;
            };
            let mut route = Route::new(&message.exchange, &message.routing_key);
            (route.mandatory, route.immediate) = (message.mandatory, message.immediate);
            let route = self.topology.redirect(&route);
            let marked = message.sent.then(|| marked(message)).flatten();
            let properties = marked.as_ref().unwrap_or(&message.properties);
            let mut sent = channel.publish_now(&route, properties, &message.body);
            if sent.is_err() && marked.is_some() {
                // The mark does not fit. The message may, as it did before.
                sent = channel.publish_now(&route, &message.properties, &message.body);
            }
            match sent {
                Ok(number) => {
                    room -= 1;
                    sent_any = true;
                    again += usize::from(message.sent);
                    (message.sent, message.here) = (true, true);
                    record.seqs.resent(message.seq);
                    // Both ends count alike, or confirms would be taken for those of others.
                    debug_assert_eq!(
                        number.map(|number| record.seqs.one(number.get())),
                        Some(message.seq)
                    );
                }
                // This node allows smaller frames. The broker never gets the message, and does not count it.
                Err(error) => {
                    let seq = message.seq;
                    self.budget.freed(|discard| record.kept.give_up(seq, discard));
                    let failed = ChannelEvent::PublishFailed { publish: PublishSeq(seq), error };
                    self.events.push_back(Event::Channel(id, failed));
                }
            }
        }
        if record.kept.first().is_none() {
            record.careful = None;
        }
        if sent_any && record.takes_turns() {
            self.take_turn(id);
        }
        again
    }

    /// Makes the oldest of those requests that wait. Returns whether there was one, and the channel takes more.
    fn send_next_held(&mut self, id: ChannelId, due: impl Fn(&Method) -> bool) -> bool {
        let Some(record) = slot(&mut self.channels, id) else { return false };
        let Ok(mut channel) = self.connection.channel(id) else { return false };
        let Some(next) = record.held.iter().position(|held| due(&held.method)) else {
            return false;
        };
        let Some(mut held) = record.held.remove(next) else { return false };
        self.topology.translate(&mut held.method);
        record.name_last_queue(&mut held.method);
        let (request, answered) = (held.id, held.answered);
        let mut method = held.method.clone();
        record.rename_consumer(&mut method);
        let absent = record.cancels_absent(&mut channel, &method);
        match channel.request_as(Some(request), method.clone(), held.facts, answered) {
            Ok(_) => {
                note(
                    record,
                    &mut self.topology,
                    request,
                    method,
                    answered,
                    held.recovers,
                    self.now,
                );
                // If it has to be made again, then again ahead of the same messages.
                if let Some(sent) = record.in_flight.last().filter(|sent| sent.id == request) {
                    sent.ahead_of = held.ahead_of;
                }
                if let Some(consumer) = absent {
                    let ended = ChannelEvent::ConsumerEnded { consumer };
                    self.events.push_back(Event::Channel(id, ended));
                }
            }
            // The channel's end is yet to be reported. Nothing of this was sent.
            Err(CommandError::Ended(_)) => {
                record.held.insert(next, held);
                return false;
            }
            Err(error) => {
                if matches!(method, Method::BasicConsume(_)) && !answered {
                    let (consumer, error) = (request.into(), not_sent(&error));
                    let failed = ChannelEvent::ConsumerFailed { consumer, error };
                    self.events.push_back(Event::Channel(id, failed));
                }
                let failed = ChannelEvent::Failed { request, error };
                self.events.push_back(Event::Channel(id, failed));
            }
        }
        true
    }
}

/// Returns whether the entity is a consumer that already runs on the channel.
fn is_running(channel: &mut crate::Channel<'_>, entity: &Entity) -> bool {
    match entity {
        Entity::Consumer { consumer, consumer_tag, .. } => {
            channel.consumer(consumer_tag) == Some(*consumer)
        }
        _ => false,
    }
}

/// Returns the error of something that was not restored because its request could not be sent.
pub(super) fn not_sent(error: &CommandError) -> ChannelError {
    ChannelError::not_restored(ReplyCode::NOT_ALLOWED, error)
}

/// The properties of a message that is sent again, which say so.
fn marked(message: &KeptMessage) -> Option<RawProperties> {
    // What cannot be read goes out again as it is.
    let mut properties: Properties = message.properties.decode().ok()?;
    let mut headers = properties.headers.take().unwrap_or_default();
    headers.insert("x-republished", true).ok()?;
    properties.headers = Some(headers);
    Some(RawProperties::from(&properties))
}
