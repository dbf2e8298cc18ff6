use std::cell::RefCell;
use std::fmt;
use std::sync::atomic::{AtomicBool, Ordering};
use std::sync::{Arc, Mutex, PoisonError, Weak};
use std::task::Wake;
use std::thread::{self, Thread};
use std::time::Instant;

/// A loop that moves bytes, which one thread at a time runs: one that waits for something, or else a helper.
pub trait IoLoop: Send + Sync {
    /// Runs the loop until the waiter is woken, or that time has come. Says `false` at once if it cannot, because another
    /// thread runs it, or it is over; the waiter is unparked when it should try again.
    fn lead(&self, waiter: &Arc<Waiter>, until: Option<Instant>) -> bool;

    /// Makes [`lead`](Self::lead), in whichever thread it runs, check its waiter.
    fn interrupt(&self);

    /// The waiter does not try again.
    fn leave(&self, waiter: &Waiter);
}

/// A thread that waits for a future.
pub struct Waiter {
    thread: Thread,
    woken: AtomicBool,
    /// The loop that it runs meanwhile.
    leads: Mutex<Option<Arc<dyn IoLoop>>>,
}

thread_local! {
    /// Made once, so that a future that is polled again by the same thread finds the waker that it knows.
    static WAITER: Arc<Waiter> = Waiter::new();
    /// The loop of the connection that this thread used last.
    static USED: RefCell<Option<Weak<dyn IoLoop>>> = const { RefCell::new(None) };
}

impl Waiter {
    fn new() -> Arc<Self> {
        let thread = thread::current();
        Arc::new(Self { thread, woken: AtomicBool::new(false), leads: Mutex::new(None) })
    }

    /// Returns whether the waiter was woken, so that its future should be polled again.
    #[must_use]
    pub fn is_woken(&self) -> bool {
        self.woken.load(Ordering::Acquire)
    }

    /// Lets the thread continue, if it has parked, without being woken.
    pub fn unpark(&self) {
        self.thread.unpark();
    }

    pub(super) fn forget(&self) {
        // Effects from before the wake must be visible to the next poll of the future.
        self.woken.swap(false, Ordering::Acquire);
    }

    fn set_leads(&self, io_loop: Option<Arc<dyn IoLoop>>) {
        *self.leads.lock().unwrap_or_else(PoisonError::into_inner) = io_loop;
    }

    fn is_this_thread(&self) -> bool {
        WAITER.try_with(|own| std::ptr::eq(&**own, self)).unwrap_or(false)
    }
}

impl Wake for Waiter {
    fn wake(self: Arc<Self>) {
        self.wake_by_ref();
    }

    fn wake_by_ref(self: &Arc<Self>) {
        self.woken.store(true, Ordering::Release);
        // A thread that wakes itself checks the flag before it sleeps.
        if self.is_this_thread() {
            return;
        }
        // A thread that begins to lead after this lock sees the flag.
        let leads = self.leads.lock().unwrap_or_else(PoisonError::into_inner).clone();
        match leads {
            Some(io_loop) => io_loop.interrupt(),
            None => self.thread.unpark(),
        }
    }
}

impl fmt::Debug for Waiter {
    fn fmt(&self, f: &mut fmt::Formatter<'_>) -> fmt::Result {
        f.debug_struct("Waiter").field("thread", &self.thread.id()).finish_non_exhaustive()
    }
}

/// Reports that this thread has given the loop work: the thread runs the loop when it waits next.
pub fn used<L: IoLoop + 'static>(io_loop: &Arc<L>) {
    // A thread that ends waits for nothing any more.
    let _ends = USED.try_with(|used| {
        let mut used = used.borrow_mut();
        let known =
            used.as_ref().is_some_and(|used| used.as_ptr().addr() == Arc::as_ptr(io_loop).addr());
        if !known {
            let io_loop: Arc<dyn IoLoop> = io_loop.clone();
            *used = Some(Arc::downgrade(&io_loop));
        }
    });
}

/// This thread waiting, once.
pub(super) struct Watch {
    waiter: Arc<Waiter>,
    /// The loop that another thread runs, and that this thread may take over.
    follows: Option<Arc<dyn IoLoop>>,
}

impl Watch {
    pub(super) fn begin() -> Self {
        let waiter = WAITER.try_with(Arc::clone).unwrap_or_else(|_| Waiter::new());
        Self { waiter, follows: None }
    }

    pub(super) fn waiter(&self) -> &Arc<Waiter> {
        &self.waiter
    }

    /// Runs a loop or sleeps. Returns when the waiter was woken, at that time, or spuriously.
    pub(super) fn pass_time(&mut self, until: Option<Instant>) {
        let used = USED.try_with(|used| used.borrow().as_ref().and_then(Weak::upgrade));
        match used.ok().flatten() {
            Some(io_loop) if self.lead(&io_loop, until) => {}
            _ => self.park(until),
        }
    }

    fn lead(&mut self, io_loop: &Arc<dyn IoLoop>, until: Option<Instant>) -> bool {
        if self.follows.as_ref().is_some_and(|other| !Arc::ptr_eq(other, io_loop)) {
            self.leave();
        }
        self.waiter.set_leads(Some(io_loop.clone()));
        let led = io_loop.lead(&self.waiter, until);
        self.waiter.set_leads(None);
        self.follows = (!led).then(|| io_loop.clone());
        led
    }

    fn park(&self, until: Option<Instant>) {
        // A later wake leaves the thread's token; an earlier one has set the flag.
        if self.waiter.is_woken() {
            return;
        }
        match until {
            Some(at) => thread::park_timeout(at.saturating_duration_since(Instant::now())),
            None => thread::park(),
        }
    }

    /// Follows no loop any more. If one was left to this thread, another thread runs it.
    pub(super) fn leave(&mut self) {
        if let Some(io_loop) = self.follows.take() {
            io_loop.leave(&self.waiter);
        }
    }
}

impl Drop for Watch {
    fn drop(&mut self) {
        self.leave();
        // If this happened while another future of the thread was polled, a wake for that one may have come here.
        self.waiter.woken.store(true, Ordering::Release);
    }
}
