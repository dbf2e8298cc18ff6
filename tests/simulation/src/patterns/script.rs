//! A run of patterns, as data. Generated from a seed; its `Debug` output is complete.

use std::time::Duration;

use amqp_client_patterns::retry::{Retry, RetryStrategy};
use fastrand::Rng;

use crate::script::{Fault, What, is_over_tls, pick};
use crate::wire::Conditions;

/// A run of patterns.
#[derive(Debug, Clone)]
pub struct Patterns {
    pub(crate) seed: u64,
    pub(crate) heartbeat: Duration,
    pub(crate) conditions: Conditions,
    pub(crate) tls: bool,
    /// True if the broker is as RabbitMQ 4.3.
    pub(crate) rabbitmq_4_3: bool,
    /// The policy by which failed messages are tried again.
    pub(crate) retry: Retry,
    pub(crate) strategy: RetryStrategy,
    pub(crate) times: u32,
    pub(crate) jobs: Vec<Job>,
    pub(crate) faults: Vec<Fault>,
}

/// The work of a task.
#[derive(Debug, Clone)]
pub(crate) struct Job {
    /// Whose connections it uses. Faults concern all connections of a client.
    pub(crate) client: usize,
    pub(crate) what: Does,
    /// Number of times, where that is limited.
    pub(crate) count: u32,
    /// The longest pause after each.
    pub(crate) pause: Duration,
}

#[derive(Debug, Clone, Copy, PartialEq, Eq)]
pub(crate) enum Does {
    /// Publishes messages until each is confirmed, for workers or in batches.
    Produce { batched: bool },
    /// Handles messages, and is stopped and started again.
    Work { at_once: u16, prefetch: u16, in_order: bool },
    /// Makes calls, several at the same time.
    Call { reply_queue: bool },
    /// Carries out calls, and is stopped and started again.
    Serve { at_once: u16 },
    /// Takes batches.
    Gather { size: u16 },
    /// Publishes pairs of messages in transactions, over a pool of channels.
    Transact { channels: usize },
}

impl Patterns {
    /// The script of a seed. One in four has no faults.
    #[must_use]
    pub fn new(seed: u64) -> Self {
        let mut rng = Rng::with_seed(seed ^ 0x7061_7474_6572_6e73);
        let clients = rng.usize(1..=3);
        let span = Duration::from_millis(rng.u64(50..20_000));
        let rabbitmq_4_3 = rng.bool();
        let strategy = match (rabbitmq_4_3, rng.u8(..3)) {
            (true, 0 | 1) => RetryStrategy::Native,
            (false, 0) => RetryStrategy::Requeue,
            _ => RetryStrategy::Queues,
        };
        let times = rng.u32(1..=4);
        let retry = Retry::times(times)
            .from(Duration::from_millis(rng.u64(1..500)))
            .to(Duration::from_millis(rng.u64(1..2_000)))
            .strategy(strategy);
        let jobs = (0..rng.usize(3..=8)).map(|_| Job::any(&mut rng, clients, span)).collect();
        let faults = if seed % 4 == 0 { 0 } else { rng.usize(1..=6) };
        let faults = (0..faults).map(|_| fault(&mut rng, clients, span)).collect();
        Self {
            seed,
            heartbeat: Duration::from_secs(rng.u64(1..=10)),
            conditions: Conditions::any(&mut rng),
            tls: is_over_tls(seed),
            rabbitmq_4_3,
            retry,
            strategy,
            times,
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

    /// Returns whether everything has to go well.
    pub(crate) fn is_calm(&self) -> bool {
        self.faults.is_empty()
    }

    pub(crate) fn has(&self, is: impl Fn(Does) -> bool) -> bool {
        self.jobs.iter().any(|job| is(job.what))
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

impl Job {
    fn any(rng: &mut Rng, clients: usize, span: Duration) -> Self {
        let what = match rng.u8(..14) {
            0..=3 => Does::Produce { batched: rng.u8(..4) == 0 },
            4..=6 => Does::Work {
                at_once: pick(rng, &[1, 3, 8]),
                prefetch: pick(rng, &[1, 5, 20]),
                in_order: rng.bool(),
            },
            7 | 8 => Does::Call { reply_queue: rng.bool() },
            9 | 10 => Does::Serve { at_once: pick(rng, &[1, 2, 8]) },
            11 => Does::Gather { size: pick(rng, &[1, 3, 10]) },
            _ => Does::Transact { channels: rng.usize(1..=2) },
        };
        let count = rng.u32(1..=15);
        let pause = if rng.bool() { Duration::ZERO } else { span / count };
        Self { client: rng.usize(..clients), what, count, pause }
    }
}

fn fault(rng: &mut Rng, clients: usize, span: Duration) -> Fault {
    let fault = Fault::any(rng, clients, span);
    let client = rng.usize(..clients);
    let what = match rng.u8(..8) {
        0 => What::CloseChannel { client, channel: rng.usize(..8) },
        1 => What::CancelConsumer(rng.usize(..8)),
        2 => What::CloseConnection { client },
        _ => return fault,
    };
    Fault { what, ..fault }
}
