use std::fmt;
use std::future::{Future, poll_fn};
use std::hash::{BuildHasher as _, Hasher as _, RandomState};
use std::pin::pin;
use std::task::{Context, Poll};
use std::time::Duration;

use amqp_client_core::adapter::Wait as _;
use amqp_client_core::{ConnectionEvent, ConnectionEvents, Consumer, ConsumerEnd, Delivery};

/// The item that [`Consumer::next`] returns.
type Next = Option<Result<Delivery, ConsumerEnd>>;

/// Waits for a delivery of any of several consumers, for at most `timeout` if there is one. The consumers may belong to different
/// channels and connections. Returns the index of a consumer and the result of its [`Consumer::next`], or `None` after the
/// timeout. If several consumers have deliveries, each is equally likely to be chosen.
///
/// A consumer that was cancelled is returned at once, each time, until it is removed:
///
/// ```no_run
/// use std::time::Duration;
///
/// use amqp_client_blocking::{Consumer, recv_any};
///
/// # fn example(mut consumers: Vec<Consumer>) -> Result<(), Box<dyn std::error::Error>> {
/// let second = Some(Duration::from_secs(1));
/// while let Some((index, next)) = recv_any(&mut consumers, second) {
///     match next {
///         Some(delivery) => delivery?.ack()?,
///         None => drop(consumers.remove(index)),
///     }
/// }
/// # Ok(())
/// # }
/// ```
pub fn recv_any(consumers: &mut [Consumer], timeout: Option<Duration>) -> Option<(usize, Next)> {
    // Each call begins with another consumer, so that none that always has deliveries keeps the others waiting.
    let mut first = random();
    let any = poll_fn(|cx| {
        first = first.wrapping_add(1);
        poll_any(consumers.iter_mut(), first, cx)
    });
    wait(any, timeout)
}

/// A result of [`recv_any_or_event`].
#[derive(Debug)]
#[non_exhaustive]
pub enum Received {
    /// A consumer has a delivery, or has ended.
    Delivery {
        /// The index of the consumer.
        consumer: usize,
        /// The result of its [`Consumer::next`].
        next: Next,
    },
    /// Something happened to the connection.
    Event(ConnectionEvent),
    /// There are no more events: the connection is closed, and the last event was `Closed`.
    Ended,
}

/// Waits for a delivery of any of several consumers, or for an event of a connection, for at most `timeout` if there is one. Returns
/// `None` after the timeout. So one thread can handle messages and follow the state of the connection.
///
/// Events come first. Otherwise, it behaves as [`recv_any`]. Once the events have [ended](Received::Ended), that is returned at once,
/// each time.
///
/// ```no_run
/// use std::time::Duration;
///
/// use amqp_client_blocking::{Connection, ConnectionEvent, Consumer, Received, recv_any_or_event};
///
/// # fn example(connection: Connection, mut consumers: Vec<Consumer>) -> Result<(), Box<dyn std::error::Error>> {
/// let mut events = connection.events();
/// loop {
///     match recv_any_or_event(&mut consumers, &mut events, Some(Duration::from_secs(1))) {
///         Some(Received::Delivery { next: Some(delivery), .. }) => delivery?.ack()?,
///         Some(Received::Delivery { consumer, next: None }) => drop(consumers.remove(consumer)),
///         Some(Received::Event(ConnectionEvent::Lost { reason })) => println!("lost: {reason}"),
///         Some(Received::Event(event)) => println!("{event:?}"),
///         Some(_) => return Ok(()),
///         None => println!("nothing happened for a second"),
///     }
/// }
/// # }
/// ```
pub fn recv_any_or_event(
    consumers: &mut [Consumer],
    events: &mut ConnectionEvents,
    timeout: Option<Duration>,
) -> Option<Received> {
    let mut first = random();
    let any = poll_fn(|cx| {
        if let Poll::Ready(event) = pin!(events.next()).poll(cx) {
            return Poll::Ready(event.map_or(Received::Ended, Received::Event));
        }
        first = first.wrapping_add(1);
        let next = poll_any(consumers.iter_mut(), first, cx);
        next.map(|(consumer, next)| Received::Delivery { consumer, next })
    });
    wait(any, timeout)
}

/// Waits for a future, for at most `timeout` if there is one.
fn wait<T>(future: impl Future<Output = T>, timeout: Option<Duration>) -> Option<T> {
    match timeout {
        Some(timeout) => future.wait_timeout(timeout),
        None => Some(future.wait()),
    }
}

/// Returns a random number.
fn random() -> usize {
    let random = RandomState::new().build_hasher().finish();
    usize::try_from(random >> 32).unwrap_or_default()
}

/// Polls all consumers, beginning with the given one.
fn poll_any<'a>(
    consumers: impl ExactSizeIterator<Item = &'a mut Consumer>,
    first: usize,
    cx: &mut Context<'_>,
) -> Poll<(usize, Next)> {
    let count = consumers.len();
    let mut consumers: Vec<_> = consumers.enumerate().collect();
    consumers.rotate_left(first % count.max(1));
    for (index, consumer) in consumers {
        if let Poll::Ready(next) = pin!(consumer.next()).poll(cx) {
            return Poll::Ready((index, next));
        }
    }
    Poll::Pending
}

/// A set of consumers with one callback each. The thread that calls [`run`](Self::run) or [`run_once`](Self::run_once) runs all
/// callbacks.
///
/// A callback may block and may use all handles: declare, publish, cancel its consumer, close its channel. In the meantime,
/// deliveries are buffered, and none is lost.
///
/// ```
/// use amqp_client_blocking::{
///     Callbacks, ConsumeOptions, Message, QueueOptions, Wait as _, connect,
/// };
///
/// # let broker = amqp_test_broker::Broker::start()?;
/// # let connection = connect(&broker.uri())?;
/// let channel = connection.open_channel().wait()?;
/// let queue = channel.queue_declare("work", QueueOptions::new()).wait()?;
/// queue.publish(&Message::new("quit")).wait()?;
///
/// let mut callbacks = Callbacks::new();
/// let consumer = queue.consume(ConsumeOptions::new()).wait()?;
/// callbacks.add(consumer, |delivery| {
///     if delivery.body() == b"quit" {
///         // Its consumer ends, and with it, as there is no other, `run`.
///         delivery.channel().basic_cancel(delivery.consumer_tag()).wait()?;
///     }
///     Ok(delivery.ack()?)
/// });
/// callbacks.run()?;
/// # Ok::<(), Box<dyn std::error::Error + Send + Sync>>(())
/// ```
#[derive(Default)]
pub struct Callbacks<'a> {
    entries: Vec<Entry<'a>>,
    first: usize,
}

struct Entry<'a> {
    consumer: Consumer,
    callback: Box<Callback<'a>>,
}

/// The reason why a callback failed, or a [`ConsumerEnd`] if a consumer ended.
///
/// ```no_run
/// use amqp_client_blocking::{Callbacks, ConsumerEnd};
///
/// # fn example(mut callbacks: Callbacks<'_>) {
/// if let Err(error) = callbacks.run() {
///     match error.downcast_ref::<ConsumerEnd>() {
///         Some(end) => println!("a consumer ended: {end}"),
///         None => println!("a callback failed: {error}"),
///     }
/// }
/// # }
/// ```
pub type CallbackError = Box<dyn std::error::Error + Send + Sync>;

type Callback<'a> = dyn FnMut(Delivery) -> Result<(), CallbackError> + Send + 'a;

impl<'a> Callbacks<'a> {
    /// Creates an empty set.
    #[must_use]
    pub fn new() -> Self {
        Self::default()
    }

    /// Adds a consumer. The callback is called with its deliveries, one at a time.
    pub fn add(
        &mut self,
        consumer: Consumer,
        callback: impl FnMut(Delivery) -> Result<(), CallbackError> + Send + 'a,
    ) {
        self.entries.push(Entry { consumer, callback: Box::new(callback) });
    }

    /// Returns the number of consumers. Consumers that have ended are removed.
    #[must_use]
    pub fn len(&self) -> usize {
        self.entries.len()
    }

    /// Returns whether no consumer is left.
    #[must_use]
    pub fn is_empty(&self) -> bool {
        self.entries.is_empty()
    }

    /// Runs the callbacks until all consumers are cancelled.
    ///
    /// # Errors
    /// The error of the first callback that fails; its consumer stays in the set, so that you can call this method again. Or the
    /// [`ConsumerEnd`] of a consumer that ended without being cancelled; that consumer is removed.
    pub fn run(&mut self) -> Result<(), CallbackError> {
        while !self.is_empty() {
            self.dispatch(None)?;
        }
        Ok(())
    }

    /// Waits for one delivery and runs its callback, or waits for a consumer to be cancelled. Returns `false` if neither happened
    /// in time.
    ///
    /// # Errors
    /// As [`run`](Self::run).
    pub fn run_once(&mut self, timeout: Duration) -> Result<bool, CallbackError> {
        self.dispatch(Some(timeout))
    }

    fn dispatch(&mut self, timeout: Option<Duration>) -> Result<bool, CallbackError> {
        let Self { entries, first } = self;
        let any = poll_fn(|cx| {
            *first += 1;
            poll_any(entries.iter_mut().map(|entry| &mut entry.consumer), *first, cx)
        });
        let Some((index, next)) = wait(any, timeout) else { return Ok(false) };
        match (next, entries.get_mut(index)) {
            (Some(Ok(delivery)), Some(Entry { consumer, callback })) => {
                let scope = delivery.scope();
                consumer.contain(|| scope.run(|| callback(delivery))).unwrap_or(Ok(()))?;
            }
            (Some(Err(end)), _) => {
                entries.remove(index);
                return Err(end.into());
            }
            (None, _) | (_, None) => drop(entries.remove(index)),
        }
        Ok(true)
    }
}

impl fmt::Debug for Callbacks<'_> {
    fn fmt(&self, f: &mut fmt::Formatter<'_>) -> fmt::Result {
        f.debug_list().entries(self.entries.iter().map(|entry| &entry.consumer)).finish()
    }
}
