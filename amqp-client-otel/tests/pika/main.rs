//! Traces go through pika, with its instrumentation by OpenTelemetry, and come back.
//!
//! `tests/other-clients/run` installs pika and runs this test, on the broker in memory and on RabbitMQ.

#[path = "../rig/mod.rs"]
mod rig;

use std::collections::HashMap;
use std::env;
use std::process::{Child, Command, Stdio};
use std::time::Duration;

use amqp_client_tokio::{
    ConsumeOptions, Delivery, Message, Queue, QueueOptions, Target, connect_target,
};
use opentelemetry::trace::{SpanContext, SpanId, SpanKind};
use opentelemetry_sdk::trace::SpanData;
use rig::Telemetry;
use tokio::time::timeout;

type Result<T> = std::result::Result<T, Box<dyn std::error::Error>>;

/// The trace in which pika publishes first, and its span.
const ORIGIN: &str = "00000000000000000000000000000abc 0000000000000def";

/// A span of pika.
#[derive(Debug, PartialEq, Eq)]
struct Theirs {
    name: String,
    kind: String,
    id: String,
    parent: String,
    state: String,
}

/// The spans of both programs in one run.
struct Run {
    /// The queues to which pika publishes, and from which it consumes.
    from_pika: String,
    to_pika: String,
    ours: Vec<SpanData>,
    theirs: Vec<Theirs>,
    /// The baggage in the callback of pika, and the body that it got.
    callback: String,
}

fn id(span: &SpanContext) -> String {
    format!("{} {}", span.trace_id(), span.span_id())
}

impl Run {
    /// Returns our only span with this name.
    fn ours(&self, name: &str) -> &SpanData {
        let mut named = self.ours.iter().filter(|span| span.name == name);
        let Some(span) = named.next() else { panic!("no span {name:?}: {:?}", self.ours) };
        assert!(named.next().is_none(), "{name:?} more than once: {:?}", self.ours);
        span
    }

    /// Returns the span of pika with this identifier.
    fn theirs(&self, id: &str) -> &Theirs {
        let found = self.theirs.iter().find(|span| span.id == id);
        found.unwrap_or_else(|| panic!("pika has no span {id}: {:?}", self.theirs))
    }

    /// Returns the span that pika has made in this span, and that has no such child itself. (It instruments the channel for users
    /// and the channel below, so some spans come twice, one in the other.)
    fn innermost(&self, parent: &str, name: &str) -> &Theirs {
        let children = self.theirs.iter().filter(|span| span.parent == parent && span.name == name);
        let [child] = children.collect::<Vec<_>>()[..] else {
            panic!("{name:?} is not one span in {parent}: {:?}", self.theirs)
        };
        let deeper = |span: &&Theirs| span.parent == child.id && span.name == name;
        if self.theirs.iter().any(|span| deeper(&span)) {
            return self.innermost(&child.id, name);
        }
        child
    }
}

/// Takes the next delivery, or fails when the peer has ended without it.
async fn next(queue: &Queue) -> Result<Delivery> {
    let mut consumer = queue.consume(ConsumeOptions::new()).await?;
    let next = timeout(Duration::from_secs(60), consumer.next()).await;
    Ok(next.map_err(|_| "pika publishes nothing")?.ok_or("the consumer ended")??)
}

fn start_peer(url: &str, to: &str, from: &str) -> Result<Child> {
    let python = env::var_os("PYTHON").ok_or("PYTHON names none: run tests/other-clients/run")?;
    let program = concat!(env!("CARGO_MANIFEST_DIR"), "/tests/pika/peer.py");
    Ok(Command::new(python).args([program, url, to, from]).stdout(Stdio::piped()).spawn()?)
}

/// pika publishes; our handler publishes to pika; its callback publishes to us.
async fn run(child: bool) -> Result<Run> {
    let from_pika = format!("from-pika-{child}");
    let to_pika = format!("to-pika-{child}");
    let url = env::var("AMQP_URL")?;
    let telemetry = Telemetry::new();
    let otel = telemetry.builder().process_is_child(child).baggage(true).build();
    let connection = connect_target(url.parse::<Target>()?.intercept(otel)).await?;
    let channel = connection.open_channel().await?;
    let options = QueueOptions::new().durable(false);
    let ours = channel.queue_declare(&*from_pika, options.clone()).await?;
    let theirs = channel.queue_declare(&*to_pika, options).await?;
    for queue in [&ours, &theirs] {
        queue.purge().await?;
    }

    let peer = start_peer(&url, &from_pika, &to_pika)?;
    let delivery = next(&ours).await?;
    let scope = delivery.scope();
    scope.wrap(theirs.publish_confirmed(&Message::new("from a handler"))).await?;
    delivery.ack()?;
    let output = peer.wait_with_output()?;
    assert!(output.status.success(), "pika has failed");
    let got = ours.get().await?.ok_or("pika's callback has published nothing")?;
    got.delivery.ack()?;
    for queue in [ours, theirs] {
        queue.delete().await?;
    }
    connection.close().await?;

    let (ours, theirs, callback) =
        (telemetry.spans.get_finished_spans()?, Vec::new(), String::new());
    let mut run = Run { from_pika, to_pika, ours, theirs, callback };
    for line in String::from_utf8(output.stdout)?.lines() {
        let fields: Vec<_> = line.split('\t').map(ToOwned::to_owned).collect();
        match <[String; 5]>::try_from(fields) {
            Ok([name, kind, id, parent, state]) => {
                run.theirs.push(Theirs { name, kind, id, parent, state });
            }
            Err(_) => run.callback = line.to_owned(),
        }
    }
    Ok(run)
}

/// Compares the spans that are the same whether the `process` span is a child or linked.
fn compare(run: &Run) -> HashMap<&'static str, String> {
    let first = run.innermost(ORIGIN, &format!("{} send", run.from_pika));
    assert_eq!((&*first.kind, &*first.state), ("PRODUCER", "vendor=left"));

    let process = run.ours(&format!("process {}", run.from_pika));
    assert_eq!(process.span_kind, SpanKind::Consumer);

    let publish = run.ours("publish amq.default");
    assert_eq!(publish.span_kind, SpanKind::Producer);
    assert_eq!(publish.span_context.trace_id(), process.span_context.trace_id());
    assert_eq!(publish.parent_span_id, process.span_context.span_id());

    // pika's consumer continues our trace.
    let receive = run.innermost(&id(&publish.span_context), &format!("{} receive", run.to_pika));
    assert_eq!(receive.kind, "CONSUMER");
    let trace = publish.span_context.trace_id().to_string();
    assert!(receive.id.starts_with(&trace), "{receive:?} is not of the trace {trace}");
    assert_eq!(receive.state, publish.span_context.trace_state().header());
    assert_eq!(run.callback, "baggage\tZoë, 7\tfrom a handler");

    // Our receiver is linked to what the callback has published.
    let last = run.innermost(&receive.id, &format!("{} send", run.from_pika));
    let got = run.ours(&format!("receive {}", run.from_pika));
    assert_eq!(got.span_kind, SpanKind::Client);
    let links: Vec<_> = got.links.iter().map(|link| id(&link.span_context)).collect();
    assert_eq!(links, [last.id.as_str()]);
    assert!(last.id.starts_with(&trace), "{last:?} is not of the trace {trace}");
    HashMap::from([("first", first.id.clone()), ("last", last.id.clone())])
}

#[tokio::test]
#[ignore = "needs pika: tests/other-clients/run runs it"]
async fn links_to_pika_and_back() -> Result<()> {
    let run = run(false).await?;
    let ids = compare(&run);
    let process = run.ours(&format!("process {}", run.from_pika));
    let [link] = &process.links[..] else { panic!("{process:?}") };
    assert_eq!(id(&link.span_context), ids["first"]);
    assert!(link.span_context.is_remote());
    assert_eq!(link.span_context.trace_state().header(), "vendor=left");
    assert_eq!(process.parent_span_id, SpanId::INVALID);
    Ok(())
}

#[tokio::test]
#[ignore = "needs pika: tests/other-clients/run runs it"]
async fn one_trace_through_pika_and_back() -> Result<()> {
    let run = run(true).await?;
    let ids = compare(&run);
    let process = run.ours(&format!("process {}", run.from_pika));
    assert!(process.links.is_empty());
    assert!(process.parent_span_is_remote);
    let parent = format!("{} {}", process.span_context.trace_id(), process.parent_span_id);
    assert_eq!(parent, ids["first"]);
    // The state of the trace passes from pika through our handler, and back to pika.
    for id in ids.values() {
        assert_eq!(run.theirs(id).state, "vendor=left");
        assert!(id.starts_with(&ORIGIN[..32]), "{id} is in another trace");
    }
    Ok(())
}
