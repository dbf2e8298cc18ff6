//! The context of a task.

use std::cell::RefCell;
use std::future::{Future, poll_fn};
use std::pin::pin;
use std::rc::Rc;
use std::task::Poll;
use std::time::Duration;

use amqp_client_core::{
    CallError, Channel, ClientConfig, Config, Connection, Limits, Queue, QueueOptions, QueueType,
    Recovery, Settings,
};
use amqp_client_patterns::retry::RetryStrategy;
use fastrand::Rng;

use super::World;
use super::ledger::WORK;
use super::script::{Does, Job};
use crate::network::{HIGH_WATER, KEEP_MAX};
use crate::pace::Pace;
use crate::witness::Witness;

/// One seed in so many has interceptors that count.
const WITNESSED_EVERY: u64 = 2;

/// The reason why a task starts again: its connection or channel has ended.
#[derive(Debug)]
pub(super) struct Again;

pub(super) type Try<T> = Result<T, Again>;

/// A task, and its view of the world.
pub(super) struct Actor {
    pub(super) world: Rc<World>,
    pub(super) job: Job,
    pub(super) index: usize,
    rng: RefCell<Rng>,
}

impl Actor {
    pub(super) fn new(world: Rc<World>, job: Job, index: usize) -> Self {
        let rng = RefCell::new(Rng::with_seed(world.script.seed ^ (index as u64) << 32));
        Self { world, job, index, rng }
    }

    /// Does the job, starting again whenever its connection has ended.
    pub(super) async fn act(self) {
        let mut left = self.job.count;
        while !self.is_over(left) {
            let (connection, witness) = self.connect().await;
            let result = match self.job.what {
                Does::Produce { batched } => self.produce(&connection, batched, &mut left).await,
                Does::Transact { channels } => {
                    self.transact(&connection, channels, &mut left).await
                }
                Does::Call { reply_queue } => self.call(&connection, reply_queue, &mut left).await,
                Does::Work { at_once, prefetch, in_order } => {
                    self.work(&connection, at_once, prefetch, in_order).await
                }
                Does::Serve { at_once } => self.serve(&connection, at_once).await,
                Does::Gather { size } => self.gather(&connection, size).await,
            };
            if result.is_ok() && self.one_in(2) {
                // A connection that has ended has said why.
                let _closed = connection.close().await;
            }
            let witnessed = self.world.script.seed % WITNESSED_EVERY == 0;
            if let Some(Err(text)) = witnessed.then(|| witness.compare(&connection)) {
                self.fail(text);
            }
            drop(connection);
            self.pause(Duration::from_millis(500)).await;
        }
        if self.job.what.is_counted() {
            self.world.working.set(self.world.working.get() - 1);
        }
    }

    fn is_over(&self, left: u32) -> bool {
        match self.job.what.is_counted() {
            true => left == 0,
            false => self.world.done.get(),
        }
    }

    pub(super) fn random<T>(&self, pick: impl FnOnce(&mut Rng) -> T) -> T {
        pick(&mut self.rng.borrow_mut())
    }

    pub(super) fn one_in(&self, times: u32) -> bool {
        self.random(|rng| rng.u32(..times) == 0)
    }

    /// A random time of up to that many milliseconds.
    pub(super) fn milliseconds(&self, most: u64) -> Duration {
        Duration::from_millis(self.random(|rng| rng.u64(..=most)))
    }

    pub(super) fn fail(&self, text: impl Into<String>) -> Again {
        self.world.fail(|| text.into());
        Again
    }

    pub(super) async fn pause(&self, most: Duration) {
        let most = u64::try_from(most.as_micros()).unwrap_or(u64::MAX);
        if most > 0 {
            let time = Duration::from_micros(self.random(|rng| rng.u64(0..=most)));
            self.world.clock.sleep(time).await;
        }
    }

    /// Is ready after this time, or when everything is done.
    pub(super) async fn until(&self, time: Duration) {
        let at = self.world.clock.now() + time;
        while self.world.clock.now() < at && !self.world.done.get() {
            self.world.clock.sleep(Duration::from_millis(300)).await;
        }
    }

    /// The result of a future that has to end. Faults may delay it, and the clock may jump over the time.
    pub(super) async fn bounded<T>(
        &self,
        time: Duration,
        what: &str,
        future: impl Future<Output = T>,
    ) -> Try<T> {
        let mut future = pin!(future);
        if let Some(output) = self.world.clock.within(time, future.as_mut()).await {
            return Ok(output);
        }
        for _ in 0..=self.world.script.faults.len() {
            let more = Duration::from_secs(120);
            if let Some(output) = self.world.clock.within(more, future.as_mut()).await {
                return Ok(output);
            }
        }
        Err(self.fail(format!("{what} has not ended after {time:?} and more")))
    }

    /// Polls a future some times, then drops it.
    pub(super) async fn dropped<T>(&self, future: impl Future<Output = T>) {
        let mut future = pin!(future);
        for _ in 0..self.random(|rng| rng.u8(..4)) {
            let ready = poll_fn(|cx| Poll::Ready(future.as_mut().poll(cx).is_ready())).await;
            if ready {
                return;
            }
            self.pause(self.world.script.conditions.latency * 4).await;
        }
    }

    async fn connect(&self) -> (Connection, Witness) {
        let limits = Limits::default()
            .transmit_high_water(HIGH_WATER)
            .frame_max(if self.world.script.seed % 2 == 0 { 4096 } else { 131_072 });
        let protocol =
            ClientConfig::default().heartbeat(self.world.script.heartbeat).limits(limits);
        let config = Config::default().protocol(protocol).settings(Settings::default());
        loop {
            let seed = self.random(|rng| rng.u64(..));
            let witness = Witness::default();
            let config = match self.world.script.seed % WITNESSED_EVERY {
                0 => config.clone().intercept(witness.clone()),
                _ => config.clone(),
            };
            let recovery = Recovery::default().seed(Some(seed)).keep_max(KEEP_MAX);
            let now = self.world.clock.now();
            let connected = {
                let mut network = self.world.network.borrow_mut();
                let pace = Pace::new(Pace::DEFAULT, network.nodes.len());
                network.connect(self.job.client, config, Some((recovery, pace)), now)
            };
            if let Some((connection, _)) = connected {
                match connection.ready().await {
                    Ok(()) => return (connection, witness),
                    Err(error) if self.world.script.is_calm() => {
                        self.fail(format!("a connection ended: {error}"));
                    }
                    Err(_) => {}
                }
            }
            self.pause(Duration::from_secs(2)).await;
            self.world.clock.sleep(Duration::from_millis(10)).await;
        }
    }

    /// Returns the result of a request. On an error that was expected, the task starts again.
    pub(super) fn expect<T>(&self, result: Result<T, CallError>) -> Try<T> {
        result.map_err(|error| self.judge(&error))
    }

    pub(super) fn judge(&self, error: &CallError) -> Again {
        let expected = match error {
            CallError::Ended(reason) => reason.is_transient() || self.is_fault(&reason.to_string()),
            CallError::TimedOut { .. } | CallError::NoChannel(_) => true,
            _ => false,
        };
        match expected && !self.world.script.is_calm() {
            true => Again,
            false => self.fail(format!("a request failed: {error:?}")),
        }
    }

    /// Returns whether this is the text of a channel or a connection that a fault has ended.
    pub(super) fn is_fault(&self, text: &str) -> bool {
        !self.world.script.is_calm() && !text.contains("inequivalent") && !text.contains("404")
    }

    pub(super) async fn declare(&self, channel: &Channel, name: &str) -> Try<Queue> {
        self.expect(channel.queue_declare(name, self.options(name)).await)
    }

    fn options(&self, name: &str) -> QueueOptions {
        let script = &self.world.script;
        match (name, script.strategy) {
            (WORK, RetryStrategy::Native) => {
                let version = amqp_client_core::BrokerVersion::rabbitmq(4, 3, 6);
                let topology = script.retry.topology(WORK, Some(&version));
                topology.queue.unwrap_or_default()
            }
            (WORK, RetryStrategy::Requeue) => QueueOptions::new().queue_type(QueueType::Quorum),
            _ => QueueOptions::new(),
        }
    }
}
