//! Runs all clients side by side, and makes tables and plots of it.
//!
//! The runs of different clients are interleaved, so that disturbances of the machine affect all of them alike, and the results
//! are medians. A first, short run determines the number of messages of each run.

mod broker;
mod machine;
mod peers;
mod plan;
mod plot;
mod profile;
mod results;
mod run;
mod table;

use std::error::Error;
use std::fs;
use std::path::{Path, PathBuf};

use clap::Parser;

use crate::plan::Target;
use crate::results::Results;

type Outcome<T = ()> = Result<T, Box<dyn Error>>;

/// Compares AMQP clients: speed, CPU time, memory, instructions, allocations and system calls.
#[derive(Parser)]
struct Options {
    /// Run the main scenarios only, once or twice. Takes a few minutes.
    #[arg(long)]
    quick: bool,
    /// Only these targets, separated by commas.
    #[arg(long, value_delimiter = ',')]
    targets: Vec<Target>,
    /// Only these clients, separated by commas.
    #[arg(long, value_delimiter = ',')]
    peers: Vec<String>,
    /// Only scenarios whose names begin with one of these words, separated by commas.
    #[arg(long, value_delimiter = ',')]
    scenarios: Vec<String>,
    /// Number of runs of each client in each scenario.
    #[arg(long)]
    runs: Option<usize>,
    /// Target time of each run, in seconds.
    #[arg(long)]
    seconds: Option<f64>,
    /// Leave out instructions, allocations and system calls.
    #[arg(long)]
    no_profile: bool,
    /// Folder to write results to, and to read them from with `--render`.
    #[arg(long, default_value = "target/results")]
    out: PathBuf,
    /// Measure nothing; make tables and plots of existing results.
    #[arg(long)]
    render: bool,
}

fn main() -> Outcome {
    let options = Options::parse();
    let file = options.out.join("results.json");
    if !options.render {
        fs::create_dir_all(&options.out)?;
        let results = measure(&options)?;
        fs::write(&file, serde_json::to_string_pretty(&results)?)?;
    }
    let results: Results = serde_json::from_str(&fs::read_to_string(&file)?)?;
    render(&results, &options.out)
}

fn measure(options: &Options) -> Outcome<Results> {
    let plan = plan::Effort {
        quick: options.quick,
        runs: options.runs.unwrap_or(if options.quick { 2 } else { 3 }),
        seconds: options.seconds.unwrap_or(if options.quick { 0.15 } else { 0.5 }),
    };
    let peers: Vec<_> = peers::all()
        .into_iter()
        .filter(|peer| {
            options.peers.is_empty() || options.peers.iter().any(|name| *name == peer.name)
        })
        .filter(|peer| peer.is_built())
        .collect();
    let wanted = |name: &str| {
        options.scenarios.is_empty()
            || options.scenarios.iter().any(|begin| name.starts_with(begin.as_str()))
    };
    let mut results = Results { machine: machine::describe(), ..Results::default() };
    for target in plan::TARGETS {
        if !options.targets.is_empty() && !options.targets.contains(&target) {
            continue;
        }
        let Some(broker) = broker::start(target)? else {
            eprintln!("{target}: left out, because its broker is not available");
            continue;
        };
        for scenario in plan::scenarios(target, plan.quick) {
            if wanted(&scenario.name) {
                run::scenario(&mut results, &broker, target, &scenario, &peers, &plan);
            }
        }
    }
    if !options.no_profile && !options.quick {
        let broker = broker::start(Target::TwoCores)?.ok_or("no null broker")?;
        profile::all(&mut results, &broker, &peers, wanted);
    }
    Ok(results)
}

fn render(results: &Results, out: &Path) -> Outcome {
    let tables = table::markdown(results);
    fs::write(out.join("results.md"), &tables)?;
    plot::all(results, out)?;
    println!("{tables}");
    println!("Written to {}.", out.display());
    Ok(())
}
