//! `instructions SCENARIO COUNT LAYER`: publishes or consumes messages, for valgrind to count the processor's instructions. Run it
//! with two counts, and divide the difference.
//!
//! Scenarios: `publish`; `consume`, with an acknowledgement each. Layers:
//!
//! | Layer | Interceptor |
//! |---|---|
//! | `none` | none |
//! | `empty` | one that wants nothing |
//! | `off` | `OtelIntercept` without providers |
//! | `unsampled` | with a tracer that samples nothing |
//! | `metrics` | with metrics, and no tracer |
//! | `spans` | with a tracer that exports each span to nowhere, and no metrics |
//! | `all` | with both |
//!
//! The transport is memory. The work of the other end is done before.

#[path = "../../amqp-client-core/tests/harness/mod.rs"]
mod harness;

use amqp_client_core::intercept::Intercept;
use amqp_client_core::proto::{RawProperties, Route};
use amqp_client_core::{Channel, Config, ConsumeOptions};
use amqp_client_otel::OtelIntercept;
use harness::ClientRig;
use opentelemetry::global::BoxedTracer;
use opentelemetry::metrics::MeterProvider as _;
use opentelemetry::trace::TracerProvider as _;
use opentelemetry_sdk::error::OTelSdkResult;
use opentelemetry_sdk::metrics::{InMemoryMetricExporter, PeriodicReader, SdkMeterProvider};
use opentelemetry_sdk::trace::{Sampler, SdkTracerProvider, SpanData, SpanExporter};

/// Number of messages before it is the other side's turn.
const BATCH: usize = 100;
const BODY: [u8; 256] = [7; 256];

fn main() {
    let args: Vec<String> = std::env::args().collect();
    let [_, scenario, count, layer] = &args[..] else {
        // `cargo bench` runs every bench, with arguments of its own.
        return println!("usage: instructions SCENARIO COUNT LAYER");
    };
    let Ok(count) = count.parse::<usize>() else { return };
    let reader = PeriodicReader::builder(InMemoryMetricExporter::default());
    let reader = reader.with_interval(std::time::Duration::from_secs(86_400)).build();
    let meters = SdkMeterProvider::builder().with_reader(reader).build();
    let tracers = |sampler| {
        let provider = SdkTracerProvider::builder().with_sampler(sampler);
        let provider = provider.with_simple_exporter(Nowhere).build();
        BoxedTracer::new(Box::new(provider.tracer("bench")))
    };
    let otel = OtelIntercept::builder();
    let config = Config::default();
    let config = match layer.as_str() {
        "none" => config,
        "empty" => config.intercept(Empty),
        "off" => config.intercept(otel.build()),
        "unsampled" => config.intercept(otel.tracer(tracers(Sampler::AlwaysOff)).build()),
        "metrics" => config.intercept(otel.meter(meters.meter("bench")).build()),
        "spans" => config.intercept(otel.tracer(tracers(Sampler::AlwaysOn)).build()),
        "all" => {
            let otel = otel.tracer(tracers(Sampler::AlwaysOn)).meter(meters.meter("bench"));
            config.intercept(otel.build())
        }
        other => panic!("no layer is called {other}"),
    };
    let mut rig = ClientRig::new(config);
    let channel = rig.open_channel();
    match scenario.as_str() {
        "publish" => publish(&mut rig, &channel, count / BATCH),
        "consume" => consume(&mut rig, &channel, count / BATCH),
        other => panic!("no scenario is called {other}"),
    }
}

fn publish(rig: &mut ClientRig, channel: &Channel, batches: usize) {
    let (route, none) = (Route::new("exchange", "routing.key"), RawProperties::EMPTY);
    for _ in 0..batches {
        for _ in 0..BATCH {
            rig.run(channel.basic_publish(&route, &none, &BODY)).expect("sent");
        }
        rig.write(false);
    }
}

fn consume(rig: &mut ClientRig, channel: &Channel, batches: usize) {
    let consuming = channel.basic_consume("queue", ConsumeOptions::new());
    let mut consumer = rig.run(consuming).expect("a consumer");
    let mut deliveries = rig.deliveries(&consumer, BATCH, &BODY);
    for _ in 0..batches {
        rig.hear(deliveries.again());
        while let Some(delivery) = consumer.try_next() {
            delivery.ack().expect("it waits");
        }
        rig.write(false);
    }
}

struct Empty;

impl Intercept for Empty {}

/// Exports to nowhere.
#[derive(Debug)]
struct Nowhere;

impl SpanExporter for Nowhere {
    async fn export(&self, _: Vec<SpanData>) -> OTelSdkResult {
        Ok(())
    }
}
