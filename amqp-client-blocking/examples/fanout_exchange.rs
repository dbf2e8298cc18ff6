//! A fanout exchange: each queue that is bound to it gets a copy of each message.
//!
//! ```text
//! cargo run --example fanout_exchange
//! ```

use std::env;
use std::error::Error;
use std::time::Duration;

use amqp_client_blocking::{
    ConsumeOptions, ExchangeKind, ExchangeOptions, Message, QueueOptions, Wait as _, connect,
};

fn main() -> Result<(), Box<dyn Error>> {
    let uri = env::var("AMQP_URL").unwrap_or_else(|_| "amqp://localhost".to_owned());
    let connection = connect(&uri)?;
    let channel = connection.open_channel().wait()?;
    let exchange =
        channel.exchange_declare("copies", ExchangeKind::Fanout, ExchangeOptions::new()).wait()?;

    let mut consumers = Vec::new();
    for name in ["copies-1", "copies-2"] {
        let queue = channel.queue_declare(name, QueueOptions::new().exclusive(true)).wait()?;
        queue.bind(exchange.name(), "").wait()?;
        consumers.push((name, queue.consume(ConsumeOptions::new()).wait()?));
    }
    exchange.publish_confirmed("", &Message::text("for everybody")).wait()?;
    for (name, consumer) in &mut consumers {
        let delivery = consumer.next_timeout(Duration::from_secs(10))?;
        println!(" [x] {name}: {}", delivery.text()?);
        delivery.ack()?;
    }

    exchange.delete().wait()?;
    Ok(connection.close().wait()?)
}
