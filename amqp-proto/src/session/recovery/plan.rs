//! The requests that a repair has to send, and those that have no reply yet.

use alloc::collections::VecDeque;
use alloc::vec::Vec;

use crate::method::{BasicConsume, BasicQos, ChannelFlow, Method};
use crate::session::record::ChannelRecord;
use crate::session::record::consumers::Consumer;
use crate::session::report::Entity;
use crate::session::topology::Declaration;
use crate::{ChannelId, Close, RequestId};

/// The declarations of a repair: they go from `steps` to `awaiting`, or first to `later`.
#[derive(Debug, Default)]
pub(super) struct Declarations {
    /// The channel on which they are sent.
    pub(super) channel: Option<ChannelId>,
    pub(super) steps: VecDeque<Declaration>,
    pub(super) awaiting: VecDeque<(RequestId, Declaration)>,
    /// Bindings that need the name that the broker generates for their queue.
    pub(super) later: Vec<Declaration>,
    /// All of them have a reply or have failed, and consumers were started after that.
    pub(super) done: bool,
}

impl Declarations {
    pub(super) fn add(&mut self, steps: Vec<Declaration>) {
        self.steps.extend(steps);
        self.done = false;
    }

    /// Sends again what has no reply.
    pub(super) fn repeat(&mut self) {
        for (_, step) in self.awaiting.drain(..).rev() {
            self.steps.push_front(step);
        }
    }

    /// Returns the oldest declaration without a reply.
    pub(super) fn oldest(&self) -> Option<&Declaration> {
        self.awaiting.front().map(|(_, step)| step)
    }

    pub(super) fn are_done(&self) -> bool {
        self.done && self.is_idle()
    }

    pub(super) fn is_idle(&self) -> bool {
        self.steps.is_empty() && self.awaiting.is_empty()
    }
}

/// The restoring of one channel.
#[derive(Debug, Default)]
pub(super) struct ChannelRepair {
    pub(super) steps: VecDeque<ChannelStep>,
    pub(super) awaiting: VecDeque<(RequestId, ChannelStep)>,
    /// `steps` was filled. That is done when all declarations are done.
    pub(super) planned: bool,
    /// The broker refused something. To find out which request, only one is sent at a time.
    pub(super) one_by_one: bool,
    /// Number of consumers that were started again.
    pub(super) consumers: usize,
}

impl ChannelRepair {
    /// Returns whether a request of this repair may have closed the channel.
    pub(super) fn is_suspect(&self, close: &Close) -> bool {
        let cause = (close.class_id, close.method_id);
        cause == (0, 0) || self.awaiting.iter().any(|(_, step)| step.method.facts().id == cause)
    }

    pub(super) fn is_done(&self) -> bool {
        self.steps.is_empty() && self.awaiting.is_empty()
    }

    /// Returns the requests of which one was refused, if the broker closed the connection for a method with these ids and for a
    /// request of this channel.
    ///
    /// The broker handles the requests of a channel in order. But queues reply to `basic.consume`, in any order, so consumers
    /// without a reply say nothing about the requests behind them.
    pub(super) fn suspects(&self, cause: (u16, u16)) -> impl Iterator<Item = &ChannelStep> {
        let steps = self.awaiting.iter().map(|(_, step)| step);
        let consumes = |step: &ChannelStep| matches!(step.method, Method::BasicConsume(_));
        let first_other = steps.clone().position(|step| !consumes(step));
        let handled = first_other.map_or(self.awaiting.len(), |index| index + 1);
        steps.take(handled).filter(move |step| step.method.facts().id == cause)
    }
}

/// A request that restores a part of a channel, and the part.
#[derive(Debug, Clone)]
pub(super) struct ChannelStep {
    /// The number of the original request, if it matters: consumers are identified by it.
    pub(super) request: Option<RequestId>,
    pub(super) method: Method,
    pub(super) entity: Entity,
}

impl ChannelRecord {
    /// Everything that a channel had, except its mode.
    pub(super) fn steps(
        &self,
        id: ChannelId,
        wanted: impl Fn(&Consumer) -> bool,
    ) -> Vec<ChannelStep> {
        let global = self.global_qos.iter().map(|qos| prefetch(id, qos));
        let mut steps: Vec<_> = global.collect();
        if self.paused {
            let method = ChannelFlow { active: false }.into();
            steps.push(ChannelStep { request: None, method, entity: Entity::Flow(id) });
        }
        self.consumer_steps(id, None, wanted, &mut steps);
        steps
    }

    /// Consumers of a channel that has this prefetch limit for new ones. The limit in effect is set again afterwards.
    pub(super) fn consumer_steps<'a>(
        &'a self,
        id: ChannelId,
        mut qos: Option<&'a BasicQos>,
        wanted: impl Fn(&Consumer) -> bool,
        steps: &mut Vec<ChannelStep>,
    ) {
        // A consumer that was started before the first limit has none.
        let unlimited = BasicQos::default();
        let mut limit = |own: Option<&'a BasicQos>, steps: &mut Vec<ChannelStep>| {
            if own != qos {
                steps.push(prefetch(id, own.unwrap_or(&unlimited)));
                qos = own;
            }
        };
        for consumer in self.consumers.iter().filter(|consumer| wanted(consumer)) {
            limit(consumer.qos_now.as_ref(), steps);
            let consumer_tag = consumer.tag().clone();
            let consume = BasicConsume {
                no_wait: false,
                consumer_tag: consumer_tag.clone(),
                ..consumer.consume.clone()
            };
            steps.push(ChannelStep {
                request: Some(RequestId(consumer.id.get())),
                method: consume.into(),
                entity: Entity::Consumer { channel: id, consumer: consumer.id, consumer_tag },
            });
        }
        limit(self.qos_now.as_ref(), steps);
    }
}

fn prefetch(id: ChannelId, qos: &BasicQos) -> ChannelStep {
    ChannelStep { request: None, method: qos.clone().into(), entity: Entity::Prefetch(id) }
}
