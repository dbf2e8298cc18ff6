//! Tutorial 3, "Publish/Subscribe": prints all logs from now on, until Ctrl-C.
//!
//! ```text
//! cargo run --example tutorial_3_receive_logs
//! ```

use std::env;
use std::error::Error;

use amqp_client_tokio::{ConsumeOptions, ExchangeKind, ExchangeOptions, QueueOptions, connect};
use tokio::signal::ctrl_c;

#[tokio::main]
async fn main() -> Result<(), Box<dyn Error>> {
    let uri = env::var("AMQP_URL").unwrap_or_else(|_| "amqp://localhost".to_owned());
    let connection = connect(&uri).await?;
    let channel = connection.open_channel().await?;
    let logs =
        channel.exchange_declare("logs", ExchangeKind::Fanout, ExchangeOptions::new()).await?;

    // An exclusive queue with a name from the broker, which deletes the queue when this program ends.
    let queue = channel.queue_declare("", QueueOptions::temporary()).await?;
    queue.bind(logs.name(), "").await?;

    let mut consumer = queue.consume(ConsumeOptions::new().no_ack(true)).await?;
    println!(" [*] Waiting for logs. To exit press CTRL+C");
    loop {
        tokio::select! {
            delivery = consumer.next() => {
                let delivery = delivery.ok_or("the consumer was cancelled")??;
                println!(" [x] {}", String::from_utf8_lossy(delivery.body()));
            }
            _ = ctrl_c() => break,
        }
    }
    connection.close().await?;
    Ok(())
}
