//! Each fault once: on one node, and on a cluster of three.

use amqp_faults::{Error, Fault, Plan, Workload, run};
use tokio::sync::Mutex;

/// Nodes use all of a machine: one site at a time.
static SITE: Mutex<()> = Mutex::const_new(());

async fn nothing_is_lost(plan: Plan) -> Result<(), Error> {
    let _alone = SITE.lock().await;
    let table = run(plan, |line| println!("{line}")).await?;
    println!("{table}");
    match table.complaint() {
        Some(complaint) => Err(complaint.into()),
        None => Ok(()),
    }
}

#[tokio::test(flavor = "multi_thread")]
async fn on_one_node() -> Result<(), Error> {
    nothing_is_lost(Plan::once(1, &Fault::ALL)).await
}

#[tokio::test(flavor = "multi_thread")]
async fn patterns_on_one_node() -> Result<(), Error> {
    let faults = [Fault::CutAmid, Fault::ForcedClose, Fault::Kill, Fault::Freeze];
    nothing_is_lost(Plan::once(1, &faults).workload(Workload::Patterns)).await
}

#[tokio::test(flavor = "multi_thread")]
async fn on_a_cluster() -> Result<(), Error> {
    let faults = [Fault::Cut, Fault::ForcedClose, Fault::Restart, Fault::Kill, Fault::Freeze];
    nothing_is_lost(Plan::once(3, &faults)).await
}
