//! Deliveries in batches: for databases and files that take many rows at once as fast as one.
//!
//! ```
//! # use amqp_client_tokio::{Message, QueueOptions, connect};
//! use std::time::Duration;
//!
//! use amqp_client_patterns::batch::Batching;
//!
//! # #[tokio::main(flavor = "current_thread")]
//! # async fn main() -> Result<(), Box<dyn std::error::Error>> {
//! # let broker = amqp_test_broker::Broker::start()?;
//! # let connection = connect(&broker.uri()).await?;
//! # let channel = connection.open_channel().await?;
//! # let queue = channel.queue_declare("rows", QueueOptions::new()).await?;
//! # for row in ["a", "b", "c"] { queue.publish_confirmed(&Message::new(row)).await?; }
//! // At most 500 messages, or those that arrive within 20 milliseconds of the first.
//! let mut batches = Batching::on(&queue, 500, Duration::from_millis(20)).start().await?;
//! while let Some(batch) = batches.next().await {
//!     let batch = batch?;
//!     let rows: Vec<&[u8]> = batch.iter().map(|delivery| delivery.body()).collect();
//!     println!("{} rows", rows.len());
//!     batch.ack()?;
//! #   break;
//! }
//! # Ok(())
//! # }
//! ```

use std::fmt;
use std::future::poll_fn;
use std::ops::Deref;
use std::pin::Pin;
use std::task::{Context, Poll};
use std::time::Duration;
use std::vec;

use amqp_client_core::{After, CallError, ConsumeOptions, Consumer, ConsumerEnd, Delivery, Queue};
use futures_core::Stream;
use futures_util::{FutureExt as _, StreamExt as _};
use thiserror::Error;

use crate::shown::debug_shows_chain;

/// Options of a consumer of batches.
#[derive(Debug, Clone)]
#[must_use = "call `start`"]
pub struct Batching {
    queue: Queue,
    size: u16,
    within: Duration,
    prefetch: Option<u16>,
    consume: ConsumeOptions,
}

/// A consumer of batches, as a [`Stream`]. [`Batching::start`] creates it.
///
/// The stream ends like that of a [`Consumer`], after a last batch of what has arrived. Dropping it cancels the consumer and requeues
/// the deliveries that were not taken.
#[must_use = "a consumer that is dropped is cancelled"]
pub struct Batches {
    consumer: Consumer,
    size: usize,
    within: Duration,
    gathered: Vec<Delivery>,
    /// The end of the time for the batch that is being gathered.
    time: Option<After>,
    end: Option<Result<(), ConsumerEnd>>,
}

/// Deliveries that arrived one after another: at least one. Dereferences to a slice of them.
///
/// Deliveries of a batch that is dropped are requeued. To settle them one by one, iterate over the batch.
#[derive(Debug)]
#[must_use = "deliveries that are dropped are requeued"]
pub struct Batch(Vec<Delivery>);

/// A consumer of batches could not start.
#[derive(Error)]
#[non_exhaustive]
pub enum BatchingError {
    /// The prefetch limit is below the size of a batch, so no batch would ever be full.
    #[error(
        "a batch of {size} messages is never full with a prefetch limit of {prefetch}; raise the limit"
    )]
    Prefetch {
        /// The size of a batch.
        size: u16,
        /// The prefetch limit.
        prefetch: u16,
    },
    /// A channel could not be opened, or the queue could not be consumed.
    #[error("the consumer of batches could not start")]
    Start(#[from] CallError),
}

impl Batching {
    /// Gathers up to `size` deliveries, or those that arrive `within` this time of the first one. A size of 0 counts as 1.
    pub fn on(queue: &Queue, size: u16, within: Duration) -> Self {
        let (queue, size) = (queue.clone(), size.max(1));
        Self { queue, size, within, prefetch: None, consume: ConsumeOptions::new() }
    }

    /// Sets the prefetch limit: how many deliveries may be unacknowledged; 0 is no limit. By default twice the size of a batch, so that
    /// the next batch arrives while this one is handled. It must not be smaller than a batch.
    pub fn prefetch(self, messages: u16) -> Self {
        Self { prefetch: Some(messages), ..self }
    }

    /// Sets further options of the consumer, such as its tag or its priority. Their prefetch limit is not used: see
    /// [`prefetch`](Self::prefetch).
    pub fn consume_options(self, options: ConsumeOptions) -> Self {
        Self { consume: options, ..self }
    }

    /// Consumes the queue, on a channel of its own.
    ///
    /// # Errors
    /// [`BatchingError`].
    ///
    /// # Cancel safety
    /// Dropping the future cancels the consumer.
    pub async fn start(self) -> Result<Batches, BatchingError> {
        let Self { queue, size, within, prefetch, consume } = self;
        let prefetch = prefetch.unwrap_or_else(|| size.saturating_mul(2));
        if prefetch != 0 && prefetch < size {
            return Err(BatchingError::Prefetch { size, prefetch });
        }
        let channel = queue.channel().connection().open_channel().await?;
        let consumer =
            channel.basic_consume(queue.current_name(), consume.prefetch(prefetch)).await?;
        let (gathered, size) = (Vec::new(), usize::from(size));
        Ok(Batches { consumer, size, within, gathered, time: None, end: None })
    }
}

impl Batches {
    /// Waits for the next batch. Returns `None` once the consumer is cancelled. An error is returned once, as the last item.
    ///
    /// # Cancel safety
    /// Dropping the future loses nothing: the next call goes on with what was gathered.
    pub async fn next(&mut self) -> Option<Result<Batch, ConsumerEnd>> {
        poll_fn(|cx| self.poll_batch(cx)).await
    }

    /// Returns the consumer, to cancel it, for example.
    pub const fn consumer(&self) -> &Consumer {
        &self.consumer
    }

    fn poll_batch(&mut self, cx: &mut Context<'_>) -> Poll<Option<Result<Batch, ConsumerEnd>>> {
        loop {
            if self.is_full() || self.end.is_some() || self.is_over(cx) {
                if let Some(batch) = self.hand_out() {
                    return Poll::Ready(Some(Ok(batch)));
                }
                if let Some(end) = &mut self.end {
                    return Poll::Ready(std::mem::replace(end, Ok(())).err().map(Err));
                }
            }
            match self.consumer.poll_next_unpin(cx) {
                Poll::Ready(Some(Ok(delivery))) => self.gather(delivery),
                Poll::Ready(Some(Err(end))) => self.end = Some(Err(end)),
                Poll::Ready(None) => self.end = Some(Ok(())),
                Poll::Pending => return Poll::Pending,
            }
        }
    }

    fn gather(&mut self, delivery: Delivery) {
        if self.gathered.is_empty() {
            self.time = Some(self.consumer.channel().connection().after(self.within));
        }
        self.gathered.push(delivery);
    }

    fn is_full(&mut self) -> bool {
        if self.gathered.len() >= self.size {
            self.drop_stale();
        }
        self.gathered.len() >= self.size
    }

    /// Drops deliveries that the broker has requeued: it delivers them again.
    fn drop_stale(&mut self) {
        self.gathered.retain(|delivery| !delivery.is_stale());
    }

    /// Returns whether the time for the batch is over. If the connection has ended, nothing more comes.
    fn is_over(&mut self, cx: &mut Context<'_>) -> bool {
        self.time.as_mut().is_some_and(|time| time.poll_unpin(cx).is_ready())
    }

    fn hand_out(&mut self) -> Option<Batch> {
        self.time = None;
        self.drop_stale();
        let gathered = std::mem::take(&mut self.gathered);
        (!gathered.is_empty()).then_some(Batch(gathered))
    }
}

impl Batch {
    /// Acknowledges all deliveries. They are merged into one `basic.ack` with `multiple` if that acknowledges nothing else, such as
    /// an earlier batch that is still being handled.
    ///
    /// # Errors
    /// [`CallError`], if the channel is closed.
    pub fn ack(self) -> Result<(), CallError> {
        self.settle(Delivery::ack)
    }

    /// Returns all deliveries to the broker; see [`Delivery::nack`].
    ///
    /// # Errors
    /// As [`ack`](Self::ack).
    pub fn nack(self, requeue: bool) -> Result<(), CallError> {
        self.settle(|delivery| delivery.nack(requeue))
    }

    /// Rejects all deliveries; see [`Delivery::reject`].
    ///
    /// # Errors
    /// As [`ack`](Self::ack).
    pub fn reject(self, requeue: bool) -> Result<(), CallError> {
        self.settle(|delivery| delivery.reject(requeue))
    }

    fn settle(
        self,
        mut settle: impl FnMut(Delivery) -> Result<(), CallError>,
    ) -> Result<(), CallError> {
        self.0.into_iter().try_for_each(&mut settle)
    }
}

impl Deref for Batch {
    type Target = [Delivery];

    fn deref(&self) -> &[Delivery] {
        &self.0
    }
}

impl IntoIterator for Batch {
    type Item = Delivery;
    type IntoIter = vec::IntoIter<Delivery>;

    fn into_iter(self) -> Self::IntoIter {
        self.0.into_iter()
    }
}

impl<'a> IntoIterator for &'a Batch {
    type Item = &'a Delivery;
    type IntoIter = std::slice::Iter<'a, Delivery>;

    fn into_iter(self) -> Self::IntoIter {
        self.0.iter()
    }
}

impl Stream for Batches {
    type Item = Result<Batch, ConsumerEnd>;

    fn poll_next(mut self: Pin<&mut Self>, cx: &mut Context<'_>) -> Poll<Option<Self::Item>> {
        self.poll_batch(cx)
    }
}

impl fmt::Debug for Batches {
    fn fmt(&self, f: &mut fmt::Formatter<'_>) -> fmt::Result {
        f.debug_struct("Batches")
            .field("consumer", &self.consumer)
            .field("size", &self.size)
            .field("gathered", &self.gathered.len())
            .finish_non_exhaustive()
    }
}

debug_shows_chain! { BatchingError }
