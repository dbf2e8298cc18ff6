//! A web service that publishes what it is sent, and returns what it receives:
//!
//! ```text
//! cargo run --example http_bridge
//! curl --data hello localhost:8888/publish
//! curl localhost:8888/consume      # one message; 204 if there is none
//! curl localhost:8888/subscribe    # one message; waits for it
//! ```
//!
//! With an argument, it listens at that address. One connection and one channel serve all requests.

use std::env;
use std::error::Error;

use amqp_client_tokio::{Channel, ConsumeOptions, Delivery, Message, QueueOptions, connect};
use axum::Router;
use axum::body::Bytes;
use axum::extract::State;
use axum::http::StatusCode;
use axum::response::{IntoResponse, Response};
use axum::routing::{get, post};
use tokio::net::TcpListener;
use tokio::signal::ctrl_c;

const QUEUE: &str = "http-bridge";

#[tokio::main]
async fn main() -> Result<(), Box<dyn Error>> {
    let address = env::args().nth(1).unwrap_or_else(|| "localhost:8888".to_owned());
    let uri = env::var("AMQP_URL").unwrap_or_else(|_| "amqp://localhost".to_owned());
    let connection = connect(&uri).await?;
    let channel = connection.open_channel().await?;
    channel.queue_declare(QUEUE, QueueOptions::new()).await?;

    let app = Router::new()
        .route("/publish", post(publish))
        .route("/consume", get(consume))
        .route("/subscribe", get(subscribe))
        .with_state(channel);
    let listener = TcpListener::bind(address).await?;
    println!(" [*] Listening at {}. To exit press CTRL+C", listener.local_addr()?);
    let stop = async { drop(ctrl_c().await) };
    axum::serve(listener, app).with_graceful_shutdown(stop).await?;
    Ok(connection.close().await?)
}

/// Replies when the broker has the message. If the reply is an error, the client may send it again.
async fn publish(State(channel): State<Channel>, body: Bytes) -> Result<&'static str, Failure> {
    channel.queue(QUEUE)?.publish_confirmed(&Message::new(body)).await?;
    Ok("OK\n")
}

async fn consume(State(channel): State<Channel>) -> Result<Response, Failure> {
    match channel.queue(QUEUE)?.get().await? {
        Some(got) => hand_over(got.delivery),
        None => Ok(StatusCode::NO_CONTENT.into_response()),
    }
}

/// Each request has a consumer. It is cancelled when the client has its message, or disconnects.
async fn subscribe(State(channel): State<Channel>) -> Result<Response, Failure> {
    let options = ConsumeOptions::new().prefetch(1);
    let mut consumer = channel.queue(QUEUE)?.consume(options).await?;
    hand_over(consumer.next().await.ok_or("the queue was deleted")??)
}

fn hand_over(delivery: Delivery) -> Result<Response, Failure> {
    let body = delivery.body_bytes();
    delivery.ack()?;
    Ok(body.into_response())
}

/// Any error, as a response.
struct Failure(Box<dyn Error + Send + Sync>);

impl<E: Into<Box<dyn Error + Send + Sync>>> From<E> for Failure {
    fn from(error: E) -> Self {
        Self(error.into())
    }
}

impl IntoResponse for Failure {
    fn into_response(self) -> Response {
        (StatusCode::SERVICE_UNAVAILABLE, format!("{}\n", self.0)).into_response()
    }
}
