//! Declares an exchange and a queue, binds them, fetches one message from the queue, and deletes everything again.
//!
//! ```text
//! cargo run --example get_one
//! ```

use std::env;
use std::error::Error;

use amqp_client_tokio::{
    ExchangeKind, ExchangeOptions, FieldTable, Message, MessageProperties, QueueOptions, Target,
    connect_target,
};

#[tokio::main]
async fn main() -> Result<(), Box<dyn Error>> {
    let uri = env::var("AMQP_URL").unwrap_or_else(|_| "amqp://localhost".to_owned());
    // RabbitMQ shows the name in its list of connections. In a URI: ?name=get%20one
    let target = uri.parse::<Target>()?.connection_name("get one")?;
    let connection = connect_target(target).await?;
    let channel = connection.open_channel().await?;

    let options = ExchangeOptions::new().auto_delete(true);
    let exchange = channel.exchange_declare("get-one", ExchangeKind::Direct, options).await?;
    let queue = channel.queue_declare("get-one", QueueOptions::new()).await?;
    queue.bind(exchange.name(), "key").await?;

    let headers = FieldTable::new().with("foo", "bar")?;
    let properties = MessageProperties::new().content_type("text/plain").headers(headers);
    exchange.publish_confirmed("key", &Message::new("Hello").with(&properties)?).await?;

    let fetched = match queue.get().await? {
        Some(got) => {
            println!(" [x] {:?}, {:?}", got.delivery.text()?, got.delivery.message_properties()?);
            got.delivery.ack()?;
            true
        }
        None => false,
    };

    queue.unbind(exchange.name(), "key", FieldTable::new()).await?;
    queue.delete().await?;
    connection.close().await?;
    if fetched { Ok(()) } else { Err("the queue is empty".into()) }
}
