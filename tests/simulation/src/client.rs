//! The context of a client's task.

use std::cell::RefCell;
use std::future::{Future, poll_fn};
use std::pin::{Pin, pin};
use std::rc::Rc;
use std::task::Poll;
use std::time::Duration;

use amqp_client_core::proto::{ChannelError, ConnectionError, Initiator, LoginError};
use amqp_client_core::{
    CallError, ClientConfig, Config, ConfirmError, Connection, ConsumerEnd, Limits, PublishError,
    Recovery, Settings,
};
use fastrand::Rng;

use crate::network::{HIGH_WATER, KEEP_MAX};
use crate::pace::Pace;
use crate::witness::Witness;
use crate::world::World;

/// The number of the client that checks the final state. No faults affect it.
pub(crate) const AUDITOR: usize = usize::MAX;

/// One seed in so many has interceptors that count. They keep a connection until its work has ended.
const WITNESSED_EVERY: u64 = 3;

/// A task's view of the world.
pub(crate) struct Env {
    pub(crate) world: Rc<World>,
    client: usize,
    rng: RefCell<Rng>,
    /// The connection, and what an interceptor has seen of it.
    witness: RefCell<Option<(Connection, Witness)>>,
    /// Drops one in so many futures.
    pub(crate) cancel: Option<u32>,
}

/// The reason why a task has to start again: its connection or channel has ended, which was expected.
#[derive(Debug)]
pub(crate) struct Again;

pub(crate) type Try<T> = Result<T, Again>;

/// A connection, and its number among all.
pub(crate) struct Connected {
    pub(crate) connection: Connection,
    pub(crate) link: usize,
}

impl Env {
    pub(crate) fn new(world: Rc<World>, client: usize, seed: u64) -> Self {
        Self {
            world,
            client,
            rng: RefCell::new(Rng::with_seed(seed)),
            witness: RefCell::default(),
            cancel: None,
        }
    }

    pub(crate) fn random<T>(&self, pick: impl FnOnce(&mut Rng) -> T) -> T {
        pick(&mut self.rng.borrow_mut())
    }

    pub(crate) fn one_in(&self, times: u32) -> bool {
        self.random(|rng| rng.u32(..times) == 0)
    }

    /// Says that something is which must not be.
    pub(crate) fn fail(&self, text: impl Into<String>) -> Again {
        self.world.fail(|| text.into());
        Again
    }

    pub(crate) async fn sleep(&self, time: Duration) {
        self.world.clock.sleep(time).await;
    }

    /// Waits for a while, up to that long.
    pub(crate) async fn pause(&self, most: Duration) {
        let most = u64::try_from(most.as_micros()).unwrap_or(u64::MAX);
        if most > 0 {
            self.sleep(Duration::from_micros(self.random(|rng| rng.u64(0..=most)))).await;
        }
    }

    /// Returns the result of a future, if it comes in time.
    pub(crate) async fn within<T>(
        &self,
        time: Duration,
        future: impl Future<Output = T>,
    ) -> Option<T> {
        self.world.clock.within(time, future).await
    }

    /// Returns the result of a future, unless it is dropped before at random: unpolled, soon, or when its result is already
    /// there.
    pub(crate) async fn perhaps<T>(&self, future: impl Future<Output = T>) -> Option<T> {
        if !self.cancel.is_some_and(|times| self.one_in(times)) {
            return Some(future.await);
        }
        let mut future = pin!(future);
        match self.random(|rng| rng.u8(..4)) {
            0 => None,
            1 => self.polled_once(future.as_mut()).await,
            2 => {
                let polled = self.polled_once(future.as_mut()).await;
                self.pause(self.world.script.conditions.latency * 4).await;
                polled
            }
            _ => match self.polled_once(future.as_mut()).await {
                Some(value) => Some(value),
                None => {
                    // It is not looked after for a while.
                    self.pause(self.world.script.conditions.latency * 4).await;
                    Some(future.await)
                }
            },
        }
    }

    async fn polled_once<T>(&self, mut future: Pin<&mut impl Future<Output = T>>) -> Option<T> {
        poll_fn(|cx| match future.as_mut().poll(cx) {
            Poll::Ready(value) => Poll::Ready(Some(value)),
            Poll::Pending => Poll::Ready(None),
        })
        .await
    }

    /// Compares the counters of the connection with what an interceptor has seen of it, and drops the connection.
    pub(crate) fn compare_counters(&self) {
        let last = self.witness.borrow_mut().take();
        if let Some(Err(text)) = last.map(|(connection, witness)| witness.compare(&connection)) {
            self.world.fail(|| text);
        }
    }

    /// Connects, however long that takes.
    pub(crate) async fn connect(&self) -> Connected {
        self.connect_with(self.config(), None).await
    }

    /// Connects with a connection that recovers whenever it is lost.
    pub(crate) async fn connect_for_good(&self) -> Connected {
        let seed = self.random(|rng| rng.u64(..));
        let recovery = Recovery::default().seed(Some(seed)).keep_max(KEEP_MAX);
        // Losing the unconfirmed is for others to test.
        let config = self.config();
        let settings = config.get_settings().confirm_timeout(None);
        let config = config.settings(settings);
        let pace = Pace::new(Pace::DEFAULT, self.world.network.borrow().nodes.len());
        self.connect_with(config, Some((recovery, pace))).await
    }

    async fn connect_with(&self, config: Config, recovery: Option<(Recovery, Pace)>) -> Connected {
        loop {
            let now = self.world.clock.now();
            self.compare_counters();
            let (config, recovery) = (config.clone(), recovery.clone());
            let witness = (self.world.script.seed % WITNESSED_EVERY == 0).then(Witness::default);
            let config = match &witness {
                Some(witness) => config.intercept(witness.clone()),
                None => config,
            };
            let connected =
                self.world.network.borrow_mut().connect(self.client, config, recovery, now);
            if let Some((connection, link)) = connected {
                *self.witness.borrow_mut() = witness.map(|witness| (connection.clone(), witness));
                match connection.ready().await {
                    Ok(()) => return Connected { connection, link },
                    Err(error) => {
                        self.judge_connection(&error);
                    }
                }
            }
            self.pause(Duration::from_secs(2)).await;
            self.sleep(Duration::from_millis(10)).await;
        }
    }

    fn config(&self) -> Config {
        let script = &self.world.script;
        let limits = Limits::default()
            .transmit_high_water(HIGH_WATER)
            .frame_max(if script.seed % 2 == 0 { 4096 } else { 131_072 });
        let settings = Settings::default()
            .call_timeout(script.timeout)
            .publish_timeout(script.timeout)
            .confirm_timeout(script.timeout)
            // Far more than any client leaves untaken, except if it forgets deliveries.
            .delivery_budget(if script.body_max() > 3_000 { 256 * 1024 } else { 8 * 1024 });
        Config::default()
            .protocol(ClientConfig::default().heartbeat(script.heartbeat).limits(limits))
            .settings(settings)
    }

    /// Judges the end of a connection: the task starts again if the error was expected.
    pub(crate) fn judge_connection(&self, error: &ConnectionError) -> Again {
        let calm = self.world.script.is_calm() || self.client == AUDITOR;
        let expected = match error {
            ConnectionError::Closed(close) => close.by == Initiator::Local,
            ConnectionError::Eof
            | ConnectionError::Transport { .. }
            | ConnectionError::PeerSilent(_)
            | ConnectionError::HandshakeTimeout { .. }
            | ConnectionError::CloseTimeout(_)
            | ConnectionError::DriverGone => !calm,
            // A broker that disconnects during the login looks like one that refuses it.
            ConnectionError::Login(LoginError::HungUp) => !calm,
            _ => false,
        };
        if expected { Again } else { self.fail(format!("a connection ended: {error}")) }
    }

    pub(crate) fn judge_channel(&self, error: &ChannelError) -> Again {
        match error {
            ChannelError::Connection(error) => self.judge_connection(error),
            error => self.fail(format!("a channel ended: {error}")),
        }
    }

    fn judge_timeout(&self, error: &dyn std::fmt::Display) -> Again {
        if self.world.script.is_calm() { self.fail(error.to_string()) } else { Again }
    }

    /// Returns the result of a request. On an error that was expected, the task starts again.
    pub(crate) fn call<T>(&self, result: Result<T, CallError>) -> Try<T> {
        result.map_err(|error| match &error {
            CallError::Ended(error) => self.judge_channel(error),
            CallError::TimedOut { .. } => self.judge_timeout(&error),
            error => self.fail(format!("a request failed: {error}")),
        })
    }

    pub(crate) fn open<T>(&self, result: Result<T, CallError>) -> Try<T> {
        result.map_err(|error| match &error {
            CallError::Ended(error) => self.judge_channel(error),
            CallError::TimedOut { .. } => self.judge_timeout(&error),
            CallError::NoChannel(error) => match self.world.script.is_calm() {
                true => self.fail(format!("no channel: {error}")),
                // The connection is closed, and returns the reason.
                false => Again,
            },
            error => self.fail(format!("no channel: {error}")),
        })
    }

    pub(crate) fn publish<T>(&self, result: Result<T, PublishError>) -> Try<T> {
        result.map_err(|error| match &error {
            PublishError::Ended(error) => self.judge_channel(error),
            PublishError::TimedOut { .. } => self.judge_timeout(&error),
            error => self.fail(format!("publishing failed: {error}")),
        })
    }

    /// Judges the outcome of a publish. A message that was refused or returned was not to be expected.
    pub(crate) fn confirmed(&self, result: Result<(), ConfirmError>) -> Try<()> {
        result.map_err(|error| match &error {
            ConfirmError::Unconfirmed(error) => self.judge_channel(error),
            ConfirmError::TimedOut { .. } => self.judge_timeout(&error),
            error => self.fail(format!("not confirmed: {error}")),
        })
    }

    pub(crate) fn consumed<T>(&self, result: Option<Result<T, ConsumerEnd>>) -> Try<T> {
        match result {
            Some(Ok(delivery)) => Ok(delivery),
            Some(Err(ConsumerEnd::Ended(error))) => Err(self.judge_channel(&error)),
            Some(Err(error)) => Err(self.fail(format!("a consumer ended: {error}"))),
            None => Err(self.fail("a consumer ended for no reason")),
        }
    }

    pub(crate) fn closed(&self, result: Result<(), ConnectionError>) -> Try<()> {
        result.map_err(|error| self.judge_connection(&error))
    }
}
