//! One helper thread for all connections of the process.
//!
//! The poll of each connection is itself something that can be polled. So one thread can wait for all connections that no
//! caller leads, and an idle connection needs no thread of its own. The thread ends with the last connection.

use std::collections::{BTreeSet, HashMap};
use std::io;
use std::os::fd::{AsRawFd as _, RawFd};
use std::process;
use std::sync::{Arc, Mutex, MutexGuard, OnceLock, PoisonError};
use std::thread;
use std::time::{Duration, Instant};

use mio::unix::SourceFd;
use mio::{Events, Interest, Poll, Token, Waker};

use super::work::Work;
use super::{Found, HELPER_PAUSE, Helper, SharedLoop};

/// The token of calls.
const CALLED: Token = Token(usize::MAX);

/// The longest pause, while callers keep using their loops. Each check may delay a caller that shares the processor, and so a check in each
/// millisecond would show in the latency of one request in a hundred.
const HELPER_PAUSE_MAX: Duration = Duration::from_millis(8);

/// Turns of one loop, before other loops have theirs.
const TURNS: usize = 16;

/// The helper of this process.
static HELPER: Mutex<Option<Arc<Calls>>> = Mutex::new(None);

/// The way to reach the helper.
struct Calls {
    waker: Waker,
    /// A thread exists only in the process that started it, and not in its forks.
    process: u32,
    inbox: Mutex<Inbox>,
}

#[derive(Default)]
struct Inbox {
    /// The number of the next connection.
    next: usize,
    joined: Vec<(usize, Joined)>,
    called: Vec<usize>,
}

/// The place of a loop with the helper.
pub(super) struct Place {
    /// Of the connection's poll. It is open until the loop is over.
    poll: RawFd,
    joined: OnceLock<(Arc<Calls>, usize)>,
}

impl Place {
    pub(super) fn of(poll: &Poll) -> Self {
        Self { poll: poll.as_raw_fd(), joined: OnceLock::new() }
    }
}

impl Helper for Place {
    /// Starts the helper if there is none.
    fn join(&self, shared: &Arc<SharedLoop>) -> io::Result<()> {
        let mut helper = HELPER.lock().unwrap_or_else(PoisonError::into_inner);
        let calls = match helper.take_if(|calls| calls.process == process::id()) {
            Some(calls) => calls,
            None => CommonHelper::start()?,
        };
        *helper = Some(calls.clone());
        let mut inbox = calls.inbox();
        let number = inbox.next;
        inbox.next += 1;
        // It joins once. The helper may run the loop before this function returns, and has to be reachable by then.
        let _joined = self.joined.set((calls.clone(), number));
        inbox.joined.push((number, Joined::new(shared.clone(), self.poll)));
        drop(inbox);
        calls.wake();
        Ok(())
    }

    fn call(&self) {
        if let Some((calls, number)) = self.joined.get() {
            calls.inbox().called.push(*number);
            calls.wake();
        }
    }
}

impl Calls {
    fn inbox(&self) -> MutexGuard<'_, Inbox> {
        self.inbox.lock().unwrap_or_else(PoisonError::into_inner)
    }

    fn wake(&self) {
        // It fails only when no thread can wait any more.
        let _gone = self.waker.wake();
    }
}

/// The helper thread.
struct CommonHelper {
    calls: Arc<Calls>,
    poll: Poll,
    events: Events,
    loops: HashMap<usize, Joined>,
    /// The loops that callers lead, to check after a pause.
    led: Vec<usize>,
    pause: Duration,
    check_at: Option<Instant>,
    /// When loops have to be turned that wait for an event.
    due: BTreeSet<(Instant, usize)>,
    /// The loops that have more to do at once.
    busy: Vec<usize>,
}

/// A loop that has joined.
struct Joined {
    shared: Arc<SharedLoop>,
    poll: RawFd,
    /// Its poll is registered.
    polled: bool,
    /// It is in [`CommonHelper::led`].
    led: bool,
    /// Its entry in [`CommonHelper::due`].
    due: Option<Instant>,
}

impl Joined {
    const fn new(shared: Arc<SharedLoop>, poll: RawFd) -> Self {
        Self { shared, poll, polled: false, led: false, due: None }
    }

    /// Registers the poll of this loop with that of the helper, which leads. If the system refuses, the loop is not polled.
    fn start_polling(&mut self, helper: &Poll, number: usize) {
        if !self.polled {
            let mut source = SourceFd(&self.poll);
            let registered =
                helper.registry().register(&mut source, Token(number), Interest::READABLE);
            self.polled = registered.is_ok();
        }
    }

    fn stop_polling(&mut self, helper: &Poll) {
        if std::mem::take(&mut self.polled) {
            // The poll stays open while its loop is locked and not over. Later, its number may be that of another file.
            let post = self.shared.post();
            if !post.over {
                let _unknown = helper.registry().deregister(&mut SourceFd(&self.poll));
            }
        }
    }
}

impl CommonHelper {
    fn start() -> io::Result<Arc<Calls>> {
        let poll = Poll::new()?;
        let waker = Waker::new(poll.registry(), CALLED)?;
        let calls = Arc::new(Calls { waker, process: process::id(), inbox: Mutex::default() });
        let helper = Self {
            calls: calls.clone(),
            poll,
            events: Events::with_capacity(64),
            loops: HashMap::new(),
            led: Vec::new(),
            pause: HELPER_PAUSE,
            check_at: None,
            due: BTreeSet::new(),
            busy: Vec::new(),
        };
        thread::Builder::new().name("amqp-io".to_owned()).spawn(move || helper.help())?;
        Ok(calls)
    }

    fn help(mut self) {
        while !self.ends() {
            self.wait();
            let events = self.events.iter().map(|event| event.token().0);
            let mut numbers: BTreeSet<usize> = events.chain(self.busy.drain(..)).collect();
            numbers.extend(self.take_calls());
            numbers.into_iter().for_each(|number| self.check(number));
            self.check_due();
            self.check_led();
        }
    }

    /// Returns whether no connection is left. From then on, a new connection starts another helper.
    fn ends(&self) -> bool {
        if !self.loops.is_empty() {
            return false;
        }
        let mut helper = HELPER.lock().unwrap_or_else(PoisonError::into_inner);
        let ends = self.calls.inbox().joined.is_empty();
        if ends {
            helper.take_if(|calls| Arc::ptr_eq(calls, &self.calls));
        }
        ends
    }

    /// Waits for events, calls and times.
    fn wait(&mut self) {
        let next = self.due.first().map(|(at, _)| *at);
        let wake_at = self.check_at.into_iter().chain(next).min();
        let timeout = match self.busy.is_empty() {
            true => wake_at.map(|at| at.saturating_duration_since(Instant::now())),
            false => Some(Duration::ZERO),
        };
        let waited = self.poll.poll(&mut self.events, timeout);
        if waited.is_err_and(|error| error.kind() != io::ErrorKind::Interrupted) {
            // The system cannot wait any more. So all loops are checked by time.
            self.loops.keys().for_each(|number| self.busy.push(*number));
            thread::sleep(HELPER_PAUSE_MAX);
        }
    }

    /// Lets new loops join. Returns the loops that have called.
    fn take_calls(&mut self) -> Vec<usize> {
        let mut inbox = self.calls.inbox();
        let joined = std::mem::take(&mut inbox.joined);
        let called = std::mem::take(&mut inbox.called);
        drop(inbox);
        for (number, joined) in joined {
            self.loops.insert(number, joined);
            // Usually, the thread that connects leads it.
            self.leave_to_callers(number);
        }
        called
    }

    fn check_due(&mut self) {
        let now = Instant::now();
        while let Some((_, number)) = self.due.first().copied().filter(|(at, _)| *at <= now) {
            self.check(number);
        }
    }

    /// Checks the loops that callers led.
    fn check_led(&mut self) {
        if self.check_at.is_none_or(|at| Instant::now() < at) {
            return;
        }
        let led = std::mem::take(&mut self.led);
        let count = led.len();
        self.check_at = None;
        let pause = (self.pause * 2).min(HELPER_PAUSE_MAX);
        for number in led {
            if let Some(joined) = self.loops.get_mut(&number) {
                joined.led = false;
            }
            self.check(number);
        }
        if self.led.len() == count {
            self.pause = pause;
        }
        self.check_at = (!self.led.is_empty()).then(|| Instant::now() + self.pause);
    }

    /// Runs a loop, unless callers use it.
    fn check(&mut self, number: usize) {
        let Some(joined) = self.loops.get_mut(&number) else { return };
        if let Some(at) = joined.due.take() {
            self.due.remove(&(at, number));
        }
        match joined.shared.find() {
            Found::Over => drop(self.loops.remove(&number)),
            Found::Led => self.leave_to_callers(number),
            Found::LedForLong => joined.stop_polling(&self.poll),
            Found::Free(work) => self.run(number, work),
        }
    }

    /// Callers use a loop: its events are theirs.
    fn leave_to_callers(&mut self, number: usize) {
        let Some(joined) = self.loops.get_mut(&number) else { return };
        joined.stop_polling(&self.poll);
        if !std::mem::replace(&mut joined.led, true) {
            self.led.push(number);
        }
        self.pause = HELPER_PAUSE;
        let soon = Instant::now() + HELPER_PAUSE;
        self.check_at = Some(self.check_at.map_or(soon, |at| at.min(soon)));
    }

    fn run(&mut self, number: usize, mut work: Box<Work>) {
        let Some(joined) = self.loops.get_mut(&number) else { return };
        let (alarm, is_idle) = turn_until_idle(&mut work, &joined.shared);
        if is_idle {
            joined.start_polling(&self.poll, number);
        }
        let is_over = work.is_over();
        if joined.shared.give_from_helper(work, is_idle && joined.polled) {
            joined.due = alarm;
            self.due.extend(alarm.map(|at| (at, number)));
        } else if is_over {
            self.loops.remove(&number);
        } else if is_idle {
            // A caller takes over, or the poll cannot be registered.
            self.leave_to_callers(number);
        } else {
            self.busy.push(number);
        }
    }
}

/// Turns a loop as long as it has something to do, but only so often. Returns when it has to be turned again, and whether it has
/// nothing to do until then.
fn turn_until_idle(work: &mut Work, shared: &SharedLoop) -> (Option<Instant>, bool) {
    let mut alarm = None;
    for _ in 0..TURNS {
        alarm = work.run(shared);
        if work.is_over() || shared.is_followed() {
            break;
        }
        if !work.ask(Some(Duration::ZERO)) && !shared.has_work() && !work.is_over() {
            return (alarm, true);
        }
    }
    (alarm, false)
}
