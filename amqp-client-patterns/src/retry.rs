//! Trying failed messages again, with growing delays, and parking those that never succeed.
//!
//! ```
//! # use amqp_client_tokio::{Message, QueueOptions, connect};
//! # use amqp_client_patterns::handler::{Attempt, State, Verdict};
//! use std::time::Duration;
//!
//! use amqp_client_patterns::retry::Retry;
//! use amqp_client_patterns::work::Work;
//!
//! # type Done = std::sync::Arc<tokio::sync::Notify>;
//! # async fn charge(Attempt(attempt): Attempt, State(done): State<Done>) -> Result<(), Verdict> {
//! #     if attempt < 3 { Err("busy".into()) } else { Ok(done.notify_one()) }
//! # }
//! # #[tokio::main(flavor = "current_thread")]
//! # async fn main() -> Result<(), Box<dyn std::error::Error>> {
//! # let broker = amqp_test_broker::Broker::start()?;
//! # let connection = connect(&broker.uri()).await?;
//! # let channel = connection.open_channel().await?;
//! # let queue = channel.queue_declare("orders", QueueOptions::new()).await?;
//! # queue.publish_confirmed(&Message::new("m")).await?;
//! # let done = Done::default();
//! # let ctrl_c = done.notified();
//! // After 10, 20, 40, 60 and 60 milliseconds, and then to the queue `orders.failed`.
//! let retry = Retry::times(5).from(Duration::from_millis(10)).to(Duration::from_millis(60));
//! let work = Work::on(&queue).retry(retry);
//! # let work = work.state(done.clone());
//! let summary = work.each(charge).until(ctrl_c).await?;
//! # assert_eq!((summary.done, summary.retried), (1, 2));
//! # Ok(())
//! # }
//! ```
//!
//! # How a message waits
//!
//! With [`RetryStrategy::Queues`], which works on every broker, each delay has a queue, such as `orders.retry.1000`. Messages expire
//! in it after that time, and are dead-lettered to their own queue. The worker publishes a copy of the message to the queue of the
//! delay, waits for the confirm, and then acknowledges the original. So a crash in between duplicates the message, and loses none.
//! The header `x-retries` of the copy counts the retries, and `x-failure` has the reason. The header `x-death` is the broker's.
//!
//! From RabbitMQ 3.10 on, these queues and the one for parked messages are quorum queues. A broker that is killed within a second
//! after their [declaration](amqp_client_core::recovery#new-quorum-queues) forgets them. To avoid this, call
//! [`Retry::declare`] when you set up the broker.
//!
//! With [`RetryStrategy::Native`], RabbitMQ 4.3 or later delays the messages: a quorum queue that was declared with the arguments of
//! [`Retry::topology`] delays rejected messages itself. Its delays do not double: each is longer than the one before by the first one.
//!
//! A message that comes back is behind those that arrived meanwhile.
//!
//! # The version of the broker
//!
//! [`RetryStrategy::Best`] chooses by the [version of the broker](Connection::broker_version), which is known once the connection is
//! open. After `connect_in_background`, wait for [`ready`](Connection::ready) before you call [`Retry::topology`] or
//! [`Retry::declare`]. A worker waits by itself.
//!
//! Upgrading the broker to 4.3 changes the choice, and [`Retry::topology`] then has other arguments for the queue itself. But a queue
//! keeps the arguments with which it was declared, so declaring it with [`RetryTopology::queue`] fails with `PRECONDITION_FAILED`. Set
//! [`RetryStrategy::Queues`], which goes on as before, or [`RetryStrategy::Native`] for a new queue on 4.3. Programs that only call
//! [`Retry::declare`], as workers do, are not affected: for a queue without the arguments for [`RetryStrategy::Native`],
//! [`RetryStrategy::Best`] goes on with [`RetryStrategy::Queues`].
//!
//! From RabbitMQ 3.10 on, the queues for retries are quorum queues that lose nothing when they dead-letter a message. Before, they are
//! classic queues, and are used as they are once the broker is upgraded.
//!
//! # Messages that never succeed
//!
//! When no attempt is left, or the verdict is [`Refuse`](crate::handler::Verdict::Refuse), the message is
//! [parked](crate::work::Work::failed_to) in `orders.failed`. To try it again, move it to its queue, for example by RabbitMQ's
//! shovel: its attempts then count from 1.

use std::time::Duration;

use amqp_client_core::proto::ReplyCode;
use amqp_client_core::{
    BrokerFeature, BrokerVersion, CallError, Connection, DeadLetterStrategy, DelayedRetry,
    Overflow, Queue, QueueOptions, QueueType, Reply,
};

/// A policy: how often and when a failed message is tried again. See [the module](self).
///
/// The delay doubles each time, from [`from`](Self::from) up to [`to`](Self::to).
#[derive(Debug, Clone, Copy, PartialEq, Eq)]
#[must_use]
pub struct Retry {
    times: u32,
    from: Duration,
    to: Duration,
    strategy: RetryStrategy,
}

/// The strategy by which a failed message is delayed.
#[derive(Debug, Clone, Copy, PartialEq, Eq, Hash, Default)]
#[non_exhaustive]
pub enum RetryStrategy {
    /// [`Native`](Self::Native), if the queue was declared for that on RabbitMQ 4.3 or later, and otherwise [`Queues`](Self::Queues). It
    /// needs the [version](self#the-version-of-the-broker) of the broker.
    #[default]
    Best,
    /// The queue itself, on RabbitMQ 4.3 or later: a quorum queue that was declared with [`RetryTopology::queue`].
    Native,
    /// One more queue for each delay, on every broker.
    Queues,
    /// Nothing: the message is requeued at once. Attempts are counted by quorum queues only, so on other queues it is tried for ever.
    Requeue,
}

/// The first version of RabbitMQ whose quorum queues lose no message that they dead-letter.
const DEAD_LETTERS_SAFELY: BrokerVersion = BrokerVersion::rabbitmq(3, 10, 0);

/// The queues that a [`Retry`] needs.
#[derive(Debug, Clone, PartialEq)]
#[non_exhaustive]
pub struct RetryTopology {
    /// The strategy that these queues are for. Never [`RetryStrategy::Best`].
    pub strategy: RetryStrategy,
    /// The options with which the queue itself has to be declared, if it matters.
    pub queue: Option<QueueOptions>,
    /// The queues in which messages wait, with their options.
    pub delays: Vec<(String, QueueOptions)>,
    /// The queue for messages that never succeed, with its options.
    pub failed: (String, QueueOptions),
}

impl Retry {
    /// Tries a message again up to this many times. The delays are 1 second to 1 minute, unless you set others.
    pub const fn times(times: u32) -> Self {
        let (from, to) = (Duration::from_secs(1), Duration::from_secs(60));
        Self { times, from, to, strategy: RetryStrategy::Best }
    }

    /// Sets the delay before the first retry. It counts in whole milliseconds, rounded up.
    pub const fn from(self, delay: Duration) -> Self {
        Self { from: delay, ..self }
    }

    /// Sets the longest delay.
    pub const fn to(self, delay: Duration) -> Self {
        Self { to: delay, ..self }
    }

    /// Sets the strategy by which messages are delayed. Default [`RetryStrategy::Best`].
    pub const fn strategy(self, strategy: RetryStrategy) -> Self {
        Self { strategy, ..self }
    }

    /// Returns the delay before a retry, counted from 1; `None` if there is no such retry.
    #[must_use]
    pub fn delay(&self, retry: u32) -> Option<Duration> {
        if retry == 0 || retry > self.times {
            return None;
        }
        let doubled = 2u32.checked_pow(retry - 1).and_then(|factor| self.from.checked_mul(factor));
        let delay = doubled.map_or(self.to, |delay| delay.min(self.to));
        // A queue's time to live is in whole milliseconds, and fits into 32 bits.
        let milliseconds = delay.as_nanos().div_ceil(1_000_000).clamp(1, u32::MAX.into());
        Some(Duration::from_millis(u64::try_from(milliseconds).unwrap_or(u64::MAX)))
    }

    /// Returns the queues that are needed for retries of messages of `queue`, on a broker of this
    /// [version](Connection::broker_version). Without a version, they fit every broker. With [`RetryStrategy::Best`], they are those for
    /// a new queue, and [change](self#the-version-of-the-broker) when the broker is upgraded to RabbitMQ 4.3.
    ///
    /// ```
    /// # use amqp_client_core as amqp_client_tokio;
    /// use amqp_client_patterns::retry::Retry;
    /// use amqp_client_tokio::BrokerVersion;
    ///
    /// let version = BrokerVersion::rabbitmq(4, 0, 5);
    /// let topology = Retry::times(5).topology("orders", Some(&version));
    /// let delays: Vec<&str> = topology.delays.iter().map(|(name, _)| &**name).collect();
    /// assert_eq!(delays[..2], ["orders.retry.1000", "orders.retry.2000"]);
    /// assert_eq!(topology.failed.0, "orders.failed");
    /// ```
    #[must_use]
    pub fn topology(&self, queue: &str, version: Option<&BrokerVersion>) -> RetryTopology {
        let delays = version.is_some_and(|version| version.has(BrokerFeature::DelayedRetry));
        let strategy = match self.strategy {
            RetryStrategy::Best if delays => RetryStrategy::Native,
            RetryStrategy::Best => RetryStrategy::Queues,
            strategy => strategy,
        };
        let safely = version.is_some_and(|version| *version >= DEAD_LETTERS_SAFELY);
        RetryTopology {
            strategy,
            queue: (strategy == RetryStrategy::Native).then(|| self.native(queue)),
            delays: match strategy {
                RetryStrategy::Queues => self.queues(queue, safely),
                _ => Vec::new(),
            },
            failed: (failed(queue), durable(safely)),
        }
    }

    /// Declares the queues of the [topology](Self::topology) but the queue itself, which has to exist, on a channel of its own.
    /// Returns the strategy that is used; never [`RetryStrategy::Best`]. A worker calls it when it starts.
    ///
    /// The version of the broker has to be known: after `connect_in_background`, wait for [`ready`](Connection::ready) first.
    ///
    /// # Errors
    /// [`CallError`], for example if one of the queues exists with other options. With [`RetryStrategy::Native`], also if the queue
    /// itself was not declared with [`RetryTopology::queue`].
    pub async fn declare(
        &self,
        connection: &Connection,
        queue: &str,
    ) -> Result<RetryStrategy, CallError> {
        let version = connection.broker_version();
        let mut topology = self.topology(queue, version.as_ref());
        if let Some(options) = &topology.queue {
            // Declaring a queue that exists only compares its options. Other options cost the channel.
            let channel = connection.open_channel().await?.unrecovered();
            match channel.queue_declare(queue, options.clone()).await {
                Ok(_) => {}
                Err(error) if self.strategy == RetryStrategy::Best && has_other_options(&error) => {
                    topology =
                        self.strategy(RetryStrategy::Queues).topology(queue, version.as_ref());
                }
                Err(error) => return Err(error),
            }
        }
        let channel = connection.open_channel().await?;
        let queues = || topology.delays.iter().chain([&topology.failed]);
        let replies: Vec<_> =
            queues().map(|(name, options)| channel.queue_declare(name, options.clone())).collect();
        match all(replies).await {
            Err(error) if has_other_options(&error) => {}
            declared => return declared.map(|()| topology.strategy),
        }
        // Queues that were declared on a broker before 3.10 are classic queues.
        let before = self.strategy(topology.strategy).topology(queue, None);
        for ((name, options), (_, before)) in
            queues().zip(before.delays.iter().chain([&before.failed]))
        {
            declare_either(connection, name, [options, before]).await?;
        }
        Ok(topology.strategy)
    }

    /// Declares only the queue for messages that never succeed.
    pub(crate) async fn declare_failed(
        &self,
        connection: &Connection,
        queue: &str,
    ) -> Result<(), CallError> {
        let version = connection.broker_version();
        let [(name, options), (_, before)] =
            [version.as_ref(), None].map(|version| self.topology(queue, version).failed);
        declare_either(connection, &name, [&options, &before]).await
    }

    /// Options of a quorum queue that delays rejected messages itself.
    fn native(&self, queue: &str) -> QueueOptions {
        let [first, last] = [1, self.times].map(|number| self.delay(number).unwrap_or_default());
        durable(true)
            .delayed_retry(DelayedRetry::Failed, first, last)
            // The worker parks the message itself at this attempt. The limit is for workers that crash.
            .delivery_limit(self.times.saturating_add(1))
            .dead_letter_exchange("")
            .dead_letter_routing_key(failed(queue))
            .overflow(Overflow::RejectPublish)
            .dead_letter_strategy(DeadLetterStrategy::AtLeastOnce)
    }

    /// One queue for each delay. Several delays in one queue would wait for each other: only the first message of a queue expires.
    fn queues(&self, queue: &str, safely: bool) -> Vec<(String, QueueOptions)> {
        let mut queues = Vec::new();
        // Doubling reaches the longest possible delay within 64 steps.
        for delay in (1..=self.times.min(64)).filter_map(|retry| self.delay(retry)) {
            let name = waiting(queue, delay);
            if queues.last().is_some_and(|(last, _)| *last == name) {
                break;
            }
            let mut options = durable(safely)
                .message_ttl(delay)
                .dead_letter_exchange("")
                .dead_letter_routing_key(queue);
            if safely {
                options = options
                    .overflow(Overflow::RejectPublish)
                    .dead_letter_strategy(DeadLetterStrategy::AtLeastOnce);
            }
            queues.push((name, options));
        }
        queues
    }
}

/// Options of a queue that survives a restart, and the loss of a node if it can.
fn durable(safely: bool) -> QueueOptions {
    match safely {
        true => QueueOptions::new().queue_type(QueueType::Quorum),
        false => QueueOptions::new(),
    }
}

/// Returns the name of the queue in which messages of `queue` wait for this time.
pub(crate) fn waiting(queue: &str, delay: Duration) -> String {
    format!("{queue}.retry.{}", delay.as_millis())
}

/// Returns the name of the queue for messages of `queue` that never succeed.
pub(crate) fn failed(queue: &str) -> String {
    format!("{queue}.failed")
}

async fn all(replies: Vec<Reply<Queue>>) -> Result<(), CallError> {
    for reply in replies {
        reply.await?;
    }
    Ok(())
}

/// Declares a queue that may exist with either options. Other options cost the channel.
async fn declare_either(
    connection: &Connection,
    queue: &str,
    [options, before]: [&QueueOptions; 2],
) -> Result<(), CallError> {
    let declared = connection.open_channel().await?.queue_declare(queue, options.clone()).await;
    let Some(error) = declared.err() else { return Ok(()) };
    if !has_other_options(&error) {
        return Err(error);
    }
    let declared = connection.open_channel().await?.queue_declare(queue, before.clone()).await;
    declared.map(drop).map_err(|_| error)
}

fn has_other_options(error: &CallError) -> bool {
    error.reply_code() == Some(ReplyCode::PRECONDITION_FAILED)
}

#[cfg(test)]
mod tests {
    use super::*;

    const fn milliseconds(delay: u64) -> Duration {
        Duration::from_millis(delay)
    }

    #[test]
    fn delays_double_up_to_the_longest() {
        let retry = Retry::times(6).from(milliseconds(1000)).to(milliseconds(5000));
        let delays: Vec<_> = (0..=7).map(|number| retry.delay(number)).collect();
        let expected = [1000, 2000, 4000, 5000, 5000, 5000].map(|delay| Some(milliseconds(delay)));
        assert_eq!(delays[1..7], expected);
        assert_eq!((delays[0], delays[7]), (None, None));
        let names: Vec<_> =
            retry.topology("q", None).delays.into_iter().map(|(name, _)| name).collect();
        assert_eq!(names, ["q.retry.1000", "q.retry.2000", "q.retry.4000", "q.retry.5000"]);
    }

    #[test]
    fn extreme_delays_are_delays_of_a_queue() {
        let shortest = Retry::times(2).from(Duration::ZERO).to(Duration::ZERO);
        assert_eq!(shortest.delay(2), Some(milliseconds(1)));
        let rounded = Retry::times(1).from(Duration::from_nanos(1_000_001));
        assert_eq!(rounded.delay(1), Some(milliseconds(2)));
        let longest = Retry::times(u32::MAX).from(Duration::MAX).to(Duration::MAX);
        assert_eq!(longest.delay(u32::MAX), Some(milliseconds(u32::MAX.into())));
        assert_eq!(longest.topology("q", None).delays.len(), 1);
        let many = Retry::times(u32::MAX).from(Duration::from_nanos(1)).to(Duration::MAX);
        assert!(many.topology("q", None).delays.len() <= 64);
        let falling = Retry::times(3).from(milliseconds(50)).to(milliseconds(10));
        assert_eq!(falling.topology("q", None).delays.len(), 1);
        assert_eq!(Retry::times(0).topology("q", None).delays, []);
    }

    #[test]
    fn the_best_way_depends_on_the_version() {
        let retry = Retry::times(5);
        let rabbitmq = |major, minor| BrokerVersion::rabbitmq(major, minor, 0);
        let strategy = |version| retry.topology("q", Some(&version)).strategy;
        assert_eq!(retry.topology("q", None).strategy, RetryStrategy::Queues);
        assert_eq!(strategy(rabbitmq(3, 10)), RetryStrategy::Queues);
        assert_eq!(strategy(rabbitmq(4, 2)), RetryStrategy::Queues);
        assert_eq!(strategy(rabbitmq(4, 3)), RetryStrategy::Native);
        assert_eq!(strategy(rabbitmq(5, 0)), RetryStrategy::Native);
        let native = retry.topology("q", Some(&rabbitmq(4, 3)));
        assert!(native.delays.is_empty() && native.queue.is_some());
        let queues = retry.strategy(RetryStrategy::Queues).topology("q", Some(&rabbitmq(4, 3)));
        assert!(queues.queue.is_none());
        // A queue whose messages wait is as safe as the version allows.
        let queues =
            |version| retry.strategy(RetryStrategy::Queues).topology("q", Some(&version)).delays;
        assert_ne!(queues(rabbitmq(3, 9)), queues(rabbitmq(3, 10)));
    }
}
