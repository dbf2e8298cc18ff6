//! Runs simulations, as many as one likes.

use std::process::ExitCode;
use std::sync::Mutex;
use std::sync::atomic::{AtomicU64, Ordering};
use std::time::Instant;
use std::{panic, thread};

use amqp_simulation::{Report, Script, run, shrink};
use lexopt::prelude::*;

const USAGE: &str = "\
Simulates clients, a broker and a network that fails, and checks what always has to hold.

Usage: simulate [OPTIONS]

Options:
  --seeds N   How many runs [default: 1000]
  --from N    The first seed [default: 0]
  --seed N    This one only; shows its script
  --help      Shows this

A seed that fails is printed with its script, shrunk to what still fails. The same seed always leads to the same run.";

/// After how many seeds a sign of life is given.
const PROGRESS: u64 = 50_000;

struct Arguments {
    from: u64,
    seeds: u64,
    verbose: bool,
}

fn main() -> ExitCode {
    let arguments = match parse() {
        Ok(Some(arguments)) => arguments,
        Ok(None) => {
            println!("{USAGE}");
            return ExitCode::SUCCESS;
        }
        Err(error) => {
            eprintln!("simulate: {error}\n\n{USAGE}");
            return ExitCode::from(2);
        }
    };
    if arguments.verbose {
        println!("{:#?}", Script::new(arguments.from));
    }
    // A panic is a failure of its seed, which says so itself.
    panic::set_hook(Box::new(|_| {}));
    match run_all(&arguments) {
        Ok(summary) => {
            println!("{summary}");
            ExitCode::SUCCESS
        }
        Err(failure) => {
            println!("{failure}");
            ExitCode::FAILURE
        }
    }
}

fn parse() -> Result<Option<Arguments>, lexopt::Error> {
    let mut arguments = Arguments { from: 0, seeds: 1000, verbose: false };
    let mut parser = lexopt::Parser::from_env();
    while let Some(argument) = parser.next()? {
        match argument {
            Long("seeds") => arguments.seeds = parser.value()?.parse()?,
            Long("from") => arguments.from = parser.value()?.parse()?,
            Long("seed") => {
                let seed = parser.value()?.parse()?;
                arguments = Arguments { from: seed, seeds: 1, verbose: true };
            }
            Long("help") | Short('h') => return Ok(None),
            _ => return Err(argument.unexpected()),
        }
    }
    Ok(Some(arguments))
}

#[derive(Default)]
struct Sum {
    published: u64,
    confirmed: u64,
    settled: u64,
    deliveries: u64,
    connections: u64,
    steps: u64,
    seconds: u64,
    peak_output: usize,
}

impl Sum {
    fn add(&mut self, report: &Report) {
        self.published += report.totals.published;
        self.confirmed += report.totals.confirmed;
        self.settled += report.totals.settled;
        self.deliveries += report.totals.deliveries;
        self.connections += report.connections as u64;
        self.steps += report.steps;
        self.seconds += report.lasted.as_secs();
        self.peak_output = self.peak_output.max(report.peak_output);
    }
}

/// Runs all seeds on all processors. Gives a summary, or the first failure.
fn run_all(arguments: &Arguments) -> Result<String, String> {
    let start = Instant::now();
    let next = AtomicU64::new(arguments.from);
    let end = arguments.from.saturating_add(arguments.seeds);
    let sum = Mutex::new(Sum::default());
    let failed = Mutex::new(None::<(u64, String)>);
    let work = || loop {
        let seed = next.fetch_add(1, Ordering::Relaxed);
        if seed >= end {
            return;
        }
        let done = seed - arguments.from;
        if done > 0 && done % PROGRESS == 0 {
            eprintln!("{done} seeds, {:.0} s", start.elapsed().as_secs_f64());
        }
        match attempt(&Script::new(seed)) {
            Ok(report) => sum.lock().expect("nobody panics with it").add(&report),
            Err(text) => {
                next.store(end, Ordering::Relaxed);
                failed.lock().expect("nobody panics with it").get_or_insert((seed, text));
            }
        }
    };
    thread::scope(|scope| {
        let threads = thread::available_parallelism().map_or(1, usize::from);
        (0..threads).for_each(|_| drop(scope.spawn(work)));
    });
    if let Some((seed, text)) = failed.into_inner().expect("nobody panics with it") {
        let script = Script::new(seed);
        let less = shrink(&script, |script| attempt(script).is_err());
        let (before, after) = (script.len(), less.len());
        let again = attempt(&less).err().unwrap_or_default();
        return Err(format!(
            "seed {seed} fails: {text}\n\nshrunk from {before} jobs and faults to {after}, which fails so: {again}\n\
             {less:#?}\n\nagain: simulate --seed {seed}"
        ));
    }
    let sum = sum.into_inner().expect("nobody panics with it");
    Ok(format!(
        "{} seeds in {:.1} s: all invariants held\n\
         {} messages published, {} confirmed, {} deliveries, {} settled\n\
         {} connections, {} steps, {} s of virtual time, at most {} octets waiting for a transport",
        arguments.seeds,
        start.elapsed().as_secs_f64(),
        sum.published,
        sum.confirmed,
        sum.deliveries,
        sum.settled,
        sum.connections,
        sum.steps,
        sum.seconds,
        sum.peak_output,
    ))
}

/// Runs a script; a panic is a failure, too.
fn attempt(script: &Script) -> Result<Report, String> {
    panic::catch_unwind(|| run(script)).unwrap_or_else(|panic| {
        let text = panic.downcast_ref::<String>().cloned();
        let text = text.or_else(|| panic.downcast_ref::<&str>().map(|&text| text.to_owned()));
        Err(format!("panicked: {}", text.unwrap_or_default()))
    })
}
