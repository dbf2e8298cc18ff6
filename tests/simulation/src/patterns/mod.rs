//! The patterns of `amqp-client-patterns`, while anything goes wrong.
//!
//! Workers with retries and servers are stopped and started again, calls are dropped, and batches and transactions go on beside them.
//! The [`ledger`] says what is promised of each message. Beside that:
//!
//! - Every call, worker and server ends in time: nothing is pending for ever.
//! - A call returns the reply to its own request, or an error that has a cause. Without faults it returns the reply.
//! - A worker runs no more handlers than it may, and none of the same key at once.
//! - A transaction is published as a whole or not at all.
//! - Nothing is left over when the clients have ended.

mod actor;
mod calls;
mod ledger;
mod produce;
mod script;
mod shrink;
mod work;

use std::cell::Cell;
use std::ops::Deref;
use std::rc::Rc;
use std::time::Duration;

use amqp_test_broker::Options;

use crate::executor::{Clock, Task};
use crate::network::Network;
use crate::stage::{Run, Stage, timed_faults};
use actor::Actor;
use ledger::Ledger;
use script::Does;

pub use ledger::PatternCounts;
pub use script::Patterns;
pub use shrink::shrink;

/// Number of nodes in the clients' lists. Each leads to the one broker.
const NODES: usize = 2;

/// By so many looks, everything is handled that can be: each message waits for some seconds, and a worker that hangs is stopped. The
/// clock may jump over any time.
const LOOKS_MAX: u32 = 7_200;

const LOOKS_EVERY: Duration = Duration::from_millis(500);

/// The results of a run.
#[derive(Debug, Clone, Copy, PartialEq, Eq)]
pub struct PatternsReport {
    /// The events, in numbers.
    pub counts: PatternCounts,
    /// Number of steps of all tasks.
    pub steps: u64,
    /// Its duration in virtual time.
    pub lasted: Duration,
    /// A hash of all events in their order.
    pub trace: u64,
}

/// The state that all tasks share.
struct World {
    stage: Stage,
    ledger: Ledger,
    script: Patterns,
    /// Tasks that are done after their count.
    working: Cell<usize>,
    /// Everything is done, so workers and servers end.
    done: Cell<bool>,
}

impl Deref for World {
    type Target = Stage;

    fn deref(&self) -> &Stage {
        &self.stage
    }
}

impl World {
    fn look(&self) {
        if let Some(text) = self.ledger.lock().take_wrong() {
            self.fail(|| text);
        }
    }
}

/// Runs a script of patterns.
///
/// # Errors
/// The first violated invariant.
pub fn run_patterns(script: &Patterns) -> Result<PatternsReport, String> {
    let clock = Clock::new();
    let mut options = Options::new().heartbeat(script.heartbeat);
    if script.rabbitmq_4_3 {
        options = options.rabbitmq_4_3();
    }
    let now = clock.now();
    let mut network = Network::new(script.seed, options, script.conditions, NODES, now);
    network.tls = script.tls;
    let world = Rc::new(World {
        stage: Stage::new(clock, network, script.seed ^ 0x7061_7474_6572),
        ledger: Ledger::default(),
        script: script.clone(),
        working: Cell::new(0),
        done: Cell::new(false),
    });
    let look = || world.look();
    let mut run = Run::new(&world, &look);
    run.faults = timed_faults(&script.faults, world.clock.start());
    for (index, job) in script.jobs.iter().enumerate() {
        let actor = Actor::new(world.clone(), job.clone(), index);
        if job.what.is_counted() {
            world.working.set(world.working.get() + 1);
        }
        run.tasks.push(Task::new(format!("{index}: {:?}", job.what), actor.act()));
    }
    run.tasks.push(Task::new("overseer".to_owned(), oversee(world.clone())));
    run.until_done()?;
    let steps = run.steps;
    drop(run);
    let network = world.network.borrow();
    let losses = network.links.len() + script.faults.len();
    let mut ledger = world.ledger.lock();
    ledger.audit(&network.engine, script, losses)?;
    let (counts, lasted) = (ledger.counts, world.since_start());
    Ok(PatternsReport { counts, steps, lasted, trace: world.trace() })
}

impl Does {
    /// Returns whether the job is done after its count. The others go on until everything is done.
    const fn is_counted(self) -> bool {
        matches!(self, Self::Produce { .. } | Self::Call { .. } | Self::Transact { .. })
    }
}

/// Lets workers and servers end once everything is done.
async fn oversee(world: Rc<World>) {
    let mut looks = 0;
    loop {
        world.clock.sleep(LOOKS_EVERY).await;
        if world.working.get() > 0 {
            continue;
        }
        looks += 1;
        let open = {
            let network = world.network.borrow();
            world.ledger.lock().unresolved(&network.engine, &world.script)
        };
        if open.is_empty() {
            return world.done.set(true);
        }
        if looks > LOOKS_MAX {
            return world.fail(|| format!("messages {open:?} are neither handled nor parked"));
        }
    }
}
