//! Publishes and consumes on smol. The first argument is the number of messages (default 1000); `AMQP_URL` names the broker.

use std::error::Error;

use amqp_client_smol::{ConsumeOptions, PublisherOptions, QueueOptions, connect};

fn main() -> Result<(), Box<dyn Error>> {
    let count: u32 = std::env::args().nth(1).map_or(Ok(1000), |count| count.parse())?;
    let uri = std::env::var("AMQP_URL").unwrap_or_else(|_| "amqp://localhost".to_owned());
    smol::block_on(async {
        let connection = connect(&uri).await?;
        let channel = connection.open_channel().await?;
        let queue = channel.queue_declare("", QueueOptions::new().exclusive(true)).await?;
        let name = queue.name().to_string();

        // The publisher has its own channel and task, and waits only when its window is full.
        let channel = connection.open_channel().await?;
        let publishing = smol::spawn(async move {
            let publisher = channel.default_exchange().publisher(PublisherOptions::new())?;
            for number in 0..count {
                drop(publisher.publish(&name, number.to_string()).await?);
            }
            // Fails if a message was not confirmed, with the reason.
            publisher.wait_for_confirms().await?;
            Ok::<_, Box<dyn Error + Send + Sync>>(())
        });

        let mut consumer = queue.consume(ConsumeOptions::new()).await?;
        for _ in 0..count {
            let delivery = consumer.next().await.ok_or("the consumer was cancelled")??;
            delivery.ack()?;
        }
        publishing.await.map_err(|error| error.to_string())?;
        println!("{count} messages published, confirmed, delivered and acknowledged on smol");
        connection.close().await?;
        Ok(())
    })
}
