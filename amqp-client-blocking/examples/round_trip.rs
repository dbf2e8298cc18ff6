//! Publishes and consumes on threads. The first argument is the number of messages (default 1000); `AMQP_URL` names the broker.

use std::error::Error;
use std::thread;

use amqp_client_blocking::{ConsumeOptions, PublisherOptions, QueueOptions, Wait as _, connect};

fn main() -> Result<(), Box<dyn Error>> {
    let count: u32 = std::env::args().nth(1).map_or(Ok(1000), |count| count.parse())?;
    let uri = std::env::var("AMQP_URL").unwrap_or_else(|_| "amqp://localhost".to_owned());
    let connection = connect(&uri)?;
    let channel = connection.open_channel().wait()?;
    let queue = channel.queue_declare("", QueueOptions::new().exclusive(true)).wait()?;
    let name = queue.name().to_string();

    // The publisher has its own channel and thread, and waits only when its window is full.
    let channel = connection.open_channel().wait()?;
    let publishing = thread::spawn(move || {
        let publisher = channel.default_exchange().publisher(PublisherOptions::new())?;
        for number in 0..count {
            drop(publisher.publish(&name, number.to_string()).wait()?);
        }
        // Fails if a message was not confirmed, with the reason.
        publisher.wait_for_confirms().wait()?;
        Ok::<_, Box<dyn Error + Send + Sync>>(())
    });

    let mut consumer = queue.consume(ConsumeOptions::new()).wait()?;
    let mut left = count;
    for delivery in &mut consumer {
        delivery?.ack()?;
        left -= 1;
        if left == 0 {
            break;
        }
    }
    publishing.join().map_err(|_| "the publisher panicked")?.map_err(|error| error.to_string())?;
    println!("{count} messages published, confirmed, delivered and acknowledged with threads");
    connection.close().wait()?;
    Ok(())
}
