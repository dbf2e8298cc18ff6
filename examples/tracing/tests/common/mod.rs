//! A collector in the process of the test, the program, and requests to it.

#![allow(dead_code, unreachable_pub, reason = "each test uses a part")]

use std::collections::HashMap;
use std::io::{BufRead as _, BufReader};
use std::net::SocketAddr;
use std::process::{Child, Command, Stdio};
use std::sync::{Arc, Mutex, MutexGuard, PoisonError};
use std::thread;
use std::time::{Duration, Instant};

use amqp_testkit::wait_until;
use axum::Router;
use axum::body::Bytes;
use axum::routing::post;
use opentelemetry_proto::tonic::collector::metrics::v1::ExportMetricsServiceRequest;
use opentelemetry_proto::tonic::collector::trace::v1::ExportTraceServiceRequest;
use opentelemetry_proto::tonic::common::v1::any_value::Value;
use opentelemetry_proto::tonic::common::v1::{AnyValue, KeyValue};
use opentelemetry_proto::tonic::trace::v1::Span;
use prost::Message as _;
use rustix::process::{Pid, Signal, kill_process};
use tokio::net::TcpListener;
use tokio::runtime::Runtime;

pub type Error = Box<dyn std::error::Error + Send + Sync>;
pub type Outcome = Result<(), Error>;

/// Far longer than anything takes on a busy machine.
pub const LIMIT: Duration = Duration::from_secs(120);

fn lock<T>(mutex: &Mutex<T>) -> MutexGuard<'_, T> {
    mutex.lock().expect("no test panicked")
}

/// The data that a collector has received.
#[derive(Debug, Clone, Default)]
pub struct Received {
    pub spans: Vec<Span>,
    /// The values of `service.name`.
    pub services: Vec<String>,
    pub metrics: Vec<String>,
}

/// A collector that keeps what it receives.
pub struct Collector {
    received: Arc<Mutex<Received>>,
    pub endpoint: String,
    _runtime: Runtime,
}

impl Collector {
    pub fn start() -> Result<Self, Error> {
        let received = Arc::<Mutex<Received>>::default();
        let (traces, metrics) = (received.clone(), received.clone());
        let app = Router::new()
            .route("/v1/traces", post(async move |body: Bytes| lock(&traces).add_traces(body)))
            .route("/v1/metrics", post(async move |body: Bytes| lock(&metrics).add_metrics(body)));
        let runtime = Runtime::new()?;
        let listener = runtime.block_on(TcpListener::bind("127.0.0.1:0"))?;
        let endpoint = format!("http://{}", listener.local_addr()?);
        runtime.spawn(async { axum::serve(listener, app).await });
        Ok(Self { received, endpoint, _runtime: runtime })
    }

    pub fn received(&self) -> Received {
        lock(&self.received).clone()
    }

    /// Waits until a trace has this number of spans, and returns them in the order in which they began. Returns fewer if no more
    /// come: the comparison says then what is missing.
    pub fn wait_trace(&self, trace: &str, count: usize) -> Vec<Span> {
        let deadline = Instant::now() + LIMIT;
        loop {
            let mut spans = self.received().spans;
            spans.retain(|span| hex(&span.trace_id) == trace);
            spans.sort_by_key(|span| span.start_time_unix_nano);
            if spans.len() >= count || Instant::now() > deadline {
                return spans;
            }
            thread::sleep(Duration::from_millis(10));
        }
    }
}

impl Received {
    fn add_traces(&mut self, body: Bytes) {
        let request = ExportTraceServiceRequest::decode(body).expect("it is a trace request");
        for all in request.resource_spans {
            let resource = all.resource.unwrap_or_default();
            self.services.extend(attribute(&resource.attributes, "service.name"));
            self.spans.extend(all.scope_spans.into_iter().flat_map(|scope| scope.spans));
        }
    }

    fn add_metrics(&mut self, body: Bytes) {
        let request = ExportMetricsServiceRequest::decode(body).expect("it is a metrics request");
        let scopes = request.resource_metrics.into_iter().flat_map(|all| all.scope_metrics);
        self.metrics.extend(scopes.flat_map(|scope| scope.metrics).map(|metric| metric.name));
    }
}

pub fn hex(bytes: &[u8]) -> String {
    bytes.iter().map(|byte| format!("{byte:02x}")).collect()
}

pub fn attribute(attributes: &[KeyValue], key: &str) -> Option<String> {
    let pair = attributes.iter().find(|pair| pair.key == key)?;
    Some(match pair.value.clone()? {
        AnyValue { value: Some(Value::StringValue(text)) } => text,
        AnyValue { value: Some(Value::IntValue(number)) } => number.to_string(),
        AnyValue { value: Some(Value::BoolValue(yes)) } => yes.to_string(),
        other => format!("{other:?}"),
    })
}

/// A span and where it goes: `exchange:routing key:queue` without what is empty.
pub fn title(span: &Span) -> String {
    let to = attribute(&span.attributes, "messaging.destination.name");
    let operation = attribute(&span.attributes, "messaging.operation.name");
    match (operation, to) {
        (Some(operation), Some(to)) => format!("{operation} {to}"),
        _ => span.name.clone(),
    }
}

/// Returns the spans of a trace as a tree, one a line: kind, title, error, and the titles of linked spans.
pub fn tree(spans: &[Span]) -> Vec<String> {
    let titles: HashMap<_, _> = spans.iter().map(|span| (&span.span_id, title(span))).collect();
    let mut lines = Vec::new();
    let roots = spans.iter().filter(|span| !titles.contains_key(&span.parent_span_id));
    for root in roots {
        branch(spans, &titles, root, 0, &mut lines);
    }
    lines
}

fn branch(
    spans: &[Span],
    titles: &HashMap<&Vec<u8>, String>,
    span: &Span,
    depth: usize,
    lines: &mut Vec<String>,
) {
    let kind = format!("{:?}", span.kind()).to_lowercase();
    let mut line = format!("{}{}, {kind}", "  ".repeat(depth), titles[&span.span_id]);
    if let Some(error) = attribute(&span.attributes, "error.type") {
        line += &format!(", error {error}");
    }
    for link in &span.links {
        let to = titles.get(&link.span_id).map_or("another trace", String::as_str);
        line += &format!(", linked to {to}");
    }
    lines.push(line);
    for child in spans.iter().filter(|child| child.parent_span_id == span.span_id) {
        branch(spans, titles, child, depth + 1, lines);
    }
}

/// The program. It is killed when this is dropped.
pub struct Program {
    child: Child,
    pub address: SocketAddr,
}

impl Program {
    pub fn start(uri: &str, endpoint: &str) -> Result<Self, Error> {
        let mut child = Command::new(env!("CARGO_BIN_EXE_traced-orders"))
            .env("AMQP_URL", uri)
            .env("HTTP_ADDRESS", "127.0.0.1:0")
            .env("OTEL_EXPORTER_OTLP_ENDPOINT", endpoint)
            .env("OTEL_BSP_SCHEDULE_DELAY", "50")
            .stdout(Stdio::piped())
            .spawn()?;
        let mut line = String::new();
        BufReader::new(child.stdout.take().ok_or("no standard output")?).read_line(&mut line)?;
        let address = line.trim().strip_prefix("listening at ").and_then(|it| it.parse().ok());
        let address = address.ok_or_else(|| format!("it has printed {line:?}"))?;
        Ok(Self { child, address })
    }

    /// Orders something in this trace, and returns the status of the reply.
    pub fn order(&self, item: &str, trace: &str) -> Result<u16, Error> {
        let url = format!("http://{}/orders", self.address);
        let config = ureq::config::Config::builder().http_status_as_error(false);
        let agent = ureq::Agent::new_with_config(config.timeout_global(Some(LIMIT)).build());
        let request = agent
            .post(url)
            .header("content-type", "application/json")
            .header("traceparent", format!("00-{trace}-00000000000000ab-01"));
        let reply = request.send(format!(r#"{{"id": "{}", "item": "{item}"}}"#, &trace[28..]))?;
        Ok(reply.status().as_u16())
    }

    /// Orders until that is accepted.
    pub fn order_until_accepted(&self, item: &str, trace: &str) -> Outcome {
        wait_until(LIMIT, "an order to be accepted", || {
            self.order(item, trace).is_ok_and(|status| status == 202)
        });
        Ok(())
    }

    /// Returns the page for Prometheus.
    pub fn metrics(&self) -> Result<String, Error> {
        let mut reply = ureq::get(format!("http://{}/metrics", self.address)).call()?;
        Ok(reply.body_mut().read_to_string()?)
    }

    /// Sends SIGTERM, and waits until the program has ended with code 0.
    pub fn stop(mut self) -> Outcome {
        kill_process(Pid::from_child(&self.child), Signal::TERM)?;
        let mut status = None;
        wait_until(LIMIT, "the program to end", || {
            status = self.child.try_wait().expect("it is our child");
            status.is_some()
        });
        match status {
            Some(status) if status.success() => Ok(()),
            other => Err(format!("the program ended with {other:?}").into()),
        }
    }
}

impl Drop for Program {
    fn drop(&mut self) {
        let _ended = self.child.kill().and_then(|()| self.child.wait());
    }
}

/// Runs a test on the broker in memory, and on that of `AMQP_URL` if there is one.
pub fn on_each_broker(test: impl Fn(&str) -> Outcome) -> Outcome {
    // Two programs on one broker would take each other's orders.
    static ALONE: Mutex<()> = Mutex::new(());
    let broker = amqp_test_broker::Broker::start()?;
    test(&broker.uri())?;
    let Ok(uri) = std::env::var("AMQP_URL") else { return Ok(()) };
    let _alone = ALONE.lock().unwrap_or_else(PoisonError::into_inner);
    test(&uri)
}
