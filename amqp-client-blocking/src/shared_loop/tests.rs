use std::future::{Future, pending, poll_fn};
use std::net::{TcpListener, TcpStream};
use std::pin::Pin;
use std::task::{Context, Poll};
use std::thread;
use std::time::Duration;

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

/// The two kinds of [`Helper`].
#[derive(Debug, Clone, Copy)]
enum Kind {
    #[cfg(unix)]
    Common,
    Own,
}

#[cfg(unix)]
const KINDS: [Kind; 2] = [Kind::Common, Kind::Own];
#[cfg(not(unix))]
const KINDS: [Kind; 1] = [Kind::Own];

/// Starts a loop that polls `drive`. Its stream is closed, so the system never reports anything.
fn loop_with(
    kind: Kind,
    drive: impl Future<Output = ()> + Send + 'static,
) -> io::Result<Arc<SharedLoop>> {
    let listener = TcpListener::bind("127.0.0.1:0")?;
    let stream = TcpStream::connect(listener.local_addr()?)?;
    let (_stream, registration) = crate::io::registration(mio::net::TcpStream::from_std(stream))?;
    let drive = Box::pin(drive);
    match kind {
        #[cfg(unix)]
        Kind::Common => {
            let helper = common_helper::Place::of(&registration.poll);
            SharedLoop::start(registration, drive, helper)
        }
        Kind::Own => SharedLoop::start(registration, drive, OwnHelper::default()),
    }
}

/// Starts a loop. Returns the loop and a counter of its turns.
fn counted_loop(kind: Kind) -> io::Result<(Arc<SharedLoop>, Arc<AtomicUsize>)> {
    let turns = Arc::new(AtomicUsize::new(0));
    let counter = turns.clone();
    let drive = poll_fn(move |_| {
        counter.fetch_add(1, Ordering::SeqCst);
        Poll::Pending
    });
    Ok((loop_with(kind, drive)?, turns))
}

#[test]
fn a_caller_without_time_moves_the_loop() -> io::Result<()> {
    for kind in KINDS {
        let (inner, turns) = counted_loop(kind)?;
        let hurried = Arc::new(Hurried { inner, turns, led: AtomicUsize::new(0) });
        used(&hurried);
        while hurried.led.load(Ordering::SeqCst) < 100 {
            assert_eq!(pending::<()>().wait_timeout(Duration::from_millis(1)), None);
        }
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
    KINDS.into_iter().try_for_each(a_follower_runs_code_of_the_user)
}

fn a_follower_runs_code_of_the_user(kind: Kind) -> io::Result<()> {
    let (shared, turns) = counted_loop(kind)?;
    // The leader leaves when it gets its signal.
    let (leave, follow) = (Arc::<Signal>::default(), Arc::<Signal>::default());
    let leader = thread::spawn({
        let (shared, leave) = (shared.clone(), leave.clone());
        move || {
            used(&shared);
            poll_fn(|cx| leave.poll(cx)).wait();
        }
    });
    let leads = || {
        let post = shared.post();
        let leader = shared.leader.load(Ordering::SeqCst);
        leader != NO_THREAD && leader != HELPER_WAITS && !post.helper_leads
    };
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
    for (kind, helper) in KINDS.into_iter().flat_map(|kind| [(kind, false), (kind, true)]) {
        let shared = loop_with(kind, Panics { helper, polled: false })?;
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
            assert!(Instant::now() < deadline, "the helper waits forever: {kind:?}");
        }
    }
    Ok(())
}

/// The helper waits for all loops at once: for wakes by other threads and for times.
#[test]
fn the_helper_runs_each_loop_that_nobody_leads() -> io::Result<()> {
    for kind in KINDS {
        let loops = (0..20).map(|_| counted_loop(kind)).collect::<io::Result<Vec<_>>>()?;
        for round in 0..50 {
            for (shared, turns) in &loops {
                // In some rounds, the helper waits for an event; in others, it has just run the loop.
                if round % 2 == 0 {
                    let waits = || {
                        let post = shared.post();
                        post.work.is_none() && post.helper_leads || post.helper_waits
                    };
                    until(waits, "the helper does not wait for the loop");
                }
                let before = turns.load(Ordering::SeqCst);
                shared.wake_by_ref();
                until(|| turns.load(Ordering::SeqCst) > before, "nobody runs the loop");
            }
        }
    }
    Ok(())
}

#[test]
fn the_helper_runs_a_loop_when_its_time_has_come() -> io::Result<()> {
    use amqp_client_core::adapter::{Alarm, Timer as _};
    for kind in KINDS {
        let turns = Arc::new(AtomicUsize::new(0));
        let counter = turns.clone();
        let mut at = Instant::now();
        let drive = poll_fn(move |cx| {
            while Alarm::default().poll_until(cx, at).is_ready() {
                counter.fetch_add(1, Ordering::SeqCst);
                at = Instant::now() + Duration::from_millis(3);
            }
            Poll::Pending
        });
        let _shared = loop_with(kind, drive)?;
        until(|| turns.load(Ordering::SeqCst) > 20, "the time of the loop is forgotten");
    }
    Ok(())
}

/// Events that come while the helper is busy or a caller leads are not lost, in whatever order threads come and go.
#[test]
fn callers_and_helper_pass_a_loop_to_each_other() -> io::Result<()> {
    for kind in KINDS {
        let (shared, _) = counted_loop(kind)?;
        used(&shared);
        for round in 0..300u64 {
            let soon = Duration::from_micros(round * 37 % 3000);
            assert_eq!(pending::<()>().wait_timeout(soon), None);
            if round % 3 == 0 {
                thread::sleep(soon);
            }
            let waking = shared.clone();
            let waker = thread::spawn(move || waking.wake_by_ref());
            waker.join().expect("it does not panic");
            until(|| !shared.has_work(), "nobody runs the loop");
        }
    }
    Ok(())
}

/// It usually waits for the handshake next.
#[test]
fn the_thread_that_starts_a_loop_leads_it() -> io::Result<()> {
    for kind in KINDS {
        let here = thread::current().id();
        let led = Arc::new(AtomicBool::new(false));
        let seen = led.clone();
        let drive = poll_fn(move |_| {
            seen.fetch_or(thread::current().id() == here, Ordering::SeqCst);
            Poll::Pending
        });
        // The helper may be faster once.
        let _shared = loop_with(kind, drive)?;
        until(
            || {
                assert_eq!(pending::<()>().wait_timeout(Duration::from_millis(1)), None);
                led.load(Ordering::SeqCst)
            },
            "this thread does not lead",
        );
    }
    Ok(())
}

/// A thread that follows may wake for no reason and take the loop before the thread for which it was left. It is then no follower
/// any more: if the loop were left to it later, nobody would run the loop.
#[test]
fn a_follower_that_takes_the_loop_follows_no_more() -> io::Result<()> {
    KINDS.into_iter().try_for_each(a_follower_wakes_for_no_reason)
}

fn a_follower_wakes_for_no_reason(kind: Kind) -> io::Result<()> {
    let (shared, _) = counted_loop(kind)?;
    // This thread leads for long. If the helper was faster, it leaves the loop to a caller that waits.
    let mut work = None;
    until(
        || {
            assert_eq!(pending::<()>().wait_timeout(Duration::from_millis(1)), None);
            work = shared.post().work.take();
            work.is_some()
        },
        "the helper keeps the loop",
    );
    let follower = |signal: &Arc<Signal>| {
        let (shared, signal) = (shared.clone(), signal.clone());
        thread::spawn(move || {
            used(&shared);
            poll_fn(|cx| signal.poll(cx)).wait();
        })
    };
    let [first, second] = [(); 2].map(|()| Arc::<Signal>::default());
    let slow = follower(&first);
    until(|| shared.post().followers.len() == 1, "the first does not follow");
    let hasty = follower(&second);
    until(|| shared.post().followers.len() == 2, "the second does not follow");
    until(|| shared.post().helper_waits, "the helper does not wait");
    // The loop is left to the first, which is slow. Meanwhile, the second wakes for no reason.
    let left_to = {
        let mut post = shared.post();
        post.work = work;
        post.followers.pop_front().expect("it follows")
    };
    hasty.thread().unpark();
    until(|| shared.post().work.is_none(), "the second does not take the loop");
    left_to.unpark();
    until(
        || shared.post().followers.iter().any(|other| Arc::ptr_eq(other, &left_to)),
        "the first does not follow again",
    );
    // It leaves the loop to the first.
    second.send();
    hasty.join().expect("it does not panic");
    until(|| shared.post().followers.is_empty(), "the loop is left to a thread that does not wait");
    first.send();
    slow.join().expect("it does not panic");
    Ok(())
}

/// The value of a panic, which panics when it is dropped.
struct PanicsAgain;

impl Drop for PanicsAgain {
    fn drop(&mut self) {
        panic!("the value of a panic");
    }
}

#[test]
fn the_value_of_a_panic_may_panic_too() -> io::Result<()> {
    for (kind, helper) in KINDS.into_iter().flat_map(|kind| [(kind, false), (kind, true)]) {
        let drive = poll_fn(move |cx| {
            if helper == (thread::current().name() == Some("amqp-io")) {
                std::panic::panic_any(PanicsAgain);
            }
            cx.waker().wake_by_ref();
            Poll::Pending
        });
        let shared = loop_with(kind, drive)?;
        used(&shared);
        let caller = thread::spawn({
            let shared = shared.clone();
            move || {
                used(&shared);
                while !shared.post().over && !helper {
                    assert_eq!(pending::<()>().wait_timeout(Duration::from_millis(1)), None);
                }
            }
        });
        until(|| shared.post().over, "the loop is not over");
        caller.join().expect("the panic is that of the loop");
    }
    // The helper lives on, too.
    KINDS.into_iter().try_for_each(|kind| {
        let (shared, turns) = counted_loop(kind)?;
        shared.wake_by_ref();
        until(|| turns.load(Ordering::SeqCst) > 0, "nobody runs the loop");
        Ok(())
    })
}
