//! A connection with spans and metrics, on the broker of `AMQP_URL` or in memory.

#![allow(dead_code, reason = "each test uses a part of it")]

use std::time::{Duration, Instant};

use amqp_client_otel::{Builder, OtelIntercept};
use amqp_client_tokio::{
    Channel, Connection, ConsumeOptions, Delivery, Queue, QueueOptions, Target, connect_target,
};
use amqp_test_broker::Broker;
use opentelemetry::global::BoxedTracer;
use opentelemetry::metrics::MeterProvider as _;
use opentelemetry::trace::TracerProvider as _;
use opentelemetry_sdk::metrics::{InMemoryMetricExporter, PeriodicReader, SdkMeterProvider};
use opentelemetry_sdk::trace::{InMemorySpanExporter, SdkTracerProvider, SpanData};
use tokio::time::timeout;

/// Keeps spans and metrics in memory.
pub(crate) struct Telemetry {
    pub(crate) spans: InMemorySpanExporter,
    pub(crate) metrics: InMemoryMetricExporter,
    pub(crate) tracer: SdkTracerProvider,
    pub(crate) meter: SdkMeterProvider,
}

impl Telemetry {
    pub(crate) fn new() -> Self {
        let (spans, metrics) = (InMemorySpanExporter::default(), InMemoryMetricExporter::default());
        let tracer = SdkTracerProvider::builder().with_simple_exporter(spans.clone()).build();
        let reader = PeriodicReader::builder(metrics.clone()).build();
        let meter = SdkMeterProvider::builder().with_reader(reader).build();
        Self { spans, metrics, tracer, meter }
    }

    /// Returns the builder of an interceptor whose spans and metrics are kept.
    pub(crate) fn builder(&self) -> Builder {
        OtelIntercept::builder()
            .tracer(BoxedTracer::new(Box::new(self.tracer.tracer("test"))))
            .meter(self.meter.meter("test"))
    }
}

/// Far longer than anything takes on a busy machine.
const LIMIT: Duration = Duration::from_secs(30);

/// Waits for a condition, for at most 30 seconds.
pub(crate) async fn until(what: &str, mut condition: impl FnMut() -> bool) {
    let deadline = Instant::now() + LIMIT;
    while !condition() {
        assert!(Instant::now() < deadline, "still waiting: {what}");
        tokio::time::sleep(Duration::from_millis(1)).await;
    }
}

pub(crate) struct Rig {
    pub(crate) broker: Option<Broker>,
    pub(crate) connection: Connection,
    pub(crate) channel: Channel,
    pub(crate) queue: Queue,
    pub(crate) otel: OtelIntercept,
    pub(crate) telemetry: Telemetry,
}

impl Rig {
    /// `in_memory`: the test injects faults.
    pub(crate) async fn new(
        name: &str,
        in_memory: bool,
        options: impl FnOnce(Builder) -> Builder,
    ) -> Result<Self, Box<dyn std::error::Error>> {
        let url = std::env::var("AMQP_URL").ok().filter(|_| !in_memory);
        let broker = if url.is_some() { None } else { Some(Broker::start()?) };
        let url = url.or_else(|| broker.as_ref().map(Broker::uri)).ok_or("no broker")?;
        let telemetry = Telemetry::new();
        let otel = options(telemetry.builder()).build();
        let target: Target = url.parse()?;
        let connection = connect_target(target.intercept(otel.clone())).await?;
        let channel = connection.open_channel().await?;
        let queue = channel.queue_declare(name, QueueOptions::new().exclusive(true)).await?;
        Ok(Self { broker, connection, channel, queue, otel, telemetry })
    }

    pub(crate) async fn next(&self) -> Result<Delivery, Box<dyn std::error::Error>> {
        let mut consumer = self.queue.consume(ConsumeOptions::new()).await?;
        let next = timeout(LIMIT, consumer.next()).await;
        Ok(next.map_err(|_| "still waiting: a delivery comes")?.ok_or("it ended")??)
    }

    /// Returns the spans that ended since the last call.
    pub(crate) fn take(&self) -> Vec<SpanData> {
        let spans = self.telemetry.spans.get_finished_spans().expect("they are in memory");
        self.telemetry.spans.reset();
        spans
    }

    /// As [`take`](Self::take), as text.
    pub(crate) fn texts(&self) -> Vec<String> {
        self.take().iter().map(text).collect()
    }
}

/// Everything of a span but its identifiers and times.
pub(crate) fn text(span: &SpanData) -> String {
    let mut attributes: Vec<_> =
        span.attributes.iter().map(|pair| format!("{}={}", pair.key, pair.value)).collect();
    attributes.sort();
    let attributes = attributes.join(" ").replace("messaging.", "");
    let links = span.links.len();
    let status = match &span.status {
        opentelemetry::trace::Status::Error { .. } => "Error",
        _ => "Unset",
    };
    format!("{} | {:?} | {attributes} | {links} | {status}", span.name, span.span_kind)
}

pub(crate) fn publish_text(key: &str, links: u32, error: Option<&str>) -> String {
    let status = if error.is_some() { "Error" } else { "Unset" };
    let error = error.map(|error| format!("error.type={error} ")).unwrap_or_default();
    format!(
        "publish amq.default | Producer | {error}destination.name={key} operation.name=publish operation.type=send \
         rabbitmq.destination.routing_key={key} system=rabbitmq | {links} | {status}"
    )
}

pub(crate) fn process_text(key: &str, links: u32, error: Option<&str>) -> String {
    let status = if error.is_some() { "Error" } else { "Unset" };
    let error = error.map(|error| format!("error.type={error} ")).unwrap_or_default();
    format!(
        "process {key} | Consumer | {error}destination.name={key} operation.name=process operation.type=process \
         rabbitmq.destination.routing_key={key} rabbitmq.message.delivery_tag=1 system=rabbitmq | {links} | {status}"
    )
}
