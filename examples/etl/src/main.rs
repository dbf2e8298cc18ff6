//! Runs the job: `etl --help`.

use std::env;
use std::path::PathBuf;
use std::process::ExitCode;
use std::sync::mpsc::{Sender, channel};

use amqp_client_blocking::error::chain;
use amqp_example_etl::{Error, Event, Job, Output, generate, run};
use lexopt::prelude::*;

const USAGE: &str = "\
Converts the temperatures of stations from Celsius to Fahrenheit: lines of STATION,CELSIUS.

Usage: etl [OPTIONS] INPUT OUTPUT

Ctrl-C or SIGTERM interrupts it, and a second run goes on. Wrong records are in OUTPUT.rejected, with the reasons.

Options:
  --generate N      Writes N records to INPUT first, if it does not exist
  --transformers N  Number of threads that transform [default: 2]
  --help            Shows this text

Environment:
  AMQP_URL          The broker [default: amqp://guest:guest@localhost:5672/%2f]";

fn main() -> ExitCode {
    match parse().and_then(|job| job.map(execute).transpose()) {
        Ok(Some(report)) => println!("{report}"),
        Ok(None) => println!("{USAGE}"),
        Err(error) => {
            eprintln!("etl: {}", chain(&*error));
            return ExitCode::FAILURE;
        }
    }
    ExitCode::SUCCESS
}

fn execute(job: Job) -> Result<String, Error> {
    let (events, received) = channel();
    interrupt_by_signals(events.clone())?;
    let complete = run(&job, events, received)?;
    let records = Output::open(&job.output)?.len();
    Ok(match complete {
        true => format!("complete: {records} records"),
        false => format!("interrupted after {records} records; run it again to go on"),
    })
}

/// Returns `None` if the arguments request help.
fn parse() -> Result<Option<Job>, Error> {
    let (mut files, mut count, mut transformers) = (Vec::<PathBuf>::new(), None, 2);
    let mut parser = lexopt::Parser::from_env();
    while let Some(argument) = parser.next()? {
        match argument {
            Long("generate") => count = Some(parser.value()?.parse()?),
            Long("transformers") => transformers = parser.value()?.parse()?,
            Long("help") | Short('h') => return Ok(None),
            Value(file) => files.push(file.into()),
            _ => return Err(argument.unexpected().into()),
        }
    }
    let [input, output] =
        files.try_into().map_err(|_| "expected INPUT and OUTPUT; see etl --help")?;
    if let Some(count) = count.filter(|_| !input.exists()) {
        generate(&input, count)?;
    }
    let uri = env::var("AMQP_URL").unwrap_or_else(|_| "amqp://localhost".to_owned());
    let broker =
        uri.parse().map_err(|error| format!("AMQP_URL is not a URI of a broker: {error}"))?;
    Ok(Some(Job { broker, input, output, transformers }))
}

/// Catches signals from now on.
#[cfg(unix)]
fn interrupt_by_signals(events: Sender<Event>) -> Result<(), Error> {
    use signal_hook::consts::{SIGINT, SIGTERM};
    use signal_hook::iterator::Signals;

    let mut signals = Signals::new([SIGINT, SIGTERM])?;
    std::thread::spawn(move || {
        for _ in &mut signals {
            let _ending = events.send(Event::Interrupted);
        }
    });
    Ok(())
}

/// Elsewhere, Ctrl-C ends the program at once. Nothing is lost by that.
#[cfg(not(unix))]
fn interrupt_by_signals(_: Sender<Event>) -> Result<(), Error> {
    Ok(())
}
