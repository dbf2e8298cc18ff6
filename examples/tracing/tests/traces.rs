//! The collector receives the whole trace of an order: request, publish, process, settle.

mod common;

use amqp_test_broker::Broker;
use amqp_testkit::wait_until;
use common::{Collector, LIMIT, Outcome, Program, attribute, hex, on_each_broker, tree};
use opentelemetry_proto::tonic::trace::v1::Span;

const TRACE: &str = "0af7651916cd43dd8448eb211c80319c";

/// Of orders that wait for the broker.
const WARM: &str = "11111111111111111111111111111111";

/// The spans before the first attempt to process an order.
const ORDERED: [&str; 2] = ["POST /orders, server", "  publish traced.orders, producer"];

/// The spans of an attempt that fails. The next attempt is not its child: both are children of the span that has created the message.
const FAILED: [&str; 4] = [
    "    process traced.orders, consumer",
    "      reserve, internal, error _OTHER",
    "      publish traced.orders.retry.200, producer, linked to publish traced.orders",
    "      ack traced.orders, client, linked to publish traced.orders",
];

/// The spans of an attempt that succeeds.
const SHIPPED: [&str; 7] = [
    "    process traced.orders, consumer",
    "      reserve, internal",
    "      publish traced.shipped, producer",
    "        process traced.shipped, consumer",
    "          mail, internal",
    "          ack traced.shipped, client, linked to publish traced.shipped",
    "      ack traced.orders, client, linked to publish traced.orders",
];

/// Waits until the order was shipped, compares its spans, and returns them. `failed`: the spans of attempts that fail.
#[track_caller]
fn shipped(collector: &Collector, trace: &str, failed: &[&str]) -> Vec<Span> {
    let expected = [&ORDERED, failed, &SHIPPED].concat();
    let spans = collector.wait_trace(trace, expected.len());
    assert_eq!(tree(&spans), expected);
    spans
}

#[test]
fn an_order_is_one_trace() -> Outcome {
    on_each_broker(|uri| {
        let collector = Collector::start()?;
        let program = Program::start(uri, &collector.endpoint)?;
        program.order_until_accepted("bread", WARM)?;
        assert_eq!(program.order("bread", TRACE)?, 202);
        let spans = shipped(&collector, TRACE, &[]);
        // The trace of the client of our HTTP server goes on.
        assert_eq!(hex(&spans[0].parent_span_id), "00000000000000ab");
        for span in &spans {
            assert!(span.start_time_unix_nano < span.end_time_unix_nano, "{span:?}");
            assert_eq!(attribute(&span.attributes, "error.type"), None, "{span:?}");
        }
        program.stop()?;

        // The last metrics come when the program stops.
        let received = collector.received();
        assert!(received.services.iter().all(|name| name == "orders"), "{:?}", received.services);
        for metric in [
            "messaging.client.operation.duration",
            "messaging.process.duration",
            "messaging.client.sent.messages",
            "messaging.client.consumed.messages",
        ] {
            assert!(received.metrics.iter().any(|name| name == metric), "{:?}", received.metrics);
        }
        Ok(())
    })
}

#[test]
fn an_order_that_fails_is_tried_again_in_its_trace() -> Outcome {
    on_each_broker(|uri| {
        let collector = Collector::start()?;
        let program = Program::start(uri, &collector.endpoint)?;
        program.order_until_accepted("bread", WARM)?;
        assert_eq!(program.order("wine", TRACE)?, 202);
        shipped(&collector, TRACE, &FAILED);
        program.stop()
    })
}

/// The program starts before its broker, and goes on when that is restarted.
#[test]
fn traces_come_before_and_after_an_outage() -> Outcome {
    let broker = Broker::start()?;
    let uri = broker.uri();
    broker.stop();
    let collector = Collector::start()?;
    let program = Program::start(&uri, &collector.endpoint)?;
    assert!(
        program.metrics()?.contains("amqp_client_published_total{connection=\"publishing\"} 0\n")
    );
    assert_eq!(program.order("bread", WARM)?, 503);
    let refused = collector.wait_trace(WARM, 1);
    assert_eq!(tree(&refused), ["POST /orders, server"]);
    broker.start_again()?;
    program.order_until_accepted("bread", WARM)?;

    for outage in 1..=2 {
        let trace = format!("{outage:032x}");
        assert_eq!(program.order("bread", &trace)?, 202);
        shipped(&collector, &trace, &[]);
        broker.restart();
        program.order_until_accepted("bread", WARM)?;
        let losses = format!("amqp_client_losses_total{{connection=\"consuming\"}} {outage}\n");
        wait_until(LIMIT, "the loss to be counted", || {
            program.metrics().is_ok_and(|text| text.contains(&losses))
        });
    }
    program.stop()
}
