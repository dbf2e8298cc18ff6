//! A helper thread for each connection.

use std::io;
use std::sync::{Arc, Condvar, PoisonError};
use std::thread;

use super::{Found, HELPER_PAUSE, Helper, SharedLoop};

/// The helper sleeps on this.
#[derive(Default)]
pub(super) struct OwnHelper(Arc<Condvar>);

impl Helper for OwnHelper {
    fn join(&self, shared: &Arc<SharedLoop>) -> io::Result<()> {
        let (shared, called) = (shared.clone(), self.0.clone());
        let helper = thread::Builder::new().name("amqp-io".to_owned());
        helper.spawn(move || help(&shared, &called)).map(drop)
    }

    fn call(&self) {
        self.0.notify_one();
    }
}

fn help(shared: &SharedLoop, called: &Condvar) {
    loop {
        match shared.find() {
            Found::Over => return,
            // Callers that led will soon lead again: only time without one shows that no caller is left.
            Found::Led => thread::sleep(HELPER_PAUSE),
            Found::LedForLong => wait(shared, called),
            Found::Free(mut work) => {
                // As for callers, at least one turn. It must not wait if a follower has come before this thread leads.
                loop {
                    work.turn(shared, None, || shared.is_followed());
                    if work.is_over() || shared.is_followed() {
                        break;
                    }
                }
                shared.give_from_helper(work, false);
            }
        }
    }
}

/// Waits until the helper is called.
fn wait(shared: &SharedLoop, called: &Condvar) {
    let mut post = shared.post();
    while post.helper_waits {
        post = called.wait(post).unwrap_or_else(PoisonError::into_inner);
    }
}
