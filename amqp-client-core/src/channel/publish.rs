use std::collections::VecDeque;
use std::future::poll_fn;
use std::task::Poll;
use std::time::Duration;

use amqp_proto::session::SessionChannel;
use amqp_proto::{
    Body, EncodeProperties, Gate, Prepared, PublishError, PublishSeq, RawProperties, Route,
};
use bytes::Bytes;
use futures_util::future::Either;

use super::Channel;
use super::waiting_place::{Size, WaitingPlace};
use crate::intercept::{Observers, Published, Watched};
use crate::options::{OnLoss, PublisherOptions};
use crate::state::{ChannelState, Counts, Deadline, State, Task};

/// Everything of a message but its body.
pub(crate) trait Heads {
    fn route(&self) -> Route<'_>;

    /// Returns the encoded properties.
    fn properties(&self) -> RawProperties;

    /// Returns the number of bytes that the message takes in the outgoing buffer, with a body of that size.
    fn queued_size(&self, body: usize) -> usize;

    /// Queues the message.
    fn publish(
        &self,
        channel: &mut SessionChannel<'_>,
        body: impl Body,
    ) -> Result<Option<PublishSeq>, PublishError>;

    /// Returns the observer of this publish, if there is one. It gets the confirm.
    #[inline]
    fn take_observer(&self) -> Option<Box<dyn Published>> {
        None
    }
}

impl<P: EncodeProperties> Heads for (Route<'_>, &P) {
    fn route(&self) -> Route<'_> {
        self.0
    }

    fn properties(&self) -> RawProperties {
        let mut encoded = Vec::new();
        self.1.encode_into(&mut encoded);
        RawProperties::unchecked(encoded.into())
    }

    fn queued_size(&self, body: usize) -> usize {
        self.0.queued_size(self.1, body)
    }

    #[inline]
    fn publish(
        &self,
        channel: &mut SessionChannel<'_>,
        body: impl Body,
    ) -> Result<Option<PublishSeq>, PublishError> {
        channel.publish(&self.0, self.1, body)
    }
}

impl Heads for &Prepared {
    fn route(&self) -> Route<'_> {
        Prepared::route(self)
    }

    fn properties(&self) -> RawProperties {
        Prepared::properties(self).clone()
    }

    fn queued_size(&self, body: usize) -> usize {
        Prepared::route(self).queued_size(Prepared::properties(self), body)
    }

    #[inline]
    fn publish(
        &self,
        channel: &mut SessionChannel<'_>,
        body: impl Body,
    ) -> Result<Option<PublishSeq>, PublishError> {
        channel.publish_prepared(self, body)
    }
}

/// A message without its body, and how it goes out.
pub(crate) struct Outgoing<'a, H> {
    pub(crate) heads: H,
    /// The options of the publisher, if there is one. If so, the outcome of the publish is recorded.
    pub(crate) publisher: Option<&'a PublisherOptions>,
    /// The properties of a message that is kept until it is confirmed.
    pub(crate) kept: Option<&'a RawProperties>,
}

impl<H> Outgoing<'_, H> {
    /// Returns the same message, as an interceptor has left it.
    pub(super) fn watched_by<'a>(
        &'a self,
        watched: &'a Watched<'a>,
    ) -> Outgoing<'a, &'a Watched<'a>> {
        let kept = self.kept.map(|_| watched.properties());
        Outgoing { heads: watched, publisher: self.publisher, kept }
    }
}

/// The reason why a message could not be published right now.
pub(crate) enum NotNow<B> {
    /// The message has to wait.
    Wait(Gate, B),

    /// It cannot be published. The body is returned unless the message itself is at fault.
    Failed(PublishError, Option<B>),
}

/// A future that can wait until it may publish, and its task.
pub(crate) struct WaitingPublish<'a, 's, 'w> {
    place: &'a mut WaitingPlace<'s>,
    task: &'a mut Task<'w>,
}

/// A body that is copied or taken under the lock. The lender drops it after the lock is released, because dropping it may run
/// user code ([`Bytes::from_owner`](bytes::Bytes::from_owner)).
struct Lent<'a, B>(&'a mut Option<B>);

impl<B> amqp_proto::__sealed::Sealed for Lent<'_, B> {}

impl<B: Body> Body for Lent<'_, B> {
    #[inline]
    fn as_bytes(&self) -> &[u8] {
        self.0.as_ref().map_or(&[], Body::as_bytes)
    }

    fn into_bytes(self) -> Bytes {
        self.0.take().map_or_else(Bytes::new, Body::into_bytes)
    }
}

/// The reason why publishing several messages stopped.
enum Stop {
    Held(Gate),
    Failed(PublishError),
}

/// Messages published under one lock: enough that taking the lock costs little for each, and few enough that other users of the
/// connection wait for a fraction of a millisecond.
const BATCH_MAX: usize = 256;

impl Channel {
    /// Publishes a message as soon as the gates and the window let it. If there is an interceptor, it sees the message first.
    pub(crate) fn publish_later<B: Body>(
        &self,
        outgoing: &Outgoing<'_, impl Heads>,
        body: B,
        timeout: Option<Duration>,
        tried: bool,
    ) -> impl Future<Output = Result<Option<PublishSeq>, PublishError>> {
        match &self.connection().shared().observers {
            None => Either::Left(self.publish_held(outgoing, body, timeout, tried)),
            // In a box, because a larger future costs each publish, also without an interceptor.
            Some(Observers { interceptor, .. }) => Either::Right(Box::pin(
                self.publish_intercepted(interceptor, outgoing, body, timeout, None),
            )),
        }
    }

    /// Publishes a message now or not at all.
    pub(crate) fn publish_at_once<B: Body>(
        &self,
        outgoing: &Outgoing<'_, impl Heads>,
        body: B,
    ) -> Result<Option<PublishSeq>, NotNow<B>> {
        match &self.connection().shared().observers {
            None => self.try_publish(outgoing, body, None),
            Some(Observers { interceptor, .. }) => {
                self.try_publish_intercepted(interceptor, outgoing, body)
            }
        }
    }

    /// Publishes several messages, as soon as the gates and the window allow. Calls `published` for each.
    pub(crate) async fn publish_all_soon<B: Body>(
        &self,
        outgoing: &Outgoing<'_, impl Heads>,
        bodies: impl Iterator<Item = B>,
        timeout: Option<Duration>,
        published: impl FnMut(Option<PublishSeq>),
    ) -> Result<(), PublishError> {
        match &self.connection().shared().observers {
            None => self.publish_all_later(outgoing, bodies, timeout, published).await,
            Some(Observers { interceptor, .. }) => {
                let all =
                    self.publish_all_intercepted(interceptor, outgoing, bodies, timeout, published);
                Box::pin(all).await
            }
        }
    }

    /// Publishes as soon as the gates and the window let it. If publishing was `tried` just before, the first poll has clones of
    /// the waker in advance: without them, it would be made twice.
    pub(super) async fn publish_held<B: Body>(
        &self,
        outgoing: &Outgoing<'_, impl Heads>,
        body: B,
        timeout: Option<Duration>,
        tried: bool,
    ) -> Result<Option<PublishSeq>, PublishError> {
        self.connection().shared().let_driver_run().await;
        let mut body = Some(body);
        let mut deadline: Option<Deadline> = None;
        let mut place = WaitingPlace::new(self);
        let mut has_to_wait = tried;
        poll_fn(move |cx| {
            let mut task = match std::mem::take(&mut has_to_wait) {
                true => Task::stocked(cx.waker()),
                false => Task::new(cx.waker()),
            };
            let by = loop {
                let Some(given) = body.take() else {
                    return Poll::Pending;
                };
                let mut waiter = WaitingPublish { place: &mut place, task: &mut task };
                match self.try_publish(outgoing, given, Some(&mut waiter)) {
                    Ok(seq) => return Poll::Ready(Ok(seq)),
                    Err(NotNow::Failed(error, _)) => return Poll::Ready(Err(error)),
                    Err(NotNow::Wait(by, given)) => {
                        body = Some(given);
                        if !task.restock() {
                            break by;
                        }
                    }
                }
            };
            self.poll_held(&mut deadline, timeout, by, &place, task).map(Err)
        })
        .await
    }

    /// Publishes several messages, as soon as the gates and the window allow. As many as allowed are sent under one lock. Calls
    /// `published` for each.
    async fn publish_all_later<B: Body>(
        &self,
        outgoing: &Outgoing<'_, impl Heads>,
        mut bodies: impl Iterator<Item = B>,
        timeout: Option<Duration>,
        mut published: impl FnMut(Option<PublishSeq>),
    ) -> Result<(), PublishError> {
        let mut waiting = VecDeque::new();
        let mut deadline: Option<Deadline> = None;
        let mut place = WaitingPlace::new(self);
        poll_fn(move |cx| {
            let mut task = Task::new(cx.waker());
            loop {
                if waiting.is_empty() {
                    // Iterating runs user code, so it happens without the lock.
                    waiting.extend(bodies.by_ref().take(BATCH_MAX).map(Some));
                }
                if waiting.is_empty() {
                    return Poll::Ready(Ok(()));
                }
                let before = waiting.len();
                let mut waiter = WaitingPublish { place: &mut place, task: &mut task };
                let stop = self.publish_many(outgoing, &mut waiting, &mut waiter, &mut published);
                if waiting.len() < before {
                    deadline = None;
                }
                match stop {
                    Ok(()) if self.connection().shared().take_starved() => {
                        self.connection().shared().yield_now(cx.waker());
                        return Poll::Pending;
                    }
                    Ok(()) => {}
                    Err(Stop::Held(_)) if task.restock() => {}
                    Err(Stop::Held(by)) => {
                        return self.poll_held(&mut deadline, timeout, by, &place, task).map(Err);
                    }
                    Err(Stop::Failed(error)) => return Poll::Ready(Err(error)),
                }
            }
        })
        .await
    }

    /// Publishes waiting messages, up to the first that has to wait or fails. Returns that one.
    fn publish_many<B: Body>(
        &self,
        outgoing: &Outgoing<'_, impl Heads>,
        waiting: &mut VecDeque<Option<B>>,
        waiter: &mut WaitingPublish<'_, '_, '_>,
        mut published: impl FnMut(Option<PublishSeq>),
    ) -> Result<(), Stop> {
        let mut state = self.lock();
        let (mut sent, mut stop) = (0, Ok(()));
        for body in waiting.iter_mut() {
            match self.publish_locked(&mut state, outgoing, body, Some(waiter)) {
                Ok(seq) => published(seq),
                Err(Stop::Held(by)) => {
                    stop = Err(Stop::Held(by));
                    break;
                }
                Err(Stop::Failed(error)) => {
                    stop = Err(Stop::Failed(error));
                    break;
                }
            }
            sent += 1;
        }
        drop(state);
        // The remaining bodies are dropped after the lock is released.
        waiting.drain(..sent);
        stop
    }

    /// Polls the deadline of a message that has to wait. Ready with an error when the publish timeout has passed.
    fn poll_held(
        &self,
        deadline: &mut Option<Deadline>,
        timeout: Option<Duration>,
        by: Gate,
        place: &WaitingPlace<'_>,
        task: Task<'_>,
    ) -> Poll<PublishError> {
        let deadline = deadline.get_or_insert_with(|| {
            let mut state = self.lock();
            // Messages that wait in front of this one are queued and written first.
            let ahead = place.bytes_ahead(&mut state).saturating_add(state.proto.queued());
            let counts = Counts::BehindOthers { queued: ahead, channel: Some(self.place()) };
            Deadline::start_as(self.connection().shared(), state, timeout, counts)
        });
        if deadline.expired_as(task) {
            let after = deadline.after();
            self.with_state(|channel| channel.tally.counters.publish_failed += 1);
            return Poll::Ready(PublishError::TimedOut { gate: by, after });
        }
        Poll::Pending
    }

    /// Publishes the message, or returns the reason and the body. With a waiter, the task is woken when the message can be
    /// published.
    pub(crate) fn try_publish<B: Body>(
        &self,
        outgoing: &Outgoing<'_, impl Heads>,
        body: B,
        waiter: Option<&mut WaitingPublish<'_, '_, '_>>,
    ) -> Result<Option<PublishSeq>, NotNow<B>> {
        let mut body = Some(body);
        let published = self.publish_locked(&mut self.lock(), outgoing, &mut body, waiter);
        published.map_err(|stop| match (stop, body) {
            (Stop::Held(by), Some(body)) => NotNow::Wait(by, body),
            (Stop::Held(by), None) => {
                debug_assert!(false, "a body is taken only by publishing it");
                NotNow::Failed(PublishError::Gated(by), None)
            }
            (Stop::Failed(error), body) => NotNow::Failed(error, body),
        })
    }

    #[inline]
    fn publish_locked<B: Body>(
        &self,
        state: &mut State,
        outgoing: &Outgoing<'_, impl Heads>,
        body: &mut Option<B>,
        mut waiter: Option<&mut WaitingPublish<'_, '_, '_>>,
    ) -> Result<Option<PublishSeq>, Stop> {
        let Outgoing { heads, publisher, kept } = outgoing;
        if let Some(kept) = kept {
            return self.keep_locked(state, heads, kept, *publisher, body, waiter);
        }
        let body = Lent(body);
        let size = body.as_bytes().len();
        // Encodes the properties, so it is left out where only the body counts.
        let whole = || heads.queued_size(size);
        let overtakes = !state.full.is_empty() && overtakes(state, waiter.as_deref(), whole());
        let (channel, mut protocol) = match self.both_sides(state) {
            Ok(sides) => sides,
            Err(error) => return Err(failed(state, self.place(), error.into())),
        };
        let crowded = publisher.is_some_and(|publisher| {
            let ticket = waiter.as_ref().and_then(|waiter| waiter.place.window());
            !channel.has_room(publisher.limits(), size, ticket)
        });
        if overtakes || crowded {
            // While it does not fit into its window, room in the buffer is of no use to it: it would take a turn and pass it on.
            let line = if crowded { Gate::Window } else { Gate::Full };
            // A gate that is shut for all publishers comes first.
            let by = protocol.check_gate().err().filter(|gate| *gate != Gate::Full).unwrap_or(line);
            let whole = if by == Gate::Full { whole() } else { 0 };
            let size = Size { body: size, whole };
            return Err(held(state, self.place(), by, *publisher, size, waiter));
        }
        // `publish` checks the gates itself.
        match heads.publish(&mut protocol, body) {
            Ok(seq) => {
                channel.tally.published(size);
                if let Some(seq) = seq {
                    let is_first = await_confirm(channel, seq, size, publisher.is_some());
                    if let Some(observer) = heads.take_observer() {
                        channel.confirms().observe(seq, observer);
                    }
                    if is_first {
                        state.time_later(self.place());
                    }
                }
                state.wake_driver();
                state.count_publish(self.connection().shared());
                if let Some(waiter) = waiter.as_mut().filter(|waiter| !waiter.place.is_nowhere()) {
                    waiter.leave(state);
                }
                Ok(seq)
            }
            Err(error) => {
                let size = Size { body: size, whole: whole() };
                Err(refused(state, self.place(), error, *publisher, size, waiter))
            }
        }
    }

    /// Publishes a message that is kept until it is confirmed.
    #[inline(never)]
    fn keep_locked<B: Body>(
        &self,
        state: &mut State,
        heads: &impl Heads,
        properties: &RawProperties,
        publisher: Option<&PublisherOptions>,
        body: &mut Option<B>,
        mut waiter: Option<&mut WaitingPublish<'_, '_, '_>>,
    ) -> Result<Option<PublishSeq>, Stop> {
        let route = &heads.route();
        let body = Lent(body);
        let size = body.as_bytes().len();
        let whole = SessionChannel::kept_size(route, properties, size);
        let sizes = Size { body: size, whole };
        let full = overtakes(state, waiter.as_deref(), whole);
        let place = waiter.as_ref().map(|waiter| &*waiter.place);
        let kept_ticket = place.and_then(WaitingPlace::kept);
        let kept = state.kept.overtakes(kept_ticket, whole, state.proto.kept_room());
        let ticket = place.and_then(WaitingPlace::window);
        let (channel, protocol) = match self.both_sides(state) {
            Ok(sides) => sides,
            Err(error) => return Err(failed(state, self.place(), error.into())),
        };
        // The session takes the body before it looks at the gates. So this looks before, when the body can still wait.
        let crowded =
            publisher.is_some_and(|publisher| !channel.has_room(publisher.limits(), size, ticket));
        let held_by = match protocol.check_kept_gate(route, properties, size) {
            Err(gate) if !matches!(gate, Gate::Full | Gate::Kept) => Some(gate),
            // Before it waits for room that it cannot use yet: it would take a turn and pass it on.
            _ if crowded => Some(Gate::Window),
            // Publishers that wait for room go first. It waits for room in the outgoing buffer last, and holds the other room then.
            _ if kept => Some(Gate::Kept),
            Err(gate) => Some(gate),
            Ok(()) if full => Some(Gate::Full),
            Ok(()) => None,
        };
        if let Some(by) = held_by {
            return Err(held(state, self.place(), by, publisher, sizes, waiter));
        }
        let time = publisher.and_then(PublisherOptions::how_long_kept);
        match protocol.keep_for(time).publish_kept(route, properties, body) {
            Ok(seq) => {
                channel.tally.published(size);
                let is_first = await_confirm(channel, seq, size, publisher.is_some());
                if let Some(observer) = heads.take_observer() {
                    channel.confirms().observe(seq, observer);
                }
                if is_first {
                    state.time_later(self.place());
                }
                state.wake_driver();
                state.count_publish(self.connection().shared());
                if let Some(waiter) = waiter.as_mut().filter(|waiter| !waiter.place.is_nowhere()) {
                    waiter.leave(state);
                }
                Ok(Some(seq))
            }
            Err(error) => Err(refused(state, self.place(), error, publisher, sizes, waiter)),
        }
    }
}

impl WaitingPublish<'_, '_, '_> {
    /// Leaves the queues after publishing.
    #[cold]
    fn leave(&mut self, state: &mut State) {
        self.task.bury(self.place.leave(state).into_iter().flatten());
    }
}

/// Records a publish with confirms. Returns whether to time it at the next turn of the driver.
#[inline]
fn await_confirm(channel: &mut ChannelState, seq: PublishSeq, size: usize, watched: bool) -> bool {
    channel.confirms().published(seq, size, watched)
}

/// Returns whether others come first for the room in the outgoing buffer that this message would take.
#[cold]
fn overtakes(state: &State, waiter: Option<&WaitingPublish<'_, '_, '_>>, whole: usize) -> bool {
    let ticket = waiter.and_then(|waiter| waiter.place.full());
    state.full.overtakes(ticket, whole, state.proto.room())
}

/// The session did not take the message.
#[cold]
fn refused(
    state: &mut State,
    place: u32,
    error: PublishError,
    publisher: Option<&PublisherOptions>,
    size: Size,
    waiter: Option<&mut WaitingPublish<'_, '_, '_>>,
) -> Stop {
    match error {
        PublishError::Gated(gate) => held(state, place, gate, publisher, size, waiter),
        error => {
            state.bury_discarded();
            failed(state, place, error)
        }
    }
}

/// The message has to wait, or fails because its publisher does not.
#[cold]
fn held(
    state: &mut State,
    place: u32,
    by: Gate,
    publisher: Option<&PublisherOptions>,
    size: Size,
    waiter: Option<&mut WaitingPublish<'_, '_, '_>>,
) -> Stop {
    let fails = publisher.is_some_and(|options| options.what_on_loss() == OnLoss::Fail);
    if fails && by == Gate::Recovering {
        return failed(state, place, PublishError::Gated(by));
    }
    if let Some(WaitingPublish { place, task }) = waiter {
        place.wait(state, by, publisher.map(PublisherOptions::limits), size, task);
    }
    Stop::Held(by)
}

/// Counts a message that was not sent.
#[cold]
fn failed(state: &mut State, place: u32, error: PublishError) -> Stop {
    if let Some(channel) = state.channel(place) {
        channel.tally.counters.publish_failed += 1;
    }
    Stop::Failed(error)
}
