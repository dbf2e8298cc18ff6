//! The loop that moves the bytes of a connection. One thread at a time runs it. A caller that waits runs it, so that no other
//! thread has to wake for the reply. Otherwise a helper thread runs it, so that heartbeats and deliveries continue while all
//! callers compute.

#[cfg(unix)]
mod common_helper;
mod own_helper;
#[cfg(test)]
mod tests;
mod work;

use std::collections::VecDeque;
use std::io;
use std::sync::atomic::{AtomicBool, AtomicUsize, Ordering};
use std::sync::{Arc, Mutex, MutexGuard, PoisonError};
use std::task::{Wake, Waker};
use std::time::{Duration, Instant};

use amqp_client_core::adapter::{IoLoop, Waiter, used};
use mio::Token;
use own_helper::OwnHelper;
use work::{Drive, Work};

use crate::io::Registration;

/// The token of the waker.
const WAKER: Token = Token(1);

/// The time for which the helper leaves the loop to callers before it checks again.
const HELPER_PAUSE: Duration = Duration::from_millis(1);

/// Starts the loop of a connection.
pub(crate) fn start(registration: Registration, drive: Drive) -> io::Result<()> {
    #[cfg(unix)]
    {
        let helper = common_helper::Place::of(&registration.poll);
        SharedLoop::start(registration, drive, helper).map(drop)
    }
    #[cfg(not(unix))]
    start_with_own_helper(registration, drive)
}

/// Starts the loop of a connection over a stream of the application. Such a stream may block, so no other connection shares its
/// helper.
pub(crate) fn start_with_own_helper(registration: Registration, drive: Drive) -> io::Result<()> {
    SharedLoop::start(registration, drive, OwnHelper::default()).map(drop)
}

/// The loop of a connection, which threads share.
struct SharedLoop {
    /// Wakes the leader from its wait.
    waker: mio::Waker,
    /// True if there is work since the drive was polled last.
    has_work: AtomicBool,
    /// The thread that leads, or [`NO_THREAD`], or [`HELPER_WAITS`].
    leader: AtomicUsize,
    post: Mutex<Post>,
    helper: Box<dyn Helper>,
}

/// The thread that leads when no caller does. On Unix, it is one for all connections of the process, except those over streams of
/// the application. Elsewhere, each connection has its own, because no thread can wait for the polls of several connections.
trait Helper: Send + Sync {
    /// Lets the helper run a loop from now on.
    fn join(&self, shared: &Arc<SharedLoop>) -> io::Result<()>;

    /// Makes the helper check its loop.
    fn call(&self);
}

/// The place at which threads pass the loop to each other.
#[derive(Default)]
struct Post {
    /// `None` while a thread runs it, and after its end.
    work: Option<Box<Work>>,
    over: bool,
    helper_leads: bool,
    /// The helper has to be called before it looks at this loop again.
    helper_waits: bool,
    /// Callers that wait for the loop to be left.
    followers: VecDeque<Arc<Waiter>>,
    /// A caller has led since the helper last checked.
    callers_lead: bool,
}

/// The number of no thread.
const NO_THREAD: usize = 0;

/// Instead of a thread's number: no thread leads, and the helper waits for an event of the loop. No thread has this number,
/// because no variable has this address.
const HELPER_WAITS: usize = 1;

/// A number for this thread.
fn this_thread() -> usize {
    thread_local!(static HERE: u16 = const { 0 });
    HERE.try_with(|here| std::ptr::from_ref(here).addr()).unwrap_or(usize::MAX)
}

/// How the helper found a loop.
enum Found {
    Over,
    /// Callers have come or gone since the helper last checked. It should check again soon.
    Led,
    /// One caller has led since the helper last checked. The helper is called when that caller leaves.
    LedForLong,
    /// No caller leads: the helper leads now.
    Free(Box<Work>),
}

impl Wake for SharedLoop {
    fn wake(self: Arc<Self>) {
        self.wake_by_ref();
    }

    /// There is work to do. If no thread leads, the next leader begins with it: the caller, who usually waits for the result, or
    /// the helper when it checks next.
    fn wake_by_ref(self: &Arc<Self>) {
        used(self);
        self.has_work.store(true, Ordering::SeqCst);
        let leader = self.leader.load(Ordering::SeqCst);
        if leader != NO_THREAD && leader != this_thread() {
            self.interrupt();
        }
    }
}

impl IoLoop for SharedLoop {
    fn lead(&self, waiter: &Arc<Waiter>, until: Option<Instant>) -> bool {
        let Some(mut work) = self.take_or_follow(waiter) else {
            return false;
        };
        // A thread that takes the loop turns it at least once, even without time left: if callers keep coming, the helper never
        // turns it.
        loop {
            work.turn(self, until, || waiter.is_woken());
            let in_time = until.is_none_or(|at| Instant::now() < at);
            if waiter.is_woken() || work.is_over() || !in_time {
                break;
            }
        }
        self.give(work);
        true
    }

    fn interrupt(&self) {
        // It fails only when no thread can wait any more.
        let _gone = self.waker.wake();
    }

    fn leave(&self, waiter: &Waiter) {
        let mut post = self.post();
        let place = post.followers.iter().position(|other| std::ptr::eq(&**other, waiter));
        match place.and_then(|place| post.followers.remove(place)) {
            Some(_) => {}
            // Another thread may have left the loop to this one.
            None => self.pass_on(&mut post),
        }
    }
}

impl SharedLoop {
    fn start(
        registration: Registration,
        drive: Drive,
        helper: impl Helper + 'static,
    ) -> io::Result<Arc<Self>> {
        let waker = mio::Waker::new(registration.poll.registry(), WAKER)?;
        let shared = Arc::new(Self {
            waker,
            has_work: AtomicBool::new(false),
            leader: AtomicUsize::new(NO_THREAD),
            post: Mutex::new(Post::default()),
            helper: Box::new(helper),
        });
        let work = Work::new(registration, drive, Waker::from(shared.clone()));
        shared.post().work = Some(Box::new(work));
        if let Err(error) = shared.helper.join(&shared) {
            // Without a helper, dropping the work ends the connection. Values that are dropped with it may use the handles.
            let work = shared.post().work.take();
            drop(work);
            return Err(error);
        }
        // This thread usually waits for the handshake next, and should lead meanwhile.
        used(&shared);
        Ok(shared)
    }

    fn post(&self) -> MutexGuard<'_, Post> {
        self.post.lock().unwrap_or_else(PoisonError::into_inner)
    }

    /// Takes the loop, or waits until another thread leaves it.
    fn take_or_follow(&self, waiter: &Arc<Waiter>) -> Option<Box<Work>> {
        let mut post = self.post();
        post.callers_lead = true;
        if let Some(work) = post.work.take() {
            // A thread may wake before its turn. If it still followed, the loop could be left to it when it no longer waits.
            post.followers.retain(|other| !Arc::ptr_eq(other, waiter));
            self.leader.store(this_thread(), Ordering::SeqCst);
            return Some(work);
        }
        if !post.over && !post.followers.iter().any(|other| Arc::ptr_eq(other, waiter)) {
            post.followers.push_back(waiter.clone());
            if post.helper_leads {
                self.interrupt();
            }
        }
        None
    }

    /// Leaves the loop to the next.
    fn give(&self, work: Box<Work>) {
        let mut post = self.post();
        self.leader.store(NO_THREAD, Ordering::SeqCst);
        post.callers_lead = true;
        if work.is_over() {
            return self.end(work, post);
        }
        post.work = Some(work);
        self.pass_on(&mut post);
    }

    /// Ends the loop, and lets everybody know.
    fn end(&self, work: Box<Work>, mut post: MutexGuard<'_, Post>) {
        post.over = true;
        post.followers.drain(..).for_each(|follower| follower.unpark());
        self.call_helper(&mut post);
        // Values that are dropped with it may use the handles.
        drop(post);
        drop(work);
    }

    /// If the loop is free, wakes a thread to run it.
    fn pass_on(&self, post: &mut Post) {
        if post.work.is_none() {
            return;
        }
        match post.followers.pop_front() {
            Some(next) => next.unpark(),
            None => self.call_helper(post),
        }
    }

    fn call_helper(&self, post: &mut Post) {
        if std::mem::take(&mut post.helper_waits) {
            self.helper.call();
        }
    }

    /// Takes the loop for the helper, unless callers use it.
    fn find(&self) -> Found {
        let mut post = self.post();
        let post = &mut *post;
        let callers_lead = std::mem::take(&mut post.callers_lead);
        // After its end, the helper has nothing to wait for, either.
        post.helper_waits = !callers_lead && post.work.is_none() && !post.over;
        match post.work.take_if(|_| !callers_lead) {
            Some(work) => {
                post.helper_leads = true;
                self.leader.store(this_thread(), Ordering::SeqCst);
                Found::Free(work)
            }
            None if post.over => Found::Over,
            None if post.helper_waits => Found::LedForLong,
            None => Found::Led,
        }
    }

    fn has_work(&self) -> bool {
        self.has_work.load(Ordering::SeqCst)
    }

    /// Returns whether a caller waits for the loop to be left.
    fn is_followed(&self) -> bool {
        !self.post().followers.is_empty()
    }

    /// Leaves the loop to a follower, or else to nobody. `waits` is true if the helper now waits for an event of the loop. Returns
    /// whether it still does.
    fn give_from_helper(&self, work: Box<Work>, waits: bool) -> bool {
        let mut post = self.post();
        post.helper_leads = false;
        if work.is_over() {
            self.leader.store(NO_THREAD, Ordering::SeqCst);
            self.end(work, post);
            return false;
        }
        post.work = Some(work);
        let follower = post.followers.pop_front();
        post.helper_waits = waits && follower.is_none();
        // From here on, a wake interrupts the wait of the helper.
        let leader = if post.helper_waits { HELPER_WAITS } else { NO_THREAD };
        self.leader.store(leader, Ordering::SeqCst);
        follower.into_iter().for_each(|follower| follower.unpark());
        post.helper_waits
    }
}
