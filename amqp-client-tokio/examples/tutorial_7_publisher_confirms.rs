//! Tutorial 7, "Publisher confirms": publishes many messages and checks the outcome of each, in three ways.
//!
//! ```text
//! cargo run --release --example tutorial_7_publisher_confirms -- 10000
//! ```

use std::env;
use std::error::Error;
use std::time::Instant;

use amqp_client_tokio::{Publisher, PublisherOptions, QueueOptions, connect};

type Result<T> = std::result::Result<T, Box<dyn Error>>;

#[tokio::main]
async fn main() -> Result<()> {
    let count = match env::args().nth(1).map(|count| count.parse()) {
        Some(Ok(count)) => count,
        None => 10_000,
        Some(Err(_)) => return Err("usage: tutorial_7_publisher_confirms [COUNT]".into()),
    };
    let uri = env::var("AMQP_URL").unwrap_or_else(|_| "amqp://localhost".to_owned());
    let connection = connect(&uri).await?;
    let channel = connection.open_channel().await?;
    let queue = channel.queue_declare("", QueueOptions::temporary()).await?;
    let publisher = channel.default_exchange().publisher(PublisherOptions::new())?;
    let routing_key = queue.name().to_string();

    let start = Instant::now();
    individually(&publisher, &routing_key, count).await?;
    println!("Published {count} messages individually in {:?}", start.elapsed());

    let start = Instant::now();
    in_batches(&publisher, &routing_key, count).await?;
    println!("Published {count} messages in batches in {:?}", start.elapsed());

    let start = Instant::now();
    asynchronously(&publisher, &routing_key, count).await?;
    println!(
        "Published {count} messages and handled confirms asynchronously in {:?}",
        start.elapsed()
    );

    connection.close().await?;
    Ok(())
}

/// Waits for each confirm before the next message: simple, and as slow as the network.
async fn individually(publisher: &Publisher, routing_key: &str, count: u32) -> Result<()> {
    for number in 0..count {
        publisher.send(routing_key, number.to_string()).await?;
    }
    Ok(())
}

/// Waits for the confirms of a hundred messages at once. When one fails, it is not known which.
async fn in_batches(publisher: &Publisher, routing_key: &str, count: u32) -> Result<()> {
    for number in 0..count {
        let _not_watched = publisher.publish(routing_key, number.to_string()).await?;
        if number % 100 == 99 {
            publisher.wait_for_confirms().await?;
        }
    }
    Ok(publisher.wait_for_confirms().await?)
}

/// Publishes as fast as the publisher's window allows, and handles the outcome of each message.
async fn asynchronously(publisher: &Publisher, routing_key: &str, count: u32) -> Result<()> {
    let mut confirmations = Vec::new();
    for number in 0..count {
        confirmations.push((number, publisher.publish(routing_key, number.to_string()).await?));
    }
    for (number, confirmation) in confirmations {
        confirmation.await.map_err(|error| format!("message {number}: {error}"))?;
    }
    Ok(())
}
