//! Spans through the crate `tracing`, for programs without OpenTelemetry.

mod current;
mod process;
mod publish;
mod span;

use std::fmt;
use std::sync::Arc;

use amqp_client_core::intercept::{
    Intercept, OutgoingMessage, Processing, PublishBatch, Published, Source,
};
use amqp_client_core::proto::{Delivery, RawProperties};

use crate::attributes::Common;
use crate::destination::{Destination, Template};
use crate::trace_parent::TraceParent;
use current::Current;
pub use process::TracingBatch;

/// Returns the `traceparent` of the code that publishes.
type Parent = dyn Fn() -> Option<String> + Send + Sync;

/// Creates spans of the crate `tracing` for the messages of a connection, and passes trace contexts on in message headers. Clones share
/// everything.
///
/// ```
/// # use amqp_client_otel::TracingIntercept;
/// # use amqp_client_core::Config;
/// let config = Config::default().intercept(TracingIntercept::new().server("rabbit-1", 5672));
/// ```
///
/// The spans have the level INFO and the target `amqp_client`:
///
/// | Span | Kind | From | To |
/// |---|---|---|---|
/// | `publish` | producer | the call | the confirm; without confirms, when the message is queued for sending |
/// | `create`, for each message of a `publish_all` that has no valid context yet | producer | the call | at once |
/// | `publish` of a `publish_all`, with links to its messages | client | the call | the last confirm |
/// | `process` | consumer | when the application takes the delivery | when the delivery is settled and its handler has ended |
/// | `receive` (`basic.get`) | client | when the application gets the message | at once |
/// | `ack`, `nack`, `reject`, if [switched on](Self::settle_spans) | client | the call | at once |
///
/// Their fields have the names and values of the attributes of `OtelIntercept`, such as `messaging.destination.name` and `error.type`.
/// `otel.name`, `otel.kind` and `otel.status_code` are those that `tracing-opentelemetry` expects. The span of the code that publishes
/// or takes a message is their parent. A handler runs inside of the `process` span if it runs in the
/// [scope](amqp_client_core::Delivery::scope) of its delivery.
///
/// # Traces
/// The fields `trace_id`, `span_id` and `parent_span_id` are those of W3C Trace Context, in hexadecimal digits. `process` belongs to
/// the trace of its message, and the messages that its handler publishes belong to it as well. Any other publish begins a trace, unless
/// [`parent`](Self::parent) returns one. Headers are sent even if no subscriber wants the spans, so that the trace of other services
/// does not end here. A message that has a valid context keeps it.
///
/// If the program exports its spans to OpenTelemetry, use `OtelIntercept` instead: the traces of this interceptor are not those of
/// the exporter.
///
/// # Compared with OpenTelemetry
/// | `OtelIntercept` | `TracingIntercept` |
/// |---|---|
/// | links of a `publish_all`, or of a batch | the field `links`: up to 128 contexts, as `{trace_id}-{span_id}`, separated by spaces. `publish` also follows from its `create` spans (`Span::follows_from`). |
/// | link of `process` to its message | `parent_span_id`: `process` is always part of the trace of its message |
/// | the text of an error | none, only `error.type` |
/// | baggage | not passed on |
/// | metrics | none: `PrometheusText` of the client crates exports the counters |
/// | spans of outages and alarms | none: the feature `tracing` of the client crates writes log lines |
#[derive(Clone, Default)]
pub struct TracingIntercept(Arc<Options>);

/// The configuration of an interceptor.
#[derive(Clone)]
struct Options {
    parent: Option<Arc<Parent>>,
    template: Option<Arc<Template>>,
    common: Common,
    process_spans: bool,
    settle_spans: bool,
}

impl Default for Options {
    fn default() -> Self {
        Self {
            parent: None,
            template: None,
            common: Common::default(),
            process_spans: true,
            settle_spans: false,
        }
    }
}

impl Options {
    /// Returns the span of the code that runs in this thread.
    fn current(&self) -> Option<Current> {
        let given = || {
            let span = TraceParent::parse(&self.parent.as_ref()?()?)?;
            Some(Current { span, state: None })
        };
        Current::get().or_else(given)
    }

    /// Returns the destination for names of spans.
    fn low_cardinality(&self, to: &Destination<'_>) -> String {
        self.template.as_ref().map_or_else(|| to.low_cardinality(), |template| template(to))
    }
}

impl TracingIntercept {
    /// Returns an interceptor whose traces begin with the first message.
    #[must_use]
    pub fn new() -> Self {
        Self::default()
    }

    fn with(mut self, set: impl FnOnce(&mut Options)) -> Self {
        set(Arc::make_mut(&mut self.0));
        self
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
    pub fn parent(self, parent: impl Fn() -> Option<String> + Send + Sync + 'static) -> Self {
        self.with(|options| options.parent = Some(Arc::new(parent)))
    }

    /// Sets the fields `server.address` and `server.port`. Default: neither.
    #[must_use]
    pub fn server(self, address: impl Into<String>, port: u16) -> Self {
        self.with(|options| options.common.server = Some((address.into(), port)))
    }

    /// Sets the field `messaging.client.id`. Default: none.
    #[must_use]
    pub fn client_id(self, id: impl Into<String>) -> Self {
        self.with(|options| options.common.client_id = Some(id.into()))
    }

    /// Chooses the destination in `otel.name`. The function must return few different names, because backends group by them. Default:
    /// the exchange, or, for the default exchange, `amq.default` or the queue of the delivery.
    #[must_use]
    pub fn destination(
        self,
        template: impl Fn(&Destination<'_>) -> String + Send + Sync + 'static,
    ) -> Self {
        self.with(|options| options.template = Some(Arc::new(template)))
    }

    /// Adds the field `messaging.message.body.size`, in bytes. Default: off.
    #[must_use]
    pub fn body_size(self, on: bool) -> Self {
        self.with(|options| options.common.body_size = on)
    }

    /// Creates a `process` span for each delivery. Default: on. Switch it off for [batches](Self::process_batch).
    #[must_use]
    pub fn process_spans(self, on: bool) -> Self {
        self.with(|options| options.process_spans = on)
    }

    /// Creates a span when a delivery is settled with `ack`, `nack` or `reject`. Default: off.
    #[must_use]
    pub fn settle_spans(self, on: bool) -> Self {
        self.with(|options| options.settle_spans = on)
    }

    /// Starts one `process` span for several deliveries, with a link to the context of each. If you use this, switch off the
    /// [spans of single deliveries](Self::process_spans).
    ///
    /// ```
    /// # use amqp_client_otel::TracingIntercept;
    /// # use amqp_client_core::proto::RawProperties;
    /// # let intercept = TracingIntercept::new().process_spans(false);
    /// # let properties_of_batch = [RawProperties::EMPTY];
    /// let batch = intercept.process_batch("rows", properties_of_batch);
    /// let saved: Result<(), std::io::Error> = batch.scope().run(|| {
    ///     // Save the rows here.
    ///     Ok(())
    /// });
    /// if saved.is_err() {
    ///     batch.fail("database");
    /// }
    /// ```
    pub fn process_batch(
        &self,
        queue: impl AsRef<[u8]>,
        messages: impl IntoIterator<Item = RawProperties>,
    ) -> TracingBatch {
        TracingBatch::start(&self.0, queue.as_ref(), messages.into_iter())
    }
}

impl fmt::Debug for TracingIntercept {
    fn fmt(&self, f: &mut fmt::Formatter<'_>) -> fmt::Result {
        f.debug_struct("TracingIntercept").finish_non_exhaustive()
    }
}

impl Intercept for TracingIntercept {
    fn publish(&self, message: &mut OutgoingMessage<'_>) -> Option<Box<dyn Published>> {
        Some(Box::new(publish::Publishing::start(&self.0, message)))
    }

    fn publish_all(&self, to: &OutgoingMessage<'_>) -> Option<Box<dyn PublishBatch>> {
        Some(Box::new(publish::Batch::start(&self.0, to)))
    }

    fn deliver(&self, delivery: &Delivery, from: Source<'_>) -> Option<Box<dyn Processing>> {
        let handling = process::Handling::start(&self.0, delivery, from)?;
        Some(Box::new(handling))
    }
}
