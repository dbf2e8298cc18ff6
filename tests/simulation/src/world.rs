//! A run: whoever can do something does it, one at a time, in an order that the seed decides.

use std::cell::{Cell, RefCell};
use std::collections::BTreeMap;
use std::rc::Rc;
use std::time::{Duration, Instant};

use fastrand::Rng;

use crate::client::{AUDITOR, Env};
use crate::executor::{Clock, Task};
use crate::ledger::{Ledger, Totals};
use crate::network::Network;
use crate::script::{Fault, Script, What};
use crate::workload;

/// More steps than any run takes that gets anywhere.
const STEPS: u64 = 3_000_000;

/// Longer than any run lasts that gets anywhere: all faults are over long before, and clients wait two minutes at most.
const DURATION: Duration = Duration::from_secs(4 * 3600);

/// What a run looked like.
#[derive(Debug, Clone, Copy, PartialEq, Eq)]
pub struct Report {
    /// What became of the messages.
    pub totals: Totals,
    /// How often somebody did something.
    pub steps: u64,
    /// How long it lasted in virtual time.
    pub lasted: Duration,
    /// Connections that were opened.
    pub connections: usize,
    /// The most octets that waited for a transport.
    pub peak_output: usize,
    /// What happened, in which order, as a number: a script leads to the same one whenever it runs.
    pub trace: u64,
}

/// What all tasks see.
pub(crate) struct World {
    pub(crate) clock: Clock,
    pub(crate) network: RefCell<Network>,
    pub(crate) ledger: RefCell<Ledger>,
    pub(crate) rng: RefCell<Rng>,
    pub(crate) script: Script,
    /// What must not be, and was.
    pub(crate) failure: RefCell<Option<String>>,
    /// Publishers and others whom consumers wait for.
    pub(crate) working: Cell<usize>,
    trace: Cell<u64>,
}

/// Who can do something.
#[derive(Debug, Clone, Copy)]
enum Actor {
    Task(usize),
    Client(usize),
    Server(usize),
}

impl World {
    pub(crate) fn fail(&self, text: impl FnOnce() -> String) {
        self.failure.borrow_mut().get_or_insert_with(text);
    }

    /// Makes the trace another one.
    fn note(&self, what: u64) {
        let mixed = (self.trace.get() ^ what).wrapping_mul(0x0100_0000_01b3);
        self.trace.set(mixed.rotate_left(23));
    }

    fn since_start(&self) -> Duration {
        self.clock.now() - self.clock.start()
    }
}

/// Runs a script.
///
/// # Errors
/// What went wrong that must not.
pub fn run(script: &Script) -> Result<Report, String> {
    let clock = Clock::new();
    let network = Network::new(script, clock.now());
    let world = Rc::new(World {
        network: RefCell::new(network),
        clock,
        ledger: RefCell::new(Ledger::new(script.body_max())),
        rng: RefCell::new(Rng::with_seed(script.seed ^ 0x776f_726c_6400)),
        script: script.clone(),
        failure: RefCell::default(),
        working: Cell::new(0),
        trace: Cell::new(0),
    });
    let mut run = Run { world: world.clone(), tasks: Vec::new(), faults: Vec::new(), steps: 0 };
    run.tasks = workload::tasks(&world);
    run.faults = timed_faults(script, world.clock.start());
    run.until_done()?;
    // Everybody has gone. Nothing happens any more, so that an auditor can look at what is left.
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
        trace: world.trace.get(),
    })
}

/// Faults in the order in which they happen, the last first; what begins also ends.
fn timed_faults(script: &Script, start: Instant) -> Vec<(Instant, Step)> {
    let mut faults = Vec::new();
    for Fault { at, what } in &script.faults {
        faults.push((start + *at, Step::Fault(*what)));
        if let What::Alarm { time } = what {
            faults.push((start + *at + *time, Step::AlarmOver));
        }
    }
    faults.sort_by_key(|(at, _)| std::cmp::Reverse(*at));
    faults
}

enum Step {
    Fault(What),
    AlarmOver,
}

struct Run {
    world: Rc<World>,
    tasks: Vec<Task>,
    faults: Vec<(Instant, Step)>,
    steps: u64,
}

impl Run {
    /// Until all tasks are done, and what they left behind is gone.
    fn until_done(&mut self) -> Result<(), String> {
        loop {
            self.steps += 1;
            let now = self.world.clock.now();
            self.world.network.borrow_mut().pass(now);
            while self.faults.last().is_some_and(|(at, _)| *at <= now) {
                let Some((_, step)) = self.faults.pop() else { break };
                self.happen(step);
            }
            match self.choose() {
                Some(actor) => self.act(actor)?,
                None if self.is_done() => return Ok(()),
                None => self.wait()?,
            }
            if let Some(failure) = self.world.failure.borrow_mut().take() {
                return Err(failure);
            }
            if self.steps > STEPS {
                return Err(format!("so many steps, and still busy: {}", self.pending()));
            }
            if self.world.since_start() > DURATION {
                return Err(format!("after hours, still waiting: {}", self.pending()));
            }
        }
    }

    fn is_done(&self) -> bool {
        self.tasks.is_empty() && self.world.network.borrow().engine.session_count() == 0
    }

    fn pending(&self) -> String {
        let names: Vec<_> = self.tasks.iter().map(|task| task.name.as_str()).collect();
        let sessions = self.world.network.borrow().engine.session_count();
        format!("{} ({sessions} sessions)", names.join(", "))
    }

    /// Somebody who can do something, if anybody can.
    fn choose(&self) -> Option<Actor> {
        let now = self.world.clock.now();
        let network = self.world.network.borrow();
        let tasks = self.tasks.iter().enumerate().filter(|(_, task)| task.is_ready());
        let links = || 0..network.links.len();
        let clients = links().filter(|link| network.client_is_ready(*link, now));
        let servers = links().filter(|link| network.server_is_ready(*link));
        let ready: Vec<_> = tasks
            .map(|(index, _)| Actor::Task(index))
            .chain(clients.map(Actor::Client))
            .chain(servers.map(Actor::Server))
            .collect();
        let mut rng = self.world.rng.borrow_mut();
        (!ready.is_empty()).then(|| ready[rng.usize(..ready.len())])
    }

    fn act(&mut self, actor: Actor) -> Result<(), String> {
        let now = self.world.clock.now();
        match actor {
            Actor::Task(index) => {
                self.world.note(index as u64 + 1);
                if self.tasks[index].run() {
                    self.tasks.swap_remove(index);
                }
                Ok(())
            }
            Actor::Client(link) => {
                self.world.note(1 << 16 | link as u64);
                self.world.network.borrow_mut().run_client(link, now)
            }
            Actor::Server(link) => {
                self.world.note(1 << 17 | link as u64);
                self.world.network.borrow_mut().run_server(link, now)
            }
        }
    }

    /// Nobody can do anything: lets time pass until somebody can.
    fn wait(&mut self) -> Result<(), String> {
        let network = self.world.network.borrow().next();
        let fault = self.faults.last().map(|(at, _)| *at);
        let next = [network, fault, self.world.clock.next()].into_iter().flatten().min();
        let Some(next) = next else {
            return Err(format!("nothing will ever happen: {}", self.pending()));
        };
        self.world.note((next - self.world.clock.start()).as_micros() as u64);
        self.world.clock.advance(next);
        Ok(())
    }

    fn happen(&mut self, step: Step) {
        let now = self.world.clock.now();
        let mut network = self.world.network.borrow_mut();
        match step {
            Step::Fault(What::Cut(client, cut)) => network.cut(client, cut),
            Step::Fault(What::Stall { client, up, time }) => network.stall(client, up, now + time),
            Step::Fault(What::Starve { client, time }) => network.starve(client, now + time),
            Step::Fault(What::Kill { client }) => network.kill(client),
            Step::Fault(What::Restart { down }) => network.restart(now, down),
            Step::Fault(What::Alarm { .. }) => network.set_alarm(now, Some("low on memory")),
            Step::AlarmOver => network.set_alarm(now, None),
            Step::Fault(What::Jump { time }) => {
                drop(network);
                self.world.clock.advance(now + time);
            }
        }
    }
}
