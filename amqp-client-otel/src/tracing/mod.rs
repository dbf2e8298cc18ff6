//! Spans through the crate `tracing`, for programs without OpenTelemetry.

mod current;

use std::fmt;
use std::sync::Arc;

use amqp_client_core::intercept::{
    Intercept, OutgoingMessage, Processing, PublishOutcome, Published, Scope, Settled, Source,
};
use amqp_client_core::proto::{Delivery, FieldTable, RawProperties};
use tracing::field::{Empty, display};
use tracing::{Span, info_span};

use crate::conventions::{Operation, PROCESS, PUBLISH, RECEIVE};
use crate::destination::{Destination, text};
use crate::outcome;
use crate::trace_parent::{TRACEPARENT, TRACESTATE, TraceParent, header};
use current::Current;

/// Returns the `traceparent` of the code that publishes.
type Parent = dyn Fn() -> Option<String> + Send + Sync;

/// Creates spans of the crate `tracing` for the messages of a connection, and passes trace contexts on in message headers. Clones share
/// everything.
///
/// ```
/// # use amqp_client_otel::TracingIntercept;
/// # use amqp_client_core::Config;
/// let config = Config::default().intercept(TracingIntercept::new());
/// ```
///
/// The spans have the level INFO and the target `amqp_client`:
///
/// | Span | From | To |
/// |---|---|---|
/// | `publish` | the call | the confirm; without confirms, when the message is queued for sending |
/// | `process` | when the application takes the delivery | when the delivery is settled and its handler has ended |
/// | `receive` (`basic.get`) | when the application gets the message | at once |
///
/// Their fields are named as the attributes of the semantic conventions, such as `messaging.destination.name` and `error.type`. The
/// span of the code that publishes or takes a message is their parent. A handler runs inside of the `process` span if it runs in the
/// [scope](amqp_client_core::Delivery::scope) of its delivery.
///
/// # Traces
/// The fields `trace_id`, `span_id` and `parent_span_id` are those of W3C Trace Context, in hexadecimal digits. `process` belongs to the trace of its message,
/// and what its handler publishes belongs to it as well. Any other publish begins a trace, unless [`parent`](Self::parent) returns
/// one. Headers are sent even if no subscriber wants the spans, so that the trace of other services does not end here. A message that
/// has a valid context keeps it.
///
/// If the program exports its spans to OpenTelemetry, use [`OtelIntercept`](crate#spans) instead: the traces of this interceptor are not those of the
/// exporter.
#[derive(Clone, Default)]
pub struct TracingIntercept {
    parent: Option<Arc<Parent>>,
}

impl TracingIntercept {
    /// Returns an interceptor whose traces begin with the first message.
    #[must_use]
    pub fn new() -> Self {
        Self::default()
    }

    /// Sets the function that returns the `traceparent` of the code that publishes, for example of the HTTP request that this code
    /// handles. The function is called in the thread that publishes, outside of handlers.
    ///
    /// ```
    /// # use amqp_client_otel::TracingIntercept;
    /// thread_local! {
    ///     static REQUEST: std::cell::RefCell<Option<String>> = const { std::cell::RefCell::new(None) };
    /// }
    /// let intercept = TracingIntercept::new().parent(|| REQUEST.with(|parent| parent.borrow().clone()));
    /// ```
    #[must_use]
    pub fn parent(mut self, parent: impl Fn() -> Option<String> + Send + Sync + 'static) -> Self {
        self.parent = Some(Arc::new(parent));
        self
    }

    fn current(&self) -> Option<Current> {
        let given = || {
            let span = TraceParent::parse(&self.parent.as_ref()?()?)?;
            Some(Current { span, state: None })
        };
        Current::get().or_else(given)
    }
}

impl fmt::Debug for TracingIntercept {
    fn fmt(&self, f: &mut fmt::Formatter<'_>) -> fmt::Result {
        f.debug_struct("TracingIntercept").finish_non_exhaustive()
    }
}

impl Intercept for TracingIntercept {
    fn publish(&self, message: &mut OutgoingMessage<'_>) -> Option<Box<dyn Published>> {
        let kept = context(message.properties());
        let parent = kept.clone().or_else(|| self.current());
        let own = Current::child(parent.as_ref());
        let (exchange, routing_key) = (message.exchange(), message.routing_key());
        let to = Destination { exchange, routing_key, queue: None };
        let span = span(PUBLISH, &to, &own, parent.as_ref(), message.properties());
        if kept.is_none() {
            send(&own, message);
        }
        Some(Box::new(Publishing { span, ended: false }))
    }

    fn deliver(&self, delivery: &Delivery, from: Source<'_>) -> Option<Box<dyn Processing>> {
        let (queue, operation) = match from {
            Source::Consumer { queue, .. } => (queue, PROCESS),
            Source::Get { queue, .. } => (queue, RECEIVE),
            _ => return None,
        };
        let properties = delivery.properties();
        let parent = context(&properties).or_else(|| self.current());
        let own = Current::child(parent.as_ref());
        let (exchange, routing_key) = (delivery.exchange(), delivery.routing_key());
        let to = Destination {
            exchange: exchange.as_bytes(),
            routing_key: routing_key.as_bytes(),
            queue: Some(queue.as_bytes()),
        };
        let span = span(operation, &to, &own, parent.as_ref(), &properties);
        span.record("messaging.rabbitmq.message.delivery_tag", delivery.delivery_tag().get());
        // A fetched message was received at once. What is done with it is not known.
        let span = if operation == PROCESS { span } else { Span::none() };
        Some(Box::new(Handling { span, own }))
    }
}

/// Returns the context in the headers.
fn context(properties: &RawProperties) -> Option<Current> {
    let span = TraceParent::of(properties)?;
    Some(Current { span, state: header(properties, TRACESTATE).map(Arc::from) })
}

/// Adds the context to the headers. A message without room for it goes out without it.
fn send(own: &Current, message: &mut OutgoingMessage<'_>) {
    let headers = FieldTable::new().with(TRACEPARENT, own.span.to_string().as_str());
    let headers = headers.and_then(|headers| match &own.state {
        Some(state) => headers.with(TRACESTATE, &**state),
        // A state without a valid parent is not that of this trace.
        None if header(message.properties(), TRACESTATE).is_some() => headers.with(TRACESTATE, ""),
        None => Ok(headers),
    });
    if let Ok(headers) = headers {
        let _no_room = message.insert_headers(&headers);
    }
}

/// The span of a message. Its name has to be a constant.
macro_rules! message_span {
    ($name:literal, $kind:literal) => {
        info_span!(
            target: "amqp_client",
            $name,
            otel.name = Empty,
            otel.kind = $kind,
            otel.status_code = Empty,
            messaging.system = crate::conventions::RABBITMQ,
            messaging.operation.name = Empty,
            "messaging.operation.type" = Empty,
            messaging.destination.name = Empty,
            messaging.rabbitmq.destination.routing_key = Empty,
            messaging.rabbitmq.message.delivery_tag = Empty,
            messaging.message.id = Empty,
            messaging.message.conversation_id = Empty,
            "error.type" = Empty,
            trace_id = Empty,
            span_id = Empty,
            parent_span_id = Empty,
        )
    };
}

fn span(
    operation: Operation,
    to: &Destination<'_>,
    own: &Current,
    parent: Option<&Current>,
    properties: &RawProperties,
) -> Span {
    let span = match operation.name {
        "publish" => message_span!("publish", "producer"),
        "process" => message_span!("process", "consumer"),
        _ => message_span!("receive", "client"),
    };
    // Nobody wants it.
    if span.is_disabled() {
        return span;
    }
    span.record("otel.name", display(format_args!("{} {}", operation.name, to.low_cardinality())));
    span.record(crate::conventions::OPERATION_NAME, operation.name);
    span.record(crate::conventions::OPERATION_TYPE, operation.kind);
    span.record(crate::conventions::DESTINATION_NAME, to.full_name());
    if !to.routing_key.is_empty() {
        span.record(crate::conventions::ROUTING_KEY, &*text(to.routing_key));
    }
    if let Ok(Some(id)) = properties.message_id() {
        span.record(crate::conventions::MESSAGE_ID, &*text(id.as_bytes()));
    }
    if let Ok(Some(id)) = properties.correlation_id() {
        span.record(crate::conventions::CONVERSATION_ID, &*text(id.as_bytes()));
    }
    span.record("trace_id", display(format_args!("{:032x}", own.span.trace)));
    span.record("span_id", display(format_args!("{:016x}", own.span.span)));
    if let Some(parent) = parent {
        span.record("parent_span_id", display(format_args!("{:016x}", parent.span.span)));
    }
    span
}

fn fail(span: &Span, error: &str) {
    span.record(crate::conventions::ERROR_TYPE, error);
    span.record("otel.status_code", "ERROR");
}

/// Ends its span when it is dropped.
struct Publishing {
    span: Span,
    ended: bool,
}

impl Published for Publishing {
    fn ended(mut self: Box<Self>, outcome: PublishOutcome<'_>) {
        self.ended = true;
        if let Some((error, _)) = outcome::of_publish(outcome) {
            fail(&self.span, error);
        }
    }
}

impl Drop for Publishing {
    fn drop(&mut self) {
        if !self.ended {
            fail(&self.span, outcome::ABANDONED);
        }
    }
}

/// Ends its span when it is dropped.
struct Handling {
    span: Span,
    own: Current,
}

impl Processing for Handling {
    fn settled(self: Box<Self>, how: Settled) {
        if let Some(error) = outcome::of_processing(how) {
            fail(&self.span, error);
        }
    }

    fn scope(&self) -> Option<Arc<dyn Scope>> {
        Some(Arc::new(Surroundings { span: self.span.clone(), own: self.own.clone() }))
    }
}

struct Surroundings {
    span: Span,
    own: Current,
}

impl Scope for Surroundings {
    fn enter(&self, run: &mut dyn FnMut()) {
        let _current = self.own.clone().enter();
        self.span.in_scope(run);
    }
}
