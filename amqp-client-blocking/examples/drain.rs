//! One thread takes messages of several consumers, and sees what happens to the connection.
//!
//! ```text
//! cargo run --example drain
//! ```

use std::env;
use std::error::Error;
use std::time::Duration;

use amqp_client_blocking::{
    ConsumeOptions, Message, QueueOptions, Received, Wait as _, connect, recv_any_or_event,
};

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
    loop {
        match recv_any_or_event(&mut consumers, &mut events, Some(Duration::from_secs(10))) {
            Some(Received::Delivery { consumer, next: Some(delivery) }) => {
                let delivery = delivery?;
                println!(" [x] Consumer {consumer}: {}", delivery.text()?);
                delivery.ack()?;
                received += 1;
                if received == 2 {
                    connection.close().wait()?;
                }
            }
            Some(Received::Delivery { consumer, next: None }) => drop(consumers.remove(consumer)),
            // Lost and recovered connections, alarms of the broker; at last, that the connection is closed.
            Some(Received::Event(event)) => println!(" [!] {event}"),
            Some(_) => break,
            None => println!(" [ ] nothing for ten seconds"),
        }
    }
    if received == 2 { Ok(()) } else { Err("the connection was closed".into()) }
}
