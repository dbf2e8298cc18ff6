//! The tasks that a change of the connection wakes: as many publishers as there is room for, and all others that wait for it.

use std::task::Waker;

use super::State;
use super::line::{Room, Ticket};
use crate::options::Window;

impl State {
    /// The driver waits for something to do. This takes the [clone](super::keep_clone) of its waker, unless the one that it left
    /// before will do.
    #[inline]
    pub(crate) fn park_driver(&mut self, clone: &mut Option<Waker>) {
        match (&self.driver, &*clone) {
            (Some(current), Some(clone)) if current.will_wake(clone) => {}
            _ => std::mem::swap(&mut self.driver, clone),
        }
    }

    /// There is no driver any more. Its waker may hold a task or a descriptor, and handles may outlive it for long.
    pub(crate) fn forget_driver(&mut self) {
        if let Some(driver) = self.driver.take() {
            self.bury(driver);
        }
    }

    /// A gate of publishers has changed: all of them check it.
    pub(super) fn open_gates(&mut self) {
        let Self { gate, full, kept, channels, wakes, .. } = self;
        gate.wake_all(|waker| wakes.push(waker));
        full.call_all(|waker| wakes.push(waker));
        kept.call_all(|waker| wakes.push(waker));
        for channel in channels.iter_mut().flatten() {
            channel.open_gates(|waker| wakes.push(waker));
        }
    }

    /// There may be room in the outgoing buffer, or for kept messages: wakes as many publishers as there is room for.
    #[inline]
    pub(crate) fn call_publishers(&mut self) {
        if !self.full.is_empty() || !self.kept.is_empty() {
            self.call_lines();
        }
    }

    #[cold]
    fn call_lines(&mut self) {
        let Self { full, kept, proto, wakes, .. } = self;
        if !full.is_empty() {
            // A message that begins below the high water mark may exceed it.
            let room = proto.room();
            full.call(|granted, _| granted.bytes < room, |waker| wakes.push(waker));
        }
        if !kept.is_empty() {
            // The first message is kept whatever its size.
            let (room, none) = (proto.kept_room(), proto.kept() == 0);
            let has_room = |granted: Room, size| {
                granted.bytes.saturating_add(size) <= room || none && granted.messages == 0
            };
            kept.call(has_room, |waker| wakes.push(waker));
        }
    }

    /// A task no longer waits for room in that window; see [`ChannelState::leave_window`].
    pub(crate) fn leave_window(
        &mut self,
        place: u32,
        window: Window,
        ticket: Ticket,
    ) -> Option<Waker> {
        let Self { channels, wakes, .. } = self;
        let channel = channels.get_mut(place as usize)?.as_mut()?;
        channel.leave_window(window, ticket, |waker| wakes.push(waker))
    }

    /// The driver has had its turn.
    pub(crate) fn wake_turns(&mut self) {
        let Self { turns, wakes, .. } = self;
        turns.wake_all(|waker| wakes.push(waker));
    }

    /// A condition that [`watchers`](Self::watchers) wait for has changed.
    pub(crate) fn wake_watchers(&mut self) {
        let Self { watchers, wakes, .. } = self;
        watchers.wake_all(|waker| wakes.push(waker));
    }
}
