//! Workers: they consume a queue, run a handler for each message, and settle the message by the result.
//!
//! ```
//! # use std::time::Duration;
//! # use amqp_client_tokio::{Message, QueueOptions, connect};
//! use amqp_client_patterns::handler::{State, Text, Verdict};
//! use amqp_client_patterns::work::Work;
//!
//! # #[derive(Clone)]
//! # struct Database(tokio::sync::mpsc::Sender<String>);
//! # impl Database {
//! #     async fn store(&self, order: &str) -> Result<(), std::io::Error> {
//! #         self.0.send(order.to_owned()).await.map_err(std::io::Error::other)
//! #     }
//! # }
//! async fn charge(Text(order): Text, State(database): State<Database>) -> Result<(), Verdict> {
//!     if order.is_empty() {
//!         return Err(Verdict::refuse("an order of nothing"));
//!     }
//!     // An error of any type asks for a retry.
//!     Ok(database.store(&order).await?)
//! }
//!
//! # #[tokio::main(flavor = "current_thread")]
//! # async fn main() -> Result<(), Box<dyn std::error::Error>> {
//! # let broker = amqp_test_broker::Broker::start()?;
//! # let connection = connect(&broker.uri()).await?;
//! # let channel = connection.open_channel().await?;
//! # let (sender, mut stored) = tokio::sync::mpsc::channel(1);
//! # let database = Database(sender);
//! let queue = channel.queue_declare("orders", QueueOptions::new()).await?;
//! # queue.publish_confirmed(&Message::new("three fish")).await?;
//! # let ctrl_c = async { stored.recv().await };
//! let summary = Work::on(&queue)
//!     .state(database)
//!     .at_once(32)
//!     .grace(Duration::from_secs(10))
//!     .on_event(|event| eprintln!("{event}"))
//!     .each(charge)
//!     .until(ctrl_c)
//!     .await?;
//! println!("{} messages handled, {} left", summary.done, summary.unfinished.len());
//! # assert_eq!(summary.done, 1);
//! # Ok(())
//! # }
//! ```
//!
//! [`handler`](crate::handler) says what handlers can have as arguments and results. Without a runtime, wait for the worker by
//! `Wait::wait` of `amqp-client-blocking`: the handlers run on the thread that waits.
//!
//! # What becomes of a message
//!
//! | The handler | The message |
//! |---|---|
//! | returns `()`, or [`Verdict::Done`](crate::handler::Verdict::Done) | is acknowledged |
//! | returns [`Verdict::Requeue`](crate::handler::Verdict::Requeue) | is requeued (`basic.nack`), which is not a failure |
//! | returns an error, or [`Verdict::Retry`](crate::handler::Verdict::Retry) | is [tried again](Work::retry), or rejected and requeued |
//! | returns [`Verdict::Refuse`](crate::handler::Verdict::Refuse) | is [parked](Work::failed_to), or rejected and dead-lettered |
//! | cannot be called: the body does not decode, or no route takes the message | is refused, too |
//! | cannot be called: the body is larger than the client accepts | is held, unless [`Limits::oversized`](amqp_client_core::Limits::oversized) says otherwise: [`WorkEvent::Unusable`] |
//! | panics | is retried, unless [`on_panic`](Work::on_panic) says otherwise |
//! | is still running when the grace period ends, or the connection is closed | is unfinished: [`Summary::unfinished`] |
//! | took the [`Delivery`] | is settled by the handler |
//!
//! A message that fails each time and is requeued at once comes back at once. A quorum queue limits that
//! ([`delivery_limit`](amqp_client_core::QueueOptions::delivery_limit)); [`Retry`] adds delays and a limit for all queues.
//!
//! # Groups
//!
//! [`Work::on_group`] handles the messages of a [`Group`]: of the [partitions](crate::partitions) that this member of the group has.
//! Messages with the same key are handled one after another, and those of different keys concurrently.
//!
//! ```
//! # use std::time::Duration;
//! # use amqp_client_tokio::{PublisherOptions, connect};
//! # use amqp_client_patterns::handler::{Text, Verdict};
//! use amqp_client_patterns::partitions::{Member, Partitions};
//! use amqp_client_patterns::retry::Retry;
//! use amqp_client_patterns::work::Work;
//!
//! # async fn charge(Text(order): Text) -> Result<(), Verdict> { Ok(println!("{order}")) }
//! # #[tokio::main(flavor = "current_thread")]
//! # async fn main() -> Result<(), Box<dyn std::error::Error>> {
//! # let broker = amqp_test_broker::Broker::start_with(amqp_test_broker::Options::new().rabbitmq_4_3())?;
//! # let connection = connect(&broker.uri()).await?;
//! # let channel = connection.open_channel().await?;
//! let orders = Partitions::new("orders", 12)?;
//! # orders.topology(connection.broker_version().as_ref()).apply(&channel).await?;
//! # orders.publisher(&connection, PublisherOptions::new()).await?.send("customer-4711", "three fish").await?;
//! # let ctrl_c = async { drop(connection.after(Duration::from_millis(50)).await) };
//! let group = orders.join(&connection, Member::random()).await?;
//! let work = Work::on_group(group).at_once(32).retry(Retry::times(5));
//! let summary = work.each(charge).until(ctrl_c).await?;
//! # assert_eq!(summary.done, 1);
//! # Ok(())
//! # }
//! ```
//!
//! Nothing may come before a message that failed, so a group requeues nothing. This is what differs from the table above:
//!
//! | The handler | The message |
//! |---|---|
//! | returns [`Verdict::Requeue`](crate::handler::Verdict::Requeue) | is handled again after a second, with the same delivery |
//! | returns an error, or [`Verdict::Retry`](crate::handler::Verdict::Retry) | is handled again after the next delay of [`retry`](Work::retry), with the same delivery; without `retry`, after 1 second to 1 minute, until it succeeds |
//! | is still running when the grace period ends | goes to the next member; its delivery in [`Summary::unfinished`] can no longer be settled |
//!
//! Meanwhile, later messages of the key wait, and other keys go on. A message that waits for its retry does not count as one that is
//! handled [at once](Work::at_once), but against the [prefetch limit](crate::partitions::Join::prefetch) of its partition. The retries
//! are counted by this member: if it dies, the next one begins anew. A message that is tried again for longer than
//! [`held_at_most`](crate::partitions::Join::held_at_most) ends the group.
//!
//! # Handlers that block
//!
//! All handlers of a worker run in the task that awaits the worker. They wait concurrently, but they compute one at a time. Run work
//! that computes or blocks elsewhere: in tokio's `spawn_blocking`, or in a task that the handler spawns and awaits. To use more
//! threads, run several workers.

mod event;
mod handling;
mod order;
mod routes;
mod run;
mod settle;
mod source;

pub use event::{Failure, Summary, WorkError, WorkEvent};
pub use routes::{LeaveDelivery, NoRoutes, Route, Routes};

use std::fmt;
use std::future::{Future, pending};
use std::hash::{BuildHasher as _, Hash, RandomState};
use std::marker::PhantomData;
use std::time::Duration;

use amqp_client_core::{ConsumeOptions, Delivery, OnPanic, Queue};

use crate::handler::{Arguments, Handler, IntoVerdict};
use crate::partitions::{Group, key_of};
use crate::retry::Retry;
use order::KeyOf;
use routes::Pattern;

/// A worker: see [the module](self).
///
/// `S` is the state that handlers can take by [`State`](crate::handler::State), `R` are the handlers, and `Q` is the source of the
/// messages: a [`Queue`] or a [`Group`].
#[must_use = "a worker does nothing until it is awaited: call `run` or `until`"]
pub struct Work<S = (), R = NoRoutes, Q = Queue> {
    source: Q,
    state: S,
    routes: R,
    options: Options,
}

type Observer = dyn FnMut(&WorkEvent<'_>) + Send;

/// Everything but the source, the handlers and their state.
struct Options {
    consume: ConsumeOptions,
    at_once: u16,
    prefetch: Option<u16>,
    grace: Duration,
    on_panic: OnPanic,
    retry: Option<Retry>,
    failed_to: Option<String>,
    key_of: Option<Box<KeyOf>>,
    /// How often a message of a group may be delivered.
    deliveries_max: Option<u32>,
    warn_after: Duration,
    observer: Option<Box<Observer>>,
    /// The panic of the observer, with which the worker ends.
    panic: Option<handling::Panic>,
}

impl Work {
    /// Creates a worker on a queue. It handles one message at a time, and has no handler yet.
    pub fn on(queue: &Queue) -> Self {
        Self::of(queue.clone())
    }

    /// Creates a worker that handles the messages of a group: see [groups](self#groups). It handles one message at a time, and has no
    /// handler yet.
    ///
    /// Messages with the same [key](crate::partitions::key_of) are handled one after another, in their order, unless
    /// [`in_order_of`](Self::in_order_of) says otherwise. Messages of the same partition that have no key count as of one key.
    pub fn on_group(group: Group) -> Work<(), NoRoutes, Group> {
        let key = |delivery: &Delivery| (delivery.consumer_tag(), key_of(delivery));
        Work::of(group).in_order_of(key)
    }
}

impl<Q> Work<(), NoRoutes, Q> {
    fn of(source: Q) -> Self {
        let options = Options {
            consume: ConsumeOptions::new(),
            at_once: 1,
            prefetch: None,
            grace: Duration::from_secs(30),
            on_panic: OnPanic::Requeue,
            retry: None,
            failed_to: None,
            key_of: None,
            deliveries_max: Some(20),
            warn_after: Duration::from_secs(15 * 60),
            observer: None,
            panic: None,
        };
        Self { source, state: (), routes: NoRoutes, options }
    }

    /// Sets the state for the handlers, which can take it, or parts of it, by [`State`](crate::handler::State). Set it before the
    /// handlers.
    pub fn state<S>(self, state: S) -> Work<S, NoRoutes, Q> {
        Work { source: self.source, state, routes: NoRoutes, options: self.options }
    }
}

impl<S, R> Work<S, R> {
    /// Sets the prefetch limit: how many messages may be unacknowledged, running or waiting here for a handler. By default as many
    /// as run [at once](Self::at_once), so that a slow worker holds no message that another could handle. With a larger limit, the next
    /// message is already here when a handler returns. A smaller limit, and 0, count as the number of handlers at once.
    pub fn prefetch(mut self, messages: u16) -> Self {
        self.options.prefetch = Some(messages);
        self
    }

    /// Sets further options of the consumer, such as its tag or its priority.
    pub fn consume_options(mut self, options: ConsumeOptions) -> Self {
        self.options.consume = options;
        self
    }

    /// Runs the worker until its consumer ends: see [`until`](Self::until).
    ///
    /// # Errors
    /// [`WorkError`].
    ///
    /// # Cancel safety
    /// If the future is dropped, the running handlers are dropped, and their messages are requeued.
    pub async fn run(self) -> Result<Summary, WorkError>
    where
        R: Routes<S>,
    {
        self.until(pending::<()>()).await
    }

    /// Runs the worker until `stop` is ready, such as a future for Ctrl-C. Then it takes no more messages, and lets the running
    /// handlers finish within the [grace period](Self::grace).
    ///
    /// The worker consumes on a channel of its own. It goes on after a loss of the connection that is recovered.
    ///
    /// # Errors
    /// [`WorkError`]: the worker could not start, or its consumer ended, because the queue was deleted or the connection closed.
    ///
    /// # Cancel safety
    /// If the future is dropped, the running handlers are dropped, and their messages are requeued.
    pub async fn until(self, stop: impl Future) -> Result<Summary, WorkError>
    where
        R: Routes<S>,
    {
        run::run(self, stop).await
    }
}

impl<S, R> Work<S, R, Group> {
    /// Sets how often a message may be delivered without being settled, before it is parked: default 20, `None` for any number.
    ///
    /// A message that ends the process, for example because its handler needs too much memory, ends each member that gets its
    /// partition. When a member gets a partition whose oldest message was delivered half as often as this, it handles its messages one
    /// at a time, so that the next death shows which message is to blame. When the oldest message was delivered as often as this, it is
    /// parked, with this reason, and no handler gets it.
    ///
    /// This applies only with a queue for such messages: [`retry`](Self::retry) or [`failed_to`](Self::failed_to).
    pub fn deliveries_max(mut self, deliveries: impl Into<Option<u32>>) -> Self {
        self.options.deliveries_max = deliveries.into();
        self
    }

    /// Runs the worker until its group ends: see [`until`](Self::until).
    ///
    /// # Errors
    /// [`WorkError`].
    ///
    /// # Cancel safety
    /// If the future is dropped, the running handlers are dropped, and the group is left.
    pub async fn run(self) -> Result<Summary, WorkError>
    where
        R: Routes<S> + LeaveDelivery,
    {
        self.until(pending::<()>()).await
    }

    /// Runs the worker until `stop` is ready, such as a future for Ctrl-C. Then it takes no more messages, lets the running handlers
    /// finish within the [grace period](Self::grace), and leaves the group. Other members get what was not handled, in its order.
    ///
    /// # Errors
    /// [`WorkError`]: the queue for [messages that never succeed](Self::retry) could not be declared, or the group
    /// [ended](crate::partitions::GroupEnd).
    ///
    /// # Cancel safety
    /// If the future is dropped, the running handlers are dropped, and the group is left.
    pub async fn until(self, stop: impl Future) -> Result<Summary, WorkError>
    where
        R: Routes<S> + LeaveDelivery,
    {
        run::run(self, stop).await
    }
}

impl<S, R, Q> Work<S, R, Q> {
    /// Adds a handler for messages whose routing key matches `pattern`, as in the binding of a topic exchange: `*` stands for one
    /// word, and `#` for any number of words. The first handler that matches gets the message.
    pub fn route<H, A, M>(
        self,
        pattern: impl AsRef<[u8]>,
        handler: H,
    ) -> Work<S, Route<R, H, A, M>, Q>
    where
        H: Handler<A>,
        H::Output: IntoVerdict,
        A: Arguments<S, M>,
    {
        let pattern = Pattern::new(pattern.as_ref());
        let routes = Route { before: self.routes, pattern, handler, arguments: PhantomData };
        Work { source: self.source, state: self.state, routes, options: self.options }
    }

    /// Adds the handler for all messages that no [`route`](Self::route) before takes. Without it, such messages are refused.
    pub fn otherwise<H, A, M>(self, handler: H) -> Work<S, Route<R, H, A, M>, Q>
    where
        H: Handler<A>,
        H::Output: IntoVerdict,
        A: Arguments<S, M>,
    {
        self.route("#", handler)
    }

    /// Sets how many handlers run at once. Default 1, which keeps the order of the queue. 0 counts as 1.
    pub fn at_once(mut self, handlers: u16) -> Self {
        self.options.at_once = handlers.max(1);
        self
    }

    /// Handles messages of the same key one after another, in their order. Messages of different keys run concurrently. Messages
    /// that wait for their key count against the [prefetch limit](Self::prefetch), so set one that is several times the number of
    /// handlers. The worker keeps that limit also for a consumer that does not acknowledge ([`no_ack`](ConsumeOptions::no_ack)).
    ///
    /// A message that is requeued or retried comes after others of its key, unless it is of a [group](self#groups). After a loss of the connection, messages that were
    /// not acknowledged are delivered again. A message for which `key` panics counts as one whose handler panics.
    ///
    /// ```
    /// # use amqp_client_core::{Delivery, Queue};
    /// # use amqp_client_patterns::handler::RoutingKey;
    /// # use amqp_client_patterns::work::Work;
    /// # fn example(queue: &Queue) {
    /// let work = Work::on(queue).at_once(8).prefetch(64).in_order_of(|delivery| delivery.routing_key());
    /// # }
    /// ```
    pub fn in_order_of<K: Hash>(
        mut self,
        key: impl Fn(&Delivery) -> K + Send + Sync + 'static,
    ) -> Self {
        // Two keys with the same hash only wait for each other.
        let random = RandomState::new();
        self.options.key_of = Some(Box::new(move |delivery| random.hash_one(key(delivery))));
        self
    }

    /// Sets the time for which handlers may go on running once the worker is stopped, or its consumer has ended. Default 30 seconds. When
    /// the connection is closed for good, they are dropped at once.
    ///
    /// A consumer that does not acknowledge ([`no_ack`](ConsumeOptions::no_ack)) has ended when the worker has taken the last of its
    /// deliveries, for which handlers have to be free: nobody else has these messages.
    pub fn grace(mut self, grace: Duration) -> Self {
        self.options.grace = grace;
        self
    }

    /// Sets what becomes of a message whose handler panics. By default, it counts as failed like one whose handler returns an error
    /// ([`OnPanic::Requeue`]). With [`OnPanic::Reject`], it is refused. With [`OnPanic::Propagate`], the panic ends the worker.
    ///
    /// If a panic of something else ends the worker, its messages are requeued, whatever this says, except for those whose handlers
    /// took the [`Delivery`].
    pub fn on_panic(mut self, on_panic: OnPanic) -> Self {
        self.options.on_panic = on_panic;
        self
    }

    /// Sets how messages that fail are tried again. Without it, they are rejected and requeued at once. A message that is refused, or
    /// that has no attempt left, is parked in the queue `<name>.failed`, unless [`failed_to`](Self::failed_to) names another one.
    ///
    /// The worker [declares](Retry::declare) these queues when it starts. The queue itself needs a name of its own: one that the
    /// broker has generated can change when the connection is recovered.
    ///
    /// A [group](self#groups) tries again with the same delivery. So of all queues, it needs only that for parked messages, which is
    /// named after the partitions: `orders.failed`.
    pub fn retry(mut self, retry: Retry) -> Self {
        self.options.retry = Some(retry);
        self
    }

    /// Parks messages that are refused in this queue, with the reason in the header `x-failure`, instead of rejecting them. The copy
    /// is published and confirmed before the original is acknowledged: a crash in between duplicates a message, and loses none.
    ///
    /// The queue has to exist. If the copy cannot be published, the worker reports [`WorkEvent::NotPublished`], and requeues the
    /// message after a second, or handles it again if it is of a [group](self#groups). Until then, the message counts as one that is handled [at once](Self::at_once). So if the parking queue
    /// accepts nothing, each refused message takes the place of a handler for the
    /// [confirm timeout](amqp_client_core::Settings::confirm_timeout) (by default 60 seconds) and that second. The worker stalls while
    /// all places are taken.
    ///
    /// The copy is published through the default exchange, without the properties that would have an effect once more: `user_id`,
    /// `expiration`, and the headers `CC` and `BCC`. Its headers `x-original-exchange` and `x-original-routing-key` say where the
    /// message came from.
    ///
    /// If the headers of the message leave no room in a frame for those of the copy, the copy has no `x-failure`. If that is not
    /// enough, the copy has neither them nor `x-death`, and is parked even if there are attempts left: nothing could count them.
    pub fn failed_to(mut self, queue: impl Into<String>) -> Self {
        self.options.failed_to = Some(queue.into());
        self
    }

    /// Calls `observer` for each [event](WorkEvent), for log lines and metrics: messages that fail, handlers that are slow. The worker
    /// waits while it runs. If it panics, the worker ends with that panic, and requeues its messages.
    pub fn on_event(mut self, observer: impl FnMut(&WorkEvent<'_>) + Send + 'static) -> Self {
        self.options.observer = Some(Box::new(observer));
        self
    }

    /// Sets the time after which a running handler is [reported](WorkEvent::Slow), once. Default 15 minutes: half of RabbitMQ's consumer
    /// timeout. The report may come later by a quarter of this time.
    pub fn warn_after(mut self, time: Duration) -> Self {
        self.options.warn_after = time;
        self
    }
}

impl<S, Q> Work<S, NoRoutes, Q> {
    /// Sets the handler for all messages: the only one.
    pub fn each<H, A, M>(self, handler: H) -> Work<S, Route<NoRoutes, H, A, M>, Q>
    where
        H: Handler<A>,
        H::Output: IntoVerdict,
        A: Arguments<S, M>,
    {
        self.route("#", handler)
    }
}

impl Options {
    /// Returns the prefetch limit of a queue's consumer.
    fn limit(&self) -> u16 {
        self.prefetch.unwrap_or(0).max(self.at_once)
    }
}

impl<S, R: fmt::Debug, Q: fmt::Debug> fmt::Debug for Work<S, R, Q> {
    fn fmt(&self, f: &mut fmt::Formatter<'_>) -> fmt::Result {
        f.debug_struct("Work")
            .field("source", &self.source)
            .field("routes", &self.routes)
            .field("at_once", &self.options.at_once)
            .finish_non_exhaustive()
    }
}
