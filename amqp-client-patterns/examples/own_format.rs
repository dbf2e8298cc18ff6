//! Typed messages in a format of your own, between a publisher and a consumer. For JSON, MessagePack and CBOR there are features.
//!
//! ```text
//! cargo run --example own_format
//! ```

use std::env;
use std::error::Error;

use amqp_client_patterns::codec::{
    ConsumerExt as _, Content, Decode, DecodeBodyError, Encode, EncodeBodyError, PublisherExt as _,
};
use amqp_client_tokio::{ConsumeOptions, PublisherOptions, QueueOptions, connect};

#[derive(Debug, Clone, Copy, PartialEq)]
struct Point {
    x: i32,
    y: i32,
}

/// Points as text: `x,y`.
struct CommaSeparated;

const CONTENT_TYPE: &str = "text/x-point";

impl Encode<Point> for CommaSeparated {
    const CONTENT_TYPE: &'static str = CONTENT_TYPE;

    fn encode(point: &Point) -> Result<Vec<u8>, EncodeBodyError> {
        Ok(format!("{},{}", point.x, point.y).into_bytes())
    }
}

impl Decode<Point> for CommaSeparated {
    fn decode(content: Content<'_>) -> Result<Point, DecodeBodyError> {
        // A message of another content type is not decoded by accident.
        content.expect("a point", &[CONTENT_TYPE])?;
        parse(content.body).map_err(|error| DecodeBodyError::body("a point", error))
    }
}

fn parse(body: &[u8]) -> Result<Point, Box<dyn Error + Send + Sync>> {
    let (x, y) = std::str::from_utf8(body)?.split_once(',').ok_or("there is no comma")?;
    Ok(Point { x: x.parse()?, y: y.parse()? })
}

#[tokio::main]
async fn main() -> Result<(), Box<dyn Error>> {
    let uri = env::var("AMQP_URL").unwrap_or_else(|_| "amqp://localhost".to_owned());
    let connection = connect(&uri).await?;
    let channel = connection.open_channel().await?;
    let queue = channel.queue_declare("", QueueOptions::temporary()).await?;

    let publisher = channel.default_exchange().publisher(PublisherOptions::new())?;
    let sent = Point { x: 4, y: 2 };
    publisher.of::<Point, CommaSeparated>().send(queue.name(), &sent).await?;
    publisher.send(queue.name(), "not a point").await?;

    let consumer = queue.consume(ConsumeOptions::new()).await?;
    let mut points = consumer.of_as::<Point, CommaSeparated>();
    for expected in [Some(sent), None] {
        let received = points.next().await.ok_or("the consumer was cancelled")??;
        match &received.value {
            Ok(point) => println!(" [x] {point:?}"),
            Err(error) => println!(" [x] Rejected: {error}"),
        }
        if received.value.ok() != expected {
            return Err(format!("it should be {expected:?}").into());
        }
        if expected.is_some() {
            received.delivery.ack()?;
        } else {
            received.delivery.reject(false)?;
        }
    }
    Ok(connection.close().await?)
}
