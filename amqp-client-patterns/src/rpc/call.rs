use std::fmt;
use std::future::{Future, pending, poll_fn};
use std::pin::{Pin, pin};
use std::sync::atomic::{AtomicBool, Ordering};
use std::sync::{Mutex, MutexGuard, PoisonError};
use std::task::{Context, Poll};
use std::time::Duration;

use amqp_client_core::{
    After, ChannelError, Confirmation, ConsumerEnd, Message, MessageProperties, PublishError,
    Publisher, TooLong, proto,
};
use bytes::Bytes;
use futures_util::FutureExt as _;
use futures_util::future::{Either, select};

use super::calls::Entry;
use super::client::RpcClient;
use super::error::{Failed, RpcError};
use super::reply;
use crate::codec::Format;

/// A call: a future that sends a request, and resolves to the reply. [`RpcClient::call`] creates it.
///
/// Nothing is sent before the first poll. Set options before that.
///
/// # Errors
/// [`RpcError`].
///
/// # Cancel safety
/// Dropping the future forgets the call. The request may be sent or not. If it was, the server carries it out, unless the request
/// expires first, and the reply is counted as [late](RpcClient::late_replies) and dropped.
#[must_use = "nothing is sent before the call is awaited"]
pub struct Call<T = proto::Delivery> {
    step: Step,
    decode: fn(proto::Delivery) -> Result<T, RpcError>,
}

enum Step {
    Planned(Box<Plan>),
    Failed(RpcError),
    Running(Pin<Box<dyn Future<Output = Result<proto::Delivery, RpcError>> + Send>>),
    Done,
}

/// The request of a call, and its options.
pub(super) struct Plan {
    client: RpcClient,
    exchange: Vec<u8>,
    routing_key: Vec<u8>,
    body: Bytes,
    format: Option<Format>,
    properties: MessageProperties,
    method: Option<String>,
    timeout: Duration,
    idempotent: bool,
}

impl<T> Call<T> {
    pub(super) fn new(
        plan: Result<Plan, RpcError>,
        decode: fn(proto::Delivery) -> Result<T, RpcError>,
    ) -> Self {
        let step = match plan {
            Ok(plan) => Step::Planned(Box::new(plan)),
            Err(error) => Step::Failed(error),
        };
        Self { step, decode }
    }

    fn with(mut self, change: impl FnOnce(&mut Plan)) -> Self {
        // A call that is running has its options already.
        if let Step::Planned(plan) = &mut self.step {
            change(plan);
        }
        self
    }

    /// Sends the request to this exchange. The name that was given as the queue is then the routing key.
    ///
    /// If the exchange does not exist, the broker closes the channel of the client, and all its calls fail.
    pub fn via(self, exchange: impl AsRef<[u8]>) -> Self {
        self.with(|plan| plan.exchange = exchange.as_ref().to_vec())
    }

    /// Names the method, for servers that [register](super::RpcServer::register) several on one queue. The name is the `type`
    /// property of the request.
    pub fn method(self, name: impl Into<String>) -> Self {
        self.with(|plan| plan.method = Some(name.into()))
    }

    /// Sets the timeout of the whole call. It begins when the call is first polled. By default, it is that of the
    /// [client](super::RpcOptions::timeout). [`Duration::MAX`] means none.
    ///
    /// The broker drops a request that waits in its queue for longer (`expiration`). A request that is sent again expires after the
    /// time that is left. Without time left, it is not sent.
    pub fn timeout(self, timeout: Duration) -> Self {
        self.with(|plan| plan.timeout = timeout)
    }

    /// Sets properties of the request, such as headers. The call sets `reply_to`, `correlation_id` and `expiration`.
    pub fn properties(self, properties: MessageProperties) -> Self {
        self.with(|plan| plan.properties = properties)
    }

    /// Declares that the request can be carried out several times without harm: if the connection is lost before the reply, the
    /// request is sent again once the connection is recovered, within the timeout.
    pub fn idempotent(self) -> Self {
        self.with(|plan| plan.idempotent = true)
    }
}

impl<T> Future for Call<T> {
    type Output = Result<T, RpcError>;

    fn poll(mut self: Pin<&mut Self>, cx: &mut Context<'_>) -> Poll<Self::Output> {
        let reply = match std::mem::replace(&mut self.step, Step::Done) {
            Step::Failed(error) => return Poll::Ready(Err(error)),
            // The result was returned before. A future should not be polled again then.
            Step::Done => return Poll::Pending,
            Step::Planned(plan) => self.poll_running(Box::pin(plan.run()), cx),
            Step::Running(running) => self.poll_running(running, cx),
        };
        reply.map(|reply| reply.and_then(self.decode))
    }
}

impl<T> Call<T> {
    fn poll_running(
        &mut self,
        mut running: Pin<Box<dyn Future<Output = Result<proto::Delivery, RpcError>> + Send>>,
        cx: &mut Context<'_>,
    ) -> Poll<Result<proto::Delivery, RpcError>> {
        let reply = running.as_mut().poll(cx);
        if reply.is_pending() {
            self.step = Step::Running(running);
        }
        reply
    }
}

impl Plan {
    pub(super) fn new(
        client: RpcClient,
        routing_key: &[u8],
        body: Bytes,
        format: Option<Format>,
        timeout: Duration,
    ) -> Self {
        Self {
            client,
            exchange: Vec::new(),
            routing_key: routing_key.to_vec(),
            body,
            format,
            properties: MessageProperties::new(),
            method: None,
            timeout,
            idempotent: false,
        }
    }

    async fn run(self: Box<Self>) -> Result<proto::Delivery, RpcError> {
        // Shared: each request expires after the time that is left, while this future also waits for the deadline.
        let deadline = Mutex::new(self.client.connection().after(self.timeout));
        let sent = AtomicBool::new(false);
        let left = || lock(&deadline).left();
        let passed = poll_fn(|cx| lock(&deadline).poll_unpin(cx));
        let reply = match select(pin!(self.reply(&sent, &left)), passed).await {
            Either::Left((reply, _)) => reply?,
            Either::Right((passed, _)) => {
                return Err(self.no_reply(passed, sent.load(Ordering::Relaxed)));
            }
        };
        reply::error_in(&reply).map_or(Ok(reply), |error| Err(error.into()))
    }

    /// The deadline has passed, or nothing measures it any more, because the connection is closed.
    fn no_reply(&self, passed: Result<(), proto::ConnectionError>, sent: bool) -> RpcError {
        match passed.map_err(ChannelError::from) {
            Ok(()) => RpcError::TimedOut { after: self.timeout, sent },
            Err(error) if sent => RpcError::Lost(error.into()),
            Err(error) => PublishError::from(error).into(),
        }
    }

    /// Sends the request, and waits for the reply.
    async fn reply(
        &self,
        sent: &AtomicBool,
        left: &(dyn Fn() -> Duration + Sync),
    ) -> Result<proto::Delivery, RpcError> {
        let entry = self.client.calls().register().map_err(RpcError::Ended)?;
        let publisher = self.client.publisher_to(&self.exchange)?;
        // The reason why an earlier request of this call gets no reply.
        let mut lost: Option<ConsumerEnd> = None;
        loop {
            let failed = match self.attempt(&publisher, &entry, sent, left).await {
                Ok(reply) => return Ok(reply),
                Err(failed) => failed,
            };
            match failed {
                Failed::Lost(reason)
                    if self.idempotent && self.client.calls().ended().is_none() =>
                {
                    lost = Some(reason);
                    entry.send_again();
                }
                Failed::Lost(reason) => return Err(RpcError::Lost(reason)),
                // The earlier request may have been carried out, whatever became of this one.
                Failed::Call(error) => return Err(lost.map_or(error, RpcError::Lost)),
            }
        }
    }

    /// Sends the request once.
    async fn attempt(
        &self,
        publisher: &Publisher,
        entry: &Entry,
        sent: &AtomicBool,
        left: &(dyn Fn() -> Duration + Sync),
    ) -> Result<proto::Delivery, Failed> {
        let sending = entry.send(|| self.publish(publisher, entry, left));
        let Some(confirmation) = sending.await? else { return entry.reply(pending(), || ()).await };
        sent.store(true, Ordering::Relaxed);
        let refused = confirmation.map(|confirmed| confirmed.err().and_then(Failed::of_confirm));
        entry.reply(refused, || self.client.dispatch()).await
    }

    async fn publish(
        &self,
        publisher: &Publisher,
        entry: &Entry,
        left: &(dyn Fn() -> Duration + Sync),
    ) -> Result<Confirmation, RpcError> {
        match self.message(entry, left())? {
            Some(message) => Ok(publisher.publish_message(&self.routing_key, &message).await?),
            // No time is left: the deadline ends this future.
            None => pending().await,
        }
    }

    /// Returns the request, which expires with the call; `None` if no time is left.
    fn message(&self, entry: &Entry, left: Duration) -> Result<Option<Message>, TooLong> {
        if left.is_zero() {
            return Ok(None);
        }
        let mut properties = self
            .properties
            .clone()
            .reply_to(self.client.reply_to())
            .correlation_id(entry.correlation_id());
        properties.expiration = (left <= EXPIRATION_MAX).then_some(left);
        if let Some(format) = self.format {
            properties = format.set(properties);
        }
        if let Some(method) = &self.method {
            properties = properties.kind(method);
        }
        Message::new(self.body.clone()).with(&properties).map(Some)
    }
}

fn lock(deadline: &Mutex<After>) -> MutexGuard<'_, After> {
    deadline.lock().unwrap_or_else(PoisonError::into_inner)
}

/// RabbitMQ: a longer expiration closes the channel.
const EXPIRATION_MAX: Duration = Duration::from_millis(u32::MAX as u64 - 1);

/// For log lines: without the body.
impl<T> fmt::Debug for Call<T> {
    fn fmt(&self, f: &mut fmt::Formatter<'_>) -> fmt::Result {
        let mut shown = f.debug_struct("Call");
        if let Step::Planned(plan) = &self.step {
            shown
                .field("exchange", &String::from_utf8_lossy(&plan.exchange))
                .field("routing_key", &String::from_utf8_lossy(&plan.routing_key))
                .field("method", &plan.method)
                .field("timeout", &plan.timeout);
        }
        shown.finish_non_exhaustive()
    }
}
