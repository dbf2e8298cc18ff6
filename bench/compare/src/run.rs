//! Running drivers.

use std::io::Read as _;
use std::process::{Command, Stdio};
use std::time::{Duration, Instant};

use crate::broker::{Broker, pinned};
use crate::peers::Peer;
use crate::plan::{Effort, Kind, Scenario, Target};
use crate::results::{Quartiles, Results, Row, Run};

/// The time limit of a driver.
const LIMIT: Duration = Duration::from_secs(60);

/// Number of operations of a first run, which determines the number of the others.
const FIRST: u64 = 300;

/// The status of a driver that does not offer a scenario.
const NOT_OFFERED: i32 = 3;

/// The reason why there are no figures.
pub(crate) enum Nothing {
    NotOffered,
    Failed(String),
}

/// Measures all clients in one scenario, one after the other, there and back again.
pub(crate) fn scenario(
    results: &mut Results,
    broker: &Broker,
    target: Target,
    scenario: &Scenario,
    peers: &[Peer],
    effort: &Effort,
) {
    let begun = Instant::now();
    let taking_part = peers.iter().filter(|peer| peer.takes_part(target, scenario));
    let mut measured: Vec<_> =
        taking_part.filter_map(|peer| prepare(broker, target, scenario, peer, effort)).collect();
    let runs = effort.runs_of(scenario);
    for round in 0..runs {
        let mut order: Vec<_> = measured.iter_mut().collect();
        if round % 2 == 1 {
            order.reverse();
        }
        for (peer, count, row) in order {
            match once(broker, target, scenario, peer, *count) {
                Ok(run) => row.runs.push(run),
                Err(Nothing::NotOffered) => {}
                Err(Nothing::Failed(why)) => eprintln!("{} {}: {why}", scenario.name, peer.name),
            }
        }
    }
    for (_, _, mut row) in measured.into_iter().filter(|(_, _, row)| !row.runs.is_empty()) {
        if scenario.kind == Kind::Latency {
            let (p50, cpu) = (row.quartiles_of(|run| run.p50), row.quartiles_of(Run::cpu));
            row.quartiles = Some(Quartiles { p50, cpu });
        }
        results.rows.push(row);
    }
    let took = begun.elapsed().as_secs_f64();
    eprintln!("{target}: {} {} ({took:.0} s)", scenario.name, scenario.size);
}

/// Finds out how often that client does it in the time it is to take.
fn prepare<'a>(
    broker: &Broker,
    target: Target,
    scenario: &Scenario,
    peer: &'a Peer,
    effort: &Effort,
) -> Option<(&'a Peer, u64, Row)> {
    let row = Row {
        target,
        scenario: scenario.name.clone(),
        size: scenario.size,
        kind: scenario.kind,
        peer: peer.name.to_owned(),
        runs: Vec::new(),
        quartiles: None,
    };
    if let Some(count) = scenario.count {
        return Some((peer, count, row));
    }
    let mut count = FIRST;
    loop {
        let run = match once(broker, target, scenario, peer, count) {
            Ok(run) => run,
            Err(Nothing::NotOffered) => return None,
            Err(Nothing::Failed(why)) => {
                eprintln!("{} {}: {why}", scenario.name, peer.name);
                return None;
            }
        };
        // A real broker's mood changes within a second.
        let factor = if target == Target::Rabbitmq { 3.0 } else { 1.0 };
        let seconds = factor * effort.seconds_of(scenario);
        let scaled = (count as f64 * seconds / run.wall.max(1e-6)) as u64;
        // A short run does not predict the duration of a long one.
        if run.wall * 5.0 >= seconds || scaled <= count * 2 {
            return Some((peer, scaled.clamp(100, 20_000_000).next_multiple_of(100), row));
        }
        count = (scaled / 3).clamp(count + 100, count * 50).next_multiple_of(100);
    }
}

fn once(
    broker: &Broker,
    target: Target,
    scenario: &Scenario,
    peer: &Peer,
    count: u64,
) -> Result<Run, Nothing> {
    let queue = scenario.queue(target, count);
    let fills = target == Target::Rabbitmq && scenario.takes_messages();
    if fills {
        // One more, because the limits make a round trip before they measure.
        raw(broker, "fill", count + 1, scenario.size, &queue)?;
    }
    let mut command = driver(broker, peer);
    command.args([&scenario.name, &count.to_string(), &scenario.size.to_string()]);
    let run = outcome(command.args([&broker.url, &queue]));
    if fills {
        raw(broker, "delete", 1, 0, &queue)?;
    }
    run
}

fn raw(broker: &Broker, what: &str, count: u64, size: usize, queue: &str) -> Result<Run, Nothing> {
    let mut command = Command::new("target/release/raw");
    command.args([what, &count.to_string(), &size.to_string(), &broker.url, queue]);
    outcome(&mut command)
}

/// Returns the command of a client, without the arguments of the job.
pub(crate) fn driver(broker: &Broker, peer: &Peer) -> Command {
    let mut command = pinned(broker.core, peer.program());
    command.env("RUNTIME", peer.runtime);
    command
}

/// Runs a driver, and reads its report.
fn outcome(command: &mut Command) -> Result<Run, Nothing> {
    let failed = |why: String| Nothing::Failed(why);
    let spawned = command.stdout(Stdio::piped()).stderr(Stdio::null()).spawn();
    let mut process = spawned.map_err(|error| failed(error.to_string()))?;
    let until = Instant::now() + LIMIT;
    let status = loop {
        match process.try_wait() {
            Ok(Some(status)) => break status,
            // `std` cannot wait for a process with a time limit.
            Ok(None) if Instant::now() < until => std::thread::sleep(Duration::from_millis(5)),
            _ => {
                // It is stopped either way.
                let _gone = process.kill().and_then(|()| process.wait());
                return Err(failed(format!("not done within {LIMIT:?}")));
            }
        }
    };
    if status.code() == Some(NOT_OFFERED) {
        return Err(Nothing::NotOffered);
    }
    let mut report = String::new();
    if let Some(mut out) = process.stdout.take() {
        out.read_to_string(&mut report).map_err(|error| failed(error.to_string()))?;
    }
    serde_json::from_str(&report).map_err(|_| failed(status.to_string()))
}
