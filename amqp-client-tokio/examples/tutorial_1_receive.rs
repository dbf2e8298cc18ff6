//! Tutorial 1, "Hello World!": prints what arrives in the queue `hello`, until Ctrl-C.
//!
//! ```text
//! cargo run --example tutorial_1_receive
//! ```

use std::env;
use std::error::Error;

use amqp_client_tokio::{ConsumeOptions, QueueOptions, connect};
use tokio::signal::ctrl_c;

#[tokio::main]
async fn main() -> Result<(), Box<dyn Error>> {
    let uri = env::var("AMQP_URL").unwrap_or_else(|_| "amqp://localhost".to_owned());
    let connection = connect(&uri).await?;
    let channel = connection.open_channel().await?;
    let queue = channel.queue_declare("hello", QueueOptions::new()).await?;

    let mut consumer = queue.consume(ConsumeOptions::new().no_ack(true)).await?;
    println!(" [*] Waiting for messages. To exit press CTRL+C");
    loop {
        tokio::select! {
            delivery = consumer.next() => {
                let delivery = delivery.ok_or("the consumer was cancelled")??;
                println!(" [x] Received '{}'", String::from_utf8_lossy(delivery.body()));
            }
            _ = ctrl_c() => break,
        }
    }
    connection.close().await?;
    Ok(())
}
