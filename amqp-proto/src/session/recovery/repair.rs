//! The state of a repair, and what it reports.

use alloc::collections::BTreeMap;
use alloc::sync::Arc;
use alloc::vec::Vec;

use super::plan::{ChannelRepair, Declarations};
use crate::session::context::Context;
use crate::session::report::{Entity, RecoveryReport};
use crate::session::topology::Declaration;
use crate::time::Instant;
use crate::{ChannelError, ChannelId, ConsumerId, Event, SessionEvent, ShortStr};

/// The restoring of state on the present connection. See the [module](super).
#[derive(Debug)]
pub(crate) struct Repair {
    pub(super) scope: Scope,
    pub(super) report: RecoveryReport,
    pub(super) declarations: Declarations,
    /// Queues that could not be declared, with the reasons. What belongs to them is left out.
    pub(super) missing: BTreeMap<ShortStr, Arc<str>>,
    pub(super) channels: BTreeMap<ChannelId, ChannelRepair>,
    /// Consumers to start once their queues are declared, on channels that are open.
    pub(super) consumers: Vec<(ChannelId, ConsumerId)>,
    /// Restore channels one after the other, with one request at a time.
    pub(super) one_by_one: bool,
}

#[derive(Debug, Clone, Copy, PartialEq, Eq)]
pub(super) enum Scope {
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
    pub(crate) fn partial() -> Self {
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

    /// Adds declarations, and consumers to start after them.
    pub(crate) fn add(
        &mut self,
        declarations: Vec<Declaration>,
        consumers: impl IntoIterator<Item = (ChannelId, ConsumerId)>,
    ) {
        self.declarations.add(declarations);
        self.consumers.extend(consumers);
    }

    /// Starts a consumer when the declarations are done.
    pub(super) fn start(&mut self, consumer: (ChannelId, ConsumerId)) {
        self.consumers.push(consumer);
    }

    /// Forgets a channel that has ended. What was declared on it without a reply is declared on another.
    pub(crate) fn forget(&mut self, id: ChannelId) {
        self.channels.remove(&id);
        self.consumers.retain(|(channel, _)| *channel != id);
        if self.declarations.channel == Some(id) {
            self.declarations.channel = None;
            self.declarations.repeat();
        }
    }

    pub(super) const fn is_full(&self) -> bool {
        matches!(self.scope, Scope::Full { .. })
    }

    pub(super) fn report_success(&mut self, cx: &mut Context, entity: &Entity) {
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
