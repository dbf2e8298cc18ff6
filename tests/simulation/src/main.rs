//! Runs any number of simulations.

mod batch;
mod resume;

use std::panic;
use std::path::PathBuf;
use std::process::ExitCode;
use std::time::Duration;

use batch::{Batch, Kind};
use lexopt::prelude::*;

const USAGE: &str = "\
Simulates clients, a broker and a failing network, and checks the invariants.

Usage: simulate [OPTIONS]

Options:
  --stories        Only stories: clients that follow a plan and check every reply
  --explorations   Only explorations: random commands from the whole API
  --patterns       Only patterns: workers, remote calls, batches and pools
  --seeds N        Number of runs of each kind [default: 1000]
  --from N         The first seed [default: 0]
  --seed N         Runs only this seed, and prints its script
  --resume LOG     Continues after the last seeds in this file, and appends the new ones
  --minutes N      With --resume: the duration [default: 10]
  --tls            Runs every seed over TLS; otherwise, one seed in six runs over TLS
  --brief          Does not shrink failing scripts
  --survey         Continues after failures, and lists their kinds
  --help           Shows this text

If a seed fails, prints it with its script, shrunk as far as it still fails. The same seed always leads to the same run.";

struct Arguments {
    kinds: Vec<Kind>,
    from: u64,
    seeds: u64,
    verbose: bool,
    tls: bool,
    survey: bool,
    brief: bool,
    resume: Option<PathBuf>,
    minutes: u64,
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
    // A panic is a failure of its seed, which reports it.
    panic::set_hook(Box::new(|_| {}));
    let ran = match &arguments.resume {
        Some(log) => {
            resume::run(log, &arguments.kinds, Duration::from_secs(arguments.minutes * 60))
        }
        None => run(&arguments),
    };
    match ran {
        Ok(()) => ExitCode::SUCCESS,
        Err(failure) => {
            println!("{failure}");
            ExitCode::FAILURE
        }
    }
}

fn run(arguments: &Arguments) -> Result<(), String> {
    for kind in arguments.kinds.iter().copied() {
        if arguments.verbose {
            println!("{}", kind.script(arguments.from, arguments.tls));
        }
        let Arguments { from, seeds, tls, survey, brief, .. } = *arguments;
        println!("{}", Batch { kind, from, seeds, tls, survey, brief }.run()?);
    }
    Ok(())
}

fn parse() -> Result<Option<Arguments>, lexopt::Error> {
    let kinds = Kind::ALL.to_vec();
    let mut arguments = Arguments {
        kinds,
        from: 0,
        seeds: 1000,
        verbose: false,
        tls: false,
        survey: false,
        brief: false,
        resume: None,
        minutes: 10,
    };
    let mut parser = lexopt::Parser::from_env();
    while let Some(argument) = parser.next()? {
        match argument {
            Long("stories") => arguments.kinds = vec![Kind::Stories],
            Long("explorations") => arguments.kinds = vec![Kind::Explorations],
            Long("patterns") => arguments.kinds = vec![Kind::Patterns],
            Long("seeds") => arguments.seeds = parser.value()?.parse()?,
            Long("from") => arguments.from = parser.value()?.parse()?,
            Long("seed") => {
                arguments.from = parser.value()?.parse()?;
                (arguments.seeds, arguments.verbose) = (1, true);
            }
            Long("resume") => arguments.resume = Some(parser.value()?.into()),
            Long("minutes") => arguments.minutes = parser.value()?.parse()?,
            Long("tls") => arguments.tls = true,
            Long("brief") => arguments.brief = true,
            Long("survey") => arguments.survey = true,
            Long("help") | Short('h') => return Ok(None),
            _ => return Err(argument.unexpected()),
        }
    }
    Ok(Some(arguments))
}
