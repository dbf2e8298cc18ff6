use std::cmp::Reverse;
use std::collections::BinaryHeap;
use std::task::Waker;
use std::time::{Duration, Instant};

use super::waiters::Task;

/// Deadlines of everything that waits on a connection.
///
/// Handles read no clock: a deadline starts as a duration, and the driver turns it into a point in time at its next turn,
/// for which every command wakes it anyway. The heap keeps entries of deadlines that are gone until they come up, or
/// until they are most of it; that costs less than finding them.
///
/// A deadline does not count while bytes are ahead of whoever waits and the transport takes some of them. Bytes are counted
/// from the first that the connection has queued, so what is ahead is a number: a request behind a body of 30 MiB waits until
/// 30 MiB more are written. Its deadline of 5 s expires when nothing was written for 5 s, or 5 s after that byte was.
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
    /// All time that passes.
    Always,
    /// Not the time in which that many queued bytes are being written.
    Behind {
        queued: usize,
        /// The place of the channel that it is about.
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
    /// The place of the channel that it is about.
    channel: Option<u32>,
    state: State,
}

#[derive(Debug)]
enum State {
    Free,
    Running(Option<Waker>),
    Expired,
}

/// Below this many entries a heap is not worth cleaning.
const KEPT_HEAP: usize = 1024;

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
                let (since, behind, channel, state) = (None, None, None, State::Free);
                let entry = Entry { generation: 0, timeout, since, behind, channel, state };
                self.entries.push(entry);
                u32::try_from(self.entries.len() - 1).ok()?
            }
        };
        let (behind, channel) = match counts {
            Counts::Always => (None, None),
            Counts::Behind { queued, channel } => {
                (Some(self.taken.saturating_add(queued as u64)), channel)
            }
        };
        let entry = self.entries.get_mut(index as usize)?;
        (entry.timeout, entry.since) = (timeout, None);
        (entry.behind, entry.channel) = (behind, channel);
        entry.state = State::Running(None);
        let id = DeadlineId { index, generation: entry.generation };
        self.unarmed.push(id);
        Some(id)
    }

    /// Returns whether the deadline has passed. If not, the task is woken when it does.
    pub(crate) fn expired(&mut self, id: Option<DeadlineId>, task: &mut Task<'_>) -> bool {
        match id.and_then(|id| self.entry(id)) {
            Some(Entry { state: State::Running(current), .. }) => {
                task.register(current);
                false
            }
            Some(Entry { state: State::Expired, .. }) => true,
            Some(Entry { state: State::Free, .. }) | None => false,
        }
    }

    /// Nobody waits for the deadline any more. Returns the waker, to be dropped behind the lock.
    #[must_use = "a waker is not dropped under the lock"]
    pub(crate) fn stop(&mut self, id: Option<DeadlineId>) -> Option<Waker> {
        let id = id?;
        let entry = self.entry(id)?;
        let before = std::mem::replace(&mut entry.state, State::Free);
        entry.generation = entry.generation.wrapping_add(1);
        self.free.push(id.index);
        match before {
            State::Running(waker) => waker,
            State::Free | State::Expired => None,
        }
    }

    /// The driver has taken `count` more bytes.
    #[inline]
    pub(crate) fn count_taken(&mut self, count: usize) {
        self.taken += count as u64;
    }

    /// All bytes that went to the driver are written but `left`, the last of them at `at`.
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
        // What was not taken was discarded and is not counted: later bytes must not pass for it.
        for behind in self.entries.iter_mut().filter_map(|entry| entry.behind.as_mut()) {
            *behind = 0;
        }
    }

    /// The connection is back, and has queued that many bytes: requests that had to wait, and messages once more.
    pub(crate) fn recover(&mut self, queued: usize) {
        // That is all that its channels have queued, too.
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
            let (State::Running(_), Some(behind)) = (&entry.state, &mut entry.behind) else {
                continue;
            };
            *behind = queued;
            // Those that the driver has not seen yet have not waited.
            if let Some(since) = &mut entry.since {
                entry.timeout = entry.timeout.saturating_sub(now.saturating_duration_since(*since));
                *since = now;
                let id = DeadlineId { index, generation: entry.generation };
                self.behind.push(Reverse((queued, id)));
            }
        }
    }

    /// Gives new deadlines their point in time, and expires those that have passed.
    pub(crate) fn turn(&mut self, now: Instant, mut wake: impl FnMut(Waker)) {
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
                if let State::Running(Some(waker)) =
                    std::mem::replace(&mut entry.state, State::Expired)
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

/// Drops what belongs to deadlines that are gone, once that is most of it.
#[inline]
fn clean<T: Ord>(heap: &mut BinaryHeap<Reverse<(T, DeadlineId)>>, entries: &[Entry], live: usize) {
    if heap.len() > KEPT_HEAP && heap.len() > live * 2 {
        heap.retain(|Reverse((_, id))| is_current(entries, *id));
    }
}

fn is_current(entries: &[Entry], id: DeadlineId) -> bool {
    entries.get(id.index as usize).is_some_and(|entry| entry.generation == id.generation)
}

#[cfg(test)]
mod tests {
    use std::sync::Arc;
    use std::sync::atomic::Ordering;
    use std::task::Poll;

    use super::super::waiters::{poll, tests::Count};
    use super::*;

    fn expired(deadlines: &mut Deadlines, id: Option<DeadlineId>, waker: &Waker) -> bool {
        let polled = poll(waker, |task| match deadlines.expired(id, task) {
            true => Poll::Ready(()),
            false => Poll::Pending,
        });
        polled.is_ready()
    }

    const SECOND: Duration = Duration::from_secs(1);

    fn queued(queued: usize) -> Counts {
        Counts::Behind { queued, channel: None }
    }

    #[test]
    fn a_deadline_starts_with_the_drivers_next_turn_and_wakes_who_waits() {
        let (mut deadlines, now) = (Deadlines::default(), Instant::now());
        let woken = Arc::new(Count::default());
        let waker = Waker::from(woken.clone());
        let id = deadlines.start(Some(SECOND), Counts::Always);
        assert!(!expired(&mut deadlines, id, &waker));
        assert_eq!(deadlines.next(), None);
        deadlines.turn(now, Waker::wake);
        assert_eq!(deadlines.next(), Some(now + SECOND));
        deadlines.turn(now + SECOND - Duration::from_nanos(1), Waker::wake);
        assert!(!expired(&mut deadlines, id, &waker));
        deadlines.turn(now + SECOND, Waker::wake);
        assert_eq!(woken.0.load(Ordering::SeqCst), 1);
        assert!(expired(&mut deadlines, id, &waker));
        assert_eq!(deadlines.next(), None);
    }

    #[test]
    fn none_is_never() {
        let mut deadlines = Deadlines::default();
        let id = deadlines.start(None, Counts::Always);
        deadlines.turn(Instant::now() + 1_000_000 * SECOND, Waker::wake);
        assert!(!expired(&mut deadlines, id, Waker::noop()));
    }

    #[test]
    fn a_deadline_that_was_stopped_does_not_speak_for_the_next_in_its_place() {
        let (mut deadlines, now) = (Deadlines::default(), Instant::now());
        let first = deadlines.start(Some(SECOND), Counts::Always);
        deadlines.turn(now, Waker::wake);
        drop(deadlines.stop(first));
        let second = deadlines.start(Some(10 * SECOND), Counts::Always);
        assert_eq!(first.map(|id| id.index), second.map(|id| id.index));
        deadlines.turn(now, Waker::wake);
        deadlines.turn(now + SECOND, Waker::wake);
        assert!(!expired(&mut deadlines, second, Waker::noop()));
        drop(deadlines.stop(first));
        deadlines.turn(now + 10 * SECOND, Waker::wake);
        assert!(expired(&mut deadlines, second, Waker::noop()));
    }

    #[test]
    fn deadlines_that_are_gone_do_not_pile_up() {
        let (mut deadlines, now) = (Deadlines::default(), Instant::now());
        for _ in 0..10 * KEPT_HEAP {
            let id = deadlines.start(Some(1000 * SECOND), Counts::Always);
            deadlines.turn(now, Waker::wake);
            drop(deadlines.stop(id));
        }
        assert_eq!(deadlines.entries.len(), 1);
        assert!(deadlines.heap.len() <= KEPT_HEAP + 1, "{}", deadlines.heap.len());
        assert_eq!(deadlines.next(), None);
    }

    /// Deadlines of 10 s, of which the second is behind 100 bytes, and the time.
    fn behind() -> (Deadlines, Option<DeadlineId>, Option<DeadlineId>, Instant) {
        let (mut deadlines, now) = (Deadlines::default(), Instant::now());
        deadlines.report_written(now, 0);
        let always = deadlines.start(Some(10 * SECOND), Counts::Always);
        let behind = deadlines.start(Some(10 * SECOND), queued(100));
        deadlines.turn(now, Waker::wake);
        deadlines.count_taken(100);
        (deadlines, always, behind, now)
    }

    #[test]
    fn a_deadline_counts_from_when_nothing_is_ahead_of_it() {
        let (mut deadlines, always, behind, mut now) = behind();
        let mut last = now;
        for left in (0..10).rev() {
            // The last was written just after the turn before.
            (last, now) = (now, now + 9 * SECOND);
            deadlines.report_written(last, left);
            deadlines.turn(now, Waker::wake);
            assert!(!expired(&mut deadlines, behind, Waker::noop()), "{left}");
        }
        assert!(expired(&mut deadlines, always, Waker::noop()));
        // What follows is behind it, and makes no difference.
        deadlines.count_taken(1000);
        deadlines.report_written(now, 100);
        assert!(deadlines.next().is_some_and(|at| at <= last + 10 * SECOND));
        deadlines.turn(last + 10 * SECOND - Duration::from_nanos(1), Waker::wake);
        assert!(!expired(&mut deadlines, behind, Waker::noop()));
        deadlines.turn(last + 10 * SECOND, Waker::wake);
        assert!(expired(&mut deadlines, behind, Waker::noop()));
        assert_eq!((deadlines.next(), deadlines.behind.len()), (None, 0));
    }

    #[test]
    fn a_deadline_expires_when_nothing_is_written_for_as_long() {
        let (mut deadlines, _, behind, now) = behind();
        deadlines.report_written(now + 3 * SECOND, 99);
        deadlines.turn(now + 10 * SECOND, Waker::wake);
        assert!(!expired(&mut deadlines, behind, Waker::noop()));
        assert_eq!(deadlines.next(), Some(now + 13 * SECOND));
        deadlines.report_written(now + 3 * SECOND, 99);
        deadlines.turn(now + 13 * SECOND, Waker::wake);
        assert!(expired(&mut deadlines, behind, Waker::noop()));
    }

    #[test]
    fn after_a_loss_nothing_is_ahead_until_the_connection_is_back() {
        let (mut deadlines, _, behind, now) = behind();
        deadlines.report_written(now + 3 * SECOND, 50);
        deadlines.lose();
        let other = deadlines.start(Some(10 * SECOND), queued(0));
        // The next transport takes a handshake.
        for seconds in 4..8 {
            deadlines.report_written(now + seconds * SECOND, 0);
            deadlines.turn(now + seconds * SECOND, Waker::wake);
            deadlines.count_taken(10);
        }
        let last = deadlines.start(Some(5 * SECOND), queued(0));
        deadlines.recover(1000);
        deadlines.turn(now + 8 * SECOND, Waker::wake);
        deadlines.count_taken(1000);
        // What is sent again is ahead; 5 s of 10 s are over.
        deadlines.report_written(now + 10 * SECOND, 10);
        deadlines.turn(now + 15 * SECOND - Duration::from_nanos(1), Waker::wake);
        assert!(!expired(&mut deadlines, behind, Waker::noop()));
        deadlines.turn(now + 15 * SECOND - Duration::from_nanos(1), Waker::wake);
        assert!(!expired(&mut deadlines, last, Waker::noop()));
        deadlines.turn(now + 15 * SECOND, Waker::wake);
        assert!(expired(&mut deadlines, behind, Waker::noop()));
        assert!(expired(&mut deadlines, last, Waker::noop()));
        // The other has waited for 4 s.
        deadlines.report_written(now + 15 * SECOND, 0);
        deadlines.turn(now + 21 * SECOND - Duration::from_nanos(1), Waker::wake);
        assert!(!expired(&mut deadlines, other, Waker::noop()));
        deadlines.turn(now + 21 * SECOND, Waker::wake);
        assert!(expired(&mut deadlines, other, Waker::noop()));
    }

    #[test]
    fn a_connection_that_is_lost_over_and_over_holds_nobody_for_ever() {
        let (mut deadlines, _, behind, mut now) = behind();
        for losses in 0.. {
            if expired(&mut deadlines, behind, Waker::noop()) {
                assert!((9..=11).contains(&losses), "{losses}");
                break;
            }
            deadlines.report_written(now, 1);
            deadlines.lose();
            // It takes a second to come back, and moves for another.
            now += SECOND;
            deadlines.recover(1000);
            deadlines.turn(now, Waker::wake);
            deadlines.count_taken(1000);
            now += SECOND;
        }
    }

    #[test]
    fn extreme_times_and_numbers_of_bytes_do_no_harm() {
        for (timeout, ends) in [(Duration::MAX, false), (Duration::ZERO, true)] {
            let (mut deadlines, _, _, now) = behind();
            let id = deadlines.start(Some(timeout), queued(usize::MAX));
            for seconds in 1..100 {
                deadlines.report_written(now + seconds * SECOND, 1);
                deadlines.turn(now + seconds * SECOND, Waker::wake);
                deadlines.lose();
                deadlines.recover(usize::MAX);
                deadlines.turn(now + seconds * 1_000_000 * SECOND, Waker::wake);
            }
            assert_eq!(expired(&mut deadlines, id, Waker::noop()), ends);
        }
    }

    #[test]
    fn deadlines_that_are_gone_do_not_pile_up_behind_what_is_not_written() {
        let mut deadlines = Deadlines::default();
        for _ in 0..10 * KEPT_HEAP {
            let id = deadlines.start(Some(1000 * SECOND), queued(1));
            deadlines.turn(Instant::now(), Waker::wake);
            drop(deadlines.stop(id));
        }
        assert!(deadlines.behind.len() <= KEPT_HEAP + 1, "{}", deadlines.behind.len());
    }

    #[test]
    fn a_deadline_that_was_stopped_is_not_looked_at_for_the_next_in_its_place() {
        let (mut deadlines, _, behind, now) = behind();
        drop(deadlines.stop(behind));
        let next = deadlines.start(Some(Duration::MAX), queued(100));
        assert_eq!(behind.map(|id| id.index), next.map(|id| id.index));
        deadlines.report_written(now + 9 * SECOND, 50);
        deadlines.turn(now + 10 * SECOND, Waker::wake);
        assert!(deadlines.heap.is_empty());
    }
}
