//! Many runs on all processors, with a watchdog over those that never end.

use std::collections::BTreeMap;
use std::fmt::Debug;
use std::sync::Mutex;
use std::sync::atomic::{AtomicU64, Ordering};
use std::sync::mpsc::{Receiver, RecvTimeoutError, channel};
use std::time::{Duration, Instant};
use std::{panic, thread};

use amqp_simulation::{
    Exploration, Patterns, Script, explore, run, run_patterns, shrink, shrink_exploration,
    shrink_patterns,
};

/// Number of seeds between two progress reports.
const PROGRESS: u64 = 50_000;

/// Longer than any run takes, on a busy machine too: one that takes longer waits for a lock that it holds.
const HANGS_AFTER: Duration = Duration::from_secs(120);

/// The interval at which the watchdog reads the clock.
const LOOKS_EVERY: Duration = Duration::from_millis(20);

/// The kind of script that a seed generates.
#[derive(Debug, Clone, Copy, PartialEq, Eq)]
pub(crate) enum Kind {
    Stories,
    Explorations,
    Patterns,
}

/// A range of seeds.
#[derive(Debug, Clone, Copy)]
pub(crate) struct Batch {
    pub(crate) kind: Kind,
    pub(crate) from: u64,
    pub(crate) seeds: u64,
    /// True if each transport is inside of TLS.
    pub(crate) tls: bool,
    /// True if to go on behind a failure, and list all of them.
    pub(crate) survey: bool,
    /// True if a failure is reported without being shrunk.
    pub(crate) brief: bool,
}

/// The totals of a batch.
type Sums = Vec<(&'static str, u64)>;

/// The present work, and the time at which it began.
type Current = Mutex<Option<(u64, Instant)>>;

impl Kind {
    pub(crate) const ALL: [Self; 3] = [Self::Stories, Self::Explorations, Self::Patterns];

    pub(crate) const fn name(self) -> &'static str {
        match self {
            Self::Stories => "stories",
            Self::Explorations => "explorations",
            Self::Patterns => "patterns",
        }
    }

    /// The script of a seed, to be read.
    pub(crate) fn script(self, seed: u64, tls: bool) -> String {
        match self {
            Self::Stories => format!("{:#?}", script(seed, tls)),
            Self::Explorations => format!("{:#?}", exploration_of(seed, tls)),
            Self::Patterns => format!("{:#?}", patterns_of(seed, tls)),
        }
    }

    fn attempt(self, seed: u64, tls: bool) -> Result<Sums, String> {
        match self {
            Self::Stories => story(&script(seed, tls)),
            Self::Explorations => exploration(&exploration_of(seed, tls)),
            Self::Patterns => patterns(&patterns_of(seed, tls)),
        }
    }

    /// Shrinks the script of a seed. Returns the rest, its size before and after, and how it fails.
    fn shrunk(self, (seed, tls): (u64, bool), text: &str) -> String {
        // The same failure, not any one: otherwise the shrunken script shows another.
        let same =
            |again: Result<Sums, String>| again.is_err_and(|again| kind(&again) == kind(text));
        match self {
            Self::Stories => {
                let script = script(seed, tls);
                let less = shrink(&script, |script| same(story(script)));
                described(&less, script.len(), less.len(), story(&less))
            }
            Self::Explorations => {
                let script = exploration_of(seed, tls);
                let less = shrink_exploration(&script, |script| same(exploration(script)));
                described(&less, script.len(), less.len(), exploration(&less))
            }
            Self::Patterns => {
                let script = patterns_of(seed, tls);
                let less = shrink_patterns(&script, |script| same(patterns(script)));
                described(&less, script.len(), less.len(), patterns(&less))
            }
        }
    }
}

fn script(seed: u64, tls: bool) -> Script {
    let script = Script::new(seed);
    if tls { script.over_tls() } else { script }
}

fn exploration_of(seed: u64, tls: bool) -> Exploration {
    let script = Exploration::new(seed);
    if tls { script.over_tls() } else { script }
}

fn patterns_of(seed: u64, tls: bool) -> Patterns {
    let script = Patterns::new(seed);
    if tls { script.over_tls() } else { script }
}

fn described(
    less: &impl Debug,
    before: usize,
    after: usize,
    again: Result<Sums, String>,
) -> String {
    let again = again.err().unwrap_or_default();
    format!("shrunk from {before} parts to {after}, which fails so: {again}\n{less:#?}")
}

fn story(script: &Script) -> Result<Sums, String> {
    let report = caught(|| run(script))?;
    Ok(vec![
        ("messages published", report.totals.published),
        ("confirmed", report.totals.confirmed),
        ("deliveries", report.totals.deliveries),
        ("settled", report.totals.settled),
        ("connections", report.connections as u64),
        ("steps", report.steps),
        ("s of virtual time", report.lasted.as_secs()),
    ])
}

fn exploration(script: &Exploration) -> Result<Sums, String> {
    let explored = caught(|| explore(script))?;
    Ok(vec![
        ("messages published", explored.counts.published),
        ("accepted", explored.counts.accepted),
        ("confirmed", explored.counts.confirmed),
        ("deliveries", explored.counts.delivered),
        ("settled", explored.counts.settled),
        ("requests refused", explored.counts.refused),
        ("channels", explored.counts.channels),
        ("transports", explored.counts.transports),
        ("steps", explored.steps),
        ("s of virtual time", explored.lasted.as_secs()),
    ])
}

fn patterns(script: &Patterns) -> Result<Sums, String> {
    let report = caught(|| run_patterns(script))?;
    let counts = report.counts;
    Ok(vec![
        ("messages published", counts.published),
        ("attempts", counts.attempts),
        ("repeated", counts.repeated),
        ("parked", counts.parked),
        ("calls", counts.calls),
        ("replies", counts.replies),
        ("deliveries in batches", counts.batched),
        ("transactions committed", counts.committed),
        ("steps", report.steps),
        ("s of virtual time", report.lasted.as_secs()),
    ])
}

/// Runs it; a panic is a failure, too.
fn caught<T>(run: impl FnOnce() -> Result<T, String>) -> Result<T, String> {
    panic::catch_unwind(panic::AssertUnwindSafe(run)).unwrap_or_else(|panic| {
        let text = panic.downcast_ref::<String>().cloned();
        let text = text.or_else(|| panic.downcast_ref::<&str>().map(|&text| text.to_owned()));
        Err(format!("panicked: {}", text.unwrap_or_default()))
    })
}

impl Batch {
    /// Runs all its seeds on all processors. Returns a summary, or the first failure.
    pub(crate) fn run(self) -> Result<String, String> {
        let start = Instant::now();
        let next = AtomicU64::new(self.from);
        let end = self.from.saturating_add(self.seeds);
        let sums = Mutex::new(Sums::new());
        let failed = Mutex::new(Vec::<(u64, String)>::new());
        let threads = thread::available_parallelism().map_or(1, usize::from);
        let currents: Vec<Current> = (0..threads).map(|_| Mutex::new(None)).collect();
        let work = |current: &Current| loop {
            let seed = next.fetch_add(1, Ordering::Relaxed);
            if seed >= end {
                return;
            }
            let behind = seed - self.from;
            if behind > 0 && behind % PROGRESS == 0 {
                eprintln!("{behind} seeds, {:.0} s", start.elapsed().as_secs_f64());
            }
            *lock(current) = Some((seed, Instant::now()));
            match self.kind.attempt(seed, self.tls) {
                Ok(report) => add(&mut lock(&sums), &report),
                Err(text) => {
                    if !self.survey {
                        next.store(end, Ordering::Relaxed);
                    }
                    lock(&failed).push((seed, text));
                }
            }
            *lock(current) = None;
        };
        thread::scope(|scope| {
            let (done, is_done) = channel();
            let currents = &currents;
            scope.spawn(move || self.watch(currents, &is_done));
            let work = &work;
            let workers: Vec<_> =
                currents.iter().map(|current| scope.spawn(move || work(current))).collect();
            workers.into_iter().for_each(|worker| drop(worker.join()));
            drop(done);
        });
        let mut failed = failed.into_inner().unwrap_or_default();
        failed.sort();
        if self.survey && !failed.is_empty() {
            return Err(survey(&failed));
        }
        if let Some((seed, text)) = failed.into_iter().next() {
            let name = self.kind.name();
            if self.brief {
                return Err(format!("seed {seed} of {name} fails: {text}"));
            }
            return Err(format!(
                "seed {seed} of {name} fails: {text}\n\n{}\n\nagain: simulate --{name} --seed {seed}{}",
                self.kind.shrunk((seed, self.tls), &text),
                self.option()
            ));
        }
        let sums = sums.into_inner().unwrap_or_default();
        let sums: Vec<_> = sums.iter().map(|(name, sum)| format!("{sum} {name}")).collect();
        let seconds = start.elapsed().as_secs_f64();
        let (seeds, name) = (self.seeds, self.kind.name());
        Ok(format!("{seeds} {name} in {seconds:.1} s: all invariants held\n  {}", sums.join(", ")))
    }

    const fn option(self) -> &'static str {
        if self.tls { " --tls" } else { "" }
    }

    /// Ends the program when a run hangs: nothing else can end it.
    fn watch(self, currents: &[Current], is_done: &Receiver<()>) {
        while is_done.recv_timeout(LOOKS_EVERY) == Err(RecvTimeoutError::Timeout) {
            for current in currents {
                let hanging = lock(current).filter(|(_, since)| since.elapsed() > HANGS_AFTER);
                if let Some((seed, _)) = hanging {
                    let name = self.kind.name();
                    println!(
                        "seed {seed} of {name} hangs\n\nagain: simulate --{name} --seed {seed}{}",
                        self.option()
                    );
                    std::process::exit(1);
                }
            }
        }
    }
}

/// Returns the text of a failure without its numbers and the tasks it names.
fn kind(text: &str) -> String {
    let text = [" still busy", " still waiting", " ever happen"]
        .iter()
        .find_map(|phrase| text.split_once(phrase))
        .map_or(text, |(before, _)| before);
    text.chars().filter(|letter| !letter.is_ascii_digit()).collect()
}

/// Failures by their texts without numbers, with the count of seeds and the first seed.
fn survey(failed: &[(u64, String)]) -> String {
    let mut kinds = BTreeMap::<String, (usize, u64, &str)>::new();
    for (seed, text) in failed {
        kinds.entry(kind(text)).or_insert((0, *seed, text)).0 += 1;
    }
    let mut kinds: Vec<_> = kinds.into_values().collect();
    kinds.sort_by_key(|(count, ..)| std::cmp::Reverse(*count));
    let lines =
        kinds.iter().map(|(count, seed, text)| format!("{count:6} x, first seed {seed}: {text}"));
    lines.collect::<Vec<_>>().join("\n")
}

fn lock<T>(mutex: &Mutex<T>) -> std::sync::MutexGuard<'_, T> {
    mutex.lock().unwrap_or_else(std::sync::PoisonError::into_inner)
}

fn add(sums: &mut Sums, report: &Sums) {
    if sums.is_empty() {
        sums.clone_from(report);
        return;
    }
    for ((_, sum), (_, more)) in sums.iter_mut().zip(report) {
        *sum += more;
    }
}
