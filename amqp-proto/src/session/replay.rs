use alloc::boxed::Box;
use alloc::collections::{BTreeMap, BTreeSet, VecDeque};
use alloc::vec::Vec;
use core::ops::RangeInclusive;

use super::report::{Entity, RecoveryReport};
use super::steps::ChannelStep;
use super::topology::Step;
use super::{OnCancel, Phase, Session, slot};
use crate::method::{Method, QueueDeclare};
use crate::time::Instant;
use crate::{
    ChannelError, ChannelEvent, ChannelId, Close, ConnectionError, ConsumerId, Event, Initiator,
    PublishSeq, RequestId, SessionEvent, ShortStr,
};

/// What is being brought back: everything, after a loss; or some of it, while the rest goes on.
///
/// First exchanges, queues and bindings are declared, all at once, on a channel of their own: the broker closes it over
/// what it refuses, and then it is opened again for what is behind that. Then consumers are started on their channels.
#[derive(Debug)]
pub(super) struct Replay {
    /// After a loss.
    pub(super) whole: bool,
    pub(super) began: Instant,
    pub(super) report: RecoveryReport,
    /// Where declarations go.
    pub(super) channel: Option<ChannelId>,
    pub(super) steps: VecDeque<Step>,
    pub(super) awaiting: VecDeque<(RequestId, Step)>,
    /// What is declared when all of that is answered, as it needs the names that the broker gives.
    pub(super) later: Vec<Step>,
    /// Queues that are not there, so that nothing can be done about what belongs to them.
    pub(super) missing: BTreeSet<ShortStr>,
    pub(super) channels: BTreeMap<ChannelId, Restoring>,
    /// Consumers to start once their queues are there, while the rest goes on.
    pub(super) consumers: Vec<(ChannelId, ConsumerId)>,
    /// Declarations are done with.
    pub(super) declared: bool,
    /// What stands on channels is asked for one by one, on one channel after the other.
    pub(super) one_by_one: bool,
}

/// What is being brought back on a channel.
#[derive(Debug, Default)]
pub(super) struct Restoring {
    pub(super) steps: VecDeque<ChannelStep>,
    pub(super) awaiting: VecDeque<(RequestId, ChannelStep)>,
    /// `steps` was filled; not before all that can be declared is.
    pub(super) planned: bool,
    /// The broker refused something. To find out what, nothing is sent before the answer to what was sent before.
    pub(super) one_by_one: bool,
    /// How many consumers are back.
    pub(super) consumers: usize,
}

impl Restoring {
    /// Returns whether a request of the recovery itself may have closed the channel.
    fn is_suspect(&self, close: &Close) -> bool {
        let cause = (close.class_id, close.method_id);
        cause == (0, 0) || self.awaiting.iter().any(|(_, step)| step.method.facts().id == cause)
    }

    fn is_done(&self) -> bool {
        self.steps.is_empty() && self.awaiting.is_empty()
    }
}

impl Replay {
    pub(super) fn new(whole: bool, began: Instant) -> Self {
        Self {
            whole,
            began,
            report: RecoveryReport::default(),
            channel: None,
            steps: VecDeque::new(),
            awaiting: VecDeque::new(),
            later: Vec::new(),
            missing: BTreeSet::new(),
            channels: BTreeMap::new(),
            consumers: Vec::new(),
            declared: false,
            one_by_one: false,
        }
    }
}

impl Replay {
    /// The channel has ended. What was declared on it and not answered is declared on another.
    pub(super) fn forget(&mut self, id: ChannelId) {
        self.channels.remove(&id);
        self.consumers.retain(|(channel, _)| *channel != id);
        if self.channel == Some(id) {
            self.channel = None;
            for (_, step) in self.awaiting.drain(..).rev() {
                self.steps.push_front(step);
            }
        }
    }
}

impl Session {
    /// A channel has ended.
    pub(super) fn take_closed(
        &mut self,
        id: ChannelId,
        error: ChannelError,
        unconfirmed: &[RangeInclusive<PublishSeq>],
    ) -> Option<Event> {
        match &error {
            ChannelError::Connection(lost) if self.recovers_from(lost) => {
                return self.interrupt(id, &error, unconfirmed);
            }
            // This end wanted it, whatever was under way: nothing is to blame, and nothing of the channel comes back.
            ChannelError::Closed(close) if close.by == Initiator::Local => {}
            ChannelError::Closed(close) => {
                let record = slot(&mut self.channels, id);
                let attached = record.as_ref().is_some_and(|record| record.attached);
                let comes_back = record.is_some_and(|record| !record.closing);
                let replay = self.replay.as_ref();
                if replay.is_some_and(|replay| replay.channel == Some(id)) {
                    self.declaring_channel_closed(id, error, unconfirmed);
                    return None;
                }
                let restoring = replay.and_then(|replay| replay.channels.get(&id));
                if comes_back && restoring.is_some_and(|own| !attached || own.is_suspect(close)) {
                    self.restored_channel_closed(id, error, unconfirmed);
                    return None;
                }
                if comes_back && self.hold_locked(id, close) {
                    return self.reopen(id, &error, unconfirmed);
                }
                if comes_back && self.policy_reopens() {
                    return self.reopen(id, &error, unconfirmed);
                }
            }
            ChannelError::Connection(_) | ChannelError::NotRestored { .. } => {}
        }
        if self.record(id).is_none() {
            // Its number is free again, for what waits for one.
            if let Some(replay) = &mut self.replay {
                replay.forget(id);
            }
            self.send_declarations();
            return None;
        }
        self.forget_channel(id);
        Some(Event::Channel(id, ChannelEvent::Closed(error)))
    }

    pub(super) fn policy_reopens(&self) -> bool {
        self.recovering.as_ref().is_some_and(|recovering| recovering.policy.reopen_channels)
    }

    pub(super) fn report_success(&mut self, entity: &Entity) {
        let Some(replay) = &mut self.replay else { return };
        match entity {
            // If its channel is closed before all is back, it is started once more, and counted then.
            Entity::Consumer { channel, .. } => {
                let restoring = replay.channels.get_mut(channel);
                restoring.into_iter().for_each(|restoring| restoring.consumers += 1);
            }
            entity => replay.report.restored(entity),
        }
        if !replay.whole {
            let event = SessionEvent::Restored { entity: entity.clone() };
            self.events.push_back(Event::Session(event));
        }
    }

    pub(super) fn report_failure(&mut self, entity: Entity, error: ChannelError) {
        match &mut self.replay {
            Some(replay) if replay.whole => replay.report.failed.push((entity, error)),
            _ => {
                let event = SessionEvent::NotRestored { entity, error };
                self.events.push_back(Event::Session(event));
            }
        }
    }

    /// If everything is back, or has failed, the application can go on.
    pub(super) fn finish_replay(&mut self) {
        // A connection that has ended is not recovered: that it has is one of the next events.
        if !self.connection.is_open() {
            return;
        }
        self.send_next_channels();
        let done = self.replay.take_if(|replay| {
            replay.declared
                && replay.steps.is_empty()
                && replay.awaiting.is_empty()
                && replay.channels.values().all(Restoring::is_done)
        });
        let Some(replay) = done else { return };
        let Replay { whole, began, mut report, channels, .. } = *replay;
        for (id, restoring) in channels {
            report.consumers += restoring.consumers;
            if slot(&mut self.channels, id).is_some_and(|record| !record.attached) {
                report.channels += 1;
                report.republished += self.attach(id);
                self.emit(id, ChannelEvent::Restored);
            }
        }
        let Some(recovering) = self.recovering.as_mut().filter(|_| whole) else { return };
        recovering.nodes.worked(recovering.node);
        recovering.since = self.now;
        report.node = recovering.node;
        report.restoring = self.now.duration_since(began);
        if let Phase::Down(outage) = core::mem::replace(&mut self.phase, Phase::Up) {
            // What is a mistake stays one: it is declared no more, or each later outage would lose one more connection.
            let mistakes = outage.condemned.iter().filter(|(_, error)| is_mistake(error));
            mistakes.for_each(|(entity, _)| self.topology.forget(entity));
        }
        self.events.push_back(Event::Session(SessionEvent::Recovered(Box::new(report))));
    }

    /// Returns the replay in progress, or starts one during which everything else goes on.
    pub(super) fn partly(&mut self) -> &mut Replay {
        let now = self.now;
        self.replay.get_or_insert_with(|| Box::new(Replay::new(false, now)))
    }

    /// The broker has cancelled a consumer: starts it again if the policy says so. Returns whether it does.
    pub(super) fn resubscribe(&mut self, id: ChannelId, consumer: ConsumerId) -> bool {
        let steps = self.resubscription(id, consumer);
        let resubscribes = steps.is_some();
        if let Some(steps) = steps {
            self.bring_back(steps, [(id, consumer)]);
        }
        resubscribes
    }

    /// Returns the declarations to make before a consumer that the broker has cancelled is started again; `None` if it is
    /// not.
    pub(super) fn resubscription(
        &mut self,
        id: ChannelId,
        consumer: ConsumerId,
    ) -> Option<Vec<Step>> {
        let policy = self.recovering.as_ref().map(|recovering| recovering.policy.on_cancel);
        let record = slot(&mut self.channels, id)?;
        let found = record.consumers.get(consumer)?;
        let queue = found.consume.queue.clone();
        if policy != Some(OnCancel::Resubscribe) || !found.recovers {
            record.consumers.remove(consumer);
            self.topology.unconsumed(&queue);
            return None;
        }
        record.streams.interrupt_one(consumer);
        let mut steps = self.topology.queue_steps(&queue);
        if steps.is_empty() {
            let declare = QueueDeclare { queue: queue.clone(), passive: true, ..<_>::default() };
            let entity = Entity::Queue(queue.clone());
            steps.push(Step::new(declare.into(), entity, Some(&queue)));
        }
        Some(steps)
    }

    /// Tries again what was locked.
    pub(super) fn retry_locked(&mut self) {
        let now = self.now;
        let Some(recovering) = &mut self.recovering else { return };
        let due = recovering.locked_until.is_some_and(|at| at <= now);
        if !due || !matches!(self.phase, Phase::Up) || self.replay.is_some() {
            return;
        }
        recovering.locked_until = None;
        let queues = core::mem::take(&mut recovering.locked);
        let exclusive = core::mem::take(&mut recovering.exclusive);
        let mut steps: Vec<_> =
            queues.iter().flat_map(|queue| self.topology.queue_steps(queue)).collect();
        steps.extend(exclusive.into_iter().filter_map(|waiting| self.probe(waiting)));
        let mut consumers = Vec::new();
        for (number, record) in (1u16..).zip(&self.channels) {
            let all = record.iter().flat_map(|record| record.consumers.iter());
            let waiting = all.filter(|consumer| queues.contains(&consumer.consume.queue));
            consumers.extend(waiting.map(|consumer| (ChannelId(number), consumer.id)));
        }
        self.bring_back(steps, consumers);
    }

    pub(super) fn bring_back(
        &mut self,
        steps: Vec<Step>,
        consumers: impl IntoIterator<Item = (ChannelId, ConsumerId)>,
    ) {
        let replay = self.partly();
        replay.steps.extend(steps);
        replay.consumers.extend(consumers);
        replay.declared = false;
        self.send_declarations();
    }

    /// A request that ends the whole connection must not do so again and again: it is left out the next time.
    pub(super) fn condemn(&mut self, error: &ConnectionError) {
        let (Phase::Down(outage), Some(replay)) = (&mut self.phase, &self.replay) else { return };
        let ConnectionError::Closed(close) = error else { return };
        let cause = (close.class_id, close.method_id);
        let is_cause = |method: &Method| method.facts().id == cause;
        // A channel is served in order: its oldest request is the one that the broker looked at.
        let declaring = replay.awaiting.front().filter(|(_, step)| is_cause(&step.method));
        let declaring = declaring.map(|(_, step)| step.entity.clone());
        let channels = replay.channels.iter().filter_map(|(id, restoring)| {
            let (_, step) = restoring.awaiting.front()?;
            is_cause(&step.method).then(|| (*id, step.clone()))
        });
        let suspects: Vec<_> = channels.collect();
        // Who does not have a mode does not have it on any channel.
        let modes = suspects.iter().all(|(_, step)| matches!(step.entity, Entity::Channel(_)));
        if !modes && suspects.len() + usize::from(declaring.is_some()) > 1 {
            // Between channels there is no order. The next time only one thing is asked for at a time.
            outage.one_by_one = true;
            return;
        }
        if let Some(entity) = declaring {
            outage.condemned.push((entity, error.clone()));
        }
        let entities = suspects.iter().map(|(_, step)| (step.entity.clone(), error.clone()));
        outage.condemned.extend(entities);
        for (id, step) in suspects {
            self.leave_out(id, &step, &ChannelError::Connection(error.clone()));
        }
    }
}

/// Returns whether the broker would refuse the same request again.
fn is_mistake(error: &ConnectionError) -> bool {
    matches!(error, ConnectionError::Closed(close)
        if close.reply_code.is_hard() && !close.reply_code.is_transient())
}
