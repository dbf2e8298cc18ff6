//! Where traces and metrics go: to the collector of `OTEL_EXPORTER_OTLP_ENDPOINT`, by default `http://localhost:4318`.
//!
//! The other variables of OpenTelemetry work, too: `OTEL_SERVICE_NAME`, `OTEL_TRACES_SAMPLER`, `OTEL_METRIC_EXPORT_INTERVAL` and so on.

use std::env;
use std::sync::Arc;
use std::sync::atomic::{AtomicBool, Ordering};
use std::time::Duration;

use amqp_client_otel::OtelIntercept;
use amqp_client_tokio::{Endpoint, Target};
use async_trait::async_trait;
use opentelemetry::global::{self, BoxedTracer};
use opentelemetry_http::{Bytes, HttpClient, HttpError, Request, Response};
use opentelemetry_otlp::{MetricExporter, SpanExporter, WithHttpConfig as _};
use opentelemetry_sdk::Resource;
use opentelemetry_sdk::metrics::SdkMeterProvider;
use opentelemetry_sdk::propagation::TraceContextPropagator;
use opentelemetry_sdk::trace::SdkTracerProvider;
use ureq::Agent;

use crate::Error;

/// The providers of traces and metrics. Each exports on a thread of its own.
pub(crate) struct Telemetry {
    traces: SdkTracerProvider,
    metrics: SdkMeterProvider,
}

impl Telemetry {
    /// Sets the global providers.
    pub(crate) fn start() -> Result<Self, Error> {
        let client = Arc::new(Client::new());
        let mut resource = Resource::builder();
        if env::var_os("OTEL_SERVICE_NAME").is_none() {
            resource = resource.with_service_name("orders");
        }
        let resource = resource.build();

        let exporter = SpanExporter::builder().with_http().with_shared_http_client(client.clone());
        let traces = SdkTracerProvider::builder()
            .with_batch_exporter(exporter.build()?)
            .with_resource(resource.clone())
            .build();
        let exporter = MetricExporter::builder().with_http().with_shared_http_client(client);
        let metrics = SdkMeterProvider::builder()
            .with_periodic_exporter(exporter.build()?)
            .with_resource(resource)
            .build();

        global::set_text_map_propagator(TraceContextPropagator::new());
        global::set_tracer_provider(traces.clone());
        global::set_meter_provider(metrics.clone());
        Ok(Self { traces, metrics })
    }

    /// Sends what has not been sent.
    pub(crate) fn shutdown(self) {
        let ended = [self.traces.shutdown(), self.metrics.shutdown()];
        for error in ended.into_iter().filter_map(Result::err) {
            eprintln!("some traces or metrics are lost: {error}");
        }
    }
}

/// The tracer of the program itself.
pub(crate) fn tracer() -> BoxedTracer {
    global::tracer("orders")
}

/// Creates the spans and metrics of all messages.
pub(crate) fn intercept(target: &Target) -> OtelIntercept {
    let mut builder = OtelIntercept::builder()
        // Each order is handled by itself, so one trace shall show its whole way. The default is a trace for each handler, with a
        // link to the trace of the message.
        .process_is_child(true)
        .settle_spans(true);
    if let [Endpoint { host, port, .. }] = target.get_endpoints() {
        builder = builder.server(host, *port);
    }
    builder.build()
}

/// Sends requests to the collector. The exporters have threads of their own, so it may block.
#[derive(Debug)]
struct Client {
    agent: Agent,
    /// Whether the last request has failed: the log has one line for an outage of the collector.
    failed: AtomicBool,
}

impl Client {
    fn new() -> Self {
        let config = Agent::config_builder()
            .timeout_global(Some(Duration::from_secs(10)))
            .http_status_as_error(false);
        Self { agent: config.build().into(), failed: AtomicBool::new(false) }
    }

    fn send(&self, request: Request<Bytes>) -> Result<Response<Bytes>, HttpError> {
        let (parts, body) = request.into_parts();
        let request = Request::from_parts(parts, body.to_vec());
        let (parts, mut body) = self.agent.run(request)?.into_parts();
        Ok(Response::from_parts(parts, body.read_to_vec()?.into()))
    }
}

#[async_trait]
impl HttpClient for Client {
    async fn send_bytes(&self, request: Request<Bytes>) -> Result<Response<Bytes>, HttpError> {
        let to = request.uri().clone();
        let result = self.send(request);
        if self.failed.swap(result.is_err(), Ordering::Relaxed) != result.is_err() {
            match &result {
                Ok(_) => eprintln!("traces and metrics arrive at {to} again"),
                Err(error) => eprintln!("traces and metrics are lost: {to}: {error}"),
            }
        }
        result
    }
}
