//! A topic exchange: a queue gets the messages whose routing keys match its pattern, and no others.
//!
//! ```text
//! cargo run --example topic_exchange
//! ```

use std::env;
use std::error::Error;

use amqp_client_blocking::{
    ConfirmError, ExchangeKind, ExchangeOptions, Message, QueueOptions, SendError, Wait as _,
    connect,
};

fn main() -> Result<(), Box<dyn Error>> {
    let uri = env::var("AMQP_URL").unwrap_or_else(|_| "amqp://localhost".to_owned());
    let connection = connect(&uri)?;
    let channel = connection.open_channel().wait()?;
    let exchange =
        channel.exchange_declare("weather", ExchangeKind::Topic, ExchangeOptions::new()).wait()?;
    let queue = channel.queue_declare("", QueueOptions::temporary()).wait()?;
    queue.bind(exchange.name(), "europe.#").wait()?;

    exchange.publish_confirmed("europe.north.oslo", &Message::text("snow")).wait()?;
    // Messages with confirms are mandatory: the broker returns one that reaches no queue.
    match exchange.publish_confirmed("asia.tokyo", &Message::text("rain")).wait() {
        Err(SendError::NotConfirmed(ConfirmError::Returned(returned))) => {
            println!(" [x] {} is for nobody", returned.routing_key);
        }
        other => return Err(format!("it should be returned: {other:?}").into()),
    }

    let got = queue.get().wait()?.ok_or("nothing arrived")?;
    println!(" [x] {}: {}", got.delivery.routing_key(), got.delivery.text()?);
    got.delivery.ack()?;
    exchange.delete().wait()?;
    Ok(connection.close().wait()?)
}
