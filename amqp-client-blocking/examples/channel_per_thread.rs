//! Four threads publish over one connection, each with a channel of its own.
//!
//! ```text
//! cargo run --example channel_per_thread
//! ```

use std::env;
use std::error::Error;
use std::thread;

use amqp_client_blocking::{
    Connection, ConsumeOptions, PublisherOptions, QueueOptions, Wait as _, connect,
};

const THREADS: usize = 4;
const MESSAGES: usize = 250;

fn main() -> Result<(), Box<dyn Error>> {
    let uri = env::var("AMQP_URL").unwrap_or_else(|_| "amqp://localhost".to_owned());
    let connection = connect(&uri)?;
    let channel = connection.open_channel().wait()?;
    let queue = channel.queue_declare("", QueueOptions::temporary()).wait()?;
    let mut consumer = queue.consume(ConsumeOptions::new()).wait()?;

    let routing_key = queue.name();
    thread::scope(|scope| {
        let threads: Vec<_> = (0..THREADS)
            .map(|_| scope.spawn(|| publish(&connection, routing_key.as_ref())))
            .collect();
        for thread in threads {
            thread.join().map_err(|_| "a thread panicked")?.map_err(|error| error.to_string())?;
        }
        Ok::<_, Box<dyn Error>>(())
    })?;

    for delivery in (&mut consumer).into_iter().take(THREADS * MESSAGES) {
        delivery?.ack()?;
    }
    println!(" [x] {THREADS} threads have published {MESSAGES} messages each");
    Ok(connection.close().wait()?)
}

fn publish(
    connection: &Connection,
    routing_key: &[u8],
) -> Result<(), Box<dyn Error + Send + Sync>> {
    let channel = connection.open_channel().wait()?;
    let publisher = channel.default_exchange().publisher(PublisherOptions::new())?;
    for number in 0..MESSAGES {
        // Waiting for each confirm would cost a round trip per message. This does not.
        drop(publisher.publish(routing_key, number.to_string()).wait()?);
    }
    Ok(publisher.wait_for_confirms().wait()?)
}
