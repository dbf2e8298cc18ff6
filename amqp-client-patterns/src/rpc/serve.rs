//! The loop of a server.

use std::any::Any;
use std::collections::VecDeque;
use std::future::{Future, poll_fn};
use std::panic::{AssertUnwindSafe, catch_unwind};
use std::pin::{Pin, pin};
use std::task::{Context, Poll};

use amqp_client_core::{
    CallError, Channel, ConsumeOptions, Consumer, ConsumerEnd, Delivery, Message, PublishError,
    Queue, RawProperties, proto,
};
use futures_util::FutureExt as _;
use futures_util::future::{Either, select};
use futures_util::stream::{FuturesUnordered, StreamExt as _};
use proto::method::{Arguments as _, BasicPublish};
use proto::{ChannelError, Route};

use super::error::{RemoteError, ServeError};
use super::methods::Running;
use super::reply::ReplyError;
use super::server::{Options, RpcServer, Served};
use crate::grace::Grace;
use crate::shown;

/// Runs a server until `stop` is ready or its consumer ends.
pub(super) async fn serve<S>(
    server: RpcServer<S>,
    stop: impl Future,
) -> Result<Served, ServeError> {
    let mut stop = pin!(stop);
    let Options { consume: options, at_once, .. } = &server.options;
    let consuming = consume(server.queue.clone(), options.clone().prefetch(*at_once));
    let consumer = match select(stop.as_mut(), pin!(consuming)).await {
        Either::Left(_) => return Ok(Served::default()),
        Either::Right((consumer, _)) => consumer?,
    };
    let channel = consumer.channel().clone();
    let grace = Grace::new(server.options.grace);
    let mut serving = Serving {
        server,
        consumer: Some(consumer),
        end: None,
        running: FuturesUnordered::new(),
        next: VecDeque::new(),
        no_ack: false,
        grace,
        served: Served::default(),
    };
    let served = poll_fn(|cx| serving.poll(&channel, stop.as_mut(), cx)).await?;
    drop(serving);
    // The broker has taken the last replies and acknowledgements when it replies to the close.
    channel.close().await.map_err(|error| match error {
        CallError::Ended(end) => ServeError::Ended { end: end.into(), served },
        error => ServeError::NotConfirmed { error, served },
    })?;
    Ok(served)
}

/// Consumes the queue on a channel of its own.
async fn consume(queue: Queue, options: ConsumeOptions) -> Result<Consumer, CallError> {
    let channel = queue.channel().connection().open_channel().await?;
    channel.basic_consume(queue.name(), options).await
}

struct Serving<S> {
    server: RpcServer<S>,
    /// `None` once the server was stopped or the consumer has ended.
    consumer: Option<Consumer>,
    end: Option<ConsumerEnd>,
    running: FuturesUnordered<Pin<Box<dyn Future<Output = Finished> + Send>>>,
    /// Requests that wait for room: after a loss, those that were delivered before may still be running.
    next: VecDeque<Delivery>,
    /// True if the last request needs no acknowledgement.
    no_ack: bool,
    /// The grace period. It begins when there is no consumer any more.
    grace: Grace,
    served: Served,
}

/// The outcome of a request.
struct Finished {
    result: RequestResult,
    has_address: bool,
    /// `false` if neither the reply nor an error could be sent.
    replied: bool,
}

#[derive(Clone, Copy)]
enum RequestResult {
    Done,
    Failed,
    Panicked,
    Refused,
}

impl<S> Serving<S> {
    fn poll(
        &mut self,
        channel: &Channel,
        mut stop: Pin<&mut impl Future>,
        cx: &mut Context<'_>,
    ) -> Poll<Result<Served, ServeError>> {
        loop {
            while let Poll::Ready(Some(finished)) = self.running.poll_next_unpin(cx) {
                self.count(&finished);
            }
            if self.consumer.is_some() && stop.as_mut().poll(cx).is_ready() {
                // Dropping the consumer and these deliveries requeues the requests that no handler has.
                self.consumer = None;
                self.next.clear();
            }
            let is_idle = self.running.is_empty() && self.next.is_empty();
            if self.consumer.is_none() && (is_idle || self.grace.is_over(channel.connection(), cx))
            {
                return Poll::Ready(self.result());
            }
            if !self.take(channel, cx) {
                return Poll::Pending;
            }
        }
    }

    /// Takes requests, and calls handlers while there is room. Returns whether there is anything new to poll.
    fn take(&mut self, channel: &Channel, cx: &mut Context<'_>) -> bool {
        let at_once = usize::from(self.server.options.at_once);
        let mut started = false;
        loop {
            while self.running.len() < at_once {
                let Some(request) = self.next.pop_front() else { break };
                // The broker has requeued a stale delivery, and delivers it again.
                if !request.is_stale() {
                    self.running.push(self.server.handle(request, channel.clone()));
                    started = true;
                }
            }
            if self.is_full(at_once) {
                return started;
            }
            let Some(consumer) = &mut self.consumer else { return started };
            match consumer.poll_next_unpin(cx) {
                Poll::Pending => return started,
                Poll::Ready(Some(Ok(request))) => {
                    self.no_ack = request.no_ack();
                    self.next.push_back(request);
                }
                Poll::Ready(end) => {
                    self.end = end.and_then(Result::err);
                    self.consumer = None;
                }
            }
            started = true;
        }
    }

    /// Returns whether nothing more may be taken. The broker sends no more than run at once, so whatever comes beyond that is the end of the
    /// consumer: it begins the grace period although no handler is free. After a loss, the broker sends again what it had sent, while
    /// the handlers of the lost connection still run. A consumer that does not acknowledge has no limit but this one.
    fn is_full(&mut self, at_once: usize) -> bool {
        if self.no_ack {
            return self.running.len() + self.next.len() > at_once;
        }
        if self.next.len() > at_once {
            self.next.retain(|request| !request.is_stale());
        }
        self.next.len() > at_once
    }

    fn count(&mut self, finished: &Finished) {
        let served = &mut self.served;
        if !finished.replied {
            // It was requeued. If the channel is closed, the server ends with the reason.
            return;
        }
        let counter = match finished.result {
            RequestResult::Done => &mut served.done,
            RequestResult::Failed => &mut served.failed,
            RequestResult::Panicked => &mut served.panicked,
            RequestResult::Refused => &mut served.refused,
        };
        *counter += 1;
        served.without_reply_to += u64::from(!finished.has_address);
    }

    fn result(&mut self) -> Result<Served, ServeError> {
        let served = Served { unfinished: self.running.len() as u64, ..self.served };
        self.running.clear();
        match self.end.take() {
            Some(end) => Err(ServeError::Ended { end, served }),
            None => Ok(served),
        }
    }
}

impl<S> RpcServer<S> {
    /// Calls the handler for a request. The future replies and acknowledges.
    fn handle(
        &self,
        request: Delivery,
        channel: Channel,
    ) -> Pin<Box<dyn Future<Output = Finished> + Send>> {
        let scope = request.scope();
        let mut request = Some(request);
        // A handler may panic before it returns a future.
        let started = catch_unwind(AssertUnwindSafe(|| scope.run(|| self.start(&mut request))));
        // The reply belongs to the request as well.
        Box::pin(scope.wrap(async move {
            let (result, reply) = match started {
                Ok(Ok(running)) => finish(running).await,
                Ok(Err(error)) => (RequestResult::Refused, Err(error)),
                Err(panic) => panicked(&*panic),
            };
            Replying { channel, result }.reply(request, reply).await
        }))
    }

    fn start(&self, request: &mut Option<Delivery>) -> Result<Running, ReplyError> {
        let kind = request.as_ref().and_then(|request| request.properties().kind().ok().flatten());
        let named = kind.as_ref().and_then(|kind| self.methods.find(kind.to_str().ok()?));
        match named.as_deref().or(self.otherwise.as_deref()) {
            Some(method) => method
                .start(request, &self.state)
                .map_err(|error| ReplyError::new(RemoteError::BAD_REQUEST, error)),
            None => {
                let kind = kind.unwrap_or_default();
                let why = format!("the server has no method {kind:?}");
                Err(ReplyError::new(RemoteError::UNKNOWN_METHOD, why))
            }
        }
    }
}

type Replied = (RequestResult, Result<Message, ReplyError>);

async fn finish(running: Running) -> Replied {
    match AssertUnwindSafe(running).catch_unwind().await {
        Ok(Ok(reply)) => (RequestResult::Done, Ok(reply)),
        Ok(Err(error)) => (RequestResult::Failed, Err(error)),
        Err(panic) => panicked(&*panic),
    }
}

fn panicked(panic: &(dyn Any + Send)) -> Replied {
    let why = shown::panicked(panic);
    (RequestResult::Panicked, Err(ReplyError::new(RemoteError::PANICKED, why)))
}

/// What became of a reply.
#[derive(Debug, Clone, Copy, PartialEq, Eq)]
enum Sent {
    /// It was sent.
    Taken,
    /// The broker refuses it.
    Refused,
    /// The reply or its outcome may be lost, so the request has to be delivered again.
    Unknown,
}

/// Replies to one request.
struct Replying {
    channel: Channel,
    result: RequestResult,
}

impl Replying {
    /// Sends the reply, then acknowledges the request. The broker sees them in this order: if the connection is lost in between, it
    /// delivers the request again, and no caller waits in vain.
    async fn reply(
        mut self,
        request: Option<Delivery>,
        reply: Result<Message, ReplyError>,
    ) -> Finished {
        let Some(request) = request else { return self.finished(false, true) };
        let properties = request.properties();
        let address = properties.reply_to().ok().flatten().filter(|address| !address.is_empty());
        let Some(address) = address else {
            let acked = request.ack().is_ok();
            return self.finished(false, acked);
        };
        let correlation_id = properties.correlation_id().ok().flatten();
        let reply = reply.unwrap_or_else(ReplyError::into_message);
        let channel = self.channel.clone();
        let sent = match request.redelivered() {
            true => self.send_apart(&address, &correlation_id, reply).await,
            false => match self.send(&channel, &address, &correlation_id, reply).await {
                Ok(()) => Sent::Taken,
                Err(_) => Sent::Unknown,
            },
        };
        let acked = match sent {
            Sent::Taken | Sent::Refused => request.ack().is_ok(),
            // Dropping the request requeues it.
            Sent::Unknown => false,
        };
        self.finished(true, acked && sent == Sent::Taken)
    }

    /// Sends the reply to a request that was delivered before, on a channel of its own. The broker may have closed the channel of a
    /// server because of this reply, and would do so each time.
    async fn send_apart(
        &mut self,
        address: &proto::ShortStr,
        correlation_id: &Option<proto::ShortStr>,
        reply: Message,
    ) -> Sent {
        let Ok(channel) = self.channel.connection().open_channel().await else {
            return Sent::Unknown;
        };
        let sent = self.send(&channel, address, correlation_id, reply).await;
        // A channel that is closed for another reason, such as a crash, says nothing about the reply.
        let publish = (BasicPublish::CLASS_ID, BasicPublish::METHOD_ID);
        let refuses = |error: &ChannelError| match error {
            ChannelError::Closed(close) => (close.class_id, close.method_id) == publish,
            _ => false,
        };
        // A reply to a later request of the channel shows that the broker has taken the message. The end of a close does not: both
        // sides may close the channel at the same time.
        match (sent, channel.basic_qos(1).await) {
            (Ok(()), Ok(())) => Sent::Taken,
            (Err(PublishError::Ended(error)), _) | (_, Err(CallError::Ended(error)))
                if refuses(&error) =>
            {
                Sent::Refused
            }
            _ => Sent::Unknown,
        }
    }

    /// Sends the reply. If it can never be sent, the caller gets the reason.
    async fn send(
        &mut self,
        channel: &Channel,
        address: &proto::ShortStr,
        correlation_id: &Option<proto::ShortStr>,
        reply: Message,
    ) -> Result<(), PublishError> {
        let sent = publish(channel, address, correlation_id, reply).await;
        let never = |error: &&PublishError| {
            !matches!(error, PublishError::Ended(_)) && !error.is_transient()
        };
        let Some(error) = sent.as_ref().err().filter(never) else { return sent };
        self.result = RequestResult::Failed;
        let error = ReplyError::new(RemoteError::BAD_REPLY, error.clone());
        publish(channel, address, correlation_id, error.into_message()).await
    }

    fn finished(&self, has_address: bool, replied: bool) -> Finished {
        Finished { result: self.result, has_address, replied }
    }
}

async fn publish(
    channel: &Channel,
    address: &proto::ShortStr,
    correlation_id: &Option<proto::ShortStr>,
    reply: Message,
) -> Result<(), PublishError> {
    let mut properties = reply.properties().decode().unwrap_or_default();
    properties.correlation_id.clone_from(correlation_id);
    // A reply is of no use once its caller has given up.
    properties.delivery_mode = properties.delivery_mode.or(Some(TRANSIENT));
    let properties = RawProperties::from(&properties);
    channel.basic_publish(&Route::queue(address), &properties, reply.body().clone()).await
}

const TRANSIENT: u8 = 1;
