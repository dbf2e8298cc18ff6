use std::sync::{Arc, Mutex, PoisonError};
use std::time::Instant;

use amqp_client_core::intercept::{OutgoingMessage, PublishBatch, PublishOutcome, Published};
use opentelemetry::global::BoxedSpan;
use opentelemetry::trace::{Span as _, SpanKind, Status, TraceContextExt as _};
use opentelemetry::{Context, KeyValue};

use crate::conventions::{BATCH_COUNT, CREATE, ERROR_TYPE, PUBLISH};
use crate::destination::Destination;
use crate::outcome::{self, ABANDONED};
use crate::propagation::{extract, inject};
use crate::shared::{Shared, seconds_since};

/// The `publish` span of one message.
pub(crate) struct Publishing {
    shared: Arc<Shared>,
    destination: String,
    context: Context,
    start: Instant,
    ended: bool,
}

impl Publishing {
    pub(crate) fn start(shared: &Arc<Shared>, message: &mut OutgoingMessage<'_>) -> Self {
        let to = Destination::of(message);
        let name = shared.low_cardinality(&to);
        let properties = message.properties();
        let attributes = shared.attributes(PUBLISH, &to, Some((properties, message.body().len())));
        let created = extract(properties);
        let current = Context::current();
        let span = shared.start(PUBLISH, SpanKind::Producer, &name, attributes, created, &current);
        let context = current.with_span(span);
        inject(message, &context, shared.options.baggage);
        let shared = shared.clone();
        Self { shared, destination: name, context, start: Instant::now(), ended: false }
    }

    fn end(&mut self, error: Option<(&'static str, String)>) {
        self.ended = true;
        let span = self.context.span();
        let kind = error.as_ref().map(|(kind, _)| *kind);
        if let Some((kind, why)) = error {
            span.set_attribute(KeyValue::new(ERROR_TYPE, kind));
            span.set_status(Status::error(why));
        }
        span.end();
        let attributes = self.shared.metric(PUBLISH, &self.destination, kind);
        self.shared.metrics.operation.record(seconds_since(self.start), &attributes);
        self.shared.metrics.sent.add(1, &attributes);
    }
}

impl Published for Publishing {
    fn ended(mut self: Box<Self>, outcome: PublishOutcome<'_>) {
        self.end(outcome::of_publish(outcome));
    }
}

impl Drop for Publishing {
    fn drop(&mut self) {
        if !self.ended {
            self.end(Some((ABANDONED, "nothing waits for the outcome any more".to_owned())));
        }
    }
}

/// The messages of one call, each with a `create` span, and the `publish` span of the call.
pub(crate) struct Batch {
    call: Arc<Call>,
    count: i64,
}

/// Ends its span when the last message has ended.
struct Call {
    shared: Arc<Shared>,
    destination: String,
    span: Mutex<BoxedSpan>,
    error: Mutex<Option<&'static str>>,
    start: Instant,
}

impl Batch {
    pub(crate) fn start(shared: &Arc<Shared>, first: &OutgoingMessage<'_>) -> Self {
        let to = Destination::of(first);
        let destination = shared.low_cardinality(&to);
        let attributes = shared.attributes(PUBLISH, &to, None);
        // The contexts in the messages are those of the `create` spans, so this is not the producer.
        let (kind, current) = (SpanKind::Client, Context::current());
        let span = shared.start(PUBLISH, kind, &destination, attributes, None, &current);
        let (span, error) = (Mutex::new(span), Mutex::default());
        let shared = shared.clone();
        let call = Call { shared, destination, span, error, start: Instant::now() };
        Self { call: Arc::new(call), count: 0 }
    }
}

impl PublishBatch for Batch {
    fn publish(&mut self, message: &mut OutgoingMessage<'_>) -> Option<Box<dyn Published>> {
        let (shared, to) = (&self.call.shared, Destination::of(message));
        let properties = message.properties();
        // A message that has a context was created before, so it needs no `create` span.
        let context = extract(properties).unwrap_or_else(|| {
            let message = Some((properties, message.body().len()));
            let attributes = shared.attributes(CREATE, &to, message);
            let (name, current) = (&self.call.destination, Context::current());
            let mut span =
                shared.start(CREATE, SpanKind::Producer, name, attributes, None, &current);
            span.end();
            span.span_context().clone()
        });
        inject(
            message,
            &Context::current().with_remote_span_context(context.clone()),
            shared.options.baggage,
        );
        self.count = self.count.saturating_add(1);
        self.call.with_span(|span| span.add_link(context, Vec::new()));
        Some(Box::new(InBatch { call: self.call.clone(), ended: false }))
    }
}

impl Drop for Batch {
    fn drop(&mut self) {
        let count = KeyValue::new(BATCH_COUNT, self.count);
        self.call.with_span(|span| span.set_attribute(count));
    }
}

impl Call {
    fn with_span(&self, run: impl FnOnce(&mut BoxedSpan)) {
        run(&mut self.span.lock().unwrap_or_else(PoisonError::into_inner));
    }

    fn message_ended(&self, error: Option<(&'static str, String)>) {
        let kind = error.as_ref().map(|(kind, _)| *kind);
        let attributes = self.shared.metric(PUBLISH, &self.destination, kind);
        self.shared.metrics.sent.add(1, &attributes);
        let Some((kind, why)) = error else { return };
        let mut first = self.error.lock().unwrap_or_else(PoisonError::into_inner);
        if first.is_none() {
            *first = Some(kind);
            self.with_span(|span| {
                span.set_attribute(KeyValue::new(ERROR_TYPE, kind));
                span.set_status(Status::error(why));
            });
        }
    }
}

impl Drop for Call {
    fn drop(&mut self) {
        self.with_span(BoxedSpan::end);
        let error = *self.error.lock().unwrap_or_else(PoisonError::into_inner);
        let attributes = self.shared.metric(PUBLISH, &self.destination, error);
        self.shared.metrics.operation.record(seconds_since(self.start), &attributes);
    }
}

struct InBatch {
    call: Arc<Call>,
    ended: bool,
}

impl Published for InBatch {
    fn ended(mut self: Box<Self>, outcome: PublishOutcome<'_>) {
        self.ended = true;
        self.call.message_ended(outcome::of_publish(outcome));
    }
}

impl Drop for InBatch {
    fn drop(&mut self) {
        if !self.ended {
            self.call.message_ended(Some((
                ABANDONED,
                "nothing waits for the outcome any more".to_owned(),
            )));
        }
    }
}
