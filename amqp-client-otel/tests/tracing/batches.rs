//! Spans of several messages.

use amqp_client_otel::TracingIntercept;
use amqp_client_tokio::{FieldTable, Message, MessageProperties, PublisherOptions};

use crate::{Outcome, PARENT, Rig, TRACE};

const KEPT: &str = "0af7651916cd43dd8448eb211c80319c-b7ad6b7169203331";

#[tokio::test]
async fn the_messages_of_a_call_are_linked_to_it() -> Outcome {
    let rig = Rig::new("tracing-batch", false, TracingIntercept::new()).await?;
    let exchange = rig.queue.channel().default_exchange();
    let publisher = exchange.publisher(PublisherOptions::new())?;
    publisher.prepare("tracing-batch")?.publish_all(["a", "b"]).await?.await?;
    let spans = rig.take();
    let [first, second, call] = &spans[..] else { panic!("{spans:?}") };
    let expected = "create in None | destination.name=tracing-batch operation.name=create operation.type=create \
                    rabbitmq.destination.routing_key=tracing-batch system=rabbitmq otel.kind=producer \
                    otel.name=create amq.default";
    assert_eq!([first.text(), second.text()], [expected, expected]);
    let expected = "publish in None | batch.message_count=2 destination.name=tracing-batch operation.name=publish \
                    operation.type=send rabbitmq.destination.routing_key=tracing-batch system=rabbitmq \
                    otel.kind=client otel.name=publish amq.default";
    assert_eq!(call.text(), expected);
    assert_eq!(call.follows, ["create", "create"]);
    let contexts = [first, second].map(|create| {
        assert_eq!(create.get("trace_id"), call.get("trace_id"));
        assert_eq!(create.get("parent_span_id"), call.get("span_id"));
        format!("{}-{}", create.get("trace_id"), create.get("span_id"))
    });
    assert_eq!(call.get("links"), contexts.join(" "));
    for context in contexts {
        let got = rig.queue.get().await?.ok_or("it is there")?;
        let header = got.delivery.properties().header("traceparent")?.ok_or("it was sent")?;
        assert_eq!(header.as_str(), Some(format!("00-{context}-01").as_str()));
        got.delivery.ack()?;
    }
    Ok(())
}

#[tokio::test]
async fn messages_of_a_call_keep_their_context_and_fail_with_it() -> Outcome {
    let rig = Rig::new("tracing-batch-kept", true, TracingIntercept::new()).await?;
    let exchange = rig.queue.channel().default_exchange();
    let headers = FieldTable::new().with("traceparent", PARENT)?;
    let kept = MessageProperties::new().headers(headers);
    let publisher = exchange.publisher(PublisherOptions::new().properties(kept))?;
    let prepared = publisher.prepare("tracing-batch-kept")?;
    rig.broker.as_ref().ok_or("it is in memory")?.nack_next(1);
    prepared.publish_all(["a", "b"]).await?.await.expect_err("the first is refused");
    let spans = rig.take();
    let [call] = &spans[..] else { panic!("{spans:?}") };
    assert_eq!((call.get("error.type"), call.get("otel.status_code")), ("nacked", "ERROR"));
    assert_eq!(call.get("links"), format!("{KEPT} {KEPT}"));
    assert_ne!(call.get("trace_id"), TRACE, "the call is not part of the traces of its messages");
    Ok(())
}

#[tokio::test]
async fn a_batch_is_linked_to_its_messages_and_its_handler_belongs_to_it() -> Outcome {
    let intercept = TracingIntercept::new().process_spans(false);
    let rig = Rig::new("tracing-rows", true, intercept.clone()).await?;
    let headers = FieldTable::new().with("traceparent", PARENT)?;
    let kept = MessageProperties::new().headers(headers);
    rig.queue.publish_confirmed(&Message::new("row").with(&kept)?).await?;
    let delivery = rig.next().await?;
    rig.take();
    let plain = MessageProperties::new().encode()?;
    let batch = intercept.process_batch("tracing-rows", [delivery.properties(), plain]);
    batch.scope().wrap(rig.queue.publish_confirmed(&Message::new("saved"))).await?;
    batch.fail("database");
    drop(batch);
    delivery.ack()?;
    let spans = rig.take();
    let [publish, process] = &spans[..] else { panic!("{spans:?}") };
    let expected = "process in None | error.type=database batch.message_count=2 destination.name=tracing-rows \
                    operation.name=process operation.type=process system=rabbitmq otel.kind=consumer \
                    otel.name=process tracing-rows otel.status_code=ERROR";
    assert_eq!(process.text(), expected);
    assert_eq!(process.get("links"), KEPT, "the other has no context");
    assert_eq!(publish.within, Some("process"));
    assert_eq!(publish.get("parent_span_id"), process.get("span_id"));
    Ok(())
}

/// A batch may have a million messages.
#[tokio::test]
async fn the_number_of_links_is_bounded() -> Outcome {
    let intercept = TracingIntercept::new();
    let rig = Rig::new("tracing-many", true, intercept.clone()).await?;
    let headers = FieldTable::new().with("traceparent", PARENT)?;
    let kept = MessageProperties::new().headers(headers).encode()?;
    drop(intercept.process_batch("tracing-many", vec![kept; 1_000]));
    let spans = rig.take();
    let [process] = &spans[..] else { panic!("{spans:?}") };
    assert_eq!(process.get("messaging.batch.message_count"), "1000");
    assert_eq!(process.get("links").split(' ').count(), 128);
    Ok(())
}
