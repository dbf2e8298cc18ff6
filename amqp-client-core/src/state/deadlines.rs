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
#[derive(Debug, Default)]
pub(crate) struct Deadlines {
    entries: Vec<Entry>,
    free: Vec<u32>,
    unarmed: Vec<DeadlineId>,
    heap: BinaryHeap<Reverse<(Instant, DeadlineId)>>,
}

/// One deadline. Numbers are used again; the generation tells them apart.
#[derive(Debug, Clone, Copy, PartialEq, Eq, PartialOrd, Ord)]
pub(crate) struct DeadlineId {
    index: u32,
    generation: u32,
}

#[derive(Debug)]
struct Entry {
    generation: u32,
    timeout: Duration,
    state: State,
}

#[derive(Debug)]
enum State {
    Free,
    Running(Option<Waker>),
    Expired,
}

/// Below this many entries the heap is not worth cleaning.
const KEPT_HEAP: usize = 1024;

impl Deadlines {
    /// Starts a deadline, if there is one. The driver must be woken for it, or be about to run.
    pub(crate) fn start(&mut self, timeout: Option<Duration>) -> Option<DeadlineId> {
        let timeout = timeout?;
        let index = match self.free.pop() {
            Some(index) => index,
            None => {
                self.entries.push(Entry { generation: 0, timeout, state: State::Free });
                u32::try_from(self.entries.len() - 1).ok()?
            }
        };
        let entry = self.entries.get_mut(index as usize)?;
        entry.timeout = timeout;
        entry.state = State::Running(None);
        let id = DeadlineId { index, generation: entry.generation };
        self.unarmed.push(id);
        Some(id)
    }

    /// Whether the deadline has passed; if not, the task is woken when it does.
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

    /// Gives new deadlines their point in time, and expires those that have passed.
    pub(crate) fn turn(&mut self, now: Instant, mut wake: impl FnMut(Waker)) {
        while let Some(id) = self.unarmed.pop() {
            let timeout = self.entry(id).map(|entry| entry.timeout);
            if let Some(at) = timeout.and_then(|timeout| now.checked_add(timeout)) {
                self.heap.push(Reverse((at, id)));
            }
        }
        while self.heap.peek().is_some_and(|Reverse((at, _))| *at <= now) {
            let Some(Reverse((_, id))) = self.heap.pop() else {
                break;
            };
            if let Some(entry) = self.entry(id) {
                if let State::Running(Some(waker)) =
                    std::mem::replace(&mut entry.state, State::Expired)
                {
                    wake(waker);
                }
            }
        }
        let live = self.entries.len() - self.free.len();
        if self.heap.len() > KEPT_HEAP && self.heap.len() > live * 2 {
            let entries = &self.entries;
            self.heap.retain(|Reverse((_, id))| is_current(entries, *id));
        }
    }

    /// When [`turn`](Self::turn) should come next.
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

fn is_current(entries: &[Entry], id: DeadlineId) -> bool {
    entries.get(id.index as usize).is_some_and(|entry| entry.generation == id.generation)
}

#[cfg(test)]
mod tests {
    use std::sync::Arc;
    use std::sync::atomic::{AtomicUsize, Ordering};
    use std::task::{Poll, Wake};

    use super::super::waiters::poll;
    use super::*;

    #[derive(Default)]
    struct Count(AtomicUsize);

    impl Wake for Count {
        fn wake(self: Arc<Self>) {
            self.0.fetch_add(1, Ordering::SeqCst);
        }
    }

    fn expired(deadlines: &mut Deadlines, id: Option<DeadlineId>, waker: &Waker) -> bool {
        let polled = poll(waker, |task| match deadlines.expired(id, task) {
            true => Poll::Ready(()),
            false => Poll::Pending,
        });
        polled.is_ready()
    }

    const SECOND: Duration = Duration::from_secs(1);

    #[test]
    fn a_deadline_starts_with_the_drivers_next_turn_and_wakes_who_waits() {
        let (mut deadlines, now) = (Deadlines::default(), Instant::now());
        let woken = Arc::new(Count::default());
        let waker = Waker::from(woken.clone());
        let id = deadlines.start(Some(SECOND));
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
        let id = deadlines.start(None);
        deadlines.turn(Instant::now() + 1_000_000 * SECOND, Waker::wake);
        assert!(!expired(&mut deadlines, id, Waker::noop()));
    }

    #[test]
    fn a_deadline_that_was_stopped_does_not_speak_for_the_next_in_its_place() {
        let (mut deadlines, now) = (Deadlines::default(), Instant::now());
        let first = deadlines.start(Some(SECOND));
        deadlines.turn(now, Waker::wake);
        drop(deadlines.stop(first));
        let second = deadlines.start(Some(10 * SECOND));
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
            let id = deadlines.start(Some(1000 * SECOND));
            deadlines.turn(now, Waker::wake);
            drop(deadlines.stop(id));
        }
        assert_eq!(deadlines.entries.len(), 1);
        assert!(deadlines.heap.len() <= KEPT_HEAP + 1, "{}", deadlines.heap.len());
        assert_eq!(deadlines.next(), None);
    }
}
