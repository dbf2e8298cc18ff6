use std::fmt;
use std::future::{Future, pending};
use std::time::Duration;

use amqp_client_core::{ConsumeOptions, Queue};

use super::error::{AlreadyRegistered, ServeError};
use super::methods::{Function, Method, Methods};
use super::reply::IntoReply;
use super::serve;
use crate::handler::{Arguments, ByReference, Handler};

/// Carries out requests: see [the module](super).
///
/// `S` is the state that handlers can take by [`State`](crate::handler::State).
#[must_use = "a server does nothing until it is awaited: call `run` or `until`"]
pub struct RpcServer<S = ()> {
    pub(super) queue: Queue,
    pub(super) state: S,
    pub(super) methods: Methods<S>,
    /// For requests that no method takes.
    pub(super) otherwise: Option<Box<dyn Method<S>>>,
    pub(super) options: Options,
}

pub(super) struct Options {
    pub(super) consume: ConsumeOptions,
    pub(super) at_once: u16,
    pub(super) grace: Duration,
}

/// The counts of a server that has ended.
#[derive(Debug, Clone, Copy, PartialEq, Eq, Default)]
#[non_exhaustive]
pub struct Served {
    /// Requests whose handlers returned a result, including those without an address for the reply.
    pub done: u64,
    /// Requests whose handlers returned an error, or a result that cannot be sent.
    pub failed: u64,
    /// Requests whose handlers panicked.
    pub panicked: u64,
    /// Requests that no handler took: the method is unknown, or the arguments cannot be decoded.
    pub refused: u64,
    /// Requests without an address for the reply (`reply_to`), which were acknowledged without one. They are counted above as well.
    pub without_reply_to: u64,
    /// Requests whose handlers had not returned, or whose replies were not sent, at the end of the grace period. They are requeued.
    pub unfinished: u64,
}

impl RpcServer {
    /// Creates a server on a queue. It carries out one request at a time, and has no handler yet.
    pub fn on(queue: &Queue) -> Self {
        let (at_once, grace) = (1, Duration::from_secs(30));
        let options = Options { consume: ConsumeOptions::new(), at_once, grace };
        Self { queue: queue.clone(), state: (), methods: Methods::new(), otherwise: None, options }
    }

    /// Sets the state for the handlers, which can take it, or parts of it, by [`State`](crate::handler::State). Set it before the
    /// handlers.
    pub fn state<S>(self, state: S) -> RpcServer<S> {
        let (methods, otherwise) = (Methods::new(), None);
        RpcServer { queue: self.queue, state, methods, otherwise, options: self.options }
    }
}

impl<S> RpcServer<S> {
    /// Adds the handler for requests of a [method](super::Call::method): those whose `type` property is `method`.
    ///
    /// # Errors
    /// [`AlreadyRegistered`], if there is a handler for that method.
    pub fn register<H, A>(
        self,
        method: impl Into<String>,
        handler: H,
    ) -> Result<Self, AlreadyRegistered>
    where
        H: Handler<A> + Send + Sync + 'static,
        H::Future: Send + 'static,
        H::Output: IntoReply,
        A: Arguments<S, ByReference> + 'static,
    {
        self.methods.register(method, handler)?;
        Ok(self)
    }

    /// Returns the methods, to [add](Methods::register) and [remove](Methods::unregister) some while the server runs. Set the
    /// [state](Self::state) before.
    #[must_use]
    pub fn methods(&self) -> Methods<S> {
        self.methods.clone()
    }

    /// Sets the handler for all requests that no [registered](Self::register) method takes. Without it, such requests are replied to
    /// with the error [`UNKNOWN_METHOD`](super::RemoteError::UNKNOWN_METHOD).
    pub fn serve<H, A>(mut self, handler: H) -> Self
    where
        H: Handler<A> + Send + Sync + 'static,
        H::Future: Send + 'static,
        H::Output: IntoReply,
        A: Arguments<S, ByReference> + 'static,
    {
        self.otherwise = Some(Box::new(Function::new(handler)));
        self
    }

    /// Sets how many handlers run at once, which is also the prefetch limit. Default 1. 0 counts as 1.
    pub fn at_once(mut self, handlers: u16) -> Self {
        self.options.at_once = handlers.max(1);
        self
    }

    /// Sets the time for which handlers may go on running once the server is stopped, or its consumer has ended. Default 30 seconds. When
    /// the connection is closed for good, they are dropped at once.
    pub fn grace(mut self, grace: Duration) -> Self {
        self.options.grace = grace;
        self
    }

    /// Sets further options of the consumer, such as its tag or its priority.
    pub fn consume_options(mut self, options: ConsumeOptions) -> Self {
        self.options.consume = options;
        self
    }

    /// Runs the server until its consumer ends: see [`until`](Self::until).
    ///
    /// # Errors
    /// [`ServeError`].
    ///
    /// # Cancel safety
    /// If the future is dropped, the running handlers are dropped, and their requests are requeued.
    pub async fn run(self) -> Result<Served, ServeError> {
        self.until(pending::<()>()).await
    }

    /// Runs the server until `stop` is ready, such as a future for Ctrl-C. Then it takes no more requests, lets the running handlers
    /// finish within the [grace period](Self::grace), and waits until the broker has taken their replies.
    ///
    /// The server consumes on a channel of its own. It goes on after a loss of the connection that is recovered.
    ///
    /// # Errors
    /// [`ServeError`]: the server could not start, or its consumer ended, because the queue was deleted or the channel or connection
    /// closed. Also if the connection is lost once the server is stopped, before the broker has taken the last replies: requests that
    /// were not acknowledged by then are delivered again.
    ///
    /// The broker closes the channel if a reply is larger than it accepts, or has the `user_id` of somebody else, as a reply with the
    /// properties of its request may have. Then it delivers the request again. The reply to a request that is delivered
    /// again is sent on a channel of its own, so such a reply ends no more than one server. If the broker refuses it there as well, the
    /// request is acknowledged, and its caller times out.
    ///
    /// # Cancel safety
    /// If the future is dropped, the running handlers are dropped, and their requests are requeued.
    pub async fn until(self, stop: impl Future) -> Result<Served, ServeError> {
        serve::serve(self, stop).await
    }
}

/// Shows the names of the methods.
impl<S> fmt::Debug for RpcServer<S> {
    fn fmt(&self, f: &mut fmt::Formatter<'_>) -> fmt::Result {
        f.debug_struct("RpcServer")
            .field("queue", self.queue.name())
            .field("methods", &self.methods)
            .field("at_once", &self.options.at_once)
            .finish_non_exhaustive()
    }
}
