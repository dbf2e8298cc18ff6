//! One connection's bytes and time: what the leader of a loop runs.

use std::future::Future;
use std::io;
use std::panic::{AssertUnwindSafe, catch_unwind};
use std::pin::Pin;
use std::sync::Arc;
use std::sync::atomic::Ordering;
use std::task::{Context, Waker};
use std::time::{Duration, Instant};

use amqp_client_core::adapter::alarmed;
use mio::Events;

use super::SharedLoop;
use crate::io::{Readiness, Registration};

pub(crate) type Drive = Pin<Box<dyn Future<Output = ()> + Send>>;

/// The state of the leader.
pub(super) struct Work {
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

impl Work {
    pub(super) fn new(registration: Registration, drive: Drive, waker: Waker) -> Self {
        let Registration { poll, readiness } = registration;
        let events = Events::with_capacity(4);
        Self { drive: Some(drive), waker, poll, events, readiness, skipped: false }
    }

    pub(super) fn is_over(&self) -> bool {
        self.drive.is_none()
    }

    /// Does the pending work, then waits for the system until `until`, unless `skip` returns true.
    pub(super) fn turn(
        &mut self,
        shared: &SharedLoop,
        until: Option<Instant>,
        skip: impl Fn() -> bool,
    ) {
        let alarm = self.run(shared);
        let skip = skip();
        // Even with much work, the readiness of the stream is checked now and then.
        if skip && !self.skipped {
            self.skipped = true;
            return;
        }
        self.skipped = false;
        let wake_at = alarm.into_iter().chain(until).min();
        let timeout = match skip || shared.has_work() {
            true => Some(Duration::ZERO),
            false => wake_at.map(|at| at.saturating_duration_since(Instant::now())),
        };
        self.ask(timeout);
    }

    /// Does the pending work. Returns the time at which there is more to do at the latest.
    pub(super) fn run(&mut self, shared: &SharedLoop) -> Option<Instant> {
        let drive = self.drive.as_mut()?;
        shared.has_work.store(false, Ordering::SeqCst);
        let mut context = Context::from_waker(&self.waker);
        let (polled, alarm) = alarmed(|| contained(|| drive.as_mut().poll(&mut context)));
        // A panic, for example of the stream, ends the connection, and not the thread that happens to move its bytes.
        if polled.is_none_or(|polled| polled.is_ready()) {
            self.end();
        }
        alarm
    }

    /// Waits for the system. Returns whether anything has happened.
    pub(super) fn ask(&mut self, timeout: Option<Duration>) -> bool {
        if self.is_over() {
            return false;
        }
        match self.poll.poll(&mut self.events, timeout) {
            Ok(()) => self.events.iter().for_each(|event| self.readiness.take(event)),
            Err(error) if error.kind() == io::ErrorKind::Interrupted => return false,
            // The system cannot wait any more.
            Err(_) => self.end(),
        }
        !self.events.is_empty()
    }

    /// Drops the drive, which ends the connection: all waiting calls get an error.
    fn end(&mut self) {
        let drive = self.drive.take();
        contained(|| drop(drive));
    }
}

/// Runs something that may run code of the user's. Returns `None` if it panics, which the panic hook has reported.
fn contained<T>(run: impl FnOnce() -> T) -> Option<T> {
    match catch_unwind(AssertUnwindSafe(run)) {
        Ok(output) => Some(output),
        Err(panic) => {
            // The value of a panic is the user's, too. One that panics when it is dropped is not dropped again.
            let _again = catch_unwind(AssertUnwindSafe(|| drop(panic))).map_err(std::mem::forget);
            None
        }
    }
}
