//! A connection as a whole: its counters as metrics, and its outages and other events as spans.

use amqp_client_core::proto::ConnectionError;
use amqp_client_core::proto::session::RecoveryReport;
use amqp_client_core::{ConnectionEvent, ConnectionEvents, Counters, Health, Monitor};
use opentelemetry::global::BoxedSpan;
use opentelemetry::trace::{Span as _, SpanBuilder, SpanKind, Status, Tracer as _};
use opentelemetry::{Context, KeyValue};

use crate::OtelIntercept;
use crate::conventions::{ERROR_TYPE, RABBITMQ, SYSTEM};
use crate::shared::Shared;

type Level = (&'static str, fn(&Health) -> usize);

/// Numbers of a connection that rise and fall.
const LEVELS: [Level; 8] = [
    ("open", |health| usize::from(health.is_open())),
    ("blocked", |health| usize::from(health.blocked)),
    ("channels", |health| health.channels),
    ("unconfirmed", |health| health.unconfirmed),
    ("unsettled", |health| health.unsettled),
    ("kept_bytes", |health| health.kept_bytes),
    ("queued_bytes", |health| health.queued_bytes),
    ("delivered_bytes", |health| health.delivered_bytes),
];

impl OtelIntercept {
    /// Exports the counters of a connection, and its state, as metrics that are read whenever the meter's reader collects.
    ///
    /// Each of the [counters](Counters) becomes a counter `amqp_client.<name>`, and `amqp_client.blocked_time` counts seconds. The
    /// state ([`Health`]) becomes gauges `amqp_client.current.<name>`: `open` and `blocked` (1 or 0), `channels`, `unconfirmed`,
    /// `unsettled`, `kept_bytes`, `queued_bytes` and `delivered_bytes`. No convention covers these names.
    ///
    /// `name` becomes the attribute `amqp_client.connection`. Give each connection of the program another name, and the same name to
    /// a connection that replaces an earlier one. The metrics end with the connection: they do not keep it open.
    ///
    /// ```no_run
    /// # use amqp_client_otel::OtelIntercept;
    /// # fn example(otel: OtelIntercept, connection: amqp_client_tokio::Connection) {
    /// otel.observe(&connection.monitor(), "orders");
    /// # }
    /// ```
    pub fn observe(&self, monitor: &Monitor, name: &str) {
        let shared = &self.0;
        let mut attributes = shared.server();
        attributes.push(KeyValue::new(SYSTEM, RABBITMQ));
        attributes.push(KeyValue::new("amqp_client.connection", name.to_owned()));
        for (index, (name, _)) in Counters::default().iter().enumerate() {
            let (monitor, attributes) = (monitor.clone(), attributes.clone());
            let counter = shared.meter.u64_observable_counter(format!("amqp_client.{name}"));
            let _registered = counter
                .with_callback(move |observer| {
                    let counters = monitor.counters();
                    if let Some((_, value)) = counters.and_then(|all| all.iter().nth(index)) {
                        observer.observe(value, &attributes);
                    }
                })
                .build();
        }
        let (own, common) = (monitor.clone(), attributes.clone());
        let blocked =
            shared.meter.f64_observable_counter("amqp_client.blocked_time").with_unit("s");
        let _registered = blocked
            .with_callback(move |observer| {
                if let Some(counters) = own.counters() {
                    observer.observe(counters.blocked_time.as_secs_f64(), &common);
                }
            })
            .build();
        for (name, level) in LEVELS {
            let (monitor, attributes) = (monitor.clone(), attributes.clone());
            let gauge = shared.meter.u64_observable_gauge(format!("amqp_client.current.{name}"));
            let _registered = gauge
                .with_callback(move |observer| {
                    if let Some(health) = monitor.health() {
                        observer.observe(level(&health) as u64, &attributes);
                    }
                })
                .build();
        }
    }

    /// Creates spans for what happens to a connection as a whole, until the connection is closed. Spawn the future as a task.
    ///
    /// | Span | From | To |
    /// |---|---|---|
    /// | `amqp reconnect` | the loss | the recovery, or the end of the connection. Failed attempts, and entities that are missing afterwards, are events of the span. |
    /// | `amqp blocked` | `connection.blocked` | `connection.unblocked`, or the loss |
    /// | `amqp consumer lags`, `amqp token not renewed`, `amqp not restored`, `amqp restored`, `amqp attempt failed` (of the first connection), `amqp events missed`, `amqp closed` | the event | at once |
    ///
    /// An end that the application did not ask for is an error (`error.type`: `lost`).
    ///
    /// # Cancel safety
    /// Dropping the future ends the open spans.
    ///
    /// ```no_run
    /// # use amqp_client_otel::OtelIntercept;
    /// # async fn example(otel: OtelIntercept, connection: amqp_client_tokio::Connection) {
    /// tokio::spawn(otel.log_events(connection.events()));
    /// # }
    /// ```
    pub fn log_events(
        &self,
        mut events: ConnectionEvents,
    ) -> impl Future<Output = ()> + Send + 'static {
        let mut life = Life { shared: self.0.clone(), outage: None, blocked: None };
        async move {
            while let Some(event) = events.next().await {
                life.event(event);
            }
        }
    }
}

/// The outage and the alarm that have not ended yet.
struct Life {
    shared: std::sync::Arc<Shared>,
    outage: Option<BoxedSpan>,
    blocked: Option<BoxedSpan>,
}

impl Life {
    fn event(&mut self, event: ConnectionEvent) {
        let text = event.to_string();
        match event {
            ConnectionEvent::Blocked { reason } => {
                let reason = String::from_utf8_lossy(reason.as_bytes()).into_owned();
                // RabbitMQ may report another reason while it blocks.
                let span = self.blocked.take().unwrap_or_else(|| self.start("amqp blocked", &[]));
                let span = self.blocked.insert(span);
                span.set_attribute(KeyValue::new("amqp_client.reason", reason));
            }
            ConnectionEvent::Unblocked => self.blocked = None,
            ConnectionEvent::Lost { reason } => {
                self.blocked = None;
                let why = KeyValue::new("amqp_client.reason", reason.to_string());
                let outage = self.start("amqp reconnect", &[why]);
                self.outage = Some(outage);
            }
            ConnectionEvent::AttemptFailed { .. } => self.note("attempt failed", text),
            ConnectionEvent::Connecting { .. } | ConnectionEvent::Waiting { .. } => {}
            ConnectionEvent::Recovered(report) => self.recovered(&report),
            ConnectionEvent::Closed(error) => self.closed(&error, text),
            ConnectionEvent::ConsumerLags { .. } => self.instant("amqp consumer lags", text),
            ConnectionEvent::TokenNotRenewed { .. } => self.instant("amqp token not renewed", text),
            ConnectionEvent::NotRestored { .. } => self.instant("amqp not restored", text),
            ConnectionEvent::Restored { .. } => self.instant("amqp restored", text),
            ConnectionEvent::Missed(_) => self.instant("amqp events missed", text),
            _ => {}
        }
    }

    fn recovered(&mut self, report: &RecoveryReport) {
        let Some(mut span) = self.outage.take() else { return };
        let number = |count: usize| i64::try_from(count).unwrap_or(i64::MAX);
        span.set_attribute(KeyValue::new("amqp_client.attempts", i64::from(report.attempts)));
        for (name, count) in [
            ("amqp_client.restored.channels", report.channels),
            ("amqp_client.restored.consumers", report.consumers),
            ("amqp_client.republished", report.republished),
        ] {
            span.set_attribute(KeyValue::new(name, number(count)));
        }
        for (entity, error) in &report.failed {
            let text = KeyValue::new("amqp_client.text", format!("{entity}: {error}"));
            span.add_event("not restored", vec![text]);
        }
        for entity in &report.locked {
            let text =
                KeyValue::new("amqp_client.text", format!("{entity}: held by another connection"));
            span.add_event("not restored yet", vec![text]);
        }
    }

    fn closed(&mut self, error: &ConnectionError, text: String) {
        self.blocked = None;
        let by_us = error
            .as_close()
            .is_some_and(|close| close.by == amqp_client_core::proto::Initiator::Local);
        let mut span = self.outage.take().unwrap_or_else(|| self.start("amqp closed", &[]));
        if !by_us {
            span.set_attribute(KeyValue::new(ERROR_TYPE, "lost"));
            span.set_status(Status::error(text));
        }
    }

    /// Adds an event to the span of the outage. The first connection has none.
    fn note(&mut self, name: &'static str, text: String) {
        match &mut self.outage {
            Some(span) => span.add_event(name, vec![KeyValue::new("amqp_client.text", text)]),
            None => self.instant("amqp attempt failed", text),
        }
    }

    /// Creates a span that ends at once.
    fn instant(&self, name: &'static str, text: String) {
        drop(self.start(name, &[KeyValue::new("amqp_client.text", text)]));
    }

    fn start(&self, name: &'static str, more: &[KeyValue]) -> BoxedSpan {
        let mut attributes = self.shared.server();
        attributes.push(KeyValue::new(SYSTEM, RABBITMQ));
        attributes.extend_from_slice(more);
        let builder =
            SpanBuilder::from_name(name).with_kind(SpanKind::Client).with_attributes(attributes);
        // A trace of its own: the span that is current in this task did not cause the event.
        self.shared.tracer.build_with_context(builder, &Context::new())
    }
}
