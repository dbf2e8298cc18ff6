//! Turns: of many threads that want to run something, one at a time does.

use super::sync::{AtomicUsize, Ordering};

/// Lets one thread at a time run something. A thread that comes meanwhile, or the same thread from inside, does not wait: whoever
/// runs it runs it once more.
#[derive(Debug, Default)]
pub(super) struct Turns {
    /// Number of requests since nobody ran it; 0 if nobody does.
    requests: AtomicUsize,
}

impl Turns {
    /// Runs `turn` until nobody has requested it since it began. Returns at once if another thread is at it.
    pub(super) fn run(&self, mut turn: impl FnMut()) {
        if self.requests.fetch_add(1, Ordering::AcqRel) > 0 {
            return;
        }
        let mut seen = 1;
        loop {
            turn();
            // Requests since `seen` was read may have come too late for this turn.
            match self.requests.compare_exchange(seen, 0, Ordering::AcqRel, Ordering::Acquire) {
                Ok(_) => return,
                Err(requests) => seen = requests,
            }
        }
    }
}

#[cfg(all(test, not(shuttle)))]
mod tests {
    use std::cell::Cell;

    use super::*;

    #[test]
    fn a_request_from_inside_is_another_turn() {
        let (turns, runs) = (Turns::default(), Cell::new(0));
        for expected in [3, 4] {
            turns.run(|| {
                runs.set(runs.get() + 1);
                if runs.get() < 3 {
                    turns.run(|| unreachable!("one at a time"));
                }
            });
            assert_eq!(runs.get(), expected);
        }
    }
}

/// `RUSTFLAGS='--cfg shuttle' cargo test -p amqp-client-patterns --lib turns`
#[cfg(all(test, shuttle))]
mod tests {
    use shuttle::sync::Arc;
    use shuttle::sync::atomic::{AtomicBool, AtomicUsize, Ordering};
    use shuttle::thread;

    use super::Turns;

    /// Replies arrive, and each arrival requests a turn. In the end, all were taken, by one thread at a time.
    #[test]
    fn nothing_that_arrives_is_left_behind() {
        shuttle::check_random(
            || {
                let scene =
                    Arc::new((Turns::default(), AtomicUsize::new(0), AtomicBool::new(false)));
                let threads: Vec<_> = (0..3)
                    .map(|_| {
                        let scene = scene.clone();
                        thread::spawn(move || {
                            let (turns, arrived, busy) = &*scene;
                            for _ in 0..2 {
                                arrived.fetch_add(1, Ordering::SeqCst);
                                turns.run(|| {
                                    assert!(!busy.swap(true, Ordering::SeqCst), "one at a time");
                                    arrived.swap(0, Ordering::SeqCst);
                                    busy.store(false, Ordering::SeqCst);
                                });
                            }
                        })
                    })
                    .collect();
                threads.into_iter().for_each(|thread| thread.join().expect("it does not panic"));
                assert_eq!(scene.1.load(Ordering::SeqCst), 0, "a reply was left behind");
            },
            20_000,
        );
    }
}
