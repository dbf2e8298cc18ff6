//! Restoring state on a connection.
//!
//! A [`Repair`] restores everything after a loss, or a part of it while the rest continues: a channel that the broker closed,
//! consumers that it cancelled, queues that were locked, consumers that were paused. First it declares exchanges, queues and
//! bindings, all at once, on a separate channel. Then it restores the state of each channel, on that channel.
//!
//! Each line of this picture calls only lines below it:
//!
//! ```text
//! Session               begins a repair, passes replies and closes to it, and lets it advance
//!    │
//! mod.rs                Repair: handle_reply, handle_channel_closed, advance, finish
//!    ├─ declare.rs      exchanges, queues and bindings
//!    ├─ channels.rs     modes, prefetch limits and consumers
//!    │   ├─ exclusive.rs   a consumer whose queue another consumer has for itself
//!    │   └─ resume.rs      a consumer that was paused
//!    ├─ repair.rs       the state of a repair, and its report
//!    ├─ plan.rs         requests to send, and requests without a reply
//!    │
//! Context               the connection, the records of channels, the declarations, the events
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
mod repair;
mod resume;

use alloc::string::ToString as _;
use alloc::vec::Vec;
use core::ops::RangeInclusive;

use channels::leave_out;
use plan::ChannelRepair;
pub(super) use repair::Repair;
use repair::Scope;

use super::context::Context;
use super::outage::Outage;
use super::report::{Entity, RecoveryReport};
use crate::error::chain;
use crate::method::Method;
use crate::{ChannelError, ChannelEvent, ChannelId, ConnectionError, PublishSeq, Reply, RequestId};

impl Repair {
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
            let lacks_queue =
                step.queue.as_ref().is_some_and(|name| self.missing.contains_key(name));
            if lacks_queue && !left_out && matches!(step.entity, Entity::Binding { .. }) {
                self.report.left_out.push(step.entity.clone());
            }
            !left_out && !lacks_queue
        });
        self.declarations.add(steps);
        let failed = condemned.iter();
        self.report.failed = failed
            .map(|(entity, error)| (entity.clone(), ChannelError::Connection(error.clone())))
            .collect();
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
        // The broker handles declarations in order: the oldest without a reply is the one that it was processing.
        let declaring = self.declarations.oldest().filter(|step| is_cause(&step.method));
        let declaring = declaring.map(|step| step.entity.clone());
        let suspects: Vec<_> = self
            .channels
            .iter()
            .flat_map(|(id, own)| own.suspects(cause).map(|step| (*id, step.clone())))
            .collect();
        // If a mode is refused, it is refused on each channel.
        let modes = suspects.iter().all(|(_, step)| matches!(step.entity, Entity::Channel(_)));
        if !modes && suspects.len() + usize::from(declaring.is_some()) > 1 {
            // There is no order between channels, or between consumers. The next repair sends one request at a time.
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
}
