//! Tutorial 4, "Routing": prints the logs of some severities, until Ctrl-C.
//!
//! ```text
//! cargo run --example tutorial_4_receive_logs_direct -- warning error
//! ```

use std::env;
use std::error::Error;

use amqp_client_tokio::{ConsumeOptions, ExchangeKind, ExchangeOptions, QueueOptions, connect};
use tokio::signal::ctrl_c;

#[tokio::main]
async fn main() -> Result<(), Box<dyn Error>> {
    let severities: Vec<_> = env::args().skip(1).collect();
    if severities.is_empty() {
        return Err("usage: tutorial_4_receive_logs_direct [info] [warning] [error]".into());
    }
    let uri = env::var("AMQP_URL").unwrap_or_else(|_| "amqp://localhost".to_owned());
    let connection = connect(&uri).await?;
    let channel = connection.open_channel().await?;
    let options = ExchangeOptions::new();
    let logs = channel.exchange_declare("direct_logs", ExchangeKind::Direct, options).await?;
    let queue = channel.queue_declare("", QueueOptions::temporary()).await?;
    for severity in &severities {
        queue.bind(logs.name(), severity).await?;
    }

    let mut consumer = queue.consume(ConsumeOptions::new().no_ack(true)).await?;
    println!(" [*] Waiting for logs. To exit press CTRL+C");
    loop {
        tokio::select! {
            delivery = consumer.next() => {
                let delivery = delivery.ok_or("the consumer was cancelled")??;
                let text = String::from_utf8_lossy(delivery.body());
                println!(" [x] {}:{text}", delivery.routing_key());
            }
            _ = ctrl_c() => break,
        }
    }
    connection.close().await?;
    Ok(())
}
