//! The loop that moves the bytes of a connection. One thread at a time runs it. A caller that waits runs it, so that no other
//! thread has to wake for the reply. Otherwise a helper thread runs it, so that heartbeats and deliveries continue while all
//! callers compute.

use std::collections::VecDeque;
use std::future::Future;
use std::io;
use std::panic::{AssertUnwindSafe, catch_unwind};
use std::pin::Pin;
use std::sync::atomic::{AtomicBool, AtomicUsize, Ordering};
use std::sync::{Arc, Condvar, Mutex, MutexGuard, PoisonError};
use std::task::{Context, Wake, Waker};
use std::thread;
use std::time::{Duration, Instant};

use amqp_client_core::adapter::{IoLoop, Waiter, alarmed, used};
use mio::{Events, Token};

use crate::io::{Readiness, Registration};

/// The token of the waker.
const WAKER: Token = Token(1);

/// The time for which the helper leaves the loop to callers.
const HELPER_PAUSE: Duration = Duration::from_millis(1);

type Drive = Pin<Box<dyn Future<Output = ()> + Send>>;

/// Starts the loop of a connection, with its helper.
pub(crate) fn start(registration: Registration, drive: Drive) -> io::Result<()> {
    SharedLoop::start(registration, drive).map(drop)
}

impl SharedLoop {
    fn start(registration: Registration, drive: Drive) -> io::Result<Arc<Self>> {
        let waker = mio::Waker::new(registration.poll.registry(), WAKER)?;
        let shared = Arc::new(Self {
            waker,
            has_work: AtomicBool::new(false),
            leader: AtomicUsize::new(NO_THREAD),
            post: Mutex::new(Post::default()),
            helper: Condvar::new(),
        });
        let Registration { poll, readiness } = registration;
        let waker = Waker::from(shared.clone());
        let work = Work {
            drive: Some(drive),
            waker,
            poll,
            events: Events::with_capacity(4),
            readiness,
            skipped: false,
        };
        shared.post().work = Some(Box::new(work));
        let helper = shared.clone();
        let started =
            thread::Builder::new().name("amqp-io".to_owned()).spawn(move || helper.help());
        // Without a helper, dropping the work ends the connection.
        started.inspect_err(|_| shared.post().work = None)?;
        Ok(shared)
    }
}

/// The loop of a connection, which threads share.
struct SharedLoop {
    /// Wakes the leader from its wait.
    waker: mio::Waker,
    /// True if there is work since the drive was polled last.
    has_work: AtomicBool,
    /// The thread that leads.
    leader: AtomicUsize,
    post: Mutex<Post>,
    /// The helper sleeps on this.
    helper: Condvar,
}

/// The place at which threads pass the loop to each other.
#[derive(Default)]
struct Post {
    /// `None` while a thread runs it, and after its end.
    work: Option<Box<Work>>,
    over: bool,
    helper_leads: bool,
    /// The helper sleeps until it is called.
    helper_waits: bool,
    /// Callers that wait for the loop to be left.
    followers: VecDeque<Arc<Waiter>>,
    /// A caller has led since the helper last checked.
    callers_lead: bool,
}

/// The state of the leader.
struct Work {
    /// `None` after the end.
    drive: Option<Drive>,
    /// Wakes the drive.
    waker: Waker,
    poll: mio::Poll,
    events: Events,
    readiness: Arc<Readiness>,
    /// The last turn did not ask the system.
    skipped: bool,
}

/// The number of no thread.
const NO_THREAD: usize = 0;

/// A number for this thread.
fn this_thread() -> usize {
    thread_local!(static HERE: u8 = const { 0 });
    HERE.try_with(|here| std::ptr::from_ref(here).addr()).unwrap_or(usize::MAX)
}

impl Wake for SharedLoop {
    fn wake(self: Arc<Self>) {
        self.wake_by_ref();
    }

    /// There is work to do. If no thread leads, the next leader begins with it: the caller, who usually waits for the result, or
    /// the helper after its pause.
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
    fn post(&self) -> MutexGuard<'_, Post> {
        self.post.lock().unwrap_or_else(PoisonError::into_inner)
    }

    /// Takes the loop, or waits until another thread leaves it.
    fn take_or_follow(&self, waiter: &Arc<Waiter>) -> Option<Box<Work>> {
        let mut post = self.post();
        post.callers_lead = true;
        if let Some(work) = post.work.take() {
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
        self.leader.store(NO_THREAD, Ordering::SeqCst);
        let mut post = self.post();
        post.callers_lead |= !std::mem::take(&mut post.helper_leads);
        if work.is_over() {
            post.over = true;
            post.followers.drain(..).for_each(|follower| follower.unpark());
            self.call_helper(&mut post);
            // Values that are dropped with it may use the handles.
            drop(post);
            drop(work);
            return;
        }
        post.work = Some(work);
        self.pass_on(&mut post);
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
            self.helper.notify_one();
        }
    }

    /// Runs the helper thread, which leads when no caller does.
    fn help(&self) {
        let mut post = self.post();
        while !post.over {
            if std::mem::take(&mut post.callers_lead) {
                drop(post);
                // A caller that led will soon lead again: only time without one shows that no caller is left.
                thread::sleep(HELPER_PAUSE);
                post = self.post();
            } else if let Some(mut work) = post.work.take() {
                post.helper_leads = true;
                self.leader.store(this_thread(), Ordering::SeqCst);
                drop(post);
                // As above, at least one turn. It must not wait if a follower has taken the loop before this thread leads.
                loop {
                    work.turn(self, None, || !self.post().followers.is_empty());
                    if work.is_over() || !self.post().followers.is_empty() {
                        break;
                    }
                }
                self.give(work);
                post = self.post();
            } else {
                post.helper_waits = true;
                post = self.helper.wait(post).unwrap_or_else(PoisonError::into_inner);
            }
        }
    }
}

impl Work {
    fn is_over(&self) -> bool {
        self.drive.is_none()
    }

    /// Does the pending work, then waits for the system until `until`, unless `skip` returns true.
    fn turn(&mut self, shared: &SharedLoop, until: Option<Instant>, skip: impl Fn() -> bool) {
        let Some(drive) = &mut self.drive else { return };
        shared.has_work.store(false, Ordering::SeqCst);
        let mut context = Context::from_waker(&self.waker);
        let (polled, alarm) = alarmed(|| contained(|| drive.as_mut().poll(&mut context)));
        // A panic, for example of the stream, ends the connection, and not the thread that happens to move its bytes.
        if polled.is_none_or(|polled| polled.is_ready()) {
            self.end();
            return;
        }
        let skip = skip();
        // Even with much work, the readiness of the stream is checked now and then.
        if skip && !self.skipped {
            self.skipped = true;
            return;
        }
        self.skipped = false;
        let wake_at = alarm.into_iter().chain(until).min();
        let timeout = match skip || shared.has_work.load(Ordering::SeqCst) {
            true => Some(Duration::ZERO),
            false => wake_at.map(|at| at.saturating_duration_since(Instant::now())),
        };
        match self.poll.poll(&mut self.events, timeout) {
            Ok(()) => self.events.iter().for_each(|event| self.readiness.take(event)),
            Err(error) if error.kind() == io::ErrorKind::Interrupted => {}
            // The system cannot wait any more.
            Err(_) => self.end(),
        }
    }

    /// Drops the drive, which ends the connection: all waiting calls get an error.
    fn end(&mut self) {
        let drive = self.drive.take();
        contained(|| drop(drive));
    }
}

/// Runs something that may run code of the user's. Returns `None` if it panics, which the panic hook has reported.
fn contained<T>(run: impl FnOnce() -> T) -> Option<T> {
    catch_unwind(AssertUnwindSafe(run)).ok()
}

#[cfg(test)]
mod tests {
    use std::future::{pending, poll_fn};
    use std::net::{TcpListener, TcpStream};
    use std::task::Poll;

    use amqp_client_core::adapter::Wait as _;

    use super::*;

    /// A loop whose callers have no time left when they come to lead it.
    struct Hurried {
        inner: Arc<SharedLoop>,
        turns: Arc<AtomicUsize>,
        led: AtomicUsize,
    }

    impl IoLoop for Hurried {
        fn lead(&self, waiter: &Arc<Waiter>, _: Option<Instant>) -> bool {
            let before = self.turns.load(Ordering::SeqCst);
            let led = self.inner.lead(waiter, Some(Instant::now()));
            if led {
                self.led.fetch_add(1, Ordering::SeqCst);
                assert!(self.turns.load(Ordering::SeqCst) > before, "the loop stood still");
            }
            led
        }

        fn interrupt(&self) {
            self.inner.interrupt();
        }

        fn leave(&self, waiter: &Waiter) {
            self.inner.leave(waiter);
        }
    }

    /// Starts a loop that polls `drive`. Its stream is closed, so the system never reports anything.
    fn loop_with(drive: impl Future<Output = ()> + Send + 'static) -> io::Result<Arc<SharedLoop>> {
        let listener = TcpListener::bind("127.0.0.1:0")?;
        let stream = TcpStream::connect(listener.local_addr()?)?;
        let (_stream, registration) =
            crate::io::registration(mio::net::TcpStream::from_std(stream))?;
        SharedLoop::start(registration, Box::pin(drive))
    }

    /// Starts a loop. Returns the loop and a counter of its turns.
    fn counted_loop() -> io::Result<(Arc<SharedLoop>, Arc<AtomicUsize>)> {
        let turns = Arc::new(AtomicUsize::new(0));
        let counter = turns.clone();
        let drive = poll_fn(move |_| {
            counter.fetch_add(1, Ordering::SeqCst);
            Poll::Pending
        });
        Ok((loop_with(drive)?, turns))
    }

    #[test]
    fn a_caller_without_time_moves_the_loop() -> io::Result<()> {
        let (inner, turns) = counted_loop()?;
        let hurried = Arc::new(Hurried { inner, turns, led: AtomicUsize::new(0) });
        used(&hurried);
        while hurried.led.load(Ordering::SeqCst) < 100 {
            assert_eq!(pending::<()>().wait_timeout(Duration::from_millis(1)), None);
        }
        Ok(())
    }

    /// Waits until `condition` returns true. Panics with `failure` after 20 seconds.
    fn until(mut condition: impl FnMut() -> bool, failure: &str) {
        let deadline = Instant::now() + Duration::from_secs(20);
        while !condition() {
            assert!(Instant::now() < deadline, "{failure}");
            thread::yield_now();
        }
    }

    #[test]
    fn the_loop_is_not_left_to_a_thread_that_runs_code_of_the_user() -> io::Result<()> {
        let (shared, turns) = counted_loop()?;
        // The leader leaves when it gets its signal.
        let (leave, follow) = (Arc::<Signal>::default(), Arc::<Signal>::default());
        let leader = thread::spawn({
            let (shared, leave) = (shared.clone(), leave.clone());
            move || {
                used(&shared);
                poll_fn(|cx| leave.poll(cx)).wait();
            }
        });
        let leads =
            || shared.leader.load(Ordering::SeqCst) != NO_THREAD && !shared.post().helper_leads;
        until(leads, "no caller leads");
        let waker = thread::spawn({
            let (shared, follow) = (shared.clone(), follow.clone());
            move || {
                let waits = |post: &Post| !post.followers.is_empty() && post.helper_waits;
                until(|| waits(&shared.post()), "no caller follows");
                follow.send();
            }
        });
        used(&shared);
        poll_fn(|cx| {
            if follow.poll(cx).is_pending() {
                return Poll::Pending;
            }
            // A handler of deliveries, for example, which takes its time.
            leave.send();
            until(|| leader.is_finished(), "the leader stays");
            let before = turns.load(Ordering::SeqCst);
            shared.wake_by_ref();
            until(|| turns.load(Ordering::SeqCst) > before, "no thread runs the loop");
            Poll::Ready(())
        })
        .wait();
        waker.join().expect("it does not panic");
        Ok(())
    }

    /// A signal that one thread sends and one task waits for.
    #[derive(Default)]
    struct Signal(Mutex<(bool, Option<Waker>)>);

    impl Signal {
        fn poll(&self, cx: &Context<'_>) -> Poll<()> {
            let mut signal = self.0.lock().unwrap();
            signal.1 = Some(cx.waker().clone());
            if signal.0 { Poll::Ready(()) } else { Poll::Pending }
        }

        fn send(&self) {
            let mut signal = self.0.lock().unwrap();
            signal.0 = true;
            let waker = signal.1.take();
            drop(signal);
            waker.into_iter().for_each(Waker::wake);
        }
    }

    /// Panics when it is polled by a caller, or by the helper, and once more when it is dropped.
    struct Panics {
        helper: bool,
        polled: bool,
    }

    impl Future for Panics {
        type Output = ();

        fn poll(mut self: Pin<&mut Self>, cx: &mut Context<'_>) -> Poll<()> {
            if self.helper == (thread::current().name() == Some("amqp-io")) {
                self.polled = true;
                panic!("polled");
            }
            // The other task has its turn, too.
            cx.waker().wake_by_ref();
            Poll::Pending
        }
    }

    impl Drop for Panics {
        fn drop(&mut self) {
            assert!(!self.polled, "dropped");
        }
    }

    #[test]
    fn a_panic_ends_the_loop_and_its_helper_but_not_the_caller_that_runs_it() -> io::Result<()> {
        for helper in [false, true] {
            let shared = loop_with(Panics { helper, polled: false })?;
            used(&shared);
            let held_by_the_helper = Arc::downgrade(&shared);
            drop(shared);
            let deadline = Instant::now() + Duration::from_secs(30);
            while held_by_the_helper.strong_count() > 0 {
                // A caller that waits all the time also leads all the time.
                match helper {
                    true => thread::park_timeout(Duration::from_millis(1)),
                    false => {
                        assert_eq!(pending::<()>().wait_timeout(Duration::from_millis(1)), None);
                    }
                }
                assert!(Instant::now() < deadline, "the helper waits forever");
            }
        }
        Ok(())
    }
}
