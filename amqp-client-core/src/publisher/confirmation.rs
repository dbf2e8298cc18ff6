use std::collections::VecDeque;
use std::fmt;
use std::future::Future;
use std::pin::Pin;
use std::task::{Context, Poll};
use std::time::Duration;

use amqp_proto::PublishSeq;
use thiserror::Error;

use crate::channel::Channel;
use crate::error::{ConfirmError, PublishError};
use crate::state::Deadline;

/// A future that resolves to the outcome of a publish: `Ok` once the broker has confirmed the message.
///
/// ```no_run
/// # use amqp_client_core as amqp_client_tokio;
/// # use amqp_client_tokio::Publisher;
/// use amqp_client_tokio::ConfirmError;
///
/// # async fn example(publisher: Publisher) -> Result<(), Box<dyn std::error::Error>> {
/// let confirmation = publisher.publish("jobs", "work").await?;
/// match confirmation.await {
///     Ok(()) => println!("a queue has it"),
///     Err(ConfirmError::Returned(_)) => println!("no queue is bound for it"),
///     Err(error) => return Err(error.into()),
/// }
/// # Ok(())
/// # }
/// ```
///
/// # Errors
/// [`ConfirmError`]: refused, returned, or unknown.
///
/// # Cancel safety
/// Dropping the confirmation discards the outcome; the message is sent regardless.
#[must_use = "await the confirmation to learn whether the broker accepted the message"]
#[derive(Debug)]
pub struct Confirmation {
    channel: Channel,
    /// `None` once the outcome was returned.
    seq: Option<PublishSeq>,
    deadline: Option<Deadline>,
}

impl Confirmation {
    pub(super) const fn new(channel: Channel, seq: Option<PublishSeq>) -> Self {
        Self { channel, seq, deadline: None }
    }

    /// Sets the timeout for this confirm, instead of the [`confirm_timeout`](crate::Settings::confirm_timeout). It starts now, or
    /// when everything that is queued now [is written](crate::Settings#timeouts-on-slow-links).
    pub fn timeout(mut self, timeout: Duration) -> Self {
        let (shared, place) = (self.channel.connection().shared(), Some(self.channel.place()));
        self.deadline = Some(Deadline::start(shared, shared.lock(), place, |_| Some(timeout)));
        self
    }

    /// Withdraws a [kept](crate::OnLoss::Keep) message: it is no longer sent. Returns `true` if the message was certainly never
    /// sent. On `false`, the broker may have it: the message is in flight, or was when the connection was lost.
    /// [`wait_for_confirms`](crate::Publisher::wait_for_confirms) does not count a withdrawn message as a failure, unless its
    /// confirm still arrives and reports one.
    ///
    /// Dropping the confirmation, or a [`timeout`](Self::timeout) that has passed, does not withdraw the message: it is sent once
    /// the connection is restored. See also [`keep_for`](crate::PublisherOptions::keep_for).
    #[must_use = "if it was sent, the broker may have it"]
    pub fn withdraw(self) -> bool {
        let Some(seq) = self.seq else { return false };
        let mut state = self.channel.lock();
        // Once the channel is closed, its number may belong to another channel, which may have a message of the same `seq`.
        let protocol = self.channel.protocol(&mut state);
        let withdrawn = protocol.is_ok_and(|mut channel| channel.withdraw(seq));
        // The kept messages have room again, and so has the window, unless the message is in flight.
        state.dispatch();
        state.call_publishers();
        withdrawn
    }

    /// Returns the number of the publish on its channel, from 1.
    #[must_use]
    pub fn seq(&self) -> Option<PublishSeq> {
        self.seq
    }
}

impl Future for Confirmation {
    type Output = Result<(), ConfirmError>;

    fn poll(mut self: Pin<&mut Self>, cx: &mut Context<'_>) -> Poll<Self::Output> {
        let Some(seq) = self.seq else {
            return Poll::Pending;
        };
        // With many messages in flight, the outcome of the oldest is often known, and no waker is needed.
        let outcome =
            match self.channel.with_state(|state| state.confirms.as_mut()?.take(seq.get())) {
                Some(outcome) => Poll::Ready(outcome),
                None => self
                    .channel
                    .poll_state(cx, |state, task| state.confirms().poll(seq.get(), task)),
            };
        if let Poll::Ready(outcome) = outcome {
            self.seq = None;
            self.deadline = None;
            return Poll::Ready(outcome);
        }
        let Self { channel, deadline, .. } = &mut *self;
        poll_deadline(channel, deadline, cx).map(Err)
    }
}

impl Drop for Confirmation {
    fn drop(&mut self) {
        if let Some(seq) = self.seq {
            let _waker = self.channel.with_state(|state| state.confirms().forget(seq.get()));
        }
    }
}

/// A future that resolves to the outcome of several publishes: `Ok` once the broker has confirmed all of the messages.
///
/// To get the outcome of each message, iterate: this is an iterator of [`Confirmation`]s.
///
/// ```no_run
/// # use amqp_client_core as amqp_client_tokio;
/// # use amqp_client_tokio::PreparedPublisher;
/// # async fn example(publisher: PreparedPublisher) -> Result<(), Box<dyn std::error::Error>> {
/// let confirmations = publisher.publish_all(["one", "two", "three"]).await?;
/// // Waits for all of them, and returns the first error.
/// confirmations.await?;
/// # Ok(())
/// # }
/// ```
///
/// # Errors
/// [`ConfirmError`] of the first message, in publishing order, that failed. The future does not wait for the messages after it.
///
/// # Cancel safety
/// Dropping it discards the outcomes; the messages are sent regardless.
#[must_use = "await the confirmations to learn whether the broker accepted the messages"]
pub struct Confirmations {
    channel: Channel,
    /// The publishes whose outcome was not returned yet, the oldest first.
    seqs: VecDeque<PublishSeq>,
    deadline: Option<Deadline>,
}

/// For log lines: without the numbers of all the messages.
impl fmt::Debug for Confirmations {
    fn fmt(&self, f: &mut fmt::Formatter<'_>) -> fmt::Result {
        f.debug_struct("Confirmations")
            .field("channel", &self.channel)
            .field("outstanding", &self.seqs.len())
            .finish_non_exhaustive()
    }
}

impl Confirmations {
    pub(super) const fn new(channel: Channel, seqs: VecDeque<PublishSeq>) -> Self {
        Self { channel, seqs, deadline: None }
    }

    pub(super) fn extend(&mut self, seqs: impl IntoIterator<Item = PublishSeq>) {
        self.seqs.extend(seqs);
    }

    /// Returns the number of messages whose outcome was not returned yet.
    #[must_use]
    pub fn len(&self) -> usize {
        self.seqs.len()
    }

    /// Returns whether all outcomes were returned.
    #[must_use]
    pub fn is_empty(&self) -> bool {
        self.seqs.is_empty()
    }
}

impl Iterator for Confirmations {
    type Item = Confirmation;

    fn next(&mut self) -> Option<Confirmation> {
        let seq = self.seqs.pop_front()?;
        Some(Confirmation::new(self.channel.clone(), Some(seq)))
    }

    fn size_hint(&self) -> (usize, Option<usize>) {
        (self.seqs.len(), Some(self.seqs.len()))
    }
}

impl Future for Confirmations {
    type Output = Result<(), ConfirmError>;

    fn poll(mut self: Pin<&mut Self>, cx: &mut Context<'_>) -> Poll<Self::Output> {
        let Self { channel, seqs, deadline } = &mut *self;
        let outcome = channel.poll_state(cx, |state, task| {
            while let Some(seq) = seqs.front() {
                match state.confirms().poll(seq.get(), task) {
                    Poll::Ready(Ok(())) => drop(seqs.pop_front()),
                    Poll::Ready(Err(error)) => {
                        seqs.pop_front();
                        return Poll::Ready(Err(error));
                    }
                    Poll::Pending => return Poll::Pending,
                }
            }
            Poll::Ready(Ok(()))
        });
        match outcome {
            Poll::Pending => poll_deadline(channel, deadline, cx).map(Err),
            ready => ready,
        }
    }
}

impl Drop for Confirmations {
    fn drop(&mut self) {
        let seqs = &self.seqs;
        if !seqs.is_empty() {
            // Only the first of them has a waker, which is dropped after the lock is released.
            let _waker = self.channel.with_state(|state| {
                let forgotten = seqs.iter().map(|seq| state.confirms().forget(seq.get()));
                forgotten.fold(None, Option::or)
            });
        }
    }
}

/// Publishing several messages failed after some of them were sent.
///
/// ```no_run
/// # use amqp_client_core as amqp_client_tokio;
/// # use amqp_client_tokio::PreparedPublisher;
/// use amqp_client_tokio::PublishAllError;
///
/// # async fn example(publisher: PreparedPublisher) -> Result<(), Box<dyn std::error::Error>> {
/// if let Err(PublishAllError { sent, error, .. }) = publisher.publish_all(["one", "two"]).await {
///     println!("only {} messages were sent: {error}", sent.len());
///     sent.await?;
/// }
/// # Ok(())
/// # }
/// ```
#[derive(Error)]
#[error("publishing failed after {} messages were sent", sent.len())]
#[non_exhaustive]
pub struct PublishAllError {
    /// The confirmations of the messages that were sent.
    pub sent: Confirmations,
    /// The reason why the next message was not sent. No later message was sent.
    #[source]
    pub error: PublishError,
}

amqp_proto::__common_methods! { PublishAllError { Self { error, .. } => error } }
amqp_proto::__debug_shows_chain! { PublishAllError }

/// Starts the deadline for confirms at the first call. Ready once the deadline has passed.
pub(super) fn poll_deadline(
    channel: &Channel,
    deadline: &mut Option<Deadline>,
    cx: &Context<'_>,
) -> Poll<ConfirmError> {
    let shared = channel.connection().shared();
    let deadline = deadline.get_or_insert_with(|| {
        let place = Some(channel.place());
        Deadline::start(shared, shared.lock(), place, |settings| settings.confirm_timeout)
    });
    if deadline.expired(cx) {
        return Poll::Ready(ConfirmError::TimedOut { after: deadline.after() });
    }
    Poll::Pending
}
