//! Tutorial 1, "Hello World!": sends one message to the queue `hello`.
//!
//! ```text
//! cargo run --example tutorial_1_receive
//! cargo run --example tutorial_1_send
//! ```

use std::env;
use std::error::Error;

use amqp_client_tokio::{Message, QueueOptions, connect};

#[tokio::main]
async fn main() -> Result<(), Box<dyn Error>> {
    let uri = env::var("AMQP_URL").unwrap_or_else(|_| "amqp://localhost".to_owned());
    let connection = connect(&uri).await?;
    let channel = connection.open_channel().await?;
    let queue = channel.queue_declare("hello", QueueOptions::new()).await?;

    queue.publish_confirmed(&Message::new("Hello World!")).await?;
    println!(" [x] Sent 'Hello World!'");

    connection.close().await?;
    Ok(())
}
