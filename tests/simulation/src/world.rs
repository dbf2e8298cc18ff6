//! A run of a script of stories.

use std::cell::{Cell, RefCell};
use std::collections::BTreeMap;
use std::ops::Deref;
use std::rc::Rc;
use std::time::Duration;

use amqp_test_broker::Options;

use crate::client::{AUDITOR, Env};
use crate::executor::Clock;
use crate::ledger::{Ledger, Totals};
use crate::network::Network;
use crate::script::Script;
use crate::stage::{Run, Stage, timed_faults};
use crate::workload;

/// Number of nodes in the clients' lists. Each leads to the one broker.
const NODES: usize = 2;

/// The results of a run.
#[derive(Debug, Clone, Copy, PartialEq, Eq)]
pub struct Report {
    /// The outcomes of the messages.
    pub totals: Totals,
    /// Number of steps of all tasks.
    pub steps: u64,
    /// Its duration in virtual time.
    pub lasted: Duration,
    /// Connections that were opened.
    pub connections: usize,
    /// The most bytes that waited for a transport.
    pub peak_output: usize,
    /// A hash of all events in their order: each run of a script leads to the same one.
    pub trace: u64,
}

/// The state that all tasks share.
pub(crate) struct World {
    stage: Stage,
    pub(crate) ledger: RefCell<Ledger>,
    pub(crate) script: Script,
    /// Publishers and other tasks that consumers wait for.
    pub(crate) working: Cell<usize>,
}

impl Deref for World {
    type Target = Stage;

    fn deref(&self) -> &Stage {
        &self.stage
    }
}

/// Runs a script.
///
/// # Errors
/// The first violated invariant.
pub fn run(script: &Script) -> Result<Report, String> {
    let clock = Clock::new();
    let mut network = Network::new(
        script.seed,
        Options::new().heartbeat(script.heartbeat),
        script.conditions,
        NODES,
        clock.now(),
    );
    network.tls = script.tls;
    let world = Rc::new(World {
        stage: Stage::new(clock, network, script.seed ^ 0x776f_726c_6400),
        ledger: RefCell::new(Ledger::new(script.body_max())),
        script: script.clone(),
        working: Cell::new(0),
    });
    let nothing = || {};
    let mut run = Run::new(&world, &nothing);
    run.tasks = workload::tasks(&world);
    run.faults = timed_faults(&script.faults, world.clock.start());
    run.until_done()?;
    // All clients have ended. No more faults, so that an auditor can check what is left.
    run.faults.clear();
    let left = Rc::new(RefCell::new(BTreeMap::new()));
    let env = Env::new(world.clone(), AUDITOR, script.seed);
    run.tasks.push(workload::audit(env, left.clone()));
    run.until_done()?;
    let sessions = world.network.borrow().engine.session_count();
    if sessions > 0 {
        return Err(format!("{sessions} sessions are left over"));
    }
    let totals = world.ledger.borrow().audit(&left.borrow(), script.is_calm())?;
    Ok(Report {
        totals,
        steps: run.steps,
        lasted: world.since_start(),
        connections: world.network.borrow().links.len(),
        peak_output: world.network.borrow().peak_output,
        trace: world.trace(),
    })
}
