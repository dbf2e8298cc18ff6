use alloc::boxed::Box;
use alloc::vec::Vec;

use super::record::ChannelRecord;
use crate::ChannelId;

/// The channels of a session.
#[derive(Debug, Default)]
pub(super) struct Channels {
    /// Channel `n` has index `n - 1`.
    slots: Vec<Option<Box<ChannelRecord>>>,
    /// The slots before this index are in use, so the search for an unused number begins here. Without it, opening `n` channels
    /// would take `n²` steps.
    used: usize,
}

impl Channels {
    #[inline]
    pub(super) fn get_mut(&mut self, id: ChannelId) -> Option<&mut ChannelRecord> {
        self.slots.get_mut(usize::from(id.get()).checked_sub(1)?)?.as_deref_mut()
    }

    pub(super) fn get(&self, id: ChannelId) -> Option<&ChannelRecord> {
        self.slots.get(usize::from(id.get()).checked_sub(1)?)?.as_deref()
    }

    pub(super) fn insert(&mut self, id: ChannelId, record: ChannelRecord) {
        let index = usize::from(id.get()).saturating_sub(1);
        if self.slots.len() <= index {
            self.slots.resize_with(index + 1, || None);
        }
        if let Some(slot) = self.slots.get_mut(index) {
            *slot = Some(Box::new(record));
        }
    }

    pub(super) fn remove(&mut self, id: ChannelId) -> Option<Box<ChannelRecord>> {
        let index = usize::from(id.get()).checked_sub(1)?;
        let record = self.slots.get_mut(index)?.take();
        self.used = self.used.min(index);
        record
    }

    /// Returns the numbers above `above` and up to `max` that no channel has.
    pub(super) fn unused(&mut self, above: u16, max: u16) -> impl Iterator<Item = u16> {
        while self.slots.get(self.used).is_some_and(Option::is_some) {
            self.used += 1;
        }
        let indexes = self.used.max(above.into())..max.into();
        let unused = indexes.filter(|index| self.slots.get(*index).is_none_or(Option::is_none));
        unused.filter_map(|index| u16::try_from(index + 1).ok())
    }

    pub(super) fn iter(&self) -> impl Iterator<Item = (ChannelId, &ChannelRecord)> {
        let all = (1u16..).map(ChannelId).zip(&self.slots);
        all.filter_map(|(id, record)| Some((id, record.as_deref()?)))
    }

    pub(super) fn iter_mut(&mut self) -> impl Iterator<Item = (ChannelId, &mut ChannelRecord)> {
        let all = (1u16..).map(ChannelId).zip(&mut self.slots);
        all.filter_map(|(id, record)| Some((id, record.as_deref_mut()?)))
    }
}

#[cfg(all(test, feature = "std"))]
mod tests {
    use alloc::sync::Arc;
    use std::time::Instant;

    use super::*;
    use crate::session::{Recovery, Session};
    use crate::{ClientConfig, Limits, OpenChannelError, ReplyCode};

    #[test]
    #[expect(clippy::disallowed_methods, reason = "virtual time has to start somewhere")]
    fn all_numbers_can_be_opened_and_used_again() {
        let config = ClientConfig::default().limits(Limits::default().channel_max(u16::MAX));
        let recovery = Recovery::default();
        let mut session = Session::disconnected(Arc::new(config), recovery, 1, Instant::now());
        // Searching for each number from the first one would take two billion steps here.
        for number in 1..=u16::MAX {
            assert_eq!(session.open_channel(), Ok(ChannelId(number)));
        }
        let exhausted = Err(OpenChannelError::Exhausted { channel_max: u16::MAX });
        assert_eq!(session.open_channel(), exhausted);
        for number in [700, 1, u16::MAX] {
            let mut channel = session.channel(ChannelId(number)).expect("it is open");
            channel.close(ReplyCode::REPLY_SUCCESS, "");
        }
        while session.poll_event().is_some() {}
        for number in [1, 700, u16::MAX] {
            assert_eq!(session.open_channel(), Ok(ChannelId(number)));
        }
        assert_eq!(session.open_channel(), exhausted);
    }

    #[test]
    fn unused_numbers_begin_above_a_given_one() {
        let mut channels = Channels::default();
        let mut unused = |above, max| channels.unused(above, max).collect::<Vec<_>>();
        assert_eq!(unused(0, 3), [1, 2, 3]);
        assert_eq!(unused(2, 3), [3]);
        assert!(unused(3, 3).is_empty());
        assert_eq!(unused(u16::MAX - 1, u16::MAX), [u16::MAX]);
        assert!(unused(u16::MAX, u16::MAX).is_empty());
        for number in [1, 2, 4] {
            channels.insert(ChannelId(number), ChannelRecord::default());
        }
        assert_eq!(channels.unused(0, 5).collect::<Vec<_>>(), [3, 5]);
        channels.remove(ChannelId(2));
        channels.remove(ChannelId(9));
        assert_eq!(channels.unused(0, 5).collect::<Vec<_>>(), [2, 3, 5]);
        channels.insert(ChannelId(2), ChannelRecord::default());
        assert_eq!(channels.unused(2, 4).collect::<Vec<_>>(), [3]);
    }
}
