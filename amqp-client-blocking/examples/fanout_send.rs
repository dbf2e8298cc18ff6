//! Sends its arguments to all programs `fanout_receive` that run. "quit" ends them.
//!
//! ```text
//! cargo run --example fanout_send -- hello world
//! ```

use std::env;
use std::error::Error;

use amqp_client_blocking::{
    ExchangeKind, ExchangeOptions, FieldTable, Message, MessageProperties, Wait as _, connect,
};

fn main() -> Result<(), Box<dyn Error>> {
    let body = env::args().skip(1).collect::<Vec<_>>().join(" ");
    if body.is_empty() {
        return Err("usage: fanout_send MESSAGE".into());
    }
    let uri = env::var("AMQP_URL").unwrap_or_else(|_| "amqp://localhost".to_owned());
    let connection = connect(&uri)?;
    let channel = connection.open_channel().wait()?;
    let options = ExchangeOptions::new().auto_delete(true);
    let exchange = channel.exchange_declare("everyone", ExchangeKind::Fanout, options).wait()?;

    let headers = FieldTable::new().with("foo", 7)?.with("bar", "baz")?;
    let properties = MessageProperties::new().content_type("text/plain").headers(headers);
    // Without a confirm, as it does not matter whether anybody receives it.
    exchange.publish("", &Message::new(body).with(&properties)?).wait()?;
    // Closing sends what is queued.
    Ok(connection.close().wait()?)
}
