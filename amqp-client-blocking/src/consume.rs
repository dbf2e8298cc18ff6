use std::fmt;
use std::future::{Future as _, poll_fn};
use std::pin::pin;
use std::task::{Context, Poll};
use std::time::Duration;

use amqp_client_core::wait::Wait as _;
use amqp_client_core::{Consumer, ConsumerEnd, Delivery};

/// What [`Consumer::next`] gives.
type Next = Option<Result<Delivery, ConsumerEnd>>;

/// Waits for a delivery of any of several consumers, which may be of different channels and connections; up to `timeout`, if
/// one is given. Returns the place of the consumer that it came to, with what [`Consumer::next`] gives; nothing if nothing
/// came in time. Each is as likely to be first as the others.
pub fn recv_any(consumers: &mut [Consumer], timeout: Option<Duration>) -> Option<(usize, Next)> {
    let mut first = 0;
    let any = poll_fn(|cx| {
        first += 1;
        poll_any(consumers.iter_mut(), first, cx)
    });
    match timeout {
        Some(timeout) => any.wait_timeout(timeout),
        None => Some(any.wait()),
    }
}

/// Asks all, beginning with that one.
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

/// Consumers with a callback each, all run by the thread that calls [`run`](Self::run) or [`run_once`](Self::run_once).
///
/// A callback may do anything, and wait for anything: declare, publish, cancel its consumer, close its channel. Meanwhile
/// deliveries pile up, and none is lost.
///
/// ```
/// use amqp_client_blocking::{
///     Callbacks, Connection, ConsumeOptions, Message, QueueOptions, Wait as _,
/// };
///
/// # let broker = amqp_test_broker::Broker::start()?;
/// # let connection = Connection::open(&broker.uri())?;
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

/// Why a callback failed, or the consumer ended: [`ConsumerEnd`] tells which.
pub type CallbackError = Box<dyn std::error::Error + Send + Sync>;

type Callback<'a> = dyn FnMut(Delivery) -> Result<(), CallbackError> + Send + 'a;

impl<'a> Callbacks<'a> {
    /// None yet.
    #[must_use]
    pub fn new() -> Self {
        Self::default()
    }

    /// Adds a consumer. The callback gets its deliveries, one at a time.
    pub fn add(
        &mut self,
        consumer: Consumer,
        callback: impl FnMut(Delivery) -> Result<(), CallbackError> + Send + 'a,
    ) {
        self.entries.push(Entry { consumer, callback: Box::new(callback) });
    }

    /// How many consumers there are. Those that end are taken out.
    #[must_use]
    pub fn len(&self) -> usize {
        self.entries.len()
    }

    /// Whether there is no consumer left.
    #[must_use]
    pub fn is_empty(&self) -> bool {
        self.entries.is_empty()
    }

    /// Runs the callbacks until all consumers are cancelled.
    ///
    /// # Errors
    /// That of the first callback that fails, which is run on if this is called again; or the [`ConsumerEnd`] of a consumer
    /// that ended without being cancelled, which is taken out.
    pub fn run(&mut self) -> Result<(), CallbackError> {
        while !self.is_empty() {
            self.dispatch(None)?;
        }
        Ok(())
    }

    /// Waits for one delivery and runs its callback, or for a consumer to be cancelled. Says `false` if neither happened in
    /// time.
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
        let next = match timeout {
            Some(timeout) => any.wait_timeout(timeout),
            None => Some(any.wait()),
        };
        let Some((index, next)) = next else { return Ok(false) };
        match (next, entries.get_mut(index)) {
            (Some(Ok(delivery)), Some(Entry { consumer, callback })) => {
                consumer.contain(|| callback(delivery)).unwrap_or(Ok(()))?;
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
