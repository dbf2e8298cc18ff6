//! Tutorial 5, "Topics": sends a message to the subscribers whose patterns match the routing key.
//!
//! ```text
//! cargo run --example tutorial_5_emit_log_topic -- kern.critical "A critical kernel error"
//! ```

use std::env;
use std::error::Error;

use amqp_client_tokio::{ExchangeKind, ExchangeOptions, Message, connect};

#[tokio::main]
async fn main() -> Result<(), Box<dyn Error>> {
    let mut words = env::args().skip(1);
    let routing_key = words.next().unwrap_or_else(|| "anonymous.info".to_owned());
    let words: Vec<_> = words.collect();
    let text = if words.is_empty() { "Hello World!".to_owned() } else { words.join(" ") };

    let uri = env::var("AMQP_URL").unwrap_or_else(|_| "amqp://localhost".to_owned());
    let connection = connect(&uri).await?;
    let channel = connection.open_channel().await?;
    let options = ExchangeOptions::new();
    let logs = channel.exchange_declare("topic_logs", ExchangeKind::Topic, options).await?;

    logs.publish(&routing_key, &Message::new(&text)).await?;
    println!(" [x] Sent '{routing_key}':'{text}'");

    connection.close().await?;
    Ok(())
}
