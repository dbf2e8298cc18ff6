//! OpenTelemetry for the AMQP 0-9-1 clients `amqp-client-tokio`, `amqp-client-smol` and `amqp-client-blocking`.
//!
//! [`OtelIntercept`] creates spans and metrics for all messages of a connection, and passes trace contexts on in message headers. Add
//! it to the target of a connection. The code that publishes and consumes needs no change.
//!
#![cfg_attr(feature = "opentelemetry", doc = "```")]
#![cfg_attr(not(feature = "opentelemetry"), doc = "```ignore")]
//! # use amqp_client_tokio::{Message, QueueOptions, Target, connect_target};
//! use amqp_client_otel::OtelIntercept;
//!
//! # #[tokio::main(flavor = "current_thread")]
//! # async fn main() -> Result<(), Box<dyn std::error::Error>> {
//! # let broker = amqp_test_broker::Broker::start()?;
//! # let uri = broker.uri();
//! // Uses the tracer and meter providers that the program has set in `opentelemetry::global`.
//! let otel = OtelIntercept::builder().server("rabbit-1", 5672).build();
//! let target: Target = uri.parse()?;
//! let connection = connect_target(target.intercept(otel)).await?;
//!
//! let channel = connection.open_channel().await?;
//! let queue = channel.queue_declare("orders", QueueOptions::new()).await?;
//! // A span `publish amq.default`. The message has a header `traceparent`.
//! queue.publish_confirmed(&Message::new("an order")).await?;
//! # Ok(())
//! # }
//! ```
//!
//! # Spans
//! Names and attributes follow version 1.44 of the semantic conventions for messaging, whose status is "development". They may
//! change with the conventions.
//!
//! | Span | Kind | From | To |
//! |---|---|---|---|
//! | `publish` | producer | the call | the confirm; without confirms, when the message is queued for sending |
//! | `create`, for each message of a `publish_all` that has no valid context yet | producer | the call | at once |
//! | `publish` of a `publish_all`, with links to its messages | client | the call | the last confirm |
//! | `process` | consumer | when the application takes the delivery | when the delivery is settled |
//! | `receive` (`basic.get`) | client | when the application gets the message | at once |
//! | `ack`, `nack`, `reject`, if [switched on](Builder::settle_spans) | client | the call | at once |
//!
//! The name of a span ends with the exchange. If that is the default exchange, the name ends with `amq.default` for a publish, and with
//! the queue for a delivery. To choose another ending, use [`Builder::destination`].
//!
//! A `process` span is linked to the context in the message, and belongs to the trace that is current where the delivery is taken.
//! [`Builder::process_is_child`] makes it part of the trace of the message.
//!
//! The code that handles a delivery runs in the context of its `process` span if it runs in the
//! [scope](amqp_client_core::Delivery::scope) of the delivery: `for_each_concurrent` and the workers of `amqp-client-patterns` do
//! that. The messages that this code publishes are then part of the same trace.
//!
//! These attributes of the conventions are missing:
//!
//! - `network.peer.address` and `network.peer.port`. An interceptor does not see which connection a message belongs to, and after an
//!   outage, that connection may lead to another node. [`Connection::peer_addr`](amqp_client_core::Connection::peer_addr) returns the
//!   address, and the log lines of a connection name it.
//! - `messaging.message.envelope.size`. A message is sent in several frames, and their number depends on the frame size that the
//!   broker chooses when the client connects. [`Builder::body_size`] adds the size of the body.
//!
//! # Errors
//! `error.type` of a `publish` is `nacked`, `returned`, `unconfirmed`, `refused`, `not_resent`, `timeout`, `channel_closed`,
//! `name_too_long`, `properties_too_large`, `would_wait` (`try_publish`), `abandoned` (the future, or all handles of the channel,
//! were dropped) or `_OTHER`. `error.type` of a `process` is `nacked`, `rejected`, `dropped`, `panicked`, `stale` or `channel_closed`.
//!
//! # Headers
//! `traceparent` and `tracestate` of [W3C Trace Context](https://www.w3.org/TR/trace-context/), and `baggage` if
//! [switched on](Builder::baggage), as long strings. If a message already has a valid context, the message keeps it, and the
//! `publish` span is linked to it. So a message that a worker publishes again for a retry keeps its first context.
//! Malformed contexts are ignored. A message without room for the headers is published without them.
//!
//! # Metrics
//! `messaging.client.operation.duration` (of publishes), `messaging.process.duration`, `messaging.client.sent.messages` and
//! `messaging.client.consumed.messages`.
//!
//! # The connection
//! [`OtelIntercept::observe`] exports the counters of a connection, and its state, as metrics. [`OtelIntercept::log_events`] creates a
//! span for each outage and for each time that the broker blocks publishing, with the failed attempts as events.
//!
//! # Without OpenTelemetry
//! The feature `tracing` adds `TracingIntercept`: the same spans through the crate `tracing`, and the same headers. With
//! `default-features = false`, the crate then does not depend on OpenTelemetry.
//!
//! # Exporters
//! The task that drives the connection ends spans of confirmed messages. Use a batch span processor: an exporter that blocks would
//! delay all messages.

#![cfg_attr(
    not(feature = "opentelemetry"),
    allow(rustdoc::broken_intra_doc_links, reason = "this page describes `OtelIntercept`")
)]

#[cfg(any(feature = "opentelemetry", feature = "tracing"))]
mod attributes;
#[cfg(feature = "opentelemetry")]
mod builder;
#[cfg(feature = "opentelemetry")]
mod connection;
#[cfg(any(feature = "opentelemetry", feature = "tracing"))]
#[cfg_attr(
    not(feature = "opentelemetry"),
    allow(dead_code, reason = "there are no metrics without OpenTelemetry")
)]
mod conventions;
#[cfg(any(feature = "opentelemetry", feature = "tracing"))]
mod destination;
#[cfg(feature = "opentelemetry")]
mod intercept;
#[cfg(any(feature = "opentelemetry", feature = "tracing"))]
mod outcome;
#[cfg(feature = "opentelemetry")]
mod process;
#[cfg(feature = "opentelemetry")]
mod propagation;
#[cfg(feature = "opentelemetry")]
mod publish;
#[cfg(feature = "opentelemetry")]
mod shared;
#[cfg(any(feature = "opentelemetry", feature = "tracing"))]
mod trace_parent;
#[cfg(feature = "tracing")]
mod tracing;

#[cfg(feature = "tracing")]
pub use crate::tracing::{TracingBatch, TracingIntercept};
#[cfg(feature = "opentelemetry")]
pub use builder::Builder;
#[cfg(any(feature = "opentelemetry", feature = "tracing"))]
pub use destination::Destination;
#[cfg(feature = "opentelemetry")]
pub use intercept::OtelIntercept;
#[cfg(feature = "opentelemetry")]
pub use process::ProcessBatch;
