//! Fifty tasks publish in transactions, over a pool of ten channels: a transaction needs a channel to itself. Publishing alone needs
//! no pool: see the example `shared_channels` of `amqp-client-tokio`.
//!
//! ```text
//! cargo run --example channel_pool
//! ```

use std::env;
use std::error::Error;

use amqp_client_patterns::pool::ChannelPool;
use amqp_client_tokio::{Channel, Message, QueueOptions, connect};
use futures_util::future::try_join_all;

const TASKS: u32 = 50;

#[tokio::main]
async fn main() -> Result<(), Box<dyn Error>> {
    let uri = env::var("AMQP_URL").unwrap_or_else(|_| "amqp://localhost".to_owned());
    let connection = connect(&uri).await?;
    let channel = connection.open_channel().await?;
    let queue = channel.queue_declare("", QueueOptions::temporary()).await?;

    let pool = ChannelPool::transactional(&connection, 10);
    let name = queue.name();
    try_join_all((0..TASKS).map(|task| {
        let pool = pool.clone();
        async move {
            // Waits while the others have all ten. Dropping the channel returns it.
            let channel = pool.get().await?;
            channel
                .transaction(async |channel: &Channel| {
                    let exchange = channel.default_exchange();
                    exchange.publish(name, &Message::new(format!("debit {task}"))).await?;
                    exchange.publish(name, &Message::new(format!("credit {task}"))).await?;
                    Ok::<_, Box<dyn Error>>(())
                })
                .await
        }
    }))
    .await?;

    let published = queue.purge().await?;
    println!(" [x] {published} messages in {TASKS} transactions");
    connection.close().await?;
    if published == 2 * TASKS { Ok(()) } else { Err("some are missing".into()) }
}
