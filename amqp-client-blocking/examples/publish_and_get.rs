//! Publishes three messages to an exchange, and fetches them from the queue that is bound to it, one by one.
//!
//! ```text
//! cargo run --example publish_and_get
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

    // Both requests are sent before the first reply is awaited.
    let exchange =
        channel.exchange_declare("greetings", ExchangeKind::Direct, ExchangeOptions::new());
    let queue = channel.queue_declare("", QueueOptions::temporary());
    let (exchange, queue) = (exchange.wait()?, queue.wait()?);
    queue.bind(exchange.name(), "english").wait()?;

    for number in 1..=3 {
        let headers = FieldTable::new().with("number", number)?;
        let message = Message::text(format!("hello world {number}"))
            .with(&MessageProperties::new().headers(headers))?;
        exchange.publish_confirmed("english", &message).wait()?;
    }

    let mut fetched = 0;
    while let Some(got) = queue.get().wait()? {
        let headers = got.delivery.properties().headers()?;
        println!(" [x] {:?} with {headers:?}, {} more", got.delivery.text()?, got.message_count);
        got.delivery.ack()?;
        fetched += 1;
    }

    exchange.delete().wait()?;
    connection.close().wait()?;
    if fetched == 3 { Ok(()) } else { Err(format!("{fetched} of 3 messages").into()) }
}
