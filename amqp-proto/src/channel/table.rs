use super::commands::Channel;
use super::state::{ChannelState, Mode, Phase};
use crate::method::ChannelOpen;
use crate::outbound::Outbound;
use crate::{
    ChannelError, ChannelEvent, ChannelId, ConnectionError, Misuse, OpenChannelError, PublishSeq,
    ShortStr, Violation,
};
use alloc::boxed::Box;
use alloc::vec::Vec;
use core::ops::RangeInclusive;

/// The channels of a connection, by number.
#[derive(Debug, Default)]
pub(crate) struct Channels {
    /// Channel `n` stands at `n - 1`. Grows with the channels that are open at once.
    slots: Vec<Option<Box<ChannelState>>>,
    /// The slots before this index are in use, so the search for a free number begins here.
    used: usize,
    channel_max: u16,
}

impl Channels {
    /// Sets the agreed limit; 0 is none.
    pub(crate) fn set_max(&mut self, channel_max: u16) {
        self.channel_max = if channel_max == 0 { u16::MAX } else { channel_max };
    }

    pub(crate) fn max(&self) -> u16 {
        self.channel_max
    }

    /// Opens a channel with the lowest free number.
    pub(crate) fn open(&mut self, outbound: &mut Outbound) -> Result<ChannelId, OpenChannelError> {
        while self.slots.get(self.used).is_some_and(Option::is_some) {
            self.used += 1;
        }
        let number = u16::try_from(self.used + 1).ok().filter(|number| *number <= self.channel_max);
        let number = number.ok_or(OpenChannelError::Exhausted { channel_max: self.channel_max })?;
        Ok(self.begin(number, outbound))
    }

    /// Opens the channel of that number.
    pub(crate) fn open_number(
        &mut self,
        number: u16,
        outbound: &mut Outbound,
    ) -> Result<ChannelId, OpenChannelError> {
        if number == 0 || number > self.channel_max {
            return Err(OpenChannelError::NoSuchNumber { number, channel_max: self.channel_max });
        }
        if self.get(number).is_some() {
            return Err(OpenChannelError::InUse { number });
        }
        if self.slots.len() < usize::from(number) {
            self.slots.resize_with(usize::from(number), || None);
        }
        Ok(self.begin(number, outbound))
    }

    fn begin(&mut self, number: u16, outbound: &mut Outbound) -> ChannelId {
        let id = ChannelId(number);
        outbound.send_small(number, &ChannelOpen { reserved_1: ShortStr::EMPTY });
        self.put(id, Phase::Opening);
        if let Some(channel) = self.get(number) {
            channel.note_awaiting(outbound);
        }
        id
    }

    /// Servers: the client opens that channel.
    pub(crate) fn accept(&mut self, number: u16) -> Result<(), Violation> {
        // A channel whose end was not reported yet is free: the client may reuse the number directly after its close-ok.
        if self.receiving(number).is_some() || number == 0 {
            return Err(Violation::BadChannel { channel: number });
        }
        // RabbitMQ limits the number of channels, whatever their numbers are. They are counted only if there may be too many.
        let channel_max = self.channel_max;
        let open =
            || self.slots.iter().flatten().filter(|own| !matches!(own.phase, Phase::Closed(_)));
        if self.slots.len() >= channel_max.into() && open().count() >= channel_max.into() {
            return Err(Violation::TooManyChannels { channel_max });
        }
        while self.slots.len() < usize::from(number) {
            self.slots.push(None);
        }
        self.put(ChannelId(number), Phase::Open);
        Ok(())
    }

    /// Counts the channels that wait for the peer, one by one: the value that [`Outbound::awaiting`] must have.
    #[cfg(any(all(test, feature = "std"), feature = "fuzzing"))]
    pub(crate) fn awaiting(&self) -> usize {
        self.slots.iter().flatten().filter(|channel| channel.awaits_peer()).count()
    }

    /// Requeues the deliveries that the channels hold until the hold time has passed.
    pub(crate) fn requeue_held(&mut self, outbound: &mut Outbound) -> Result<(), ConnectionError> {
        let channels = self.slots.iter_mut().flatten();
        channels.into_iter().try_for_each(|channel| channel.requeue_held(outbound))
    }

    fn put(&mut self, id: ChannelId, phase: Phase) {
        let state = Some(Box::new(ChannelState::new(id, phase)));
        match self.slot(id.0) {
            Some(slot) => *slot = state,
            None => self.slots.push(state),
        }
    }

    fn slot(&mut self, number: u16) -> Option<&mut Option<Box<ChannelState>>> {
        self.slots.get_mut(usize::from(number).checked_sub(1)?)
    }

    /// Returns the channel that a frame is for, unless it has ended.
    pub(crate) fn receiving(&mut self, number: u16) -> Option<&mut ChannelState> {
        self.get(number).filter(|channel| !matches!(channel.phase, Phase::Closed(_)))
    }

    pub(crate) fn get(&mut self, number: u16) -> Option<&mut ChannelState> {
        self.slot(number)?.as_deref_mut()
    }

    /// The channel to command.
    pub(crate) fn view<'a>(
        &'a mut self,
        id: ChannelId,
        outbound: &'a mut Outbound,
    ) -> Result<Channel<'a>, Misuse> {
        let state = self.get(id.0).ok_or(Misuse::NoSuchChannel(id.0))?;
        Ok(Channel { state, outbound })
    }

    /// Frees the number of a channel whose end was reported.
    pub(crate) fn release(&mut self, id: ChannelId) {
        let Some(slot) = self.slot(id.0) else { return };
        // A client may have reused the number by now.
        if slot.take_if(|channel| matches!(channel.phase, Phase::Closed(_))).is_some() {
            self.used = self.used.min(usize::from(id.0).saturating_sub(1));
        }
    }

    /// Returns the unconfirmed publishes of a channel.
    pub(crate) fn unconfirmed(&mut self, id: ChannelId) -> Vec<RangeInclusive<PublishSeq>> {
        match self.get(id.0).map(|channel| &channel.mode) {
            Some(Mode::Confirm(confirms)) => confirms.unconfirmed().collect(),
            _ => Vec::new(),
        }
    }

    /// Returns the number of unsettled deliveries of a channel.
    pub(crate) fn unsettled(&mut self, id: ChannelId) -> usize {
        self.get(id.0).map_or(0, |channel| channel.unsettled.len())
    }

    /// Ends every channel, because the connection has ended.
    pub(crate) fn terminate(&mut self, outbound: &mut Outbound, reason: &ConnectionError) {
        for channel in self.slots.iter_mut().flatten() {
            channel.end(outbound, ChannelError::Connection(reason.clone()));
        }
        debug_assert_eq!(outbound.awaiting, 0, "nobody is waited for on a channel that has ended");
    }

    /// Returns whether any channel is being closed, or has ended and its event is still to be polled.
    pub(crate) fn any_ending(&self) -> bool {
        let ending = |phase: &Phase| matches!(phase, Phase::Closing(_) | Phase::Closed(_));
        self.slots.iter().flatten().any(|channel| ending(&channel.phase))
    }

    /// Returns the number of channels.
    pub(crate) fn len(&self) -> usize {
        self.slots.iter().flatten().count()
    }
}

impl ChannelState {
    /// Ends the channel, unless it has already ended.
    pub(super) fn end(&mut self, outbound: &mut Outbound, error: ChannelError) {
        if matches!(self.phase, Phase::Closed(_)) {
            return;
        }
        self.pending.clear();
        if let Some(incoming) = self.incoming.take() {
            outbound.unfinished -= incoming.kept();
        }
        if let Mode::Confirm(confirms) = &mut self.mode {
            confirms.end(|publish, returned| {
                let publish = Some(publish);
                outbound.emit(self.id, ChannelEvent::Returned { publish, returned });
            });
        }
        self.phase = Phase::Closed(Box::new(error.clone()));
        self.note_awaiting(outbound);
        outbound.emit(self.id, ChannelEvent::Closed(error));
    }
}
