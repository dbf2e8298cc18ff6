use std::future::Future;
use std::pin::Pin;
use std::task::{Context, Poll};
use std::time::Duration;

use amqp_proto::ReplyCode;

use super::Connection;
use crate::channel::Channel;
use crate::error::CallError;
use crate::state::{DeadlineId, Guard, WaiterId};

impl Connection {
    /// Opens a channel. The request is queued at once; await the result.
    ///
    /// # Errors
    /// The future returns [`CallError`] if all channels are in use, or if the connection is closed.
    ///
    /// # Cancel safety
    /// Dropping the future closes the channel.
    #[must_use = "the channel closes when the future is dropped"]
    pub fn open_channel(&self) -> OpenChannel {
        OpenChannel::new(self, self.shared().lock(), None)
    }

    /// Opens a channel with the given number, from 1 up to the negotiated `channel_max`.
    ///
    /// # Errors
    /// As [`open_channel`](Self::open_channel), and if the number is in use or out of range.
    ///
    /// # Cancel safety
    /// Dropping the future closes the channel.
    #[must_use = "the channel closes when the future is dropped"]
    pub fn open_channel_numbered(&self, number: u16) -> OpenChannel {
        OpenChannel::new(self, self.shared().lock(), Some(number))
    }

    /// Returns the channel with the given number, if it has handles and is not closed; otherwise opens it, like
    /// [`open_channel_numbered`](Self::open_channel_numbered).
    ///
    /// So parts of a program can share a channel without passing its handle on. A channel that is being opened is waited for.
    ///
    /// ```no_run
    /// # use amqp_client_core as amqp_client_tokio;
    /// # use amqp_client_tokio::Connection;
    /// # async fn example(connection: Connection) -> Result<(), Box<dyn std::error::Error>> {
    /// let opened = connection.channel_numbered(7).await?;
    /// let same = connection.channel_numbered(7).await?;
    /// assert_eq!(opened.id(), same.id());
    /// # Ok(())
    /// # }
    /// ```
    ///
    /// # Errors
    /// As [`open_channel`](Self::open_channel), and if the number is out of range. Also if a channel with this number is being closed
    /// ([`OpenChannelError::InUse`](amqp_proto::OpenChannelError::InUse)): its number is free once the broker has replied.
    ///
    /// # Cancel safety
    /// Dropping the future closes the channel, unless it has other handles.
    #[must_use = "the channel closes when the future is dropped, unless it has other handles"]
    pub fn channel_numbered(&self, number: u16) -> OpenChannel {
        // Under one lock: of several tasks that need the channel, only one opens it.
        let guard = self.shared().lock();
        match guard.handle_of(number) {
            Some((handle, opened)) => {
                // Dropping the last handle takes the lock.
                drop(guard);
                OpenChannel::of(Channel::of(handle), opened)
            }
            None => OpenChannel::new(self, guard, Some(number)),
        }
    }

    /// Checks whether a queue exists. Uses a channel of its own, because the broker closes the channel if the queue does not exist.
    ///
    /// # Errors
    /// [`CallError`], if the check failed, for example because another connection holds the queue exclusively (405).
    ///
    /// # Cancel safety
    /// Dropping the future leaves nothing behind.
    pub async fn queue_exists(&self, queue: impl AsRef<[u8]>) -> Result<bool, CallError> {
        let channel = self.open_channel().await?;
        found(channel.queue_declare_passive(queue).await)
    }

    /// Checks whether an exchange exists. Uses a channel of its own, because the broker closes the channel if the exchange does not
    /// exist.
    ///
    /// # Errors
    /// [`CallError`], if the check failed.
    ///
    /// # Cancel safety
    /// Dropping the future leaves nothing behind.
    pub async fn exchange_exists(&self, exchange: impl AsRef<[u8]>) -> Result<bool, CallError> {
        let channel = self.open_channel().await?;
        found(channel.exchange_declare_passive(exchange).await)
    }
}

/// Converts the result of a passive declaration to whether the entity exists.
fn found<T>(asked: Result<T, CallError>) -> Result<bool, CallError> {
    match asked {
        Ok(_) => Ok(true),
        Err(error) if error.reply_code() == Some(ReplyCode::NOT_FOUND) => Ok(false),
        Err(error) => Err(error),
    }
}

/// A channel that is being opened; see [`Connection::open_channel`].
///
/// ```no_run
/// # use amqp_client_core as amqp_client_tokio;
/// # use amqp_client_tokio::Connection;
/// # async fn example(connection: Connection) -> Result<(), Box<dyn std::error::Error>> {
/// // Two channels, one round trip.
/// let (first, second) = (connection.open_channel(), connection.open_channel());
/// let (first, second) = (first.await?, second.await?);
/// # Ok(())
/// # }
/// ```
#[derive(Debug)]
#[must_use = "the channel closes when the future is dropped"]
pub struct OpenChannel {
    state: OpenState,
}

#[derive(Debug)]
enum OpenState {
    Failed(Option<CallError>),
    Opening {
        channel: Option<Channel>,
        deadline: Option<DeadlineId>,
        after: Duration,
        waiter: Option<WaiterId>,
    },
}

impl OpenChannel {
    /// Sets the timeout for this request, instead of the [`call_timeout`](crate::Settings::call_timeout). It starts now, or when
    /// the request [is written](crate::Settings#timeouts-on-slow-links).
    pub fn timeout(mut self, timeout: Duration) -> Self {
        if let OpenState::Opening { channel: Some(channel), deadline, after, .. } = &mut self.state
        {
            // Dropped after the lock is released.
            let _waker;
            let mut state = channel.lock();
            _waker = state.deadlines.stop(*deadline);
            let counts = state.behind_queued(Some(channel.place()));
            *deadline = state.deadlines.start(Some(timeout), counts);
            *after = timeout;
            state.wake_driver();
        }
        self
    }

    /// Waits until that channel is open, if it is not.
    fn of(channel: Channel, opened: bool) -> Self {
        let after = channel.connection().shared().settings.call_timeout.filter(|_| !opened);
        let mut state = channel.lock();
        let counts = state.behind_queued(Some(channel.place()));
        let deadline = state.deadlines.start(after, counts);
        if deadline.is_some() {
            state.wake_driver();
        }
        drop(state);
        let (channel, after) = (Some(channel), after.unwrap_or_default());
        Self { state: OpenState::Opening { channel, deadline, after, waiter: None } }
    }

    /// Opens a channel with that number, or with one that the client chooses.
    fn new(connection: &Connection, mut guard: Guard<'_>, number: Option<u16>) -> Self {
        let state = &mut *guard;
        let opened = match number {
            Some(number) => state.proto.open_channel_numbered(number),
            None => state.proto.open_channel(),
        };
        let opening = match opened {
            Err(error) => OpenState::Failed(Some(error.into())),
            Ok(id) => {
                let place = state.add_channel(id);
                let stale = state.channel(place).map(|channel| channel.stale.clone());
                let after = connection.shared().settings.call_timeout;
                let counts = state.behind_queued(Some(place));
                let deadline = state.deadlines.start(after, counts);
                let after = after.unwrap_or_default();
                state.wake_driver();
                // The handle is known under this lock: another task may look for the channel by its number.
                let channel =
                    Channel::new(connection.clone(), id, place, stale.unwrap_or_default());
                if let Some(own) = state.channel(place) {
                    own.handle = channel.downgrade();
                }
                drop(guard);
                let channel = Some(channel);
                OpenState::Opening { channel, deadline, after, waiter: None }
            }
        };
        Self { state: opening }
    }
}

impl Future for OpenChannel {
    type Output = Result<Channel, CallError>;

    fn poll(mut self: Pin<&mut Self>, cx: &mut Context<'_>) -> Poll<Self::Output> {
        let (slot, deadline, after, waiter) = match &mut self.state {
            OpenState::Failed(error) => {
                return error.take().map_or(Poll::Pending, |error| Poll::Ready(Err(error)));
            }
            OpenState::Opening { channel, deadline, after, waiter } => {
                (channel, *deadline, *after, waiter)
            }
        };
        let Some(channel) = slot.as_ref() else {
            return Poll::Pending;
        };
        let opened = channel.connection().shared().poll(cx, |state, task| {
            let expired = state.deadlines.expired(deadline, task);
            let Some(waiting) = state.channel(channel.place()) else {
                return Poll::Pending;
            };
            if let Some(reason) = waiting.ended.as_deref() {
                return Poll::Ready(Err(reason.clone().into()));
            }
            if waiting.opened {
                return Poll::Ready(Ok(()));
            }
            if expired {
                return Poll::Ready(Err(CallError::TimedOut { method: "channel.open", after }));
            }
            waiting.watchers.register(waiter, task);
            Poll::Pending
        });
        match opened {
            Poll::Pending => Poll::Pending,
            Poll::Ready(Err(error)) => Poll::Ready(Err(error)),
            Poll::Ready(Ok(())) => {
                self.leave();
                match &mut self.state {
                    OpenState::Opening { channel, .. } => {
                        channel.take().map_or(Poll::Pending, |channel| Poll::Ready(Ok(channel)))
                    }
                    OpenState::Failed(_) => Poll::Pending,
                }
            }
        }
    }
}

impl OpenChannel {
    /// Stops waiting. Needs the channel: once its handles are dropped, its place can belong to another channel.
    fn leave(&mut self) {
        let OpenState::Opening { channel: Some(channel), deadline, waiter, .. } = &mut self.state
        else {
            return;
        };
        // Dropped after the lock is released.
        let (_timer, _watcher);
        let mut guard = channel.lock();
        let state = &mut *guard;
        _timer = state.deadlines.stop(deadline.take());
        _watcher = waiter.take().and_then(|waiter| {
            let watchers = &mut state.channel(channel.place())?.watchers;
            let waker = watchers.remove(waiter);
            // Most channels are open from now on, until nobody uses them.
            watchers.free_if_empty();
            waker
        });
    }
}

impl Drop for OpenChannel {
    fn drop(&mut self) {
        self.leave();
    }
}
