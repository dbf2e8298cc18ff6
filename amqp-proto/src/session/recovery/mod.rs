//! Restoring state on a connection.
//!
//! A [`Repair`] restores everything after a loss, or a part of it while the rest continues: a channel that the broker closed,
//! consumers that it cancelled, queues that were locked, consumers that were paused. First it declares exchanges, queues and
//! bindings, all at once, on a separate channel. Then it restores the state of each channel, on that channel.
//!
//! ```text
//! handle_reply ───────────┐              ┌─ declare.rs   exchanges, queues, bindings
//! handle_channel_closed ──┼─── Repair ───┤
//! advance ────────────────┘              └─ channels.rs  modes, prefetch limits, consumers (in the order of plan.rs)
//! ```
//!
//! The broker closes the channel on which it refuses a request. A closed channel is opened again, without the refused request. If
//! it is not known which request was refused, requests are repeated one at a time.
//!
//! A repair works on the [`Context`] and never calls the session. `handle_*` methods record what happened, and
//! [`advance`](Repair::advance) sends what can be sent next.

mod channels;
mod declare;
mod exclusive;
mod plan;
mod resume;

use alloc::collections::BTreeMap;
use alloc::string::ToString as _;
use alloc::sync::Arc;
use alloc::vec::Vec;
use core::ops::RangeInclusive;

use channels::{ChannelRepair, leave_out};
use declare::Declarations;

use super::context::Context;
use super::outage::Outage;
use super::report::{Entity, RecoveryReport};
use super::topology::Declaration;
use crate::error::chain;
use crate::method::Method;
use crate::time::Instant;
use crate::{
    ChannelError, ChannelEvent, ChannelId, ConnectionError, ConsumerId, Event, PublishSeq, Reply,
    RequestId, SessionEvent, ShortStr,
};

/// The restoring of state on the present connection. See the [module](self).
#[derive(Debug)]
pub(super) struct Repair {
    scope: Scope,
    report: RecoveryReport,
    declarations: Declarations,
    /// Queues that could not be declared, with the reasons. What belongs to them is left out.
    missing: BTreeMap<ShortStr, Arc<str>>,
    channels: BTreeMap<ChannelId, ChannelRepair>,
    /// Consumers to start once their queues are declared, on channels that are open.
    consumers: Vec<(ChannelId, ConsumerId)>,
    /// Restore channels one after the other, with one request at a time.
    one_by_one: bool,
}

#[derive(Debug, Clone, Copy, PartialEq, Eq)]
enum Scope {
    /// Everything, after a loss.
    Full {
        /// When the connection was open.
        began: Instant,
    },
    /// A part of it, while the rest goes on.
    Partial,
}

impl Repair {
    /// Begins to restore a part of the state.
    pub(super) fn partial() -> Self {
        Self {
            scope: Scope::Partial,
            report: RecoveryReport::default(),
            declarations: Declarations::default(),
            missing: BTreeMap::new(),
            channels: BTreeMap::new(),
            consumers: Vec::new(),
            one_by_one: false,
        }
    }

    /// Begins to restore everything after an outage.
    pub(super) fn full(outage: &Outage, cx: &mut Context) -> Self {
        if let Some(recovering) = &mut cx.recovering {
            recovering.locks.clear();
        }
        let mut repair = Self {
            scope: Scope::Full { began: cx.now },
            one_by_one: outage.one_by_one,
            ..Self::partial()
        };
        repair.report.attempts = outage.attempts;
        repair.report.connecting = cx.now.duration_since(outage.since);
        repair.leave_out_condemned(outage, cx);
        for id in cx.detached_channels() {
            repair.open_channel(cx, id);
        }
        repair
    }

    /// Plans all declarations, except those for which the broker has closed a connection.
    fn leave_out_condemned(&mut self, outage: &Outage, cx: &Context) {
        let condemned = &outage.condemned;
        let queues = condemned.iter().filter_map(|(entity, error)| match entity {
            Entity::Queue(name) => Some((name.clone(), chain(error).to_string().into())),
            _ => None,
        });
        self.missing = queues.collect();
        let mut steps = cx.topology.steps();
        // A queue that is left out has no bindings. A binding that is left out still has its queue.
        steps.retain(|step| {
            let left_out = condemned.iter().any(|(entity, _)| *entity == step.entity);
            !left_out && step.queue.as_ref().is_none_or(|queue| !self.missing.contains_key(queue))
        });
        self.declarations.add(steps);
        let failed = condemned.iter();
        self.report.failed = failed
            .map(|(entity, error)| (entity.clone(), ChannelError::Connection(error.clone())))
            .collect();
    }

    /// Adds declarations, and consumers to start after them.
    pub(super) fn add(
        &mut self,
        declarations: Vec<Declaration>,
        consumers: impl IntoIterator<Item = (ChannelId, ConsumerId)>,
    ) {
        self.declarations.add(declarations);
        self.consumers.extend(consumers);
    }

    /// Handles the reply to a request that the application has not made. Returns whether this repair has made it.
    pub(super) fn handle_reply(
        &mut self,
        cx: &mut Context,
        id: ChannelId,
        request: RequestId,
        reply: &Reply,
    ) -> bool {
        self.handle_declared(cx, id, request, reply) || self.handle_restored(cx, id, request)
    }

    /// Handles the close of a channel by the broker. Returns whether the close concerns this repair. Then its state is
    /// interrupted, and it will be reopened.
    pub(super) fn handle_channel_closed(
        &mut self,
        cx: &mut Context,
        id: ChannelId,
        error: &ChannelError,
        unconfirmed: &[RangeInclusive<PublishSeq>],
    ) -> bool {
        if self.declarations.channel == Some(id) {
            self.handle_declaring_channel_closed(cx, id, error, unconfirmed);
            return true;
        }
        let Some(record) = cx.channels.get(id).filter(|record| !record.closing) else {
            return false;
        };
        let Some(own) = self.channels.get(&id) else { return false };
        // A channel that is open may have been closed for another reason.
        let concerned =
            !record.attached || error.as_close().is_some_and(|close| own.is_suspect(close));
        if concerned {
            self.handle_restored_channel_closed(cx, id, error, unconfirmed);
        }
        concerned
    }

    /// Forgets a channel that has ended. What was declared on it without a reply is declared on another.
    pub(super) fn forget(&mut self, id: ChannelId) {
        self.channels.remove(&id);
        self.consumers.retain(|(channel, _)| *channel != id);
        if self.declarations.channel == Some(id) {
            self.declarations.channel = None;
            self.declarations.repeat();
        }
    }

    /// Sends what can be sent. Returns whether everything is restored or has failed.
    pub(super) fn advance(&mut self, cx: &mut Context) -> bool {
        self.declare(cx);
        // A connection that has ended is not recovered. One of its next events reports its end.
        if !cx.connection.is_open() {
            return false;
        }
        self.send_next_channels(cx);
        self.declarations.are_done() && self.channels.values().all(ChannelRepair::is_done)
    }

    /// Hands the restored channels to the application. Returns the report.
    pub(super) fn finish(self, cx: &mut Context) -> RecoveryReport {
        let Self { scope, mut report, channels, .. } = self;
        for (id, restored) in channels {
            report.consumers += restored.consumers;
            if cx.channels.get(id).is_some_and(|record| !record.attached) {
                report.channels += 1;
                report.republished += cx.attach(id);
                cx.emit(id, ChannelEvent::Restored);
            }
        }
        if let Scope::Full { began } = scope {
            report.restoring = cx.now.duration_since(began);
        }
        report
    }

    /// The broker has closed the connection, perhaps for a request of this repair. That request must not be repeated on each
    /// connection: the next repair leaves it out.
    pub(super) fn condemn(&self, cx: &mut Context, outage: &mut Outage, error: &ConnectionError) {
        let ConnectionError::Closed(close) = error else { return };
        let cause = (close.class_id, close.method_id);
        let is_cause = |method: &Method| method.facts().id == cause;
        // The broker handles the requests of a channel in order: the oldest without a reply is the one that it was processing.
        let declaring = self.declarations.oldest().filter(|step| is_cause(&step.method));
        let declaring = declaring.map(|step| step.entity.clone());
        let suspects: Vec<_> = self
            .channels
            .iter()
            .filter_map(|(id, own)| Some((*id, own.oldest()?.clone())))
            .filter(|(_, step)| is_cause(&step.method))
            .collect();
        // If a mode is refused, it is refused on each channel.
        let modes = suspects.iter().all(|(_, step)| matches!(step.entity, Entity::Channel(_)));
        if !modes && suspects.len() + usize::from(declaring.is_some()) > 1 {
            // There is no order between channels. The next repair sends one request at a time.
            outage.one_by_one = true;
            return;
        }
        if let Some(entity) = declaring {
            outage.condemned.push((entity, error.clone()));
        }
        for (id, step) in suspects {
            outage.condemned.push((step.entity.clone(), error.clone()));
            leave_out(cx, id, &step, &ChannelError::Connection(error.clone()));
        }
    }

    /// Starts a consumer when the declarations are done.
    pub(super) fn start(&mut self, consumer: (ChannelId, ConsumerId)) {
        self.consumers.push(consumer);
    }

    const fn is_full(&self) -> bool {
        matches!(self.scope, Scope::Full { .. })
    }

    fn report_success(&mut self, cx: &mut Context, entity: &Entity) {
        match entity {
            // If its channel is closed before the repair is finished, the consumer is started once more, and counted then.
            Entity::Consumer { channel, .. } => {
                if let Some(own) = self.channels.get_mut(channel) {
                    own.consumers += 1;
                }
            }
            entity => self.report.restored(entity),
        }
        if self.scope == Scope::Partial {
            let event = SessionEvent::Restored { entity: entity.clone() };
            cx.events.push_back(Event::Session(event));
        }
    }

    pub(super) fn report_locked(&mut self, entity: Entity) {
        self.report.locked.push(entity);
    }

    pub(super) fn report_failure(&mut self, cx: &mut Context, entity: Entity, error: ChannelError) {
        match self.scope {
            Scope::Full { .. } => self.report.failed.push((entity, error)),
            Scope::Partial => {
                let event = SessionEvent::NotRestored { entity, error };
                cx.events.push_back(Event::Session(event));
            }
        }
    }
}
