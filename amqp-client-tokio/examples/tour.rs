//! A tour of the client, against the broker that `AMQP_URL` names, or else an in-memory broker that it starts itself:
//!
//! ```text
//! cargo run --release --example tour
//! ```
//!
//! It declares a queue, publishes 10,000 messages with confirms, consumes and acknowledges them, has a message returned, runs a
//! transaction, and closes. Each step prints its duration.

use std::env;
use std::error::Error;
use std::future::Future;
use std::time::Instant;

use amqp_client_tokio::{
    Channel, ConfirmError, Connection, ConsumeOptions, Message, PublisherOptions, Queue,
    QueueOptions, SendError, connect,
};
use amqp_test_broker::Broker;
use indicatif::ProgressBar;

type Result<T> = std::result::Result<T, Box<dyn Error>>;

const MESSAGES: u32 = 10_000;

#[tokio::main]
async fn main() -> Result<()> {
    let mut in_memory = None;
    let uri = match env::var("AMQP_URL") {
        Ok(uri) => uri,
        Err(_) => in_memory.insert(Broker::start()?).uri(),
    };
    let connection = step("connect", async { Ok(connect(&uri).await?) }).await?;
    if let Some(negotiated) = connection.negotiated() {
        let product = |name| negotiated.peer_properties.get(name).unwrap_or_else(|| "?".into());
        let (product, version) = (product("product"), product("version"));
        println!("  {} {}", product.as_str().unwrap_or("?"), version.as_str().unwrap_or("?"));
    }
    let channel = step("open a channel", async { Ok(connection.open_channel().await?) }).await?;
    let options = QueueOptions::new().exclusive(true);
    let queue =
        step("declare a queue", async { Ok(channel.queue_declare("", options).await?) }).await?;
    println!("  {}", queue.name());

    step("publish 10,000 messages, all confirmed", publish(&channel, &queue)).await?;
    step("consume and acknowledge them", consume(&queue)).await?;
    step("have a message returned", be_returned(&channel)).await?;
    step("commit a transaction", commit(&connection)).await?;
    step("close", async { Ok(connection.close().await?) }).await
}

/// Publishes without waiting for each confirm: the publisher's window keeps up to a thousand of them unconfirmed.
async fn publish(channel: &Channel, queue: &Queue) -> Result<()> {
    let publisher = channel.default_exchange().publisher(PublisherOptions::new())?;
    let routing_key = queue.name().to_string();
    let progress = ProgressBar::new(MESSAGES.into());
    let mut confirmations = Vec::new();
    for number in 0..MESSAGES {
        confirmations.push(publisher.publish(&routing_key, format!("message {number}")).await?);
    }
    for confirmation in progress.wrap_iter(confirmations.into_iter()) {
        confirmation.await?;
    }
    progress.finish_and_clear();
    Ok(())
}

/// Acknowledging does not wait for the broker; consecutive ones are merged.
async fn consume(queue: &Queue) -> Result<()> {
    let mut consumer = queue.consume(ConsumeOptions::new()).await?;
    let progress = ProgressBar::new(MESSAGES.into());
    for number in 0..MESSAGES {
        let delivery = consumer.next().await.ok_or("the consumer has ended")??;
        if delivery.body() != format!("message {number}").as_bytes() {
            return Err("a message came out of order".into());
        }
        delivery.ack()?;
        progress.inc(1);
    }
    progress.finish_and_clear();
    Ok(consumer.cancel().await?)
}

/// A message that reaches no queue is returned, and its confirmation fails with `Returned`.
async fn be_returned(channel: &Channel) -> Result<()> {
    let publisher = channel.default_exchange().publisher(PublisherOptions::new())?;
    match publisher.send("no.such.queue", "boomerang").await {
        Err(SendError::NotConfirmed(ConfirmError::Returned(returned))) => {
            println!("  {}", returned.reply_code);
            Ok(())
        }
        other => Err(format!("expected it back, got {other:?}").into()),
    }
}

async fn commit(connection: &Connection) -> Result<()> {
    let channel = connection.open_channel().await?;
    let queue = channel.queue_declare("", QueueOptions::new().exclusive(true)).await?;
    channel.tx_select().await?;
    queue.publish(&Message::new("in a transaction")).await?;
    channel.tx_commit().await?;
    let got = queue.get_no_ack().await?.ok_or("the message is not there")?;
    println!("  {}", String::from_utf8_lossy(got.delivery.body()));
    Ok(())
}

/// Runs one step of the tour and prints its duration.
async fn step<T>(name: &str, work: impl Future<Output = Result<T>>) -> Result<T> {
    println!("{name} ...");
    let start = Instant::now();
    let result = work.await?;
    println!("  {:.1} ms", start.elapsed().as_secs_f64() * 1000.0);
    Ok(result)
}
