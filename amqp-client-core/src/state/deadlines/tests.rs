use std::sync::Arc;
use std::sync::atomic::Ordering;
use std::task::Poll;

use super::*;
use crate::state::waiters::{poll, tests::Count};

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
fn a_deadline_starts_with_the_drivers_next_turn_and_wakes_its_waiter() {
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
fn finished_deadlines_do_not_pile_up() {
    let (mut deadlines, now) = (Deadlines::default(), Instant::now());
    for _ in 0..10 * CLEAN_ABOVE {
        let id = deadlines.start(Some(1000 * SECOND), Counts::Always);
        deadlines.turn(now, Waker::wake);
        drop(deadlines.stop(id));
    }
    assert_eq!(deadlines.entries.len(), 1);
    assert!(deadlines.heap.len() <= CLEAN_ABOVE + 1, "{}", deadlines.heap.len());
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
    // Bytes behind the request make no difference.
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
fn after_a_loss_nothing_is_ahead_until_the_recovery() {
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
    // Bytes that are sent again are ahead of the request. 5 s of 10 s have passed.
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
fn repeated_losses_do_not_extend_deadlines_forever() {
    let (mut deadlines, _, behind, mut now) = behind();
    for losses in 0.. {
        if expired(&mut deadlines, behind, Waker::noop()) {
            assert!((9..=11).contains(&losses), "{losses}");
            break;
        }
        deadlines.report_written(now, 1);
        deadlines.lose();
        // The connection is restored after a second, and accepts bytes for another.
        now += SECOND;
        deadlines.recover(1000);
        deadlines.turn(now, Waker::wake);
        deadlines.count_taken(1000);
        now += SECOND;
    }
}

#[test]
fn extreme_times_and_byte_counts_are_handled() {
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
fn finished_deadlines_behind_unwritten_bytes_do_not_pile_up() {
    let mut deadlines = Deadlines::default();
    for _ in 0..10 * CLEAN_ABOVE {
        let id = deadlines.start(Some(1000 * SECOND), queued(1));
        deadlines.turn(Instant::now(), Waker::wake);
        drop(deadlines.stop(id));
    }
    assert!(deadlines.behind.len() <= CLEAN_ABOVE + 1, "{}", deadlines.behind.len());
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
