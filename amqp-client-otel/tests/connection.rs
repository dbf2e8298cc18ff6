//! The metrics of connections, and the spans of what happens to them.

mod rig;

use std::collections::BTreeMap;
use std::time::Duration;

use amqp_client_otel::OtelIntercept;
use amqp_client_tokio::{
    Connection, Message, QueueOptions, RawProperties, Route, Target, connect_target,
};
use amqp_test_broker::Broker;
use opentelemetry::trace::{SpanId, Status};
use opentelemetry_sdk::metrics::data::{AggregatedMetrics, MetricData};
use opentelemetry_sdk::trace::SpanData;
use rig::{Telemetry, until};

type Outcome = Result<(), Box<dyn std::error::Error>>;

/// A broker, and what is reported about the connections to it.
struct Scene {
    broker: Broker,
    otel: OtelIntercept,
    telemetry: Telemetry,
}

impl Scene {
    fn new() -> Result<Self, Box<dyn std::error::Error>> {
        let telemetry = Telemetry::new();
        let otel = telemetry.builder().server("rabbit-1", 5672).build();
        Ok(Self { broker: Broker::start()?, otel, telemetry })
    }

    async fn connect(&self) -> Result<Connection, Box<dyn std::error::Error>> {
        let target: Target = self.broker.uri().parse()?;
        Ok(connect_target(target).await?)
    }

    /// Returns the numbers of the connection with that name.
    fn numbers(
        &self,
        connection: &str,
    ) -> Result<BTreeMap<String, f64>, Box<dyn std::error::Error>> {
        self.telemetry.metrics.reset();
        self.telemetry.meter.force_flush()?;
        let mut numbers = BTreeMap::new();
        let all = self.telemetry.metrics.get_finished_metrics()?;
        let scopes = all.iter().flat_map(|all| all.scope_metrics());
        for metric in scopes.flat_map(|scope| scope.metrics()) {
            let own = |attributes: Vec<(String, String)>| {
                let has = |name: &str, value: &str| {
                    attributes.iter().any(|(key, own)| key == name && own == value)
                };
                assert!(has("server.address", "rabbit-1"), "{attributes:?}");
                has("amqp_client.connection", connection)
            };
            macro_rules! points {
                ($data:expr) => {
                    for point in $data.data_points() {
                        let pairs = point.attributes();
                        let pairs =
                            pairs.map(|pair| (pair.key.to_string(), pair.value.to_string()));
                        if own(pairs.collect()) {
                            numbers.insert(metric.name().to_owned(), point.value() as f64);
                        }
                    }
                };
            }
            match metric.data() {
                AggregatedMetrics::U64(MetricData::Sum(sum)) => points!(sum),
                AggregatedMetrics::U64(MetricData::Gauge(gauge)) => points!(gauge),
                AggregatedMetrics::F64(MetricData::Sum(sum)) => points!(sum),
                other => panic!("{other:?}"),
            }
        }
        Ok(numbers)
    }

    /// Waits until that many spans have ended, and returns them.
    async fn ended(&self, count: usize) -> Vec<SpanData> {
        let ended = || self.telemetry.spans.get_finished_spans().expect("they are in memory");
        until("spans end", || ended().len() >= count).await;
        let spans = ended();
        self.telemetry.spans.reset();
        spans
    }
}

fn text(span: &SpanData) -> String {
    let mut attributes: Vec<_> =
        span.attributes.iter().map(|pair| format!("{}={}", pair.key, pair.value)).collect();
    attributes.sort();
    let status = if matches!(span.status, Status::Error { .. }) { "Error" } else { "Unset" };
    assert_eq!(span.parent_span_id, SpanId::INVALID);
    format!("{} | {} | {status}", span.name, attributes.join(" "))
}

const SYSTEM: &str = "messaging.system=rabbitmq server.address=rabbit-1 server.port=5672";

#[tokio::test]
async fn outages_and_alarms_are_spans() -> Outcome {
    let scene = Scene::new()?;
    let connection = scene.connect().await?;
    let channel = connection.open_channel().await?;
    let task = tokio::spawn(scene.otel.log_events(connection.events()));
    scene.broker.set_alarm(Some("memory"));
    channel.basic_publish(&Route::new("", "q"), &RawProperties::EMPTY, "m").await?;
    until("the broker blocks the connection", || connection.is_blocked()).await;
    scene.broker.set_alarm(None);
    let spans = scene.ended(1).await;
    assert_eq!(
        text(&spans[0]),
        format!("amqp blocked | amqp_client.reason=memory {SYSTEM} | Unset")
    );
    assert!(spans[0].end_time > spans[0].start_time);

    scene.broker.restart();
    let spans = scene.ended(1).await;
    let reconnect = text(&spans[0]);
    assert!(
        reconnect.starts_with("amqp reconnect | amqp_client.attempts=1 amqp_client.reason="),
        "{reconnect}"
    );
    let end = format!(
        " amqp_client.republished=0 amqp_client.restored.channels=1 amqp_client.restored.consumers=0 {SYSTEM} | Unset"
    );
    assert!(reconnect.ends_with(&end), "{reconnect}");

    connection.close().await?;
    let spans = scene.ended(1).await;
    assert_eq!(text(&spans[0]), format!("amqp closed | {SYSTEM} | Unset"));
    until("`log_events` ends", || task.is_finished()).await;
    task.await?;
    Ok(())
}

#[tokio::test]
async fn an_end_that_nobody_asked_for_is_an_error() -> Outcome {
    let scene = Scene::new()?;
    let target: Target = scene.broker.uri().parse()?;
    let recovery = amqp_client_tokio::Recovery::default().attempts_max(Some(2));
    let recovery = recovery.delay_min(Duration::from_millis(1)).delay_max(Duration::from_millis(1));
    let connection = connect_target(target.recovery(recovery)).await?;
    let task = tokio::spawn(scene.otel.log_events(connection.events()));
    let Scene { broker, telemetry, .. } = scene;
    drop(broker);
    until("`log_events` ends", || task.is_finished()).await;
    task.await?;
    let spans = telemetry.spans.get_finished_spans()?;
    let [span] = &spans[..] else { panic!("{spans:?}") };
    let names: Vec<_> = span.events.iter().map(|event| event.name.to_string()).collect();
    assert_eq!(names, ["attempt failed", "attempt failed"]);
    let text = text(span);
    assert!(text.starts_with("amqp reconnect | amqp_client.reason="), "{text}");
    assert!(text.contains(" error.type=lost ") && text.ends_with(" | Error"), "{text}");
    Ok(())
}

#[tokio::test]
async fn the_counters_of_each_connection_are_metrics_until_it_closes() -> Outcome {
    let scene = Scene::new()?;
    let (orders, mail) = (scene.connect().await?, scene.connect().await?);
    scene.otel.observe(&orders.monitor(), "orders");
    scene.otel.observe(&mail.monitor(), "mail");
    let channel = orders.open_channel().await?;
    let queue = channel.queue_declare("q", QueueOptions::new().exclusive(true)).await?;
    queue.publish_confirmed(&Message::new("body")).await?;
    let numbers = scene.numbers("orders")?;
    for (name, value) in orders.counters().iter() {
        // The count of bytes and reads goes on meanwhile.
        if !matches!(name, "bytes_read" | "bytes_written" | "reads" | "writes") {
            assert_eq!(
                numbers.get(&format!("amqp_client.{name}")),
                Some(&(value as f64)),
                "{name}"
            );
        }
    }
    assert_eq!(numbers["amqp_client.published"], 1.0);
    assert_eq!(numbers["amqp_client.current.open"], 1.0);
    assert_eq!(numbers["amqp_client.current.channels"], 1.0);
    assert_eq!(numbers["amqp_client.blocked_time"], 0.0);
    assert_eq!(scene.numbers("mail")?["amqp_client.published"], 0.0);

    // The metrics do not keep the connection open.
    let monitor = orders.monitor();
    drop((channel, queue, orders));
    until("the connection closes", || monitor.counters().is_none()).await;
    assert_eq!(scene.numbers("orders")?, BTreeMap::new());
    assert_eq!(scene.numbers("mail")?["amqp_client.current.open"], 1.0);
    Ok(())
}
