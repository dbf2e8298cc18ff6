//! Handles up to a hundred messages at the same time.
//!
//! ```text
//! cargo run --example process_concurrently
//! ```

use std::env;
use std::error::Error;
use std::sync::atomic::{AtomicU32, Ordering};
use std::time::{Duration, Instant};

use amqp_client_patterns::process::ProcessExt as _;
use amqp_client_tokio::{ConsumeOptions, Delivery, PublisherOptions, QueueOptions, connect};
use tokio::time::sleep;

const MESSAGES: u32 = 100;

#[tokio::main]
async fn main() -> Result<(), Box<dyn Error>> {
    let uri = env::var("AMQP_URL").unwrap_or_else(|_| "amqp://localhost".to_owned());
    let connection = connect(&uri).await?;
    let channel = connection.open_channel().await?;
    let queue = channel.queue_declare("", QueueOptions::temporary()).await?;
    let publisher = channel.default_exchange().publisher(PublisherOptions::new())?;
    for number in 0..MESSAGES {
        drop(publisher.publish(queue.name(), number.to_string()).await?);
    }
    publisher.wait_for_confirms().await?;

    let start = Instant::now();
    let left = AtomicU32::new(MESSAGES);
    let consumer = queue.consume(ConsumeOptions::new().prefetch(100)).await?;
    let tag = consumer.tag().clone();
    let handle = async |delivery| {
        handle(delivery).await;
        if left.fetch_sub(1, Ordering::Relaxed) == 1 {
            // The last one. Cancelling the consumer ends the loop.
            drop(channel.basic_cancel(&tag).await);
        }
    };
    consumer.for_each_concurrent(100, handle).await?;
    println!(" [x] {MESSAGES} messages handled in {:?}, at the same time", start.elapsed());
    Ok(connection.close().await?)
}

/// Takes a tenth of a second. The message is acknowledged afterwards.
async fn handle(delivery: Delivery) {
    let processed = delivery.process().run(async |_message| {
        // Stands for work that waits for something.
        sleep(Duration::from_millis(100)).await;
        Ok::<_, Box<dyn Error>>(())
    });
    if let Err(error) = processed.await {
        println!(" [x] {error}");
    }
}
