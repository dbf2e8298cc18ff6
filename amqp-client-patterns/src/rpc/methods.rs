//! The handlers of a server.

use std::collections::BTreeMap;
use std::fmt;
use std::future::Future;
use std::marker::PhantomData;
use std::pin::Pin;
use std::sync::{Arc, Mutex, MutexGuard, PoisonError};

use amqp_client_core::{Delivery, Message};

use super::error::AlreadyRegistered;
use super::reply::{IntoReply, ReplyError};
use crate::codec::BoxError;
use crate::handler::{Arguments, ByReference, Handler};

/// The methods of a server, which can be added and removed while it runs. [`RpcServer::methods`](super::RpcServer::methods) returns
/// it. Clones are handles of the same methods.
///
/// ```
/// # use amqp_client_core::Queue;
/// # use amqp_client_patterns::handler::Text;
/// # use amqp_client_patterns::rpc::{AlreadyRegistered, RpcServer};
/// # async fn shout(Text(text): Text) -> String { text }
/// # async fn whisper(Text(text): Text) -> String { text }
/// # fn example(queue: &Queue) -> Result<(), AlreadyRegistered> {
/// let server = RpcServer::on(queue).register("shout", shout)?;
/// let methods = server.methods();
/// // While the server runs:
/// methods.register("whisper", whisper)?;
/// methods.unregister("shout");
/// # Ok(())
/// # }
/// ```
pub struct Methods<S = ()> {
    by_name: Arc<Mutex<ByName<S>>>,
}

type ByName<S> = BTreeMap<String, Arc<dyn Method<S>>>;

/// The future of a handler: its reply.
pub(super) type Running = Pin<Box<dyn Future<Output = Result<Message, ReplyError>> + Send>>;

/// A handler of requests, of any type.
pub(super) trait Method<S>: Send + Sync {
    /// Takes the arguments from the request, and calls the handler.
    fn start(&self, request: &mut Option<Delivery>, state: &S) -> Result<Running, BoxError>;
}

pub(super) struct Function<H, A> {
    handler: H,
    arguments: PhantomData<fn(A)>,
}

impl<H, A> Function<H, A> {
    pub(super) const fn new(handler: H) -> Self {
        Self { handler, arguments: PhantomData }
    }
}

impl<S, H, A> Method<S> for Function<H, A>
where
    H: Handler<A> + Send + Sync,
    H::Future: Send + 'static,
    H::Output: IntoReply,
    A: Arguments<S, ByReference>,
{
    fn start(&self, request: &mut Option<Delivery>, state: &S) -> Result<Running, BoxError> {
        let handled = self.handler.call(A::take(request, state)?);
        Ok(Box::pin(async { handled.await.into_reply() }))
    }
}

impl<S> Methods<S> {
    pub(super) fn new() -> Self {
        Self { by_name: Arc::default() }
    }

    /// Adds the handler for requests of a [method](super::Call::method): those whose `type` property is `method`.
    ///
    /// # Errors
    /// [`AlreadyRegistered`], if there is a handler for that method.
    pub fn register<H, A>(
        &self,
        method: impl Into<String>,
        handler: H,
    ) -> Result<(), AlreadyRegistered>
    where
        H: Handler<A> + Send + Sync + 'static,
        H::Future: Send + 'static,
        H::Output: IntoReply,
        A: Arguments<S, ByReference> + 'static,
    {
        let method = method.into();
        let mut by_name = self.lock();
        if by_name.contains_key(&method) {
            return Err(AlreadyRegistered { method });
        }
        by_name.insert(method, Arc::new(Function::new(handler)));
        Ok(())
    }

    /// Removes the handler of a method. Returns whether there was one. The requests that it is carrying out get their replies; later
    /// ones are as those of a method that was never registered.
    pub fn unregister(&self, method: &str) -> bool {
        // The handler is dropped without the lock.
        let removed = self.lock().remove(method);
        removed.is_some()
    }

    /// Returns the names of the methods.
    #[must_use]
    pub fn names(&self) -> Vec<String> {
        self.lock().keys().cloned().collect()
    }

    pub(super) fn find(&self, method: &str) -> Option<Arc<dyn Method<S>>> {
        self.lock().get(method).cloned()
    }

    fn lock(&self) -> MutexGuard<'_, ByName<S>> {
        self.by_name.lock().unwrap_or_else(PoisonError::into_inner)
    }
}

impl<S> Clone for Methods<S> {
    fn clone(&self) -> Self {
        Self { by_name: self.by_name.clone() }
    }
}

/// Shows the names of the methods.
impl<S> fmt::Debug for Methods<S> {
    fn fmt(&self, f: &mut fmt::Formatter<'_>) -> fmt::Result {
        f.debug_set().entries(self.names()).finish()
    }
}
