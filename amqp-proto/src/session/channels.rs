use alloc::boxed::Box;
use alloc::vec::Vec;

use super::record::ChannelRecord;
use crate::ChannelId;

/// The channels of a session. Channel `n` has index `n - 1`.
#[derive(Debug, Default)]
pub(super) struct Channels(Vec<Option<Box<ChannelRecord>>>);

impl Channels {
    #[inline]
    pub(super) fn get_mut(&mut self, id: ChannelId) -> Option<&mut ChannelRecord> {
        self.0.get_mut(usize::from(id.get()).checked_sub(1)?)?.as_deref_mut()
    }

    pub(super) fn get(&self, id: ChannelId) -> Option<&ChannelRecord> {
        self.0.get(usize::from(id.get()).checked_sub(1)?)?.as_deref()
    }

    pub(super) fn insert(&mut self, id: ChannelId, record: ChannelRecord) {
        let index = usize::from(id.get()).saturating_sub(1);
        if self.0.len() <= index {
            self.0.resize_with(index + 1, || None);
        }
        if let Some(slot) = self.0.get_mut(index) {
            *slot = Some(Box::new(record));
        }
    }

    pub(super) fn remove(&mut self, id: ChannelId) -> Option<Box<ChannelRecord>> {
        self.0.get_mut(usize::from(id.get()).checked_sub(1)?)?.take()
    }

    /// Returns the numbers up to `max` that no channel has.
    pub(super) fn unused(&self, max: u16) -> impl Iterator<Item = u16> {
        (1..=max).filter(|number| self.get(ChannelId(*number)).is_none())
    }

    pub(super) fn iter(&self) -> impl Iterator<Item = (ChannelId, &ChannelRecord)> {
        let all = (1u16..).map(ChannelId).zip(&self.0);
        all.filter_map(|(id, record)| Some((id, record.as_deref()?)))
    }

    pub(super) fn iter_mut(&mut self) -> impl Iterator<Item = (ChannelId, &mut ChannelRecord)> {
        let all = (1u16..).map(ChannelId).zip(&mut self.0);
        all.filter_map(|(id, record)| Some((id, record.as_deref_mut()?)))
    }
}
