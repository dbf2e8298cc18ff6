use std::sync::Arc;
use std::time::{Duration, Instant};

use crate::clients::Clients;
use crate::faults::Fault;
use crate::ledger::Ledger;
use crate::patterns::Patterns;
use crate::site::Site;
use crate::table::{Resources, Table};
use crate::traffic::Traffic;
use crate::watch::Watch;
use crate::{Error, table};

/// The clients that work meanwhile.
#[derive(Debug, Clone, Copy, PartialEq, Eq, Default)]
#[non_exhaustive]
pub enum Workload {
    /// Publishers with confirms, and consumers with acknowledgements.
    #[default]
    Messages,
    /// Workers with retries and parking, and calls.
    Patterns,
}

/// The parameters of a run.
#[derive(Debug, Clone)]
#[non_exhaustive]
pub struct Plan {
    /// The clients.
    pub workload: Workload,
    /// Number of nodes.
    pub nodes: usize,
    /// The faults, injected in random order.
    pub faults: Vec<Fault>,
    /// For how long; each fault happens once at least.
    pub time: Duration,
    /// The random seed.
    pub seed: u64,
}

impl Plan {
    /// Each fault once.
    #[must_use]
    pub fn once(nodes: usize, faults: &[Fault]) -> Self {
        let (workload, faults) = (Workload::Messages, faults.to_vec());
        Self { workload, nodes, faults, time: Duration::ZERO, seed: 1 }
    }

    /// The same with these clients.
    #[must_use]
    pub fn workload(self, workload: Workload) -> Self {
        Self { workload, ..self }
    }
}

/// The time limit for a recovery.
const RECOVERY: Duration = Duration::from_secs(120);

/// Runs clients while faults are injected. Passes a line for each fault to `log`.
///
/// # Errors
/// If something hangs or cannot be set up. Lost messages are counted in the table.
///
/// # Panics
/// If a task that makes faults does.
pub async fn run(plan: Plan, log: impl FnMut(&str)) -> Result<Table, Error> {
    match plan.workload {
        Workload::Messages => run_with::<Traffic>(plan, log).await,
        Workload::Patterns => run_with::<Patterns>(plan, log).await,
    }
}

async fn run_with<C: Clients>(plan: Plan, mut log: impl FnMut(&str)) -> Result<Table, Error> {
    let nodes = plan.nodes;
    let site = tokio::task::spawn_blocking(move || Site::start(nodes)).await??;
    let site = Arc::new(site);
    let ledger = Arc::<Ledger>::default();
    let mut table = Table::new(nodes, Resources::now());
    let clients = C::start(&site, &ledger, plan.seed).await?;
    let mut chance = fastrand::Rng::with_seed(plan.seed);
    let mut probe = 1;
    clients.probe(probe).await?;
    // All queues are declared now. A node that is killed right behind that would forget some.
    let flushed = site.clone();
    tokio::task::spawn_blocking(move || flushed.flush()).await??;
    let began = Instant::now();
    loop {
        let mut faults = plan.faults.clone();
        chance.shuffle(&mut faults);
        for fault in faults {
            // Traffic in between, for a random time: a fault must not always meet the same state.
            tokio::time::sleep(Duration::from_millis(chance.u64(100..1000))).await;
            let losses = clients.watch().losses();
            let fell = clients.watch().node();
            clients.fault();
            let happening = happen(fault, &site, clients.watch(), fell, &mut chance).await?;
            let ended = Instant::now();
            probe += 1;
            tokio::time::timeout(RECOVERY, clients.probe(probe)).await.map_err(|_| {
                let trouble = ledger.take_trouble().join("; ");
                format!(
                    "not everything recovers after: {fault}\n{}\n{trouble}",
                    clients.status(probe)
                )
            })??;
            clients.fault();
            let recovery = ended.elapsed();
            let losses = clients.watch().losses() - losses;
            table.happened(fault, losses, recovery);
            log(&format!(
                "{fault:<20} lasted {:>5.1} s, {losses} connections lost, recovered after {:>5.2} s",
                happening.as_secs_f64(),
                recovery.as_secs_f64()
            ));
            let trouble = ledger.take_trouble();
            if !trouble.is_empty() {
                return Err(format!("after {fault}: {}", trouble.join("; ")).into());
            }
        }
        if began.elapsed() >= plan.time {
            break;
        }
    }
    let ending = clients.finish().await?;
    let trouble = ledger.take_trouble();
    if !trouble.is_empty() {
        return Err(trouble.join("; ").into());
    }
    table::settle().await;
    table.close(ending.totals, ending.pending, began.elapsed(), Resources::now());
    Ok(table)
}

/// Injects a fault, and reports how long it lasted.
async fn happen(
    fault: Fault,
    site: &Arc<Site>,
    watch: &Watch,
    node: usize,
    chance: &mut fastrand::Rng,
) -> Result<Duration, Error> {
    let (recovered, recoveries) = std::sync::mpsc::channel::<()>();
    let (site, mut own) = (site.clone(), chance.fork());
    let began = Instant::now();
    let mut happening = tokio::task::spawn_blocking(move || {
        let others_serve = || {
            let _recovered = recoveries.recv_timeout(RECOVERY);
        };
        fault.happen(&site, node, &mut own, others_serve)
    });
    // In a cluster, a node that is down starts again only after the clients have found another.
    loop {
        tokio::select! {
            done = &mut happening => {
                done??;
                return Ok(began.elapsed());
            }
            // Check again; `happening` waits with a deadline.
            () = tokio::time::sleep(Duration::from_millis(50)) => {
                if watch.node() != node {
                    let _ended = recovered.send(());
                }
            }
        }
    }
}
