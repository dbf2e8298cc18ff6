//! Prints each frame that is sent and received. With the name of a file as argument, also writes a capture for Wireshark.
//!
//! ```text
//! cargo run --example frame_log
//! cargo run --example frame_log -- amqp.pcapng && tshark -r amqp.pcapng
//! ```

use std::env;
use std::error::Error;
use std::fs::File;
use std::io;

use amqp_client_tokio::{ConsumeOptions, Message, QueueOptions, Target, connect_target, tap};

#[tokio::main]
async fn main() -> Result<(), Box<dyn Error>> {
    let uri = env::var("AMQP_URL").unwrap_or_else(|_| "amqp://localhost".to_owned());
    let mut target: Target = uri.parse()?;
    target = target.tap(tap::Lines::new(io::stdout()).body_bytes(16));
    if let Some(file) = env::args_os().nth(1) {
        target = target.tap(tap::Pcap::new(File::create(file)?));
    }
    let connection = connect_target(target).await?;

    let channel = connection.open_channel().await?;
    let queue = channel.queue_declare("", QueueOptions::temporary()).await?;
    queue.publish_confirmed(&Message::new("Hello, world!")).await?;
    let mut consumer = queue.consume(ConsumeOptions::new()).await?;
    if let Some(delivery) = consumer.next().await {
        delivery?.ack()?;
    }
    connection.close().await?;
    Ok(())
}
