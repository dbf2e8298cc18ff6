//! Commands to the proxy's threads, and the list of its connections.

use std::io;
use std::sync::{Arc, Condvar, Mutex, MutexGuard, PoisonError};
use std::time::Duration;

use super::link::Link;

/// The acceptor replies at once; a wait this long is a bug.
const ANSWER: Duration = Duration::from_secs(10);

/// The way a connection ends.
#[derive(Clone, Copy, Debug, PartialEq, Eq)]
pub(super) enum End {
    /// With the end of the stream for both sides.
    Cut,
    /// With an error for both sides.
    Reset,
}

/// The side from which bytes come.
#[derive(Clone, Copy, Debug, PartialEq, Eq)]
pub(super) enum Side {
    Client,
    Server,
}

#[derive(Debug, Default)]
struct State {
    links: Vec<Arc<Link>>,
    /// Links whose threads haven't let go of the sockets yet.
    live: usize,
    stalled: bool,
    closed: bool,
    /// 0 is no limit.
    max_chunk: usize,
    /// Bytes the server may send until all is cut; those in transit are taken off already.
    allowance: Option<u64>,
    forwarded: u64,
    refusal_wanted: Option<bool>,
    refusal_done: Option<io::Result<()>>,
}

/// Shared by the proxy and all its threads.
#[derive(Debug, Default)]
pub(super) struct Control {
    state: Mutex<State>,
    changed: Condvar,
}

impl Control {
    fn state(&self) -> MutexGuard<'_, State> {
        self.state.lock().unwrap_or_else(PoisonError::into_inner)
    }

    fn change(&self, change: impl FnOnce(&mut State)) {
        change(&mut self.state());
        self.changed.notify_all();
    }

    fn wait_while(&self, condition: impl FnMut(&mut State) -> bool) -> MutexGuard<'_, State> {
        let state = self.changed.wait_while(self.state(), condition);
        state.unwrap_or_else(PoisonError::into_inner)
    }

    pub(super) fn links(&self) -> usize {
        self.state().links.len()
    }

    pub(super) fn forwarded(&self) -> u64 {
        self.state().forwarded
    }

    pub(super) fn stall(&self, stall: bool) {
        self.change(|state| state.stalled = stall);
    }

    pub(super) fn slice(&self, max_chunk: usize) {
        self.change(|state| state.max_chunk = max_chunk);
    }

    pub(super) fn cut_after(&self, bytes: u64) {
        self.change(|state| state.allowance = Some(bytes));
        if bytes == 0 {
            self.change(|state| state.allowance = None);
            self.end_all(End::Cut);
        }
    }

    pub(super) fn close(&self) {
        self.change(|state| state.closed = true);
        self.end_all(End::Cut);
    }

    pub(super) fn closed(&self) -> bool {
        self.state().closed
    }

    /// Ends all links and waits until their sockets are closed.
    pub(super) fn end_all(&self, how: End) {
        self.change(|state| end_links(state, how));
        drop(self.wait_while(|state| state.live > state.links.len()));
    }

    /// Takes a link into the list; false when the proxy is closed.
    pub(super) fn add(&self, link: &Arc<Link>) -> bool {
        let mut state = self.state();
        if state.closed {
            return false;
        }
        state.links.push(Arc::clone(link));
        state.live += 1;
        true
    }

    /// Ends one link.
    pub(super) fn end(&self, link: &Link, how: End) {
        // Under the lock: a thread that waits for a permit must not miss it.
        self.change(|_| link.end(how));
    }

    /// Takes a link off the list, unless it was ended together with all others.
    pub(super) fn remove(&self, link: &Arc<Link>) {
        self.change(|state| state.links.retain(|other| !Arc::ptr_eq(other, link)));
    }

    /// Says that nothing holds the sockets of a removed link any more.
    pub(super) fn gone(&self) {
        self.change(|state| state.live -= 1);
    }

    /// Waits until bytes of the link may pass, and returns how many of the `len` available bytes may; `None` when the link has
    /// ended.
    pub(super) fn permit(&self, link: &Link, from: Side, len: usize) -> Option<usize> {
        // With an allowance used up, the rest is in transit and the cut follows, or some of it comes
        // back.
        let blocked = |state: &mut State| {
            let used_up = from == Side::Server && state.allowance == Some(0);
            !link.ended() && (state.stalled || used_up)
        };
        let mut state = self.wait_while(blocked);
        if link.ended() {
            return None;
        }
        let mut n = if state.max_chunk == 0 { len } else { len.min(state.max_chunk) };
        if let (Side::Server, Some(allowance)) = (from, state.allowance.as_mut()) {
            n = n.min(usize::try_from(*allowance).unwrap_or(usize::MAX));
            *allowance -= n as u64;
        }
        Some(n)
    }

    /// Says how many of the permitted bytes went out.
    pub(super) fn sent(&self, from: Side, permitted: usize, sent: usize) {
        if from == Side::Client {
            return;
        }
        self.change(|state| {
            state.forwarded += sent as u64;
            let Some(allowance) = state.allowance.as_mut() else {
                return;
            };
            *allowance += (permitted - sent) as u64;
            if *allowance == 0 {
                state.allowance = None;
                end_links(state, End::Cut);
            }
        });
    }

    pub(super) fn want_refusal(&self, refuse: bool) {
        self.change(|state| {
            state.refusal_wanted = Some(refuse);
            state.refusal_done = None;
        });
    }

    pub(super) fn wanted_refusal(&self) -> Option<bool> {
        self.state().refusal_wanted.take()
    }

    pub(super) fn refusal_done(&self, done: io::Result<()>) {
        self.change(|state| state.refusal_done = Some(done));
    }

    pub(super) fn wait_refusal(&self) -> io::Result<()> {
        let waiting = |state: &mut State| state.refusal_done.is_none();
        let result = self.changed.wait_timeout_while(self.state(), ANSWER, waiting);
        let (mut state, _) = result.unwrap_or_else(PoisonError::into_inner);
        state.refusal_done.take().unwrap_or_else(|| Err(io::ErrorKind::TimedOut.into()))
    }
}

fn end_links(state: &mut State, how: End) {
    for link in state.links.drain(..) {
        link.end(how);
    }
}
