//! Long runs in parts: each continues where the last one stopped, and a log records the runs.
//!
//! A line of the log is the kind of script, the first and the last seed, the commit and how long it took:
//!
//! ```text
//! explorations 0-1999 4ac9d1f 12s
//! ```

use std::fmt::Write as _;
use std::fs::{self, OpenOptions};
use std::io::Write as _;
use std::path::Path;
use std::process::Command;
use std::time::{Duration, Instant};

use crate::batch::{Batch, Kind};

/// Number of seeds per line of the log.
const PART: u64 = 2_000;

/// Runs seeds that the log does not have yet, of each kind in turn, and writes down those that hold.
pub(crate) fn run(log: &Path, kinds: &[Kind], time: Duration) -> Result<(), String> {
    let start = Instant::now();
    let commit = commit();
    while start.elapsed() < time {
        for kind in kinds.iter().copied() {
            let from = next_seed(&read(log), kind);
            let part = Instant::now();
            Batch { kind, from, seeds: PART, tls: false, survey: false, brief: false }.run()?;
            let (to, seconds) = (from + PART - 1, part.elapsed().as_secs());
            append(log, &format!("{} {from}-{to} {commit} {seconds}s", kind.name()))?;
        }
    }
    let text = read(log);
    let mut reached = String::new();
    for kind in Kind::ALL {
        let _written = write!(reached, "{} {} so far  ", next_seed(&text, kind), kind.name());
    }
    println!("{}", reached.trim_end());
    Ok(())
}

/// The first seed of that kind behind all that ran.
fn next_seed(log: &str, kind: Kind) -> u64 {
    let lines = log.lines().filter_map(|line| {
        let mut words = line.split_whitespace();
        (words.next()? == kind.name()).then_some(())?;
        let (_, last) = words.next()?.split_once('-')?;
        last.parse::<u64>().ok()
    });
    lines.max().map_or(0, |last| last + 1)
}

fn read(log: &Path) -> String {
    // The first run has no log yet.
    fs::read_to_string(log).unwrap_or_default()
}

fn append(log: &Path, line: &str) -> Result<(), String> {
    let opened = OpenOptions::new().create(true).append(true).open(log);
    let written = opened.and_then(|mut file| writeln!(file, "{line}"));
    written.map_err(|error| format!("{}: {error}", log.display()))
}

/// The commit that runs, with a mark if anything was changed since.
fn commit() -> String {
    let git = Command::new("git").args(["describe", "--always", "--dirty", "--abbrev=10"]).output();
    let text = git.map(|output| String::from_utf8_lossy(&output.stdout).trim().to_owned());
    text.ok().filter(|text| !text.is_empty()).unwrap_or_else(|| "unknown".to_owned())
}

#[cfg(test)]
mod tests {
    use super::*;

    #[test]
    fn a_run_resumes_after_the_seeds_that_ran() {
        let log = "stories 0-9999 a 1s\nexplorations 0-9999 a 1s\nexplorations 10000-19999 b 1s\n";
        assert_eq!(next_seed(log, Kind::Stories), 10_000);
        assert_eq!(next_seed(log, Kind::Explorations), 20_000);
        assert_eq!(next_seed("", Kind::Stories), 0);
    }
}
