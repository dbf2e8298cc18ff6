use amqp_proto::method::{Arguments as _, BasicConsume, Request};
use amqp_proto::session::SessionChannel;
use amqp_proto::{CommandError, FieldTable, Misuse, RequestId};

use super::Channel;
use crate::broker_version::BrokerVersion;
use crate::error::CallError;
use crate::options::OptionError;
use crate::reply::{Reply, Sending, typed};
use crate::state::State;

impl Channel {
    /// Sends any request of the protocol and returns its typed reply. The named methods are shortcuts with simpler arguments.
    ///
    /// A request with its `no_wait` bit set has no reply; use [`call_no_wait`](Self::call_no_wait) for it. `basic.consume` is
    /// refused ([`CallError::NoConsumer`]): use [`basic_consume`](Self::basic_consume).
    pub fn call<R: Request>(&self, request: R) -> Reply<R::Reply> {
        if starts_consumer::<R>() {
            return Reply::failed(CallError::NoConsumer);
        }
        Reply::send(self, request, |_, _| {}, typed::<R>)
    }

    /// Checks the options of a request. Without arguments, nothing can be wrong, and the broker's version need not be parsed.
    pub(super) fn check_options(
        &self,
        arguments: &FieldTable,
        check: impl FnOnce(Option<&BrokerVersion>) -> Result<(), Box<OptionError>>,
    ) -> Result<(), CallError> {
        if arguments.is_empty() {
            return Ok(());
        }
        Ok(check(self.connection().broker_version().as_ref())?)
    }

    /// Sends a request whose `no_wait` bit is set. If the broker refuses the request, it closes the channel.
    ///
    /// A `basic.cancel` ends its consumer at once, or, if the client is starting the consumer again, when that is done. The consumer
    /// tag can be used again once the broker has replied; the client handles that reply.
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
    /// [`CallError`], if the request was not sent. Like [`call`](Self::call), this method refuses `basic.consume`.
    pub fn call_no_wait<R: Request>(&self, request: R) -> Result<(), CallError> {
        if starts_consumer::<R>() {
            return Err(CallError::NoConsumer);
        }
        if !request.is_no_wait() {
            return Err(Misuse::HasReply(R::NAME).into());
        }
        Ok(self.request_no_wait(request)?)
    }

    /// Sends a request whose `no_wait` bit is set.
    pub(crate) fn request_no_wait<R: Request>(&self, request: R) -> Result<(), CommandError> {
        let mut guard = self.lock();
        self.count_request(&mut guard, |protocol| protocol.request(request))?;
        guard.wake_driver();
        Ok(())
    }

    /// Queues a request, and counts it.
    pub(crate) fn count_request(
        &self,
        state: &mut State,
        send: impl FnOnce(&mut SessionChannel<'_>) -> Result<RequestId, CommandError>,
    ) -> Result<RequestId, CommandError> {
        let sent = match self.protocol(state) {
            Ok(mut protocol) => send(&mut protocol),
            Err(error) => Err(error.into()),
        };
        if let Some(channel) = state.channel(self.place()) {
            let counters = &mut channel.tally.counters;
            counters.requests += 1;
            counters.requests_failed += u64::from(sent.is_err());
        }
        sent
    }

    /// Sends a request of which only the outcome matters.
    pub(crate) fn request_done<R: Request>(&self, request: R) -> Reply<()> {
        self.request(Ok::<_, CallError>(request))
    }

    /// Sends a request whose reply carries no data.
    pub(super) fn request<R: Request>(
        &self,
        request: Result<R, impl Into<CallError>>,
    ) -> Reply<()> {
        self.request_with(request.map_err(Into::into), |_, _| Ok(()))
    }

    /// Sends a request and converts its reply.
    pub(super) fn request_with<R: Request, T>(
        &self,
        request: Result<R, CallError>,
        convert: impl FnOnce(&Sending, amqp_proto::Reply) -> Result<T, CallError> + Send + 'static,
    ) -> Reply<T> {
        match request {
            Ok(request) => Reply::send(self, request, |_, _| {}, convert),
            Err(error) => Reply::failed(error),
        }
    }
}

/// Returns whether a request starts a consumer, which needs a `Consumer` handle.
fn starts_consumer<R: Request>() -> bool {
    R::FACTS.id == BasicConsume::FACTS.id
}
