//! A run: its clients, their work, and the faults. Generated from a seed; its `Debug` output is complete.

use std::time::Duration;

use amqp_test_broker::Scope;
use fastrand::Rng;

use crate::ledger::BODY_MAX;
use crate::wire::Conditions;

/// Number of durable queues.
pub(crate) const QUEUES: usize = 3;

/// A run.
#[derive(Debug, Clone)]
pub struct Script {
    pub(crate) seed: u64,
    pub(crate) heartbeat: Duration,
    /// The timeout of clients for replies; `None` is forever.
    pub(crate) timeout: Option<Duration>,
    pub(crate) conditions: Conditions,
    /// True if transports are inside of TLS sessions.
    pub(crate) tls: bool,
    pub(crate) jobs: Vec<Job>,
    pub(crate) faults: Vec<Fault>,
}

/// The work of a client's task.
#[derive(Debug, Clone)]
pub(crate) struct Job {
    /// Whose task it is. The tasks of a client share nothing but its bad luck.
    pub(crate) client: usize,
    pub(crate) work: Work,
    /// Number of times.
    pub(crate) count: u32,
    /// The longest pause after each.
    pub(crate) pause: Duration,
    /// The share of its futures that it drops before they are done: one in this number.
    pub(crate) cancel: Option<u32>,
}

#[derive(Debug, Clone, Copy)]
pub(crate) enum Work {
    /// Publishes with confirms, `window` of them open.
    Publish { queue: usize, window: usize, mandatory: bool },
    /// Consumes and settles, in some way or other.
    Consume { queue: usize, prefetch: u16 },
    /// Asks for single messages.
    Get { queue: usize },
    /// Calls a procedure and waits for the result; with direct reply-to or a queue of its own.
    Call { direct: bool },
    /// Answers calls.
    Serve,
    /// Declares, binds, publishes to, purges and deletes queues and exchanges of its own.
    Churn,
    /// Sends requests that have to be refused.
    Provoke,
    /// Opens and closes channels.
    Channels,
    /// Publishes and acknowledges in transactions.
    Transact,
    /// Publishes to queues that refuse messages when they are full.
    Overflow,
    /// Publishes over losses: everything is confirmed in the end.
    Keep { queue: usize, window: usize },
    /// Consumes over losses: the consumer never ends by itself.
    Endure { queue: usize, prefetch: u16 },
    /// Sends to a queue of its own by an exchange of its own, over losses.
    Roam,
}

/// The faults, and their times.
#[derive(Debug, Clone)]
pub(crate) struct Fault {
    pub(crate) at: Duration,
    pub(crate) what: What,
}

#[derive(Debug, Clone, Copy)]
pub(crate) enum What {
    /// Connections of a client break after some more bytes.
    Cut(usize, Cut),
    /// Nothing arrives for a while.
    Stall { client: usize, up: bool, time: Duration },
    /// A client's drivers get no time for a while.
    Starve { client: usize, time: Duration },
    /// A client's drivers are dropped.
    Kill { client: usize },
    /// The broker's ends of a client's TLS sessions end them, and leave their transports open.
    EndTls { client: usize },
    /// The broker stops, and starts again after a while. Durable state survives.
    Restart { down: Duration },
    /// The broker blocks publishers for a while.
    Alarm { time: Duration },
    /// The clock jumps.
    Jump { time: Duration },
    /// The broker cancels a consumer, by its place among all.
    CancelConsumer(usize),
    /// The broker closes a channel of a client.
    CloseChannel { client: usize, channel: usize },
    /// An operator closes a client's connections.
    CloseConnection { client: usize },
    /// An operator deletes a queue, by its place among all.
    DeleteQueue(usize),
    /// The broker stops, and starts again with nothing.
    Wipe,
    /// The broker refuses the next requests of a method, and closes their channel or their connection.
    Refuse { method: (u16, u16), times: u32, scope: Scope },
    /// Each connection of a client breaks soon after it was made, for a while.
    Flap { client: usize, cut: Cut, time: Duration },
}

#[derive(Debug, Clone, Copy)]
pub(crate) struct Cut {
    pub(crate) up: bool,
    pub(crate) after: usize,
    pub(crate) reset: bool,
    /// Not within a frame, but after the one in which the bytes end.
    pub(crate) at_frame: bool,
}

impl Script {
    /// The script of a seed. One in four has no faults.
    #[must_use]
    pub fn new(seed: u64) -> Self {
        let mut rng = Rng::with_seed(seed);
        let clients = rng.usize(1..=4);
        let span = Duration::from_millis(rng.u64(50..20_000));
        let jobs = (0..rng.usize(2..=9)).map(|_| Job::any(&mut rng, clients, span)).collect();
        let faults = if seed % 4 == 0 { 0 } else { rng.usize(1..=6) };
        let faults = (0..faults).map(|_| Fault::any(&mut rng, clients, span)).collect();
        Self {
            seed,
            heartbeat: Duration::from_secs(rng.u64(1..=10)),
            timeout: rng.bool().then(|| Duration::from_secs(rng.u64(30..=120))),
            conditions: Conditions::any(&mut rng),
            tls: is_over_tls(seed),
            jobs,
            faults,
        }
    }

    /// The same over TLS.
    #[must_use]
    pub const fn over_tls(mut self) -> Self {
        self.tls = true;
        self
    }

    /// The longest body: long ones in small pieces take too many steps.
    pub(crate) const fn body_max(&self) -> usize {
        if self.conditions.piece < 100 { 3_000 } else { BODY_MAX }
    }

    /// Returns whether everything has to go well.
    pub(crate) fn is_calm(&self) -> bool {
        self.faults.is_empty()
    }

    /// Returns the number of parts.
    #[must_use]
    pub fn len(&self) -> usize {
        self.jobs.len() + self.faults.len()
    }

    /// Returns whether the script is empty.
    #[must_use]
    pub fn is_empty(&self) -> bool {
        self.len() == 0
    }
}

/// Returns whether the transports of a seed are inside of TLS sessions: in one of six, whatever else it is.
pub(crate) fn is_over_tls(seed: u64) -> bool {
    Rng::with_seed(seed ^ 0x746c_7300).u8(..6) == 0
}

pub(crate) fn pick<T: Copy>(rng: &mut Rng, from: &[T]) -> T {
    from[rng.usize(..from.len())]
}

impl Conditions {
    pub(crate) fn any(rng: &mut Rng) -> Self {
        // A narrow wire is a short one: else large messages take longer than anybody waits.
        let (latency, capacity) =
            pick(rng, &[(0, 50), (100, 500), (1_000, 4_096), (20_000, 65_536), (200_000, 1 << 20)]);
        let piece = pick(rng, &[3, 100, 1_500, 65_536, 1 << 20]);
        Self { latency: Duration::from_micros(latency), piece, capacity }
    }
}

impl Job {
    fn any(rng: &mut Rng, clients: usize, span: Duration) -> Self {
        let queue = rng.usize(..QUEUES);
        let work = match rng.u8(..20) {
            0..=3 => {
                Work::Publish { queue, window: pick(rng, &[1, 3, 20, 1000]), mandatory: rng.bool() }
            }
            4..=7 => Work::Consume { queue, prefetch: pick(rng, &[0, 1, 5, 100]) },
            8 => Work::Get { queue },
            9 => Work::Call { direct: rng.bool() },
            10 => Work::Serve,
            11 => Work::Churn,
            12 => Work::Provoke,
            13 => Work::Channels,
            14 => Work::Overflow,
            15 => Work::Transact,
            16 | 17 => Work::Keep { queue, window: pick(rng, &[1, 20, 1000]) },
            18 => Work::Endure { queue, prefetch: pick(rng, &[1, 5, 100]) },
            _ => Work::Roam,
        };
        let most = pick(rng, &[5, 20, 60]);
        let count = rng.u32(1..=most);
        Self {
            client: rng.usize(..clients),
            work,
            count,
            pause: if rng.bool() { Duration::ZERO } else { span / count },
            cancel: rng.bool().then(|| rng.u32(2..10)),
        }
    }
}

impl Fault {
    pub(crate) fn any(rng: &mut Rng, clients: usize, span: Duration) -> Self {
        let client = rng.usize(..clients);
        let millis = |rng: &mut Rng, most: u64| Duration::from_millis(rng.u64(1..=most));
        let what = match rng.u8(..16) {
            0..=5 => {
                let most = pick(rng, &[10, 500, 20_000]);
                let cut = Cut {
                    up: rng.bool(),
                    after: rng.usize(1..=most),
                    reset: rng.bool(),
                    at_frame: false,
                };
                What::Cut(client, cut)
            }
            6 | 7 => What::Stall { client, up: rng.bool(), time: millis(rng, 60_000) },
            8 => What::Starve { client, time: millis(rng, 30_000) },
            9 => What::Kill { client },
            10..=12 => What::Restart { down: millis(rng, 5_000) },
            13 | 14 => What::Alarm { time: millis(rng, 60_000) },
            _ => What::Jump { time: millis(rng, 3_600_000) },
        };
        Self { at: Duration::from_micros(rng.u64(0..=span.as_micros() as u64)), what }
    }
}
