//! Publishes in transactions: one that is committed when its closure returns, one that is rolled back because its closure fails,
//! and two by hand.
//!
//! ```text
//! cargo run --example transactions
//! ```

use std::env;
use std::error::Error;

use amqp_client_tokio::{Channel, Message, Queue, QueueOptions, connect};

#[tokio::main]
async fn main() -> Result<(), Box<dyn Error>> {
    let uri = env::var("AMQP_URL").unwrap_or_else(|_| "amqp://localhost".to_owned());
    let connection = connect(&uri).await?;
    // Transactions exclude confirms, so they get a channel of their own.
    let channel = connection.open_channel().await?;
    let queue = channel.queue_declare("", QueueOptions::temporary()).await?;

    let committed = channel.transaction(async |_| publish_ten(&queue, false).await).await;
    println!(" [x] The first transaction: {committed:?}");
    expect(10, &channel, &queue).await?;

    let failed = channel.transaction(async |_| publish_ten(&queue, true).await).await;
    println!(" [x] The second transaction: {failed:?}");
    expect(0, &channel, &queue).await?;

    // By hand.
    channel.tx_select().await?;
    queue.publish(&Message::new("committed")).await?;
    channel.tx_commit().await?;
    expect(1, &channel, &queue).await?;
    queue.publish(&Message::new("rolled back")).await?;
    channel.tx_rollback().await?;
    expect(0, &channel, &queue).await?;
    Ok(connection.close().await?)
}

async fn publish_ten(queue: &Queue, fail: bool) -> Result<(), Box<dyn Error>> {
    for number in 0..10 {
        queue.publish(&Message::new(format!("Hello #{number}"))).await?;
        if fail && number == 7 {
            return Err("seven is enough".into());
        }
    }
    Ok(())
}

/// Empties the queue, and fails unless it has had so many messages.
async fn expect(count: u32, channel: &Channel, queue: &Queue) -> Result<(), Box<dyn Error>> {
    let found = channel.queue_purge(queue.name()).await?;
    println!(" [x] {found} messages");
    if found == count { Ok(()) } else { Err(format!("it should be {count}").into()) }
}
