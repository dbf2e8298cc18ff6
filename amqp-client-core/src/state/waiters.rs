//! Tasks that wait, and the wakers that wake them.
//!
//! Cloning and dropping a waker runs code of the executor, which may belong to the user and may use a handle of the connection.
//! So neither happens under the lock: [`Task`] clones before the lock is taken, and drops the previous waker of a slot after the
//! lock is released.

#[cfg(test)]
use std::task::Poll;
use std::task::Waker;

/// The task that polls, for [`Shared::poll`](super::Shared::poll).
pub(crate) struct Task<'a> {
    waker: &'a Waker,
    /// Clones made in advance. A poll waits for two things at the most: a result and a deadline.
    clones: [Option<Waker>; 2],
    /// Number of clones that were missing under the lock.
    missing: usize,
    /// Wakers that were replaced in slots.
    replaced: Vec<Waker>,
}

impl<'a> Task<'a> {
    #[inline]
    pub(crate) const fn new(waker: &'a Waker) -> Self {
        Self { waker, clones: [None, None], missing: 0, replaced: Vec::new() }
    }

    /// The task with its clones made, for a first poll that is seldom ready.
    #[inline]
    pub(crate) fn stocked(waker: &'a Waker) -> Self {
        let clones = [Some(waker.clone()), Some(waker.clone())];
        Self { clones, ..Self::new(waker) }
    }

    /// Registers this task's waker in the slot. Without a clone in store, only records that one is missing.
    #[inline]
    pub(crate) fn register(&mut self, slot: &mut Option<Waker>) {
        if slot.as_ref().is_some_and(|current| current.will_wake(self.waker)) {
            return;
        }
        match self.clones.iter_mut().find_map(Option::take) {
            Some(clone) => self.replaced.extend(slot.replace(clone)),
            None => self.missing += 1,
        }
    }

    /// Drops a waker behind the lock.
    pub(crate) fn bury(&mut self, wakers: impl IntoIterator<Item = Waker>) {
        self.replaced.extend(wakers);
    }

    /// Makes the missing clones. Returns whether there were any, and so whether to poll again. Must not be called under the lock.
    pub(crate) fn restock(&mut self) -> bool {
        let missing = std::mem::take(&mut self.missing);
        let empty = self.clones.iter_mut().filter(|clone| clone.is_none());
        empty.take(missing).for_each(|clone| *clone = Some(self.waker.clone()));
        missing > 0
    }
}

/// Sees to it that there is a clone of the waker. Not to be called under the lock.
#[inline]
pub(crate) fn keep_clone(clone: &mut Option<Waker>, waker: &Waker) {
    if !clone.as_ref().is_some_and(|clone| clone.will_wake(waker)) {
        *clone = Some(waker.clone());
    }
}

/// A condition that tasks wait for.
#[derive(Debug, Clone, Copy)]
pub(crate) enum On {
    /// The connection opens, is lost or ends, or its secret was updated.
    Connection,
    /// The driver has had a turn, or the connection has ended.
    Turn,
    /// The channel at that place opens or ends.
    Channel(u32),
    /// Everything published on that channel is confirmed.
    Confirms(u32),
}

/// The tasks that wait for the same thing. Each future owns its entry and removes it when it is dropped, so that a future
/// that is gone keeps neither memory nor its task.
#[derive(Debug, Default)]
pub(crate) struct Waiters {
    /// Made for the first task: on most channels, nobody waits for most things.
    crowd: Option<Box<Crowd>>,
}

#[derive(Debug, Default)]
struct Crowd {
    entries: Vec<Entry>,
    free: Vec<WaiterId>,
}

/// An entry of [`Waiters`].
#[derive(Debug, Clone, Copy, PartialEq, Eq)]
pub(crate) struct WaiterId(u32);

#[derive(Debug)]
enum Entry {
    Free,
    /// `None` once it was woken.
    Waiting(Option<Waker>),
}

impl Waiters {
    /// Registers this task's waker in the entry. Without an entry, creates one.
    pub(crate) fn register(&mut self, id: &mut Option<WaiterId>, task: &mut Task<'_>) {
        let crowd = self.crowd.get_or_insert_default();
        let id = *id.get_or_insert_with(|| crowd.insert());
        let entry = crowd.entries.get_mut(id.0 as usize);
        debug_assert!(matches!(entry, Some(Entry::Waiting(_))), "the entry is its future's own");
        if let Some(Entry::Waiting(waker)) = entry {
            task.register(waker);
        }
    }

    /// Removes an entry. Returns its waker, to be dropped behind the lock.
    #[must_use = "a waker is not dropped under the lock"]
    pub(crate) fn remove(&mut self, id: WaiterId) -> Option<Waker> {
        self.crowd.as_mut()?.remove(id)
    }

    /// Wakes everybody. Their entries stay, for those that go on waiting.
    pub(crate) fn wake_all(&mut self, wake: impl FnMut(Waker)) {
        if let Some(crowd) = &mut self.crowd {
            crowd.wake_all(wake);
        }
    }

    /// Frees the memory if nobody waits, where it is unlikely that others will.
    pub(crate) fn free_if_empty(&mut self) {
        self.crowd.take_if(|crowd| crowd.entries.is_empty());
    }
}

impl Crowd {
    fn insert(&mut self) -> WaiterId {
        if let Some(id) = self.free.pop() {
            if let Some(entry) = self.entries.get_mut(id.0 as usize) {
                *entry = Entry::Waiting(None);
            }
            return id;
        }
        self.entries.push(Entry::Waiting(None));
        WaiterId(u32::try_from(self.entries.len() - 1).unwrap_or(u32::MAX))
    }

    fn remove(&mut self, id: WaiterId) -> Option<Waker> {
        let entry = std::mem::replace(self.entries.get_mut(id.0 as usize)?, Entry::Free);
        debug_assert!(matches!(entry, Entry::Waiting(_)), "an entry is removed once");
        self.free.push(id);
        if self.free.len() == self.entries.len() {
            // After a crowd has left, its memory is not kept, and not searched at each wake.
            self.entries.clear();
            self.free.clear();
            self.entries.shrink_to(IDLE_ENTRIES);
            self.free.shrink_to(IDLE_ENTRIES);
        }
        match entry {
            Entry::Waiting(waker) => waker,
            Entry::Free => None,
        }
    }

    fn wake_all(&mut self, wake: impl FnMut(Waker)) {
        let wakers = self.entries.iter_mut().filter_map(|entry| match entry {
            Entry::Waiting(waker) => waker.take(),
            Entry::Free => None,
        });
        wakers.for_each(wake);
    }
}

/// Entries whose memory is kept after many tasks have stopped waiting: enough for the few that usually wait for the same thing.
const IDLE_ENTRIES: usize = 16;

/// Polls something without a lock, as [`Shared::poll`](super::Shared::poll) does under it.
#[cfg(test)]
pub(super) fn poll<T>(waker: &Waker, mut look: impl FnMut(&mut Task<'_>) -> Poll<T>) -> Poll<T> {
    let mut task = Task::new(waker);
    loop {
        let polled = look(&mut task);
        if polled.is_ready() || !task.restock() {
            return polled;
        }
    }
}

#[cfg(test)]
pub(super) mod tests {
    use std::sync::Arc;
    use std::sync::atomic::{AtomicUsize, Ordering};
    use std::task::Wake;

    use super::*;

    /// A task that counts how often it is woken.
    #[derive(Default)]
    pub(in crate::state) struct Count(pub(in crate::state) AtomicUsize);

    impl Wake for Count {
        fn wake(self: Arc<Self>) {
            self.0.fetch_add(1, Ordering::SeqCst);
        }
    }

    fn wait(waiters: &mut Waiters, id: &mut Option<WaiterId>, waker: &Waker) {
        let polled: Poll<()> = poll(waker, |task| {
            waiters.register(id, task);
            Poll::Pending
        });
        assert!(polled.is_pending());
    }

    #[test]
    fn a_removed_waiter_is_not_woken_and_leaves_nothing() {
        let mut waiters = Waiters::default();
        let counts: Vec<_> = (0..1000).map(|_| Arc::new(Count::default())).collect();
        let mut ids: Vec<_> = counts.iter().map(|_| None).collect();
        for (count, id) in counts.iter().zip(&mut ids) {
            wait(&mut waiters, id, &Waker::from(count.clone()));
        }
        for id in ids.iter().flatten().step_by(2) {
            drop(waiters.remove(*id));
        }
        waiters.wake_all(Waker::wake);
        waiters.wake_all(Waker::wake);
        for (index, count) in counts.iter().enumerate() {
            assert_eq!(count.0.load(Ordering::SeqCst), index % 2);
            assert_eq!(Arc::strong_count(count), 1, "its waker is kept");
        }
        for id in ids.iter().flatten().skip(1).step_by(2) {
            assert!(waiters.remove(*id).is_none(), "it was woken");
        }
        let Crowd { entries, .. } = waiters.crowd.as_deref().expect("it is kept");
        assert!(entries.is_empty() && entries.capacity() <= IDLE_ENTRIES);
        waiters.free_if_empty();
        assert!(waiters.crowd.is_none());
    }

    #[test]
    fn an_entry_wakes_the_task_that_polled_last() {
        let mut waiters = Waiters::default();
        let (first, last) = (Arc::new(Count::default()), Arc::new(Count::default()));
        let mut id = None;
        for task in [&first, &first, &last] {
            wait(&mut waiters, &mut id, &Waker::from(task.clone()));
        }
        let entries = waiters.crowd.as_ref().map(|crowd| crowd.entries.len());
        assert_eq!((entries, Arc::strong_count(&first)), (Some(1), 1));
        waiters.wake_all(Waker::wake);
        assert_eq!(first.0.load(Ordering::SeqCst), 0);
        assert_eq!(last.0.load(Ordering::SeqCst), 1);
        // And it can continue to wait.
        wait(&mut waiters, &mut id, &Waker::from(last.clone()));
        waiters.wake_all(Waker::wake);
        assert_eq!(last.0.load(Ordering::SeqCst), 2);
    }

    #[test]
    fn places_are_used_again() {
        let mut waiters = Waiters::default();
        let mut stays = None;
        wait(&mut waiters, &mut stays, Waker::noop());
        for _ in 0..10_000 {
            let mut id = None;
            wait(&mut waiters, &mut id, Waker::noop());
            drop(waiters.remove(id.expect("it waits")));
        }
        assert_eq!(waiters.crowd.map(|crowd| crowd.entries.len()), Some(2));
    }
}
