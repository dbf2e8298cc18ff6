//! Whole spans of `tracing`, on the broker of `AMQP_URL` or in memory.

mod batches;
mod recorder;

use std::time::Duration;

use amqp_client_otel::TracingIntercept;
use amqp_client_tokio::{
    Connection, ConsumeOptions, Delivery, FieldTable, Message, MessageProperties, PublisherOptions,
    Queue, QueueOptions, Target, connect_target,
};
use amqp_test_broker::Broker;
use recorder::{Recorder, Recording};
use tracing::subscriber::DefaultGuard;

type Outcome = Result<(), Box<dyn std::error::Error>>;

const TRACE: &str = "0af7651916cd43dd8448eb211c80319c";
const PARENT: &str = "00-0af7651916cd43dd8448eb211c80319c-b7ad6b7169203331-01";

/// A connection whose spans are recorded. All of it runs in this thread.
struct Rig {
    broker: Option<Broker>,
    target: Target,
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
        let target = target.intercept(intercept);
        let connection = connect_target(target.clone()).await?;
        let channel = connection.open_channel().await?;
        let queue = channel.queue_declare(name, QueueOptions::new().exclusive(true)).await?;
        Ok(Self { broker, target, connection, queue, recorder, _default: default })
    }

    async fn next(&self) -> Result<Delivery, Box<dyn std::error::Error>> {
        let mut consumer = self.queue.consume(ConsumeOptions::new()).await?;
        let next = tokio::time::timeout(Duration::from_secs(30), consumer.next());
        Ok(next.await?.ok_or("it ended")??)
    }

    /// Returns the spans that were closed since the last call.
    fn take(&self) -> Vec<Recording> {
        self.recorder.take()
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

    let delivery = rig.next().await?;
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
    rig.take();
    drop(rig.next().await?);
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

#[tokio::test]
async fn settlements_are_children_of_the_processing() -> Outcome {
    let rig = Rig::new("tracing-settle", false, TracingIntercept::new().settle_spans(true)).await?;
    for (tag, name, error) in [(1, "ack", ""), (2, "nack", "nacked"), (3, "reject", "rejected")] {
        rig.queue.publish_confirmed(&Message::new("m")).await?;
        let delivery = rig.next().await?;
        match name {
            "ack" => delivery.ack()?,
            "nack" => delivery.nack(false)?,
            _ => delivery.reject(false)?,
        }
        let spans = rig.take();
        let [_, settle, process] = &spans[..] else { panic!("{spans:?}") };
        let expected = format!(
            "{name} in Some(\"process\") | destination.name=tracing-settle operation.name={name} operation.type=settle \
             rabbitmq.destination.routing_key=tracing-settle rabbitmq.message.delivery_tag={tag} system=rabbitmq \
             otel.kind=client otel.name={name} tracing-settle"
        );
        assert_eq!(settle.text(), expected);
        assert_eq!(settle.get("trace_id"), process.get("trace_id"));
        assert_eq!(settle.get("parent_span_id"), process.get("span_id"));
        assert_eq!(process.get("error.type"), error);
    }
    Ok(())
}

#[tokio::test]
async fn a_panic_leaves_no_span_current() -> Outcome {
    let rig = Rig::new("tracing-panic", true, TracingIntercept::new()).await?;
    rig.queue.publish_confirmed(&Message::new("m")).await?;
    let delivery = rig.next().await?;
    let scope = delivery.scope();
    let handle = std::panic::AssertUnwindSafe(|| {
        scope.run(|| {
            let _taken = delivery;
            panic!("the handler has a bug")
        })
    });
    std::panic::catch_unwind(handle).expect_err("it panics");
    drop(scope);
    let spans = rig.take();
    let process = spans.last().ok_or("it was processed")?;
    assert_eq!((process.name, process.get("error.type")), ("process", "panicked"));
    rig.queue.publish_confirmed(&Message::new("next")).await?;
    let next = rig.take();
    assert_ne!(next[0].get("trace_id"), process.get("trace_id"));
    assert_eq!(next[0].within, None);
    Ok(())
}

/// A handler on one connection publishes on another, and what came from elsewhere is passed on.
#[tokio::test]
async fn connections_share_traces_and_pass_on_the_state() -> Outcome {
    let rig = Rig::new("tracing-two", false, TracingIntercept::new()).await?;
    let headers = FieldTable::new().with("traceparent", PARENT)?.with("tracestate", "a=1,b=2")?;
    let message = Message::new("m").with(&MessageProperties::new().headers(headers))?;
    rig.queue.publish_confirmed(&message).await?;
    let delivery = rig.next().await?;
    let other = connect_target(rig.target.clone()).await?;
    let channel = other.open_channel().await?;
    let replies = channel.queue_declare("", QueueOptions::new().exclusive(true)).await?;
    delivery.scope().wrap(replies.publish_confirmed(&Message::new("reply"))).await?;
    delivery.ack()?;
    let reply = replies.get().await?.ok_or("it is there")?;
    let properties = reply.delivery.properties();
    let state = properties.header("tracestate")?.ok_or("it is passed on")?;
    assert_eq!(state.as_str(), Some("a=1,b=2"));
    let spans = rig.take();
    assert_eq!(spans.len(), 4, "{spans:?}");
    for span in &spans {
        assert_eq!(span.get("trace_id"), TRACE);
    }
    reply.delivery.ack()?;
    other.close().await?;
    Ok(())
}

#[tokio::test]
async fn fields_that_are_set_by_options() -> Outcome {
    let intercept = TracingIntercept::new()
        .server("rabbit-1", 5672)
        .client_id("till 4")
        .body_size(true)
        .process_spans(false)
        .destination(|to| format!("key {}", String::from_utf8_lossy(to.routing_key)));
    let rig = Rig::new("tracing-options", false, intercept).await?;
    let ids = MessageProperties::new().message_id("m-1").correlation_id("c-1");
    rig.queue.publish_confirmed(&Message::new("body").with(&ids)?).await?;
    rig.next().await?.ack()?;
    let expected = "publish in None | client.id=till 4 destination.name=tracing-options message.body.size=4 \
                    message.conversation_id=c-1 message.id=m-1 operation.name=publish operation.type=send \
                    rabbitmq.destination.routing_key=tracing-options system=rabbitmq otel.kind=producer \
                    otel.name=publish key tracing-options server.address=rabbit-1 server.port=5672";
    assert_eq!(rig.texts(), [expected], "deliveries have no spans");
    Ok(())
}
