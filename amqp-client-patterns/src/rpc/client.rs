use std::fmt;
use std::sync::Arc;
use std::time::Duration;

use amqp_client_core::{
    Body, CallError, Channel, Connection, ConsumeOptions, Misuse, PublishError, Publisher,
    PublisherOptions, Queue, ShortStr, proto,
};

use super::call::{Call, Plan};
use super::calls::Calls;
use super::dispatch::{Dispatcher, Replies};
use super::error::RpcError;
use crate::codec::{self, Decode, Encode, Format};

/// The name by which RabbitMQ knows direct replies.
const DIRECT_REPLY_TO: &str = "amq.rabbitmq.reply-to";

/// Makes calls to servers: see [the module](super).
///
/// Clones are handles of the same client. Use one client for all calls of a program, from many tasks and threads at once: each call
/// gets its own reply. The client has a channel of its own, and spawns no task.
///
/// If the channel is closed, all calls fail, and [`is_open`](Self::is_open) returns `false`. That happens if a request is sent to
/// an [exchange](Call::via) that does not exist or that the user may not write to, if a request is larger than the broker accepts,
/// or if it has properties that the broker refuses, such as the `user_id` of somebody else or a header `CC` that is no array.
#[derive(Clone)]
pub struct RpcClient {
    inner: Arc<Inner>,
}

struct Inner {
    dispatcher: Arc<Dispatcher>,
    channel: Channel,
    publisher: Publisher,
    /// The queue for replies, unless they come directly.
    replies: Option<Queue>,
    timeout: Duration,
}

/// Options of an [`RpcClient`].
#[derive(Debug, Clone)]
#[must_use]
pub struct RpcOptions {
    timeout: Duration,
    replies: Option<Queue>,
}

impl RpcOptions {
    /// Creates the default options: direct replies, and a timeout of 30 seconds.
    pub const fn new() -> Self {
        Self { timeout: Duration::from_secs(30), replies: None }
    }

    /// Sets the timeout of calls that set [none of their own](Call::timeout). Default 30 seconds. [`Duration::MAX`] means none.
    pub const fn timeout(mut self, timeout: Duration) -> Self {
        self.timeout = timeout;
        self
    }

    /// Lets replies come through this queue, instead of directly.
    ///
    /// When the connection is lost, a call whose request the broker has confirmed keeps waiting: its reply is in the queue when the
    /// client has recovered. The queue has to survive the loss, so it cannot be exclusive. Each client needs a queue of its own: two
    /// clients would take each other's replies. Such a queue costs the broker more than direct replies do.
    ///
    /// Requests are transient. If the broker restarts, it loses requests that still wait in a classic queue, and reports nothing. Their
    /// calls end at their [timeout](Call::timeout), so every call should have one.
    pub fn reply_queue(mut self, queue: &Queue) -> Self {
        self.replies = Some(queue.clone());
        self
    }
}

impl Default for RpcOptions {
    fn default() -> Self {
        Self::new()
    }
}

impl RpcClient {
    /// Opens a client on a channel of its own, for direct replies
    /// ([direct reply-to](https://www.rabbitmq.com/docs/direct-reply-to)): they pass through no queue.
    ///
    /// # Errors
    /// [`CallError`]: no channel could be opened, or the broker has no direct replies.
    ///
    /// # Cancel safety
    /// Dropping the future leaves nothing behind.
    pub async fn open(connection: &Connection) -> Result<Self, CallError> {
        Self::open_with(connection, RpcOptions::new()).await
    }

    /// Opens a client with these options.
    ///
    /// # Errors
    /// [`CallError`]: no channel could be opened, or the replies cannot be consumed.
    ///
    /// # Cancel safety
    /// Dropping the future leaves nothing behind.
    pub async fn open_with(
        connection: &Connection,
        options: RpcOptions,
    ) -> Result<Self, CallError> {
        let RpcOptions { timeout, replies } = options;
        let channel = connection.open_channel().await?;
        let replies = replies.map(|queue| channel.queue(queue.name())).transpose()?;
        let consumer = match &replies {
            Some(queue) => queue.consume(ConsumeOptions::new()).await?,
            None => {
                let options = ConsumeOptions::new().no_ack(true);
                channel.basic_consume(DIRECT_REPLY_TO, options).await?
            }
        };
        let dispatcher = Dispatcher::new(Replies::new(consumer), replies.is_none());
        let publisher = channel.default_exchange().publisher(publisher_options());
        let publisher = publisher.map_err(not_publishing)?;
        let inner = Inner { dispatcher, channel, publisher, replies, timeout };
        Ok(Self { inner: Arc::new(inner) })
    }

    /// Sends a request to a queue. Await the call for the reply: a message, whose body is a part of a read buffer
    /// ([`detach`](amqp_client_core::proto::Delivery::detach) it to keep it for long).
    pub fn call(&self, queue: impl AsRef<[u8]>, body: impl Body) -> Call {
        Call::new(Ok(self.plan(queue.as_ref(), body, None)), Ok)
    }

    /// Sends a value to a queue, encoded by the codec `C`. The reply is decoded by the same codec:
    /// `client.call_as::<_, u32, Json>("sum", &[1, 2])`.
    pub fn call_as<T: ?Sized, R, C>(&self, queue: impl AsRef<[u8]>, request: &T) -> Call<R>
    where
        C: Encode<T> + Decode<R>,
    {
        let plan = match C::encode(request) {
            Ok(body) => Ok(self.plan(queue.as_ref(), body, Some(Format::of::<C, T>()))),
            Err(error) => Err(error.into()),
        };
        Call::new(plan, |reply| codec::decode::<C, R>(&reply).map_err(RpcError::Reply))
    }

    fn plan(&self, queue: &[u8], body: impl Body, format: Option<Format>) -> Plan {
        Plan::new(self.clone(), queue, body.into_bytes(), format, self.inner.timeout)
    }

    /// Returns the number of replies that nobody waited for: their calls had timed out or were dropped, or they came twice.
    #[must_use]
    pub fn late_replies(&self) -> u64 {
        self.calls().late()
    }

    /// Returns the number of calls that wait, for their reply or to be sent.
    #[must_use]
    pub fn pending_calls(&self) -> usize {
        self.calls().waiting()
    }

    /// Returns whether the client can make calls: its channel is open, and its replies are consumed. It is open while the connection
    /// is being recovered: calls then wait.
    #[must_use]
    pub fn is_open(&self) -> bool {
        self.inner.channel.is_open() && self.calls().ended().is_none()
    }

    /// Returns the client's connection.
    #[must_use]
    pub fn connection(&self) -> &Connection {
        self.inner.channel.connection()
    }

    pub(super) fn calls(&self) -> &Arc<Calls<proto::Delivery>> {
        self.inner.dispatcher.calls()
    }

    /// Takes the replies that have arrived to their calls.
    pub(super) fn dispatch(&self) {
        self.inner.dispatcher.run();
    }

    /// Returns the address for replies. A queue with a name from the broker has another one after a loss.
    pub(super) fn reply_to(&self) -> ShortStr {
        match &self.inner.replies {
            Some(queue) => queue.current_name(),
            None => ShortStr::truncated(DIRECT_REPLY_TO),
        }
    }

    pub(super) fn publisher_to(&self, exchange: &[u8]) -> Result<Publisher, RpcError> {
        match exchange {
            [] => Ok(self.inner.publisher.clone()),
            name => Ok(self.inner.channel.exchange(name)?.publisher(publisher_options())?),
        }
    }
}

/// Requests are mandatory, so that a missing queue is an error at once. They are transient: they are of no use once their calls have
/// timed out. The timeout of the call bounds how long they wait.
fn publisher_options() -> PublisherOptions {
    PublisherOptions::new().persistent(false).timeout(None)
}

/// Converts the error of creating a publisher without properties.
fn not_publishing(error: PublishError) -> CallError {
    match error {
        PublishError::Ended(error) => error.into(),
        PublishError::Name(error) => error.into(),
        PublishError::Misuse(misuse) => misuse.into(),
        _ => Misuse::NeedsConfirms.into(),
    }
}

impl fmt::Debug for RpcClient {
    fn fmt(&self, f: &mut fmt::Formatter<'_>) -> fmt::Result {
        f.debug_struct("RpcClient")
            .field("channel", &self.inner.channel)
            .field("replies", &self.inner.replies)
            .field("pending_calls", &self.pending_calls())
            .finish_non_exhaustive()
    }
}
