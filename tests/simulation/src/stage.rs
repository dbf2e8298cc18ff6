//! The schedule of a run: one actor that can do something acts at a time, in an order that the seed decides.

use std::cell::{Cell, RefCell};
use std::time::{Duration, Instant};

use fastrand::Rng;

use crate::executor::{Clock, Task};
use crate::network::Network;
use crate::script::{Fault, What};

/// Longer than any run lasts that gets anywhere: all faults are over long before, and clients wait two minutes at most.
const DURATION: Duration = Duration::from_secs(4 * 3600);

/// The state that all tasks share.
pub(crate) struct Stage {
    pub(crate) clock: Clock,
    pub(crate) network: RefCell<Network>,
    pub(crate) rng: RefCell<Rng>,
    /// The first violated invariant, if there is one.
    failure: RefCell<Option<String>>,
    trace: Cell<u64>,
}

/// An actor that can make progress.
#[derive(Debug, Clone, Copy)]
enum Actor {
    Task(usize),
    Client(usize),
    Server(usize),
}

impl Stage {
    pub(crate) fn new(clock: Clock, network: Network, seed: u64) -> Self {
        Self {
            clock,
            network: RefCell::new(network),
            rng: RefCell::new(Rng::with_seed(seed)),
            failure: RefCell::default(),
            trace: Cell::new(0),
        }
    }

    /// Notes that something is which must not be. The run ends with the first.
    pub(crate) fn fail(&self, text: impl FnOnce() -> String) {
        self.failure.borrow_mut().get_or_insert_with(text);
    }

    /// Returns a hash of everything that happened, in its order.
    pub(crate) fn trace(&self) -> u64 {
        self.trace.get()
    }

    /// Makes the trace another one.
    fn note(&self, what: u64) {
        let mixed = (self.trace.get() ^ what).wrapping_mul(0x0100_0000_01b3);
        self.trace.set(mixed.rotate_left(23));
    }

    /// Something happens now.
    pub(crate) fn happen(&self, step: Step) {
        let now = self.clock.now();
        let mut network = self.network.borrow_mut();
        match step {
            Step::Fault(What::Cut(client, cut)) => network.cut(client, cut),
            Step::Fault(What::Stall { client, up, time }) => network.stall(client, up, now + time),
            Step::Fault(What::Starve { client, time }) => network.starve(client, now + time),
            Step::Fault(What::Kill { client }) => network.kill(client),
            Step::Fault(What::EndTls { client }) => network.end_tls(client),
            Step::Fault(What::Restart { down }) => network.restart(now, down),
            Step::Fault(What::Alarm { .. }) => network.set_alarm(now, Some("low on memory")),
            Step::AlarmOver => network.set_alarm(now, None),
            Step::Fault(What::Jump { time }) => {
                drop(network);
                self.clock.advance(now + time);
            }
            Step::Fault(What::CancelConsumer(place)) => network.cancel_consumer(now, place),
            Step::Fault(What::CloseChannel { client, channel }) => {
                network.close_channel(now, client, channel);
            }
            Step::Fault(What::CloseConnection { client }) => network.close_connection(now, client),
            Step::Fault(What::DeleteQueue(place)) => network.delete_queue(now, place),
            Step::Fault(What::Wipe) => {
                network.restart(now, Duration::from_millis(1));
                network.engine.wipe(now);
            }
            Step::Fault(What::Refuse { method, times, scope }) => {
                network.engine.refuse_next(method, times, scope);
            }
            Step::Fault(What::Flap { client, cut, time }) => network.flap(client, cut, now + time),
        }
    }

    pub(crate) fn since_start(&self) -> Duration {
        self.clock.now() - self.clock.start()
    }
}

/// Faults in the order in which they happen, the last first; each fault also ends.
pub(crate) fn timed_faults(faults_of: &[Fault], start: Instant) -> Vec<(Instant, Step)> {
    let mut faults = Vec::new();
    for Fault { at, what } in faults_of {
        faults.push((start + *at, Step::Fault(*what)));
        if let What::Alarm { time } = what {
            faults.push((start + *at + *time, Step::AlarmOver));
        }
    }
    faults.sort_by_key(|(at, _)| std::cmp::Reverse(*at));
    faults
}

pub(crate) enum Step {
    Fault(What),
    AlarmOver,
}

/// Runs tasks on a stage.
pub(crate) struct Run<'a> {
    stage: &'a Stage,
    pub(crate) tasks: Vec<Task>,
    pub(crate) faults: Vec<(Instant, Step)>,
    pub(crate) steps: u64,
    /// More steps than any run takes that gets anywhere: where the network holds 50 bytes, 1700 large deliveries take 3 million.
    pub(crate) steps_max: u64,
    /// Checks what happened after each step.
    pub(crate) look: &'a dyn Fn(),
}

impl<'a> Run<'a> {
    pub(crate) fn new(stage: &'a Stage, look: &'a dyn Fn()) -> Self {
        Self { stage, tasks: Vec::new(), faults: Vec::new(), steps: 0, steps_max: 10_000_000, look }
    }

    /// Runs until all tasks are done and everything that they left is cleaned up.
    pub(crate) fn until_done(&mut self) -> Result<(), String> {
        loop {
            self.steps += 1;
            let now = self.stage.clock.now();
            self.stage.network.borrow_mut().pass(now);
            while self.faults.last().is_some_and(|(at, _)| *at <= now) {
                let Some((_, step)) = self.faults.pop() else { break };
                self.stage.happen(step);
            }
            match self.choose() {
                Some(actor) => self.act(actor)?,
                None if self.is_done() => return Ok(()),
                None => self.wait()?,
            }
            (self.look)();
            if let Some(failure) = self.stage.failure.borrow_mut().take() {
                return Err(failure);
            }
            if self.steps > self.steps_max {
                return Err(format!("so many steps, and still busy: {}", self.pending()));
            }
            if self.stage.since_start() > DURATION {
                return Err(format!("after hours, still waiting: {}", self.pending()));
            }
        }
    }

    fn is_done(&self) -> bool {
        self.tasks.is_empty() && self.stage.network.borrow().engine.session_count() == 0
    }

    fn pending(&self) -> String {
        let names: Vec<_> = self.tasks.iter().map(Task::name).collect();
        let sessions = self.stage.network.borrow().engine.session_count();
        format!("{} ({sessions} sessions)", names.join(", "))
    }

    /// Returns an actor that can do something, if there is one.
    fn choose(&self) -> Option<Actor> {
        let now = self.stage.clock.now();
        let network = self.stage.network.borrow();
        let tasks = self.tasks.iter().enumerate().filter(|(_, task)| task.is_ready());
        let links = || 0..network.links.len();
        let clients = links().filter(|link| network.client_is_ready(*link, now));
        let servers = links().filter(|link| network.server_is_ready(*link));
        let ready: Vec<_> = tasks
            .map(|(index, _)| Actor::Task(index))
            .chain(clients.map(Actor::Client))
            .chain(servers.map(Actor::Server))
            .collect();
        let mut rng = self.stage.rng.borrow_mut();
        (!ready.is_empty()).then(|| ready[rng.usize(..ready.len())])
    }

    fn act(&mut self, actor: Actor) -> Result<(), String> {
        let now = self.stage.clock.now();
        match actor {
            Actor::Task(index) => {
                self.stage.note(index as u64 + 1);
                if self.tasks[index].run() {
                    self.tasks.swap_remove(index);
                }
                Ok(())
            }
            Actor::Client(link) => {
                self.stage.note(1 << 16 | link as u64);
                self.stage.network.borrow_mut().run_client(link, now)
            }
            Actor::Server(link) => {
                self.stage.note(1 << 17 | link as u64);
                self.stage.network.borrow_mut().run_server(link, now)
            }
        }
    }

    /// No task can make progress: advances the time until one can.
    fn wait(&mut self) -> Result<(), String> {
        self.stage.network.borrow().rest(self.stage.clock.now())?;
        let network = self.stage.network.borrow().next();
        let fault = self.faults.last().map(|(at, _)| *at);
        let next = [network, fault, self.stage.clock.next()].into_iter().flatten().min();
        let Some(next) = next else {
            return Err(format!("nothing will ever happen: {}", self.pending()));
        };
        self.stage.note((next - self.stage.clock.start()).as_micros() as u64);
        self.stage.clock.advance(next);
        Ok(())
    }
}
