//! A headers exchange: it compares the headers of a message with the arguments of each binding.
//!
//! ```text
//! cargo run --example headers_exchange
//! ```

use std::env;
use std::error::Error;

use amqp_client_blocking::{
    ExchangeKind, ExchangeOptions, FieldTable, Message, MessageProperties, QueueOptions, Wait as _,
    connect,
};

fn main() -> Result<(), Box<dyn Error>> {
    let uri = env::var("AMQP_URL").unwrap_or_else(|_| "amqp://localhost".to_owned());
    let connection = connect(&uri)?;
    let channel = connection.open_channel().wait()?;
    let kind = ExchangeKind::Headers;
    let exchange = channel.exchange_declare("readings", kind, ExchangeOptions::new()).wait()?;

    let mut queues = Vec::new();
    for city in ["brisbane", "sydney"] {
        let queue = channel.queue_declare(city, QueueOptions::new().exclusive(true)).wait()?;
        let arguments = FieldTable::new().with("x-match", "all")?.with("city", city)?;
        queue.bind_with(exchange.name(), "", arguments).wait()?;
        queues.push(queue);
    }

    let headers = FieldTable::new().with("city", "sydney")?.with("unit", "celsius")?;
    let message = Message::text("32.3").with(&MessageProperties::new().headers(headers))?;
    exchange.publish_confirmed("", &message).wait()?;

    for (queue, expected) in queues.iter().zip([0, 1]) {
        let fetched = queue.purge().wait()?;
        println!(" [x] {} has got {fetched}", queue.name());
        if fetched != expected {
            return Err(format!("it should have got {expected}").into());
        }
    }
    exchange.delete().wait()?;
    Ok(connection.close().wait()?)
}
