//! Binds an exchange to another one, so that some messages of the first are routed by the second as well.
//!
//! ```text
//! cargo run --example exchange_to_exchange
//! ```

use std::env;
use std::error::Error;

use amqp_client_blocking::{
    ExchangeKind, ExchangeOptions, FieldTable, Message, QueueOptions, Wait as _, connect,
};

fn main() -> Result<(), Box<dyn Error>> {
    let uri = env::var("AMQP_URL").unwrap_or_else(|_| "amqp://localhost".to_owned());
    let connection = connect(&uri)?;
    let channel = connection.open_channel().wait()?;
    let declare = |name, kind| channel.exchange_declare(name, kind, ExchangeOptions::new()).wait();
    let orders = declare("orders", ExchangeKind::Topic)?;
    let audit = declare("audit", ExchangeKind::Fanout)?;

    // From "orders" to "audit".
    audit.bind(orders.name(), "order.*.paid", FieldTable::new()).wait()?;
    let queue = channel.queue_declare("", QueueOptions::temporary()).wait()?;
    queue.bind(audit.name(), "").wait()?;

    orders.publish_confirmed("order.42.paid", &Message::text("42 is paid")).wait()?;
    let got = queue.get().wait()?.ok_or("nothing arrived")?;
    println!(" [x] {} by {}", got.delivery.text()?, got.delivery.routing_key());
    got.delivery.ack()?;

    audit.unbind(orders.name(), "order.*.paid", FieldTable::new()).wait()?;
    orders.delete().wait()?;
    audit.delete().wait()?;
    Ok(connection.close().wait()?)
}
