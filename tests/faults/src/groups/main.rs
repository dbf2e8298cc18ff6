//! Groups on a real cluster: members come and go, nodes are killed, frozen and cut off, and a ledger records who processed which message.
//!
//! `RABBITMQ=4.3 ./tests/with-rabbitmq cargo run -p amqp-faults --bin groups -- --nodes 3 --minutes 30`

mod checker;
mod conductor;
mod crew;
mod incident;
mod ledger;
mod member;
mod oracle;
mod site;
mod traffic;

use std::path::PathBuf;
use std::process::ExitCode;
use std::time::Duration;

use lexopt::prelude::*;

use conductor::Plan;
use incident::Incident;
use member::Orders;
use oracle::Kind;

type Error = Box<dyn std::error::Error + Send + Sync>;

/// The name of the partitions.
const NAME: &str = "orders";

const USAGE: &str = "\
Runs members of a group on private RabbitMQ nodes, lets incidents happen, and checks who processed which message.

Usage: groups [OPTIONS]
       groups check FILE    Checks the ledger of an earlier run

Options:
  --minutes N      The duration; each incident happens at least once [default: 0]
  --nodes N        Number of nodes of the cluster [default: 3]
  --partitions N   Number of partitions [default: 12]
  --slots          Members have slots, and not names
  --only NAME      Only this incident, such as \"node killed\"; may be given several times
  --seed N         The seed of the random order of incidents [default: 1]
  --ledger FILE    Where to write the ledger [default: in the temporary folder]
  --help           Shows this text

At the end, prints a table: incidents, moved partitions, times until everything had settled, and times of silence.";

enum Task {
    Help,
    Member(Orders),
    Check(PathBuf, u32),
    Run(Plan),
}

fn main() -> ExitCode {
    let done = parse().and_then(|task| match task {
        Task::Help => {
            println!("{USAGE}");
            Ok(())
        }
        Task::Member(orders) => {
            let runtime = tokio::runtime::Builder::new_current_thread().enable_all().build()?;
            runtime.block_on(member::work(orders))
        }
        Task::Check(ledger, partitions) => check(&ledger, partitions),
        Task::Run(plan) => {
            let runtime = tokio::runtime::Builder::new_multi_thread().enable_all().build()?;
            let (ledger, partitions) = (plan.ledger.clone(), plan.partitions);
            println!("ledger: {}", ledger.display());
            let ended = runtime.block_on(conductor::run(plan));
            let checked = check(&ledger, partitions);
            ended.and(checked)
        }
    });
    match done {
        Ok(()) => ExitCode::SUCCESS,
        Err(error) => {
            eprintln!("groups: {error}");
            ExitCode::FAILURE
        }
    }
}

fn parse() -> Result<Task, Error> {
    let mut plan = Plan {
        nodes: 3,
        partitions: 12,
        slots: false,
        incidents: Vec::new(),
        time: Duration::ZERO,
        seed: 1,
        ledger: std::env::temp_dir().join(format!("groups.{}.ledger", std::process::id())),
    };
    let (mut name, mut kind, mut nodes) = (String::new(), Kind::Named { weight: 1 }, Vec::new());
    let (mut is_member, mut checked) = (false, None);
    let mut parser = lexopt::Parser::from_env();
    while let Some(argument) = parser.next()? {
        match argument {
            Value(word) if word == "member" => is_member = true,
            Value(word) if word == "check" => checked = Some(PathBuf::from(parser.value()?)),
            Long("name") => name = parser.value()?.string()?,
            Long("weight") => kind = Kind::Named { weight: parser.value()?.parse()? },
            Long("slot") => kind = Kind::Slot(parser.value()?.parse()?),
            Long("node") => nodes.push(parser.value()?.parse()?),
            Long("minutes") => {
                let minutes: f64 = parser.value()?.parse()?;
                plan.time = Duration::try_from_secs_f64(minutes * 60.0)?;
            }
            Long("nodes") => plan.nodes = parser.value()?.parse()?,
            Long("partitions") => plan.partitions = parser.value()?.parse()?,
            Long("slots") => plan.slots = true,
            Long("only") => plan.incidents.push(parser.value()?.parse()?),
            Long("seed") => plan.seed = parser.value()?.parse()?,
            Long("ledger") => plan.ledger = parser.value()?.into(),
            Long("help") | Short('h') => return Ok(Task::Help),
            _ => return Err(argument.unexpected().into()),
        }
    }
    if plan.incidents.is_empty() {
        plan.incidents.extend(Incident::ALL);
    }
    let partitions = plan.partitions;
    Ok(match checked {
        Some(ledger) => Task::Check(ledger, partitions),
        None if is_member => Task::Member(Orders { name, kind, partitions, nodes }),
        None => Task::Run(plan),
    })
}

/// Reads a ledger, prints its table, and returns what is wrong with it.
fn check(ledger: &std::path::Path, partitions: u32) -> Result<(), Error> {
    let text = std::fs::read_to_string(ledger)?;
    let lines = text.lines().map(str::parse).collect::<Result<Vec<_>, _>>()?;
    let report = checker::check(lines, partitions);
    println!("\n{report}");
    report.complaint().map_or(Ok(()), |complaint| Err(complaint.into()))
}
