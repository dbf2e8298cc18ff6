//! Deadlines of everything that waits, and the guard of one of them.

mod guard;

pub(crate) use guard::Deadline;

use std::cmp::Reverse;
use std::collections::BinaryHeap;
use std::task::Waker;
use std::time::{Duration, Instant};

use crate::state::waiters::Task;

/// Deadlines of everything that waits on a connection.
///
/// Handles read no clock: a deadline starts as a duration, and the driver turns it into a point in time at its next turn, for
/// which every command wakes it anyway. The heap keeps entries of removed deadlines until they come up, or until they are most of
/// it; that costs less than finding them.
///
/// A deadline does not count while bytes are queued ahead and the transport accepts some of them. Bytes are counted from the
/// first that the connection has queued, so "ahead" is a number: a request behind a body of 30 MiB waits until 30 MiB more are
/// written. Its deadline of 5 s expires when nothing was written for 5 s, or 5 s after that byte was.
#[derive(Debug, Default)]
pub(crate) struct Deadlines {
    entries: Vec<Entry>,
    free: Vec<u32>,
    unarmed: Vec<DeadlineId>,
    /// When to look at a deadline. It may turn out to expire later, but never before.
    heap: BinaryHeap<Reverse<(Instant, DeadlineId)>>,
    /// Deadlines with bytes ahead of them, by the value of `written` at which there are none any more.
    behind: BinaryHeap<Reverse<(u64, DeadlineId)>>,
    /// Number of bytes that drivers have taken.
    taken: u64,
    /// Number of these that are written. After a loss, until the next report: all there can be.
    written: u64,
    /// When the last of them was written.
    written_at: Option<Instant>,
    /// The time of the driver's last turn.
    now: Option<Instant>,
    /// Recoveries since the last report: of the connection (`None`), or of the channel at that place. The number is the position,
    /// in the stream of written bytes, behind everything that the recovery has queued.
    recovered: Vec<(Option<u32>, u64)>,
}

/// One deadline. Indices are reused; the generation distinguishes them.
#[derive(Debug, Clone, Copy, PartialEq, Eq, PartialOrd, Ord)]
pub(crate) struct DeadlineId {
    index: u32,
    generation: u32,
}

/// The part of a wait that a deadline counts.
#[derive(Debug, Clone, Copy, PartialEq, Eq)]
pub(crate) enum Counts {
    /// All time counts.
    Always,
    /// The time in which that many queued bytes are being written does not count.
    Behind {
        queued: usize,
        /// The place of the channel that the deadline concerns.
        channel: Option<u32>,
    },
    /// The same, for a message that is not queued itself: some of these bytes are yet to be queued.
    BehindOthers {
        queued: usize,
        /// The place of the channel that the deadline concerns.
        channel: Option<u32>,
    },
}

#[derive(Debug)]
struct Entry {
    generation: u32,
    timeout: Duration,
    /// When it starts to count, unless bytes ahead of it are written later. `None` until the driver has seen the deadline.
    since: Option<Instant>,
    /// The value of `written` at which no byte is ahead of the deadline any more. `None` if the deadline always counts.
    behind: Option<u64>,
    /// The place of the channel that the deadline concerns.
    channel: Option<u32>,
    /// All bytes ahead of it are queued, or were.
    is_queued: bool,
    state: DeadlineState,
}

#[derive(Debug)]
enum DeadlineState {
    Free,
    Running(Option<Waker>),
    Expired,
}

/// Up to this many entries, a heap is not searched for removed deadlines: they take a few KiB.
const CLEAN_ABOVE: usize = 1024;

impl Deadlines {
    /// Starts a deadline, if there is one. The driver must be woken for it, or be about to run.
    pub(crate) fn start(
        &mut self,
        timeout: Option<Duration>,
        counts: Counts,
    ) -> Option<DeadlineId> {
        let timeout = timeout?;
        let index = match self.free.pop() {
            Some(index) => index,
            None => {
                let (since, behind, channel, state) = (None, None, None, DeadlineState::Free);
                let (generation, is_queued) = (0, true);
                let entry = Entry { generation, timeout, since, behind, channel, is_queued, state };
                self.entries.push(entry);
                u32::try_from(self.entries.len() - 1).ok()?
            }
        };
        let (behind, channel) = match counts {
            Counts::Always => (None, None),
            Counts::Behind { queued, channel } | Counts::BehindOthers { queued, channel } => {
                (Some(self.taken.saturating_add(queued as u64)), channel)
            }
        };
        let entry = self.entries.get_mut(index as usize)?;
        (entry.timeout, entry.since) = (timeout, None);
        (entry.behind, entry.channel) = (behind, channel);
        entry.is_queued = !matches!(counts, Counts::BehindOthers { .. });
        entry.state = DeadlineState::Running(None);
        let id = DeadlineId { index, generation: entry.generation };
        self.unarmed.push(id);
        Some(id)
    }

    /// Returns whether the deadline has passed. If not, the task is woken when it does.
    pub(crate) fn expired(&mut self, id: Option<DeadlineId>, task: &mut Task<'_>) -> bool {
        match id.and_then(|id| self.entry(id)) {
            Some(Entry { state: DeadlineState::Running(current), .. }) => {
                task.register(current);
                false
            }
            Some(Entry { state: DeadlineState::Expired, .. }) => true,
            Some(Entry { state: DeadlineState::Free, .. }) | None => false,
        }
    }

    /// Returns the time that was left at the driver's last turn, if nothing more is written.
    pub(crate) fn left(&self, id: DeadlineId) -> Duration {
        match self.entries.get(id.index as usize).filter(|entry| entry.generation == id.generation)
        {
            Some(Entry { state: DeadlineState::Running(_), timeout, .. }) => {
                // It has not begun, or it is so long that it never expires.
                let due = self.due(id).zip(self.now);
                due.map_or(*timeout, |(due, now)| due.saturating_duration_since(now))
            }
            _ => Duration::ZERO,
        }
    }

    /// Nobody waits for the deadline any more. Returns the waker, to be dropped behind the lock.
    #[must_use = "a waker is not dropped under the lock"]
    pub(crate) fn stop(&mut self, id: Option<DeadlineId>) -> Option<Waker> {
        let id = id?;
        let entry = self.entry(id)?;
        let before = std::mem::replace(&mut entry.state, DeadlineState::Free);
        entry.generation = entry.generation.wrapping_add(1);
        self.free.push(id.index);
        match before {
            DeadlineState::Running(waker) => waker,
            DeadlineState::Free | DeadlineState::Expired => None,
        }
    }

    /// The driver has taken `count` more bytes.
    #[inline]
    pub(crate) fn count_taken(&mut self, count: usize) {
        self.taken += count as u64;
    }

    /// The driver has taken `count` more bytes, ahead of others that were queued or taken before. `queued` bytes are left to take.
    ///
    /// So each request that is not written has `count` more bytes ahead of it. For a request that is among these bytes itself, that is
    /// too many: its deadline may start later than it could, but at the latest when all queued bytes are written.
    #[cold]
    pub(crate) fn count_overtaken(&mut self, count: usize, queued: usize) {
        self.count_taken(count);
        let (written, all) = (self.written, self.taken.saturating_add(queued as u64));
        let fall_back = |at: u64, last: u64| match at > written {
            true => at.saturating_add(count as u64).min(last),
            false => at,
        };
        for entry in &mut self.entries {
            let last = if entry.is_queued { all } else { u64::MAX };
            entry.behind = entry.behind.map(|at| fall_back(at, last));
        }
        for (_, at) in &mut self.recovered {
            *at = fall_back(*at, all);
        }
        let behind = std::mem::take(&mut self.behind).into_vec();
        let entries = &self.entries;
        let moved = behind.into_iter().filter_map(|Reverse((_, id))| {
            let entry = entries.get(id.index as usize)?;
            let at = entry.behind.filter(|_| entry.generation == id.generation)?;
            Some(Reverse((at, id)))
        });
        self.behind = moved.collect();
    }

    /// Of the bytes that went to the driver, all but `left` are written, the last of them at `at`.
    #[inline]
    pub(crate) fn report_written(&mut self, at: Instant, left: usize) {
        self.written = self.taken.saturating_sub(left as u64);
        self.written_at = Some(at);
        if self.behind.peek().is_some_and(|Reverse((behind, _))| *behind <= self.written) {
            self.release(at);
        }
    }

    /// Deadlines with nothing ahead of them any more count from `at` on.
    fn release(&mut self, at: Instant) {
        while self.behind.peek().is_some_and(|Reverse((behind, _))| *behind <= self.written) {
            let Some(Reverse((_, id))) = self.behind.pop() else { break };
            if let Some(entry) = self.entry(id) {
                entry.since = entry.since.max(Some(at));
            }
        }
    }

    /// The transport is lost: nothing that was queued is ahead any more.
    pub(crate) fn lose(&mut self) {
        self.written = u64::MAX;
        self.written_at.into_iter().for_each(|at| self.release(at));
        // Bytes that were not written are discarded, and not counted: later bytes must not count for them.
        for behind in self.entries.iter_mut().filter_map(|entry| entry.behind.as_mut()) {
            *behind = 0;
        }
    }

    /// The connection is restored, and has queued that many bytes: requests that had to wait, and messages that are sent again.
    pub(crate) fn recover(&mut self, queued: usize) {
        // Its channels have queued nothing else.
        self.recovered.clear();
        self.recovered.push((None, self.taken.saturating_add(queued as u64)));
    }

    /// The channel at that place is open again. With its requests that had to wait, and its messages once more, that many bytes are
    /// queued.
    pub(crate) fn reopen(&mut self, channel: u32, queued: usize) {
        self.recovered.push((Some(channel), self.taken.saturating_add(queued as u64)));
    }

    /// Puts the deadlines that have lasted through an outage, of the connection or of that channel, behind the bytes that are
    /// queued now. The time that has passed so far counts, so that a connection that is lost again and again delays no deadline
    /// forever.
    #[cold]
    fn fall_behind(&mut self, now: Instant, channel: Option<u32>, queued: u64) {
        for (index, entry) in (0..).zip(&mut self.entries) {
            if channel.is_some() && entry.channel != channel {
                continue;
            }
            let (DeadlineState::Running(_), Some(behind)) = (&entry.state, &mut entry.behind)
            else {
                continue;
            };
            *behind = queued;
            // Deadlines that the driver has not seen yet have not begun.
            if let Some(since) = &mut entry.since {
                entry.timeout = entry.timeout.saturating_sub(now.saturating_duration_since(*since));
                *since = now;
                let id = DeadlineId { index, generation: entry.generation };
                self.behind.push(Reverse((queued, id)));
            }
        }
    }

    /// Assigns points in time to new deadlines, and expires those that have passed.
    pub(crate) fn turn(&mut self, now: Instant, mut wake: impl FnMut(Waker)) {
        self.now = Some(now);
        while let Some((channel, queued)) = self.recovered.pop() {
            self.fall_behind(now, channel, queued);
        }
        while let Some(id) = self.unarmed.pop() {
            let written = self.written;
            let Some(entry) = self.entry(id) else { continue };
            entry.since = Some(now);
            let (timeout, behind) = (entry.timeout, entry.behind.filter(|at| *at > written));
            if let Some(at) = now.checked_add(timeout) {
                self.heap.push(Reverse((at, id)));
                behind.into_iter().for_each(|behind| self.behind.push(Reverse((behind, id))));
            }
        }
        while self.heap.peek().is_some_and(|Reverse((at, _))| *at <= now) {
            let Some(Reverse((_, id))) = self.heap.pop() else {
                break;
            };
            if let Some(at) = self.due(id).filter(|at| *at > now) {
                self.heap.push(Reverse((at, id)));
                continue;
            }
            if let Some(entry) = self.entry(id) {
                if let DeadlineState::Running(Some(waker)) =
                    std::mem::replace(&mut entry.state, DeadlineState::Expired)
                {
                    wake(waker);
                }
            }
        }
        let live = self.entries.len() - self.free.len();
        clean(&mut self.heap, &self.entries, live);
        clean(&mut self.behind, &self.entries, live);
    }

    /// Returns when a deadline expires if nothing more is written. While bytes ahead of it are unwritten, it counts from the
    /// last write; `None` if there was none yet.
    fn due(&self, id: DeadlineId) -> Option<Instant> {
        let entry = self.entries.get(id.index as usize)?;
        if entry.generation != id.generation {
            return None;
        }
        let moved = self.written_at.filter(|_| entry.behind.is_some_and(|at| at > self.written));
        entry.since.max(moved)?.checked_add(entry.timeout)
    }

    /// Returns when [`turn`](Self::turn) should come next.
    pub(crate) fn next(&mut self) -> Option<Instant> {
        while let Some(Reverse((at, id))) = self.heap.peek() {
            if is_current(&self.entries, *id) {
                return Some(*at);
            }
            self.heap.pop();
        }
        None
    }

    fn entry(&mut self, id: DeadlineId) -> Option<&mut Entry> {
        self.entries.get_mut(id.index as usize).filter(|entry| entry.generation == id.generation)
    }
}

/// Removes entries of finished deadlines, once they are the majority.
#[inline]
fn clean<T: Ord>(heap: &mut BinaryHeap<Reverse<(T, DeadlineId)>>, entries: &[Entry], live: usize) {
    if heap.len() > CLEAN_ABOVE && heap.len() > live * 2 {
        heap.retain(|Reverse((_, id))| is_current(entries, *id));
    }
}

fn is_current(entries: &[Entry], id: DeadlineId) -> bool {
    entries.get(id.index as usize).is_some_and(|entry| entry.generation == id.generation)
}

#[cfg(test)]
mod tests;
