//! A queue, as the source of a worker.

use std::task::{Context, Poll};

use amqp_client_core::{CallError, Channel, Consumer, Delivery, Queue, ShortStr};
use futures_util::StreamExt as _;

use super::{Arriving, End, Source, Start, Taken};
use crate::codec::BoxError;
use crate::retry::Retry;
use crate::work::settle::{Policy, Retries};
use crate::work::{Options, Routes, WorkError};

/// The consumer of a queue.
#[derive(Debug)]
pub(in crate::work) struct FromQueue {
    /// `None` once nothing more is taken, or the consumer has ended.
    consumer: Option<Consumer>,
    limit: u16,
}

impl Source for Queue {
    type Arriving = FromQueue;

    /// Declares the queues for retries, and consumes the queue on a channel of its own.
    async fn begin(self, options: &mut Options) -> Result<Start<FromQueue>, WorkError> {
        let connection = self.channel().connection().clone();
        let channel = connection.open_channel().await?;
        // Before the first delivery, which the client may not accept.
        let events = Some(channel.events());
        let name = self.current_name();
        let retries = match options.retry {
            // Before the first delivery: losses count as attempts, and after the last one the broker moves a message to the queue for
            // those that failed. If that queue does not exist, the message is lost.
            Some(retry) => declare(&channel, &name, retry).await?,
            None => Retries::None,
        };
        let limit = options.limit();
        let consume = options.consume.clone().prefetch(limit);
        let consumer = channel.basic_consume(&name, consume).await?.on_panic(options.on_panic);
        let arriving = FromQueue { consumer: Some(consumer), limit };
        let policy = Policy::new(&connection, retries, options.failed_to.as_deref());
        Ok(Start { connection, arriving, events, policy })
    }
}

impl Arriving for FromQueue {
    type Delivery = Delivery;

    #[inline]
    fn poll_next(&mut self, cx: &mut Context<'_>) -> Poll<Option<Result<Delivery, End>>> {
        let Some(consumer) = &mut self.consumer else { return Poll::Ready(None) };
        consumer.poll_next_unpin(cx).map(|next| next.map(|next| next.map_err(End::Consumer)))
    }

    #[inline]
    fn is_open(&self) -> bool {
        self.consumer.is_some()
    }

    fn stop(&mut self) {
        self.consumer = None;
    }

    fn limit(&self) -> usize {
        self.limit.into()
    }

    async fn end(&mut self) {}
}

impl Taken for Delivery {
    const IN_PLACE: bool = false;
    const AFTER_PAUSE: &'static str = "requeued";

    #[inline]
    fn delivery(&self) -> &Delivery {
        self
    }

    fn into_delivery(self) -> Delivery {
        self
    }

    #[inline]
    fn call<S, R: Routes<S>>(
        this: &mut Option<Self>,
        routes: &R,
        state: &S,
    ) -> Result<Option<R::Running>, BoxError> {
        routes.start(this, state)
    }

    #[inline]
    fn ack(self) -> Result<(), CallError> {
        Self::ack(self)
    }

    fn reject(self, requeue: bool) -> Result<(), CallError> {
        Self::reject(self, requeue)
    }

    fn requeue(self) -> Result<(), CallError> {
        self.nack(true)
    }
}

async fn declare(channel: &Channel, queue: &ShortStr, retry: Retry) -> Result<Retries, WorkError> {
    let name = match queue.to_str() {
        Ok(name) if !name.starts_with(GENERATED) => name,
        _ => return Err(WorkError::QueueName(queue.clone())),
    };
    // A queue that does not exist is an error here, before anything is declared for it.
    channel.queue_declare_passive(name).await?;
    let strategy = retry.declare(channel.connection(), name).await?;
    Ok(Retries::Broker { retry, strategy, queue: name.into() })
}

/// The broker generates names that begin so. After a loss, such a queue can have another name.
const GENERATED: &str = "amq.gen-";
