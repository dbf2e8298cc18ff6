//! Waiting, without any loop.

use std::future::{pending, poll_fn, ready};
use std::sync::{Arc, Mutex};
use std::thread;

use super::*;

#[test]
fn a_ready_result_is_returned_at_once() {
    assert_eq!(ready(7).wait(), 7);
    assert_eq!(ready(7).wait_timeout(Duration::ZERO), Some(7));
}

#[test]
fn a_missing_result_times_out() {
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

#[test]
fn a_requested_poll_time_is_kept() {
    use crate::driver::Timer as _;
    let at = Instant::now() + Duration::from_millis(2);
    poll_fn(|cx| Alarm.poll_until(cx, at)).wait();
    assert!(Instant::now() >= at);
    let never = poll_fn(|cx| Alarm.poll_until(cx, at + Duration::from_secs(1000)));
    assert!(never.wait_timeout(Duration::from_millis(1)).is_none());
    let ((), alarm) = alarmed(|| {
        assert!(Alarm.poll_until(&mut Context::from_waker(Waker::noop()), at).is_ready());
    });
    assert_eq!(alarm, None);
}
