//! Times the four ways to publish and to consume. The folder `bench` of the project compares this client with others.
//!
//! ```text
//! cargo run --release --example benchmark -- 100000
//! ```

use std::env;
use std::error::Error;
use std::time::Instant;

use amqp_client_tokio::{ConsumeOptions, Message, PublisherOptions, Queue, QueueOptions, connect};

#[tokio::main]
async fn main() -> Result<(), Box<dyn Error>> {
    let count = env::args().nth(1).map_or(Ok(100_000), |count| count.parse())?;
    let uri = env::var("AMQP_URL").unwrap_or_else(|_| "amqp://localhost".to_owned());
    let connection = connect(&uri).await?;
    let channel = connection.open_channel().await?;
    let queue = channel.queue_declare("", QueueOptions::new().exclusive(true)).await?;
    let message = Message::new("test");

    let start = Instant::now();
    for _ in 0..count {
        queue.publish_confirmed(&message).await?;
    }
    report("published, waiting for each confirm", count, start);
    consume(&queue, count, false).await?;

    let publisher = channel.default_exchange().publisher(PublisherOptions::new())?;
    let start = Instant::now();
    for _ in 0..count {
        drop(publisher.publish_message(queue.name(), &message).await?);
    }
    publisher.wait_for_confirms().await?;
    report("published, all confirmed at the end", count, start);
    consume(&queue, count, true).await?;

    // Confirms are on for the whole channel: without them is another channel.
    let channel = connection.open_channel().await?;
    let unconfirmed = channel.queue(queue.name())?;
    let start = Instant::now();
    for _ in 0..count {
        unconfirmed.publish(&message).await?;
    }
    report("published without confirms", count, start);
    consume(&queue, count, true).await?;
    Ok(connection.close().await?)
}

async fn consume(queue: &Queue, count: u32, no_ack: bool) -> Result<(), Box<dyn Error>> {
    let start = Instant::now();
    let mut consumer = queue.consume(ConsumeOptions::new().no_ack(no_ack)).await?;
    for _ in 0..count {
        let delivery = consumer.next().await.ok_or("the consumer was cancelled")??;
        delivery.ack()?;
    }
    report(if no_ack { "consumed, no_ack" } else { "consumed and acknowledged" }, count, start);
    Ok(consumer.cancel().await?)
}

fn report(what: &str, count: u32, start: Instant) {
    let rate = f64::from(count) / start.elapsed().as_secs_f64();
    println!("{what:36} {rate:10.0} messages per second");
}
