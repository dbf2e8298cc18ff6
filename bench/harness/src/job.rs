//! The arguments of a driver, its counters, and the line of JSON that it prints.
//!
//! `driver SCENARIO COUNT SIZE URL QUEUE`; a scenario may have parameters: `publish/tasks=4`. A driver that does not offer a
//! scenario ends with status 3.

use std::future::{Future, poll_fn};
use std::pin::pin;
use std::process;
use std::sync::atomic::{AtomicU64, Ordering};
use std::time::{Duration, Instant};

use nix::sys::resource::{Usage, UsageWho, getrusage};

/// The status of a driver that does not offer a scenario.
pub const NOT_OFFERED: i32 = 3;

/// A measurement to make.
pub struct Job {
    pub scenario: String,
    pub count: u64,
    pub size: usize,
    pub url: String,
    pub queue: String,
    parameters: Vec<(String, u64)>,
}

impl Job {
    /// Reads the command line, or prints its usage and ends the program.
    #[must_use]
    pub fn from_args() -> Self {
        let args: Vec<String> = std::env::args().skip(1).collect();
        Self::parse(&args).unwrap_or_else(|| {
            eprintln!("usage: driver SCENARIO[/PARAMETER=NUMBER...] COUNT SIZE URL QUEUE");
            process::exit(2);
        })
    }

    fn parse(args: &[String]) -> Option<Self> {
        let [scenario, count, size, url, queue] = args else { return None };
        let mut parts = scenario.split('/');
        let scenario = parts.next()?.to_owned();
        let parameters = parts
            .map(|part| {
                let (name, value) = part.split_once('=')?;
                Some((name.to_owned(), value.parse().ok()?))
            })
            .collect::<Option<Vec<_>>>()?;
        let (count, size) = (count.parse().ok()?, size.parse().ok()?);
        let (url, queue) = (url.clone(), queue.clone());
        Some(Self { scenario, count, size, url, queue, parameters })
    }

    /// A parameter of the scenario.
    #[must_use]
    pub fn parameter(&self, name: &str, default: u64) -> u64 {
        let given = self.parameters.iter().find(|(known, _)| known == name);
        given.map_or(default, |(_, value)| *value)
    }

    /// Returns the part of `count` that worker `number` of `workers` does.
    #[must_use]
    pub fn share(&self, number: u64, workers: u64) -> u64 {
        self.count / workers + u64::from(number < self.count % workers)
    }

    /// Ends the program: this client does not offer the scenario.
    pub fn not_offered(&self) -> ! {
        eprintln!("{} is not offered", self.scenario);
        process::exit(NOT_OFFERED);
    }
}

/// A point in time, and the resources used until then.
#[derive(Clone, Copy)]
pub struct Mark {
    at: Instant,
    usage: Usage,
}

impl Mark {
    #[must_use]
    pub fn now() -> Self {
        let usage = getrusage(UsageWho::RUSAGE_SELF).expect("every process has one");
        Self { at: Instant::now(), usage }
    }
}

/// Latencies in microseconds.
#[derive(Default)]
pub struct Latencies(Vec<f32>);

impl Latencies {
    #[must_use]
    pub fn with_capacity(count: u64) -> Self {
        Self(Vec::with_capacity(usize::try_from(count).unwrap_or(0)))
    }

    pub fn since(&mut self, start: Instant) {
        self.add(start.elapsed());
    }

    pub fn add(&mut self, latency: Duration) {
        self.0.push(latency.as_secs_f32() * 1e6);
    }

    /// Returns the number of latencies.
    #[must_use]
    pub fn number(&self) -> u64 {
        self.0.len() as u64
    }

    fn percentile(&self, share: f64) -> f32 {
        let last = self.0.len().saturating_sub(1);
        self.0.get((last as f64 * share).round() as usize).copied().unwrap_or(0.0)
    }
}

static POLLS: AtomicU64 = AtomicU64::new(0);

/// Counts the polls of a task for the report.
pub async fn count_polls<F: Future>(task: F) -> F::Output {
    let mut task = pin!(task);
    poll_fn(|cx| {
        POLLS.fetch_add(1, Ordering::Relaxed);
        task.as_mut().poll(cx)
    })
    .await
}

/// Prints the resources used from `start` until now.
pub fn report(job: &Job, start: Mark, latencies: Latencies) {
    report_at(job, start, Mark::now(), latencies);
}

/// Prints the resources used from `start` to `end`.
pub fn report_at(job: &Job, start: Mark, end: Mark, mut latencies: Latencies) {
    latencies.0.sort_by(f32::total_cmp);
    let seconds =
        |time: nix::sys::time::TimeVal| time.tv_sec() as f64 + time.tv_usec() as f64 / 1e6;
    let between = |of: fn(&Usage) -> nix::sys::time::TimeVal| {
        seconds(of(&end.usage)) - seconds(of(&start.usage))
    };
    let switches =
        |usage: &Usage| usage.voluntary_context_switches() + usage.involuntary_context_switches();
    println!(
        "{{\"count\":{},\"wall\":{:.6},\"user\":{:.6},\"sys\":{:.6},\"switches\":{},\"rss_kib\":{},\"peak_kib\":{},\"threads\":{},\"p50\":{:.2},\"p99\":{:.2},\"p999\":{:.2},\"polls\":{}}}",
        job.count,
        (end.at - start.at).as_secs_f64(),
        between(Usage::user_time),
        between(Usage::system_time),
        switches(&end.usage) - switches(&start.usage),
        status("VmRSS:"),
        status("VmHWM:"),
        status("Threads:"),
        latencies.percentile(0.5),
        latencies.percentile(0.99),
        latencies.percentile(0.999),
        POLLS.load(Ordering::Relaxed),
    );
}

/// Returns a number from `/proc/self/status`.
fn status(key: &str) -> u64 {
    let status = std::fs::read_to_string("/proc/self/status").unwrap_or_default();
    let line = status.lines().find_map(|line| line.strip_prefix(key));
    line.and_then(|line| line.split_whitespace().next()?.parse().ok()).unwrap_or(0)
}
