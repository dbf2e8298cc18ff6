//! The HTTP endpoint.
//!
//! | Request | Reply |
//! |---|---|
//! | `POST /orders`, an order in JSON | 202 when the broker has the order; 503 if it may not have it: send the order again |
//! | `GET /health/live` | 200 while the program works |
//! | `GET /health/ready` | 200 if orders can be taken, and otherwise 503; both with the state of the connections |

use std::io;
use std::sync::Arc;

use amqp_client_patterns::codec;
use amqp_client_tokio::error::chain;
use amqp_client_tokio::{Health, MessageProperties, Status};
use axum::extract::State;
use axum::http::{StatusCode, header::RETRY_AFTER};
use axum::response::{IntoResponse, Response};
use axum::routing::{get, post};
use axum::{Json, Router};
use serde_json::{Value, json};
use tokio::net::TcpListener;
use tokio_util::sync::CancellationToken;

use crate::broker::{Broker, QUEUE};
use crate::{Error, Order};

/// Serves until `stopping` is cancelled, and then until the requests that have begun have their replies.
pub(crate) async fn serve(
    listener: TcpListener,
    broker: Arc<Broker>,
    stopping: CancellationToken,
) -> io::Result<()> {
    let app = Router::new()
        .route("/orders", post(order))
        .route("/health/live", get(live))
        .route("/health/ready", get(ready))
        .with_state(broker);
    axum::serve(listener, app).with_graceful_shutdown(stopping.cancelled_owned()).await
}

/// If the client disconnects, this function is dropped, and the order may be published or not.
async fn order(
    State(broker): State<Arc<Broker>>,
    Json(order): Json<Order>,
) -> Result<StatusCode, Unavailable> {
    let publisher = broker.publisher().ok_or("the broker has not been reached yet")?;
    let properties = MessageProperties::new().message_id(order.id.as_str());
    let message = codec::encode::<codec::Json, _>(&order, &properties)?;
    publisher.send_message(QUEUE, &message).await?;
    Ok(StatusCode::ACCEPTED)
}

async fn live() -> &'static str {
    "live\n"
}

async fn ready(State(broker): State<Arc<Broker>>) -> (StatusCode, Json<Value>) {
    let health = broker.health();
    let works = |health: &Option<Health>| health.as_ref().is_some_and(Health::is_open);
    let blocked = health.iter().any(|(_, health)| health.as_ref().is_some_and(|it| it.blocked));
    let ready = health.iter().all(|(_, health)| works(health)) && broker.publisher().is_some();
    let status = match ready && !blocked {
        true => StatusCode::OK,
        false => StatusCode::SERVICE_UNAVAILABLE,
    };
    let states = health.map(|(name, health)| (name.to_owned(), state(health.as_ref())));
    (status, Json(Value::Object(states.into_iter().collect())))
}

/// The state of a connection, in JSON.
fn state(health: Option<&Health>) -> Value {
    let Some(health) = health else { return json!({ "status": "connecting" }) };
    let status = match &health.status {
        Status::Open if health.blocked => "blocked".to_owned(),
        Status::Open => "open".to_owned(),
        Status::Closed(reason) => format!("closed: {reason}"),
        _ => "recovering".to_owned(),
    };
    json!({
        "status": status,
        "losses": health.losses,
        "unconfirmed": health.unconfirmed,
        "unsettled": health.unsettled,
    })
}

/// The broker may not have the order.
struct Unavailable(Error);

impl<E: Into<Error>> From<E> for Unavailable {
    fn from(error: E) -> Self {
        Self(error.into())
    }
}

impl IntoResponse for Unavailable {
    fn into_response(self) -> Response {
        let reply = format!("{}\n", chain(&*self.0));
        (StatusCode::SERVICE_UNAVAILABLE, [(RETRY_AFTER, "1")], reply).into_response()
    }
}
