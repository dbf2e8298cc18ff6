//! Tutorial 4, "Routing": sends a message to the subscribers of a severity.
//!
//! ```text
//! cargo run --example tutorial_4_emit_log_direct -- error "Run. Run. Or it will explode."
//! ```

use std::env;
use std::error::Error;

use amqp_client_tokio::{ExchangeKind, ExchangeOptions, Message, connect};

#[tokio::main]
async fn main() -> Result<(), Box<dyn Error>> {
    let mut words = env::args().skip(1);
    let severity = words.next().unwrap_or_else(|| "info".to_owned());
    let words: Vec<_> = words.collect();
    let text = if words.is_empty() { "Hello World!".to_owned() } else { words.join(" ") };

    let uri = env::var("AMQP_URL").unwrap_or_else(|_| "amqp://localhost".to_owned());
    let connection = connect(&uri).await?;
    let channel = connection.open_channel().await?;
    let options = ExchangeOptions::new();
    let logs = channel.exchange_declare("direct_logs", ExchangeKind::Direct, options).await?;

    logs.publish(&severity, &Message::new(&text)).await?;
    println!(" [x] Sent '{severity}':'{text}'");

    connection.close().await?;
    Ok(())
}
