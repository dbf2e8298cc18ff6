//! The client writes no log. It reports events, and the program decides which of them to print: here, those that concern somebody.
//!
//! ```text
//! cargo run --example connection_events
//! ```

use std::env;
use std::error::Error;

use amqp_client_tokio::{ConnectionEvent, ConnectionEvents, connect};

#[tokio::main]
async fn main() -> Result<(), Box<dyn Error>> {
    let uri = env::var("AMQP_URL").unwrap_or_else(|_| "amqp://localhost".to_owned());
    let connection = connect(&uri).await?;
    let log = tokio::spawn(log(connection.events()));
    connection.open_channel().await?.close().await?;
    connection.close().await?;
    // It ends with the last event, which says that the connection is closed.
    Ok(log.await?)
}

async fn log(mut events: ConnectionEvents) {
    while let Some(event) = events.next().await {
        let level = match &event {
            ConnectionEvent::Lost { .. } | ConnectionEvent::NotRestored { .. } => "ERROR",
            ConnectionEvent::Blocked { .. } | ConnectionEvent::AttemptFailed { .. } => "WARN",
            ConnectionEvent::Connecting { .. } | ConnectionEvent::Waiting { .. } => continue,
            _ => "INFO",
        };
        println!("{level}: {event}");
    }
}
