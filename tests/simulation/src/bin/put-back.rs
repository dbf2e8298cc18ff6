//! Puts known defects back, one at a time, and shows after how many seeds the simulation finds each.
//!
//! `defects` has a patch for each. Its first line, after `#`, is the effect on a user. A line `# found by: cargo test ...` names
//! another command that finds it, for defects that the simulation cannot see. That command runs only if the simulation finds
//! nothing, so that the table shows seeds wherever there are any.
//!
//! The patches are applied to worktrees of the present commit, in `target`: each job has a worktree and a target directory
//! there.

use std::io::Write;
use std::path::{Path, PathBuf};
use std::process::{Command, ExitCode, Output};
use std::sync::atomic::{AtomicUsize, Ordering};
use std::sync::mpsc::{self, Receiver};
use std::time::Instant;
use std::{fs, io, thread};

use lexopt::prelude::*;

const USAGE: &str = "\
Puts known defects back, one at a time, and shows after how many seeds the simulation finds each.

Usage: put-back [OPTIONS] [NAME...]

Arguments:
  NAME         Only defects whose file name starts with NAME

Options:
  --seeds N    Maximum number of seeds of each kind [default: 4000]
  --jobs N     Number of defects to search for in parallel [default: 1]
  --help       Shows this text";

/// A defect that can be put back.
struct Defect {
    name: String,
    patch: PathBuf,
    /// The command that finds it, if the simulation does not.
    found_by: Option<String>,
    harm: String,
}

/// The result of the search for a defect.
enum Outcome {
    Found {
        by: String,
        how: String,
    },
    Undetected,
    /// The patch does not apply, or the result does not compile.
    Broken(String),
}

/// The folder in which patches are applied and built.
struct Workshop {
    tree: PathBuf,
    target: PathBuf,
    seeds: u64,
}

fn main() -> ExitCode {
    match put_back() {
        Ok(true) => ExitCode::SUCCESS,
        Ok(false) => ExitCode::FAILURE,
        Err(error) => {
            eprintln!("put-back: {error}");
            ExitCode::FAILURE
        }
    }
}

/// Returns whether all defects were found.
fn put_back() -> Result<bool, Box<dyn std::error::Error>> {
    let (mut seeds, mut jobs, mut names) = (4000, 1, Vec::new());
    let mut parser = lexopt::Parser::from_env();
    while let Some(argument) = parser.next()? {
        match argument {
            Long("seeds") => seeds = parser.value()?.parse()?,
            Long("jobs") => jobs = parser.value()?.parse::<usize>()?.max(1),
            Long("help") | Short('h') => {
                println!("{USAGE}");
                return Ok(true);
            }
            Value(name) => names.push(name.string()?),
            other => return Err(other.unexpected().into()),
        }
    }
    let package = Path::new(env!("CARGO_MANIFEST_DIR"));
    let root = package.join("../..").canonicalize()?;
    let mut defects = defects(&package.join("defects"))?;
    let wanted = |defect: &Defect| names.iter().any(|name| defect.name.starts_with(name));
    defects.retain(|defect| names.is_empty() || wanted(defect));
    let workshops = (1..=jobs.min(defects.len().max(1)))
        .map(|job| Workshop::open(&root, &format!("target/put-back/{job}"), seeds))
        .collect::<io::Result<Vec<_>>>()?;
    if let Outcome::Found { by, how } = workshops[0].simulate()? {
        return Err(format!("without any defect put back, {by}: {how}").into());
    }
    println!("{:<36} {:<36} {:>8}  failure", "defect", "found by", "seconds");
    let (lines, results) = mpsc::channel();
    let next = AtomicUsize::new(0);
    let undetected = thread::scope(|scope| {
        for workshop in &workshops {
            let (lines, next, defects) = (lines.clone(), &next, &defects);
            scope.spawn(move || {
                loop {
                    let index = next.fetch_add(1, Ordering::Relaxed);
                    let Some(defect) = defects.get(index) else { return };
                    let start = Instant::now();
                    let outcome = workshop.look_for(defect);
                    if lines.send((index, outcome, start.elapsed().as_secs())).is_err() {
                        return;
                    }
                }
            });
        }
        drop(lines);
        print(&defects, &results)
    })?;
    let found = defects.len() - undetected.len();
    let rest = if undetected.is_empty() { "none" } else { &undetected.join(", ") };
    println!("found {found} of {}; undetected: {rest}", defects.len());
    Ok(undetected.is_empty())
}

/// Prints the result of each defect, in their order, as soon as it is known. Returns the names of those that were not found.
fn print(
    defects: &[Defect],
    results: &Receiver<(usize, io::Result<Outcome>, u64)>,
) -> io::Result<Vec<String>> {
    let mut known: Vec<Option<(io::Result<Outcome>, u64)>> = defects.iter().map(|_| None).collect();
    let (mut undetected, mut printed) = (Vec::new(), 0);
    for (index, outcome, seconds) in results {
        known[index] = Some((outcome, seconds));
        while let Some((outcome, seconds)) = known.get_mut(printed).and_then(Option::take) {
            let defect = &defects[printed];
            let (by, how) = match outcome? {
                Outcome::Found { by, how } => (by, how),
                Outcome::Undetected => {
                    undetected.push(defect.name.clone());
                    ("UNDETECTED".to_owned(), defect.harm.clone())
                }
                Outcome::Broken(why) => {
                    undetected.push(format!("{} (broken)", defect.name));
                    ("BROKEN".to_owned(), why)
                }
            };
            println!("{:<36} {by:<36} {seconds:>8}  {how}", defect.name);
            io::stdout().flush()?;
            printed += 1;
        }
    }
    Ok(undetected)
}

/// The defects of a folder, by name.
fn defects(folder: &Path) -> io::Result<Vec<Defect>> {
    let mut defects = Vec::new();
    for entry in fs::read_dir(folder)? {
        let patch = entry?.path();
        if patch.extension().is_none_or(|extension| extension != "patch") {
            continue;
        }
        let text = fs::read_to_string(&patch)?;
        let found_by = text.lines().find_map(|line| line.strip_prefix("# found by: "));
        let harm = text.lines().next().unwrap_or_default().trim_start_matches("# ");
        defects.push(Defect {
            name: patch.file_stem().unwrap_or_default().to_string_lossy().into_owned(),
            found_by: found_by.map(str::to_owned),
            harm: harm.to_owned(),
            patch,
        });
    }
    defects.sort_by(|left, right| left.name.cmp(&right.name));
    Ok(defects)
}

impl Workshop {
    /// A worktree of the present commit.
    fn open(root: &Path, folder: &str, seeds: u64) -> io::Result<Self> {
        let tree = root.join(folder).join("tree");
        if !tree.join("Cargo.toml").exists() {
            fs::create_dir_all(root.join(folder))?;
            let added = Command::new("git")
                .args(["worktree", "add", "--force", "--detach"])
                .arg(&tree)
                .current_dir(root)
                .output()?;
            succeeded(&added)?;
        }
        let commit = Command::new("git").args(["rev-parse", "HEAD"]).current_dir(root).output()?;
        let commit = String::from_utf8_lossy(&commit.stdout).trim().to_owned();
        let target = root.join(folder).join("build");
        let workshop = Self { tree, target, seeds };
        succeeded(&workshop.run("git", &["checkout", "--force", "--detach", &commit])?)?;
        Ok(workshop)
    }

    fn run(&self, program: &str, arguments: &[&str]) -> io::Result<Output> {
        Command::new(program)
            .args(arguments)
            .current_dir(&self.tree)
            .env("CARGO_TARGET_DIR", &self.target)
            .env("CARGO_PROFILE_DEV_DEBUG", "0")
            .output()
    }

    fn look_for(&self, defect: &Defect) -> io::Result<Outcome> {
        let patch = defect.patch.to_string_lossy().into_owned();
        // The code around it may have changed since it was written.
        let applied = self.run("git", &["apply", "--3way", &patch])?;
        if !applied.status.success() {
            self.clean()?;
            return Ok(Outcome::Broken(last_line(&applied.stderr)));
        }
        let outcome = match (self.simulate(), &defect.found_by) {
            (Ok(Outcome::Undetected), Some(command)) => self.found_by(command),
            (outcome, _) => outcome,
        };
        self.clean()?;
        outcome
    }

    fn clean(&self) -> io::Result<()> {
        succeeded(&self.run("git", &["reset", "--hard"])?)
    }

    /// Looks for the defect by another command than the simulation: a failing test finds it, a compile error does not.
    fn found_by(&self, command: &str) -> io::Result<Outcome> {
        let built = self.run("bash", &["-c", &format!("{command} --no-run")])?;
        if command.contains("cargo test") && !built.status.success() {
            return Ok(Outcome::Broken(last_line(&built.stderr)));
        }
        let ran = self.run("bash", &["-c", command])?;
        let output = String::from_utf8_lossy(&ran.stdout);
        if ran.status.success() {
            let none = !output.lines().any(|line| line.ends_with(" ... ok"));
            return Ok(if none {
                Outcome::Broken(format!("no such test: {command}"))
            } else {
                Outcome::Undetected
            });
        }
        let failed = output.lines().find(|line| line.ends_with("FAILED")).unwrap_or_default();
        Ok(Outcome::Found { by: "a test".to_owned(), how: failed.to_owned() })
    }

    fn simulate(&self) -> io::Result<Outcome> {
        let package = ["-p", "amqp-simulation", "--profile", "put-back", "--bin", "simulate"];
        let built = self.run("cargo", &[&["build", "--locked"][..], &package].concat())?;
        if !built.status.success() {
            return Ok(Outcome::Broken(last_line(&built.stderr)));
        }
        let simulate = self.target.join("put-back/simulate");
        let (simulate, seeds) = (simulate.to_string_lossy().into_owned(), self.seeds.to_string());
        for kind in ["--explorations", "--stories", "--patterns"] {
            let ran = self.run(&simulate, &[kind, "--brief", "--seeds", &seeds])?;
            if !ran.status.success() {
                let output = String::from_utf8_lossy(&ran.stdout);
                let line = output.lines().next().unwrap_or_default();
                let (by, how) = line.split_once(" fails: ").unwrap_or((line, "it hangs"));
                return Ok(Outcome::Found { by: by.to_owned(), how: how.to_owned() });
            }
        }
        Ok(Outcome::Undetected)
    }
}

fn succeeded(output: &Output) -> io::Result<()> {
    match output.status.success() {
        true => Ok(()),
        false => Err(io::Error::other(last_line(&output.stderr))),
    }
}

/// The last line that is not empty, or the first error of a compiler.
fn last_line(output: &[u8]) -> String {
    let text = String::from_utf8_lossy(output);
    let error = text.lines().find(|line| line.starts_with("error"));
    let last = || text.lines().rev().find(|line| !line.trim().is_empty());
    error.or_else(last).unwrap_or_default().to_owned()
}
