//! Fails to connect, with the reason, and is notified when a connection closes.
//!
//! ```text
//! cargo run --example connection_errors
//! ```

use std::env;
use std::error::Error;

use amqp_client_tokio::{ClientConfig, FieldTable, ReplyCode, Target, connect, connect_target};
use tokio::sync::oneshot;

#[tokio::main]
async fn main() -> Result<(), Box<dyn Error>> {
    // The name of a host that never exists.
    match connect("amqp://nonexistent.invalid").await {
        Err(error) => println!(" [x] Cannot connect: {error}"),
        Ok(connection) => return Err(format!("connected: {connection:?}").into()),
    }

    let uri = env::var("AMQP_URL").unwrap_or_else(|_| "amqp://localhost".to_owned());
    let target: Target = uri.parse()?;
    let properties = FieldTable::new().with("program_name", "connection_errors")?;
    let protocol: ClientConfig = target.get_config().get_protocol().clone();
    let target = target.protocol(protocol.client_properties(properties));
    let connection = connect_target(target).await?;

    let (closed, reason) = oneshot::channel();
    // Runs once, however the connection ends. Losses that are recovered are events: see the example connection_events.
    connection.on_close(move |error| drop(closed.send(error)));
    connection.close_with(ReplyCode::REPLY_SUCCESS, "that is all").await?;
    println!(" [x] Closed: {}", reason.await?);
    Ok(())
}
