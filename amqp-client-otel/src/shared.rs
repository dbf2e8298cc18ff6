use std::fmt;
use std::time::Instant;

use amqp_client_core::proto::RawProperties;
use opentelemetry::global::{BoxedSpan, BoxedTracer};
use opentelemetry::metrics::{Counter, Histogram, Meter};
use opentelemetry::trace::{Link, SpanBuilder, SpanContext, SpanKind, Tracer as _};
use opentelemetry::{Context, KeyValue, Value};

use crate::attributes::{Attribute, Common, describe, describe_server};
use crate::conventions::{self as names, Operation};
use crate::destination::{Destination, Template};

/// The configuration of an interceptor, and its tracer and metrics.
pub(crate) struct Shared {
    pub(crate) tracer: BoxedTracer,
    pub(crate) metrics: Metrics,
    pub(crate) meter: Meter,
    pub(crate) common: Common,
    pub(crate) template: Option<Box<Template>>,
    pub(crate) options: Options,
}

#[derive(Debug, Clone, Copy)]
pub(crate) struct Options {
    pub(crate) process_is_child: bool,
    pub(crate) process_spans: bool,
    pub(crate) settle_spans: bool,
    pub(crate) baggage: bool,
}

impl Shared {
    /// Returns the destination for span names and metrics.
    pub(crate) fn low_cardinality(&self, to: &Destination<'_>) -> String {
        self.template.as_ref().map_or_else(|| to.low_cardinality(), |template| template(to))
    }

    /// Returns the attributes of the server.
    pub(crate) fn server(&self) -> Vec<KeyValue> {
        let mut all = Vec::new();
        describe_server(&self.common, &mut |name, value| all.push(KeyValue::new(name, value)));
        all
    }

    /// Returns the attributes of spans of a message.
    pub(crate) fn attributes(
        &self,
        operation: Operation,
        to: &Destination<'_>,
        message: Option<(&RawProperties, usize)>,
    ) -> Vec<KeyValue> {
        let mut all = Vec::with_capacity(12);
        describe(&self.common, operation, to, message, |name, value| {
            all.push(KeyValue::new(name, value));
        });
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
        describe_server(&self.common, &mut |name, value| all.push(KeyValue::new(name, value)));
        all.extend(error.map(|error| KeyValue::new(names::ERROR_TYPE, error)));
        all
    }
}

impl From<Attribute<'_>> for Value {
    fn from(attribute: Attribute<'_>) -> Self {
        match attribute {
            Attribute::Text(text) => text.into_owned().into(),
            Attribute::Number(number) => number.into(),
            Attribute::Flag(flag) => flag.into(),
        }
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
