//! Instructions, allocations and system calls per message: the difference between a long run and a short one.

use std::process::{Command, Stdio};

use crate::broker::Broker;
use crate::peers::Peer;
use crate::plan::{Kind, Scenario, Target};
use crate::results::{Profile, Results};

/// The number of messages of the short run and of the long one.
const FEW: u64 = 1000;
const MANY: u64 = 5000;

/// The profiled scenarios, with the body size.
const SCENARIOS: [(&str, usize); 11] = [
    ("publish", 256),
    ("publish-prepared", 256),
    ("publish-batch", 256),
    ("confirm", 256),
    ("confirm-batch", 256),
    ("consume", 256),
    ("consume-ack", 256),
    ("work", 256),
    ("work/at_once=32", 256),
    ("rpc", 256),
    ("declare", 0),
];

pub(crate) fn all(
    results: &mut Results,
    broker: &Broker,
    peers: &[Peer],
    wanted: impl Fn(&str) -> bool,
) {
    for (name, size) in SCENARIOS.into_iter().filter(|(name, _)| wanted(name)) {
        let scenario = Scenario { name: name.to_owned(), size, kind: Kind::Flow, count: None };
        for peer in peers.iter().filter(|peer| peer.is_profiled()) {
            let each = |count: fn(&Broker, &Scenario, &Peer, u64) -> Option<u64>| {
                let few = count(broker, &scenario, peer, FEW)?;
                let many = count(broker, &scenario, peer, MANY)?;
                Some((many as f64 - few as f64) / (MANY - FEW) as f64)
            };
            let instructions = each(instructions);
            let allocations = each(allocations);
            let system_calls = each(system_calls);
            if instructions.or(system_calls).is_some() {
                results.profiles.push(Profile {
                    scenario: name.to_owned(),
                    size,
                    peer: peer.name.to_owned(),
                    instructions,
                    allocations,
                    system_calls,
                });
            }
        }
        eprintln!("profile: {name} {size}");
    }
}

fn instructions(broker: &Broker, scenario: &Scenario, peer: &Peer, count: u64) -> Option<u64> {
    let tool = ["valgrind", "--tool=callgrind", "--callgrind-out-file=/dev/null"];
    number_behind(&run(&tool, broker, scenario, peer, count)?, "Collected : ")
}

fn allocations(broker: &Broker, scenario: &Scenario, peer: &Peer, count: u64) -> Option<u64> {
    let tool = ["valgrind", "--tool=memcheck", "--leak-check=no", "--undef-value-errors=no"];
    number_behind(&run(&tool, broker, scenario, peer, count)?, "total heap usage: ")
}

fn system_calls(broker: &Broker, scenario: &Scenario, peer: &Peer, count: u64) -> Option<u64> {
    let tool = ["perf", "stat", "-x", ",", "-e", "raw_syscalls:sys_enter"];
    let said = run(&tool, broker, scenario, peer, count)?;
    let line = said.lines().find(|line| line.contains("raw_syscalls:sys_enter"))?;
    line.split(',').next()?.parse().ok()
}

/// Returns a tool's figures of a driver; `None` if either fails.
fn run(
    tool: &[&str],
    broker: &Broker,
    scenario: &Scenario,
    peer: &Peer,
    count: u64,
) -> Option<String> {
    let (program, arguments) = tool.split_first()?;
    let done = Command::new(program)
        .args(arguments)
        .arg(peer.program())
        .args([&scenario.name, &count.to_string(), &scenario.size.to_string()])
        .args([&broker.url, &scenario.queue(Target::TwoCores, count)])
        .env("RUNTIME", peer.runtime)
        .stdin(Stdio::null())
        .output()
        .ok()?;
    let said = String::from_utf8_lossy(&done.stderr).into_owned();
    done.status.success().then_some(said)
}

fn number_behind(text: &str, words: &str) -> Option<u64> {
    let (_, rest) = text.split_once(words)?;
    let digits: String =
        rest.chars().filter(|c| *c != ',').take_while(char::is_ascii_digit).collect();
    digits.parse().ok()
}
