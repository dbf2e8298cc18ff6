//! Exploration: random commands from the whole public API, on handles that tasks share, while anything goes wrong.
//!
//! The tasks of [`workload`](crate::workload) know what they do, and check every reply. These scripts do not: each task carries
//! out commands in any order, whatever the result, and the checks are invariants of all of them.
//!
//! - **During the run**, the broker's own view is compared with the requests of the application and the results that were
//!   reported to it ([`ledger`]): a message that is confirmed was accepted; a message that the broker removes because of an
//!   acknowledgement was acknowledged; what was rolled back is never seen; nothing is published twice unless it is kept; a
//!   dropped future leaves no waker behind.
//! - **Over a recovery**, the queue of a binding and of a consumer, and the prefetch limit of a consumer, stay what they were
//!   ([`unchanged`]). [Bursts](acts) of requests that lean on one another, with faults in between, put that to the test.
//! - **After the last fault**, everything is restored in bounded time ([`finish`]): each connection is open again or closed; each
//!   channel replies;
//!   each confirmation has an outcome; each consumer ends or gets the messages of its queue; the broker knows the consumers
//!   and channels that the client has, and no others; nothing is left over when the handles are dropped.
//! - **Where user code fails** ([`handlers`], [`tokens`]), only its own delivery is rejected, all other handlers and callbacks
//!   run, the connection continues, and a source of tokens is called again.
//! - **All the time**, nothing is busy without progress: steps, transports, channels, deliveries and the polls of a crowd of
//!   publishers ([`crowd`]) are bounded.
//!
//! A script is data ([`commands`]): a seed [generates](generate) it, and [`shrink`](crate::shrink) drops clients' tasks,
//! commands and faults from it until each that is left is needed for the failure.

mod act;
mod acts;
mod audit;
mod books;
mod burst;
mod client;
pub(crate) mod commands;
mod consume;
mod crowd;
mod doze;
mod ends;
mod finish;
mod generate;
mod handlers;
mod history;
mod ledger;
mod open;
mod publish;
mod release;
mod shrink;
mod tally;
mod theme;
mod tokens;
mod transact;
mod trouble;
mod unchanged;
mod users;

use std::cell::{Cell, RefCell};
use std::ops::Deref;
use std::rc::Rc;
use std::sync::Arc;
use std::time::Duration;

use amqp_client_core::proto::{FieldTable, ServerConfig, Value};
use amqp_test_broker::Options;
use fastrand::Rng;

use crate::executor::{self, Clock, Flag};
use crate::network::Network;
use crate::script::What;
use crate::stage::{Run, Stage, Step, timed_faults};
use client::Client;
use commands::{Exploration, Recovering};
use history::History;
use ledger::Ledger;
use unchanged::Unchanged;

pub use ledger::Counts;
pub use shrink::shrink;

/// More transports and channels than clients ask for, and faults cost them.
const TRANSPORTS: u64 = 1_500;
const CHANNELS: u64 = 20_000;

/// One seed in so many has taps.
const TAPPED_EVERY: u64 = 4;

/// The state that all tasks share.
pub(crate) struct World {
    stage: Stage,
    ledger: RefCell<Ledger>,
    history: RefCell<History>,
    unchanged: RefCell<Unchanged>,
    script: Exploration,
    /// Tasks that carry out commands.
    working: Cell<usize>,
    /// When the last fault has ended.
    faults_end: Cell<Duration>,
}

impl Deref for World {
    type Target = Stage;

    fn deref(&self) -> &Stage {
        &self.stage
    }
}

impl World {
    /// Returns whether a task still has commands, or something can still go wrong.
    fn is_busy(&self) -> bool {
        self.working.get() > 0 || self.since_start() <= self.faults_end.get()
    }

    /// A task causes a fault.
    fn strike(&self, what: What) {
        self.stage.happen(Step::Fault(what));
        self.faults_end.set(self.faults_end.get().max(self.since_start() + what.lasts()));
    }

    /// A future was dropped that was polled with the waker of this flag: nobody must have it any longer.
    fn leak(&self, what: &str, flag: &Arc<Flag>) {
        let kept = Arc::strong_count(flag) - 1;
        if LEAKS && kept > 0 {
            self.fail(|| format!("{what} was dropped, and its waker was kept"));
        }
    }

    /// Compares what the broker did with what was requested.
    fn look(&self) {
        let notes = self.network.borrow_mut().engine.take_notes();
        let mut ledger = self.ledger.borrow_mut();
        for note in notes {
            let network = self.network.borrow();
            let owner = |session| network.owner(session);
            let hasty = |client: usize| {
                self.script.clients[client].recovery.as_ref().is_some_and(Recovering::is_hasty)
            };
            let noted = self.history.borrow_mut().note(&note, owner, hasty, self.clock.now());
            let excused = self.history.borrow().excuses(&note, owner);
            let known = if excused { Ok(()) } else { ledger.note(&note) };
            let unchanged = self.unchanged.borrow_mut().note(&note);
            if let Err(text) = known.and(noted).and(unchanged) {
                self.fail(|| text);
            }
        }
        if ledger.counts.transports > TRANSPORTS {
            self.fail(|| format!("{} transports", ledger.counts.transports));
        }
        if ledger.counts.channels > CHANNELS {
            self.fail(|| format!("{} channels were opened", ledger.counts.channels));
        }
    }
}

/// The results of an exploration.
#[derive(Debug, Clone, Copy, PartialEq, Eq)]
pub struct Explored {
    /// The events, in numbers.
    pub counts: Counts,
    /// Number of steps of all tasks.
    pub steps: u64,
    /// Its duration in virtual time.
    pub lasted: Duration,
    /// A hash of all events in their order.
    pub trace: u64,
}

/// Runs an exploration.
///
/// # Errors
/// The first violated invariant.
pub fn explore(script: &Exploration) -> Result<Explored, String> {
    let clock = Clock::new();
    let (now, nodes) = (clock.now(), script.nodes.len());
    let mut options = Options::new().heartbeat(script.heartbeat);
    if script.counts_failures {
        options = options.rabbitmq_4_3();
    }
    let mut network = Network::new(script.seed, options, script.conditions, nodes, now);
    network.engine.observe();
    network.tls = script.tls;
    network.taps = script.seed % TAPPED_EVERY == 1;
    for (own, node) in network.nodes.iter_mut().zip(&script.nodes) {
        let limits = own.get_limits().frame_max(node.frame_max).channel_max(node.channel_max);
        let mut config = ServerConfig::clone(own).limits(limits).heartbeat(node.heartbeat);
        if !node.nack {
            config = config.server_properties(without_nack(own.get_server_properties()));
        }
        *own = Arc::new(config);
    }
    let faults_end = script.faults.iter().map(|fault| fault.at + fault.what.lasts()).max();
    let world = Rc::new(World {
        stage: Stage::new(clock, network, script.seed ^ 0x7374_6167_6500),
        ledger: RefCell::new(Ledger::new(script)),
        history: RefCell::default(),
        unchanged: RefCell::default(),
        script: script.clone(),
        working: Cell::new(script.tasks.len()),
        faults_end: Cell::new(faults_end.unwrap_or_default()),
    });
    let look = || world.look();
    let mut run = Run::new(&world, &look);
    let clients: Vec<_> = (0..script.clients.len())
        .map(|number| Rc::new(Client::new(number, world.clone())))
        .collect();
    for (index, plan) in script.tasks.iter().cloned().enumerate() {
        let client = clients[plan.client].clone();
        let rng = Rng::with_seed(script.seed ^ (index as u64) << 32);
        let (cancel, rng) = (plan.cancel, RefCell::new(rng));
        let task = client::Task { client, cancel, rng, own: RefCell::default() };
        let step = Rc::new(Cell::new(0));
        let (at, commands) = (step.clone(), plan.commands.clone());
        let name = move || format!("task {index} at {:?}", commands.get(at.get()));
        run.tasks.push(executor::Task::described(name, async move {
            for (index, command) in plan.commands.iter().enumerate() {
                step.set(index);
                task.act(command).await;
                task.compare_counters();
            }
            let working = &task.world.working;
            working.set(working.get() - 1);
        }));
    }
    for client in clients {
        let rng = RefCell::new(Rng::with_seed(script.seed));
        let described = client.clone();
        let name = move || format!("the end of {}", described.describe());
        let task =
            client::Task { client: client.clone(), cancel: None, rng, own: RefCell::default() };
        let tokens = client.policy().tokens.clone();
        run.tasks.push(executor::Task::described(name, async move {
            task.finish().await;
            task.finished.set(true);
        }));
        if let Some(tokens) = tokens {
            let number = client.number;
            let name = move || format!("the tokens of client {number}");
            run.tasks.push(executor::Task::described(name, async move {
                client.keep_tokens(&tokens).await;
            }));
        }
    }
    run.faults = timed_faults(&script.faults, world.clock.start());
    run.until_done()?;
    let steps = run.steps;
    drop(run);
    world.network.borrow_mut().compare_taps()?;
    let counts = world.ledger.borrow().counts;
    Ok(Explored { counts, steps, lasted: world.since_start(), trace: world.trace() })
}

/// Returns the properties of a broker that does not know `basic.nack`.
fn without_nack(properties: &FieldTable) -> FieldTable {
    let told = properties.get("capabilities");
    let told = told.as_ref().and_then(Value::as_table).cloned().unwrap_or_default();
    let rest = told.iter().filter(|(name, _)| *name != "basic.nack");
    let capabilities = rest
        .into_iter()
        .try_fold(FieldTable::new(), |table, (name, value)| table.with(name, value));
    let properties = capabilities.and_then(|table| FieldTable::new().with("capabilities", table));
    properties.unwrap_or_default()
}

impl What {
    /// Its duration.
    const fn lasts(self) -> Duration {
        match self {
            Self::Stall { time, .. }
            | Self::Starve { time, .. }
            | Self::Alarm { time }
            | Self::Flap { time, .. } => time,
            Self::Restart { down } => down,
            _ => Duration::ZERO,
        }
    }
}

/// True if a future that is dropped may leave its waker behind.
const LEAKS: bool = true;
