//! Fifty tasks publish at the same time. They need no pool: handles are shared, and their publishes are sent together. A second
//! connection consumes, so that an alarm of the broker, which stops publishers, does not stop the consumer.
//!
//! ```text
//! cargo run --example shared_channels
//! ```

use std::env;
use std::error::Error;

use amqp_client_tokio::{ConsumeOptions, PublisherOptions, QueueOptions, Target, connect_target};
use futures_util::future::try_join_all;

const TASKS: usize = 50;

#[tokio::main]
async fn main() -> Result<(), Box<dyn Error>> {
    let uri = env::var("AMQP_URL").unwrap_or_else(|_| "amqp://localhost".to_owned());
    let target: Target = uri.parse()?;
    let publishing = connect_target(target.clone()).await?;
    let consuming = connect_target(target).await?;

    let channel = consuming.open_channel().await?;
    let queue = channel.queue_declare("", QueueOptions::temporary()).await?;
    let mut consumer = queue.consume(ConsumeOptions::new().prefetch(10)).await?;

    let channel = publishing.open_channel().await?;
    let publisher = channel.default_exchange().publisher(PublisherOptions::new())?;
    let name = queue.name();
    let publish = try_join_all((0..TASKS).map(|task| {
        let publisher = publisher.clone();
        async move { publisher.send(name, format!("task {task}")).await }
    }));
    let consume = async {
        for _ in 0..TASKS {
            let delivery = consumer.next().await.ok_or("the consumer was cancelled")??;
            println!(" [x] {}", delivery.text()?);
            delivery.ack()?;
        }
        Ok::<_, Box<dyn Error>>(())
    };
    let (published, consumed) = tokio::join!(publish, consume);
    published?;
    consumed?;
    publishing.close().await?;
    Ok(consuming.close().await?)
}
