//! Tutorial 3, "Publish/Subscribe": sends a message to all subscribers.
//!
//! ```text
//! cargo run --example tutorial_3_emit_log -- info: All is well
//! ```

use std::env;
use std::error::Error;

use amqp_client_tokio::{ExchangeKind, ExchangeOptions, Message, connect};

#[tokio::main]
async fn main() -> Result<(), Box<dyn Error>> {
    let words: Vec<_> = env::args().skip(1).collect();
    let text = if words.is_empty() { "info: Hello World!".to_owned() } else { words.join(" ") };

    let uri = env::var("AMQP_URL").unwrap_or_else(|_| "amqp://localhost".to_owned());
    let connection = connect(&uri).await?;
    let channel = connection.open_channel().await?;
    let logs =
        channel.exchange_declare("logs", ExchangeKind::Fanout, ExchangeOptions::new()).await?;

    logs.publish("", &Message::new(&text)).await?;
    println!(" [x] Sent '{text}'");

    connection.close().await?;
    Ok(())
}
