//! Runs simulations, as many as one likes.

mod batch;

use std::panic;
use std::process::ExitCode;

use batch::{Batch, Kind};
use lexopt::prelude::*;

const USAGE: &str = "\
Simulates clients, a broker and a network that fails, and checks what always has to hold.

Usage: simulate [OPTIONS]

Options:
  --stories        Only stories: clients that know what they do, and check every answer
  --explorations   Only explorations: random commands from the whole API
  --seeds N        How many runs of each [default: 1000]
  --from N         The first seed [default: 0]
  --seed N         This one only; shows its script
  --survey         Goes on behind failures, and lists what kinds there are
  --help           Shows this

A seed that fails is printed with its script, shrunk to what still fails. The same seed always leads to the same run.";

struct Arguments {
    kinds: Vec<Kind>,
    from: u64,
    seeds: u64,
    verbose: bool,
    survey: bool,
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
    // A panic is a failure of its seed, which says so itself.
    panic::set_hook(Box::new(|_| {}));
    for kind in arguments.kinds {
        if arguments.verbose {
            println!("{}", kind.script(arguments.from));
        }
        let Arguments { from, seeds, survey, .. } = arguments;
        match (Batch { kind, from, seeds, survey }).run() {
            Ok(summary) => println!("{summary}"),
            Err(failure) => {
                println!("{failure}");
                return ExitCode::FAILURE;
            }
        }
    }
    ExitCode::SUCCESS
}

fn parse() -> Result<Option<Arguments>, lexopt::Error> {
    let kinds = vec![Kind::Stories, Kind::Explorations];
    let mut arguments = Arguments { kinds, from: 0, seeds: 1000, verbose: false, survey: false };
    let mut parser = lexopt::Parser::from_env();
    while let Some(argument) = parser.next()? {
        match argument {
            Long("stories") => arguments.kinds = vec![Kind::Stories],
            Long("explorations") => arguments.kinds = vec![Kind::Explorations],
            Long("seeds") => arguments.seeds = parser.value()?.parse()?,
            Long("from") => arguments.from = parser.value()?.parse()?,
            Long("seed") => {
                arguments.from = parser.value()?.parse()?;
                (arguments.seeds, arguments.verbose) = (1, true);
            }
            Long("survey") => arguments.survey = true,
            Long("help") | Short('h') => return Ok(None),
            _ => return Err(argument.unexpected()),
        }
    }
    Ok(Some(arguments))
}
