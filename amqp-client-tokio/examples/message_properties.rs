//! Sends a message with every property, and prints all that a delivery has besides its body.
//!
//! ```text
//! cargo run --example message_properties
//! ```

use std::env;
use std::error::Error;
use std::time::{Duration, UNIX_EPOCH};

use amqp_client_tokio::{
    ConsumeOptions, DeliveryMode, FieldTable, Message, MessageProperties, QueueOptions, connect,
};

#[tokio::main]
async fn main() -> Result<(), Box<dyn Error>> {
    let uri = env::var("AMQP_URL").unwrap_or_else(|_| "amqp://localhost".to_owned());
    let connection = connect(&uri).await?;
    let channel = connection.open_channel().await?;
    let queue = channel.queue_declare("", QueueOptions::temporary()).await?;
    let mut consumer = queue.consume(ConsumeOptions::new()).await?;

    let nested = FieldTable::new().with("retries", 3)?.with("urgent", true)?;
    let sent = MessageProperties::new()
        .content_type("text/plain")
        .content_encoding("utf-8")
        // RabbitMQ 4 sorts headers by their names.
        .headers(FieldTable::new().with("job", nested)?.with("source", "example")?)
        .delivery_mode(DeliveryMode::Persistent)
        .priority(5)
        .correlation_id("request-1")
        .reply_to("replies")
        .expiration(Duration::from_secs(60))
        .message_id("message-1")
        .timestamp(UNIX_EPOCH + Duration::from_secs(1_700_000_000))
        .kind("greeting")
        .app_id("message_properties");
    // RabbitMQ checks `user_id` against the login, and does not use `cluster_id`.
    queue.publish_confirmed(&Message::new("hello").with(&sent)?).await?;

    let delivery = consumer.next().await.ok_or("the consumer was cancelled")??;
    println!(" [x] consumer tag: {}", delivery.consumer_tag());
    println!(" [x] delivery tag: {}", delivery.delivery_tag());
    println!(" [x] exchange: {:?}", delivery.exchange());
    println!(" [x] routing key: {}", delivery.routing_key());
    println!(" [x] redelivered: {}", delivery.redelivered());
    let received = delivery.message_properties()?;
    println!(" [x] {received:#?}");
    delivery.ack()?;

    connection.close().await?;
    if received == sent { Ok(()) } else { Err(format!("it should be {sent:#?}").into()) }
}
