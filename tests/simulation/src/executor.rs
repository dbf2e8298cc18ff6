//! Tasks, and the virtual clock that they sleep by.

use std::cell::{Cell, RefCell};
use std::future::{Future, poll_fn};
use std::pin::{Pin, pin};
use std::sync::Arc;
use std::sync::atomic::{AtomicBool, Ordering};
use std::task::{Context, Poll, Wake, Waker};
use std::time::{Duration, Instant};

/// Remembers that a task was woken.
#[derive(Debug, Default)]
pub(crate) struct Flag(AtomicBool);

impl Flag {
    pub(crate) fn raised() -> Arc<Self> {
        Arc::new(Self(AtomicBool::new(true)))
    }

    pub(crate) fn is_raised(&self) -> bool {
        self.0.load(Ordering::Relaxed)
    }

    pub(crate) fn lower(&self) {
        self.0.store(false, Ordering::Relaxed);
    }

    pub(crate) fn raise(&self) {
        self.0.store(true, Ordering::Relaxed);
    }
}

impl Wake for Flag {
    fn wake(self: Arc<Self>) {
        self.raise();
    }
}

pub(crate) struct Task {
    future: Pin<Box<dyn Future<Output = ()>>>,
    flag: Arc<Flag>,
    name: Box<dyn Fn() -> String>,
}

impl Task {
    pub(crate) fn new(name: String, future: impl Future<Output = ()> + 'static) -> Self {
        Self::described(move || name.clone(), future)
    }

    /// The same with a name that shows its progress.
    pub(crate) fn described(
        name: impl Fn() -> String + 'static,
        future: impl Future<Output = ()> + 'static,
    ) -> Self {
        Self { future: Box::pin(future), flag: Flag::raised(), name: Box::new(name) }
    }

    pub(crate) fn name(&self) -> String {
        (self.name)()
    }

    pub(crate) fn is_ready(&self) -> bool {
        self.flag.is_raised()
    }

    /// Polls it once. Says whether it is done.
    pub(crate) fn run(&mut self) -> bool {
        self.flag.lower();
        let waker = Waker::from(self.flag.clone());
        self.future.as_mut().poll(&mut Context::from_waker(&waker)).is_ready()
    }
}

/// The time, which stands still until it is moved.
#[derive(Debug)]
pub(crate) struct Clock {
    start: Instant,
    now: Cell<Instant>,
    sleepers: RefCell<Vec<(Instant, Waker)>>,
}

impl Clock {
    pub(crate) fn new() -> Self {
        let start = Instant::now();
        Self { start, now: Cell::new(start), sleepers: RefCell::default() }
    }

    pub(crate) fn now(&self) -> Instant {
        self.now.get()
    }

    pub(crate) const fn start(&self) -> Instant {
        self.start
    }

    /// Advances the time, and wakes tasks that have slept until then.
    pub(crate) fn advance(&self, to: Instant) {
        self.now.set(to.max(self.now.get()));
        let now = self.now.get();
        self.sleepers.borrow_mut().retain(|(at, waker)| {
            if *at <= now {
                waker.wake_by_ref();
            }
            *at > now
        });
    }

    /// Returns when the next one wants to be woken.
    pub(crate) fn next(&self) -> Option<Instant> {
        self.sleepers.borrow().iter().map(|(at, _)| *at).min()
    }

    /// Waits that long in virtual time: it takes no time of the machine, and does not depend on how fast that is.
    pub(crate) async fn sleep(&self, time: Duration) {
        let at = self.now() + time;
        poll_fn(|cx| self.poll_until(at, cx)).await;
    }

    /// Returns the result of a future, if it is ready in time.
    pub(crate) async fn within<T>(
        &self,
        time: Duration,
        future: impl Future<Output = T>,
    ) -> Option<T> {
        let at = self.now() + time;
        let mut future = pin!(future);
        poll_fn(|cx| match future.as_mut().poll(cx) {
            Poll::Ready(value) => Poll::Ready(Some(value)),
            Poll::Pending => self.poll_until(at, cx).map(|()| None),
        })
        .await
    }

    /// Ready at that time.
    pub(crate) fn poll_until(&self, at: Instant, cx: &Context<'_>) -> Poll<()> {
        if at <= self.now.get() {
            return Poll::Ready(());
        }
        let mut sleepers = self.sleepers.borrow_mut();
        if !sleepers.iter().any(|(other, waker)| *other == at && waker.will_wake(cx.waker())) {
            sleepers.push((at, cx.waker().clone()));
        }
        Poll::Pending
    }
}
