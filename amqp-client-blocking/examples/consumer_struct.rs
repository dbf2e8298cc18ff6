//! A consumer with a state: a struct whose method is called with each delivery. One thread runs the methods of all consumers.
//!
//! ```text
//! cargo run --example consumer_struct
//! ```

use std::env;
use std::time::Duration;

use amqp_client_blocking::{
    CallbackError, Callbacks, ConsumeOptions, Delivery, Message, QueueOptions, Wait as _, connect,
};

/// Adds numbers up.
#[derive(Default)]
struct Sum {
    sum: i64,
    received: usize,
}

impl Sum {
    fn on_delivery(&mut self, delivery: Delivery) -> Result<(), CallbackError> {
        self.sum += delivery.text()?.parse::<i64>()?;
        self.received += 1;
        if self.received == 3 {
            // Ends this consumer, and with it the loop below.
            delivery.channel().basic_cancel(delivery.consumer_tag()).wait()?;
        }
        Ok(delivery.ack()?)
    }
}

fn main() -> Result<(), CallbackError> {
    let uri = env::var("AMQP_URL").unwrap_or_else(|_| "amqp://localhost".to_owned());
    let connection = connect(&uri)?;
    let channel = connection.open_channel().wait()?;
    let queue = channel.queue_declare("", QueueOptions::temporary()).wait()?;
    for number in ["1", "2", "39"] {
        queue.publish_confirmed(&Message::text(number)).wait()?;
    }

    let mut sum = Sum::default();
    let mut callbacks = Callbacks::new();
    let consumer = queue.consume(ConsumeOptions::new()).wait()?;
    callbacks.add(consumer, |delivery| sum.on_delivery(delivery));
    while !callbacks.is_empty() {
        if !callbacks.run_once(Duration::from_secs(10))? {
            println!(" [ ] nothing for ten seconds");
        }
    }
    drop(callbacks);

    println!(" [x] The sum of {} numbers is {}", sum.received, sum.sum);
    connection.close().wait()?;
    if sum.sum == 42 { Ok(()) } else { Err("it should be 42".into()) }
}
