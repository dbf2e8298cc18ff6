//! What workers take messages from.

mod group;
mod queue;

use std::future::Future;
use std::task::{Context, Poll};

use amqp_client_core::{CallError, ChannelEvents, Connection, ConsumerEnd, Delivery};

use super::settle::Policy;
use super::{Options, Routes, Summary, WorkError};
use crate::codec::BoxError;
use crate::partitions::GroupEnd;

/// A source of messages for a [worker](super::Work).
pub(super) trait Source: Sized {
    /// The source while it is consumed.
    type Arriving: Arriving;

    /// Begins to consume.
    fn begin(
        self,
        options: &mut Options,
    ) -> impl Future<Output = Result<Start<Self::Arriving>, WorkError>> + Send;
}

/// A source that is being consumed.
pub(super) struct Start<A> {
    pub(super) connection: Connection,
    pub(super) arriving: A,
    /// The events of the channel, unless the source reports them itself.
    pub(super) events: Option<ChannelEvents>,
    pub(super) policy: Policy,
}

/// The messages that arrive from a source.
pub(super) trait Arriving: Send {
    type Delivery: Taken;

    fn poll_next(&mut self, cx: &mut Context<'_>) -> Poll<Option<Result<Self::Delivery, End>>>;

    /// Returns whether more may arrive.
    fn is_open(&self) -> bool;

    /// Takes no more messages.
    fn stop(&mut self);

    /// Returns the number of messages that the broker sends without an acknowledgement.
    fn limit(&self) -> usize;

    /// Ends the source, after its last delivery was settled or given up.
    fn end(&mut self) -> impl Future<Output = ()> + Send;
}

/// The reason why a source has ended by itself.
#[derive(Debug)]
pub(super) enum End {
    Consumer(ConsumerEnd),
    Group(GroupEnd),
}

impl End {
    pub(super) fn into_error(self, summary: Summary) -> WorkError {
        let summary = Box::new(summary);
        match self {
            Self::Consumer(end) => WorkError::Ended { end, summary },
            Self::Group(end) => WorkError::GroupEnded { end, summary },
        }
    }
}

/// A delivery that a worker has taken.
pub(super) trait Taken: Sized + Send {
    /// Whether a message that fails is handled again with the same delivery.
    const IN_PLACE: bool;
    /// What becomes of a message a while after its copy could not be published.
    const AFTER_PAUSE: &'static str;

    fn delivery(&self) -> &Delivery;
    fn into_delivery(self) -> Delivery;

    /// Returns the key that the delivery has, whatever the user says.
    fn key(&self) -> Option<u64> {
        None
    }

    /// Returns why no handler gets the message.
    fn refusal(&self) -> Option<BoxError> {
        None
    }

    /// Calls the handler for the delivery: see [`Routes::start`].
    fn call<S, R: Routes<S>>(
        this: &mut Option<Self>,
        routes: &R,
        state: &S,
    ) -> Result<Option<R::Running>, BoxError>;

    fn ack(self) -> Result<(), CallError>;
    fn reject(self, requeue: bool) -> Result<(), CallError>;
    /// Gives the delivery back, which is no failure of the message.
    fn requeue(self) -> Result<(), CallError>;
}
