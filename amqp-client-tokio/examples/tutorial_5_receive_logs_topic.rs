//! Tutorial 5, "Topics": prints the logs that some patterns match, until Ctrl-C. `*` stands for a word, `#` for any number.
//!
//! ```text
//! cargo run --example tutorial_5_receive_logs_topic -- "kern.*" "*.critical"
//! ```

use std::env;
use std::error::Error;

use amqp_client_tokio::{ConsumeOptions, ExchangeKind, ExchangeOptions, QueueOptions, connect};
use tokio::signal::ctrl_c;

#[tokio::main]
async fn main() -> Result<(), Box<dyn Error>> {
    let patterns: Vec<_> = env::args().skip(1).collect();
    if patterns.is_empty() {
        return Err("usage: tutorial_5_receive_logs_topic BINDING_KEY...".into());
    }
    let uri = env::var("AMQP_URL").unwrap_or_else(|_| "amqp://localhost".to_owned());
    let connection = connect(&uri).await?;
    let channel = connection.open_channel().await?;
    let options = ExchangeOptions::new();
    let logs = channel.exchange_declare("topic_logs", ExchangeKind::Topic, options).await?;
    let queue = channel.queue_declare("", QueueOptions::temporary()).await?;
    for pattern in &patterns {
        queue.bind(logs.name(), pattern).await?;
    }

    let mut consumer = queue.consume(ConsumeOptions::new().no_ack(true)).await?;
    println!(" [*] Waiting for logs. To exit press CTRL+C");
    loop {
        tokio::select! {
            delivery = consumer.next() => {
                let delivery = delivery.ok_or("the consumer was cancelled")??;
                let text = String::from_utf8_lossy(delivery.body());
                println!(" [x] {}:{text}", delivery.routing_key());
            }
            _ = ctrl_c() => break,
        }
    }
    connection.close().await?;
    Ok(())
}
