use std::fmt;
use std::time::Instant;

use amqp_client_core::proto::{RawProperties, ShortStr};
use opentelemetry::global::{BoxedSpan, BoxedTracer};
use opentelemetry::metrics::{Counter, Histogram, Meter};
use opentelemetry::trace::{Link, SpanBuilder, SpanContext, SpanKind, Tracer as _};
use opentelemetry::{Context, KeyValue};

use crate::conventions::{self as names, Operation};
use crate::destination::{Destination, text};

/// Returns a name of low cardinality.
pub(crate) type Template = dyn Fn(&Destination<'_>) -> String + Send + Sync;

/// The configuration of an interceptor, and its tracer and metrics.
pub(crate) struct Shared {
    pub(crate) tracer: BoxedTracer,
    pub(crate) metrics: Metrics,
    pub(crate) meter: Meter,
    /// Attributes of all spans and metrics.
    pub(crate) server: Vec<KeyValue>,
    pub(crate) client_id: Option<String>,
    pub(crate) template: Option<Box<Template>>,
    pub(crate) options: Options,
}

#[derive(Debug, Clone, Copy)]
pub(crate) struct Options {
    pub(crate) process_is_child: bool,
    pub(crate) process_spans: bool,
    pub(crate) settle_spans: bool,
    pub(crate) body_size: bool,
    pub(crate) baggage: bool,
}

impl Shared {
    /// Returns the destination for span names and metrics.
    pub(crate) fn low_cardinality(&self, to: &Destination<'_>) -> String {
        self.template.as_ref().map_or_else(|| to.low_cardinality(), |template| template(to))
    }

    /// Returns the attributes of spans of a message.
    pub(crate) fn attributes(
        &self,
        operation: Operation,
        to: &Destination<'_>,
        message: Option<(&RawProperties, usize)>,
    ) -> Vec<KeyValue> {
        let mut all = Vec::with_capacity(12);
        all.push(KeyValue::new(names::SYSTEM, names::RABBITMQ));
        all.push(KeyValue::new(names::OPERATION_NAME, operation.name));
        all.push(KeyValue::new(names::OPERATION_TYPE, operation.kind));
        all.push(KeyValue::new(names::DESTINATION_NAME, to.full_name()));
        if to.is_anonymous() {
            all.push(KeyValue::new(names::DESTINATION_ANONYMOUS, true));
        }
        if !to.routing_key.is_empty() {
            all.push(KeyValue::new(names::ROUTING_KEY, text(to.routing_key).into_owned()));
        }
        if let Some(id) = &self.client_id {
            all.push(KeyValue::new(names::CLIENT_ID, id.clone()));
        }
        all.extend_from_slice(&self.server);
        if let Some((properties, size)) = message {
            let mut add = |name, value: Option<ShortStr>| {
                all.extend(value.map(|id| KeyValue::new(name, text(id.as_bytes()).into_owned())));
            };
            add(names::MESSAGE_ID, properties.message_id().ok().flatten());
            add(names::CONVERSATION_ID, properties.correlation_id().ok().flatten());
            if self.options.body_size {
                let size = i64::try_from(size).unwrap_or(i64::MAX);
                all.push(KeyValue::new(names::BODY_SIZE, size));
            }
        }
        all
    }

    pub(crate) fn start(
        &self,
        operation: Operation,
        kind: SpanKind,
        destination: &str,
        attributes: Vec<KeyValue>,
        links: impl IntoIterator<Item = SpanContext>,
        parent: &Context,
    ) -> BoxedSpan {
        let links = links.into_iter().map(Link::with_context).collect();
        let builder = SpanBuilder::from_name(format!("{} {destination}", operation.name))
            .with_kind(kind)
            .with_attributes(attributes)
            .with_links(links);
        self.tracer.build_with_context(builder, parent)
    }

    /// Returns the attributes of metrics, all of low cardinality.
    pub(crate) fn metric(
        &self,
        operation: Operation,
        destination: &str,
        error: Option<&'static str>,
    ) -> Vec<KeyValue> {
        let mut all = vec![
            KeyValue::new(names::SYSTEM, names::RABBITMQ),
            KeyValue::new(names::OPERATION_NAME, operation.name),
            KeyValue::new(names::DESTINATION_NAME, destination.to_owned()),
        ];
        all.extend_from_slice(&self.server);
        all.extend(error.map(|error| KeyValue::new(names::ERROR_TYPE, error)));
        all
    }
}

impl fmt::Debug for Shared {
    fn fmt(&self, f: &mut fmt::Formatter<'_>) -> fmt::Result {
        f.debug_struct("Shared").field("options", &self.options).finish_non_exhaustive()
    }
}

/// The four metrics of the conventions.
pub(crate) struct Metrics {
    pub(crate) operation: Histogram<f64>,
    pub(crate) process: Histogram<f64>,
    pub(crate) sent: Counter<u64>,
    pub(crate) consumed: Counter<u64>,
}

impl Metrics {
    pub(crate) fn new(meter: &Meter) -> Self {
        let seconds = |name| {
            let histogram = meter.f64_histogram(name).with_unit("s");
            histogram.with_boundaries(names::BOUNDARIES.to_vec()).build()
        };
        let messages = |name| meter.u64_counter(name).with_unit("{message}").build();
        Self {
            operation: seconds(names::OPERATION_DURATION),
            process: seconds(names::PROCESS_DURATION),
            sent: messages(names::SENT_MESSAGES),
            consumed: messages(names::CONSUMED_MESSAGES),
        }
    }
}

pub(crate) fn seconds_since(start: Instant) -> f64 {
    start.elapsed().as_secs_f64()
}
