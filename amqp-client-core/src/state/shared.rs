use std::fmt;
use std::future::poll_fn;
use std::mem::ManuallyDrop;
use std::ops::{Deref, DerefMut};
use std::sync::OnceLock;
use std::sync::atomic::{AtomicU8, AtomicU64, Ordering};
use std::task::{Context, Poll, Waker};
use std::time::Instant;

use amqp_proto::session::Session;
#[cfg(not(shuttle))]
use parking_lot::{Mutex, MutexGuard};
#[cfg(shuttle)]
use shuttle::sync::{Mutex, MutexGuard};

use super::State;
use super::starvation::Starvation;
use super::waiters::Task;
use super::wakes::Wakes;
use crate::config::Settings;
use crate::intercept::{Interceptor, Observers};
use crate::logs::Log;

/// The lock around the state of a connection.
pub(crate) struct Shared {
    pub(crate) settings: Settings,
    /// Sees the messages of the connection, if the program has set one.
    pub(crate) observers: Option<Observers>,
    /// Counts the turns of drivers, for those that may have to let one happen.
    turns: AtomicU64,
    /// The runtime's function by which tasks yield. Empty if a program drives the connection itself, for example in virtual time.
    yield_now: OnceLock<YieldNow>,
    /// What keeps a publish from the fast path: [`STARVED`] and [`INTERCEPTED`]. One value, so that a publish reads no more.
    detours: AtomicU8,
    /// Many threads may use one connection, each for a fraction of a microsecond at a time. Before this lock parks a thread, it
    /// lets other threads run a few times. The lock of the standard library parks threads sooner, and its system calls then take
    /// more time than the work.
    state: Mutex<State>,
}

/// Publishing has kept the driver from running for long: the next publish yields.
const STARVED: u8 = 1;

/// An interceptor sees each message. Never changes.
const INTERCEPTED: u8 = 2;

/// Wakes a task behind those that wait for its thread.
pub(crate) type YieldNow = fn(&Waker);

impl Shared {
    pub(crate) fn new(
        proto: Session,
        settings: Settings,
        interceptor: Option<Interceptor>,
        log: Log,
    ) -> Self {
        let (turns, yield_now) = (AtomicU64::new(0), OnceLock::new());
        let detours = AtomicU8::new(if interceptor.is_some() { INTERCEPTED } else { 0 });
        let state = Mutex::new(State::new(proto, log));
        let observers = interceptor.map(Observers::new);
        Self { settings, observers, turns, yield_now, detours, state }
    }

    /// The driver has a turn.
    pub(crate) fn count_turn(&self) {
        self.turns.fetch_add(1, Ordering::Relaxed);
        self.detours.fetch_and(!STARVED, Ordering::Relaxed);
    }

    /// From now on, tasks also yield by time, with this function.
    pub(crate) fn yield_by(&self, yield_now: YieldNow) {
        let _kept = self.yield_now.set(yield_now);
    }

    /// The time, for tasks that may have to let the driver run.
    pub(crate) fn time(&self) -> Option<Instant> {
        self.yield_now.get().map(|_| Instant::now())
    }

    /// Wakes a task behind those that wait for its thread.
    pub(crate) fn yield_now(&self, waker: &Waker) {
        self.yield_now.get().map_or_else(|| waker.wake_by_ref(), |yield_now| yield_now(waker));
    }

    /// Returns whether a publish neither has to yield first, nor has to be shown to an interceptor.
    #[inline]
    pub(crate) fn is_fast(&self) -> bool {
        self.detours.load(Ordering::Relaxed) == 0
    }

    /// Returns whether publishing has kept the driver from running for long. Returns `true` once, and then `false` until it
    /// happens again.
    #[inline]
    pub(crate) fn take_starved(&self) -> bool {
        self.detours.load(Ordering::Relaxed) & STARVED != 0
            && self.detours.fetch_and(!STARVED, Ordering::Relaxed) & STARVED != 0
    }

    /// Yields to the driver, if publishing has kept it from running for long.
    #[inline]
    pub(crate) async fn let_driver_run(&self) {
        if self.take_starved() {
            self.yield_once().await;
        }
    }

    /// Returns the number of turns that drivers have had.
    pub(crate) fn turns(&self) -> u64 {
        self.turns.load(Ordering::Relaxed)
    }

    #[cold]
    fn yield_once(&self) -> impl Future<Output = ()> {
        let mut yielded = false;
        poll_fn(move |cx| {
            if std::mem::replace(&mut yielded, true) {
                return Poll::Ready(());
            }
            self.yield_now(cx.waker());
            Poll::Pending
        })
    }

    /// Locks the state. A panic of another thread cannot leave it half changed in a way that matters more than going on: the
    /// protocol's state machine checks all its input.
    pub(crate) fn lock(&self) -> Guard<'_> {
        let state = self.state.lock();
        #[cfg(shuttle)]
        let state = state.unwrap_or_else(std::sync::PoisonError::into_inner);
        Guard { state, due: WakeOnDrop::default() }
    }

    /// Polls under the lock. `look` registers the task. It is called again if the waker had to be cloned, because the lock is
    /// released for that.
    #[inline]
    pub(crate) fn poll<T>(
        &self,
        cx: &Context<'_>,
        look: impl FnMut(&mut State, &mut Task<'_>) -> Poll<T>,
    ) -> Poll<T> {
        self.poll_as(Task::new(cx.waker()), look)
    }

    /// Polls under the lock, like [`poll`](Self::poll), for a task that may have spare clones of its waker.
    #[inline]
    pub(crate) fn poll_as<T>(
        &self,
        mut task: Task<'_>,
        mut look: impl FnMut(&mut State, &mut Task<'_>) -> Poll<T>,
    ) -> Poll<T> {
        loop {
            let polled = look(&mut self.lock(), &mut task);
            if polled.is_ready() || !task.restock() {
                return polled;
            }
        }
    }
}

/// The locked state. Whom its use woke is woken when the lock is released, and finds it free.
#[derive(Debug)]
pub(crate) struct Guard<'a> {
    // Fields are dropped in this order.
    state: MutexGuard<'a, State>,
    due: WakeOnDrop,
}

impl Deref for Guard<'_> {
    type Target = State;

    fn deref(&self) -> &State {
        &self.state
    }
}

impl DerefMut for Guard<'_> {
    fn deref_mut(&mut self) -> &mut State {
        &mut self.state
    }
}

impl Drop for Guard<'_> {
    #[inline]
    fn drop(&mut self) {
        if !self.state.wakes.is_empty() {
            self.due = WakeOnDrop(ManuallyDrop::new(std::mem::take(&mut self.state.wakes)));
        }
    }
}

/// Wakes when it is dropped. Most are empty by then: not dropping those saves each use of the lock a check of every field.
#[derive(Debug, Default)]
struct WakeOnDrop(ManuallyDrop<Wakes>);

impl Drop for WakeOnDrop {
    #[inline]
    fn drop(&mut self) {
        if !self.0.is_empty() {
            self.0.wake();
        }
    }
}

/// Shows nothing of the state: it contains everything in progress, and its lock may be held.
impl fmt::Debug for Shared {
    fn fmt(&self, f: &mut fmt::Formatter<'_>) -> fmt::Result {
        f.debug_struct("Shared").finish_non_exhaustive()
    }
}

impl State {
    /// A message was published, for which the driver was woken.
    #[inline]
    pub(crate) fn count_publish(&mut self, shared: &Shared) {
        if self.starvation.count_step()
            && self.starvation.check(shared.turns(), shared.time()) == Starvation::ByTime
        {
            shared.detours.fetch_or(STARVED, Ordering::Relaxed);
        }
    }
}
