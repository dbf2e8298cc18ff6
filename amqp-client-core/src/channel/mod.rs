//! Channels: requests, publishing and consuming.

mod basic;
mod events;
mod exchange;
mod holding;
mod intercepted;
mod no_wait;
mod publish;
mod queue;
mod request;
mod tx;
mod waiting_place;

pub use events::ChannelEvents;
pub use exchange::Exchange;
pub(crate) use exchange::exchange_binding;
pub use no_wait::NoWait;
pub(crate) use publish::{Heads, NotNow, Outgoing};
pub use queue::Queue;
pub(crate) use queue::queue_binding;

use std::fmt;
use std::future::poll_fn;
use std::sync::atomic::{AtomicU64, Ordering};
use std::sync::{Arc, Weak};
use std::task::{Context, Poll};

use amqp_proto::session::SessionChannel;
use amqp_proto::{ChannelError, ChannelId, Delivery, DeliveryTag, Initiator, ReplyCode};

use crate::connection::Connection;
use crate::counters::Counters;
use crate::error::CallError;
use crate::event::ChannelEvent;
use crate::state::{ChannelState, Deadline, Guard, On, State, Task, Waiting};

/// A channel of a [`Connection`].
///
/// All operations of the protocol happen on channels. Requests return a [`Reply`](crate::Reply) to await. Any number of requests
/// can be pending at once. Handles can be used from many tasks and threads at once.
///
/// Clones are handles of the same channel. The channel closes when [`close`](Self::close) is called, when a request fails, or when
/// its last handle is dropped. Handles are: channels, the values that their methods return, consumers, publishers, and
/// unacknowledged deliveries.
///
/// ```no_run
/// # use amqp_client_core as amqp_client_tokio;
/// # use amqp_client_tokio::Channel;
/// use amqp_client_tokio::{ConsumeOptions, QueueOptions};
///
/// # async fn example(channel: Channel) -> Result<(), Box<dyn std::error::Error>> {
/// channel.basic_qos(100).await?;
/// let queue = channel.queue_declare("jobs", QueueOptions::new()).await?;
/// let consumer = queue.consume(ConsumeOptions::new()).await?;
/// # Ok(())
/// # }
/// ```
#[derive(Clone)]
pub struct Channel {
    handle: Arc<Handle>,
    /// True if everything done through this handle is restored after a loss.
    recovers: bool,
}

/// The shared part of all handles of a channel.
pub(crate) struct Handle {
    connection: Connection,
    id: ChannelId,
    /// The channel's index in the connection's state.
    place: u32,
    /// Deliveries up to this tag are stale: the broker has requeued them.
    stale: Arc<AtomicU64>,
}

impl Drop for Handle {
    fn drop(&mut self) {
        self.connection.shared().lock().release_channel(self.place);
    }
}

impl Channel {
    pub(crate) fn new(
        connection: Connection,
        id: ChannelId,
        place: u32,
        stale: Arc<AtomicU64>,
    ) -> Self {
        Self { handle: Arc::new(Handle { connection, id, place, stale }), recovers: true }
    }

    /// Another handle of a channel.
    pub(crate) const fn of(handle: Arc<Handle>) -> Self {
        Self { handle, recovers: true }
    }

    pub(crate) fn downgrade(&self) -> Weak<Handle> {
        Arc::downgrade(&self.handle)
    }

    /// Returns a handle of the same channel whose actions are not restored after a loss of the connection. That applies to
    /// everything declared, bound, started or limited through this handle and through values created from it.
    ///
    /// ```no_run
    /// # use amqp_client_core::{Channel, QueueOptions};
    /// # async fn example(channel: Channel) -> Result<(), Box<dyn std::error::Error>> {
    /// let queue = channel.unrecovered().queue_declare("scratch", QueueOptions::new()).await?;
    /// # Ok(())
    /// # }
    /// ```
    #[doc(alias = "robust")]
    #[doc(alias = "persistent")]
    #[must_use]
    pub fn unrecovered(&self) -> Self {
        Self { handle: self.handle.clone(), recovers: false }
    }

    pub(crate) fn emit(&self, event: &ChannelEvent) {
        let mut wakers = Vec::new();
        let mut state = self.lock();
        let now = state.now;
        if let Some(channel) = state.channel(self.place()) {
            channel.emit(event, now, |waker| wakers.push(waker));
        }
        state.log_due();
        drop(state);
        wakers.into_iter().for_each(std::task::Waker::wake);
    }

    /// Returns whether the broker has already requeued the delivery.
    pub(crate) fn is_stale(&self, delivery: &Delivery) -> bool {
        !delivery.no_ack()
            && delivery.delivery_tag().get() <= self.handle.stale.load(Ordering::Acquire)
    }

    /// Returns the channel's number on its connection.
    #[must_use]
    pub fn id(&self) -> ChannelId {
        self.handle.id
    }

    /// Returns the channel's connection.
    #[must_use]
    pub fn connection(&self) -> &Connection {
        &self.handle.connection
    }

    /// Returns the number of handles of the channel, including this one. With only one, nobody else can use the channel.
    #[must_use]
    pub fn handles(&self) -> usize {
        Arc::strong_count(&self.handle)
    }

    /// Checks that the channel is not closed.
    ///
    /// # Errors
    /// The reason why the channel is closed.
    pub fn check(&self) -> Result<(), ChannelError> {
        self.with_state(|state| state.ended.as_deref().cloned()).map_or(Ok(()), Err)
    }

    /// Returns whether the channel can be used.
    #[must_use]
    pub fn is_open(&self) -> bool {
        self.check().is_ok()
    }

    /// Returns whether the channel uses publisher confirms (`confirm.select`).
    #[must_use]
    pub fn is_confirming(&self) -> bool {
        self.protocol(&mut self.lock()).is_ok_and(|protocol| protocol.is_confirming())
    }

    /// Returns whether the channel is transactional (`tx.select`).
    #[must_use]
    pub fn is_transactional(&self) -> bool {
        self.protocol(&mut self.lock()).is_ok_and(|protocol| protocol.is_transactional())
    }

    /// Returns whether the broker accepts messages on the channel (`channel.flow`).
    #[must_use]
    pub fn is_flowing(&self) -> bool {
        self.protocol(&mut self.lock()).is_ok_and(|protocol| protocol.is_flowing())
    }

    /// Returns the number of unsettled deliveries of the channel: those that wait in the client, those that the application holds,
    /// those that a rollback has made unacknowledged again, and those that the client does not accept and
    /// [holds](crate::Oversized::Hold). 0 if the channel is closed.
    #[must_use]
    pub fn unsettled(&self) -> usize {
        let unsettled = self.protocol(&mut self.lock()).map(|own| own.unsettled() + own.held());
        unsettled.unwrap_or(0)
    }

    /// Returns the counters of the channel since it was opened: messages published, confirmed, delivered and acknowledged, and how
    /// long confirms, requests and the processing of deliveries took. They can be read after the channel is closed, too.
    ///
    /// ```no_run
    /// # use amqp_client_core as amqp_client_tokio;
    /// # use amqp_client_tokio::Channel;
    /// # fn example(channel: Channel) {
    /// let counters = channel.counters();
    /// println!("{} delivered, {} acknowledged", counters.delivered, counters.acked);
    /// # }
    /// ```
    #[must_use]
    pub fn counters(&self) -> Counters {
        self.with_state(|state| state.counters())
    }

    /// Registers a callback that runs once, with the reason, when the channel closes. If the channel is already closed, the
    /// callback runs at once. It does not keep the channel open.
    ///
    /// The callback runs in its own task, or on its own thread where there are no tasks, and may block. There are two exceptions, in
    /// which it must not block: if the runtime shuts down, the thread that shuts it down runs the callback; and if you use a
    /// [`Driver`](crate::adapter::Driver) directly, the driver runs it.
    pub fn on_close(&self, callback: impl FnOnce(ChannelError) + Send + 'static) {
        let mut guard = self.lock();
        let state = &mut *guard;
        match state.channel(self.handle.place) {
            Some(ChannelState { ended: None, on_close, .. }) => on_close.push(callback),
            Some(ChannelState { ended: Some(reason), .. }) => {
                let reason = (**reason).clone();
                state.call(Box::new(move || callback(reason)));
            }
            None => {}
        }
    }

    /// Closes the channel and waits for the broker's reply. Pending requests still get their replies. Closing a channel that the
    /// client has already closed is not an error.
    ///
    /// # Errors
    /// The reason why the channel was closed, if the client did not close it, or a timeout.
    ///
    /// # Cancel safety
    /// Once polled, the channel closes even if the future is dropped.
    pub async fn close(&self) -> Result<(), CallError> {
        self.close_with(ReplyCode::REPLY_SUCCESS, "Goodbye").await
    }

    /// Closes the channel with the given reply code and text.
    ///
    /// # Errors
    /// The reason why the channel was closed, if the client did not close it, or a timeout.
    ///
    /// # Cancel safety
    /// Once polled, the channel closes even if the future is dropped.
    pub async fn close_with(&self, code: ReplyCode, text: &str) -> Result<(), CallError> {
        self.close_over(code, text, (0, 0)).await
    }

    /// Closes the channel because of a method of the broker, like [`close_with`](Self::close_with). `cause` is the method's class id
    /// and method id; see [`Connection::close_over`].
    ///
    /// # Errors
    /// The reason why the channel was closed, if the client did not close it, or a timeout.
    ///
    /// # Cancel safety
    /// Once polled, the channel closes even if the future is dropped.
    pub async fn close_over(
        &self,
        code: ReplyCode,
        text: &str,
        cause: (u16, u16),
    ) -> Result<(), CallError> {
        let deadline = {
            let mut guard = self.lock();
            match self.protocol(&mut guard) {
                Ok(mut protocol) => protocol.close_over(code, text, cause),
                Err(reason) => return closed_here(reason),
            }
            if let Some(channel) = guard.channel(self.handle.place) {
                // From now on, its number leads to no handle.
                channel.handle = Weak::new();
            }
            guard.wake_driver();
            let (shared, place) = (self.connection().shared(), Some(self.place()));
            Deadline::start(shared, guard, place, |settings| settings.call_timeout)
        };
        let mut waiting = self.watch();
        poll_fn(|cx| {
            if deadline.expired(cx) {
                return Poll::Ready(Err(deadline.timed_out("channel.close")));
            }
            self.poll_ended(cx, &mut waiting).map(closed_here)
        })
        .await
    }

    /// Waits until the channel is closed, and returns the reason.
    ///
    /// # Cancel safety
    /// Dropping the future changes nothing.
    pub async fn closed(&self) -> ChannelError {
        let mut waiting = self.watch();
        poll_fn(|cx| self.poll_ended(cx, &mut waiting)).await
    }

    fn watch(&self) -> Waiting<'_> {
        Waiting::new(self.connection().shared(), On::Channel(self.handle.place))
    }

    /// Is ready with the reason once the channel is closed.
    fn poll_ended(&self, cx: &Context<'_>, waiting: &mut Waiting<'_>) -> Poll<ChannelError> {
        self.connection().shared().poll(cx, |state, task| {
            let Some(channel) = state.channel(self.handle.place) else {
                return Poll::Ready(ChannelState::lost_reason());
            };
            match channel.ended.as_deref() {
                Some(reason) => Poll::Ready(reason.clone()),
                None => waiting.wait(state, task),
            }
        })
    }

    pub(crate) fn place(&self) -> u32 {
        self.handle.place
    }

    pub(crate) fn lock(&self) -> Guard<'_> {
        self.handle.connection.shared().lock()
    }

    /// Locks the connection for a look at this channel.
    pub(crate) fn with_state<T>(&self, look: impl FnOnce(&mut ChannelState) -> T) -> T {
        let mut guard = self.lock();
        match guard.channel(self.handle.place) {
            Some(state) => look(state),
            // Handles own their place. If that should ever not hold, treat the channel as closed.
            None => look(&mut ChannelState::lost(self.handle.id)),
        }
    }

    /// Polls a part of this channel's state under the lock; see [`Shared::poll`](crate::state::Shared::poll).
    #[inline]
    pub(crate) fn poll_state<T>(
        &self,
        cx: &Context<'_>,
        mut look: impl FnMut(&mut ChannelState, &mut Task<'_>) -> Poll<T>,
    ) -> Poll<T> {
        self.connection().shared().poll(cx, |state, task| match state.channel(self.handle.place) {
            Some(channel) => look(channel, task),
            None => look(&mut ChannelState::lost(self.handle.id), task),
        })
    }

    /// Returns the protocol state of this channel, unless it is closed.
    pub(crate) fn protocol<'a>(
        &self,
        state: &'a mut State,
    ) -> Result<SessionChannel<'a>, ChannelError> {
        let (_, protocol) = self.both_sides(state)?;
        Ok(if self.recovers { protocol } else { protocol.unrecovered() })
    }

    /// Returns the handles' state and the protocol state of this channel, unless it is closed.
    // Each message needs this function. Out of line, returning the two values costs more than finding them.
    #[inline(always)]
    pub(crate) fn both_sides<'a>(
        &self,
        state: &'a mut State,
    ) -> Result<(&'a mut ChannelState, SessionChannel<'a>), ChannelError> {
        let Some((channel, proto)) = state.channel_and_proto(self.handle.place) else {
            return Err(ChannelState::lost_reason());
        };
        // Once this channel is closed, its number may belong to another channel.
        if let Some(reason) = channel.ended.as_deref() {
            return Err(reason.clone());
        }
        match proto.channel(self.handle.id) {
            Ok(protocol) => Ok((channel, protocol)),
            Err(_) => Err(ChannelState::lost_reason()),
        }
    }

    /// Requeues a delivery that the application has not taken.
    pub(crate) fn give_back(&self, state: &mut State, delivery: &Delivery) {
        if delivery.no_ack() {
            return;
        }
        self.give_back_tag(state, delivery.delivery_tag());
    }

    /// Like [`give_back`](Self::give_back), by the delivery's tag.
    pub(crate) fn give_back_tag(&self, state: &mut State, delivery: DeliveryTag) {
        if let Ok((channel, mut protocol)) = self.both_sides(state) {
            channel.give_back(&mut protocol, delivery);
            state.wake_driver();
        }
    }
}

/// `Ok` if the client closed the channel or its connection.
fn closed_here(reason: ChannelError) -> Result<(), CallError> {
    match reason {
        ChannelError::Closed(close) if close.by == Initiator::Local => Ok(()),
        ChannelError::Connection(error) if error.is_local_close() => Ok(()),
        reason => Err(reason.into()),
    }
}

impl fmt::Debug for Channel {
    fn fmt(&self, f: &mut fmt::Formatter<'_>) -> fmt::Result {
        f.debug_struct("Channel").field("id", &self.handle.id).finish_non_exhaustive()
    }
}
