//! One thread takes messages of several consumers, and sees in between what happens to the connection.
//!
//! ```text
//! cargo run --example drain
//! ```

use std::env;
use std::error::Error;
use std::time::Duration;

use amqp_client_blocking::{ConsumeOptions, Message, QueueOptions, Wait as _, connect, recv_any};

fn main() -> Result<(), Box<dyn Error>> {
    let uri = env::var("AMQP_URL").unwrap_or_else(|_| "amqp://localhost".to_owned());
    let connection = connect(&uri)?;
    let channel = connection.open_channel().wait()?;
    let mut events = connection.events();
    let mut consumers = Vec::new();
    for body in ["apples", "pears"] {
        let queue = channel.queue_declare("", QueueOptions::temporary()).wait()?;
        queue.publish_confirmed(&Message::text(body)).wait()?;
        consumers.push(queue.consume(ConsumeOptions::new()).wait()?);
    }

    let mut received = 0;
    while received < 2 {
        match recv_any(&mut consumers, Some(Duration::from_secs(10))) {
            Some((index, Some(delivery))) => {
                let delivery = delivery?;
                println!(" [x] Consumer {index}: {}", delivery.text()?);
                delivery.ack()?;
                received += 1;
            }
            Some((index, None)) => drop(consumers.remove(index)),
            None => println!(" [ ] nothing for ten seconds"),
        }
        // Lost and recovered connections, alarms of the broker.
        while let Some(Some(event)) = events.next().wait_timeout(Duration::ZERO) {
            println!(" [!] {event}");
        }
    }
    Ok(connection.close().wait()?)
}
