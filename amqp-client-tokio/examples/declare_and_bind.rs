//! Declares queues and exchanges of several kinds, binds them, checks what exists, and deletes them again.
//!
//! ```text
//! cargo run --example declare_and_bind
//! ```

use std::env;
use std::error::Error;

use amqp_client_tokio::{
    ExchangeKind, ExchangeOptions, FieldTable, Message, MessageProperties, QueueOptions, connect,
};

#[tokio::main]
async fn main() -> Result<(), Box<dyn Error>> {
    let uri = env::var("AMQP_URL").unwrap_or_else(|_| "amqp://localhost".to_owned());
    let connection = connect(&uri).await?;
    let channel = connection.open_channel().await?;

    // The broker generates the name of this queue. It has priorities up to 4.
    let queue = channel.queue_declare("", QueueOptions::temporary().max_priority(4)).await?;
    // The last exchange goes with its last binding.
    let options = ExchangeOptions::new();
    let events = channel.exchange_declare("events", ExchangeKind::Topic, options.clone()).await?;
    let errors =
        channel.exchange_declare("errors", ExchangeKind::Fanout, options.auto_delete(true)).await?;
    errors.bind(events.name(), "*.error", FieldTable::new()).await?;
    queue.bind(errors.name(), "").await?;
    println!(" [x] events -> errors -> {}", queue.name());

    // Checking for existence does not cost the channel, if it does not exist.
    println!(" [x] errors exists: {}", connection.exchange_exists("errors").await?);
    println!(" [x] no-such-queue exists: {}", connection.queue_exists("no-such-queue").await?);

    for priority in 1..=4 {
        let message = Message::new(format!("priority {priority}"))
            .with(&MessageProperties::new().priority(priority))?;
        events.publish_confirmed("disk.error", &message).await?;
    }
    // The most urgent message comes first.
    let got = queue.get().await?.ok_or("nothing arrived")?;
    println!(" [x] {}, {} more", got.delivery.text()?, got.message_count);
    let most_urgent = got.delivery.body() == b"priority 4";
    got.delivery.ack()?;

    println!(" [x] {} purged", queue.purge().await?);
    errors.unbind(events.name(), "*.error", FieldTable::new()).await?;
    queue.unbind(errors.name(), "", FieldTable::new()).await?;
    queue.delete().await?;
    events.delete_if_unused().await?;
    connection.close().await?;
    if most_urgent { Ok(()) } else { Err("priority 4 should come first".into()) }
}
