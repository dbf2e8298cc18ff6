//! Publishes a message that reaches no queue. Its confirmation and an event report that the broker returned it.
//!
//! ```text
//! cargo run --example send_with_return
//! ```

use std::env;
use std::error::Error;

use amqp_client_tokio::{ChannelEvent, ConfirmError, PublisherOptions, connect};

#[tokio::main]
async fn main() -> Result<(), Box<dyn Error>> {
    let uri = env::var("AMQP_URL").unwrap_or_else(|_| "amqp://localhost".to_owned());
    let connection = connect(&uri).await?;
    let channel = connection.open_channel().await?;
    let mut events = channel.events();

    let publisher = channel.exchange("amq.direct")?.publisher(PublisherOptions::new())?;
    let confirmation = publisher.publish("nobody.listens", "Hello World!").await?;
    match confirmation.await {
        Err(ConfirmError::Returned(returned)) => {
            println!(" [x] Returned: {}", returned.reply_code);
        }
        other => println!(" [?] {other:?}"),
    }
    // The events of the channel report the returned message as well.
    if let Some(ChannelEvent::Returned(returned)) = events.next().await {
        println!(" [x] Returned {:?}", String::from_utf8_lossy(&returned.body));
    }
    connection.close().await?;
    Ok(())
}
