//! Channels: where everything happens.

mod basic;
mod exchange;
mod publish;
mod queue;
mod turn;
mod tx;

pub use exchange::Exchange;
pub(crate) use publish::{Heads, NotNow, Outgoing};
pub use queue::Queue;

use std::fmt;
use std::future::poll_fn;
use std::sync::Arc;
use std::sync::atomic::{AtomicU64, Ordering};
use std::task::{Context, Poll};

use amqp_proto::method::{AccessRequest, Arguments as _, BasicConsume, ChannelFlow, Request};
use amqp_proto::session::Channel as Protocol;
use amqp_proto::{
    ChannelError, ChannelId, Delivery, Initiator, ReplyCode, Settlement, ShortStr, TooLong,
};

use crate::connection::Connection;
use crate::deadline::Deadline;
use crate::error::CallError;
use crate::event::{ChannelEvent, ChannelEvents};
use crate::reply::{Reply, Sending, typed};
use crate::state::{ChannelState, Guard, On, State, Task, Waiting};

/// A channel of a [`Connection`].
///
/// All operations of the protocol happen on channels. Requests return a [`Reply`] to await; any number can be on their
/// way at once, and each gets its own answer. Handles can be used from many tasks and threads at once.
///
/// Cloning gives one more handle of the same channel. The channel closes when it is [closed](Self::close), when a request
/// fails, or when the last of its handles is gone. Handles are: channels, what their methods return, consumers,
/// publishers, and deliveries that wait for an acknowledgement.
#[derive(Clone)]
pub struct Channel {
    handle: Arc<Handle>,
    /// What is brought into being by this handle comes back after a loss.
    recovers: bool,
}

/// What all handles of a channel hold.
struct Handle {
    connection: Connection,
    id: ChannelId,
    /// Where the connection's state keeps the channel.
    place: u32,
    /// Deliveries up to that tag have gone back to their queues.
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

    /// The same channel, but what is declared, bound, started or limited by this handle, and by what comes from it, is gone
    /// when the connection is lost, instead of coming back with the next.
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

    pub(crate) fn tell(&self, event: &ChannelEvent) {
        let mut wakers = Vec::new();
        self.with_state(|state| state.listeners.tell(event, |waker| wakers.push(waker)));
        wakers.into_iter().for_each(std::task::Waker::wake);
    }

    /// Whether the broker has taken that delivery back.
    pub(crate) fn is_stale(&self, delivery: &Delivery) -> bool {
        !delivery.no_ack()
            && delivery.delivery_tag().get() <= self.handle.stale.load(Ordering::Acquire)
    }

    /// The channel's number on its connection.
    #[must_use]
    pub fn id(&self) -> ChannelId {
        self.handle.id
    }

    /// The connection it is a channel of.
    #[must_use]
    pub fn connection(&self) -> &Connection {
        &self.handle.connection
    }

    /// Why the channel is over, if it is.
    ///
    /// # Errors
    /// That reason.
    pub fn check(&self) -> Result<(), ChannelError> {
        self.with_state(|state| state.ended.clone()).map_or(Ok(()), Err)
    }

    /// Whether the channel can be used.
    #[must_use]
    pub fn is_open(&self) -> bool {
        self.check().is_ok()
    }

    /// Whether publishes on the channel are confirmed (`confirm.select`).
    #[must_use]
    pub fn is_confirming(&self) -> bool {
        self.protocol(&mut self.lock()).is_ok_and(|protocol| protocol.is_confirming())
    }

    /// Whether the channel is transactional (`tx.select`).
    #[must_use]
    pub fn is_transactional(&self) -> bool {
        self.protocol(&mut self.lock()).is_ok_and(|protocol| protocol.is_transactional())
    }

    /// Whether the broker lets content flow on the channel (`channel.flow`).
    #[must_use]
    pub fn is_flowing(&self) -> bool {
        self.protocol(&mut self.lock()).is_ok_and(|protocol| protocol.is_flowing())
    }

    /// Sends any request there is and returns its typed answer. The named methods are this, with friendlier arguments.
    ///
    /// A request with its `no_wait` bit set has no answer; use [`call_no_wait`](Self::call_no_wait) for it. `basic.consume` is
    /// refused ([`CallError::NoConsumer`]): use [`basic_consume`](Self::basic_consume).
    pub fn call<R: Request>(&self, request: R) -> Reply<R::Reply> {
        if starts_consumer::<R>() {
            return Reply::failed(CallError::NoConsumer);
        }
        Reply::send(self, request, |_, _| {}, typed::<R>)
    }

    /// Sends a request whose `no_wait` bit is set. If the broker refuses it, it closes the channel.
    ///
    /// A `basic.cancel` ends its consumer at once. Its tag is free when the broker has replied, which nobody has to wait for.
    ///
    /// ```no_run
    /// # use amqp_client_core::{CallError, Channel, proto::method::QueueDeclare};
    /// # fn example(channel: &Channel) -> Result<(), Box<dyn std::error::Error>> {
    /// let queue = "orders".try_into()?;
    /// channel.call_no_wait(QueueDeclare { queue, durable: true, no_wait: true, ..<_>::default() })?;
    /// # Ok(())
    /// # }
    /// ```
    ///
    /// # Errors
    /// [`CallError`], if it was not sent; as with [`call`](Self::call), `basic.consume` is not.
    pub fn call_no_wait<R: Request>(&self, request: R) -> Result<(), CallError> {
        if starts_consumer::<R>() {
            return Err(CallError::NoConsumer);
        }
        if !request.is_no_wait() {
            return Err(amqp_proto::Misuse::NotNow.into());
        }
        let mut guard = self.lock();
        self.protocol(&mut guard)?.request(request)?;
        guard.wake_driver();
        Ok(())
    }

    /// Asks the broker to pause (`false`) or resume deliveries (`channel.flow`). RabbitMQ refuses to pause; limit the
    /// prefetch instead. Returns whether content flows now.
    pub fn flow(&self, active: bool) -> Reply<bool> {
        self.request_with(Ok(ChannelFlow { active }), |sending, reply| {
            typed::<ChannelFlow>(sending, reply).map(|answer| answer.active)
        })
    }

    /// Asks for an access ticket (`access.request`), a relic of AMQP 0-8 that RabbitMQ still answers.
    pub fn access_request(&self, request: AccessRequest) -> Reply<u16> {
        self.request_with(Ok(request), |sending, reply| {
            typed::<AccessRequest>(sending, reply).map(|answer| answer.reserved_1)
        })
    }

    /// Has a callback run once the channel is over, however that comes about, with the reason; at once, if it is over. It
    /// does not keep the channel open.
    ///
    /// The callback has a task of its own, or a thread where there are no tasks, and may do anything. If the runtime ends, the
    /// thread that ends it runs the callback, which must not wait then. With a [`Driver`](crate::driver::Driver) of one's own,
    /// the driver runs it, and it must not wait either.
    pub fn on_close(&self, callback: impl FnOnce(ChannelError) + Send + 'static) {
        let mut guard = self.lock();
        let state = &mut *guard;
        match state.channel(self.handle.place) {
            Some(ChannelState { ended: None, on_close, .. }) => on_close.push(callback),
            Some(ChannelState { ended: Some(reason), .. }) => {
                let reason = reason.clone();
                state.call(Box::new(move || callback(reason)));
            }
            None => {}
        }
    }

    /// What happens to the channel from now on: returned messages, cancelled consumers, flow, its end.
    #[must_use]
    pub fn events(&self) -> ChannelEvents {
        ChannelEvents::new(self.clone())
    }

    /// Closes the channel and waits until the broker has agreed. Requests that are on their way are still answered. A channel
    /// that this end has closed already can be closed again.
    ///
    /// # Errors
    /// Why the channel ended, if this end did not close it, or that the broker did not answer in time.
    ///
    /// # Cancel safety
    /// Once polled, the channel closes even if the future is dropped.
    pub async fn close(&self) -> Result<(), CallError> {
        self.close_with(ReplyCode::REPLY_SUCCESS, "Goodbye").await
    }

    /// Closes the channel with a code and a text of one's own.
    ///
    /// # Errors
    /// Why the channel ended, if this end did not close it, or that the broker did not answer in time.
    ///
    /// # Cancel safety
    /// Once polled, the channel closes even if the future is dropped.
    pub async fn close_with(&self, code: ReplyCode, text: &str) -> Result<(), CallError> {
        let deadline = {
            let mut guard = self.lock();
            match self.protocol(&mut guard) {
                Ok(mut protocol) => protocol.close(code, text),
                Err(reason) => return closed_here(reason),
            }
            guard.wake_driver();
            Deadline::start(self.connection().shared(), guard, |settings| settings.call_timeout)
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

    /// Waits until the channel is over, and says why.
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

    /// Why the channel is over.
    fn poll_ended(&self, cx: &Context<'_>, waiting: &mut Waiting<'_>) -> Poll<ChannelError> {
        self.connection().shared().poll(cx, |state, task| {
            let Some(channel) = state.channel(self.handle.place) else {
                return Poll::Ready(ChannelState::lost_reason());
            };
            match &channel.ended {
                Some(reason) => Poll::Ready(reason.clone()),
                None => waiting.wait(state, task),
            }
        })
    }

    /// Sends a request whose answer says only that it was done.
    fn request<R: Request>(&self, request: Result<R, impl Into<CallError>>) -> Reply<()> {
        self.request_with(request.map_err(Into::into), |_, _| Ok(()))
    }

    /// Sends a request, and makes something of its answer.
    fn request_with<R: Request, T>(
        &self,
        request: Result<R, CallError>,
        convert: impl FnOnce(&Sending, amqp_proto::Reply) -> Result<T, CallError> + Send + 'static,
    ) -> Reply<T> {
        match request {
            Ok(request) => Reply::send(self, request, |_, _| {}, convert),
            Err(error) => Reply::failed(error),
        }
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
            // Handles own their place. If that should ever not be so, the channel is as good as closed.
            None => look(&mut ChannelState::lost(self.handle.id)),
        }
    }

    /// Polls something of this channel under the lock; see [`Shared::poll`](crate::state::Shared::poll).
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

    /// The protocol's side of this channel, unless it is over.
    pub(crate) fn protocol<'a>(&self, state: &'a mut State) -> Result<Protocol<'a>, ChannelError> {
        let (_, protocol) = self.both_sides(state)?;
        Ok(if self.recovers { protocol } else { protocol.unrecovered() })
    }

    /// What waits on this channel and the protocol's side of it, unless it is over.
    // Each message needs it, and out of line it costs more to return the two sides than to find them.
    #[inline(always)]
    fn both_sides<'a>(
        &self,
        state: &'a mut State,
    ) -> Result<(&'a mut ChannelState, Protocol<'a>), ChannelError> {
        let Some((channel, proto)) = state.channel_and_proto(self.handle.place) else {
            return Err(ChannelState::lost_reason());
        };
        // Once it is over its number may belong to another channel.
        if let Some(reason) = &channel.ended {
            return Err(reason.clone());
        }
        match proto.channel(self.handle.id) {
            Ok(protocol) => Ok((channel, protocol)),
            Err(_) => Err(ChannelState::lost_reason()),
        }
    }

    /// Requeues a delivery that nobody will look at.
    pub(crate) fn give_back(&self, state: &mut State, delivery: &Delivery) {
        if delivery.no_ack() {
            return;
        }
        if let Ok(mut protocol) = self.protocol(state) {
            // It fails only if the delivery was settled, and then there is nothing to return.
            let requeue = Settlement::Nack { requeue: true };
            let _settled = protocol.settle_apart(delivery.delivery_tag(), requeue);
            state.wake_driver();
        }
    }
}

/// Whether the channel is closed as asked: on its own, or with its connection.
fn closed_here(reason: ChannelError) -> Result<(), CallError> {
    match reason {
        ChannelError::Closed(close) if close.by == Initiator::Local => Ok(()),
        ChannelError::Connection(error) if error.is_local_close() => Ok(()),
        reason => Err(reason.into()),
    }
}

/// Whether a request starts a consumer, which needs a handle.
fn starts_consumer<R: Request>() -> bool {
    R::FACTS.id == BasicConsume::FACTS.id
}

/// A name for the wire, which says what it names if it is too long.
pub(crate) fn name(what: &'static str, octets: impl AsRef<[u8]>) -> Result<ShortStr, TooLong> {
    ShortStr::named(what, octets)
}

impl fmt::Debug for Channel {
    fn fmt(&self, f: &mut fmt::Formatter<'_>) -> fmt::Result {
        f.debug_struct("Channel").field("id", &self.handle.id).finish_non_exhaustive()
    }
}
