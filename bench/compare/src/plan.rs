//! The plan of measurements.

use std::fmt;
use std::sync::atomic::{AtomicU64, Ordering};

use clap::ValueEnum;
use serde::{Deserialize, Serialize};

/// The effort to spend on measuring.
pub(crate) struct Effort {
    pub(crate) quick: bool,
    /// Number of runs of each client in each scenario.
    pub(crate) runs: usize,
    /// Target time of each run, in seconds.
    pub(crate) seconds: f64,
}

/// Round trips have this many times as many runs, each that much shorter. A core may change its speed from run to run, and
/// quartiles of a few runs do not show that.
const SHORTER: usize = 3;

impl Effort {
    fn is_split(scenario: &Scenario) -> bool {
        scenario.kind == Kind::Latency && scenario.count.is_none()
    }

    /// Returns the number of runs of each client.
    pub(crate) fn runs_of(&self, scenario: &Scenario) -> usize {
        match scenario.kind {
            Kind::Resource => 1,
            _ if Self::is_split(scenario) => self.runs * SHORTER,
            _ => self.runs,
        }
    }

    /// Returns the target time of each run.
    pub(crate) fn seconds_of(&self, scenario: &Scenario) -> f64 {
        if Self::is_split(scenario) { self.seconds / SHORTER as f64 } else { self.seconds }
    }
}

/// The cores and the broker of a measurement.
#[derive(Debug, Clone, Copy, PartialEq, Eq, PartialOrd, Ord, ValueEnum, Serialize, Deserialize)]
pub(crate) enum Target {
    /// Client and null broker on the same core. Figures vary least, because no other core has to be woken.
    OneCore,
    /// The null broker, with all cores.
    TwoCores,
    /// A real broker, on the same cores.
    Rabbitmq,
    /// The null broker with TLS.
    Tls,
    /// The null broker behind a link of 2 MiB per second.
    SlowLink,
}

pub(crate) const TARGETS: [Target; 5] =
    [Target::OneCore, Target::TwoCores, Target::Rabbitmq, Target::Tls, Target::SlowLink];

impl fmt::Display for Target {
    fn fmt(&self, f: &mut fmt::Formatter<'_>) -> fmt::Result {
        f.write_str(match self {
            Self::OneCore => "null broker, one core for both",
            Self::TwoCores => "null broker, two cores",
            Self::Rabbitmq => "RabbitMQ, two cores",
            Self::Tls => "null broker with TLS, two cores",
            Self::SlowLink => "null broker behind 2 MiB/s, two cores",
        })
    }
}

/// The figures that a scenario reports.
#[derive(Debug, Clone, Copy, PartialEq, Eq, Serialize, Deserialize)]
pub(crate) enum Kind {
    /// Messages: their rate, and the cost of each.
    Flow,
    /// Operations one after the other: how long each takes.
    Latency,
    /// Resources that are kept: the cost of each.
    Resource,
}

/// One thing to measure.
pub(crate) struct Scenario {
    /// As drivers know it.
    pub(crate) name: String,
    pub(crate) size: usize,
    pub(crate) kind: Kind,
    /// Number of operations. Without it, a first run determines it.
    pub(crate) count: Option<u64>,
}

impl Scenario {
    /// The queue that its messages go to or come from. Null brokers recognize the scenario by the name.
    pub(crate) fn queue(&self, target: Target, count: u64) -> String {
        match self.name.split('/').next().unwrap_or_default() {
            "consume" | "consume-ack" | "consume-ack-100" | "work" | "get"
                if target == Target::Rabbitmq =>
            {
                format!("bench.filled.{}", number())
            }
            "consume" | "consume-ack" | "consume-ack-100" | "work" | "get" => {
                format!("flood.{count}.{}", self.size)
            }
            "rpc" | "call" | "paced" | "mixed" => format!("echo.{}", number()),
            "fairness" => format!("flood.1000000.{}", 1024 * 1024),
            "topology" => format!("bench.topology.{}", number()),
            "declare" | "declare-pipelined" => "bench.declared".to_owned(),
            // There is no such queue.
            _ => "nowhere".to_owned(),
        }
    }

    /// Returns whether a real broker has to have the messages before.
    pub(crate) fn takes_messages(&self) -> bool {
        ["consume", "work", "get"].iter().any(|name| self.name.starts_with(name))
    }
}

/// One that no queue had before: a real broker takes its time to forget one.
fn number() -> u64 {
    static LAST: AtomicU64 = AtomicU64::new(0);
    u64::from(std::process::id()) << 32 | LAST.fetch_add(1, Ordering::Relaxed)
}

fn flow(name: &str, size: usize) -> Scenario {
    Scenario { name: name.to_owned(), size, kind: Kind::Flow, count: None }
}

fn latency(name: &str, size: usize) -> Scenario {
    Scenario { name: name.to_owned(), size, kind: Kind::Latency, count: None }
}

/// So many messages that the cost of starting the tasks does not show.
fn herd(tasks: u64) -> Scenario {
    let count = Some((50 * tasks).max(100_000));
    Scenario { count, ..flow(&format!("herd/tasks={tasks}"), 256) }
}

/// A thousand exchanges, queues and bindings each time.
fn topology() -> Scenario {
    Scenario { count: Some(20), ..latency("topology", 0) }
}

/// Scenarios whose figures for many channels or consumers should be those for a few.
fn scale(quick: bool) -> Vec<Scenario> {
    let many = |name: &str, count| Scenario { count: Some(count), ..flow(name, 256) };
    let mut scenarios =
        vec![many("drop/consumers=2000", 2000), many("drop/consumers=20000", 20_000)];
    if quick {
        return scenarios;
    }
    scenarios.extend([
        many("spread/channels=10/connections=10", 50_000),
        many("spread/channels=10000/connections=10", 50_000),
        many("spread-confirm/channels=10/connections=10", 50_000),
        many("spread-confirm/channels=10000/connections=10", 50_000),
        many("ring/consumers=100/channels=100", 500_000),
        many("ring/consumers=100000/channels=100", 500_000),
        resource("channels/connections=10", 10_000),
        resource("consumers/channels=100", 1000),
        resource("consumers/channels=100", 100_000),
    ]);
    for name in ["paced/rate=1000/lag=1", "paced/rate=1000/lag=2"] {
        scenarios.push(Scenario { count: Some(2000), ..latency(name, 256) });
    }
    scenarios
}

fn resource(name: &str, count: u64) -> Scenario {
    Scenario { name: name.to_owned(), size: 16, kind: Kind::Resource, count: Some(count) }
}

const KIB: usize = 1024;
const MIB: usize = 1024 * KIB;

/// Returns the scenarios of a target, in the order of the report.
pub(crate) fn scenarios(target: Target, quick: bool) -> Vec<Scenario> {
    match target {
        Target::OneCore => one_core(quick),
        Target::TwoCores => two_cores(quick),
        Target::Rabbitmq => rabbitmq(quick),
        Target::Tls | Target::SlowLink if quick => Vec::new(),
        Target::SlowLink => ["slow-link/beside=0", "slow-link/beside=1"]
            .map(|name| Scenario { count: Some(100), ..latency(name, 30 * MIB) })
            .into(),
        Target::Tls => vec![
            flow("publish", 256),
            flow("publish", 64 * KIB),
            flow("publish", MIB),
            flow("consume", 256),
            flow("consume", 64 * KIB),
            flow("consume", MIB),
            latency("rpc", 256),
            latency("connect", 0),
        ],
    }
}

fn one_core(quick: bool) -> Vec<Scenario> {
    let mut scenarios = vec![
        flow("publish", 256),
        flow("publish-encoding", 256),
        flow("publish-pipelined", 256),
        flow("publish-prepared", 256),
        flow("publish-batch", 256),
        flow("confirm", 256),
        flow("confirm-batch", 256),
        flow("consume", 256),
        flow("consume-ack", 256),
        flow("consume-ack-100", 256),
        flow("work", 256),
        flow("work/at_once=32", 256),
        latency("rpc", 256),
        latency("confirm-each", 256),
        latency("declare", 0),
        topology(),
    ];
    let herds: &[u64] = if quick { &[1000] } else { &[1, 10, 100, 1000, 4000] };
    scenarios.extend(herds.iter().copied().map(herd));
    if !quick {
        scenarios.push(flow("consume-ack/prefetch=10", 256));
        scenarios.push(latency("get", 256));
        scenarios.push(flow("declare-pipelined", 0));
    }
    scenarios
}

fn two_cores(quick: bool) -> Vec<Scenario> {
    let mut scenarios = Vec::new();
    let sizes: &[usize] = if quick { &[256, 64 * KIB] } else { &[16, 256, 4 * KIB, 64 * KIB, MIB] };
    for name in ["publish", "consume"] {
        scenarios.extend(sizes.iter().map(|size| flow(name, *size)));
    }
    if quick {
        scenarios.extend(scale(quick));
        return scenarios;
    }
    for name in ["publish-encoding", "publish-pipelined", "publish-prepared", "publish-batch"] {
        scenarios.push(flow(name, 256));
    }
    for tasks in ["tasks=4", "tasks=16", "tasks=4/channels=1", "tasks=16/channels=1"] {
        scenarios.push(flow(&format!("publish/{tasks}"), 256));
    }
    for name in ["confirm", "confirm-batch", "consume-ack", "consume-ack-100", "mixed"] {
        scenarios.push(flow(name, 256));
    }
    for name in ["rpc", "confirm-each", "get", "declare"] {
        scenarios.push(latency(name, 256));
    }
    scenarios.push(latency("connect", 0));
    for rate in [1000, 5000, 20_000, 100_000] {
        let name = format!("paced/rate={rate}");
        scenarios.push(Scenario { count: Some(rate), ..latency(&name, 256) });
    }
    for name in [
        "fairness/beside=0",
        "fairness/beside=1",
        "fairness/beside=1/window=2097152",
        "fairness/beside=1/window=2097152/receive-buffer=262144",
    ] {
        scenarios.push(Scenario { count: Some(300), ..latency(name, 0) });
    }
    scenarios.push(Scenario { count: Some(1000), ..latency("recover", 0) });
    scenarios.extend([1, 100, 1000, 2046].map(|count| resource("channels", count)));
    scenarios.extend([1, 100, 500, 5000].map(|count| resource("connections", count)));
    scenarios.push(resource("unconfirmed", 1_000_000));
    scenarios.extend(scale(quick));
    scenarios
}

fn rabbitmq(quick: bool) -> Vec<Scenario> {
    let mut scenarios = vec![
        flow("publish", 256),
        flow("confirm", 256),
        flow("consume", 256),
        flow("consume-ack", 256),
        latency("call", 256),
        flow("call/at_once=64", 256),
    ];
    if quick {
        scenarios.push(latency("rpc", 256));
        return scenarios;
    }
    scenarios.extend([
        flow("publish-pipelined", 256),
        flow("publish-batch", 256),
        flow("publish", 4 * KIB),
        flow("consume", 4 * KIB),
        flow("consume-ack-100", 256),
        flow("consume-ack/prefetch=10", 256),
        herd(1000),
        flow("mixed", 256),
    ]);
    for name in ["rpc", "confirm-each", "get", "declare"] {
        scenarios.push(latency(name, 256));
    }
    scenarios.push(latency("connect", 0));
    scenarios.push(topology());
    scenarios
}
