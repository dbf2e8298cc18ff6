//! The fate of each message and call, to compare with what is left at the broker.
//!
//! The promises of workers, as they are checked:
//!
//! - A confirmed message is not lost: its handler succeeds at least once, or a copy is parked.
//! - A parked copy has the body of its message and the reason of its last attempt, and nothing is parked that can succeed.
//! - There are no more copies than the message was published and delivered again: each delivery that is not a repetition leads to
//!   one attempt, and each attempt to one copy or one acknowledgement.
//! - Without a repetition, the attempts count from 1 to the last one, and there is one copy or one success.

use std::collections::BTreeMap;
use std::sync::{Arc, Mutex, MutexGuard, PoisonError};

use amqp_client_patterns::retry::RetryStrategy;
use amqp_test_broker::{Engine, MessageView};
use fastrand::Rng;

use super::script::{Does, Patterns};

/// The queues.
pub(super) const WORK: &str = "work";
pub(super) const FAILED: &str = "work.failed";
pub(super) const BATCHES: &str = "batches";
pub(super) const PAIRS: &str = "pairs";

/// The reasons of handlers.
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
    /// Its handler hangs, until it is delivered again.
    Hangs,
    Refused,
    /// No argument can be taken from it.
    Malformed,
}

impl Fate {
    pub(super) fn of(id: u64) -> Self {
        let mut rng = Rng::with_seed(id ^ 0x6661_7465);
        match rng.u8(..12) {
            0..=3 => Self::Succeeds(1),
            4..=7 => Self::Succeeds(rng.u32(1..=6)),
            8 => Self::Panics,
            9 => Self::Hangs,
            10 => Self::Refused,
            _ => Self::Malformed,
        }
    }

    /// Whether it is parked in the end.
    const fn is_parked(self, times: u32) -> bool {
        match self {
            Self::Succeeds(attempt) => attempt > times + 1,
            Self::Refused | Self::Malformed => true,
            Self::Panics | Self::Hangs => false,
        }
    }
}

#[derive(Debug, Default)]
struct Message {
    batched: bool,
    /// How often it may have been published.
    published: u32,
    confirmed: bool,
    /// The attempts whose handlers were called.
    attempts: Vec<u32>,
    /// Deliveries that were seen and marked as repetitions.
    repeated: u32,
    done: u32,
}

/// A shared ledger. Handlers have to be `Send`.
#[derive(Debug, Clone, Default)]
pub(super) struct Ledger(Arc<Mutex<Entries>>);

#[derive(Debug, Default)]
pub(super) struct Entries {
    messages: BTreeMap<u64, Message>,
    /// Transactions, and whether they were committed for certain.
    pairs: BTreeMap<u64, bool>,
    last: u64,
    /// The first violated invariant.
    wrong: Option<String>,
    pub(super) counts: PatternCounts,
}

/// The events of a run, in numbers.
#[derive(Debug, Clone, Copy, Default, PartialEq, Eq)]
#[non_exhaustive]
pub struct PatternCounts {
    /// Messages that were published for workers or in batches.
    pub published: u64,
    /// Handlers that were called.
    pub attempts: u64,
    /// Messages that were parked.
    pub parked: u64,
    /// Deliveries that were marked as repetitions.
    pub repeated: u64,
    /// Calls that were made.
    pub calls: u64,
    /// Calls that returned a reply.
    pub replies: u64,
    /// Deliveries in batches.
    pub batched: u64,
    /// Transactions that were committed.
    pub committed: u64,
}

impl Ledger {
    pub(super) fn lock(&self) -> MutexGuard<'_, Entries> {
        self.0.lock().unwrap_or_else(PoisonError::into_inner)
    }

    pub(super) fn wrong(&self, text: impl Into<String>) {
        self.lock().wrong.get_or_insert_with(|| text.into());
    }
}

impl Entries {
    pub(super) fn take_wrong(&mut self) -> Option<String> {
        self.wrong.take()
    }

    pub(super) fn next_id(&mut self) -> u64 {
        self.last += 1;
        self.last
    }

    pub(super) fn publish(&mut self, id: u64, batched: bool) {
        let message = self.messages.entry(id).or_default();
        self.counts.published += u64::from(message.published == 0);
        message.batched = batched;
        message.published += 1;
    }

    pub(super) fn confirm(&mut self, id: u64) {
        self.messages.entry(id).or_default().confirmed = true;
    }

    /// A handler was called, or could not be.
    pub(super) fn attempt(&mut self, id: u64, attempt: u32, repeated: bool) {
        self.counts.attempts += 1;
        self.counts.repeated += u64::from(repeated);
        let message = self.messages.entry(id).or_default();
        message.attempts.push(attempt);
        message.repeated += u32::from(repeated);
    }

    pub(super) fn done(&mut self, id: u64) {
        self.messages.entry(id).or_default().done += 1;
    }

    /// A delivery of a batch was acknowledged.
    pub(super) fn gather(&mut self, id: u64, repeated: bool) {
        self.counts.batched += 1;
        let message = self.messages.entry(id).or_default();
        message.repeated += u32::from(repeated);
        message.done += 1;
    }

    pub(super) fn pair(&mut self, id: u64, committed: bool) {
        self.counts.committed += u64::from(committed);
        *self.pairs.entry(id).or_default() |= committed;
    }

    /// Returns the confirmed messages that were neither handled nor parked yet.
    pub(super) fn unresolved(&self, engine: &Engine, script: &Patterns) -> Vec<u64> {
        let parked: Vec<_> = contents(engine, FAILED).iter().filter_map(id_of).collect();
        let resolved = |id: &u64, message: &Message| match message.batched {
            _ if !message.confirmed => true,
            true => message.done > 0 || !script.has(|does| matches!(does, Does::Gather { .. })),
            false => {
                message.done > 0
                    || parked.contains(id)
                    || !script.has(|does| matches!(does, Does::Work { .. }))
            }
        };
        let open = self.messages.iter().filter(|(id, message)| !resolved(id, message));
        open.map(|(id, _)| *id).collect()
    }

    /// Compares with what is left at the broker. `losses` is how often channels and connections of clients may have ended.
    pub(super) fn audit(
        &mut self,
        engine: &Engine,
        script: &Patterns,
        losses: usize,
    ) -> Result<(), String> {
        let mut copies = BTreeMap::<u64, u32>::new();
        for view in contents(engine, FAILED) {
            let id = id_of(&view).ok_or("something was parked that nobody has published")?;
            self.judge_copy(&view, id, script)?;
            *copies.entry(id).or_default() += 1;
            self.counts.parked += 1;
        }
        for (id, message) in &self.messages {
            let copies = copies.get(id).copied().unwrap_or(0);
            judge(*id, message, copies, script, losses)?;
        }
        self.judge_pairs(engine)
    }

    fn judge_copy(&self, view: &MessageView, id: u64, script: &Patterns) -> Result<(), String> {
        let headers = view.properties.headers().ok().flatten().unwrap_or_default();
        let text = |name| headers.get(name).and_then(|value| value.as_str().map(str::to_owned));
        let Some(reason) = text("x-failure") else {
            // The broker parks messages that crash their workers.
            let crashed = script.strategy == RetryStrategy::Native && !script.is_calm();
            return match crashed && headers.get("x-death").is_some() {
                true => Ok(()),
                false => Err(format!("message {id} was parked without a reason")),
            };
        };
        let attempts = headers.get("x-attempts").and_then(|value| value.as_i64());
        let expected = match Fate::of(id) {
            Fate::Refused => REFUSED.to_owned(),
            Fate::Malformed => MALFORMED.to_owned(),
            Fate::Panics => format!("the handler panicked: {PANICKED}"),
            Fate::Succeeds(_) | Fate::Hangs => format!("no {}", attempts.unwrap_or_default()),
        };
        if reason != expected {
            return Err(format!("message {id} was parked because of {reason:?}, not {expected:?}"));
        }
        if view.body != body(id) {
            return Err(format!("message {id} was parked with another body"));
        }
        if !Fate::of(id).is_parked(script.times) {
            return Err(format!("message {id} was parked, and would have succeeded: {reason}"));
        }
        Ok(())
    }

    fn judge_pairs(&self, engine: &Engine) -> Result<(), String> {
        let mut found = BTreeMap::<u64, Vec<u8>>::new();
        for view in contents(engine, PAIRS) {
            let id = id_of(&view).ok_or("a part of no pair")?;
            found.entry(id).or_default().push(view.body[0]);
        }
        for (id, committed) in &self.pairs {
            match found.remove(id).unwrap_or_default().as_slice() {
                b"cd" => {}
                b"" if !committed => {}
                other => return Err(format!("pair {id}, committed {committed}: {other:?}")),
            }
        }
        if found.is_empty() { Ok(()) } else { Err(format!("pairs of nobody: {found:?}")) }
    }
}

fn judge(
    id: u64,
    message: &Message,
    copies: u32,
    script: &Patterns,
    losses: usize,
) -> Result<(), String> {
    let outcomes = message.done + copies;
    let served = match message.batched {
        true => script.has(|does| matches!(does, Does::Gather { .. })),
        false => script.has(|does| matches!(does, Does::Work { .. })),
    };
    if message.confirmed && served && outcomes == 0 {
        return Err(format!("message {id} is lost: {message:?}"));
    }
    // Requeues are repetitions, too, where the queue counts.
    let counted = !message.batched && script.strategy != RetryStrategy::Queues;
    let most = match counted {
        true => message.published as usize + losses,
        false => (message.published + message.repeated) as usize,
    };
    if outcomes as usize > most {
        return Err(format!("message {id} has {copies} copies, at most {most}: {message:?}"));
    }
    // Where the queue counts, deliveries that were lost are attempts, too.
    let skipped = counted && message.repeated > 0 && matches!(Fate::of(id), Fate::Succeeds(_));
    let parked = !message.batched && Fate::of(id).is_parked(script.times);
    if parked && message.done > 0 && !skipped {
        return Err(format!("message {id} succeeded, and cannot: {message:?}"));
    }
    let simple = served && message.published == 1 && message.repeated == 0 && !message.batched;
    if simple && !counted && message.confirmed {
        let last = match Fate::of(id) {
            Fate::Succeeds(attempt) => attempt.min(script.times + 1),
            Fate::Panics => 2,
            _ => 1,
        };
        if !message.attempts.iter().copied().eq(1..=last) {
            return Err(format!("the attempts of message {id} are not 1 to {last}: {message:?}"));
        }
    }
    Ok(())
}

/// The messages of a queue that are ready.
fn contents(engine: &Engine, queue: &str) -> Vec<MessageView> {
    engine.queue(queue).map(|queue| queue.messages).unwrap_or_default()
}

/// Returns the body of a message.
pub(super) fn body(id: u64) -> Vec<u8> {
    format!("m{id}").into_bytes()
}

fn id_of(view: &MessageView) -> Option<u64> {
    read(&view.body)
}

/// Returns the message that has this body.
pub(super) fn read(body: &[u8]) -> Option<u64> {
    std::str::from_utf8(body.get(1..)?).ok()?.parse().ok()
}
