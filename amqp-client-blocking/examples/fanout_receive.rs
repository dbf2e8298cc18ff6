//! Prints the messages of `fanout_send` with all their properties, until one says "quit".
//!
//! ```text
//! cargo run --example fanout_receive
//! ```

use std::env;

use amqp_client_blocking::{
    CallbackError, Callbacks, ConsumeOptions, Delivery, ExchangeKind, ExchangeOptions,
    QueueOptions, Wait as _, connect,
};

fn main() -> Result<(), CallbackError> {
    let uri = env::var("AMQP_URL").unwrap_or_else(|_| "amqp://localhost".to_owned());
    let connection = connect(&uri)?;
    let channel = connection.open_channel().wait()?;
    let options = ExchangeOptions::new().auto_delete(true);
    let exchange = channel.exchange_declare("everyone", ExchangeKind::Fanout, options).wait()?;
    // The broker generates the name, and deletes the queue with its consumer.
    let queue = channel.queue_declare("", QueueOptions::temporary()).wait()?;
    queue.bind(exchange.name(), "").wait()?;

    let mut callbacks = Callbacks::new();
    callbacks.add(queue.consume(ConsumeOptions::new()).wait()?, print);
    println!(" [*] Waiting for messages. To exit press CTRL+C");
    // Ends when the last consumer is cancelled.
    callbacks.run()?;
    Ok(connection.close().wait()?)
}

fn print(delivery: Delivery) -> Result<(), CallbackError> {
    let properties = delivery.message_properties()?;
    println!("content_type: {}", properties.content_type.unwrap_or_default());
    for (name, value) in properties.headers.iter().flatten() {
        println!("{name}: {value:?}");
    }
    println!("> exchange: {}", delivery.exchange());
    println!("> redelivered: {}", delivery.redelivered());
    println!("{}", delivery.text()?);
    println!("-------");
    if delivery.body() == b"quit" {
        delivery.channel().basic_cancel(delivery.consumer_tag()).wait()?;
    }
    Ok(delivery.ack()?)
}
