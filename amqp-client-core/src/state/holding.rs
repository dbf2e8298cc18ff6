//! Channels that hold what is not settled until they are closed; see [`Channel::hold_until_closed`](crate::Channel).

use amqp_proto::DeliveryTag;
use amqp_proto::session::SessionChannel;

use super::ChannelState;

/// The deliveries that a channel holds.
#[derive(Debug, Default)]
pub(crate) struct Holding {
    /// Number of deliveries that nobody will settle: they were dropped, or arrived for a consumer that has ended.
    held: usize,
}

impl ChannelState {
    /// From now on, nothing is requeued before the channel is closed.
    pub(crate) fn begin_holding(&mut self) {
        self.holding.get_or_insert_default();
    }

    /// Holds so many deliveries more.
    #[cold]
    pub(crate) fn hold(&mut self, deliveries: impl Into<usize>) {
        if let Some(holding) = &mut self.holding {
            holding.held += deliveries.into();
        }
    }

    /// Returns how many unsettled deliveries somebody may still settle.
    pub(super) fn in_use(&self, unsettled: usize) -> usize {
        unsettled.saturating_sub(self.holding.as_ref().map_or(0, |holding| holding.held))
    }

    /// The broker has requeued what was held.
    pub(super) fn release_held(&mut self) {
        if let Some(holding) = &mut self.holding {
            holding.held = 0;
        }
    }

    /// Requeues a delivery that the application has not taken, or holds it.
    pub(crate) fn give_back(&mut self, protocol: &mut SessionChannel<'_>, tag: DeliveryTag) {
        match self.holding {
            Some(_) => self.hold(true),
            None => self.tally.give_back(protocol, tag),
        }
    }

    /// Requeues all unsettled deliveries of a channel that is about to be closed, unless the close is to do that.
    pub(super) fn give_back_all(&mut self, protocol: &mut SessionChannel<'_>) {
        if self.holding.is_none() {
            self.tally.give_back_all(protocol);
        }
    }
}
