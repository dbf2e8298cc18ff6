use alloc::vec::Vec;

use crate::method::{BasicConsume, BasicQos, ChannelFlow, Method};
use crate::session::record::ChannelRecord;
use crate::session::record::consumers::Consumer;
use crate::session::report::Entity;
use crate::{ChannelId, RequestId};

/// A request that restores a part of a channel, and the part.
#[derive(Debug, Clone)]
pub(crate) struct ChannelStep {
    /// The number of the original request, if it matters: consumers are identified by it.
    pub(crate) request: Option<RequestId>,
    pub(crate) method: Method,
    pub(crate) entity: Entity,
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

    /// Consumers of a channel that has this prefetch limit for new ones. The channel's own limit is set again afterwards.
    pub(super) fn consumer_steps<'a>(
        &'a self,
        id: ChannelId,
        mut qos: Option<&'a BasicQos>,
        wanted: impl Fn(&Consumer) -> bool,
        steps: &mut Vec<ChannelStep>,
    ) {
        for consumer in self.consumers.iter().filter(|consumer| wanted(consumer)) {
            if let Some(own) = consumer.qos.as_ref().filter(|own| Some(*own) != qos) {
                steps.push(prefetch(id, own));
                qos = Some(own);
            }
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
        if let Some(own) = self.qos.as_ref().filter(|own| Some(*own) != qos) {
            steps.push(prefetch(id, own));
        }
    }
}

fn prefetch(id: ChannelId, qos: &BasicQos) -> ChannelStep {
    ChannelStep { request: None, method: qos.clone().into(), entity: Entity::Prefetch(id) }
}
