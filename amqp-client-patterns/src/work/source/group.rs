//! A group, as the source of a worker.

use std::panic::{AssertUnwindSafe, catch_unwind, resume_unwind};
use std::sync::Arc;
use std::task::{Context, Poll};
use std::time::Duration;

use amqp_client_core::{CallError, Delivery};
use futures_util::StreamExt as _;

use super::{Arriving, End, Source, Start, Taken};
use crate::codec::BoxError;
use crate::partitions::{Group, PartitionDelivery};
use crate::retry::{self, Retry};
use crate::work::settle::{Policy, Retries};
use crate::work::{Options, Routes, WorkError};

/// How a message is tried again by default: until it succeeds.
const FOREVER: Retry = Retry::times(u32::MAX);

impl Source for Group {
    type Arriving = FromGroup;

    /// Declares the queue for messages that never succeed.
    async fn begin(self, options: &mut Options) -> Result<Start<FromGroup>, WorkError> {
        let connection = self.channel().connection().clone();
        let mut failed_to = options.failed_to.clone();
        if let (Some(retry), None) = (options.retry, &failed_to) {
            let name = self.partitions().name();
            let name = name.to_str().map_err(|_| WorkError::QueueName(name.clone()))?;
            retry.declare_failed(&connection, name).await?;
            failed_to = Some(retry::failed(name));
        }
        let retries = Retries::Here(options.retry.unwrap_or(FOREVER));
        let policy = Policy::new(&connection, retries, failed_to.as_deref());
        // Without a queue for it, a message is not given up.
        let deliveries_max = options.deliveries_max.filter(|_| failed_to.is_some());
        let arriving = FromGroup {
            careful: vec![None; self.partitions().count() as usize],
            group: Some(self),
            is_open: true,
            deliveries_max,
        };
        Ok(Start { connection, arriving, events: None, policy })
    }
}

/// Shared by the messages of a partition of which one at a time is handled.
type Alone = Arc<()>;

/// The deliveries of a group.
pub(in crate::work) struct FromGroup {
    /// `None` once the group was left.
    group: Option<Group>,
    is_open: bool,
    /// How often a message may be delivered.
    deliveries_max: Option<u32>,
    /// For each partition whose messages are handled one at a time, because one of them may end the process: what they share.
    careful: Vec<Option<Alone>>,
}

impl FromGroup {
    /// Looks at how often members have died with this message.
    fn look_at(&mut self, delivery: PartitionDelivery) -> FromPartition {
        let careful = self.careful.get_mut(delivery.partition() as usize);
        let (Some(careful), Some(max)) = (careful, self.deliveries_max) else {
            return FromPartition { delivery, alone: None, refused_after: None };
        };
        // A header that cannot be read counts nothing: the message is handled.
        let before = delivery.delivery_count().unwrap_or(0);
        let is_suspect = before >= u64::from(max / 2).max(1);
        if delivery.is_first() && is_suspect {
            careful.get_or_insert_default();
        } else if !is_suspect {
            // As long as one of those is left, this message may have its key.
            careful.take_if(|alone| Arc::strong_count(alone) == 1);
        }
        let alone = careful.clone();
        // Only one message at a time is handled, so the oldest one is to blame.
        let is_refused = delivery.is_first() && before >= u64::from(max.max(1));
        FromPartition { delivery, alone, refused_after: is_refused.then_some(before) }
    }
}

impl Arriving for FromGroup {
    type Delivery = FromPartition;

    fn poll_next(&mut self, cx: &mut Context<'_>) -> Poll<Option<Result<FromPartition, End>>> {
        let Some(group) = &mut self.group else { return Poll::Ready(None) };
        let next = group.poll_next_unpin(cx);
        next.map(|next| next.map(|next| next.map(|it| self.look_at(it)).map_err(End::Group)))
    }

    fn is_open(&self) -> bool {
        self.is_open
    }

    fn stop(&mut self) {
        self.is_open = false;
        self.group.iter_mut().for_each(Group::stop);
    }

    fn limit(&self) -> usize {
        self.group.as_ref().map_or(0, Group::prefetch)
    }

    async fn end(&mut self) {
        if let Some(group) = self.group.take() {
            // If it fails, the channel is closed already.
            let _closed = group.leave(Duration::ZERO).await;
        }
    }
}

/// A delivery of a group.
pub(in crate::work) struct FromPartition {
    delivery: PartitionDelivery,
    /// Set if it is handled while no other message of its partition is.
    alone: Option<Alone>,
    /// The number of deliveries before, if they are too many.
    refused_after: Option<u64>,
}

impl Taken for FromPartition {
    const IN_PLACE: bool = true;
    const AFTER_PAUSE: &'static str = "handled again";

    fn delivery(&self) -> &Delivery {
        &self.delivery
    }

    fn into_delivery(self) -> Delivery {
        self.delivery.into_parts().1
    }

    fn key(&self) -> Option<u64> {
        self.alone.as_ref().map(|_| self.delivery.partition().into())
    }

    fn refusal(&self) -> Option<BoxError> {
        let before = self.refused_after?;
        Some(
            format!(
                "it was delivered {before} times, and not settled: perhaps it ends the process"
            )
            .into(),
        )
    }

    fn call<S, R: Routes<S>>(
        this: &mut Option<Self>,
        routes: &R,
        state: &S,
    ) -> Result<Option<R::Running>, BoxError> {
        let Some(Self { delivery, alone, refused_after }) = this.take() else { return Ok(None) };
        let is_first = delivery.is_first();
        let (place, delivery) = delivery.into_parts();
        let mut lent = Some(delivery);
        let started = catch_unwind(AssertUnwindSafe(|| routes.start(&mut lent, state)));
        // It is still there: the handlers of a group cannot take it, see `LeaveDelivery`.
        *this = lent.map(|delivery| {
            let delivery = PartitionDelivery::new(place, delivery, is_first);
            Self { delivery, alone, refused_after }
        });
        started.unwrap_or_else(|panic| resume_unwind(panic))
    }

    fn ack(self) -> Result<(), CallError> {
        self.delivery.ack()
    }

    fn reject(self, requeue: bool) -> Result<(), CallError> {
        if requeue { self.requeue() } else { self.delivery.reject() }
    }

    /// The channel holds the message until it closes.
    fn requeue(self) -> Result<(), CallError> {
        drop(self.delivery);
        Ok(())
    }
}
