//! Runs faults, for as long as one likes.

use std::process::ExitCode;
use std::time::Duration;

use amqp_faults::{Error, Fault, Plan, Workload, run};
use lexopt::prelude::*;

const USAGE: &str = "\
Runs publishers and consumers on private RabbitMQ nodes, injects faults, and records what happens to each message.

Usage: faults [OPTIONS]

Options:
  --minutes N   The duration; each fault happens at least once [default: 0]
  --patterns    Runs workers with retries and parking, and calls, instead
  --nodes N     Number of nodes of the cluster [default: 1]
  --seed N      The seed of the random order of faults [default: 1]
  --help        Shows this text

At the end, prints a table: faults by kind; confirmed, lost and duplicated messages; the longest recovery; pending calls.";

fn main() -> ExitCode {
    match parse().and_then(|plan| plan.map(execute).transpose()) {
        Ok(None) => {
            println!("{USAGE}");
            ExitCode::SUCCESS
        }
        Ok(Some(None)) => ExitCode::SUCCESS,
        Ok(Some(Some(complaint))) => {
            eprintln!("faults: {complaint}");
            ExitCode::FAILURE
        }
        Err(error) => {
            eprintln!("faults: {error}");
            ExitCode::from(2)
        }
    }
}

fn parse() -> Result<Option<Plan>, Error> {
    let mut plan = Plan::once(1, &Fault::ALL);
    let mut parser = lexopt::Parser::from_env();
    while let Some(argument) = parser.next()? {
        match argument {
            Long("minutes") => {
                let minutes: f64 = parser.value()?.parse()?;
                plan.time = Duration::try_from_secs_f64(minutes * 60.0)?;
            }
            Long("patterns") => plan = plan.workload(Workload::Patterns),
            Long("nodes") => plan.nodes = parser.value()?.parse()?,
            Long("seed") => plan.seed = parser.value()?.parse()?,
            Long("help") | Short('h') => return Ok(None),
            _ => return Err(argument.unexpected().into()),
        }
    }
    Ok(Some(plan))
}

/// Runs the plan. Returns the first problem, if there is one.
fn execute(plan: Plan) -> Result<Option<String>, Error> {
    let runtime = tokio::runtime::Builder::new_multi_thread().enable_all().build()?;
    let table = runtime.block_on(run(plan, |line| println!("{line}")))?;
    println!("\n{table}");
    Ok(table.complaint())
}
