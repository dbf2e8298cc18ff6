//! Handles messages one by one, until one says that it is the last. A message is acknowledged if its handler succeeds, and rejected
//! if it fails.
//!
//! ```text
//! cargo run --example process_messages
//! ```

use std::env;
use std::error::Error;

use amqp_client_patterns::process::{ProcessError, ProcessExt as _};
use amqp_client_tokio::{ConsumeOptions, Message, QueueOptions, connect};

#[tokio::main]
async fn main() -> Result<(), Box<dyn Error>> {
    let uri = env::var("AMQP_URL").unwrap_or_else(|_| "amqp://localhost".to_owned());
    let connection = connect(&uri).await?;
    let channel = connection.open_channel().await?;
    let queue = channel.queue_declare("", QueueOptions::temporary()).await?;
    for body in ["20", "twenty", "22", "end"] {
        queue.publish_confirmed(&Message::text(body)).await?;
    }

    let mut sum = 0;
    // Not more than ten messages in advance.
    let mut consumer = queue.consume(ConsumeOptions::new().prefetch(10)).await?;
    while let Some(delivery) = consumer.next().await {
        let delivery = delivery?;
        if delivery.body() == b"end" {
            delivery.ack()?;
            break;
        }
        let number = delivery.process().requeue(false).run(async |message| {
            let text = std::str::from_utf8(message.body())?;
            println!(" [x] {text}");
            Ok::<i32, Box<dyn Error>>(text.parse()?)
        });
        match number.await {
            Ok(number) => sum += number,
            Err(ProcessError::Failed(error)) => println!(" [x] Rejected: {error}"),
            Err(ended) => return Err(ended.to_string().into()),
        }
    }
    println!(" [x] The sum is {sum}");
    connection.close().await?;
    if sum == 42 { Ok(()) } else { Err("it should be 42".into()) }
}
