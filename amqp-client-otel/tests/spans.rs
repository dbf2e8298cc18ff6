//! Whole spans and metrics, on the broker of `AMQP_URL` or in memory.

mod rig;

use amqp_client_tokio::{
    ConsumeOptions, Delivery, FieldTable, Message, MessageProperties, OnLoss, PublisherOptions,
};
use opentelemetry::trace::{SpanId, TraceContextExt as _, Tracer as _, TracerProvider as _};
use opentelemetry::{Context, KeyValue};
use opentelemetry_sdk::metrics::data::{AggregatedMetrics, MetricData};
use rig::{Rig, process_text, publish_text, text};

type Outcome = Result<(), Box<dyn std::error::Error>>;

const TRACE: &str = "0af7651916cd43dd8448eb211c80319c";
const PARENT: &str = "00-0af7651916cd43dd8448eb211c80319c-b7ad6b7169203331-01";

fn with_header(
    body: &'static str,
    name: &str,
    value: impl Into<amqp_client_tokio::Value>,
) -> Message {
    let headers = FieldTable::new().with(name, value).expect("short");
    Message::new(body).with(&MessageProperties::new().headers(headers)).expect("short")
}

#[tokio::test]
async fn a_message_from_publish_to_acknowledgement() -> Outcome {
    let rig = Rig::new("otel-way", false, |builder| builder).await?;
    rig.queue.publish_confirmed(&Message::new("body")).await?;
    let published = rig.take();
    assert_eq!(text(&published[0]), publish_text("otel-way", 0, None));
    let delivery = rig.next().await?;
    let current = delivery.scope().run(|| Context::current().span().span_context().clone());
    assert!(rig.take().is_empty(), "it is not settled");
    delivery.ack()?;
    let processed = rig.take();
    assert_eq!(text(&processed[0]), process_text("otel-way", 1, None));
    assert_eq!(processed[0].span_context, current);
    let link = &processed[0].links[0].span_context;
    assert_eq!(link.span_id(), published[0].span_context.span_id());
    assert_eq!(link.trace_id(), published[0].span_context.trace_id());
    assert!(link.is_remote());
    assert_eq!(processed[0].parent_span_id, SpanId::INVALID);
    Ok(())
}

#[tokio::test]
async fn as_children_a_message_and_what_its_handler_publishes_are_one_trace() -> Outcome {
    let rig = Rig::new("otel-child", false, |builder| builder.process_is_child(true)).await?;
    rig.queue.publish_confirmed(&Message::new("request")).await?;
    let delivery = rig.next().await?;
    let scope = delivery.scope();
    scope.wrap(rig.queue.publish_confirmed(&Message::new("reply"))).await?;
    delivery.ack()?;
    let spans = rig.take();
    let [request, reply, process] = &spans[..] else { panic!("{spans:?}") };
    assert_eq!(process.parent_span_id, request.span_context.span_id());
    assert_eq!(reply.parent_span_id, process.span_context.span_id());
    assert_eq!(reply.span_context.trace_id(), request.span_context.trace_id());
    assert!(process.links.is_empty());
    Ok(())
}

#[tokio::test]
async fn contexts_in_messages_are_kept_if_they_are_valid() -> Outcome {
    let rig = Rig::new("otel-kept", false, |builder| builder).await?;
    let bytes = amqp_client_tokio::Value::ByteArray(PARENT.as_bytes().to_vec().into());
    for message in
        [with_header("text", "traceparent", PARENT), with_header("bytes", "traceparent", bytes)]
    {
        rig.queue.publish_confirmed(&message).await?;
        let got = rig.queue.get().await?.ok_or("empty")?;
        got.delivery.ack()?;
        let spans = rig.take();
        let [publish, receive] = &spans[..] else { panic!("{spans:?}") };
        for span in [publish, receive] {
            assert_eq!(span.links[0].span_context.trace_id().to_string(), TRACE);
        }
    }
    // Values that are no context are replaced.
    for value in ["", "00-zz", "garbage"] {
        rig.queue.publish_confirmed(&with_header("x", "traceparent", value)).await?;
        rig.queue.get().await?.ok_or("empty")?.delivery.ack()?;
        let spans = rig.take();
        let [publish, receive] = &spans[..] else { panic!("{spans:?}") };
        assert!(publish.links.is_empty());
        assert_eq!(receive.links[0].span_context.span_id(), publish.span_context.span_id());
    }
    Ok(())
}

#[tokio::test]
async fn a_batch_is_one_span_with_links_to_its_messages() -> Outcome {
    let rig = Rig::new("otel-batch", false, |builder| builder.process_spans(false)).await?;
    let publisher = rig.channel.default_exchange().publisher(PublisherOptions::new())?;
    let sent = publisher.prepare("otel-batch")?.publish_all(["a", "b", "c"]).await?;
    sent.await?;
    let spans = rig.take();
    let [a, b, c, publish] = &spans[..] else { panic!("{spans:?}") };
    let linked: Vec<_> = publish.links.iter().map(|link| link.span_context.span_id()).collect();
    let created = [a, b, c].map(|span| span.span_context.span_id());
    assert_eq!(linked, created);
    assert_eq!(
        text(publish),
        "publish amq.default | Client | batch.message_count=3 destination.name=otel-batch operation.name=publish \
         operation.type=send rabbitmq.destination.routing_key=otel-batch system=rabbitmq | 3 | Unset"
    );
    assert_eq!(
        text(a),
        "create amq.default | Producer | destination.name=otel-batch operation.name=create operation.type=create \
         rabbitmq.destination.routing_key=otel-batch system=rabbitmq | 0 | Unset"
    );

    let mut consumer = rig.queue.consume(ConsumeOptions::new()).await?;
    let mut batch = Vec::new();
    while batch.len() < 3 {
        batch.push(consumer.next().await.ok_or("it ended")??);
    }
    let mut span =
        rig.otel.process_batch("otel-batch", batch.iter().map(|delivery| delivery.properties()));
    span.fail("database");
    drop(span);
    let spans = rig.take();
    let [process] = &spans[..] else { panic!("{spans:?}") };
    let linked: Vec<_> = process.links.iter().map(|link| link.span_context.span_id()).collect();
    assert_eq!(linked, created);
    assert_eq!(
        text(process),
        "process otel-batch | Consumer | error.type=database batch.message_count=3 destination.name=otel-batch \
         operation.name=process operation.type=process system=rabbitmq | 3 | Error"
    );
    Ok(())
}

#[tokio::test]
async fn each_way_to_settle() -> Outcome {
    type Settle = fn(Delivery);
    let cases: [(Settle, &str, Option<&str>); 4] = [
        (|delivery| delivery.ack().expect("it waits"), "ack", None),
        (|delivery| delivery.nack(false).expect("it waits"), "nack", Some("nacked")),
        (|delivery| delivery.reject(false).expect("it waits"), "reject", Some("rejected")),
        (drop, "", Some("dropped")),
    ];
    for (settle, operation, error) in cases {
        let rig = Rig::new("otel-settle", false, |builder| builder.settle_spans(true)).await?;
        rig.queue.publish_confirmed(&Message::new("body")).await?;
        let delivery = rig.next().await?;
        rig.take();
        settle(delivery);
        let mut expected = vec![process_text("otel-settle", 1, error)];
        if !operation.is_empty() {
            expected.insert(
                0,
                format!(
                    "{operation} otel-settle | Client | destination.name=otel-settle operation.name={operation} \
                     operation.type=settle rabbitmq.destination.routing_key=otel-settle \
                     rabbitmq.message.delivery_tag=1 system=rabbitmq | 1 | Unset"
                ),
            );
        }
        assert_eq!(rig.texts(), expected);
        rig.connection.close().await?;
    }
    Ok(())
}

#[tokio::test]
async fn publishes_that_fail() -> Outcome {
    let rig = Rig::new("otel-fail", true, |builder| builder).await?;
    let broker = rig.broker.as_ref().ok_or("it is in memory")?;
    let options = PublisherOptions::new().mandatory(true).on_loss(OnLoss::Fail);
    let publisher = rig.channel.default_exchange().publisher(options)?;
    publisher.send("nowhere", "body").await.expect_err("it is returned");
    broker.nack_next(1);
    publisher.send("otel-fail", "body").await.expect_err("it is refused");
    assert_eq!(
        rig.texts(),
        [
            publish_text("nowhere", 0, Some("returned")),
            publish_text("otel-fail", 0, Some("nacked"))
        ]
    );
    broker.hold_confirms(true);
    let unconfirmed = publisher.publish("otel-fail", "body").await?;
    broker.restart();
    unconfirmed.await.expect_err("it is lost");
    assert_eq!(rig.texts(), [publish_text("otel-fail", 0, Some("unconfirmed"))]);
    rig.channel.close().await?;
    publisher.send("otel-fail", "body").await.expect_err("it is closed");
    assert_eq!(rig.texts(), [publish_text("otel-fail", 0, Some("channel_closed"))]);
    Ok(())
}

#[tokio::test]
async fn options_add_attributes_and_choose_names() -> Outcome {
    let rig = Rig::new("otel-options", false, |builder| {
        builder
            .server("rabbit-1", 5672)
            .client_id("billing")
            .body_size(true)
            .baggage(true)
            .destination(|to| format!("to {}", to.routing_key.len()))
    })
    .await?;
    let baggage = {
        use opentelemetry::baggage::BaggageExt as _;
        Context::current().with_baggage([KeyValue::new("user", "a b")])
    };
    let properties = MessageProperties::new().message_id("m-1").correlation_id("c-1");
    let message = Message::new("body").with(&properties)?;
    {
        use opentelemetry::context::FutureExt as _;
        rig.queue.publish_confirmed(&message).with_context(baggage).await?;
    }
    assert_eq!(
        rig.texts(),
        [
            "publish to 12 | Producer | client.id=billing destination.name=otel-options message.body.size=4 \
          message.conversation_id=c-1 message.id=m-1 operation.name=publish operation.type=send \
          rabbitmq.destination.routing_key=otel-options system=rabbitmq server.address=rabbit-1 \
          server.port=5672 | 0 | Unset"
        ]
    );
    let delivery = rig.next().await?;
    let user = delivery.scope().run(|| {
        use opentelemetry::baggage::BaggageExt as _;
        Context::current().baggage().get("user").map(ToString::to_string)
    });
    assert_eq!(user.as_deref(), Some("a b"));
    delivery.ack()?;
    Ok(())
}

#[tokio::test]
async fn metrics() -> Outcome {
    let rig = Rig::new("otel-metrics", false, |builder| builder).await?;
    rig.queue.publish_confirmed(&Message::new("body")).await?;
    rig.next().await?.ack()?;
    rig.telemetry.meter.force_flush()?;
    let all = rig.telemetry.metrics.get_finished_metrics()?;
    let mut seen = Vec::new();
    for metric in all.iter().flat_map(|all| all.scope_metrics()).flat_map(|scope| scope.metrics()) {
        let count = match metric.data() {
            AggregatedMetrics::U64(MetricData::Sum(sum)) => {
                sum.data_points().map(|point| point.value()).sum()
            }
            AggregatedMetrics::F64(MetricData::Histogram(histogram)) => {
                for point in histogram.data_points() {
                    assert_eq!(point.bounds().count(), 14);
                }
                histogram.data_points().map(|point| point.count()).sum::<u64>()
            }
            other => panic!("{other:?}"),
        };
        seen.push(format!("{} {} {count}", metric.name(), metric.unit()));
    }
    seen.sort();
    assert_eq!(
        seen,
        [
            "messaging.client.consumed.messages {message} 1",
            "messaging.client.operation.duration s 1",
            "messaging.client.sent.messages {message} 1",
            "messaging.process.duration s 1",
        ]
    );
    Ok(())
}

#[tokio::test]
async fn the_current_span_is_the_parent_of_a_publish() -> Outcome {
    let rig = Rig::new("otel-parent", false, |builder| builder).await?;
    let tracer = rig.telemetry.tracer.tracer("program");
    let context = Context::current().with_span(tracer.start("request"));
    {
        use opentelemetry::context::FutureExt as _;
        let message = Message::new("body");
        rig.queue.publish_confirmed(&message).with_context(context.clone()).await?;
    }
    let parent = context.span().span_context().span_id();
    assert_eq!(rig.take()[0].parent_span_id, parent);
    Ok(())
}
