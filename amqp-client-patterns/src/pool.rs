//! A pool of channels, for transactions and for requests that may fail.
//!
//! Publishing needs no pool: any number of tasks can share one channel and its publisher, and their messages and confirms do not
//! get in each other's way. A pool is for what needs a channel to itself for a while:
//!
//! - transactions, because everything on the channel in the meantime is a part of them;
//! - requests that the broker may refuse, because a refusal closes the channel.
//!
//! A channel from the pool saves opening one, which takes a round trip.
//!
//! ```
//! # use amqp_client_tokio::{CallError, Channel, Message, QueueOptions, connect};
//! use amqp_client_patterns::pool::ChannelPool;
//!
//! # #[tokio::main(flavor = "current_thread")]
//! # async fn main() -> Result<(), Box<dyn std::error::Error>> {
//! # let broker = amqp_test_broker::Broker::start()?;
//! # let connection = connect(&broker.uri()).await?;
//! # connection.open_channel().await?.queue_declare("orders", QueueOptions::new()).await?;
//! // At most 8 transactions at once. The next one waits.
//! let pool = ChannelPool::transactional(&connection, 8);
//! let channel = pool.get().await?;
//! channel
//!     .transaction(async |channel: &Channel| {
//!         let orders = channel.queue("orders")?;
//!         orders.publish(&Message::new("one")).await?;
//!         orders.publish(&Message::new("two")).await?;
//!         Ok::<_, Box<dyn std::error::Error>>(())
//!     })
//!     .await?;
//! # Ok(())
//! # }
//! ```

use std::collections::BTreeMap;
use std::fmt;
use std::future::poll_fn;
use std::ops::Deref;
use std::sync::{Arc, Mutex, MutexGuard, PoisonError};
use std::task::{Context, Poll, Waker};

use amqp_client_core::{CallError, Channel, Connection, Reply};

/// A pool of channels of one connection: see [the module](self). Clones are handles of the same pool.
#[derive(Clone)]
pub struct ChannelPool {
    inner: Arc<Inner>,
}

struct Inner {
    connection: Connection,
    transactional: bool,
    max: usize,
    state: Mutex<State>,
}

struct State {
    /// Number of channels that may still be taken.
    free: usize,
    /// Channels that were returned. There are never more of them than may be taken.
    idle: Vec<Idle>,
    /// The tasks that wait for a channel, by their tickets: in the order in which they came.
    waiting: BTreeMap<u64, Waker>,
    last_ticket: u64,
}

/// A channel that nobody uses.
struct Idle {
    channel: Channel,
    /// The request that was sent when the last user returned the channel. Its reply shows that all earlier requests have succeeded,
    /// even if their replies were not awaited: none of them can close the channel under the next user.
    last_request: Reply<()>,
}

impl ChannelPool {
    /// Creates a pool of at most `max` channels, for requests that may fail. 0 counts as 1.
    ///
    /// Opens no channel before it is needed. Like any other handle, the pool keeps its connection open.
    #[must_use]
    pub fn new(connection: &Connection, max: usize) -> Self {
        Self::with(connection, max, false)
    }

    /// Creates a pool of at most `max` transactional channels (`tx.select`). 0 counts as 1.
    #[must_use]
    pub fn transactional(connection: &Connection, max: usize) -> Self {
        Self::with(connection, max, true)
    }

    fn with(connection: &Connection, max: usize, transactional: bool) -> Self {
        let max = max.max(1);
        let state = State { free: max, idle: Vec::new(), waiting: BTreeMap::new(), last_ticket: 0 };
        let (connection, state) = (connection.clone(), Mutex::new(state));
        Self { inner: Arc::new(Inner { connection, transactional, max, state }) }
    }

    /// Takes a channel. Waits while all are in use; those that wait get theirs in the order in which they came. The channel returns
    /// to the pool when it is dropped.
    ///
    /// # Errors
    /// [`CallError`], if no channel could be opened. Waiting has no timeout of its own: wrap the future in one of your runtime.
    ///
    /// # Cancel safety
    /// Dropping the future gives up its place.
    pub async fn get(&self) -> Result<PooledChannel, CallError> {
        let permit = self.permit().await;
        // Channels that are idle may have been closed meanwhile.
        while let Some(idle) = permit.0.idle_channel() {
            if idle.last_request.await.is_ok() && idle.channel.is_open() {
                return Ok(PooledChannel { channel: idle.channel, permit });
            }
        }
        let channel = self.inner.connection.open_channel().await?;
        if self.inner.transactional {
            channel.tx_select().await?;
        }
        Ok(PooledChannel { channel, permit })
    }

    /// Returns the number of channels that may be in use at once.
    #[must_use]
    pub fn max(&self) -> usize {
        self.inner.max
    }

    /// Returns the number of channels that are idle: open, and in nobody's use.
    #[must_use]
    pub fn idle(&self) -> usize {
        self.inner.lock().idle.len()
    }

    async fn permit(&self) -> Permit {
        let mut place = Place { pool: &self.inner, ticket: None };
        poll_fn(|cx| place.poll(cx)).await;
        Permit(self.inner.clone())
    }
}

impl Inner {
    fn lock(&self) -> MutexGuard<'_, State> {
        self.state.lock().unwrap_or_else(PoisonError::into_inner)
    }

    fn idle_channel(&self) -> Option<Idle> {
        self.lock().idle.pop()
    }

    /// Wakes the first task that waits, if there is a channel for it.
    fn wake_next(&self) {
        let state = self.lock();
        let next = state.waiting.values().next().filter(|_| state.free > 0).cloned();
        drop(state);
        next.into_iter().for_each(Waker::wake);
    }
}

/// A place in the line of tasks that wait for a channel.
struct Place<'a> {
    pool: &'a Inner,
    ticket: Option<u64>,
}

impl Place<'_> {
    fn poll(&mut self, cx: &Context<'_>) -> Poll<()> {
        // Wakers are cloned and dropped without the lock.
        let waker = cx.waker().clone();
        let mut state = self.pool.lock();
        let first = state.waiting.keys().next().copied();
        if state.free > 0 && (first.is_none() || first == self.ticket) {
            state.free -= 1;
            drop(state);
            // The next one may find a channel as well.
            self.leave();
            return Poll::Ready(());
        }
        let ticket = *self.ticket.get_or_insert_with(|| {
            state.last_ticket += 1;
            state.last_ticket
        });
        let before = state.waiting.insert(ticket, waker);
        drop(state);
        drop(before);
        Poll::Pending
    }

    fn leave(&mut self) {
        if let Some(ticket) = self.ticket.take() {
            let waker = self.pool.lock().waiting.remove(&ticket);
            drop(waker);
            self.pool.wake_next();
        }
    }
}

impl Drop for Place<'_> {
    fn drop(&mut self) {
        self.leave();
    }
}

/// The right to use a channel.
struct Permit(Arc<Inner>);

impl Drop for Permit {
    fn drop(&mut self) {
        self.0.lock().free += 1;
        self.0.wake_next();
    }
}

/// A channel that was taken from a [`ChannelPool`]. It dereferences to [`Channel`].
///
/// When it is dropped, it returns to the pool, if it is clean: it is open, all other handles of it are dropped (clones, consumers,
/// publishers, deliveries), it has no unsettled deliveries, and it is in the mode of the pool. Otherwise it closes with its last
/// handle, and the pool opens another one when it needs it. What a transaction has not committed is rolled back: deliveries that it
/// had acknowledged are requeued, because their channel closes. The prefetch limit of a channel that is not transactional is reset.
#[must_use = "a channel that is dropped returns to the pool"]
pub struct PooledChannel {
    channel: Channel,
    // Dropped after the channel has returned to the pool, so that the task that is woken finds it there.
    permit: Permit,
}

impl Deref for PooledChannel {
    type Target = Channel;

    fn deref(&self) -> &Channel {
        &self.channel
    }
}

impl Drop for PooledChannel {
    fn drop(&mut self) {
        let (channel, pool) = (&self.channel, &*self.permit.0);
        let clean = channel.is_open()
            && channel.handles() == 1
            && !channel.is_confirming()
            && channel.is_transactional() == pool.transactional;
        if clean {
            let last_request =
                if pool.transactional { channel.tx_rollback() } else { channel.basic_qos(0) };
            // An idle channel would keep such deliveries from everybody. The rollback counts what was acknowledged in vain.
            if channel.unsettled() == 0 {
                pool.lock().idle.push(Idle { channel: channel.clone(), last_request });
            }
        }
    }
}

impl fmt::Debug for ChannelPool {
    fn fmt(&self, f: &mut fmt::Formatter<'_>) -> fmt::Result {
        let state = self.inner.lock();
        f.debug_struct("ChannelPool")
            .field("max", &self.inner.max)
            .field("transactional", &self.inner.transactional)
            .field("free", &state.free)
            .field("idle", &state.idle.len())
            .field("waiting", &state.waiting.len())
            .finish_non_exhaustive()
    }
}

impl fmt::Debug for PooledChannel {
    fn fmt(&self, f: &mut fmt::Formatter<'_>) -> fmt::Result {
        f.debug_tuple("PooledChannel").field(&self.channel).finish()
    }
}
