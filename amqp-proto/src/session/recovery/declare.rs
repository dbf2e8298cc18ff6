//! Declaring exchanges, queues and bindings, on a channel of their own.

use alloc::vec::Vec;
use core::ops::RangeInclusive;

use super::repair::Repair;
use crate::method::Method;
use crate::session::context::Context;
use crate::session::report::Entity;
use crate::session::topology::{Declaration, Purpose};
use crate::{
    ChannelError, ChannelId, CommandError, PublishSeq, Reply, ReplyCode, RequestId, ShortStr,
};

impl Repair {
    /// Sends declarations. When all have a reply, goes on with channels.
    pub(super) fn declare(&mut self, cx: &mut Context) {
        loop {
            if self.declarations.is_idle() {
                self.name_queues(cx);
            }
            if self.declarations.is_idle() {
                if !core::mem::replace(&mut self.declarations.done, true) {
                    self.close_declaring_channel(cx);
                    self.begin_channels(cx);
                }
                return;
            }
            if self.declarations.steps.is_empty() || !self.send_declarations(cx) {
                return;
            }
        }
    }

    /// Sends declarations as far as possible. Returns whether there is more to do at once.
    fn send_declarations(&mut self, cx: &mut Context) -> bool {
        let channel = self.declaring_channel(cx).and_then(|id| cx.connection.channel(id).ok());
        let Some(mut channel) = channel else { return self.fail_without_channel(cx) };
        let own = &mut self.declarations;
        let mut declared = None;
        let mut failed = Vec::new();
        while let Some(mut step) = own.steps.pop_front() {
            if cx.topology.needs_name(&step) {
                own.later.push(step);
                continue;
            }
            match &mut step.method {
                Method::QueueDeclare(_) => declared = step.queue.clone(),
                // An empty name means the queue that was declared last, on this very channel.
                Method::QueueBind(bind) if bind.queue.is_empty() && step.queue != declared => {
                    if let Some(queue) = &step.queue {
                        bind.queue = cx.topology.current(queue).clone();
                        if bind.routing_key.is_empty() && !step.entity.has_empty_key() {
                            bind.routing_key = bind.queue.clone();
                        }
                    }
                }
                _ => {}
            }
            let facts = step.method.facts();
            match channel.request_as(None, &step.method, facts, true) {
                Ok(id) => own.awaiting.push_back((id, step)),
                // The channel has ended, and one of the next events reports that. Then this is sent on another channel.
                Err(CommandError::Ended(_)) => {
                    own.steps.push_front(step);
                    break;
                }
                Err(error) => failed.push((step, ChannelError::not_sent(&error))),
            }
        }
        // If nothing was sent, no reply will continue this.
        let again = !failed.is_empty() || own.is_idle() && !own.later.is_empty();
        failed.into_iter().for_each(|(step, error)| self.fail_declaration(cx, &step, error));
        again
    }

    /// Returns the channel for declarations, which is opened if necessary.
    fn declaring_channel(&mut self, cx: &mut Context) -> Option<ChannelId> {
        if self.declarations.channel.is_none() {
            let Context { connection, channels, .. } = &mut *cx;
            let max = connection.negotiated().map_or(0, |agreed| agreed.channel_max);
            // Channels that wait to be reopened keep their numbers.
            let opened = channels
                .unused(0, max)
                .find_map(|number| connection.open_channel_numbered(number).ok());
            // If all numbers are in use, the last channel that is being restored has to serve. A channel that the application
            // uses cannot: a refusal would close it.
            let detached =
                |id: &&ChannelId| cx.channels.get(**id).is_some_and(|record| !record.attached);
            let last = self.channels.keys().rev().find(detached).copied();
            self.declarations.channel = opened.or(last);
        }
        self.declarations.channel
    }

    /// There is no channel for declarations. If this persists, they fail. Returns whether they failed.
    fn fail_without_channel(&mut self, cx: &mut Context) -> bool {
        // If the connection is lost, one of the next events reports it. A channel that is closing frees its number.
        let ending = cx.channels.iter().any(|(_, record)| record.closing);
        if !cx.connection.is_open() || cx.connection.is_closing_channels() || ending {
            return false;
        }
        let error = ChannelError::not_restored(ReplyCode::NOT_ALLOWED, "all channels are in use");
        for step in core::mem::take(&mut self.declarations.steps) {
            self.fail_declaration(cx, &step, error.clone());
        }
        true
    }

    /// All queues are declared: continues with bindings that needed the names of queues.
    fn name_queues(&mut self, cx: &mut Context) {
        for mut step in core::mem::take(&mut self.declarations.later) {
            if let (Method::QueueBind(bind), Some(queue)) = (&mut step.method, &step.queue) {
                bind.queue = cx.topology.current(queue).clone();
            }
            if cx.topology.needs_name(&step) {
                let why = "its queue could not be declared again";
                let error = ChannelError::not_restored(ReplyCode::NOT_FOUND, why);
                self.fail_declaration(cx, &step, error);
            } else {
                self.declarations.steps.push_back(step);
            }
        }
    }

    fn close_declaring_channel(&mut self, cx: &mut Context) {
        // A channel of the application stays open.
        let own = self.declarations.channel.take().filter(|id| cx.channels.get(*id).is_none());
        if let Some(mut channel) = own.and_then(|id| cx.connection.channel(id).ok()) {
            channel.close(ReplyCode::REPLY_SUCCESS, "recovered");
        }
    }

    /// Handles the reply to the oldest declaration. Returns whether it is one.
    pub(super) fn handle_declared(
        &mut self,
        cx: &mut Context,
        id: ChannelId,
        request: RequestId,
        reply: &Reply,
    ) -> bool {
        if self.declarations.channel != Some(id) {
            return false;
        }
        let awaiting = &mut self.declarations.awaiting;
        if awaiting.front().is_none_or(|(awaited, _)| *awaited != request) {
            return false;
        }
        let Some((_, step)) = awaiting.pop_front() else { return false };
        match step.purpose {
            Purpose::Probe(channel, consumer) => self.handle_probed(cx, (channel, consumer), reply),
            Purpose::Resume(channel, consumer) => self.start_resumed(cx, channel, consumer),
            Purpose::Restore | Purpose::Again => self.handle_declaration(cx, &step, reply),
        }
        true
    }

    fn handle_declaration(&mut self, cx: &mut Context, step: &Declaration, reply: &Reply) {
        if let Entity::Queue(name) = &step.entity {
            // An earlier try of this repair may have failed.
            self.missing.remove(name);
        }
        if let (Entity::Queue(old), Reply::Method(Method::QueueDeclareOk(answer))) =
            (&step.entity, reply)
        {
            if *old != answer.queue {
                let new = answer.queue.detached();
                self.report.renamed.push((old.clone(), new.clone()));
                cx.rename(old, &new);
            }
        }
        // Entities that the broker deleted with a channel were counted when they were restored for the first time.
        if step.purpose == Purpose::Restore || !self.is_full() {
            self.report_success(cx, &step.entity);
        }
    }

    /// The broker has closed the channel for declarations. If it refused a declaration, that is the oldest one without a reply.
    /// Those after it are sent again.
    pub(super) fn handle_declaring_channel_closed(
        &mut self,
        cx: &mut Context,
        id: ChannelId,
        error: &ChannelError,
        unconfirmed: &[RangeInclusive<PublishSeq>],
    ) {
        self.declarations.channel = None;
        let Some(record) = cx.channels.get(id) else {
            let refused = self.declarations.awaiting.pop_front();
            self.declarations.repeat();
            if let Some((_, step)) = refused {
                self.fail_declaration(cx, &step, error.clone());
            }
            return;
        };
        // All numbers are in use, so this is a channel of the application. Its mode is selected there, and it may commit.
        debug_assert!(!record.attached && !record.closing);
        let restoring = self.channels.get(&id);
        let is_alone =
            record.in_flight.is_empty() && restoring.is_none_or(|own| own.awaiting.is_empty());
        // The close blames the oldest declaration if it names its method. If it names none, the declaration is to blame only
        // where nothing else was outstanding.
        let cause = error.as_close().map(|close| (close.class_id, close.method_id));
        let is_refused = self.declarations.oldest().is_some_and(|step| match cause {
            None | Some((0, 0)) => is_alone,
            cause => cause == Some(step.method.facts().id),
        });
        let one_by_one = restoring.is_some_and(|own| own.one_by_one);
        let refused = if is_refused { self.declarations.awaiting.pop_front() } else { None };
        self.declarations.repeat();
        if let Some((_, step)) = refused {
            self.fail_declaration(cx, &step, error.clone());
            // Everything else that was sent on the channel has ended as well.
            cx.interrupt_over(id, error, unconfirmed);
            self.reopen_channel(cx, id, one_by_one);
        } else {
            self.handle_restored_channel_closed(cx, id, error, unconfirmed);
        }
    }

    fn fail_declaration(&mut self, cx: &mut Context, step: &Declaration, error: ChannelError) {
        match step.purpose {
            Purpose::Probe(channel, consumer) => {
                return self.fail_probe(cx, (channel, consumer), error);
            }
            Purpose::Resume(channel, consumer) => {
                return self.fail_resumed(cx, channel, consumer, error);
            }
            Purpose::Restore | Purpose::Again => {}
        }
        if let Entity::Queue(name) = &step.entity {
            self.missing.insert(name.clone(), error.reason());
            let own = &mut self.declarations;
            let mut left_out = Vec::new();
            let mut is_kept = |step: &Declaration| {
                let kept = step.queue.as_ref() != Some(name);
                if !kept {
                    left_out.push(step.entity.clone());
                }
                kept
            };
            own.steps.retain(&mut is_kept);
            own.later.retain(&mut is_kept);
            if self.retry_locked_queue(cx, name, &error) {
                // Its bindings are created once it is declared.
                return;
            }
            left_out.retain(|entity| matches!(entity, Entity::Binding { .. }));
            self.report.left_out.append(&mut left_out);
        }
        self.report_failure(cx, step.entity.clone(), error);
    }

    /// Returns whether the queue is locked by another connection, and will be declared again later.
    fn retry_locked_queue(
        &mut self,
        cx: &mut Context,
        queue: &ShortStr,
        error: &ChannelError,
    ) -> bool {
        let Some(recovering) = &mut cx.recovering else { return false };
        let locked = error.reply_code() == Some(ReplyCode::RESOURCE_LOCKED)
            && recovering.retry_later(cx.now);
        if locked {
            recovering.locks.queues.push(queue.clone());
            self.report.locked.push(Entity::Queue(queue.clone()));
        }
        locked
    }
}
