//! A request of the application, while it waits and while its reply is pending.

use alloc::boxed::Box;

use super::consumers::Consumer;
use crate::method::{BasicQos, Method, MethodFacts};
use crate::{RequestId, ShortStr};

/// A request that waits until the channel is restored, or until messages that are sent in groups are confirmed.
#[derive(Debug)]
pub(crate) struct Held {
    pub(crate) id: RequestId,
    pub(crate) method: Method,
    pub(crate) facts: &'static MethodFacts,
    /// The application wants the reply.
    pub(crate) wanted: bool,
    pub(crate) recovers: bool,
    /// The first publish after the request: kept messages with this number or a larger one are sent after the request, all others
    /// before it. So a message to a queue does not overtake the declaration of the queue.
    pub(crate) ahead_of: u64,
}

/// A request that was sent and has no reply yet.
#[derive(Debug)]
pub(crate) struct InFlight {
    pub(crate) id: RequestId,
    /// The change to record when the reply arrives.
    pub(crate) note: Option<Box<Noted>>,
    /// For a new prefetch limit: the earlier limits.
    pub(crate) before: Option<Box<Limits>>,
    /// True if the effect of the request is restored after a loss.
    pub(crate) recovers: bool,
    /// True if the reply is not wanted.
    pub(crate) abandoned: bool,
    /// The consumer of an abandoned start. It counts for its queue until the reply shows that it has started and ends, or that the
    /// broker has refused it.
    pub(crate) leaving: Option<Box<Consumer>>,
    /// See [`Held::ahead_of`].
    pub(crate) ahead_of: u64,
}

impl InFlight {
    /// Returns the declaration of a queue, to be retried, and whether its reply is not wanted.
    pub(crate) fn as_queue_declaration(&self) -> Option<(Held, bool)> {
        let Self { id, note, recovers, ahead_of, abandoned, .. } = self;
        let method = note.as_ref().map(|note| note.method.clone())?;
        let facts = method.facts();
        let (id, recovers, ahead_of) = (*id, *recovers, *ahead_of);
        let held = Held { id, method, facts, wanted: true, recovers, ahead_of };
        matches!(held.method, Method::QueueDeclare(_)).then_some((held, *abandoned))
    }
}

/// A method to take note of once the broker has carried it out.
#[derive(Debug)]
pub(crate) struct Noted {
    pub(crate) method: Method,
    /// The queue that an empty name stands for. If it is yet to get its name from the broker, that is the queue of the last reply
    /// to a declaration when the reply to this method arrives: the channel replies to both, in their order.
    pub(crate) last_queue: Option<ShortStr>,
}

impl Noted {
    pub(crate) const fn is_topology(&self) -> bool {
        !matches!(self.method, Method::BasicConsume(_))
    }

    /// Returns whether the session has to record the method.
    pub(crate) const fn concerns(method: &Method) -> bool {
        matches!(
            method,
            Method::ExchangeDeclare(_)
                | Method::ExchangeDelete(_)
                | Method::ExchangeBind(_)
                | Method::ExchangeUnbind(_)
                | Method::QueueDeclare(_)
                | Method::QueueDelete(_)
                | Method::QueueBind(_)
                | Method::QueueUnbind(_)
                | Method::BasicConsume(_)
                | Method::ChannelFlow(_)
        )
    }
}

/// The prefetch limits of a channel: for new consumers, and for all of it.
#[derive(Debug)]
pub(crate) struct Limits {
    pub(crate) qos: Option<BasicQos>,
    pub(crate) global_qos: Option<BasicQos>,
}
