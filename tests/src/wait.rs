//! Waiting for a condition with a deadline.
//!
//! This is the only place in the kit that sleeps. Tests wait for conditions, never for time to pass.

use std::io;
use std::thread;
use std::time::{Duration, Instant};

const FIRST_PAUSE: Duration = Duration::from_millis(1);
const LONGEST_PAUSE: Duration = Duration::from_millis(50);

/// Waits until `condition` holds.
///
/// # Panics
///
/// If `limit` passes first; the message names `what`.
#[track_caller]
pub fn wait_until(limit: Duration, what: &str, mut condition: impl FnMut() -> bool) {
    if let Err(error) = wait_for(limit, what, || Ok(condition().then_some(()))) {
        panic!("{error}");
    }
}

/// Waits until `probe` finds something, and returns it.
///
/// The probe runs at least once, however short the limit is. Its error ends the wait.
///
/// # Errors
///
/// The probe's error, or [`io::ErrorKind::TimedOut`] with `what` in the message.
pub fn wait_for<T>(
    limit: Duration,
    what: &str,
    mut probe: impl FnMut() -> io::Result<Option<T>>,
) -> io::Result<T> {
    let start = Instant::now();
    let mut pause = FIRST_PAUSE;
    loop {
        if let Some(found) = probe()? {
            return Ok(found);
        }
        if start.elapsed() >= limit {
            let message = format!("timed out after {limit:?} waiting for {what}");
            return Err(io::Error::new(io::ErrorKind::TimedOut, message));
        }
        // Processes, files and ports send no events, so they are polled, with growing pauses.
        thread::sleep(pause);
        pause = (pause * 2).min(LONGEST_PAUSE);
    }
}

#[cfg(test)]
mod tests {
    use super::*;

    #[test]
    fn returns_the_result_of_the_probe() {
        let mut calls = 0;
        let found = wait_for(Duration::from_secs(10), "three calls", || {
            calls += 1;
            Ok((calls == 3).then_some("third"))
        });
        assert_eq!(found.unwrap(), "third");
        assert_eq!(calls, 3);
    }

    #[test]
    fn gives_up_at_the_deadline_and_names_the_condition() {
        let mut calls = 0;
        let error = wait_for(Duration::ZERO, "a miracle", || -> io::Result<Option<()>> {
            calls += 1;
            Ok(None)
        })
        .unwrap_err();
        assert_eq!(error.kind(), io::ErrorKind::TimedOut);
        assert!(error.to_string().contains("a miracle"), "{error}");
        assert_eq!(calls, 1);
    }

    #[test]
    fn the_error_of_the_probe_ends_the_wait() {
        let error = wait_for(Duration::from_secs(10), "nothing", || -> io::Result<Option<()>> {
            Err(io::Error::other("broken"))
        })
        .unwrap_err();
        assert_eq!(error.to_string(), "broken");
    }

    #[test]
    #[should_panic(expected = "waiting for the impossible")]
    fn wait_until_panics_with_the_name_of_the_condition() {
        wait_until(Duration::ZERO, "the impossible", || false);
    }
}
