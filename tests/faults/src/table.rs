use std::collections::BTreeMap;
use std::fmt;
use std::time::Duration;

use crate::faults::Fault;
use crate::ledger::Totals;

/// The result of a run.
#[derive(Debug)]
pub struct Table {
    nodes: usize,
    rows: BTreeMap<Fault, Row>,
    totals: Totals,
    pending: usize,
    time: Duration,
    before: Resources,
    after: Resources,
}

#[derive(Debug, Default)]
struct Row {
    times: u64,
    losses: u64,
    longest: Duration,
}

/// The resources of a process.
#[derive(Debug, Clone, Copy, Default)]
pub(crate) struct Resources {
    tasks: usize,
    threads: u64,
    memory_kib: u64,
}

impl Resources {
    /// Of this process.
    pub(crate) fn now() -> Self {
        let status = std::fs::read_to_string("/proc/self/status").unwrap_or_default();
        let field = |name: &str| {
            let line = status.lines().find_map(|line| line.strip_prefix(name));
            let number = line.and_then(|line| line.split_whitespace().next());
            number.and_then(|number| number.parse().ok()).unwrap_or_default()
        };
        let tasks = tokio::runtime::Handle::current().metrics().num_alive_tasks();
        Self { tasks, threads: field("Threads:"), memory_kib: field("VmRSS:") }
    }
}

/// Waits until all tasks have ended, for at most a second: the table lists the remaining ones.
pub(crate) async fn settle() {
    let ended = async {
        while tokio::runtime::Handle::current().metrics().num_alive_tasks() > 0 {
            // The runtime reports no end of a task: asks again.
            tokio::time::sleep(Duration::from_millis(10)).await;
        }
    };
    let _left = tokio::time::timeout(Duration::from_secs(1), ended).await;
}

impl Table {
    pub(crate) fn new(nodes: usize, before: Resources) -> Self {
        Self {
            nodes,
            rows: BTreeMap::new(),
            totals: Totals::default(),
            pending: 0,
            time: Duration::ZERO,
            before,
            after: Resources::default(),
        }
    }

    pub(crate) fn happened(&mut self, fault: Fault, losses: u64, recovery: Duration) {
        let row = self.rows.entry(fault).or_default();
        row.times += 1;
        row.losses += losses;
        row.longest = row.longest.max(recovery);
    }

    pub(crate) fn close(
        &mut self,
        totals: Totals,
        pending: usize,
        time: Duration,
        after: Resources,
    ) {
        (self.totals, self.pending, self.time, self.after) = (totals, pending, time, after);
    }

    /// Returns why the run is no success, if it is none.
    #[must_use]
    pub fn complaint(&self) -> Option<String> {
        let Totals { confirmed, lost, unexplained, .. } = self.totals;
        match () {
            () if lost > 0 => Some(format!("{lost} confirmed messages are lost")),
            () if unexplained > 0 => Some(format!("{unexplained} duplicates without a reason")),
            () if self.pending > 0 => Some(format!("{} calls are still pending", self.pending)),
            () if confirmed == 0 => Some("nothing was confirmed".to_owned()),
            () if self.after.tasks > self.before.tasks => {
                Some(format!("{} tasks are left", self.after.tasks - self.before.tasks))
            }
            () => None,
        }
    }
}

impl fmt::Display for Table {
    fn fmt(&self, f: &mut fmt::Formatter<'_>) -> fmt::Result {
        let minutes = self.time.as_secs_f64() / 60.0;
        writeln!(f, "{} node(s), {minutes:.1} minutes\n", self.nodes)?;
        writeln!(f, "| fault                | times | connections lost | longest recovery |")?;
        writeln!(f, "|----------------------|------:|-----------------:|-----------------:|")?;
        for (fault, Row { times, losses, longest }) in &self.rows {
            let longest = longest.as_secs_f64();
            writeln!(f, "| {fault:<20} | {times:>5} | {losses:>16} | {longest:>14.2} s |")?;
        }
        let Totals { published, confirmed, received, lost, duplicated, unexplained, .. } =
            self.totals;
        let Totals { stale, attempts, parked, calls, replies, .. } = self.totals;
        let (before, after) = (self.before, self.after);
        writeln!(f, "\n{published} published, {confirmed} confirmed, {received} received")?;
        if calls > 0 {
            writeln!(f, "{attempts} attempts, {parked} parked")?;
            writeln!(f, "{calls} calls, {replies} with the result of their server")?;
        }
        writeln!(f, "{lost} confirmed and lost")?;
        writeln!(
            f,
            "{duplicated} received more than once, {unexplained} of them without a reason"
        )?;
        writeln!(f, "{stale} acknowledgements that came too late")?;
        writeln!(f, "{} calls pending at the end", self.pending)?;
        writeln!(
            f,
            "tasks {} -> {}, threads {} -> {}, memory {} -> {} MiB",
            before.tasks,
            after.tasks,
            before.threads,
            after.threads,
            before.memory_kib / 1024,
            after.memory_kib / 1024
        )
    }
}
