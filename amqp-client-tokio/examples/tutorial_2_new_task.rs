//! Tutorial 2, "Work queues": gives workers a task, in which each dot is a second of work.
//!
//! ```text
//! cargo run --example tutorial_2_new_task -- A hard task...
//! ```

use std::env;
use std::error::Error;

use amqp_client_tokio::{Connection, Message, MessageProperties, QueueOptions};

#[tokio::main]
async fn main() -> Result<(), Box<dyn Error>> {
    let words: Vec<_> = env::args().skip(1).collect();
    let task = if words.is_empty() { "Hello World!".to_owned() } else { words.join(" ") };

    let uri = env::var("AMQP_URL").unwrap_or_else(|_| "amqp://localhost".to_owned());
    let connection = Connection::open(&uri).await?;
    let channel = connection.open_channel().await?;
    let queue = channel.queue_declare("task_queue", QueueOptions::new()).await?;

    // A persistent message in a durable queue survives a restart of the broker.
    let message = Message::new(&task).with(&MessageProperties::new().persistent())?;
    channel.default_exchange().publish_confirmed(&queue.name().to_string(), &message).await?;
    println!(" [x] Sent '{task}'");

    connection.close().await?;
    Ok(())
}
