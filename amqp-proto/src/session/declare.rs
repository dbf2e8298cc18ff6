//! Declaring again what was there: exchanges, queues, bindings.

use alloc::boxed::Box;
use alloc::vec::Vec;
use core::ops::RangeInclusive;

use super::replay::Replay;
use super::report::Entity;
use super::restore::not_sent;
use super::topology::{Purpose, Step};
use super::{LEAST_DELAY, Locked, Phase, Session, slot};
use crate::method::Method;
use crate::{
    ChannelError, ChannelId, CommandError, PublishSeq, Reply, ReplyCode, RequestId, ShortStr,
};

impl Session {
    /// There is a connection again.
    pub(super) fn begin_replay(&mut self) {
        let Phase::Down(outage) = &self.phase else { return };
        if let Some(recovering) = &mut self.recovering {
            recovering.locked.clear();
            recovering.exclusive.clear();
            recovering.locked_until = None;
        }
        let mut replay = Replay::new(true, self.now);
        replay.report.attempts = outage.attempts;
        replay.report.connecting = self.now.duration_since(outage.since);
        let condemned = outage.condemned.clone();
        replay.steps = self.topology.steps().into();
        replay.one_by_one = outage.one_by_one;
        let queues = condemned.iter().filter_map(|(entity, _)| match entity {
            Entity::Queue(name) => Some(name.clone()),
            _ => None,
        });
        replay.missing = queues.collect();
        // Without a queue there are no bindings of it. Without a binding there still is its queue.
        replay.steps.retain(|step| {
            let left_out = condemned.iter().any(|(entity, _)| *entity == step.entity);
            !left_out && step.queue.as_ref().is_none_or(|queue| !replay.missing.contains(queue))
        });
        let failed = condemned.into_iter();
        replay.report.failed =
            failed.map(|(entity, error)| (entity, ChannelError::Connection(error))).collect();
        self.replay = Some(Box::new(replay));
        for id in self.detached_channels() {
            self.open_again(id);
        }
        self.send_declarations();
    }

    pub(super) fn detached_channels(&self) -> Vec<ChannelId> {
        let all = (1u16..).zip(&self.channels);
        let detached = all.filter(|(_, record)| {
            record.as_ref().is_some_and(|record| !record.attached && !record.closing)
        });
        detached.map(|(number, _)| ChannelId(number)).collect()
    }

    /// Sends what is to be declared; goes on with the channels when all of it is.
    pub(super) fn send_declarations(&mut self) {
        let Some(replay) = &mut self.replay else { return };
        if replay.steps.is_empty() && replay.awaiting.is_empty() && !replay.later.is_empty() {
            self.name_queues();
        }
        let Some(replay) = &mut self.replay else { return };
        if replay.steps.is_empty() && replay.awaiting.is_empty() {
            if !replay.declared {
                replay.declared = true;
                self.close_declaring_channel();
                self.begin_channels();
            }
            return self.finish_replay();
        }
        if replay.steps.is_empty() {
            return;
        }
        if replay.channel.is_none() {
            // Where all numbers are taken, the last of them has to serve. Not one that the application uses: a refusal would
            // close it.
            let detached = |id: &&ChannelId| {
                slot(&mut self.channels, **id).is_some_and(|record| !record.attached)
            };
            let last = replay.channels.keys().rev().find(detached).copied();
            let max = self.connection.negotiated().map_or(0, |agreed| agreed.channel_max);
            let open = |number| {
                // Channels that wait to be opened again keep theirs.
                let free = slot(&mut self.channels, ChannelId(number)).is_none();
                free.then(|| self.connection.open_channel_numbered(number).ok()).flatten()
            };
            replay.channel = (1..=max).find_map(open).or(last);
        }
        let channel = replay.channel.and_then(|id| self.connection.channel(id).ok());
        let Some(mut channel) = channel else {
            return self.nowhere_to_declare();
        };
        let mut declared = None;
        let mut failed = Vec::new();
        while let Some(mut step) = replay.steps.pop_front() {
            if self.topology.needs_name(&step) {
                replay.later.push(step);
                continue;
            }
            match &mut step.method {
                Method::QueueDeclare(_) => declared = step.queue.clone(),
                // An empty name means the queue that was declared last, on this very channel.
                Method::QueueBind(bind) if bind.queue.is_empty() && step.queue != declared => {
                    if let Some(queue) = &step.queue {
                        bind.queue = self.topology.current(queue).clone();
                        if bind.routing_key.is_empty() && !step.entity.has_empty_key() {
                            bind.routing_key = bind.queue.clone();
                        }
                    }
                }
                _ => {}
            }
            let facts = step.method.facts();
            match channel.request_as(None, step.method.clone(), facts, true) {
                Ok(id) => replay.awaiting.push_back((id, step)),
                // The channel has ended, and its event is yet to come: then this is sent on another.
                Err(CommandError::Ended(_)) => {
                    replay.steps.push_front(step);
                    break;
                }
                Err(error) => failed.push((step, not_sent(&error))),
            }
        }
        // Without a request there is no reply to wait for.
        let nothing_sent = replay.steps.is_empty() && replay.awaiting.is_empty();
        let again = !failed.is_empty() || nothing_sent && !replay.later.is_empty();
        failed.into_iter().for_each(|(step, error)| self.declaration_failed(&step, error));
        if again {
            self.send_declarations();
        }
    }

    /// All queues are declared: goes on with bindings that needed the name of theirs.
    fn name_queues(&mut self) {
        let Some(replay) = &mut self.replay else { return };
        let mut nameless = Vec::new();
        for mut step in core::mem::take(&mut replay.later) {
            if let (Method::QueueBind(bind), Some(queue)) = (&mut step.method, &step.queue) {
                bind.queue = self.topology.current(queue).clone();
            }
            match self.topology.needs_name(&step) {
                true => nameless.push(step),
                false => replay.steps.push_back(step),
            }
        }
        for step in nameless {
            let why = "the name of its queue is not known";
            self.declaration_failed(&step, ChannelError::not_restored(ReplyCode::NOT_FOUND, why));
        }
    }

    /// All channels are in use. What should be declared while the rest goes on is not.
    fn nowhere_to_declare(&mut self) {
        let Some(replay) = &mut self.replay else { return };
        // When the connection is lost, that is one of the next events; and a channel that is closing frees its number, at last
        // with its own event.
        let ending = self.channels.iter().flatten().any(|record| record.closing);
        if !self.connection.is_open() || self.connection.is_closing_channels() || ending {
            return;
        }
        let error = ChannelError::not_restored(ReplyCode::NOT_ALLOWED, "all channels are in use");
        for step in core::mem::take(&mut replay.steps) {
            self.declaration_failed(&step, error.clone());
        }
        self.send_declarations();
    }

    pub(super) fn close_declaring_channel(&mut self) {
        let Some(replay) = &mut self.replay else { return };
        let own = replay.channel.take().filter(|id| slot(&mut self.channels, *id).is_none());
        if let Some(mut channel) = own.and_then(|id| self.connection.channel(id).ok()) {
            channel.close(ReplyCode::REPLY_SUCCESS, "recovered");
        }
    }

    pub(super) fn declared(&mut self, id: ChannelId, request: RequestId, reply: &Reply) {
        let Some(replay) = self.replay.as_mut().filter(|replay| replay.channel == Some(id)) else {
            return;
        };
        if replay.awaiting.front().is_none_or(|(awaited, _)| *awaited != request) {
            return;
        }
        let Some((_, step)) = replay.awaiting.pop_front() else { return };
        match step.purpose {
            Purpose::Probe(channel, consumer) => {
                self.probed((channel, consumer), reply);
                return self.send_declarations();
            }
            Purpose::Resume(channel, consumer) => {
                self.start_again(channel, consumer);
                return self.send_declarations();
            }
            Purpose::Restore | Purpose::Again => {}
        }
        let Some(replay) = &mut self.replay else { return };
        if let (Entity::Queue(old), Reply::Method(Method::QueueDeclareOk(answer))) =
            (&step.entity, reply)
        {
            if *old != answer.queue {
                let new = answer.queue.detached();
                replay.report.renamed.push((old.clone(), new.clone()));
                self.rename(old, &new);
            }
        }
        // What a channel took with it was counted when it came back for the first time.
        if step.purpose == Purpose::Restore || !self.replay.as_ref().is_some_and(|own| own.whole) {
            self.report_success(&step.entity);
        }
        self.send_declarations();
    }

    pub(super) fn rename(&mut self, old: &ShortStr, new: &ShortStr) {
        self.topology.renamed(old, new);
        for record in self.channels.iter_mut().flatten() {
            let consumers = record.consumers.iter_mut().map(|consumer| &mut consumer.consume.queue);
            for name in consumers.chain([&mut record.last_queue]).filter(|name| *name == old) {
                *name = new.clone();
            }
        }
    }

    /// The broker has closed the channel on which recovery declares. If it refused a declaration, that is the oldest
    /// unanswered one. The declarations behind it are sent again.
    pub(super) fn declaring_channel_closed(
        &mut self,
        id: ChannelId,
        error: ChannelError,
        unconfirmed: &[RangeInclusive<PublishSeq>],
    ) {
        let cause = error.as_close().map(|close| (close.class_id, close.method_id));
        let record = slot(&mut self.channels, id);
        let Some(replay) = &mut self.replay else { return };
        replay.channel = None;
        // Where all channel numbers are in use, recovery declares on a channel of the application. Its mode is selected
        // there at the same time, and it may commit.
        debug_assert!(record.as_ref().is_none_or(|record| !record.attached && !record.closing));
        let is_own = record.is_none();
        let restoring = replay.channels.get(&id);
        let is_alone = record.is_none_or(|record| record.in_flight.is_empty())
            && restoring.is_none_or(|restoring| restoring.awaiting.is_empty());
        // The close blames the oldest declaration if it names its method. If it names none, the declaration is to blame only where
        // nothing else was outstanding: on recovery's own channel, or on one of the application's that was idle.
        let is_refused = replay.awaiting.front().is_some_and(|(_, step)| match cause {
            _ if is_own => true,
            None | Some((0, 0)) => is_alone,
            cause => cause == Some(step.method.facts().id),
        });
        let one_by_one = restoring.is_some_and(|restoring| restoring.one_by_one);
        let refused = if is_refused { replay.awaiting.pop_front() } else { None };
        for (_, step) in replay.awaiting.drain(..).rev() {
            replay.steps.push_front(step);
        }
        if let Some((_, step)) = &refused {
            self.declaration_failed(step, error.clone());
        }
        match is_own {
            true => self.send_declarations(),
            // Everything else that was outstanding on the channel has ended with it.
            false if is_refused => {
                self.interrupt_over(id, &error, unconfirmed);
                self.restore_again(id, one_by_one);
            }
            false => self.restored_channel_closed(id, error, unconfirmed),
        }
    }

    pub(super) fn declaration_failed(&mut self, step: &Step, error: ChannelError) {
        match step.purpose {
            Purpose::Probe(channel, consumer) => {
                return self.probe_failed((channel, consumer), error);
            }
            Purpose::Resume(channel, consumer) => {
                return self.resume_failed(channel, consumer, error);
            }
            Purpose::Restore | Purpose::Again => {}
        }
        if let (Entity::Queue(name), Some(replay)) = (&step.entity, &mut self.replay) {
            replay.missing.insert(name.clone());
            replay.steps.retain(|step| step.queue.as_ref() != Some(name));
            replay.later.retain(|step| step.queue.as_ref() != Some(name));
            if self.keep_for_later(name, &error) {
                return;
            }
        }
        self.report_failure(step.entity.clone(), error);
    }

    /// Schedules another attempt if another connection holds the queue exclusively. Returns whether it did.
    pub(super) fn keep_for_later(&mut self, queue: &ShortStr, error: &ChannelError) -> bool {
        let (Some(recovering), Some(replay)) = (&mut self.recovering, &mut self.replay) else {
            return false;
        };
        let locked = matches!(error, ChannelError::Closed(close)
            if close.reply_code == ReplyCode::RESOURCE_LOCKED);
        let Locked::Retry(after) = recovering.policy.locked else {
            return false;
        };
        if locked {
            recovering.locked.push(queue.clone());
            recovering.locked_until = self.now.checked_add(after.max(LEAST_DELAY));
            replay.report.locked.push(Entity::Queue(queue.clone()));
        }
        locked
    }
}
