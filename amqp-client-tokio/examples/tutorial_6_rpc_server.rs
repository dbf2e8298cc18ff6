//! Tutorial 6, "Remote procedure call": computes Fibonacci numbers on request, until Ctrl-C.
//!
//! ```text
//! cargo run --release --example tutorial_6_rpc_server
//! ```

use std::env;
use std::error::Error;

use amqp_client_tokio::{
    Channel, ConsumeOptions, Consumer, Delivery, Message, MessageProperties, QueueOptions, connect,
};
use tokio::signal::ctrl_c;

#[tokio::main]
async fn main() -> Result<(), Box<dyn Error>> {
    let uri = env::var("AMQP_URL").unwrap_or_else(|_| "amqp://localhost".to_owned());
    let connection = connect(&uri).await?;
    let channel = connection.open_channel().await?;
    let options = QueueOptions::new().auto_delete(true);
    let queue = channel.queue_declare("rpc_queue", options).await?;
    channel.basic_qos(1).await?;

    let mut consumer = queue.consume(ConsumeOptions::new()).await?;
    println!(" [x] Awaiting RPC requests. To exit press CTRL+C");
    tokio::select! {
        result = reply_to_all(&channel, &mut consumer) => result?,
        _ = ctrl_c() => {}
    }
    connection.close().await?;
    Ok(())
}

async fn reply_to_all(channel: &Channel, consumer: &mut Consumer) -> Result<(), Box<dyn Error>> {
    while let Some(request) = consumer.next().await {
        reply(channel, request?).await?;
    }
    Err("the queue was deleted".into())
}

async fn reply(channel: &Channel, request: Delivery) -> Result<(), Box<dyn Error>> {
    let properties = request.message_properties()?;
    let (Some(reply_to), Some(correlation_id)) = (properties.reply_to, properties.correlation_id)
    else {
        println!(" [!] a request without reply_to or correlation_id");
        return Ok(request.reject(false)?);
    };
    let Some(number) = std::str::from_utf8(request.body()).ok().and_then(|text| text.parse().ok())
    else {
        println!(" [!] a request that is not a number");
        return Ok(request.reject(false)?);
    };
    println!(" [.] fib({number})");
    let Some(result) = fibonacci(number) else {
        println!(" [!] a number too large");
        return Ok(request.reject(false)?);
    };
    let reply = Message::new(result.to_string())
        .with(&MessageProperties::new().correlation_id(correlation_id))?;
    channel.default_exchange().publish(&reply_to, &reply).await?;
    Ok(request.ack()?)
}

/// Returns `None` if the result does not fit.
fn fibonacci(number: u32) -> Option<u128> {
    let (mut current, mut next) = (0u128, Some(1u128));
    for _ in 0..number {
        let after = next?;
        (current, next) = (after, current.checked_add(after));
    }
    Some(current)
}
