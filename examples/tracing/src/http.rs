//! The HTTP endpoint.
//!
//! | Request | Reply |
//! |---|---|
//! | `POST /orders`, an order in JSON | 202 when the broker has the order; 503 if it may not have it: send the order again |
//! | `GET /metrics` | the counters of the connections, for Prometheus |

use std::sync::Arc;

use amqp_client_tokio::PrometheusText;
use amqp_client_tokio::error::chain;
use axum::extract::{Request, State};
use axum::http::StatusCode;
use axum::http::header::CONTENT_TYPE;
use axum::middleware::{self, Next};
use axum::response::{IntoResponse, Response};
use axum::routing::{get, post};
use axum::{Json, Router};
use opentelemetry::context::FutureExt as _;
use opentelemetry::trace::{SpanKind, Status, TraceContextExt as _, Tracer as _};
use opentelemetry::{KeyValue, global};
use opentelemetry_http::HeaderExtractor;
use tokio::net::TcpListener;

use crate::shop::{ORDERS, Order, Shop};
use crate::telemetry::tracer;
use crate::{Error, Stopping};

/// Serves until the program stops, and then until the requests that have begun have their replies.
pub(crate) async fn serve(
    listener: TcpListener,
    shop: Arc<Shop>,
    mut stopping: Stopping,
) -> Result<(), Error> {
    let app = Router::new()
        .route("/orders", post(order))
        .route_layer(middleware::from_fn(traced))
        // Scrapes are not traced.
        .route("/metrics", get(metrics))
        .with_state(shop);
    let stop = async move { drop(stopping.changed().await) };
    Ok(axum::serve(listener, app).with_graceful_shutdown(stop).await?)
}

/// Handles a request in a span, which continues the trace of the client.
async fn traced(request: Request, next: Next) -> Response {
    let parent = global::get_text_map_propagator(|propagator| {
        propagator.extract(&HeaderExtractor(request.headers()))
    });
    let method = request.method().as_str().to_owned();
    // No route has parameters, so the path has few values.
    let route = request.uri().path().to_owned();
    let tracer = tracer();
    let span = tracer
        .span_builder(format!("{method} {route}"))
        .with_kind(SpanKind::Server)
        .with_attributes([
            KeyValue::new("http.request.method", method),
            KeyValue::new("http.route", route),
        ]);
    let context = parent.with_span(tracer.build_with_context(span, &parent));

    // If the client disconnects, this function is dropped here, which ends the span.
    let response = next.run(request).with_context(context.clone()).await;

    let (span, status) = (context.span(), response.status());
    span.set_attribute(KeyValue::new("http.response.status_code", i64::from(status.as_u16())));
    if status.is_server_error() {
        span.set_status(Status::error(""));
    }
    span.end();
    response
}

async fn order(State(shop): State<Arc<Shop>>, Json(order): Json<Order>) -> (StatusCode, String) {
    match shop.publish(ORDERS, &order).await {
        Ok(()) => (StatusCode::ACCEPTED, String::new()),
        Err(error) => (StatusCode::SERVICE_UNAVAILABLE, format!("{}\n", chain(&*error))),
    }
}

async fn metrics(State(shop): State<Arc<Shop>>) -> impl IntoResponse {
    let connections = shop.connections();
    let text = connections.iter().fold(PrometheusText::new(), |text, (name, connection)| {
        text.add(&[("connection", name)], &connection.counters())
    });
    ([(CONTENT_TYPE, "text/plain; version=0.0.4")], text.to_string())
}
