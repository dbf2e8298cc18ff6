use std::fmt;
use std::sync::Arc;
use std::time::Instant;

use amqp_client_core::intercept::{Processing, Scope, Settled, Source};
use amqp_client_core::proto::{Delivery, RawProperties};
use opentelemetry::trace::{Span as _, SpanContext, SpanKind, Status, TraceContextExt as _};
use opentelemetry::{Context, KeyValue};

use crate::attributes::Origin;
use crate::conventions::{BATCH_COUNT, DELIVERY_TAG, ERROR_TYPE, Operation, PROCESS, RECEIVE};
use crate::destination::Destination;
use crate::outcome;
use crate::propagation::{extract, with_baggage};
use crate::shared::{Shared, seconds_since};

/// One delivery, until it is settled.
pub(crate) struct Handling {
    shared: Arc<Shared>,
    origin: Origin,
    /// The context in the message.
    created: Option<SpanContext>,
    /// The destination in names of spans.
    destination: String,
    /// The surroundings of the handler, with the `process` span if there is one.
    context: Context,
    /// Whether there is a `process` span.
    processes: bool,
    start: Instant,
}

impl Handling {
    pub(crate) fn start(
        shared: &Arc<Shared>,
        delivery: &Delivery,
        from: Source<'_>,
    ) -> Option<Self> {
        let (queue, operation, kind) = match from {
            Source::Consumer { queue, .. } => (queue, PROCESS, SpanKind::Consumer),
            Source::Get { queue, .. } => (queue, RECEIVE, SpanKind::Client),
            _ => return None,
        };
        let properties = delivery.properties();
        let (origin, created) = (Origin::of(delivery, queue), extract(&properties));
        let destination = shared.low_cardinality(&origin.destination());
        let count = shared.metric(operation, &destination, None);
        shared.metrics.consumed.add(1, &count);

        let mut context = Context::current();
        if shared.options.baggage {
            context = with_baggage(context, &properties);
        }
        let processes = operation == PROCESS && shared.options.process_spans;
        if processes || operation == RECEIVE {
            let message = Some((&properties, delivery.body_len()));
            let mut attributes = shared.attributes(operation, &origin.destination(), message);
            attributes.push(KeyValue::new(DELIVERY_TAG, origin.tag));
            let (parent, link) = match &created {
                Some(created) if processes && shared.options.process_is_child => {
                    (context.with_remote_span_context(created.clone()), None)
                }
                created => (context.clone(), created.clone()),
            };
            let mut span = shared.start(operation, kind, &destination, attributes, link, &parent);
            if processes {
                context = context.with_span(span);
            } else {
                span.end();
            }
        }
        let (shared, start) = (shared.clone(), Instant::now());
        Some(Self { shared, origin, created, destination, context, processes, start })
    }

    fn settle_span(&self, operation: Operation) {
        let (origin, shared) = (&self.origin, &self.shared);
        let mut attributes = shared.attributes(operation, &origin.destination(), None);
        attributes.push(KeyValue::new(DELIVERY_TAG, origin.tag));
        let (name, created) = (&self.destination, self.created.clone());
        let mut span =
            shared.start(operation, SpanKind::Client, name, attributes, created, &self.context);
        span.end();
    }
}

impl Processing for Handling {
    fn settled(self: Box<Self>, how: Settled) {
        if let Some(operation) =
            outcome::settlement(how).filter(|_| self.shared.options.settle_spans)
        {
            self.settle_span(operation);
        }
        if !self.processes {
            return;
        }
        let error = outcome::of_processing(how);
        let span = self.context.span();
        if let Some(error) = error {
            span.set_attribute(KeyValue::new(ERROR_TYPE, error));
            span.set_status(Status::error(error));
        }
        span.end();
        let attributes = self.shared.metric(PROCESS, &self.destination, error);
        self.shared.metrics.process.record(seconds_since(self.start), &attributes);
    }

    fn scope(&self) -> Option<Arc<dyn Scope>> {
        Some(Arc::new(Surroundings(self.context.clone())))
    }
}

struct Surroundings(Context);

impl Scope for Surroundings {
    fn enter(&self, run: &mut dyn FnMut()) {
        let _attached = self.0.clone().attach();
        run();
    }
}

/// The `process` span of several deliveries; see [`OtelIntercept::process_batch`](crate::OtelIntercept::process_batch). Dropping it
/// ends the span.
#[must_use = "dropping it ends the span"]
pub struct ProcessBatch {
    shared: Arc<Shared>,
    destination: String,
    context: Context,
    error: Option<&'static str>,
    start: Instant,
}

impl ProcessBatch {
    pub(crate) fn start(
        shared: &Arc<Shared>,
        queue: &[u8],
        messages: impl Iterator<Item = RawProperties>,
    ) -> Self {
        let to = Destination { exchange: b"", routing_key: b"", queue: Some(queue) };
        let destination = shared.low_cardinality(&to);
        let mut count: i64 = 0;
        let count_one = |_: &RawProperties| count = count.saturating_add(1);
        let links: Vec<_> =
            messages.inspect(count_one).filter_map(|message| extract(&message)).collect();
        let mut attributes = shared.attributes(PROCESS, &to, None);
        attributes.push(KeyValue::new(BATCH_COUNT, count));
        let (kind, current) = (SpanKind::Consumer, Context::current());
        let span = shared.start(PROCESS, kind, &destination, attributes, links, &current);
        let context = current.with_span(span);
        let shared = shared.clone();
        Self { shared, destination, context, error: None, start: Instant::now() }
    }

    /// Returns the context with the span. Attach it around the code that handles the batch, or give it to
    /// [`with_context`](opentelemetry::context::FutureExt::with_context).
    #[must_use]
    pub const fn context(&self) -> &Context {
        &self.context
    }

    /// Marks the span as failed. `error` becomes `error.type`, so it must have few different values.
    pub fn fail(&mut self, error: &'static str) {
        self.error = Some(error);
    }
}

impl Drop for ProcessBatch {
    fn drop(&mut self) {
        let span = self.context.span();
        if let Some(error) = self.error {
            span.set_attribute(KeyValue::new(ERROR_TYPE, error));
            span.set_status(Status::error(error));
        }
        span.end();
        let attributes = self.shared.metric(PROCESS, &self.destination, self.error);
        self.shared.metrics.process.record(seconds_since(self.start), &attributes);
    }
}

impl fmt::Debug for ProcessBatch {
    fn fmt(&self, f: &mut fmt::Formatter<'_>) -> fmt::Result {
        f.debug_struct("ProcessBatch").field("error", &self.error).finish_non_exhaustive()
    }
}
