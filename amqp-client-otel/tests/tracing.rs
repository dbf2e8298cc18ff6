//! Whole spans of `tracing`, on the broker of `AMQP_URL` or in memory.

use std::collections::BTreeMap;
use std::fmt::Debug;
use std::sync::atomic::{AtomicU64, Ordering};
use std::sync::{Arc, Mutex};

use amqp_client_otel::TracingIntercept;
use amqp_client_tokio::{
    Connection, ConsumeOptions, FieldTable, Message, MessageProperties, PublisherOptions, Queue,
    QueueOptions, Target, connect_target,
};
use amqp_test_broker::Broker;
use tracing::field::{Field, Visit};
use tracing::span::{Attributes, Id, Record};
use tracing::subscriber::DefaultGuard;
use tracing::{Event, Metadata, Subscriber};

type Outcome = Result<(), Box<dyn std::error::Error>>;

const TRACE: &str = "0af7651916cd43dd8448eb211c80319c";
const PARENT: &str = "00-0af7651916cd43dd8448eb211c80319c-b7ad6b7169203331-01";

/// Records spans with their fields, and those in which they began.
#[derive(Clone, Default)]
struct Recorder(Arc<Recorded>);

#[derive(Default)]
struct Recorded {
    next: AtomicU64,
    open: Mutex<BTreeMap<u64, Recording>>,
    entered: Mutex<Vec<u64>>,
    closed: Mutex<Vec<Recording>>,
}

#[derive(Debug, Clone)]
struct Recording {
    name: &'static str,
    within: Option<&'static str>,
    fields: BTreeMap<&'static str, String>,
    handles: usize,
}

impl Recording {
    fn get(&self, field: &str) -> &str {
        self.fields.get(field).map_or("", String::as_str)
    }

    /// Everything but the identifiers of the trace.
    fn text(&self) -> String {
        let fields =
            self.fields.iter().filter(|(name, _)| !name.ends_with("_id") || name.contains('.'));
        let fields: Vec<_> = fields.map(|(name, value)| format!("{name}={value}")).collect();
        format!(
            "{} in {:?} | {}",
            self.name,
            self.within,
            fields.join(" ").replace("messaging.", "")
        )
    }
}

impl Visit for Recording {
    fn record_str(&mut self, field: &Field, value: &str) {
        self.fields.insert(field.name(), value.to_owned());
    }

    fn record_debug(&mut self, field: &Field, value: &dyn Debug) {
        self.fields.insert(field.name(), format!("{value:?}"));
    }
}

impl Subscriber for Recorder {
    fn enabled(&self, metadata: &Metadata<'_>) -> bool {
        metadata.is_span()
    }

    fn new_span(&self, span: &Attributes<'_>) -> Id {
        let id = self.0.next.fetch_add(1, Ordering::Relaxed) + 1;
        let mut open = self.0.open.lock().expect("no panic");
        let within = self.0.entered.lock().expect("no panic").last().copied();
        let within = within.and_then(|id| open.get(&id)).map(|span| span.name);
        let name = span.metadata().name();
        let mut recording = Recording { name, within, fields: BTreeMap::new(), handles: 1 };
        span.record(&mut recording);
        open.insert(id, recording);
        Id::from_u64(id)
    }

    fn record(&self, span: &Id, values: &Record<'_>) {
        if let Some(recording) = self.0.open.lock().expect("no panic").get_mut(&span.into_u64()) {
            values.record(recording);
        }
    }

    fn record_follows_from(&self, _: &Id, _: &Id) {}

    fn event(&self, _: &Event<'_>) {}

    fn enter(&self, span: &Id) {
        self.0.entered.lock().expect("no panic").push(span.into_u64());
    }

    fn exit(&self, span: &Id) {
        let left = self.0.entered.lock().expect("no panic").pop();
        assert_eq!(
            left,
            Some(span.into_u64()),
            "spans are left in the order in which they are entered"
        );
    }

    fn clone_span(&self, span: &Id) -> Id {
        if let Some(recording) = self.0.open.lock().expect("no panic").get_mut(&span.into_u64()) {
            recording.handles += 1;
        }
        span.clone()
    }

    fn try_close(&self, span: Id) -> bool {
        let mut open = self.0.open.lock().expect("no panic");
        let Some(recording) = open.get_mut(&span.into_u64()) else { return false };
        recording.handles -= 1;
        if recording.handles > 0 {
            return false;
        }
        let closed = open.remove(&span.into_u64());
        self.0.closed.lock().expect("no panic").extend(closed);
        true
    }
}

/// A connection whose spans are recorded. All of it runs in this thread.
struct Rig {
    broker: Option<Broker>,
    connection: Connection,
    queue: Queue,
    recorder: Recorder,
    _default: DefaultGuard,
}

impl Rig {
    async fn new(
        name: &str,
        in_memory: bool,
        intercept: TracingIntercept,
    ) -> Result<Self, Box<dyn std::error::Error>> {
        let url = std::env::var("AMQP_URL").ok().filter(|_| !in_memory);
        let broker = if url.is_some() { None } else { Some(Broker::start()?) };
        let url = url.or_else(|| broker.as_ref().map(Broker::uri)).ok_or("no broker")?;
        let recorder = Recorder::default();
        let default = tracing::subscriber::set_default(recorder.clone());
        let target: Target = url.parse()?;
        let connection = connect_target(target.intercept(intercept)).await?;
        let channel = connection.open_channel().await?;
        let queue = channel.queue_declare(name, QueueOptions::new().exclusive(true)).await?;
        Ok(Self { broker, connection, queue, recorder, _default: default })
    }

    /// Returns the spans that were closed since the last call.
    fn take(&self) -> Vec<Recording> {
        std::mem::take(&mut self.recorder.0.closed.lock().expect("no panic"))
    }

    fn texts(&self) -> Vec<String> {
        self.take().iter().map(Recording::text).collect()
    }
}

fn publish_text(key: &str, error: &str) -> String {
    let (error, status) = match error {
        "" => (String::new(), ""),
        error => (format!("error.type={error} "), " otel.status_code=ERROR"),
    };
    format!(
        "publish in None | {error}destination.name={key} operation.name=publish operation.type=send \
         rabbitmq.destination.routing_key={key} system=rabbitmq otel.kind=producer otel.name=publish amq.default{status}"
    )
}

fn process_text(key: &str, error: &str) -> String {
    let (error, status) = match error {
        "" => (String::new(), ""),
        error => (format!("error.type={error} "), " otel.status_code=ERROR"),
    };
    format!(
        "process in None | {error}destination.name={key} operation.name=process operation.type=process \
         rabbitmq.destination.routing_key={key} rabbitmq.message.delivery_tag=1 system=rabbitmq otel.kind=consumer \
         otel.name=process {key}{status}"
    )
}

#[tokio::test]
async fn a_handler_and_what_it_publishes_belong_to_the_trace_of_the_message() -> Outcome {
    let rig = Rig::new("tracing-way", false, TracingIntercept::new()).await?;
    rig.queue.publish_confirmed(&Message::new("order")).await?;
    let published = rig.take();
    let [order] = &published[..] else { panic!("{published:?}") };
    assert_eq!(order.text(), publish_text("tracing-way", ""));
    assert_eq!((order.get("trace_id").len(), order.get("span_id").len()), (32, 16));

    let mut consumer = rig.queue.consume(ConsumeOptions::new()).await?;
    let delivery = consumer.next().await.ok_or("it ended")??;
    let scope = delivery.scope();
    scope.run(|| drop(tracing::info_span!("of the handler")));
    delivery.scope().wrap(rig.queue.publish_confirmed(&Message::new("mail"))).await?;
    delivery.ack()?;
    drop(scope);
    let spans = rig.take();
    let names: Vec<_> = spans.iter().map(|span| (span.name, span.within)).collect();
    let expected =
        [("of the handler", Some("process")), ("publish", Some("process")), ("process", None)];
    assert_eq!(names, expected);
    assert_eq!(spans[2].text(), process_text("tracing-way", ""));
    for span in &spans[1..] {
        assert_eq!(span.get("trace_id"), order.get("trace_id"));
    }
    assert_eq!(spans[2].get("parent_span_id"), order.get("span_id"));
    assert_eq!(spans[1].get("parent_span_id"), spans[2].get("span_id"));

    // Outside of the handler, another trace begins.
    rig.queue.publish_confirmed(&Message::new("next")).await?;
    assert_ne!(rig.take()[0].get("trace_id"), order.get("trace_id"));
    Ok(())
}

#[tokio::test]
async fn contexts_are_kept_and_malformed_ones_are_replaced() -> Outcome {
    let given = TracingIntercept::new().parent(|| Some(PARENT.to_owned()));
    let rig = Rig::new("tracing-kept", false, given).await?;
    for (value, joins) in [(PARENT, true), ("00-zz", false), ("", false)] {
        let headers = FieldTable::new().with("traceparent", value)?.with("tracestate", "a=1")?;
        let message = Message::new("m").with(&MessageProperties::new().headers(headers))?;
        rig.queue.publish_confirmed(&message).await?;
        let got = rig.queue.get().await?.ok_or("it is there")?;
        let spans = rig.take();
        let [publish, receive] = &spans[..] else { panic!("{spans:?}") };
        // Without a context of its own, the message gets the one of the program.
        assert_eq!((publish.get("trace_id"), receive.get("trace_id")), (TRACE, TRACE));
        let parent = if joins { "b7ad6b7169203331" } else { publish.get("span_id") };
        assert_eq!(receive.get("parent_span_id"), parent, "{value}");
        let state = got.delivery.properties().header("tracestate")?.ok_or("it is kept")?;
        let expected = if joins { "a=1" } else { "" };
        assert_eq!(state.as_str(), Some(expected), "that of another trace is not passed on");
        got.delivery.ack()?;
    }
    Ok(())
}

#[tokio::test]
async fn errors() -> Outcome {
    let rig = Rig::new("tracing-errors", true, TracingIntercept::new()).await?;
    let broker = rig.broker.as_ref().ok_or("it is in memory")?;
    let channel = rig.queue.channel().clone();
    let publisher =
        channel.default_exchange().publisher(PublisherOptions::new().mandatory(true))?;
    publisher.send("nowhere", "m").await.expect_err("it is returned");
    broker.nack_next(1);
    publisher.send("tracing-errors", "m").await.expect_err("it is refused");
    assert_eq!(
        rig.texts(),
        [publish_text("nowhere", "returned"), publish_text("tracing-errors", "nacked")]
    );
    publisher.send("tracing-errors", "m").await?;
    let mut consumer = rig.queue.consume(ConsumeOptions::new()).await?;
    rig.take();
    drop(consumer.next().await.ok_or("it ended")??);
    assert_eq!(rig.texts(), [process_text("tracing-errors", "dropped")]);
    rig.connection.close().await?;
    publisher.send("tracing-errors", "m").await.expect_err("it is closed");
    assert_eq!(rig.texts(), [publish_text("tracing-errors", "channel_closed")]);
    Ok(())
}

#[tokio::test]
async fn headers_are_sent_although_nobody_wants_the_spans() -> Outcome {
    let rig = Rig::new("tracing-none", false, TracingIntercept::new()).await?;
    let silent = tracing::subscriber::set_default(tracing::subscriber::NoSubscriber::default());
    rig.queue.publish_confirmed(&Message::new("m")).await?;
    drop(silent);
    let got = rig.queue.get().await?.ok_or("it is there")?;
    let header = got.delivery.properties().header("traceparent")?;
    assert!(header.is_some_and(|parent| parent.as_str().is_some_and(|text| text.len() == 55)));
    got.delivery.ack()?;
    Ok(())
}
