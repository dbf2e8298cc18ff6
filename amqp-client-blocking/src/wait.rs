use std::future::Future;
use std::pin::{Pin, pin};
use std::sync::Arc;
use std::sync::atomic::{AtomicBool, Ordering};
use std::task::{Context, Poll, Wake, Waker};
use std::thread::{self, Thread};
use std::time::{Duration, Instant};

/// Waiting for futures by blocking the thread.
pub trait Wait: Future + Sized {
    /// Blocks until there is a result.
    fn wait(self) -> Self::Output {
        let mut future = pin!(self);
        loop {
            // Without a deadline, it only comes back with a result.
            if let Some(output) = poll_until(future.as_mut(), None) {
                return output;
            }
        }
    }

    /// Blocks until there is a result, up to that long. Nothing if there is none by then: the future is dropped, which
    /// means what is said with it.
    fn wait_timeout(self, timeout: Duration) -> Option<Self::Output> {
        poll_until(pin!(self), Instant::now().checked_add(timeout))
    }
}

impl<F: Future> Wait for F {}

/// Lets a thread go on that has parked.
struct Unpark {
    thread: Thread,
    woken: AtomicBool,
}

impl Unpark {
    fn this() -> Arc<Self> {
        Arc::new(Self { thread: thread::current(), woken: AtomicBool::new(false) })
    }
}

impl Wake for Unpark {
    fn wake(self: Arc<Self>) {
        self.wake_by_ref();
    }

    fn wake_by_ref(self: &Arc<Self>) {
        self.woken.store(true, Ordering::Release);
        self.thread.unpark();
    }
}

thread_local! {
    /// Made once, so that a future that is polled again by the same thread finds the waker that it knows.
    static UNPARK: Arc<Unpark> = Unpark::this();
}

/// Polls a future until it is ready, or until that time.
fn poll_until<F: Future>(future: Pin<&mut F>, until: Option<Instant>) -> Option<F::Output> {
    let unpark = UNPARK.try_with(Arc::clone).unwrap_or_else(|_| Unpark::this());
    let waker = Waker::from(unpark.clone());
    let output = poll_woken(future, &unpark, &waker, until);
    // If this happened while another future of the thread was polled, a wake for that one may have come here.
    unpark.woken.store(true, Ordering::Relaxed);
    output
}

fn poll_woken<F: Future>(
    mut future: Pin<&mut F>,
    unpark: &Unpark,
    waker: &Waker,
    until: Option<Instant>,
) -> Option<F::Output> {
    let mut context = Context::from_waker(waker);
    loop {
        unpark.woken.store(false, Ordering::Relaxed);
        if let Poll::Ready(output) = future.as_mut().poll(&mut context) {
            return Some(output);
        }
        // Others may unpark the thread, too, for reasons of their own.
        while !unpark.woken.swap(false, Ordering::Acquire) {
            match until.map(|until| until.saturating_duration_since(Instant::now())) {
                None => thread::park(),
                Some(Duration::ZERO) => return None,
                Some(left) => thread::park_timeout(left),
            }
        }
    }
}

#[cfg(test)]
mod tests {
    use std::future::{pending, poll_fn, ready};
    use std::sync::Mutex;

    use super::*;

    #[test]
    fn what_is_there_is_not_waited_for() {
        assert_eq!(ready(7).wait(), 7);
        assert_eq!(ready(7).wait_timeout(Duration::ZERO), Some(7));
    }

    #[test]
    fn what_does_not_come_in_time_is_given_up() {
        assert_eq!(pending::<()>().wait_timeout(Duration::from_millis(1)), None);
    }

    /// A future that another thread completes.
    fn elsewhere() -> impl Future<Output = u32> {
        let slot = Arc::new(Mutex::new((None, None::<Waker>)));
        let own = slot.clone();
        let mut started = false;
        poll_fn(move |cx| {
            let mut state = own.lock().expect("nobody panics with it");
            if let Some(value) = state.0 {
                return Poll::Ready(value);
            }
            state.1 = Some(cx.waker().clone());
            if !std::mem::replace(&mut started, true) {
                let slot = slot.clone();
                thread::spawn(move || {
                    let mut state = slot.lock().expect("nobody panics with it");
                    state.0 = Some(7);
                    state.1.take().into_iter().for_each(Waker::wake);
                });
            }
            Poll::Pending
        })
    }

    #[test]
    fn other_threads_wake() {
        for _ in 0..1000 {
            assert_eq!(elsewhere().wait(), 7);
        }
    }

    /// The wake of the outer future may come while the inner one is waited for.
    #[test]
    fn waiting_within_waiting_loses_no_wake() {
        for _ in 0..1000 {
            let mut outer = Box::pin(elsewhere());
            let both = poll_fn(move |cx| {
                let polled = outer.as_mut().poll(cx);
                assert_eq!(elsewhere().wait(), 7);
                polled
            });
            assert_eq!(both.wait(), 7);
        }
    }
}
