//! Sessions with the in-memory broker, which several of them can share.

use std::time::{Duration, Instant};

use amqp_client_core::proto::method::QueueDeclare;
use amqp_client_core::proto::session::Recovery;
use amqp_client_core::proto::{ChannelId, ConsumerId};
use amqp_test_broker::SessionId;

use super::{SessionRig, exclusive};
use crate::harness::{Broker, Peer as _};

impl SessionRig<Broker> {
    /// Creates an open session with this recovery policy and a fixed seed. It behaves alike in each run.
    pub(crate) fn new(recovery: Recovery) -> Self {
        Self::unseeded(recovery.seed(Some(1)))
    }

    /// A session that is open, with these changes to the default recovery.
    pub(crate) fn with(change: impl FnOnce(Recovery) -> Recovery) -> Self {
        Self::new(change(Recovery::default()))
    }

    /// A session that is open, with the seed of `recovery` or a random one.
    pub(crate) fn unseeded(recovery: Recovery) -> Self {
        let now = Instant::now();
        let mut rig = Self::connecting(Broker::new(now), now);
        rig.recover_with(recovery);
        rig.run();
        assert!(rig.session.is_open());
        rig.events.clear();
        rig
    }

    /// Advances the time at once.
    pub(crate) fn pass(&mut self, time: Duration) {
        self.now += time;
        self.run();
    }

    /// Another client of the broker, which does that. To the broker it stays connected until its transport ends.
    pub(crate) fn elsewhere<T>(&mut self, act: impl FnOnce(&mut Self, ChannelId) -> T) -> T {
        let own = self.peer.client;
        let mut peer = std::mem::replace(&mut self.peer, Broker::new(self.now));
        peer.connect(self.now);
        let mut other = Self::connecting(peer, self.now);
        other.run();
        let id = other.open();
        let result = act(&mut other, id);
        other.run();
        self.peer = Broker { client: own, ..other.peer };
        result
    }

    /// Has another client declare a queue and stay connected. Returns the broker's end of its transport.
    pub(crate) fn declare_elsewhere(&mut self, declare: QueueDeclare) -> SessionId {
        self.elsewhere(|other, id| {
            other.queue(id, declare);
            other.peer.client.expect("it is connected")
        })
    }

    /// Consumes an exclusive queue, and loses the connection and the queue to another client, whose end it returns.
    pub(crate) fn lose_queue(
        &mut self,
        id: ChannelId,
        name: &str,
        tag: &str,
    ) -> (ConsumerId, SessionId) {
        let queue = self.queue(id, exclusive(name));
        let consumer = self.consume(id, &queue, tag);
        self.cut();
        (consumer, self.declare_elsewhere(exclusive(name)))
    }
}
