//! The outcome of each message and call.
//!
//! - A confirmed message is not lost: its handler succeeds, or a copy is parked.
//! - A parked copy has the body of its message and the reason of its last attempt, and nothing is parked that can succeed.
//! - There are no more outcomes than the message was published and delivered again. Where a fault fell into the retries of a
//!   message, the broker may also have dead-lettered it twice.
//! - A message that no fault met, published and delivered once, has the attempts 1 to the last one, and exactly one outcome.

use std::sync::{Mutex, MutexGuard, PoisonError};

use super::QUEUES;
use crate::ledger::Totals;

/// How often a message is tried again.
pub(super) const RETRIES: u32 = 2;

pub(super) const REFUSED: &str = "refused on purpose";
pub(super) const MALFORMED: &str = "malformed on purpose";
pub(super) const PANICKED: &str = "panicked on purpose";

/// The effect of a message on its handler.
#[derive(Debug, Clone, Copy, PartialEq, Eq)]
pub(super) enum Fate {
    /// It succeeds at this attempt, if there is one.
    Succeeds(u32),
    /// It panics at its first attempt.
    Panics,
    Refused,
    /// No argument can be taken from it.
    Malformed,
}

impl Fate {
    pub(super) fn of(id: usize) -> Self {
        let mut chance = fastrand::Rng::with_seed(id as u64);
        match chance.u8(..12) {
            0..=5 => Self::Succeeds(1),
            6..=8 => Self::Succeeds(chance.u32(2..=RETRIES + 2)),
            9 => Self::Panics,
            10 => Self::Refused,
            _ => Self::Malformed,
        }
    }

    const fn is_parked(self) -> bool {
        match self {
            Self::Succeeds(attempt) => attempt > RETRIES + 1,
            Self::Refused | Self::Malformed => true,
            Self::Panics => false,
        }
    }

    /// Number of attempts if nothing goes wrong.
    fn attempts(self) -> u32 {
        match self {
            Self::Succeeds(attempt) => attempt.min(RETRIES + 1),
            Self::Panics => 2,
            Self::Refused | Self::Malformed => 1,
        }
    }

    /// The reason with which the message is parked after that many attempts.
    fn reason(self, attempts: i64) -> String {
        match self {
            Self::Succeeds(_) => format!("no {attempts}"),
            Self::Panics => PANICKED.to_owned(),
            Self::Refused => REFUSED.to_owned(),
            Self::Malformed => MALFORMED.to_owned(),
        }
    }
}

/// Counts the beginnings and ends of faults: odd while there is one.
#[derive(Debug, Clone, Copy, Default, PartialEq, Eq)]
pub(super) struct Moment(u64);

/// Number of messages of a producer that may wait for their first attempt. Workers are slower than their producers on a busy machine,
/// and a probe has to pass all messages that wait: without a limit, that takes longer each time.
const BACKLOG: usize = 200;

#[derive(Debug, Clone, Default)]
struct Message {
    producer: usize,
    /// How often it may have been published.
    published: u32,
    confirmed: bool,
    /// The first publish, and the last attempt.
    from: Moment,
    to: Moment,
    attempts: Vec<u32>,
    /// Deliveries to the handler that were marked as repetitions.
    repeated: u32,
    done: u32,
    parked: u32,
}

/// The outcomes so far.
#[derive(Debug, Default)]
pub(super) struct Ledger(Mutex<Entries>);

#[derive(Debug, Default)]
pub(super) struct Entries {
    messages: Vec<Message>,
    /// Number of messages of each producer that had no attempt yet.
    waiting: [usize; QUEUES.len()],
    now: Moment,
    pub(super) calls: u64,
    pub(super) replies: u64,
}

impl Ledger {
    pub(super) fn lock(&self) -> MutexGuard<'_, Entries> {
        self.0.lock().unwrap_or_else(PoisonError::into_inner)
    }
}

impl Entries {
    /// A fault begins or has ended.
    pub(super) const fn turn(&mut self) {
        self.now.0 += 1;
    }

    pub(super) const fn now(&self) -> Moment {
        self.now
    }

    /// Whether there was no fault since.
    pub(super) fn was_calm_since(&self, since: Moment) -> bool {
        is_calm(since, self.now)
    }

    /// Begins a message of the producer for this queue, and returns its number; `None` if too many wait.
    pub(super) fn begin(&mut self, producer: usize) -> Option<usize> {
        if self.waiting[producer] >= BACKLOG {
            return None;
        }
        self.waiting[producer] += 1;
        let (from, to) = (self.now, self.now);
        self.messages.push(Message { producer, from, to, ..Message::default() });
        Some(self.messages.len() - 1)
    }

    pub(super) fn published(&mut self, id: usize) {
        self.with(id, |message| message.published += 1);
    }

    pub(super) fn confirmed(&mut self, id: usize) {
        self.with(id, |message| message.confirmed = true);
    }

    pub(super) fn attempted(&mut self, id: usize, attempt: u32, repeated: bool) {
        let now = self.now;
        let first = self.messages.get(id).filter(|message| message.attempts.is_empty());
        if let Some(message) = first {
            self.waiting[message.producer] -= 1;
        }
        self.with(id, |message| {
            message.attempts.push(attempt);
            message.repeated += u32::from(repeated);
            message.to = now;
        });
    }

    pub(super) fn done(&mut self, id: usize) {
        self.with(id, |message| message.done += 1);
    }

    /// Notes a parked copy. Returns what is wrong with it.
    pub(super) fn parked(&mut self, id: usize, reason: &str, attempts: i64) -> Option<String> {
        let fate = Fate::of(id);
        self.with(id, |message| message.parked += 1);
        let expected = fate.reason(attempts);
        if id >= self.messages.len() {
            return Some(format!("message {id} was parked, which nobody published"));
        }
        if !fate.is_parked() {
            return Some(format!("message {id} was parked, and would have succeeded: {reason}"));
        }
        (reason != expected)
            .then(|| format!("message {id} was parked because of {reason:?}, not {expected:?}"))
    }

    fn with(&mut self, id: usize, change: impl FnOnce(&mut Message)) {
        if let Some(message) = self.messages.get_mut(id) {
            change(message);
        }
    }

    pub(super) fn unresolved(&self) -> usize {
        self.messages.iter().filter(|message| message.is_lost()).count()
    }

    /// Returns the totals, and the messages whose outcome is wrong.
    pub(super) fn close(&self) -> (Totals, Vec<String>) {
        let (mut totals, mut wrong) = (Totals::default(), Vec::new());
        for (id, message) in self.messages.iter().enumerate() {
            let outcomes = message.done + message.parked;
            totals.published += u64::from(message.published > 0);
            totals.confirmed += u64::from(message.confirmed);
            totals.received += u64::from(outcomes > 0);
            totals.lost += u64::from(message.is_lost());
            totals.duplicated += u64::from(outcomes > 1);
            totals.parked += u64::from(message.parked > 0);
            totals.attempts += message.attempts.len() as u64;
            if let Some(text) = message.judge(Fate::of(id)) {
                totals.unexplained += u64::from(outcomes > 1);
                wrong.push(format!("message {id} {text}: {message:?}"));
            }
        }
        (totals.calls, totals.replies) = (self.calls, self.replies);
        (totals, wrong)
    }
}

impl Message {
    const fn is_lost(&self) -> bool {
        self.confirmed && self.done + self.parked == 0
    }

    /// Returns what is wrong with the outcomes. Losses are counted elsewhere.
    fn judge(&self, fate: Fate) -> Option<String> {
        let outcomes = self.done + self.parked;
        let calm = is_calm(self.from, self.to);
        if fate.is_parked() && self.done > 0 && self.repeated == 0 {
            return Some("succeeded, and cannot".to_owned());
        }
        let dead_lettered_twice = !calm && fate.attempts() > 1;
        if outcomes > self.published + self.repeated && !dead_lettered_twice {
            return Some(format!("has {outcomes} outcomes"));
        }
        let simple = calm && self.published == 1 && self.repeated == 0 && !self.is_lost();
        let expected = 1..=fate.attempts();
        (simple && !self.attempts.iter().copied().eq(expected.clone()))
            .then(|| format!("has not the attempts {expected:?}"))
    }
}

fn is_calm(from: Moment, to: Moment) -> bool {
    from == to && from.0 % 2 == 0
}
