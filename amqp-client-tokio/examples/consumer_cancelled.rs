//! A queue is deleted while it is consumed. The broker cancels the consumer, and the program starts another one.
//!
//! ```text
//! cargo run --example consumer_cancelled
//! ```

use std::env;
use std::error::Error;

use amqp_client_tokio::{
    ChannelEvent, ConsumeOptions, ConsumerEnd, Message, QueueOptions, connect,
};

#[tokio::main]
async fn main() -> Result<(), Box<dyn Error>> {
    let uri = env::var("AMQP_URL").unwrap_or_else(|_| "amqp://localhost".to_owned());
    let connection = connect(&uri).await?;
    let channel = connection.open_channel().await?;
    let mut events = channel.events();
    let queue = channel.queue_declare("", QueueOptions::temporary()).await?;
    let mut consumer = queue.consume(ConsumeOptions::new()).await?;

    queue.delete().await?;
    match consumer.next().await {
        Some(Err(ConsumerEnd::Cancelled)) => println!(" [x] The broker cancelled the consumer"),
        other => return Err(format!("it should be cancelled: {other:?}").into()),
    }
    // The events of the channel report it as well, for code that does not read the consumer.
    while let Some(event) = events.next().await {
        println!(" [x] {event}");
        if matches!(event, ChannelEvent::ConsumerCancelled { .. }) {
            break;
        }
    }

    // The channel is still open.
    let queue = channel.queue_declare("", QueueOptions::temporary()).await?;
    let mut consumer = queue.consume(ConsumeOptions::new()).await?;
    queue.publish_confirmed(&Message::new("again")).await?;
    let delivery = consumer.next().await.ok_or("the consumer was cancelled")??;
    println!(" [x] {}", delivery.text()?);
    delivery.ack()?;
    Ok(connection.close().await?)
}
