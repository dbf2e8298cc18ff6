//! Tutorial 2, "Work queues": sends a task to the workers. Each dot in it is a second of work.
//!
//! ```text
//! cargo run --example tutorial_2_new_task -- A hard task...
//! ```

use std::env;
use std::error::Error;

use amqp_client_tokio::{Message, QueueOptions, connect};

#[tokio::main]
async fn main() -> Result<(), Box<dyn Error>> {
    let words: Vec<_> = env::args().skip(1).collect();
    let task = if words.is_empty() { "Hello World!".to_owned() } else { words.join(" ") };

    let uri = env::var("AMQP_URL").unwrap_or_else(|_| "amqp://localhost".to_owned());
    let connection = connect(&uri).await?;
    let channel = connection.open_channel().await?;
    let queue = channel.queue_declare("task_queue", QueueOptions::new()).await?;

    // Messages are persistent by default: in a durable queue they survive a restart of the broker.
    queue.publish_confirmed(&Message::new(&task)).await?;
    println!(" [x] Sent '{task}'");

    connection.close().await?;
    Ok(())
}
