//! The traces of remote calls: whole spans, on the broker of `AMQP_URL` or in memory.

mod rig;

use amqp_client_patterns::handler::Text;
use amqp_client_patterns::rpc::{RpcClient, RpcServer};
use opentelemetry::Context;
use opentelemetry::context::FutureExt as _;
use opentelemetry::trace::{SpanId, TraceContextExt as _, Tracer as _, TracerProvider as _};
use opentelemetry_sdk::trace::SpanData;
use rig::{Rig, text, until};
use tokio::sync::oneshot;

type Outcome = Result<(), Box<dyn std::error::Error>>;

/// The spans of a call: request, its processing, reply, and the processing of the reply. `{}` is the number of links of a `process`
/// span.
const SPANS: [&str; 4] = [
    "publish amq.default | Producer | destination.name=QUEUE message.conversation_id=CALL operation.name=publish \
     operation.type=send rabbitmq.destination.routing_key=QUEUE system=rabbitmq | 0 | Unset",
    "process QUEUE | Consumer | destination.name=QUEUE message.conversation_id=CALL operation.name=process \
     operation.type=process rabbitmq.destination.routing_key=QUEUE rabbitmq.message.delivery_tag=1 system=rabbitmq | {} | \
     Unset",
    "publish amq.default | Producer | destination.name=ADDRESS message.conversation_id=CALL operation.name=publish \
     operation.type=send rabbitmq.destination.routing_key=ADDRESS system=rabbitmq | 0 | Unset",
    "process (anonymous) | Consumer | destination.anonymous=true destination.name=ADDRESS:amq.rabbitmq.reply-to \
     message.conversation_id=CALL operation.name=process operation.type=process \
     rabbitmq.destination.routing_key=ADDRESS rabbitmq.message.delivery_tag=1 system=rabbitmq | {} | Unset",
];

/// Makes a call within a span, and returns the identifier of that span, and those of the call in the order of [`SPANS`].
async fn call(
    rig: &Rig,
    queue: &str,
) -> Result<(Context, Vec<SpanData>), Box<dyn std::error::Error>> {
    let (stop, stopped) = oneshot::channel::<()>();
    let server = RpcServer::on(&rig.queue).serve(async |Text(text): Text| text);
    let server = tokio::spawn(server.until(stopped));
    let client = RpcClient::open(&rig.connection).await?;
    let tracer = rig.telemetry.tracer.tracer("program");
    let context = Context::current_with_span(tracer.start("request"));
    let reply = client.call(queue, "body").with_context(context.clone()).await?;
    assert_eq!(reply.body(), &b"body"[..]);
    drop(stop);
    until("the server stops", || server.is_finished()).await;
    server.await??;
    // Confirms may come after the reply.
    let ended = || rig.telemetry.spans.get_finished_spans().expect("they are in memory").len();
    until("the spans of the call end", || ended() >= SPANS.len()).await;
    let mut spans = rig.take();
    spans.sort_by_key(|span| span.start_time);
    Ok((context, spans))
}

fn attribute(span: &SpanData, name: &str) -> String {
    let found = span.attributes.iter().find(|pair| pair.key.as_str() == name);
    found.unwrap_or_else(|| panic!("no {name}: {span:?}")).value.to_string()
}

/// Compares the spans with the table.
#[track_caller]
fn compare(spans: &[SpanData], queue: &str, links: &str) {
    let [request, _, reply, _] = spans else { panic!("{spans:?}") };
    let id = attribute(request, "messaging.message.conversation_id");
    let address = attribute(reply, "messaging.rabbitmq.destination.routing_key");
    let shown = |span| text(span).replace(&address, "ADDRESS").replace(queue, "QUEUE");
    let shown = |span| shown(span).replace(&format!("={id} "), "=CALL ");
    let shown: Vec<_> = spans.iter().map(shown).collect();
    assert_eq!(shown, SPANS.map(|span| span.replace("{}", links)));
}

#[tokio::test]
async fn a_remote_call_is_one_trace() -> Outcome {
    let queue = "otel-call";
    let rig = Rig::new(queue, false, |builder| builder.process_is_child(true)).await?;
    let (context, spans) = call(&rig, queue).await?;
    compare(&spans, queue, "0");
    let caller = context.span().span_context().clone();
    let mut parent = caller.span_id();
    for span in &spans {
        assert_eq!(span.span_context.trace_id(), caller.trace_id(), "{span:?}");
        assert_eq!(span.parent_span_id, parent, "{span:?}");
        parent = span.span_context.span_id();
    }
    Ok(())
}

#[tokio::test]
async fn by_default_each_side_of_a_call_is_linked_to_the_other() -> Outcome {
    let queue = "otel-call-links";
    let rig = Rig::new(queue, false, |builder| builder).await?;
    let (context, spans) = call(&rig, queue).await?;
    compare(&spans, queue, "1");
    let [request, serve, reply, receive] = &spans[..] else { panic!("{spans:?}") };
    let caller = context.span().span_context().span_id();
    assert_eq!(request.parent_span_id, caller);
    assert_eq!(reply.parent_span_id, serve.span_context.span_id());
    for (process, message) in [(serve, request), (receive, reply)] {
        assert_eq!(process.parent_span_id, SpanId::INVALID);
        let link = &process.links[0].span_context;
        assert_eq!(link.span_id(), message.span_context.span_id());
        assert_eq!(link.trace_id(), message.span_context.trace_id());
    }
    Ok(())
}
